"""What a person sees while a run goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from run_folders import step, usage

from cluster.view import LiveView, PlainView, event_line, make_view


def console(width: int = 80, terminal: bool = False, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=file, width=width, force_terminal=terminal, record=True, legacy_windows=False)


def text_of(view: LiveView, width: int = 80) -> str:
    screen = console(width)
    screen.print(view.render())
    return screen.export_text()


def feed(view: LiveView | PlainView, steps: int = 12) -> None:
    view("phase", {"text": "asking 40 held-out questions", "run_s": 5.0})
    view("evaluated", {"step": 0, "accuracy": 0.1, "questions": 40, "when": "before", "run_s": 9.0})
    for number in range(1, steps + 1):
        view("step", step(number, 10.0 + 3 * number, reward=number / 20))
        view("synced", {"step": number, "pause_s": 0.1 * number, "run_s": 10.0 + 3 * number})
    view("evaluated", {"step": 10, "accuracy": 0.45, "questions": 20, "run_s": 44.0})
    view("usage", {"workers": usage(30.0), "run_s": 45.0})
    view("died", {"worker": "actor-0", "pid": 7, "cause": "[red]line one\nline two " + "x" * 200, "run_s": 46.0})


def test_the_live_panel_shows_all_that_a_person_asks_for_within_80_columns():
    view = LiveView(console(terminal=True), steps=20)
    feed(view)
    shown = text_of(view)
    assert max(map(len, shown.splitlines())) <= 80
    wanted = ["12/20", "60%", "0.600", "from 0.050", "0.450 of 20", "before 0.10", "mean 0.75, largest 2"]
    wanted += ["400 tokens/s", "300 trained", "steps 60%", "waits 20%", "syncs 15%", "busy 70%", "idle 25%"]
    wanted += ["paused 5%", "650 ms median, 1200 ms worst", "about 0:24 left", "[red]line one line two"]
    assert [words for words in wanted if words not in shown] == []


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_live_panel_fits_its_terminal(width):
    view = LiveView(console(width, terminal=True), steps=20)
    feed(view)
    assert max(map(len, text_of(view, width).splitlines())) <= width


def test_the_live_panel_can_be_drawn_before_anything_is_known():
    assert "0/5" in text_of(LiveView(console(terminal=True), steps=5))


def test_a_phase_is_shown_until_the_next_step():
    view = LiveView(console(terminal=True), steps=5)
    view("phase", {"text": "starting Ray"})
    assert "now       starting Ray" in text_of(view)
    view("step", step(1, 1.0))
    assert "now       starting Ray" not in text_of(view)


def test_the_last_state_stays_on_screen():
    screen = console(terminal=True)
    with LiveView(screen, steps=12) as view:
        feed(view)
    screen.file.flush()
    tail = screen.file.buffer.getvalue().decode()[-6000:]  # type: ignore[attr-defined]
    assert "12/12" in tail
    assert "100%" in tail
    assert "about" not in tail.rpartition("elapsed")[2]


def test_an_error_inside_the_block_passes_through_and_is_named():
    with pytest.raises(RuntimeError), LiveView(console(terminal=True), steps=5) as view:
        raise RuntimeError("boom")
    assert "ended by RuntimeError" in text_of(view)


def test_a_terminal_with_a_small_character_set_gets_only_its_characters():
    screen = console(terminal=True, encoding="ascii")
    with LiveView(screen, steps=20) as view:
        feed(view)
    screen.file.flush()  # would have raised UnicodeEncodeError
    assert b"12/20" in screen.file.buffer.getvalue()  # type: ignore[attr-defined]


def test_speed_and_time_left_start_anew_with_a_lineage():
    view = LiveView(console(terminal=True), steps=20)
    for record in (step(5, 10.0), step(6, 20.0), step(5, 100.0)):
        view("step", record)
    assert "left" not in text_of(view)
    view("step", step(6, 101.0))
    assert "about 0:14 left" in text_of(view)


def test_plain_lines_are_one_for_each_step_and_event():
    screen = console()
    with PlainView(screen, steps=20) as view:
        feed(view)
    lines = screen.export_text().splitlines()
    assert len(lines) == 12 + 4  # steps; phase, two evaluations, a death: syncs and usage are figures, not lines
    assert lines[2] == "[ 0:13] step 1/20  reward 0.050  lag 0.8/0  step 60% wait 20% sync 15%"
    assert "step 12/20  reward 0.600  lag 0.8/2  400 tok/s  step 60% wait 20% sync 15%  left 0:24" in lines[13]
    assert "[red]line one line two" in lines[-1]


def test_a_step_without_any_reward_is_shown_as_such():
    screen = console()
    PlainView(screen, steps=3)("step", step(1, 1.0, reward=None))
    assert "reward -" in screen.export_text()


def test_an_unknown_event_is_shown_with_its_facts():
    assert event_line("tuned", {"event": "tuned", "at": 1, "run_s": 2, "rewarder": "x"}) == "tuned: rewarder x"


def test_a_rewarder_without_verdicts_is_told_of_in_words():
    facts = {"rewarder": "judge", "without": 30, "of": 50, "statuses": {"timeout": 30}, "cause": "no answer within 2 s"}
    line = "rewarder judge gave no value to 30 of its last 50 verdicts: no answer within 2 s"
    assert event_line("unscored", {"event": "unscored", "at": 1} | facts) == line


def test_a_terminal_gets_the_panel_and_a_pipe_gets_lines():
    assert isinstance(make_view(console(terminal=True), 3), LiveView)
    assert isinstance(make_view(console(), 3), PlainView)
