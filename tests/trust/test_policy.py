"""N24 of SPEC B2: the trust file is read strictly; and the rules a policy can carry in Python."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import AttestationError, ConfigurationError
from hybrid.trust.facts import NodeFacts
from hybrid.trust.policy import ModelTrust, Policy, ReleaseTrust
from hybrid.trust.rules import (
    AllOf,
    AnyOf,
    EvidenceYoungerThan,
    LogKey,
    MeasurementIn,
    ModelIs,
    Rule,
    TierAtLeast,
    WitnessQuorum,
)
from hybrid.trust.sev_snp import SnpTrust
from hybrid.trust.toml import DEPLOYMENT_KEYS, parse_trust, write_trust
from hybrid.trust.tpm2 import Tpm2Trust
from hybrid.trust.verify import Verifier
from hybrid.trust_file import default_trust_path, read_trust_file
from hybrid.wire.log_policy import LogPolicy
from hybrid.wire.note import NoteSigner
from tests.trust.log_maker import Cloud
from tests.trust.maker import MODEL, Maker

NAME = "pcc.example.com"
SIGNER = NoteSigner.from_seed(f"{NAME}/directory", bytes(32)).vkey
PUBLISHER = NoteSigner.from_seed("publisher.example/release", b"\x01" * 32).vkey
LOG = NoteSigner.from_seed(f"{NAME}/log", b"\x02" * 32).vkey
WITNESS = Cloud().log.witnesses[0].vkey
PCR = "0a" * 32
PCRS = f'{{ 4 = ["{PCR}"], 7 = ["{PCR}"] }}'
TCB = "{ bootloader = 3, tee = 0, snp = 8, microcode = 115 }"

FULL = f"""
version = 1
[deployment."{NAME}"]
endpoint = "{NAME}:443"
min_tier = 2
allow_software = "never"
candidates = 2
freshness = "either"
max_evidence_age_s = 1800
suites = ["647a000100020101"]
directory_signers = ["{SIGNER}"]
release = {{ signers = ["{PUBLISHER}"], pins = [], deny = ["{"0" * 64}"] }}
models = {{ signers = ["{PUBLISHER}"], accept = ["m@{"1" * 64}"] }}
log_policy = "log {LOG}\\nwitness w1 {WITNESS}\\nquorum w1\\n"
tpm2 = {{ ak_names = ["000b{"2" * 64}"], runtime_pcr = 14, pcrs = {PCRS}, pcr_before = ["{PCR}"] }}
sev_snp = {{ products = ["milan"], vmpl = [0, 1], min_tcb = {{ milan = {TCB} }} }}
"""
SMALL = f'version = 1\n[deployment."{NAME}"]\ndirectory_signers = ["{SIGNER}"]\n'


def test_the_file_of_the_specification_reads_into_a_policy() -> None:
    policy = parse_trust(FULL).deployments[NAME]
    expected = Policy(
        deployment=NAME,
        endpoint=f"{NAME}:443",
        min_tier=2,
        allow_software="never",
        candidates=2,
        freshness="either",
        max_evidence_age_s=1800,
        directory_signers=(SIGNER,),
        release=ReleaseTrust(signers=(PUBLISHER,), deny=("0" * 64,)),
        models=ModelTrust(signers=(PUBLISHER,), accept=(f"m@{'1' * 64}",)),
        log_policy=LogPolicy.parse(f"log {LOG}\nwitness w1 {WITNESS}\nquorum w1\n"),
        tpm2=Tpm2Trust(ak_names=("000b" + "2" * 64,), runtime_pcr=14, pcrs={4: (PCR,), 7: (PCR,)}, pcr_before=(PCR,)),
        sev_snp=SnpTrust(
            products=("milan",),
            vmpl=(0, 1),
            min_tcb={"milan": {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}},
        ),
    )
    assert replace(policy, text_digest="").digest == expected.digest
    assert expected.digest != replace(expected, candidates=3).digest


def test_the_example_names_every_key_there_is() -> None:
    assert all(f"\n{key} = " in FULL for key in DEPLOYMENT_KEYS)


def test_what_a_small_file_leaves_out_is_as_without_a_file() -> None:
    policy = parse_trust(SMALL).deployments[NAME]
    usual = replace(Policy.pinned(SIGNER), deployment=NAME)
    assert replace(policy, text_digest="").digest == usual.digest


def test_the_files_digest_names_the_policy() -> None:
    file = parse_trust(FULL)
    assert file.deployments[NAME].digest == file.digest
    assert parse_trust(FULL + "# a comment\n").digest != file.digest


@pytest.mark.parametrize("text", [FULL, SMALL])
def test_a_written_file_reads_back_as_the_same(text: str) -> None:
    policy = replace(parse_trust(text).deployments[NAME], text_digest="")
    again = parse_trust(write_trust({NAME: policy}))
    assert replace(again.deployments[NAME], text_digest="").digest == policy.digest
    assert write_trust(again.deployments) == write_trust({NAME: policy})


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("version = 1", "version = 2", "version"),
        ("version = 1", "", "version"),
        ("version = 1", "version = true", "version"),
        ("version = 1", 'version = 1\nextra = ""', "extra"),
        ("candidates = 2", "candidate = 2", f'deployment."{NAME}".candidate'),
        ("candidates = 2", 'candidates = "2"', f'deployment."{NAME}".candidates'),
        ("candidates = 2", "candidates = 5", f'deployment."{NAME}"'),
        ("pins = []", "pin = []", f'deployment."{NAME}".release.pin'),
        ("pins = []", 'pins = ["x"]', "release.pins"),
        ("vmpl = [0, 1]", "vmpl = []", f'deployment."{NAME}".sev_snp.vmpl'),
        ("vmpl = [0, 1]", "vmpl = [true]", f'deployment."{NAME}".sev_snp.vmpl'),
        ("vmpl = [0, 1]", "vmpl = [9]", "sev_snp.vmpl"),
        ("tee = 0", "tea = 0", "sev_snp.min_tcb.milan"),
        ("runtime_pcr = 14", "runtime_pcr = 16", "PCR 16"),
        ("4 = [", "04 = [", f'deployment."{NAME}".tpm2.pcrs.04'),
        ("4 = [", "x = [", f'deployment."{NAME}".tpm2.pcrs.x'),
        ('suites = ["647a', 'suites = ["647b', "suites"),
        ("quorum w1", "quorum w2", f'deployment."{NAME}".log_policy'),
        ("quorum w1", "quorum none", "min_tier"),
        (f"log {LOG}", "", f'deployment."{NAME}".log_policy'),
        (f'directory_signers = ["{SIGNER}"]', "", f'deployment."{NAME}".directory_signers'),
        (f'directory_signers = ["{SIGNER}"]', "directory_signers = []", f'deployment."{NAME}".directory_signers'),
        (f'directory_signers = ["{SIGNER}"]', 'directory_signers = ["x"]', "malformed"),
        (f'release = {{ signers = ["{PUBLISHER}"]', "release = { signers = []", f'deployment."{NAME}".release.signers'),
        (f'models = {{ signers = ["{PUBLISHER}"]', "models = { signers = []", f'deployment."{NAME}".models.signers'),
        (f'models = {{ signers = ["{PUBLISHER}"]', 'models = { signers = ["x"]', "models.signers"),
        (f'accept = ["m@{"1" * 64}"]', 'accept = ["m"]', "models.accept"),
        (f'ak_names = ["000b{"2" * 64}"]', "ak_names = []", f'deployment."{NAME}".tpm2.ak_names'),
        (f'[deployment."{NAME}"]', '[deployment."UPPER"]', "deployment"),
        (f'[deployment."{NAME}"]', "[[deployment.x]]", "deployment"),
        ("min_tier = 2", "min_tier =", "parse"),
    ],
)  # fmt: skip
def test_n24_a_file_with_anything_wrong_is_refused_by_its_dotted_key(old: str, new: str, key: str) -> None:
    assert parse_trust(FULL)
    assert old in FULL
    with pytest.raises(ConfigurationError) as caught:
        parse_trust(FULL.replace(old, new))
    assert key in str(caught.value)


def test_two_deployments_at_one_address_are_refused_when_read_and_when_written() -> None:
    """Which of two policies counts for an address must not depend on their order."""
    second = f'[deployment."b.example.com"]\ndirectory_signers = ["{SIGNER}"]\nendpoint = "{NAME}:443"\n'
    with pytest.raises(ConfigurationError, match=r"b\.example\.com.*endpoint"):
        parse_trust(FULL + second)
    apart = parse_trust(FULL + second.replace(":443", ":444")).deployments
    assert len(apart) == 2
    assert parse_trust(write_trust(apart)).deployments.keys() == apart.keys()
    with pytest.raises(ConfigurationError, match="endpoint"):
        write_trust({name: replace(policy, endpoint="x:1") for name, policy in apart.items()})


def test_a_deployment_named_twice_is_refused() -> None:
    for again in (f'[deployment."{NAME}"]', "[deployment.'pcc.example.com']", "[deployment.pcc.example.com]"):
        with pytest.raises(ConfigurationError):
            parse_trust(SMALL + f'{again}\ndirectory_signers = ["{SIGNER}"]\n')


def test_an_unknown_key_names_the_nearest_one() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_trust(FULL.replace("candidates", "canddates"))
    assert "'candidates'" in caught.value.hint


@pytest.mark.parametrize("text", ["", "deep = " + "[" * 5000, "\0", "version = 1\nversion = 1", 'a = "\ud800"'])
def test_what_is_no_toml_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_trust(text)


def test_tier_two_without_witnesses_or_releases_means_nothing_and_is_refused() -> None:
    good = parse_trust(FULL).deployments[NAME]
    for change in ({"log_policy": None}, {"release": None}):
        with pytest.raises(ConfigurationError, match="min_tier"):
            replace(good, **change)
        assert replace(good, min_tier=1, **change)


# --- the file on disk -----------------------------------------------------------------------------


def written(path: Path, text: str = SMALL, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    for mode in (0o600, 0o644):
        assert list(read_trust_file(written(tmp_path / "trust.toml", mode=mode)).deployments) == [NAME]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o660])
def test_n24_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigurationError, match="written by others") as caught:
        read_trust_file(written(tmp_path / "trust.toml", mode=mode))
    assert "chmod go-w" in caught.value.hint


def test_n24_a_link_does_not_hide_who_may_write_the_file(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(written(tmp_path / "trust.toml", mode=0o620))
    with pytest.raises(ConfigurationError, match="written by others"):
        read_trust_file(link)
    (tmp_path / "trust.toml").chmod(0o600)
    assert read_trust_file(link).deployments


@pytest.mark.parametrize(("owner", "passes"), [(0, True), (1, True), (2, False)], ids=["root", "me", "somebody else"])
def test_n24_a_file_of_somebody_else_is_refused_whatever_its_mode(
    owner: int, passes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "trust.toml", mode=0o644)
    ids = {0: 0, 1: 4242, 2: 4243}
    real = os.fstat
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(os, "fstat", lambda fd: _owned(real(fd), ids[owner]))
    if passes:
        assert read_trust_file(path).deployments
        return
    with pytest.raises(ConfigurationError, match="belongs to somebody else"):
        read_trust_file(path)


def _owned(status: os.stat_result, owner: int) -> os.stat_result:
    return os.stat_result([*status[:4], owner, *status[5:10]])


def test_a_file_that_cannot_be_read_names_itself(tmp_path: Path) -> None:
    absent, broken, large = (tmp_path / name for name in ("absent", "broken", "large"))
    broken.write_bytes(b"\xff")
    large.write_bytes(b"#" * 1_048_577)
    for path in (absent, broken, large, tmp_path):
        with pytest.raises(ConfigurationError, match=str(path)):
            read_trust_file(path)
    with pytest.raises(ConfigurationError, match=r"trust\.toml.*unknown key"):
        read_trust_file(written(tmp_path / "trust.toml", SMALL + "x = 1\n"))


def test_the_usual_place_is_in_the_users_own_configuration() -> None:
    assert str(default_trust_path()).startswith(os.environ["XDG_CONFIG_HOME"])
    assert default_trust_path().name == "trust.toml"


# --- rules ----------------------------------------------------------------------------------------

FACTS = NodeFacts(
    tier=1,
    tier_words="",
    measurement="aa",
    model=MODEL,
    evidence_t0=100.0,
    evidence_age_s=10.0,
    log_key=LOG,
    witnesses=2,
    ends=0.0,
)
HOLDS: list[Rule] = [
    TierAtLeast(1),
    MeasurementIn("bb", "AA"),
    ModelIs("fake"),
    ModelIs("fake", MODEL.manifest.hex()),
    EvidenceYoungerThan(10.5),
    LogKey(LOG),
    WitnessQuorum(2),
]
BREAKS: list[Rule] = [
    TierAtLeast(2),
    MeasurementIn("bb"),
    ModelIs("other"),
    ModelIs("fake", "00" * 32),
    EvidenceYoungerThan(10),
    LogKey(SIGNER),
    WitnessQuorum(3),
]


@pytest.mark.parametrize("rule", HOLDS, ids=repr)
def test_a_rule_holds_for_what_it_asks(rule: Rule) -> None:
    assert rule.judge(FACTS).ok


@pytest.mark.parametrize("rule", BREAKS, ids=repr)
def test_a_rule_breaks_for_anything_else_and_says_what_it_asks(rule: Rule) -> None:
    verdict = rule.judge(FACTS)
    assert not verdict.ok
    assert verdict.words


def test_evidence_of_unknown_age_is_too_old() -> None:
    assert not EvidenceYoungerThan(1e9).judge(replace(FACTS, evidence_age_s=None)).ok


def test_rules_combine() -> None:
    yes, no = HOLDS[0], BREAKS[0]
    assert AllOf(*HOLDS).judge(FACTS).ok
    assert AnyOf(no, yes).judge(FACTS).ok
    assert not AllOf(yes, no).judge(FACTS).ok
    assert not AnyOf(*BREAKS).judge(FACTS).ok
    assert AllOf(yes, no).judge(FACTS).words == "tier 2 or higher"
    assert AnyOf(no, AllOf(yes)).judge(FACTS).words == "tier 1 or higher"
    assert repr(AllOf(yes, AnyOf(no))) == "AllOf(TierAtLeast(tier=1), AnyOf(TierAtLeast(tier=2)))"


@pytest.mark.parametrize("kind", [AllOf, AnyOf, MeasurementIn])
def test_an_empty_rule_is_a_slip(kind: Any) -> None:
    with pytest.raises(ConfigurationError):
        kind()


@pytest.mark.parametrize("rule", BREAKS, ids=repr)
def test_a_rule_of_the_policy_is_the_last_check_and_refuses(rule: Rule) -> None:
    cloud = Cloud()
    reply = cloud.publish()
    if isinstance(rule, EvidenceYoungerThan | WitnessQuorum):
        rule = replace(rule, **({"seconds": 300} if isinstance(rule, EvidenceYoungerThan) else {"witnesses": 3}))
    (node,) = cloud.check(reply, require=AllOf(TierAtLeast(1), WitnessQuorum(2), LogKey(cloud.log.key.vkey))).nodes
    assert node.checks[-1].name == "policy.require"
    with pytest.raises(AttestationError) as caught:
        cloud.check(reply, require=rule)
    assert caught.value.check == "policy.require"


def test_a_rule_about_models_leaves_the_others_out() -> None:
    maker = Maker()
    other = replace(MODEL, model_id="other")
    reply = maker.reply(maker.bundle(models=(MODEL, other)))
    got = Verifier(maker.policy(require=ModelIs("other"))).verify(reply, peer_is_loopback=True, now=maker.now)
    assert [node.model.model_id for node in got.nodes] == ["other"]


def test_policies_with_different_rules_have_different_digests() -> None:
    plain = Policy.pinned(SIGNER)
    digests = {replace(plain, require=rule).digest for rule in (None, TierAtLeast(0), AllOf(TierAtLeast(0)))}
    assert len(digests) == 3
