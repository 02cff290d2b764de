"""C2SP tlog-policy: which texts are policies, which checkpoints they accept, and what time those are given."""

import random
from collections.abc import Mapping
from functools import partial
from itertools import combinations

import pytest

from hybrid.wire.checkpoint import Checkpoint
from hybrid.wire.cosignature import CosignatureKind, CosignatureSigner
from hybrid.wire.errors import Malformed, Oversized, ProofFailure, SignatureFailure
from hybrid.wire.log_policy import Group, LogPolicy
from hybrid.wire.note import NoteSigner, append_signatures
from hybrid.wire.note_keys import PublicNoteKey

LOG = NoteSigner.from_seed("example.com/log", b"\x01" * 32)
TEXT = Checkpoint(origin="example.com/log", size=7, root=b"\x07" * 32).encode_text()
NOTE = LOG.sign(TEXT)
NAMES = ("X1", "X2", "X3", "Y1", "Y2", "Y3")


def kind_of(name: str) -> CosignatureKind:
    return "ml-dsa-44" if name.startswith("Y") else "ed25519"


W = {
    name: CosignatureSigner.from_seed(f"witness.example/{name}", bytes((number,)) * 32, kind_of(name))
    for number, name in enumerate(NAMES)
}
LINES = {name: f"witness {name} {W[name].vkey}" for name in NAMES}

SPEC_EXAMPLE = f"""log {LOG.vkey}

{LINES["X1"]}
{LINES["X2"]}
{LINES["X3"]}
group X-witnesses 2 X1 X2 X3

{LINES["Y1"]}
{LINES["Y2"]}
{LINES["Y3"]}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def cosigned(times: Mapping[str, int]) -> bytes:
    return append_signatures(NOTE, [W[name].cosign(TEXT, now=partial(float, at)) for name, at in times.items()])


# --- quorum and its time ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "t0"),
    [
        ({"X1": 100, "X2": 200, "Y1": 150}, 100),
        ({"X1": 100, "X2": 200, "X3": 300, "Y1": 250}, 200),
        ({"X1": 100, "X2": 200, "Y1": 50}, 50),
        ({"X1": 100, "X2": 200, "Y1": 50, "Y2": 400}, 100),
        (dict.fromkeys(NAMES, 100), 100),
        ({"X1": 0, "X2": 0, "Y1": 0}, 0),
        ({"X1": 100, "Y1": 100}, None),
        ({"X1": 100, "X2": 100, "X3": 100}, None),
        ({"Y1": 100, "Y2": 100, "Y3": 100}, None),
        ({}, None),
    ],
)
def test_the_quorum_of_the_c2sp_example_and_its_time(times: dict[str, int], t0: int | None) -> None:
    policy = LogPolicy.parse(SPEC_EXAMPLE)
    if t0 is not None:
        assert policy.quorum_time(cosigned(times)) == t0
    else:
        with pytest.raises(ProofFailure):
            policy.quorum_time(cosigned(times))


def test_the_quorum_time_is_the_largest_by_definition() -> None:
    """Against the definition itself: try every set of witnesses (protocol C5)."""
    policy = LogPolicy.parse(SPEC_EXAMPLE)

    def met(names: set[str]) -> bool:
        return len(names & {"X1", "X2", "X3"}) >= 2 and bool(names & {"Y1", "Y2", "Y3"})

    rng = random.Random(1)  # noqa: S311 - reproducible, not a secret
    for _ in range(20):
        times = {name: rng.randrange(5) for name in rng.sample(NAMES, rng.randrange(3, 7))}
        sets = [set(some) for count in range(7) for some in combinations(times, count)]
        best = max((min(times[name] for name in some) for some in sets if some and met(some)), default=None)
        if best is None:
            with pytest.raises(ProofFailure):
                policy.quorum_time(cosigned(times))
        else:
            assert policy.quorum_time(cosigned(times)) == best


def test_one_fast_clock_makes_nothing_look_fresh() -> None:
    policy = LogPolicy.parse("\n".join([*(LINES[name] for name in NAMES[:3]), "group g 2 X1 X2 X3", "quorum g"]))
    assert policy.quorum_time(cosigned({"X1": 1000, "X2": 1010, "X3": 9_999_999})) == 1010
    assert policy.quorum_time(cosigned({"X1": 1000, "X3": 9_999_999})) == 1000


def test_unknown_and_doubled_witnesses_do_not_count() -> None:
    policy = LogPolicy.parse("\n".join([LINES["X1"], LINES["X2"], "group g 2 X1 X2", "quorum g"]))
    strangers = [CosignatureSigner.generate(W["X2"].name).cosign(TEXT), W["X3"].cosign(TEXT)]
    doubled = [W["X1"].cosign(TEXT, now=lambda: 1.0), W["X1"].cosign(TEXT, now=lambda: 2.0)]
    with pytest.raises(ProofFailure):
        policy.quorum_time(append_signatures(NOTE, [*doubled, *strangers]))
    full = append_signatures(NOTE, [*doubled, *strangers, W["X2"].cosign(TEXT, now=lambda: 3.0)])
    assert policy.quorum_time(full) == 2


def test_a_known_witness_whose_line_does_not_verify_refuses_the_note() -> None:
    policy = LogPolicy.parse(f"{LINES['X1']}\n{LINES['X2']}\ngroup g any X1 X2\nquorum g\n")
    other = W["X2"].cosign(Checkpoint(origin="example.com/log", size=8, root=bytes(32)).encode_text())
    assert policy.quorum_time(cosigned({"X1": 5})) == 5
    with pytest.raises(SignatureFailure):
        policy.quorum_time(append_signatures(cosigned({"X1": 5}), [other]))


def test_without_a_quorum_there_is_no_time() -> None:
    policy = LogPolicy.parse(f"log {LOG.vkey}\n{LINES['X1']}\nquorum none\n")
    assert not policy.has_quorum
    assert policy.quorum_time(cosigned({"X1": 5})) is None
    assert LogPolicy.parse(SPEC_EXAMPLE).has_quorum


def test_a_checkpoint_opens_under_the_key_of_its_log_also_while_the_key_changes() -> None:
    new, other = NoteSigner.generate(LOG.name), NoteSigner.generate("example.com/other")
    policy = LogPolicy.parse(f"log {other.vkey}\nlog {LOG.vkey}\nlog {new.vkey}\nquorum none\n")
    point = Checkpoint.parse_text(TEXT)
    for signer in (LOG, new):
        found, key = policy.open(signer.sign(TEXT))
        assert (found, key.vkey) == (point, signer.vkey)
    for note in (other.sign(TEXT), NoteSigner.generate(LOG.name).sign(TEXT)):
        with pytest.raises(SignatureFailure):
            policy.open(note)
    with pytest.raises(SignatureFailure):
        LogPolicy.parse("quorum none").open(NOTE)
    with pytest.raises(Malformed):
        policy.open(LOG.sign("no checkpoint\n"))


# --- the text -----------------------------------------------------------------------------------


def test_the_example_of_c2sp_is_read_and_written() -> None:
    policy = LogPolicy.parse(SPEC_EXAMPLE)
    assert [log.vkey for log in policy.logs] == [LOG.vkey]
    assert {name: key.vkey for name, key in policy.witnesses.items()} == {name: W[name].vkey for name in NAMES}
    assert policy.groups == {
        "X-witnesses": Group(2, ("X1", "X2", "X3")),
        "Y-witnesses": Group(1, ("Y1", "Y2", "Y3")),
        "X-and-Y": Group(2, ("X-witnesses", "Y-witnesses")),
    }
    assert policy.quorum == "X-and-Y"
    again = LogPolicy.parse(policy.encode())
    assert (again.encode(), again.groups, again.quorum) == (policy.encode(), policy.groups, policy.quorum)


def test_space_comments_addresses_and_odd_names_are_allowed() -> None:
    text = (
        f"\n# comment\n\t # another\n\tlog \t {LOG.vkey}   https://log.example/  \n"
        f"witness all {W['X1'].vkey} https://w.example/\nwitness K\u00e9\u212a {W['X2'].vkey}\n"
        "group group 2 all K\u00e9\u212a\n  quorum\tgroup"
    )
    policy = LogPolicy.parse(text)
    assert policy.groups == {"group": Group(2, ("all", "K\u00e9\u212a"))}
    assert set(policy.witnesses) == {"all", "K\u00e9\u212a"}
    assert LogPolicy.parse("quorum none").logs == ()


X1, X2 = LINES["X1"], LINES["X2"]
SAME_KEY = PublicNoteKey("other.example", W["X1"].public.kind, W["X1"].public.raw).vkey


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{X1}\n",
        f"{X1}\nquorum X1\nquorum X1\n",
        "quorum none\nquorum none\n",
        "quorum X1\n",
        f"quorum X1\n{X1}\n",
        "quorum\n",
        f"{X1}\nquorum X1 X1\n",
        "quibble X1\nquorum none\n",
        "QUORUM none\n",
        "quorum none # comment\n",
        "quorum none\r\n",
        "quorum none\n\x01",
        "quorum none\n# \x7f\n",
        "quorum none\n# \ud800\n",
        "quorum\u00a0none\n",
        "log\nquorum none\n",
        "log garbage\nquorum none\n",
        f"log {W['X1'].vkey}\nquorum none\n",
        f"log {LOG.vkey} https://a https://b\nquorum none\n",
        f"log {LOG.vkey}\nlog {LOG.vkey}\nquorum none\n",
        f"log {LOG.vkey}\nlog {PublicNoteKey('b', LOG.public.kind, LOG.public.raw).vkey}\nquorum none\n",
        "witness X1\nquorum none\n",
        f"witness X1 {LOG.vkey}\nquorum none\n",
        f"witness X1 {W['X1'].vkey} https://a # comment\nquorum none\n",
        f"witness none {W['X1'].vkey}\nquorum none\n",
        f"{X1}\nwitness X1 {W['X2'].vkey}\nquorum X1\n",
        f"{X1}\nwitness X2 {SAME_KEY}\nquorum X1\n",
        f"{X1}\ngroup X1 any X1\nquorum X1\n",
        f"{X1}\ngroup none any X1\nquorum none\n",
        f"{X1}\ngroup g any\nquorum X1\n",
        f"{X1}\ngroup g 0 X1\nquorum g\n",
        f"{X1}\ngroup g -1 X1\nquorum g\n",
        f"{X1}\ngroup g 01 X1\nquorum g\n",
        f"{X1}\ngroup g \u0661 X1\nquorum g\n",
        f"{X1}\ngroup g 2 X1\nquorum g\n",
        f"{X1}\ngroup g most X1\nquorum g\n",
        f"{X1}\ngroup g any X2\nquorum g\n",
        f"{X1}\ngroup g any g\nquorum g\n",
        f"group g any X1\n{X1}\nquorum g\n",
        f"{X1}\ngroup g any none X1\nquorum g\n",
        f"{X1}\ngroup g all X1 X1\nquorum g\n",
        f"{X1}\n{X2}\ngroup g any X1 X2\ngroup h any X1\nquorum g\n",
    ],
)
def test_a_text_that_is_no_policy_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        LogPolicy.parse(text)


def test_a_fault_is_named_with_its_line() -> None:
    with pytest.raises(Malformed, match="line 3 of the log policy: X9 is not defined on a line before"):
        LogPolicy.parse(f"{X1}\n\ngroup g any X9\nquorum g\n")


def test_a_policy_has_an_end() -> None:
    with pytest.raises(Oversized):
        LogPolicy.parse("#" * 300_000)
    many = [f"witness w{number} {CosignatureSigner.generate('w').vkey}" for number in range(257)]
    assert len(LogPolicy.parse("\n".join([*many[:256], "quorum none"])).witnesses) == 256
    with pytest.raises(Malformed):
        LogPolicy.parse("\n".join([*many, "quorum none"]))
