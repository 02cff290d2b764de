"""The chart renders, what it renders is valid Kubernetes, and its promises hold in every way it can be set."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pcc_server.config import Settings
from tests.deploy.chart import CHART, NEED_GO, manifests, renderer, run, settings_from

pytestmark = [NEED_GO, pytest.mark.linux]

OPEN = {"trust": {"allowSoftware": True}}
WAYS: dict[str, dict[str, Any]] = {
    "plain": OPEN,
    "hpa": {**OPEN, "autoscaling": {"kind": "hpa"}},
    "keda": {**OPEN, "autoscaling": {"kind": "keda"}, "serviceMonitor": {"enabled": True, "labels": {"a": "b"}}},
    "snp": {
        "trust": {"attester": "sev-snp", "logClaim": "log"},
        "router": {"directoryKeySecret": "directory", "access": "open"},
    },
    "placed": {
        **OPEN,
        "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "pull"}]},
        "node": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "a", "operator": "Exists"}], "replicas": 3},
        "networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "monitoring": []},
    },
}
CUSTOM = ("ScaledObject", "ServiceMonitor")  # of operators: no schema of Kubernetes itself


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return renderer(tmp_path_factory.mktemp("render"))


def of_kind(found: list[dict[str, Any]], kind: str, ending: str = "") -> dict[str, Any]:
    return next(one for one in found if one["kind"] == kind and one["metadata"]["name"].endswith(ending))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", ["1.27", "1.33"])
def test_what_is_rendered_is_valid(program: Path, way: str, version: str) -> None:
    found = manifests(program, WAYS[way])
    assert {one["kind"] for one in found} >= {
        "StatefulSet", "Service", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "ConfigMap",
    }  # fmt: skip
    for one in found:
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, version, strict=True)


def test_control_a_misspelt_field_is_found(program: Path) -> None:
    found = of_kind(manifests(program, OPEN), "StatefulSet")
    found["spec"]["template"]["spec"]["automountServiceAcountToken"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found, "1.33", strict=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trust": {"attester": "tpm2"}}, "say trust.logClaim"),
        ({"trust": {"attester": "tpm2", "logClaim": "log"}}, "needs router.directoryKeySecret"),
    ],
)
def test_what_does_not_fit_together_is_said(program: Path, values: dict[str, Any], words: str) -> None:
    assert words in run(program, values).stderr


def test_tier_0_is_never_installed_unsaid(program: Path) -> None:
    refused = run(program, {})
    assert refused.returncode
    assert "whoever operates this cluster can read every prompt" in refused.stderr


@pytest.mark.parametrize("way", WAYS)
def test_every_pod_is_locked_down(program: Path, way: str) -> None:
    found = manifests(program, WAYS[way])
    for one in (of_kind(found, "StatefulSet"), of_kind(found, "Deployment")):
        pod = one["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            locked = container["securityContext"]
            assert locked["readOnlyRootFilesystem"] is True
            assert locked["allowPrivilegeEscalation"] is False
            assert locked["capabilities"] == {"drop": ["ALL"]}
            writable = [mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
            assert writable == (["log"] if way == "snp" and one["kind"] == "Deployment" else [])


@pytest.mark.parametrize("way", WAYS)
def test_a_node_reaches_nobody_and_only_the_router_reaches_it(program: Path, way: str) -> None:
    policy = of_kind(manifests(program, WAYS[way]), "NetworkPolicy", "-node")["spec"]
    assert policy["egress"] == []
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    sealed = next(rule for rule in policy["ingress"] if rule["ports"] == [{"port": "grpc"}])
    assert sealed["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "router"


@pytest.mark.parametrize("way", WAYS)
def test_a_node_has_time_to_drain(program: Path, way: str) -> None:
    found = manifests(program, WAYS[way])
    drain = tomllib.loads(of_kind(found, "ConfigMap")["data"]["node.toml"])["drain"]
    pod = of_kind(found, "StatefulSet")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > drain["grace_s"] + drain["timeout_s"]


@pytest.mark.parametrize("way", WAYS)
def test_the_nodes_settings_are_understood_by_the_node(program: Path, way: str) -> None:
    settings: Settings = settings_from(of_kind(manifests(program, WAYS[way]), "ConfigMap")["data"]["node.toml"])
    assert settings.access == "router"
    assert settings.tls_client_ca
    assert settings.admin


def test_the_router_lists_every_name_a_node_may_get(program: Path) -> None:
    found = manifests(program, {**OPEN, "node": {"maxReplicas": 3}})
    words = of_kind(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    nodes = [word for word in words if word.startswith("--node=")]
    name = of_kind(found, "StatefulSet")["metadata"]["name"]
    service = of_kind(found, "StatefulSet")["spec"]["serviceName"]
    assert nodes == [f"--node={name}-{number}.{service}.prod.svc:8443" for number in range(3)]
    assert of_kind(found, "Service", "-node")["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize(("way", "kind"), [("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")])
def test_more_nodes_come_with_waiting_requests(program: Path, way: str, kind: str) -> None:
    found = manifests(program, WAYS[way])
    scaler = of_kind(found, kind)
    assert "pcc_requests_waiting" in json.dumps(scaler)
    assert scaler["spec"]["scaleTargetRef"]["name"] == of_kind(found, "StatefulSet")["metadata"]["name"]
    assert "replicas" not in of_kind(found, "StatefulSet")["spec"]  # else each upgrade would undo the scaling


@pytest.mark.parametrize(
    ("values", "allowed"), [(OPEN, True), ({"nod": {}}, False), ({"trust": {"attester": "sgx"}}, False)]
)
def test_values_that_nobody_reads_are_refused(values: dict[str, Any], *, allowed: bool) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(defaults, schema)
    assert jsonschema.Draft7Validator(schema).is_valid(values) is allowed
