"""Which prompts are asked, and with how many rollouts: the maths, a contract for all selections, and what each does."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.selection import SELECTIONS, Curriculum, InOrder, draw_weights
from actors.tasks import TaskStream
from cluster.registries import problems_of
from swarm.config import Spec, WeightedSpec
from swarm.errors import ConfigError
from swarm.roles import PromptStream
from swarm.scores import stats_of
from swarm.types import Draw, Prompt, PromptStats

GROUPS, SIZE = 4, 8

NAMES = ["in_order", "variance_aware", "gvm", "curriculum"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tables of as many rows as their names say, or 300; `one` has two, one of which is held out."""
    folder = tmp_path_factory.mktemp("tables")
    rows = {"one": [0, 3], "five": range(5), "sixty": range(60)}
    for name in ("one", "five", "sixty", "easy", "middle", "hard"):
        lines = (json.dumps({"prompt": f"{name} {i}?", "answer": i}) + "\n" for i in rows.get(name, range(300)))
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return {name: str(folder / f"{name}.jsonl") for name in ("one", "five", "sixty", "easy", "middle", "hard")}


def table(path: str, weight: float = 1.0) -> WeightedSpec:
    return WeightedSpec(name="jsonl", weight=weight, options={"path": path})


def select(name: str, *paths: str, seed: int = 0, weights: tuple[float, ...] = (), **options: Any) -> InOrder:
    tasks = [table(path, weight) for path, weight in itertools.zip_longest(paths, weights, fillvalue=1.0)]
    stream = TaskStream(tasks, seed=seed)
    return SELECTIONS[name](stream, seed=seed, groups_per_step=GROUPS, group_size=SIZE, **options)


def told(prompt: Prompt, passed: int, num: int = SIZE, gradient: float | None = 1.0) -> PromptStats:
    return stats_of(prompt.id, prompt.source, [1.0] * passed + [0.0] * (num - passed), gradient, 0.5)


def answer(stream: InOrder, num: int, rates: dict[str, float], rng: np.random.Generator) -> list[Draw]:
    """Draw and answer `num` prompts, a batch at a time, at a pass rate for each source."""
    draws: list[Draw] = []
    while len(draws) < num:
        batch = [stream.next() for _ in range(GROUPS)]
        stream.learned([told(d.prompt, int(rng.binomial(SIZE, rates[d.prompt.source]))) for d in batch])
        draws += batch
    return draws


# -- the maths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mix", "exact", "simulated"), [(1.0, 0.3928, 0.384), (0.5, 0.2706, 0.265), (0.0, 0.1484, 0.147)]
)
def test_weighting_by_variance_makes_flat_groups_rarer(mix: float, exact: float, simulated: float) -> None:
    """p ~ Beta(.5, .5), groups of 8. Exactly, 2 C(16, 8) / 4^8 of uniformly drawn groups are flat; simulations with
    some thousand prompts are off by a percent point."""
    p = np.random.default_rng(0).beta(0.5, 0.5, 1_000_000)
    found = draw_weights(p * (1 - p), mix) @ (p**8 + (1 - p) ** 8)
    assert found == pytest.approx(exact, abs=0.001)
    assert found == pytest.approx(simulated, abs=0.01)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.floats(0.001, 1))
def test_draw_weights_are_probabilities_and_nobody_starves(scores: list[float], mix: float) -> None:
    found = draw_weights(np.array(scores), mix)
    assert found.sum() == pytest.approx(1)
    assert (found >= mix / len(scores) * (1 - 1e-9)).all()
    assert np.argmax(found) == np.argmax(scores) or found.max() == pytest.approx(found[np.argmax(scores)])


# -- the contract ------------------------------------------------------------------------------------------------------


def test_every_selection_is_in_the_contract_suite() -> None:
    assert list(SELECTIONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_selection_is_a_prompt_stream_that_leaves_held_out_questions_alone(name: str, tables: dict[str, str]) -> None:
    stream, plain = (select(n, tables["sixty"], tables["easy"]) for n in (name, "in_order"))
    assert isinstance(stream, PromptStream)
    held = stream.held_out(25)
    assert held == plain.held_out(25)
    draws = [stream.next() for _ in range(100)]
    assert not {p.id for p in held} & {d.prompt.id for d in draws}
    assert {d.prompt.source for d in draws} <= {"sixty.jsonl", "easy.jsonl"}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(
    before=st.lists(st.integers(0, SIZE), max_size=60),
    after=st.lists(st.integers(0, SIZE), max_size=40),
    seed=st.integers(0, 9),
)
def test_a_restored_state_continues_equally_wherever_it_was_cut(
    name: str, tables: dict[str, str], before: list[int], after: list[int], seed: int
) -> None:
    def go_on(stream: InOrder, passes: list[int]) -> list[Draw]:
        draws = []
        for i, passed in enumerate(passes):
            draws.append(stream.next())
            if i % 3:
                stream.learned([told(draws[-1].prompt, passed, gradient=0.1 + passed)])
        return draws

    paths = (tables["five"], tables["sixty"], tables["easy"])
    whole, resumed = select(name, *paths, seed=seed), select(name, *paths, seed=seed)
    go_on(whole, before)
    resumed.restore(json.loads(json.dumps(whole.state())))
    assert go_on(whole, after) == go_on(resumed, after)
    assert whole.state() == resumed.state()


@pytest.mark.parametrize("name", NAMES)
def test_a_state_does_not_grow_with_the_run(name: str, tables: dict[str, str]) -> None:
    options = {"remember": 50} if name in ("variance_aware", "gvm") else {}
    stream = select(name, tables["easy"], tables["hard"], **options)
    rng, sizes = np.random.default_rng(0), []
    for _ in range(4):
        answer(stream, 200, {"easy.jsonl": 0.5, "hard.jsonl": 0.1}, rng)
        sizes.append(len(json.dumps(stream.state())))
    assert max(sizes) < 6000
    assert sizes[-1] < 1.3 * sizes[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_another_selection_or_of_other_tasks_is_refused(name: str, tables: dict[str, str]) -> None:
    stream = select(name, tables["five"])
    for other in NAMES:
        if other != name:
            with pytest.raises(ConfigError, match=rf'actors.select.name = "{name}": .* that of "{other}"; resume with'):
                stream.restore(select(other, tables["five"]).state())
    with pytest.raises(ConfigError, match=r"sixty\.jsonl"):
        stream.restore(select(name, tables["sixty"]).state())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("paths", [("one",), ("five",), ("five", "one", "sixty")])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_where_all_is_solved_or_hopeless_or_there_is_little_data_prompts_keep_coming(
    name: str, paths: tuple[str, ...], rate: float, tables: dict[str, str]
) -> None:
    stream = select(name, *(tables[p] for p in paths))
    draws = answer(stream, 60, {f"{p}.jsonl": rate for p in paths}, np.random.default_rng(0))
    assert len(draws) == 60
    assert sum(d.num for d in draws) in (0, 60 * SIZE)


@pytest.mark.parametrize("name", ["in_order", "variance_aware", "gvm"])
def test_sources_keep_their_weights_where_nothing_is_known(name: str, tables: dict[str, str]) -> None:
    stream = select(name, tables["easy"], tables["hard"], weights=(3.0, 1.0))
    share = np.mean([stream.next().prompt.source == "easy.jsonl" for _ in range(400)])
    assert share == pytest.approx(0.75, abs=0.07)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": "variance_aware", "window": 0}, "actors.select.window = 0"),
        ({"name": "variance_aware", "mix": 0.0}, "actors.select.mix = 0.0"),
        ({"name": "variance_aware", "diversity": -1.0}, "diversity = -1.0"),
        ({"name": "variance_aware", "remember": -1}, "actors.select.remember = -1"),
        ({"name": "gvm", "least": 1}, "actors.select.least = 1: wanted at least 2"),
        ({"name": "gvm", "least": 9}, "at most group_size = 8"),
        ({"name": "gvm", "beta": 0.5}, "beta = 0.5"),
        ({"name": "curriculum", "threshold": 1.0}, "actors.select.threshold = 1.0"),
        ({"name": "curriculum", "keep": 1.0}, "actors.select.keep = 1.0"),
        ({"name": "curriculum", "groups": 60}, "actors.select.groups = 60: wanted a number of groups, 1 to 48"),
    ],
)
def test_a_bad_option_is_named_with_its_value(options: dict[str, Any], problem: str, tables: dict[str, str]) -> None:
    name, rest = options["name"], {key: value for key, value in options.items() if key != "name"}
    with pytest.raises(ConfigError, match=problem):
        select(name, tables["five"], **rest)


def test_a_recipe_is_checked_against_the_options_and_not_against_what_the_program_gives() -> None:
    assert not problems_of("actors.select", Spec.model_validate({"name": "gvm", "least": 3}), SELECTIONS)
    (problem,) = problems_of("actors.select", Spec.model_validate({"name": "gvm", "seed": 3}), SELECTIONS)
    assert "actors.select.seed: unknown option of gvm" in problem


# -- what each does ----------------------------------------------------------------------------------------------------


def test_in_order_is_the_task_stream_bit_for_bit(tables: dict[str, str]) -> None:
    tasks = TaskStream([table(tables["sixty"]), table(tables["easy"], 2.0)], seed=4)
    stream = select("in_order", tables["sixty"], tables["easy"], weights=(1.0, 2.0), seed=4)
    for _ in range(80):
        draw = stream.next()
        stream.learned([told(draw.prompt, 8)])
        assert draw == Draw(tasks.next(), 0)
        assert stream.state() == tasks.state()


def test_variance_aware_draws_prompts_that_teach_once_it_knows_them(tables: dict[str, str]) -> None:
    """Pass rates ~ Beta(.5, .5), one for each of some 260 questions, which come again every epoch."""

    def flat_share(mix: float, seed: int) -> float:
        stream, rng = select("variance_aware", tables["easy"], mix=mix, window=12), np.random.default_rng(seed)
        rates: dict[str, float] = {}
        flat: list[bool] = []
        for _ in range(250):
            batch = [stream.next().prompt for _ in range(GROUPS)]
            passes = [int(rng.binomial(SIZE, rates.setdefault(p.id, rng.beta(0.5, 0.5)))) for p in batch]
            flat += [passed in (0, SIZE) for passed in passes]
            stream.learned([told(p, passed) for p, passed in zip(batch, passes, strict=True)])
        return float(np.mean(flat[-500:]))

    uniform, weighted = (np.mean([flat_share(mix, seed) for seed in range(3)]) for mix in (1.0, 0.1))
    assert uniform == pytest.approx(0.39, abs=0.06)
    assert weighted < 0.75 * uniform


def test_variance_aware_draws_less_of_a_source_that_is_solved_or_hopeless(tables: dict[str, str]) -> None:
    stream = select("variance_aware", tables["easy"], tables["middle"], tables["hard"], remember=0)
    rates = {"easy.jsonl": 0.99, "middle.jsonl": 0.4, "hard.jsonl": 0.01}
    draws = answer(stream, 1200, rates, np.random.default_rng(0))
    shares = Counter(d.prompt.source for d in draws[400:])
    assert shares["middle.jsonl"] / 800 > 0.55
    assert min(shares["easy.jsonl"], shares["hard.jsonl"]) / 800 > 0.1, "nobody starves"


def test_variance_aware_can_go_by_diversity_alone(tables: dict[str, str]) -> None:
    stream = select("variance_aware", tables["easy"], tables["hard"], variance=0.0, diversity=1.0, mix=0.1)
    for source, diversity in (("easy.jsonl", 0.05), ("hard.jsonl", 0.95)):
        stream.learned([PromptStats(f"{source} {i}", source, 8, 0.5, 0.25, 1.0, diversity) for i in range(20)])
    draws = [stream.next() for _ in range(200)]
    assert sum(d.prompt.source == "hard.jsonl" for d in draws) > 150


def test_gvm_conserves_the_budget_of_each_round_and_gives_more_where_it_reduces_variance(
    tables: dict[str, str],
) -> None:
    stream = select("gvm", tables["easy"], tables["middle"], tables["hard"])
    rates = {"easy.jsonl": 0.95, "middle.jsonl": 0.3, "hard.jsonl": 0.0}
    draws = answer(stream, 400, rates, np.random.default_rng(0))
    for start in range(0, 400, GROUPS):
        assert sum(d.num for d in draws[start : start + GROUPS]) == GROUPS * SIZE
    late = {s: np.mean([d.num for d in draws[200:] if d.prompt.source == s]) for s in rates}
    assert late["middle.jsonl"] > late["easy.jsonl"]
    assert min(d.num for d in draws) >= 2


def test_gvm_gives_more_to_prompts_with_larger_gradients(tables: dict[str, str]) -> None:
    stream = select("gvm", tables["easy"], tables["hard"])
    for source, gradient in (("easy.jsonl", 1.0), ("hard.jsonl", 3.0)):
        stream.learned([PromptStats(f"{source} {i}", source, 8, 0.5, 0.25, gradient, 0.5) for i in range(9)])
    draws = [stream.next() for _ in range(80)]
    mean = {s: np.mean([d.num for d in draws if d.prompt.source == s]) for s in ("easy.jsonl", "hard.jsonl")}
    assert mean["hard.jsonl"] > 1.5 * mean["easy.jsonl"]


def test_gvm_asks_all_prompts_in_their_order(tables: dict[str, str]) -> None:
    stream, plain = select("gvm", tables["sixty"]), select("in_order", tables["sixty"])
    assert [stream.next().prompt for _ in range(70)] == [plain.next().prompt for _ in range(70)]


def test_a_curriculum_moves_on_when_a_source_is_solved_and_keeps_a_share_of_those_before(
    tables: dict[str, str],
) -> None:
    paths = (tables["easy"], tables["middle"], tables["hard"])
    stream = select("curriculum", *paths, weights=(3.0, 1.0, 1.0), keep=0.25)
    assert isinstance(stream, Curriculum)
    rng, rates = np.random.default_rng(0), {"easy.jsonl": 0.5, "middle.jsonl": 0.1, "hard.jsonl": 0.0}
    assert {d.prompt.source for d in answer(stream, 120, rates, rng)} == {"easy.jsonl"}
    answer(stream, 160, rates | {"easy.jsonl": 0.9}, rng)
    assert stream.stage == 1
    shares = Counter(d.prompt.source for d in answer(stream, 400, rates | {"easy.jsonl": 0.9}, rng))
    assert shares["easy.jsonl"] / 400 == pytest.approx(0.25, abs=0.06)
    assert shares["hard.jsonl"] == 0
    answer(stream, 400, dict.fromkeys(rates, 0.9), rng)
    assert stream.stage == 2, "the last source has none after it"
    shares = Counter(d.prompt.source for d in answer(stream, 800, dict.fromkeys(rates, 0.1), rng))
    assert stream.stage == 2, "stages only go forward"
    assert shares["hard.jsonl"] / 800 == pytest.approx(0.75, abs=0.05)
    assert shares["easy.jsonl"] / shares["middle.jsonl"] == pytest.approx(3, abs=1)


def test_a_curriculum_does_not_move_on_after_a_lucky_group(tables: dict[str, str]) -> None:
    stream = select("curriculum", tables["easy"], tables["hard"], groups=16)
    assert isinstance(stream, Curriculum)
    for _ in range(12):
        stream.learned([told(stream.next().prompt, 8)])
    assert stream.stage == 0


def test_the_gradient_rises_with_the_variance_of_the_reward() -> None:
    """What weighting by variance rests on: norms of centred policy gradients, measured on a softmax over answers."""
    rng, norms = np.random.default_rng(0), []
    for p in (0.02, 0.1, 0.25, 0.5):
        policy = np.array([p, *np.full(9, (1 - p) / 9)])
        drawn = rng.choice(10, (4000, SIZE), p=policy)
        advantages = (drawn == 0) - (drawn == 0).mean(1, keepdims=True)
        surprise = np.eye(10)[drawn] - policy
        norms.append(np.linalg.norm((advantages[..., None] * surprise).mean(1), axis=-1).mean())
    assert norms == sorted(norms)
    assert norms[-1] > 4 * norms[0]
