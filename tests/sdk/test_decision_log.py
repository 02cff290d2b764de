"""The decision log on disk: private, shared, forgotten in time, never in an answer's way, and without content."""

import base64
import os
import sqlite3
import subprocess
import sys
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from hybrid.client import Client
from hybrid.decision_log import DAYS, FILE, MARK, MOST_PENDING, VERSION, DecisionLog, DecisionLogWarning
from hybrid.errors import ConfigurationError, HybridError
from hybrid.routing.budget import COSTS, Budget, threshold
from hybrid.routing.log import DecisionRecord, Outcome, two_digits
from hybrid.sources import Source
from hybrid.testing import FakeEngine
from hybrid.wire.errors import ErrorCode
from hybrid.wire.types import Route
from tests.routing.cases import HARD as SCRIPTED_HARD
from tests.routing.cases import SIMPLE, route
from tests.support import EASY, HARD, Bench

DAY_S = 86_400
NOW = 1_795_296_000.0


def record(name: str, *, at: float = NOW, hard: bool = False, **outcome: Any) -> DecisionRecord:
    decision = route(SCRIPTED_HARD if hard else SIMPLE)
    return DecisionRecord.of(decision, id=name, at=at, chars=100, outcome=Outcome(**outcome))


def open_log(folder: Path | None, **given: Any) -> DecisionLog:
    return DecisionLog(folder, **{"now": lambda: NOW, **given})


def ids(log: DecisionLog) -> list[str]:
    return [row.id for row in log.rows()]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with closing(open_log(tmp_path / "state")) as opened:
        yield opened


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def on_disk(folder: Path) -> bytes:
    """Every byte of the database, its journals and whatever else lies there."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# --- rows -------------------------------------------------------------------------------------------------------------


def test_nothing_is_made_before_there_is_something_to_keep(tmp_path: Path) -> None:
    log = open_log(tmp_path / "state")
    assert (log.rows(), log.share(), log.purge(), log.purge(everything=True)) == ([], None, 0, 0)
    assert log.standing(Budget(share=0.2)) == Budget(share=0.2)
    assert (threshold(log.budget(Budget(share=0.2))), log.share()) == (0.8, None)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_rows_come_back_as_they_were_added_oldest_first(log: DecisionLog) -> None:
    late, early = record("late"), record("early", at=NOW - 3600)
    assert (log.add(late), log.add(early)) == ("late", "early")
    assert log.rows() == [early, late]
    assert log.rows(NOW - 60) == [late]


def test_the_file_and_what_lies_beside_it_are_their_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    before = os.umask(0)
    try:
        log = open_log(folder)
        log.add(record("one"))
        assert {mode(path) for path in folder.iterdir()} == {0o600}
        assert (mode(folder), mode(folder.parent)) == (0o700, 0o700)
        log.close()
    finally:
        os.umask(before)
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_what_became_of_an_answer_joins_its_row_in_place(log: DecisionLog) -> None:
    log.add(record("one"))
    log.add(record("two"))
    assert log.outcome("one", Outcome(route=Route.ON_DEVICE, seconds=1.234))
    assert log.outcome("one", Outcome(reasked=True))
    assert ids(log) == ["one", "two"]
    assert log.rows()[0].outcome == Outcome(route=Route.ON_DEVICE, seconds=1.3, reasked=True)
    assert log.rows()[1].outcome == Outcome()
    assert not log.outcome("three", Outcome(verdict="bad"))


def test_without_a_folder_rows_live_as_long_as_the_process(tmp_path: Path) -> None:
    with closing(open_log(None)) as log:
        log.add(record("one"))
        assert log.outcome("one", Outcome(verdict="good"))
        assert (ids(log), log.path) == (["one"], None)
        assert log.step(Budget(share=0.2), score=0.9, floor=0.75).t == pytest.approx(0.816)
    assert list(tmp_path.iterdir()) == []


# --- several processes ------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from hybrid.decision_log import DecisionLog
from hybrid.routing.budget import Budget
from hybrid.routing.log import Outcome
from tests.sdk.test_decision_log import NOW, record
log = DecisionLog(Path(sys.argv[1]), now=lambda: NOW)
for n in range(int(sys.argv[3])):
    log.add(record(f"{sys.argv[2]}-{n}"))
    log.outcome(f"{sys.argv[2]}-{n}", Outcome(reasked=True))
    log.step(Budget(share=0.0), score=0.9, floor=0.0, sent=n % 2 == 0)
if sys.argv[4] == "close":
    log.close()
else:
    import os
    os._exit(9)
"""


def writer(folder: Path, name: str, rows: int, how: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-W", "error", "-c", WRITER, str(folder), name, str(rows), how])


def test_processes_that_write_at_the_same_time_lose_no_row(tmp_path: Path) -> None:
    writers = [writer(tmp_path, f"w{n}", 20, "close") for n in range(3)]
    assert [process.wait() for process in writers] == [0, 0, 0]
    with closing(open_log(tmp_path)) as log:
        rows = log.rows()
    assert len(rows) == 60
    assert all(row.outcome.reasked for row in rows)


def test_a_process_that_is_killed_leaves_what_it_had_written(tmp_path: Path) -> None:
    assert writer(tmp_path, "w", 5, "crash").wait() == 9
    with closing(open_log(tmp_path)) as log:
        assert len(log.rows()) == 5


def test_while_another_process_holds_the_file_rows_wait_and_are_written_later(tmp_path: Path) -> None:
    with closing(open_log(tmp_path)) as log, closing(sqlite3.connect(tmp_path / FILE)) as other:
        log.add(record("before"))
        other.execute("BEGIN IMMEDIATE")
        log.add(record("meanwhile"))
        assert log.outcome("meanwhile", Outcome(verdict="bad"))
        assert log.trouble is None  # nothing is lost yet
        other.rollback()
        log.add(record("after"))
        assert ids(log) == ["before", "meanwhile", "after"]
        assert log.rows()[1].outcome.verdict == "bad"


def test_what_a_turn_asks_of_the_log_is_answered_while_another_process_writes(tmp_path: Path) -> None:
    with closing(open_log(tmp_path)) as log, closing(sqlite3.connect(tmp_path / FILE)) as other:
        log.add(record("one", hard=True))
        log.step(Budget(share=0.2), score=0.9, floor=0.75)
        other.execute("BEGIN IMMEDIATE")
        assert log.share() == 1.0
        assert threshold(log.budget(Budget(share=0.2))) == pytest.approx(0.816)


def test_rows_that_can_be_written_by_nobody_are_not_lost_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid.decision_log.LAST_PATIENCE_S", 0.01)
    log = open_log(tmp_path)
    log.add(record("before"))
    with closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("BEGIN IMMEDIATE")
        log.add(record("meanwhile"))
        with pytest.warns(DecisionLogWarning, match=r"held by another process; decisions could not be logged \(1\)"):
            log.close()


def test_a_forked_child_uses_a_connection_of_its_own(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.add(record("parent"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        child = os.fork()
    if child == 0:
        with suppress(BaseException):
            log.add(record("child"))
            log.close()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    log.add(record("again"))
    assert ids(log) == ["parent", "child", "again"]
    log.close()


def test_a_forked_child_loses_nothing_when_its_parent_closes(tmp_path: Path) -> None:
    """SQLite's own table of locks goes over a fork, the locks do not: the file would be taken from under the child."""
    log = open_log(tmp_path)
    log.add(record("parent"))
    (theirs, ours), (mine, yours) = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        with suppress(BaseException):
            log.add(record("child"))
            os.write(yours, b"x")
            os.read(theirs, 1)
            for number in range(5):
                log.add(record(f"later{number}"))
            log.close()
            os._exit(0)
        os._exit(1)
    os.read(mine, 1)
    log.close()
    os.write(ours, b"x")
    assert os.waitpid(child, 0)[1] == 0
    for end in (theirs, ours, mine, yours):
        os.close(end)
    with closing(open_log(tmp_path)) as again:
        assert ids(again) == ["parent", "child", *(f"later{number}" for number in range(5))]


READ_ONCE = """
import sys
from pathlib import Path
from hybrid.decision_log import DecisionLog
log = DecisionLog(Path(sys.argv[1]))
print(len(list(log.rows())))
log.close()
"""


def test_two_logs_of_one_process_lose_nothing_to_another_process(tmp_path: Path) -> None:
    """Whoever opens and closes a descriptor of the file drops the locks of every connection in the process."""
    one, two = open_log(tmp_path), open_log(tmp_path)
    with closing(one), closing(two):
        one.add(record("one"))
        two.add(record("two"))
        counts = []
        for number in range(3):
            counts.append(int(subprocess.check_output([sys.executable, "-c", READ_ONCE, str(tmp_path)])))
            one.add(record(f"more{number}"))
        assert counts == [2, 3, 4]
    with closing(open_log(tmp_path)) as again:
        assert ids(again) == ["one", "two", "more0", "more1", "more2"]


def test_a_file_that_somebody_removes_is_made_anew(log: DecisionLog) -> None:
    log.add(record("gone"))
    assert log.path is not None
    for path in log.path.parent.iterdir():
        path.unlink()
    log.add(record("here"))
    assert log.path.exists()
    assert ids(log) == ["here"]


# --- forgetting -------------------------------------------------------------------------------------------------------


def test_rows_go_when_they_are_past_their_time(tmp_path: Path) -> None:
    clock = [NOW]
    with closing(DecisionLog(tmp_path, now=lambda: clock[0])) as log:
        log.add(record("old", at=NOW - DAYS * DAY_S - 120))
        log.add(record("kept", at=NOW - DAYS * DAY_S + 120))
        assert log.purge() == 0  # the first write of a day has seen to it
        assert ids(log) == ["kept"]
        clock[0] += DAY_S
        log.add(record("new", at=clock[0]))
        assert ids(log) == ["new"]


def test_another_retention_is_obeyed(tmp_path: Path) -> None:
    with closing(open_log(tmp_path)) as log:
        log.add(record("old", at=NOW - 8 * DAY_S))
    with closing(open_log(tmp_path, days=7)) as log:
        assert log.purge() == 1


def test_the_oldest_rows_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.decision_log.MOST_ROWS", 3)
    with closing(open_log(tmp_path)) as log:
        for n in range(5):
            log.add(record(f"r{n}"))
        assert log.purge() == 2
        assert ids(log) == ["r2", "r3", "r4"]


def test_what_is_purged_leaves_the_file(tmp_path: Path) -> None:
    with closing(open_log(tmp_path)) as log:
        for n in range(200):
            log.add(record(f"Needle-{n}"))
        log.step(Budget(share=0.2), score=0.9, floor=0.7)
        assert b"Needle" in on_disk(tmp_path)
        assert log.purge(everything=True) == 200
        assert b"Needle" not in on_disk(tmp_path)
        assert threshold(log.budget(Budget(share=0.2))) == 0.8
        assert log.rows() == []


def test_without_overwriting_it_would_not_so_that_the_check_above_means_something(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "plain.db")) as plain:
        plain.execute("PRAGMA secure_delete = OFF")
        plain.execute("CREATE TABLE t (id)")
        plain.executemany("INSERT INTO t VALUES (?)", [(f"Needle-{n}",) for n in range(200)])
        plain.commit()
        plain.execute("DELETE FROM t")
        plain.commit()
    assert b"Needle" in on_disk(tmp_path)


# --- trouble never harms an answer ------------------------------------------------------------------------------------


def damaged(path: Path) -> None:
    path.write_bytes(b"this is no database, and somebody may want to look at it " * 100)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE decisions (id)")
        other.execute("PRAGMA application_id = 7")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA application_id = {MARK}")
        other.execute(f"PRAGMA user_version = {VERSION + 1}")


def no_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA application_id = {MARK}")
        other.execute(f"PRAGMA user_version = {VERSION}")


BROKEN = [damaged, foreign, newer, no_table]


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_a_file_that_is_none_of_ours_is_left_alone_and_told_once(
    tmp_path: Path, breaks: Callable[[Path], None]
) -> None:
    path = tmp_path / FILE
    breaks(path)
    before = path.read_bytes()
    log = open_log(tmp_path)
    with pytest.warns(DecisionLogWarning, match="hybrid logs --purge --all"):
        assert log.add(record("r0")) == "r0"
    assert [log.add(record(f"r{n}")) for n in (1, 2)] == ["r1", "r2"]  # a second warning would be an error here
    assert log.outcome("r1", Outcome(verdict="bad"))
    assert log.step(Budget(share=0.2), score=0.9, floor=0.7).t == pytest.approx(0.816)
    assert threshold(log.budget(Budget(share=0.2))) == pytest.approx(0.816)
    log.close()
    assert isinstance(log.trouble, ConfigurationError)
    assert path.read_bytes() == before
    with pytest.raises(ConfigurationError, match="cannot be read"):
        open_log(tmp_path).rows()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        open_log(tmp_path).purge()


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_removing_everything_starts_anew(tmp_path: Path, breaks: Callable[[Path], None]) -> None:
    breaks(tmp_path / FILE)
    with closing(open_log(tmp_path)) as log:
        log.purge(everything=True)
        log.add(record("new"))
        assert ids(log) == ["new"]


def test_a_row_that_somebody_changed_is_said_to_be_broken(tmp_path: Path) -> None:
    with closing(open_log(tmp_path)) as log:
        log.add(record("one"))
    with closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("UPDATE decisions SET route = 'mars'")
        other.commit()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        open_log(tmp_path).rows()


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    log = open_log(tmp_path / "file" / "state")
    with pytest.warns(DecisionLogWarning, match="HYBRID_STATE"):
        log.add(record("one"))
    log.add(record("two"))
    log.close()


def test_a_full_disk_costs_no_row_once_there_is_room_again(log: DecisionLog) -> None:
    log.add(record("before"))
    connection = log._file._db
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    log._pending = {f"r{n}": record(f"r{n}") for n in range(400)}
    with pytest.warns(DecisionLogWarning, match="full"):
        log.add(record("last"))
    assert len(log.rows()) == 402  # the file was opened anew, without the limit


def test_rows_that_wait_are_bounded(tmp_path: Path) -> None:
    damaged(tmp_path / FILE)
    told: list[ConfigurationError] = []
    log = open_log(tmp_path, on_trouble=told.append)
    one = record("r")
    log._pending = {f"r{n}": one for n in range(MOST_PENDING + 5)}
    log.add(record("last"))
    assert len(log._pending) == MOST_PENDING
    assert len(told) == 1


def test_where_warnings_are_errors_no_answer_fails_for_it(tmp_path: Path) -> None:
    damaged(tmp_path / FILE)
    log = open_log(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert log.add(record("one")) == "one"
    assert log.trouble is not None


def test_a_client_answers_although_its_log_is_broken(tmp_path: Path) -> None:
    damaged(tmp_path / FILE)
    with Client(**Bench().options(state=tmp_path)) as client:
        with pytest.warns(DecisionLogWarning):
            assert client.ask(EASY).text
        assert client.ask(HARD).route is Route.PRIVATE_CLOUD


# --- the budget's number ----------------------------------------------------------------------------------------------


def test_the_controllers_number_survives_the_process(tmp_path: Path) -> None:
    with closing(open_log(tmp_path)) as log:
        log.step(Budget(share=0.2), score=0.9, floor=0.75)
    with closing(open_log(tmp_path)) as log:
        assert threshold(log.budget(Budget(share=0.2))) == pytest.approx(0.816)
        assert log.standing(Budget(share=0.2)).t == pytest.approx(0.816)


def test_the_realised_share_counts_what_might_have_gone(log: DecisionLog) -> None:
    for n in range(4):
        log.add(record(f"r{n}", hard=n == 0))
    log.add(DecisionRecord.of(route(SCRIPTED_HARD, mode="only_on_device"), id="pinned", at=NOW, chars=1))  # type: ignore[arg-type]
    assert log.share() == 0.25


def test_money_is_turned_into_a_share_by_what_the_last_requests_cost(log: DecisionLog) -> None:
    monthly = Budget(money_per_month=3.0)
    assert log.budget(monthly).share is None
    for n in range(10):
        log.add(record(f"r{n}", at=NOW - n * DAY_S, hard=True, route=Route.PRIVATE_CLOUD, money=0.1))
    # ten eligible requests in nine days are 33 a month; at 0.1 each, 3 pays for 90 of 100
    assert log.budget(monthly).share == pytest.approx(0.9, abs=0.01)


def test_the_mean_cost_is_that_of_the_newest_requests(log: DecisionLog) -> None:
    for n in range(COSTS + 10):
        paid = 0.1 if n >= 10 else 100.0
        log.add(record(f"r{n}", hard=True, route=Route.PRIVATE_CLOUD, money=paid))
    # all within a day, so 6,300 a month; at 0.1 each, 63 pays for a tenth
    assert log.budget(Budget(money_per_month=63.0)).share == pytest.approx(0.1)


@pytest.mark.parametrize("affordable", [True, False], ids=["rich", "poor"])
def test_money_limits_what_goes_from_the_price_to_the_route(tmp_path: Path, *, affordable: bool) -> None:
    """Price -> the node's usage -> money in the log -> mean cost -> share -> threshold -> decision."""
    monthly = Budget(money_per_month=1e6 if affordable else 1e-3)
    given = Bench().options(state=tmp_path, threshold=0.5, price=1.0, budget=monthly)
    with Client(**given) as client:
        replies = [client.ask(HARD) for _ in range(2)]
        paid = [row.outcome.money for row in client_rows(tmp_path)]
        used = replies[0].usage
        assert replies[0].route is Route.PRIVATE_CLOUD  # before anything has cost, nothing is limited
        assert paid[0] == two_digits((used.input + used.output) / 1000)
        decision = client.explain(HARD)
    assert decision.signals["budget"]["share"] == pytest.approx(1.0 if affordable else 0.0, abs=1e-3)
    assert (decision.route, "budget" in decision.codes) == (
        (Route.PRIVATE_CLOUD, False) if affordable else (Route.ON_DEVICE, True)
    )


@pytest.mark.parametrize("lifted", [True, False], ids=["lifted", "just again"])
def test_what_is_asked_again_because_a_label_held_it_is_no_complaint(tmp_path: Path, *, lifted: bool) -> None:
    question = "write a letter to anna.smith@rubyvault.com about the garden"
    with Client(**Bench().options(state=tmp_path)) as client:
        session = client.session()
        session.ask(question)
        session.undo()
        session.ask(question, cleared=["prompt"] if lifted else [])
    first, second = client_rows(tmp_path)
    assert first.outcome.reasked is not lifted
    assert ("user_cleared" in second.reasons) is lifted


# --- R10: no content --------------------------------------------------------------------------------------------------

CANARY = "Zebra-Quark-7731"


def traces(text: str) -> dict[str, bytes]:
    """How a text could lie in a file: clear, lower case, hex, percent-encoded, base64 at each of its three places."""
    raw = text.encode()
    found = {"clear": raw, "lower": raw.lower(), "upper": raw.upper(), "hex": raw.hex().encode()}
    found |= {"HEX": raw.hex().upper().encode(), "percent": urllib.parse.quote(text, safe="").encode()}
    found |= {
        "every byte percent": "".join(f"%{byte:02X}" for byte in raw).encode(),
        "utf-16": text.encode("utf-16-le"),
    }
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + raw + b"\0" * 3)
        found[f"base64 at {shift}"] = whole[4 if shift else 0 : len(whole) - 8]
    return found


def found_in(data: bytes, texts: list[str]) -> list[str]:
    return [f"{text}: {how}" for text in texts for how, trace in traces(text).items() if trace in data]


class Looker:
    """Reads the log's folder at every event, so that nothing is there for a moment only."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, set[bytes]()

    def __call__(self, _: object = None) -> None:
        self.seen.add(b"\0".join(p.read_bytes() for p in self.folder.glob(f"{FILE}*")))


def test_no_path_leaves_content_in_the_log(tmp_path: Path) -> None:
    bench, look = Bench(device=FakeEngine([f"{CANARY}-answer"])), Looker(tmp_path)
    given = bench.options(state=tmp_path, on_event=look, max_retries=0, deny=[f"{CANARY}-denied"], explore=0.02)
    with Client(**given) as client:
        session = client.session()
        calls: list[Callable[[str], Any]] = [
            lambda c: client.ask(f"{EASY} {c}"),
            lambda c: client.ask(f"{HARD} {c}"),
            lambda c: client.ask(f"{HARD} {c}", sources=[Source.text(f"{c} source", label=f"{c} label")]),
            lambda c: client.ask(f"{HARD} {c}", sources=[Source.text(c, label=c, max_route="on_device")]),
            lambda c: client.ask(f"my card is 4111 1111 1111 1111 {c}"),
            lambda c: client.ask(f"my card is 4111 1111 1111 1111 {c}", cleared=("prompt",)),
            lambda c: client.ask(f"{HARD} {CANARY}-denied {c}"),
            lambda c: client.ask(c, policy="only_private_cloud"),
            lambda c: client.ask(c, policy="only_on_device"),
            client.explain,
            lambda c: list(client.stream(f"{HARD} {c}")),
            lambda c: session.ask(f"{HARD} {c}"),
            lambda c: session.ask(f"{HARD} {c}"),
            lambda c: client.feedback(client.ask(c).request_id, "bad"),
        ]
        for number, call in enumerate(calls):
            for fault in (None, ErrorCode.REJECTED, "cut_stream"):
                bench.node.fault = fault
                with suppress(HybridError):
                    call(f"{CANARY}-{number}-{fault}")
                look()
        kept = {(row.route, row.reasons[0]) for row in client_rows(tmp_path)}
    look()
    assert {("on_device", "label"), ("on_device", "recognised"), ("private_cloud", "complex")} <= kept
    texts = [CANARY, HARD[:40], "4111 1111 1111 1111", "4111111111111111"]
    assert [hit for data in look.seen for hit in found_in(data, texts)] == []


def client_rows(folder: Path) -> list[DecisionRecord]:
    with closing(DecisionLog(folder)) as log:
        return log.rows()


@pytest.mark.parametrize("how", list(traces(CANARY)))
def test_the_search_finds_content_however_it_were_written(tmp_path: Path, how: str) -> None:
    with closing(open_log(tmp_path)) as log:
        log.add(record("one"))
        connection = log._file._db
        assert connection is not None
        connection.execute("UPDATE decisions SET mode = ?", (b"before " + traces(CANARY)[how] + b" after",))
        assert f"{CANARY}: {how}" in found_in(on_disk(tmp_path), [CANARY])


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with closing(DecisionLog(tmp_path)) as log:
            log.add(record(name))
        assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
        (tmp_path / FILE).chmod(0o644)
