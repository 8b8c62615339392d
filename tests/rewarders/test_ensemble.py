"""Ensembles and shapes as rewarders: what they make of verdicts, and what they refuse to call independent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.check import check
from rewarders.ensemble import LEAST, Ensemble, family_of
from rewarders.gate import Gate
from rewarders.shaping import Lsc, Par
from swarm.errors import ConfigError
from swarm.types import Status
from tests.rewarders.scripted import Says, judged

ANSWERS = st.one_of(st.sampled_from([Status.ABSTAINED, Status.TIMEOUT, Status.ERROR]), st.floats(-5, 5))


@given(st.lists(ANSWERS, min_size=1, max_size=4), st.sampled_from(["mean", "median", "min", "uncertain"]))
def test_an_ensemble_is_within_its_members_or_none_where_one_has_none(make_group, answers, how) -> None:
    [verdict] = judged(Ensemble(of=[Says({"x": a}) for a in answers], how=how, penalty=0.0), make_group(["x"]))
    bad = [s for s in (Status.ERROR, Status.TIMEOUT, Status.ABSTAINED) if s in answers]
    if bad:
        assert (verdict.status, verdict.value) == (bad[0], None)
    else:
        assert min(answers) - 1e-9 <= verdict.value <= max(answers) + 1e-9
        assert verdict.parts["variance"] == pytest.approx(float(np.var(answers)), abs=1e-9)
        assert verdict.parts["families"] == len(answers)


def with_family(family: str, table: dict[str, float] | None = None) -> Says:
    made = Says(table or {"x": 1.0})
    made.family = family  # type: ignore[attr-defined]
    return made


def test_members_of_one_family_are_never_called_independent(make_group) -> None:
    members = [with_family("base"), with_family("other"), Gate(when=Says({"x": 1.0}), then=with_family("base"))]
    assert family_of(members[2]) == "base"
    with pytest.raises(ValueError, match=r"members 0 and 2 are one family \(base\)"):
        Ensemble(of=members, independent=True)
    [verdict] = judged(Ensemble(of=members), make_group(["x"]))
    assert verdict.parts["families"] == 2
    Ensemble(of=members[:2], independent=True)


def correlated(shared: float, num: int, seed: int = 0) -> tuple[list[Says], Says, list[str]]:
    rng = np.random.default_rng(seed)
    texts = [str(i) for i in range(num)]
    truth = rng.integers(0, 2, num).astype(float)
    common = rng.normal(size=num)
    members = [
        Says(dict(zip(texts, truth + shared * common + (1 - shared) * rng.normal(size=num), strict=True)))
        for _ in range(3)
    ]
    return members, Says(dict(zip(texts, truth.tolist(), strict=True)), "truth"), texts


@pytest.mark.parametrize(("shared", "said"), [(0.9, True), (0.0, False)])
def test_errors_that_are_measured_to_be_shared_are_reported(make_group, shared, said) -> None:
    members, truth, texts = correlated(shared, 200)
    made = Ensemble(of=members, independent=True, truth=truth)
    first = judged(made, make_group(texts[: LEAST - 1]))
    assert "correlation" not in first[0].parts
    verdict = judged(made, make_group(texts[LEAST:]))[0]
    assert ("not independent: errors of says" in verdict.cause) is said
    assert verdict.parts["families"] == (1 if said else 3)  # all three share theirs
    assert (verdict.parts["correlation"] > 0.5) is said
    assert verdict.parts["truth"] in (0.0, 1.0)


def test_all_that_share_their_errors_are_one_family(make_group) -> None:
    rng = np.random.default_rng(0)
    texts = [str(i) for i in range(200)]
    truth = rng.integers(0, 2, 200).astype(float)
    one, other = rng.normal(size=(2, 200))
    noise = [one, one, one, other, other, rng.normal(size=200)]
    members = [Says(dict(zip(texts, (truth + n + 0.2 * rng.normal(size=200)).tolist(), strict=True))) for n in noise]
    made = Ensemble(of=members, truth=Says(dict(zip(texts, truth.tolist(), strict=True))))
    assert judged(made, make_group(texts))[0].parts["families"] == 3


def test_a_truth_that_abstains_changes_nothing(make_group) -> None:
    members, _, texts = correlated(0.9, 60)
    silent = Says(dict.fromkeys(texts, Status.ABSTAINED))
    plain = judged(Ensemble(of=members), make_group(texts))
    assert [v.value for v in judged(Ensemble(of=members, truth=silent), make_group(texts))] == [v.value for v in plain]


def test_the_check_refuses_the_claim_for_equal_models(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[model]\npath = "tiny"\n[actors]\ntasks = [{ name = "reasoning_gym", family = "gcd" }]\n'
        '[rewarders]\nuse = ["exact"]\n[learners]\nsteps = 5\n'
    )
    model = "{ name = 'reward_model', path = 'm' }"
    same, other = f"{{ name = 'par', of = {model}, scores = [0.0] }}", "{ name = 'reward_model', path = 'n' }"
    for of, claim, refused in ((same, "true", True), (other, "true", False), (same, "false", False)):
        use = f"rewarders.use=[{{ name = 'ensemble', of = [{model}, {of}], independent = {claim} }}]"
        if not refused:
            check(recipe, [use])
            continue
        with pytest.raises(ConfigError, match=r"rewarders.use.0.of.1: members 0 and 1 are one family \(m\)"):
            check(recipe, [use])


def test_shapes_judge_references_once_and_pass_failures_on(make_group) -> None:
    inner = Says({"ref": 1.0, "good": 3.0, "bad": -1.0, "lost": Status.TIMEOUT})
    group = make_group(["good", "bad", "lost"], task={"references": ["ref"]})
    made = Par(of=inner, column="references")
    for _ in range(2):
        good, bad, lost = judged(made, group)
        assert good.value == pytest.approx(1 / (1 + np.exp(-2)))
        assert bad.value == pytest.approx(1 / (1 + np.exp(2)))
        assert (lost.status, lost.value) == (Status.TIMEOUT, None)
        assert (good.parts["raw"], good.parts["reference"]) == (3.0, 1.0)
    assert inner.asked == [["ref"], ["good", "bad", "lost"], ["good", "bad", "lost"]]
    [given] = judged(Lsc(of=Says({"x": 0.0}), scores=[0.0, 0.0]), make_group(["x"]))
    assert given.value == pytest.approx(np.log(0.5))


@pytest.mark.parametrize("column", ["references", "answer"])
def test_without_references_or_their_scores_there_is_no_shape(make_group, column) -> None:
    inner = Says({"x": 1.0, "worse": Status.ERROR})
    [none] = judged(Par(of=inner, column=column), make_group(["x"]))
    assert none.status is Status.ABSTAINED
    task = {"references": "worse"} if column == "references" else {}
    [lost] = judged(Par(of=inner, column=column), make_group(["x"], answer="worse", task=task))
    assert lost.status is Status.ERROR
    assert "reference 0: says would not" in lost.cause


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: Ensemble(of=[]), "at least one"),
        (lambda r: Ensemble(of=[r], how="max"), "how = 'max'"),
        (lambda r: Par(of=r), "column: wanted"),
        (lambda r: Par(of=r, column="a", scores=[1.0]), "column: wanted"),
        (lambda r: Par(of=r, scores=[1.0], slope=0.0), "slope = 0"),
        (lambda r: Lsc(of=r, scores=[1.0], quantile=1.0), "quantile = 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(Says({}))


def test_close_reaches_the_truth_too() -> None:
    member, truth = Says({}), Says({})
    Ensemble(of=[member], truth=truth).close()
    assert (member.closed, truth.closed) == (1, 1)
