"""The ledger: exactly once, all or nothing, and whole after a kill at any time."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.errors import ConfigError
from swarm.ledger import Ask, Ledger
from swarm.types import Prompt


def prompt(number: int) -> Prompt:
    return Prompt(f"p{number}", f"question {number}é?", None, "sums", {"seed": number}, "be brief")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(tmp_path / "ledger.sqlite")) as opened:
        yield opened


def pool(ledger: Ledger, *tickets: int, attempt: int = 0) -> None:
    for ticket in tickets:
        ledger.asked(ticket, attempt, prompt(ticket), {"at": ticket + 1})
        ledger.pooled(ticket, attempt, 4.0)


def test_a_second_training_of_a_ticket_in_a_lineage_is_impossible(ledger: Ledger) -> None:
    pool(ledger, 0)
    ledger.trained(0, 1, [0])
    pool(ledger, 0, attempt=1)  # a wrong caller asks a trained ticket again
    with pytest.raises(sqlite3.IntegrityError):
        ledger.trained(0, 2, [0])
    assert ledger.counts()["duplicated"] == 0
    assert ledger.last_step(0) == 1
    ledger.trained(1, 2, [0])  # in another lineage these are other weights
    assert ledger.lineage() == 1


def test_the_chain_is_the_newest_lineage_and_what_it_came_from(ledger: Ledger) -> None:
    assert ledger.chain() == {}
    for ticket, (lineage, step) in enumerate([(0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 2), (2, 3)]):
        pool(ledger, ticket)
        ledger.trained(lineage, step, [ticket])
    assert ledger.chain() == {1: 0, 2: 2, 3: 2}  # step 4 was trained twice, and lost


@pytest.mark.parametrize("bad", [7, 2])
def test_a_batch_is_trained_whole_or_not_at_all(ledger: Ledger, bad: int) -> None:
    pool(ledger, 0, 1)
    ledger.asked(2, 0, prompt(2), {})
    with pytest.raises(ValueError, match=f"ticket {bad} has 0 pooled groups"):
        ledger.trained(0, 1, [0, 1, bad])
    assert ledger.pooled_tickets() == {0, 1}
    assert ledger.last_step(0) == 0
    with pytest.raises(ValueError, match="ticket 0"):
        ledger.trained(0, 1, [0, 0])
    ledger.trained(0, 1, [0, 1])
    assert (ledger.pooled_tickets(), ledger.last_step(0)) == (set(), 1)


def test_what_an_earlier_process_left_open_is_asked_again_with_its_prompt_and_next_attempt(ledger: Ledger) -> None:
    pool(ledger, 0, 1, 2)
    ledger.trained(0, 1, [0])
    ledger.asked(3, 0, prompt(3), {"at": 4})
    ledger.asked(4, 0, prompt(4), {"at": 5})
    ledger.failed(4, 0, "no power")
    ledger.asked(4, 1, prompt(4), {"at": 5})
    ledger.asked(5, 0, prompt(5), {"at": 6})
    ledger.dropped(5, 0, "too long")
    ledger.asked(6, 0, prompt(6), {"at": 7}, 16)
    ledger.asked(7, 0, prompt(7), {"at": 8}, 16)
    ledger.skipped(7, 0, 3.0, {"at": 8})
    again = [Ask(1, 1, prompt(1)), Ask(3, 1, prompt(3)), Ask(4, 2, prompt(4)), Ask(5, 1, None)]
    again += [Ask(6, 1, prompt(6), 16), Ask(7, 1, None)]
    assert ledger.unfinished(kept={2}) == again
    assert ledger.pooled_tickets() == {2}
    assert ledger.causes() == {"its process ended": 4, "no power": 1, "too long": 1}
    assert [ask.ticket for ask in ledger.unfinished(kept={2})] == [1, 3, 4, 5, 6, 7]
    assert [ask.ticket for ask in ledger.unfinished()] == [1, 2, 3, 4, 5, 6, 7]


def test_position_is_the_first_new_ticket_and_the_newest_cursor(ledger: Ledger) -> None:
    assert ledger.position() == (0, None)
    ledger.asked(0, 0, prompt(0), {"at": 1})
    ledger.asked(1, 0, prompt(1), {"at": 2})
    ledger.failed(0, 0, "x")
    ledger.asked(0, 1, prompt(2), {"at": 3})
    assert ledger.position() == (2, {"at": 3})


def test_what_the_stream_was_told_is_written_with_what_it_was_told_of_or_not_at_all(ledger: Ledger) -> None:
    pool(ledger, 0, 1)
    ledger.trained(0, 1, [0], {"at": 2, "told": 1})
    assert ledger.position() == (2, {"at": 2, "told": 1})
    with pytest.raises(ValueError, match="ticket 7"):
        ledger.trained(0, 2, [1, 7], {"at": 2, "told": 2})
    with pytest.raises(ValueError, match="not open"):
        ledger.skipped(0, 0, 1.0, {"at": 2, "told": 3})
    assert ledger.position() == (2, {"at": 2, "told": 1})
    ledger.skipped(1, 0, 1.0, {"at": 2, "told": 4})
    assert ledger.position() == (2, {"at": 2, "told": 4})


def test_a_skipped_group_is_counted_is_no_failure_and_its_ticket_is_not_lost(ledger: Ledger) -> None:
    ledger.asked(0, 0, prompt(0), {})
    ledger.skipped(0, 0, 9.0, {})
    expected = {"asked": 1, "trained": 0, "waiting": 1, "failed": 0, "dropped": 0, "skipped": 1}
    assert ledger.counts() == expected | {"duplicated": 0, "lost": 0}
    pool(ledger, 0, attempt=1)
    ledger.trained(0, 1, [0])
    assert ledger.counts() == expected | {"trained": 1, "waiting": 0, "duplicated": 0, "lost": 0}
    assert ledger.causes() == {}
    assert ledger.lengths() == ([4.0], [9.0, 4.0])


def test_counts_add_up_and_see_a_lost_ticket(ledger: Ledger) -> None:
    pool(ledger, 0, 1)
    ledger.trained(0, 1, [0])
    ledger.asked(3, 0, prompt(3), {})
    ledger.failed(3, 0, "x")
    expected = {
        "asked": 3,
        "trained": 1,
        "waiting": 2,
        "failed": 1,
        "dropped": 0,
        "skipped": 0,
        "duplicated": 0,
        "lost": 1,
    }
    assert ledger.counts() == expected


def test_lengths_of_what_was_trained_are_among_those_of_all_that_finished(ledger: Ledger) -> None:
    for ticket, length in enumerate([2.0, 4.0, 9.0]):
        ledger.asked(ticket, 0, prompt(ticket), {})
        ledger.pooled(ticket, 0, length)
    ledger.trained(0, 1, [0, 1])
    ledger.unfinished()  # the third is forfeited, and stays in the count of those that finished
    assert [sorted(lengths) for lengths in ledger.lengths()] == [[2.0, 4.0], [2.0, 4.0, 9.0]]


def test_only_an_open_attempt_moves(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="ticket 0, attempt 0: not open"):
        ledger.pooled(0, 0, 1.0)
    pool(ledger, 0)
    ledger.trained(0, 1, [0])
    with pytest.raises(ValueError, match="not open"):
        ledger.failed(0, 0, "too late")
    with pytest.raises(sqlite3.IntegrityError):
        ledger.asked(0, 0, prompt(0), {})


def test_a_copy_is_whole_while_the_ledger_is_in_use_and_replaces_nothing_in_it(ledger: Ledger, tmp_path: Path) -> None:
    pool(ledger, 0, 1)
    ledger.trained(0, 1, [0, 1])
    ledger.asked(2, 0, prompt(2), {"at": 3})
    taken = ledger.snapshot()
    ledger.pooled(2, 0, 1.0)
    ledger.sync()
    (tmp_path / "copy.sqlite").write_bytes(taken)
    with contextlib.closing(Ledger(tmp_path / "copy.sqlite")) as copy:
        assert copy.last_step(0) == 1
        assert [ask.ticket for ask in copy.unfinished()] == [2]
    assert ledger.pooled_tickets() == {2}


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be read as one" * 40, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_ledger_is_a_config_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a ledger"):
        Ledger(path)


def test_a_database_of_something_else_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("create table asks (id integer)")
    with pytest.raises(ConfigError, match="not a ledger"):
        Ledger(path)


WRITER = """
import sys
from pathlib import Path
from swarm.ledger import Ledger
from swarm.types import Prompt
ledger = Ledger(Path(sys.argv[1]))
ticket, (_, step) = ledger.position()[0], (0, ledger.last_step(0))
for ask in ledger.unfinished():
    ledger.asked(ask.ticket, ask.attempt, ask.prompt, {"at": 0})
    ledger.pooled(ask.ticket, ask.attempt, 1.0)
while True:
    for _ in range(4):
        ledger.asked(ticket, 0, Prompt(f"p{ticket}", "x" * 200), {"at": ticket})
        ledger.pooled(ticket, 0, 1.0)
        ticket += 1
    step += 1
    ledger.trained(0, step, sorted(ledger.pooled_tickets())[:4])
    print(step, flush=True)
"""


def test_a_ledger_whose_writer_is_killed_opens_again_and_is_consistent(tmp_path: Path) -> None:
    path, rng = tmp_path / "ledger.sqlite", random.Random(5)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(rng.randrange(1, 40))]
            writer.send_signal(signal.SIGKILL)
        with contextlib.closing(Ledger(path)) as ledger, contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("pragma integrity_check").fetchone() == ("ok",)
            assert ledger.last_step(0) >= said[-1]
            counts = ledger.counts()
            assert counts["trained"] == 4 * ledger.last_step(0)
            assert counts["duplicated"] == counts["lost"] == 0
            pooled = ledger.pooled_tickets()
            assert counts["waiting"] == len(pooled) + len(ledger.unfinished(kept=pooled))
