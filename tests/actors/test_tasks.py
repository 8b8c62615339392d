"""Task sources and the prompt stream."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.questions import HELD_OUT_SHARE, digest, normal, share_for
from actors.tasks import SOURCES, TaskStream, count_distinct
from swarm.config import WeightedSpec
from swarm.errors import ConfigError

SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}
SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}  # 200 questions


def spec(name: str, weight: float = 1.0, **options: Any) -> WeightedSpec:
    return WeightedSpec(name=name, weight=weight, options=options)


def gym(family: str = "chain_sum", weight: float = 1.0, **options: Any) -> WeightedSpec:
    return spec("reasoning_gym", weight, family=family, **options)


MIXTURES = [
    [gym(config=SUMS)],
    [gym(config=SMALL), gym("basic_arithmetic", 2.0)],
    [gym("letter_counting"), gym("spell_backward", 0.5), gym("propositional_logic", 0.5)],
    [gym(config=SMALL), gym(config=SMALL, template="{question} Answer with a number.")],
]

few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stream(*tasks: WeightedSpec, seed: int = 0, system: str = "") -> TaskStream:
    return TaskStream(tasks, seed=seed, system=system)


def texts(prompts: Any) -> list[str]:
    return [prompt.text for prompt in prompts]


def take(source: TaskStream, num: int) -> list[Any]:
    return [source.next() for _ in range(num)]


def write_jsonl(place: Path, rows: list[Any]) -> str:
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(place)


@pytest.fixture
def table(tmp_path: Path) -> str:
    rows = [{"prompt": f"What is {n} doubled?", "answer": 2 * n, "level": n % 3} for n in range(60)]
    return write_jsonl(tmp_path / "doubles.jsonl", rows)


def problems_of(*tasks: WeightedSpec) -> str:
    with pytest.raises(ConfigError) as caught:
        stream(*tasks)
    return str(caught.value)


def test_two_sources_of_one_family_have_names_of_their_own() -> None:
    source = stream(gym(config=SMALL), gym(config=SUMS), gym("letter_counting"))
    assert source.names == ["chain_sum", "chain_sum-2", "letter_counting"]
    prompts = [*take(source, 60), *source.held_out(20)]
    assert {p.source for p in prompts} == set(source.names)
    for prompt in prompts:
        assert prompt.task["config"] == (SMALL if prompt.source == "chain_sum" else SUMS) or "letter" in prompt.source


def test_weights_for_one_draw_change_nothing_about_the_next() -> None:
    one, other = stream(gym(config=SMALL), gym("letter_counting")), stream(gym(config=SMALL), gym("letter_counting"))
    assert {one.next([0.0, 1.0]).source for _ in range(20)} == {"letter_counting"}
    assert {other.next([1.0, 0.0]).source for _ in range(20)} == {"chain_sum"}
    assert [p.source for p in take(one, 30)] == [p.source for p in take(other, 30)]


@few
@given(st.sampled_from(MIXTURES), st.integers(0, 2**32))
def test_no_held_out_question_is_ever_trained_on(tasks: list[WeightedSpec], seed: int) -> None:
    source = stream(*tasks, seed=seed)
    held = {normal(text.removesuffix("Answer with a number.")) for text in texts(source.held_out(15))}
    asked = {normal(text.removesuffix("Answer with a number.")) for text in texts(take(source, 250))}
    assert held
    assert asked
    assert not held & asked


@few
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_the_split_does_not_depend_on_the_seed(one: int, other: int) -> None:
    held = stream(gym(config=SMALL), seed=one).held_out(1000)
    assert held == stream(gym(config=SMALL), seed=other).held_out(1000)
    assert not set(texts(held)) & set(texts(take(stream(gym(config=SMALL), seed=other), 300)))


def test_about_a_tenth_of_the_questions_is_held_out() -> None:
    marks = [digest(f"question {i}") / 2**64 for i in range(20_000)]
    assert sum(mark < HELD_OUT_SHARE for mark in marks) / len(marks) == pytest.approx(HELD_OUT_SHARE, abs=0.01)


def test_small_tables_hold_out_a_larger_share() -> None:
    assert share_for([None]) == share_for([None, 5000]) == HELD_OUT_SHARE
    assert share_for([80, None]) == 0.25
    assert share_for([8]) == 0.5


def test_white_space_and_unicode_form_do_not_make_another_question() -> None:
    assert digest(" What  is\n1 + 1? ") == digest("What is 1 + 1?")
    assert digest("caf\u00e9") == digest("cafe\u0301")
    assert digest("x\u00b2") != digest("x2")


def test_a_question_is_asked_once_per_epoch() -> None:
    source = stream(gym(config=SMALL))
    held = source.held_out(1000)
    epoch = take(source, 200 - len(held))
    assert len({p.id for p in epoch}) == len(epoch)
    assert source.state()["sources"][0]["epoch"] == 0
    again = take(source, 50)
    assert source.state()["sources"][0]["epoch"] == 1
    assert {p.id for p in again} <= {p.id for p in epoch}


def test_epochs_of_a_table_ask_everything_in_different_orders(table: str) -> None:
    source = stream(spec("jsonl", path=table))
    num = 60 - len(source.held_out(60))
    first, second = take(source, num), take(source, num)
    assert sorted(p.id for p in first) == sorted(p.id for p in second)
    assert len({p.id for p in first}) == num
    assert first != second


@few
@given(st.sampled_from(MIXTURES), st.integers(0, 400), st.integers(0, 99))
def test_any_cut_gives_the_same_continuation(tasks: list[WeightedSpec], cut: int, seed: int) -> None:
    whole, resumed = stream(*tasks, seed=seed), stream(*tasks, seed=seed)
    take(whole, cut)
    state = json.loads(json.dumps(whole.state()))
    assert len(json.dumps(state)) < 1000
    resumed.restore(state)
    assert take(resumed, 30) == take(whole, 30)


def test_a_cut_in_a_table_gives_the_same_continuation(table: str) -> None:
    tasks = [spec("jsonl", path=table), gym(config=SMALL)]
    whole = stream(*tasks)
    expected = take(whole, 260)
    for cut in range(0, 200, 13):
        one, other = stream(*tasks), stream(*tasks)
        take(one, cut)
        other.restore(one.state())
        assert take(other, 60) == expected[cut : cut + 60]


def test_a_position_in_other_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match="letter_counting"):
        stream(gym()).restore(stream(gym("letter_counting")).state())


def test_asking_for_held_out_questions_changes_nothing_in_training() -> None:
    one, other = stream(gym(config=SUMS)), stream(gym(config=SUMS))
    assert take(one, 5) == take(other, 5)
    one.held_out(20)
    assert take(one, 20) == take(other, 20)


def test_fewer_held_out_questions_are_the_first_of_more() -> None:
    tasks = [gym(config=SUMS), gym("letter_counting", 3.0)]
    more = stream(*tasks).held_out(40)
    assert stream(*tasks).held_out(10) == more[:10]
    assert len({p.id for p in more}) == 40


def test_the_mixture_keeps_its_weights_and_its_seed() -> None:
    tasks = [gym(config=SUMS, weight=3.0), gym("letter_counting")]
    names = [p.source for p in take(stream(*tasks, seed=4), 400)]
    assert names == [p.source for p in take(stream(*tasks, seed=4), 400)]
    assert names != [p.source for p in take(stream(*tasks, seed=5), 400)]
    assert names.count("chain_sum") / 400 == pytest.approx(0.75, abs=0.07)


def test_the_entry_can_be_made_again_from_the_task_data() -> None:
    import reasoning_gym

    source = stream(
        gym(config=SUMS), gym("propositional_logic"), gym("basic_arithmetic", template="{question}\nBe brief.")
    )
    for prompt in [*take(source, 12), *source.held_out(6)]:
        task = json.loads(json.dumps(prompt.task))
        data = reasoning_gym.create_dataset(task["family"], seed=task["seed"], size=task["size"], **task["config"])
        entry = data[task["index"]]
        assert entry["question"] in prompt.text
        assert entry["answer"] == prompt.answer


def test_families_without_an_answer_key_have_no_answer() -> None:
    assert stream(gym("propositional_logic")).next().answer is None


def test_ids_name_the_question_and_its_source(table: str) -> None:
    ids = {p.text: p.id for p in take(stream(gym(config=SMALL), seed=1), 100)}
    assert all(ids.get(p.text, p.id) == p.id for p in take(stream(gym(config=SMALL), seed=2), 100))
    other = {p.id for p in take(stream(gym(config=SMALL | {"allow_negation": True})), 100)}
    assert not other & set(ids.values())


def test_a_family_is_counted_up_to_a_number() -> None:
    assert count_distinct(gym(config=SUMS), 2000) == 2000
    assert count_distinct(gym(config=SMALL), 2000) == 200


def test_the_system_message_goes_to_prompts_without_one(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Own."}, {"role": "user", "content": "Two?"}]
    rows = [{"q": chat}, {"q": [{"role": "user", "content": "One?"}]}, {"q": "Three?"}, {"q": "Four?"}]
    source = stream(spec("jsonl", path=write_jsonl(tmp_path / "c.jsonl", rows), prompt="q"), system="Given.")
    found = {p.text: p.system for p in [*take(source, 4), *source.held_out(4)]}
    assert found == {"One?": "Given.", "Two?": "Own.", "Three?": "Given.", "Four?": "Given."}


def test_braces_of_a_template_other_than_the_question_stay() -> None:
    assert stream(gym(template="{question} Use \\boxed{}.")).next().text.endswith(" Use \\boxed{}.")


def test_table_prompts_carry_answer_and_columns(table: str) -> None:
    prompt = stream(spec("jsonl", path=table, answer="answer", template="Q: {question}")).next()
    number = int(prompt.text.split()[3])
    assert prompt.text == f"Q: What is {number} doubled?"
    assert (prompt.answer, prompt.source) == (str(2 * number), "doubles.jsonl")
    assert prompt.task == {"prompt": f"What is {number} doubled?", "answer": 2 * number, "level": number % 3}


def test_parquet_and_jsonl_give_the_same_prompts(table: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [json.loads(line) for line in Path(table).read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "doubles.jsonl.parquet")
    one = take(stream(spec("parquet", path=str(tmp_path / "doubles.jsonl.parquet"), answer="answer")), 80)
    other = take(stream(spec("jsonl", path=table, answer="answer")), 80)
    assert [(p.text, p.answer, p.task) for p in one] == [(p.text, p.answer, p.task) for p in other]


def test_columns_that_json_cannot_hold_are_made_plain(tmp_path: Path) -> None:
    import datetime as dt

    import pyarrow as pa
    import pyarrow.parquet as pq

    day = dt.date(2026, 1, 2)
    rows = [{"prompt": f"{i}?", "day": day, "raw": b"\x00", "x": float("nan"), "list": [1.5, None]} for i in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    task = stream(spec("parquet", path=str(tmp_path / "t.parquet"))).next().task
    assert json.loads(json.dumps(task, allow_nan=False)) == {
        "prompt": task["prompt"], "day": "2026-01-02", "x": None, "list": [1.5, None],
    }  # fmt: skip


def test_a_saved_data_set_is_opened(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the `data` extra is not installed")
    rows = {"question": [f"What is {n}?" for n in range(40)], "gold": [str(n) for n in range(40)]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "saved")
    options = {"path": str(tmp_path / "saved"), "prompt": "question", "answer": "gold"}
    prompt = stream(spec("datasets", **options)).next()
    assert prompt.text == f"What is {prompt.answer}?"
    assert "split = 'trian': " in problems_of(spec("datasets", split="trian", **options))
    assert 'did you mean "gold"?' in problems_of(spec("datasets", **options | {"answer": "golf"}))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"family": "chain_sums"}, ["family = 'chain_sums'", 'did you mean "chain_sum"?']),
        ({"config": {"min_term": 2}}, ["config.min_term: chain_sum", 'did you mean "min_terms"?']),
        ({"config": {"min_terms": 5, "max_terms": 2}}, ["max_terms must be >= min_terms"]),
        ({"config": {"min_terms": "two"}}, ["config = {'min_terms': 'two'}"]),
        ({"template": "{qestion}"}, ["wanted a text with {question} in it", 'did you mean "question"?']),
    ],
)
def test_bad_options_of_a_family_are_named(options: dict[str, Any], wanted: list[str]) -> None:
    message = problems_of(gym(config=SUMS), spec("reasoning_gym", **{"family": "chain_sum"} | options))
    assert message.startswith("actors.tasks.1: ")
    assert all(text in message for text in wanted), message


def test_the_problems_of_all_sources_are_reported_at_once() -> None:
    message = problems_of(gym("chain_sums"), spec("jsonl", path="nowhere.jsonl"))
    assert "actors.tasks.0: family" in message
    assert "actors.tasks.1: path = 'nowhere.jsonl': no such file" in message


@pytest.mark.parametrize(
    ("lines", "options", "wanted"),
    [
        (['{"prompt": "a"}', "{oops"], {}, ["t.jsonl, line 2: not a JSON row"]),
        (['{"prompt": "a"}', "", "[1]"], {}, ["t.jsonl, line 3: ", "wanted an object with columns, found '[1]'"]),
        (['{"promt": "a"}'], {}, ["t.jsonl, line 1: no column 'prompt'", 'did you mean "promt"?']),
        (['{"prompt": "a", "anser": 1}'], {"answer": "answer"}, ["line 1: no column 'answer'", 'mean "anser"?']),
        (['{"prompt": "a"}', "", '{"prompt": 7}'], {}, ["t.jsonl, line 3: prompt = 7: wanted a text"]),
        (['{"prompt": "  "}'], {}, ["line 1: prompt = '  ': wanted a text"]),
        (['{"prompt": [{"role": "user"}]}'], {}, ["wanted messages with a role and a content"]),
        (['{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'], {},
         ["prompt has roles user, assistant"]),
        (['{"prompt": []}'], {}, ["roles of nobody"]),
        ([""], {}, ["t.jsonl: no lines"]),
        (['{"prompt": "a"}', '{"prompt": " a"}'], {}, ["one question only"]),
    ],
)  # fmt: skip
def test_bad_tables_are_named(lines: list[str], options: dict[str, Any], wanted: list[str], tmp_path: Path) -> None:
    place = tmp_path / "t.jsonl"
    place.write_text("\n".join(lines))
    message = problems_of(spec("jsonl", path=str(place), **options))
    assert all(text in message for text in wanted), message


def test_at_most_five_bad_rows_are_named(tmp_path: Path) -> None:
    message = problems_of(spec("jsonl", path=write_jsonl(tmp_path / "t.jsonl", [{"prompt": n} for n in range(50)])))
    assert len(message.splitlines()) == 5


def test_a_missing_file_names_its_nearest_sibling(table: str) -> None:
    assert 'did you mean "doubles.jsonl"?' in problems_of(spec("jsonl", path=table.replace("doubles", "double")))
    assert "a folder, not a file" in problems_of(spec("parquet", path=str(Path(table).parent)))


def test_bad_parquet_files_are_named(tmp_path: Path, table: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert "cannot be read as Parquet" in problems_of(spec("parquet", path=table))
    place = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), place)
    assert "no rows" in problems_of(spec("parquet", path=place))
    assert "answer = 'x': " in problems_of(spec("parquet", path=place, answer="x"))


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the `data` extra is not installed")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    message = problems_of(spec("datasets", path="owner/data"))
    assert message.startswith("actors.tasks.0: path = 'owner/data': no such folder, and the hub cannot be reached (")
    assert len(message.splitlines()) == 1


def test_naming_the_sources_loads_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "datasets", "reasoning_gym", "pyarrow", "vllm"]
    code = f"import sys, actors.tasks; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_source_takes_its_options_by_keyword_only() -> None:
    import inspect

    for name, part in SOURCES.items():
        kinds = {p.kind for p in itertools.islice(inspect.signature(part).parameters.values(), 50)}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}, name
