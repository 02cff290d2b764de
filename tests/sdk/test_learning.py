"""Corrections on disk, the opt-in store, and whole attempts to retrain: nothing but a better model is ever promoted."""

import json
import logging
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from keyring.errors import KeyringError

from hybrid import learning
from hybrid.client import Client
from hybrid.decision_log import DecisionLog
from hybrid.errors import ConfigurationError, UnavailableError
from hybrid.examples_store import DAY_S, FILE, KEPT_DAYS, SIZE_STEP, Example, ExampleStore
from hybrid.keychain import Keychain
from hybrid.learning import History, Version
from hybrid.retraining import agree, retrain
from hybrid.routing.complexity import LearnedScorer
from hybrid.routing.labels import Labels, Source, from_source, typed
from hybrid.routing.log import DecisionRecord, Outcome, score_step
from hybrid.routing.personal import Personal, digest
from hybrid.routing.screen import Screener
from hybrid.routing.taint import examined
from hybrid.testing import FakeEngine, MemoryTransport
from hybrid.weights import load_scorer, shipped
from hybrid.wire.types import Route
from tests.routing.users import SCORER, START_MIN, asked, gardener, lived
from tests.sdk.keychains import (
    Chained,
    ForgetfulKeyring,
    LockedKeyring,
    MemoryKeyring,
    PlainFileKeyring,
    PlainFilesKeyring,
)
from tests.support import HARD, Bench

BASE = digest(shipped())
NOW = START_MIN * 60 + 30.0 * DAY_S
SECRET = "zebra-canary where do i plant the orchid"
OPEN = Labels((typed(SECRET),))


def personal(version: int, offset: float = 0.05) -> Personal:
    return Personal(base=BASE, version=version, day=20_000, offset=offset, linear={version: 1.0})


def promote(folder: Path, version: int, **about: Any) -> bytes:
    mine = personal(version)
    model = LearnedScorer.from_bytes(shipped(), mine).version
    plain = {"at": int(NOW), "requests": 200, "overrides": 2, "offset": mine.offset, "model": model}
    kept = Version(version=version, sha256=digest(mine.to_bytes()), **{**plain, **about})
    with learning.changing(folder) as before:
        learning.save(folder, learning.promoted(folder, before, mine, kept))
    return mine.to_bytes()


def in_use(folder: Path) -> bytes | None:
    found = learning.current(folder, base=BASE)
    return found.to_bytes() if found else None


def on_disk(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# --- promote, roll back -----------------------------------------------------------------------------------------------


def test_rollback_is_one_call_and_byte_exact_down_to_the_shipped_weights(tmp_path: Path) -> None:
    plain = load_scorer(tmp_path)
    first, second = promote(tmp_path, 1), promote(tmp_path, 2)
    assert in_use(tmp_path) == second
    learning.rollback(tmp_path)
    assert in_use(tmp_path) == first
    learning.rollback(tmp_path)
    assert in_use(tmp_path) is None
    assert load_scorer(tmp_path) == plain
    assert learning.rollback(tmp_path) == learning.history(tmp_path)  # nothing to go back from changes nothing


def test_a_correction_reaches_the_next_client_and_a_rollback_takes_it_away(tmp_path: Path) -> None:
    def decided_by() -> str:
        with Client(**Bench().options(state=tmp_path)) as client:
            return str(client.explain("plan a garden").signals["versions"]["model"])

    plain = decided_by()
    promote(tmp_path, 1)
    assert decided_by() == f"{plain}+1"
    learning.rollback(tmp_path)
    assert decided_by() == plain == load_scorer(None).version


def test_three_are_kept_private_and_a_number_is_never_given_twice(tmp_path: Path) -> None:
    kept = [promote(tmp_path, version) for version in (1, 2, 3, 4)]
    files = sorted((tmp_path / learning.FOLDER).glob("personal-*.json"))
    assert [path.read_bytes() for path in files] == kept[1:]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / learning.FOLDER).iterdir()} == {0o600}
    learning.rollback(tmp_path)
    assert learning.history(tmp_path).highest == 4


@pytest.mark.parametrize("harm", ["changed", "cut", "gone", "other base", "state"])
def test_what_was_tampered_with_is_not_used_and_the_log_says_so(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    promote(tmp_path, 1)
    file = tmp_path / learning.FOLDER / "personal-1.json"
    base = BASE
    if harm == "changed":
        file.write_bytes(file.read_bytes().replace(b'"offset": 0.05', b'"offset": 0.15'))
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:50])
    elif harm == "gone":
        file.unlink()
    elif harm == "state":
        (tmp_path / learning.FOLDER / learning.STATE).write_text("{}")
    else:
        base = digest(b"newer weights")
    with caplog.at_level(logging.WARNING, "hybrid"):
        assert learning.current(tmp_path, base=base) is None
    assert [entry.message for entry in caplog.records] == ["learning_not_used"]


WRITER = """
import sys
from pathlib import Path
from tests.sdk.test_learning import promote_next
for _ in range(5):
    promote_next(Path(sys.argv[1]))
"""


def promote_next(folder: Path) -> None:
    with learning.changing(folder) as before:
        mine = personal(before.highest + 1)
        facts = {"at": 1, "model": "m", "offset": 0.0, "requests": 0, "overrides": 0}
        kept = Version(version=mine.version, sha256=digest(mine.to_bytes()), **facts)
        learning.save(folder, learning.promoted(folder, before, mine, kept))


def test_two_processes_that_promote_at_once_lose_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=root) for _ in range(2)]
    assert [each.wait(120) for each in running] == [0, 0]
    found = learning.history(tmp_path)
    assert (found.highest, [each.version for each in found.kept]) == (10, [8, 9, 10])
    assert in_use(tmp_path) == personal(10).to_bytes()


def requests(count: int, overridden: int, model: str) -> list[DecisionRecord]:
    return [
        record(n, int(NOW // 60) + n, 4, Outcome(overridden=Route.PRIVATE_CLOUD if n < overridden else None), model)
        for n in range(count)
    ]


def record(n: int, minute: int, score: int, outcome: Outcome, model: str = "") -> DecisionRecord:
    return DecisionRecord(
        id=f"{n:04}", minute=minute, route=Route.ON_DEVICE, mode="auto", reasons=("simple",), open=True, eligible=True,
        length=5, score=score, threshold=12, outcome=outcome, model=model,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("count", "overridden", "goes"), [(99, 50, False), (100, 1, False), (100, 10, True), (300, 3, False)]
)
def test_a_correction_under_which_overrides_rise_goes_by_itself(
    count: int, overridden: int, goes: bool, tmp_path: Path
) -> None:
    promote(tmp_path, 1)
    model = load_scorer(tmp_path).version
    rows = requests(count, overridden, model)
    assert learning.review(tmp_path, lambda: rows) is goes
    assert (in_use(tmp_path) is None) is goes
    assert learning.review(tmp_path, lambda: rows) is False  # judged once


# --- the opt-in store -------------------------------------------------------------------------------------------------


@pytest.fixture
def ring() -> MemoryKeyring:
    return MemoryKeyring()


@pytest.fixture
def store(tmp_path: Path, ring: MemoryKeyring) -> ExampleStore:
    return ExampleStore(tmp_path / "state", keychain=Keychain("test", backend=ring), now=lambda: NOW)


def example(name: str = "a", text: str = SECRET, **more: Any) -> Example:
    return Example(request_id=name, route=Route.PRIVATE_CLOUD, text=text, **{"answer": "zebra-canary bark", **more})


def test_a_kept_question_comes_back_and_is_nowhere_in_clear(store: ExampleStore, ring: MemoryKeyring) -> None:
    assert store.keep(example(around={"turn": 1.0}), OPEN)
    assert store.examples() == (example(around={"turn": 1.0}),)
    assert b"zebra-canary" not in on_disk(store.path.parent)
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert len(ring.held) == 1
    (store.path.parent / "planted").write_bytes(b"... zebra-canary ...")  # the search would find it
    assert b"zebra-canary" in on_disk(store.path.parent)


def test_nothing_of_a_turn_that_must_stay_on_the_device_is_kept(store: ExampleStore, ring: MemoryKeyring) -> None:
    mail = from_source(Source(label="mail", text="m", kind="mail"))
    assert not store.keep(example(), Labels((typed(SECRET), mail)))
    assert not store.keep(example(), Labels())  # no label at all is the strictest
    assert not store.path.exists()
    assert ring.held == {}


def test_a_question_goes_after_thirty_days_and_when_the_clock_was_set_back(tmp_path: Path, ring: MemoryKeyring) -> None:
    at = [NOW]
    store = ExampleStore(tmp_path, keychain=Keychain("test", backend=ring), now=lambda: at[0])
    store.keep(example(), OPEN)
    at[0] = NOW + KEPT_DAYS * DAY_S - 1
    assert len(store.examples()) == 1
    at[0] += 1
    assert store.examples() == ()
    store.keep(example("b"), OPEN)
    at[0] -= 365 * DAY_S
    assert store.examples() == ()
    with closing(sqlite3.connect(store.path)) as rows:
        assert rows.execute("SELECT COUNT(*) FROM examples").fetchone() == (0,)


@pytest.mark.parametrize(
    "change",
    ["request_id = 'b'", "expires_at = expires_at - 1", "sealed = substr(sealed, 1, 30)", "sealed = zeroblob(60)"],
)
def test_a_row_that_was_tampered_with_is_dropped(change: str, store: ExampleStore) -> None:
    store.keep(example(), OPEN)
    with closing(sqlite3.connect(store.path)) as rows, rows:
        rows.execute(f"UPDATE examples SET {change}")  # noqa: S608 - our own words
    assert store.examples() == ()


def test_a_lost_key_loses_what_it_sealed_and_nothing_else_happens(store: ExampleStore, ring: MemoryKeyring) -> None:
    store.keep(example(), OPEN)
    ring.held.clear()
    assert store.examples() == ()
    assert store.keep(example("b"), OPEN)
    assert [each.request_id for each in store.examples()] == ["b"]


def test_purging_takes_the_file_and_the_key(store: ExampleStore, ring: MemoryKeyring) -> None:
    store.keep(example(), OPEN)
    store.purge()
    store.purge()
    assert (store.path.exists(), ring.held, store.examples()) == (False, {}, ())


@pytest.mark.parametrize(
    ("ring_type", "reason"),
    [
        (LockedKeyring, "keychain_locked"),
        (ForgetfulKeyring, "no_keychain"),
        (PlainFileKeyring, "no_keychain"),
        (PlainFilesKeyring, "no_keychain"),
    ],
)
def test_without_a_safe_keychain_nothing_is_kept_and_the_error_says_what_to_do(
    ring_type: Callable[[], MemoryKeyring], reason: str, tmp_path: Path
) -> None:
    store = ExampleStore(tmp_path, keychain=Keychain("test", backend=ring_type()), now=lambda: NOW)
    with pytest.raises(UnavailableError) as raised:
        store.keep(example(), OPEN)
    assert raised.value.reason == reason
    assert "learn='off'" in raised.value.hint
    assert "the name of" not in str(raised.value)  # what a keychain says is not passed on
    assert not (tmp_path / FILE).exists()


def test_of_a_chain_of_keychains_only_a_safe_one_gets_the_key(store: ExampleStore, ring: MemoryKeyring) -> None:
    plain = PlainFileKeyring()
    chain = Keychain("test", backend=Chained(plain, ring))
    assert chain.make() == Keychain("test", backend=ring).key()
    assert plain.held == {}
    chain.forget()
    plain.set_password("hybrid-pcc", "test", "QUFB" * 11)
    assert chain.key() is None


def test_the_size_of_a_kept_question_says_little(store: ExampleStore) -> None:
    for n, words in enumerate((1, 40, 400)):
        store.keep(example(str(n), text="o" * words), OPEN)
    store.keep(example("long", text="o" * 3900, answer="a" * 3900), OPEN)
    with closing(sqlite3.connect(store.path)) as rows:
        sizes = [size for (size,) in rows.execute("SELECT length(sealed) FROM examples ORDER BY rowid")]
    assert len(set(sizes[:3])) == 1
    assert len({size % SIZE_STEP for size in sizes}) == 1
    assert len(store.examples()) == 4


def test_what_a_person_let_go_for_one_call_is_not_kept(store: ExampleStore) -> None:
    let_go = examined(typed("write to ann@rubyvault.com"), Screener(), frozenset({"prompt"}))
    assert let_go.may_leave
    assert not store.keep(example(text=let_go.text), Labels((let_go,)))
    assert not store.path.exists()


@pytest.mark.parametrize(
    ("given", "sources"),
    [({}, ()), ({"learn": "keep"}, (Source(label="mail", text="a letter", kind="mail"),))],
    ids=["learn is off", "all of it must stay"],
)
def test_what_has_expired_goes_also_where_nothing_is_kept_any_more(
    tmp_path: Path, ring: MemoryKeyring, given: dict[str, Any], sources: tuple[Source, ...]
) -> None:
    store = ExampleStore(tmp_path, keychain=Keychain("test", backend=ring))
    store.keep(example(), OPEN)
    for left in (1, 0):
        with Client(**Bench().options(state=tmp_path, **given)) as client:
            client.ask("hello", sources=sources)
        assert rows_in(store) == left
        with closing(sqlite3.connect(store.path)) as rows, rows:
            rows.execute("UPDATE examples SET expires_at = 1")


def rows_in(store: ExampleStore) -> int:
    with closing(sqlite3.connect(store.path)) as rows:
        count: int = rows.execute("SELECT COUNT(*) FROM examples").fetchone()[0]
        return count


def test_a_system_without_a_keychain_is_told_apart(tmp_path: Path) -> None:
    from keyring.backends.fail import Keyring

    with pytest.raises(UnavailableError, match="no keychain"):
        ExampleStore(tmp_path, keychain=Keychain("test", backend=Keyring())).keep(example(), OPEN)


def test_a_file_that_is_no_store_is_said(store: ExampleStore) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(b"not a database, and long enough to be looked at as one" * 40)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        store.examples()


def test_what_a_keychain_says_is_not_passed_on(tmp_path: Path) -> None:
    class Failing(MemoryKeyring):
        def get_password(self, service: str, username: str) -> str | None:
            raise KeyringError("the value of a secret")

    with pytest.raises(UnavailableError, match="KeyringError") as raised:
        ExampleStore(tmp_path, keychain=Keychain("test", backend=Failing())).keep(example(), OPEN)
    assert "the value" not in f"{raised.value} {raised.value.hint}"


def test_what_has_expired_leaves_the_file(store: ExampleStore) -> None:
    store.keep(example(), OPEN)
    with closing(sqlite3.connect(store.path)) as rows, rows:
        sealed = rows.execute("SELECT sealed FROM examples").fetchone()[0]
        rows.execute("UPDATE examples SET expires_at = 1")
    assert sealed[-64:] in store.path.read_bytes()
    with closing(sqlite3.connect(store.path)) as another:  # whoever closes last would tidy up anyway
        another.execute("SELECT 1 FROM examples").fetchall()
        store.expire()
        assert sealed[-64:] not in store.path.read_bytes()


def test_what_is_deleted_is_overwritten_also_where_sqlite_was_not_built_to(
    store: ExampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite3.connect

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        made = real(*arguments, **named)
        made.execute("PRAGMA secure_delete = OFF")
        return made

    monkeypatch.setattr(sqlite3, "connect", connect)
    found = store._database.run(lambda rows: rows.execute("PRAGMA secure_delete").fetchone()[0], patience_s=1.0)
    assert found == 1


def test_a_client_keeps_what_was_asked_and_nothing_that_must_stay(
    tmp_path: Path, ring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyring.get_keyring", lambda: ring)
    mail = Source(label="mail", text="zebra-canary-mail", kind="mail")
    bench = Bench(device=FakeEngine(["zebra-canary-local"]), node=MemoryTransport(FakeEngine(["of the node"])))
    with Client(**bench.options(state=tmp_path, learn="keep")) as client:
        session = client.session(system="be brief")
        session.ask("hello")
        session.ask(HARD)
        session.ask("what does it say", sources=[mail])
        session.ask("hello again")  # the mail stands in its history
        client.ask("my card is 4111 1111 1111 1111")
        client.ask("write to ann@rubyvault.com", cleared=("prompt",))
    kept = ExampleStore(tmp_path).examples()
    assert [(each.text, each.answer) for each in kept] == [("hello", None), (HARD, "of the node")]
    assert b"zebra-canary" not in on_disk(tmp_path)


def test_importing_the_sdk_loads_no_keychain_and_no_numpy() -> None:
    code = "import sys, hybrid.client, hybrid.examples_store; print({'keyring', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# --- whole attempts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with closing(DecisionLog(tmp_path, now=lambda: NOW)) as opened:
        yield opened


def fill(log: DecisionLog, count: int, *, flip: bool = False, wrong: bool | None = None) -> None:
    for n, lesson in enumerate(lived(gardener, count, 3, kept=False, flip=flip)):
        bad = bool(lesson.wrong) if wrong is None else wrong
        outcome = Outcome(route=Route.ON_DEVICE, verdict="bad" if bad else "good")
        log.add(record(n, lesson.minute, score_step(lesson.score), outcome, SCORER.version))


def test_an_attempt_promotes_once_a_day_and_remembers_what_it_used(tmp_path: Path, log: DecisionLog) -> None:
    fill(log, 100)
    tried = retrain(tmp_path, log, now=NOW, dry_run=True)
    assert (tried.reason, in_use(tmp_path), learning.history(tmp_path)) == ("dry_run", None, History())
    done = retrain(tmp_path, log, now=NOW)
    assert (done.reason, done.version, done.new) == ("promoted", 1, 100), done
    assert load_scorer(tmp_path).version.endswith("+1")
    assert retrain(tmp_path, log, now=NOW + DAY_S - 1).reason == "too_soon"
    assert retrain(tmp_path, log, now=NOW + DAY_S + 1).reason == "too_few"  # nothing new
    assert learning.history(tmp_path).used == learning.history(tmp_path).kept[0]


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        ("too_few", {"count": 49}),
        ("one_class", {"count": 80, "wrong": True}),
        ("one_class", {"count": 80, "wrong": False}),
    ],
    ids=["few", "all wrong", "all right"],
)
def test_a_poor_log_leaves_the_old_model_and_says_why(
    reason: str, how: dict[str, Any], tmp_path: Path, log: DecisionLog, caplog: pytest.LogCaptureFixture
) -> None:
    old = promote(tmp_path, 1)
    fill(log, **how)
    with caplog.at_level(logging.INFO, "hybrid"):
        assert retrain(tmp_path, log, now=NOW).reason == reason
    assert in_use(tmp_path) == old
    assert learning.history(tmp_path).last == reason
    assert [(each.message, each.__dict__["reason"]) for each in caplog.records] == [("learning_kept_old", reason)]


def test_a_clock_set_back_leaves_the_old_model_and_says_why(tmp_path: Path, log: DecisionLog) -> None:
    fill(log, 100)
    assert retrain(tmp_path, log, now=START_MIN * 60.0).reason == "clock"  # rows from the future
    assert (in_use(tmp_path), learning.history(tmp_path).last) == (None, "clock")
    assert retrain(tmp_path, log, now=NOW).promoted
    used = in_use(tmp_path)
    assert retrain(tmp_path, log, now=NOW - 365 * DAY_S).reason == "clock"  # since the last attempt
    assert (in_use(tmp_path), learning.history(tmp_path).last) == (used, "clock")


def test_broken_rails_leave_the_old_model_and_are_named(tmp_path: Path, log: DecisionLog, store: ExampleStore) -> None:
    """Outcomes that contradict the questions they belong to: nothing to learn, and the rails see it."""
    rng = random.Random(5)  # noqa: S311 - a simulation
    for n in range(160):
        outcome = Outcome(route=Route.ON_DEVICE, verdict=rng.choice(("good", "bad")))
        log.add(record(n, START_MIN + 150 * n, rng.randrange(16), outcome))
        store.keep(replace(example(f"{n:04}", asked(rng.choice(("garden", "code")), rng)), route=Route.ON_DEVICE), OPEN)
    report = retrain(tmp_path, log, now=NOW, store=store)
    broken = [rail.name for rail in report.rails if not rail.ok]
    assert (report.reason, report.featured, in_use(tmp_path)) == ("rails", 128, None)
    assert broken
    assert all(name in report.text for name in broken)
    assert learning.history(tmp_path).last == "rails"


def test_idle_replay_asks_each_stored_question_once_and_keeps_no_answer(
    tmp_path: Path, log: DecisionLog, store: ExampleStore
) -> None:
    store.keep(example("0000", answer="Plant it in bark."), OPEN)
    store.keep(example("0001", answer="seven"), OPEN)
    said: list[str] = []

    def ask(text: str) -> str:
        said.append(text)
        return "plant it in bark"

    assert retrain(tmp_path, log, now=NOW, store=store, ask=ask).replayed == 2
    assert [each.agrees for each in store.examples()] == [True, False]
    assert [each.answer for each in store.examples()] == ["Plant it in bark.", "seven"]  # the node's, not the local one
    assert retrain(tmp_path, log, now=NOW, store=store, ask=ask).replayed == 0
    assert len(said) == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("It is 17.", "it is 17", True), ("17", "18", False), ("", "", False), ("a b c d e", "a b c d f", True)],
)
def test_answers_agree_by_their_words(one: str, other: str, same: bool) -> None:
    assert agree(one, other) is same


def test_the_report_is_json_without_content(tmp_path: Path, log: DecisionLog) -> None:
    report = retrain(tmp_path, log, now=NOW).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert set(report) == {
        "promoted", "reason", "text", "version", "outcomes", "new", "featured", "replayed", "evidence", "rails",
    }  # fmt: skip
