"""What is handed to operators is checked by the tools that will read it."""

import json
import plistlib
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from pcc_server.meters import METERS, PREFIX, Shape
from tests.deploy.chart import settings_from

DEPLOY = Path(__file__).parents[2] / "deploy"
NEED_PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="the Debian package prometheus is missing")
NEED_SYSTEMD = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="the Debian package systemd is missing"
)

pytestmark = pytest.mark.linux


def tool(*words: str | Path, cwd: Path = DEPLOY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


# --- Prometheus and Grafana --------------------------------------------------------------------------


@NEED_PROMTOOL
def test_each_alert_fires_where_it_must(tmp_path: Path) -> None:
    for name in ("alerts.yml", "alerts_test.yml"):
        shutil.copy(DEPLOY / "prometheus" / name, tmp_path)
    assert tool("promtool", "check", "rules", "alerts.yml", cwd=tmp_path).returncode == 0
    done = tool("promtool", "test", "rules", "alerts_test.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tested = {
        test["alertname"]
        for one in yaml.safe_load((tmp_path / "alerts_test.yml").read_text())["tests"]
        for test in one["alert_rule_test"]
    }
    rules = yaml.safe_load((tmp_path / "alerts.yml").read_text())["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == tested


@NEED_PROMTOOL
def test_control_an_alert_that_never_fires_fails_its_test(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus" / "alerts_test.yml", tmp_path)
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(text.replace('up{job="pcc"} == 0', 'up{job="pcc"} == 2'))
    assert tool("promtool", "test", "rules", "alerts_test.yml", cwd=tmp_path).returncode


@NEED_PROMTOOL
def test_prometheus_takes_its_settings() -> None:
    done = tool("promtool", "check", "config", "--syntax-only", "compose/prometheus.yml")
    assert done.returncode == 0, done.stderr


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bpcc_[a-z0-9_]+", expression))


def known() -> set[str]:
    """Every name that a node exposes, with the endings of histograms."""
    endings = {Shape.HISTOGRAM: ("_bucket", "_count", "_sum")}
    return {PREFIX + meter.name + end for meter in METERS.values() for end in endings.get(meter.shape, ("",))}


def expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "hybrid-pcc.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    return [*shown, *(rule["expr"] for rule in rules)]


def test_dashboard_and_alerts_ask_only_for_what_a_node_exposes() -> None:
    asked = set().union(*map(names_in, expressions()))
    assert len(asked) > 15
    assert asked <= known()
    assert not names_in("rate(pcc_no_such_total[5m])") <= known()  # the control


@NEED_PROMTOOL
def test_every_question_of_the_dashboard_is_one_prometheus_understands(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": e.replace("$__rate_interval", "5m")} for n, e in enumerate(expressions())]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = tool("promtool", "check", "rules", file)
    assert done.returncode == 0, done.stderr


# --- systemd and launchd -----------------------------------------------------------------------------


@NEED_SYSTEMD
def test_systemd_understands_the_unit_and_calls_it_safe(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "pcc-server.service").read_text()
    unit = tmp_path / "pcc-server.service"
    unit.write_text(text.replace("/opt/hybrid-pcc/bin/pcc-server", sys.executable))
    done = tool("systemd-analyze", "verify", "--man=no", unit)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()
    assert exposure(unit) <= 2.0
    unit.write_text(
        re.sub(r"^(Protect|Private|Restrict|SystemCall|Capability|NoNew).*\n", "", unit.read_text(), flags=re.MULTILINE)
    )
    assert exposure(unit) > 5.0  # the control: without its protections the same tool says so


def exposure(unit: Path) -> float:
    done = tool("systemd-analyze", "security", "--offline=true", unit)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    return float(found[1])


def test_nothing_blinds_an_audit_at_the_start() -> None:
    """Each of these was there once and made ``trust.require_audit`` red (deploy/README.md)."""
    unit = (DEPLOY / "systemd" / "pcc-server.service").read_text()
    lines = [line for line in unit.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if line.startswith(("ProtectProc=", "ProtectClock="))]
    assert any(line.startswith("SystemCallFilter=") and "clock_adjtime" in line for line in lines)
    image = (DEPLOY / "container" / "Containerfile").read_text()
    assert not re.search(r"^ENV .*\bLD_", image, re.MULTILINE)


def test_the_units_time_to_stop_exceeds_the_drain() -> None:
    settings = settings_from((DEPLOY / "systemd" / "node.toml").read_text())
    unit = (DEPLOY / "systemd" / "pcc-server.service").read_text()
    agent = plistlib.loads((DEPLOY / "launchd" / "org.hybrid-pcc.node.plist").read_bytes())
    compose = (DEPLOY / "compose" / "compose.yaml").read_text()
    drain = settings.drain_grace_s + settings.drain_timeout_s
    for seconds in (re.search(r"TimeoutStopSec=(\d+)", unit), re.search(r"stop_grace_period: (\d+)s", compose)):
        assert seconds
        assert int(seconds[1]) > drain
    assert agent["ExitTimeOut"] > drain
    assert agent["HardResourceLimits"]["Core"] == 0


# --- containers --------------------------------------------------------------------------------------


def test_the_containerfile_is_clean_by_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = tool(hadolint, "container/Containerfile")
    assert done.returncode == 0, done.stdout
    control = subprocess.run(
        [hadolint, "-"], input="FROM debian\nRUN apt-get install x\n", text=True, capture_output=True, check=False
    )
    assert control.returncode


def compose() -> dict[str, Any]:
    text = (DEPLOY / "compose" / "compose.yaml").read_text()
    value: dict[str, Any] = yaml.safe_load(text)
    return value


def test_the_compose_file_is_one() -> None:
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "compose" / "compose.yaml").read_text())
    found = PyCompose.from_json(json.dumps(yaml.safe_load(text)))
    found.validate()
    assert set(found.service_names()) == {"pull", "node", "prometheus", "grafana"}
    with pytest.raises(ValueError, match="imge"):
        PyCompose.from_json(json.dumps(yaml.safe_load(text.replace("image: hybrid-pcc", "imge: hybrid-pcc"))))


def test_the_composed_node_is_locked_down_and_reaches_nobody() -> None:
    found = compose()
    node = found["services"]["node"]
    assert node["read_only"] is True
    assert node["cap_drop"] == ["ALL"]
    assert node["security_opt"] == ["no-new-privileges:true"]
    assert node["mem_limit"] == node["memswap_limit"]  # no swap
    assert all(volume.endswith(":ro") for volume in node["volumes"])
    assert "outside" not in node["networks"]
    assert found["networks"]["metrics"]["internal"] is True
    settings = settings_from((DEPLOY / "compose" / "node.toml").read_text())
    assert settings.allow_software
    assert settings.admin_token


def test_the_trial_certificates_can_be_used(tmp_path: Path) -> None:
    script = DEPLOY / "compose" / "certificates.sh"
    assert tool(script, "pcc.example.org", tmp_path / "made").returncode == 0
    made = tmp_path / "made"
    checked = tool(
        "openssl", "verify", "-CAfile", made / "ca.crt", "-verify_hostname", "pcc.example.org", made / "tls.crt"
    )
    assert checked.returncode == 0, checked.stderr
    assert not stat.S_IMODE((made / "tls.key").stat().st_mode) & 0o077
    authority, old = (made / "ca.crt").read_bytes(), (made / "tls.crt").read_bytes()
    assert tool(script, "pcc.example.org,192.0.2.7", made).returncode == 0  # renewed, under the same authority
    assert (made / "ca.crt").read_bytes() == authority
    assert (made / "tls.crt").read_bytes() != old
    checked = tool("openssl", "verify", "-CAfile", made / "ca.crt", "-verify_ip", "192.0.2.7", made / "tls.crt")
    assert checked.returncode == 0, checked.stderr
