"""Accuracies without their rewarder's errors, and what their labels say of how they were made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.debias import corrected_accuracy
from cluster.statistics import Estimate

RATES = [{"rewarder": "exact", "false_accept": 0.1, "false_reject": 0.2, "trust": 1e6}]


def recipe(channels: dict[str, Any] | None = None, *use: str | dict[str, Any], **rest: Any) -> dict[str, Any]:
    specs = [{"name": u} if isinstance(u, str) else u for u in use or ("exact",)]
    return {"rewarders": {"use": specs} | ({} if channels is None else {"channels": channels}), **rest}


def answers(values: list[Any], name: str = "exact", stratum: str = "") -> list[dict[str, Any]]:
    return [{"verdicts": {} if value is None else {name: value}, "stratum": stratum} for value in values]


def evaluation(*parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"answers": [answer for part in parts for answer in part]}


NOISY = evaluation(answers([1.0] * 380 + [0.0] * 620))
"""Of a true accuracy of 0.4."""


def counts(false_accept: float, false_reject: float, num: float = 1e6) -> dict[str, float]:
    return {
        "wrong": num,
        "accepted_wrong": num * false_accept,
        "right": num,
        "rejected_right": num * false_reject,
    }


def corrected(*args: Any) -> Estimate:
    found = corrected_accuracy(*args)
    assert found is not None
    return found


def test_rates_known_before_measured_in_the_run_or_both_are_named() -> None:
    measured = {"exact": {"": counts(0.1, 0.2)}}
    for channels, seen, said in (
        ({"rates": RATES}, {}, "Rogan-Gladen, rates known before the run"),
        ({}, measured, "Rogan-Gladen, rates measured in the run"),
        ({"rates": RATES}, measured, "Rogan-Gladen, rates known before the run and measured in the run"),
    ):
        found = corrected(recipe(channels), NOISY, seen)
        assert found.value == pytest.approx(0.4, abs=1e-3)
        assert found.low < 0.4 < found.high
        assert found.label == said


def test_what_was_measured_counts_where_what_was_given_was_wrong() -> None:
    given = [{"rewarder": "exact", "false_accept": 0.0, "false_reject": 0.0, "trust": 1.0}]
    assert corrected(recipe({"rates": given}), NOISY, {"exact": {"": counts(0.1, 0.2)}}).value == pytest.approx(
        0.4, abs=1e-3
    )


def test_each_stratum_is_corrected_by_its_own_rates() -> None:
    """True accuracies 0.2 and 0.8, in shares of 3 to 1: 0.35. One pair of rates for all gives something else."""
    measured = {"exact": {"format=prose": counts(0.4, 0.0), "format=number": counts(0.0, 0.5)}}
    prose = answers([1.0] * 1560 + [0.0] * 1440, stratum="format=prose")  # 0.2 + 0.8 * 0.4
    number = answers([1.0] * 400 + [0.0] * 600, stratum="format=number")  # 0.8 * 0.5
    config = recipe({"stratify": ["format"]})
    found = corrected(config, evaluation(prose, number), measured)
    assert found.value == pytest.approx(0.35, abs=1e-3)
    pooled = corrected(recipe({}), evaluation(prose, number), {"exact": {"": counts(0.2, 0.25)}})
    assert abs(pooled.value - 0.35) > 0.1
    alone = [corrected(config, evaluation(part), measured) for part in (prose, number)]
    width = np.hypot(*(s * (a.high - a.value) for s, a in zip((0.75, 0.25), alone, strict=True)))
    assert found.high - found.value == pytest.approx(width, abs=1e-3)
    shared = {"exact": {"format=prose": counts(0.1, 0.2, 200), "": counts(0.1, 0.2, 200)}}
    wide = corrected(config, evaluation(prose, number), shared)
    assert wide.high - wide.low >= found.high - found.low


def test_intervals_cover_the_truth() -> None:
    rng, hits = np.random.default_rng(0), 0
    strata = {"format=prose": (0.3, 0.1, 0.4), "format=number": (0.05, 0.4, 0.7)}
    for _ in range(300):
        parts, measured = [], {}
        for stratum, (p0, p1, truth) in strata.items():
            right = rng.random(300) < truth
            parts.append(answers([float(x) for x in rng.random(300) < np.where(right, 1 - p1, p0)], stratum=stratum))
            false = rng.binomial(200, [p0, p1]) / 200
            measured[stratum] = counts(*false, 200)
        found = corrected(recipe({"stratify": ["format"]}), evaluation(*parts), {"exact": measured})
        hits += found.low <= 0.55 <= found.high
    assert 0.91 <= hits / 300 <= 0.99


def test_soft_values_count_as_their_share_and_unjudged_questions_not_at_all() -> None:
    soft = evaluation(answers([0.8] * 40 + [0.1] * 60 + [None] * 50))
    found = corrected(recipe({"rates": RATES}), soft, {})
    assert found.value == pytest.approx(0.4, abs=1e-3)


def test_a_cascades_value_has_the_rates_of_who_decided_it() -> None:
    """Accepts 0.1 + 0.9 * 0.5 * 0.2 = 0.19 of wrong answers, rejects 0.4 * (1 - 0.5 * 0.75) = 0.25 of right ones."""
    given = [
        {"rewarder": "cascade", "false_accept": 0.1, "false_reject": 0.4, "trust": 1e6},
        {"rewarder": "cascade/appeal", "false_accept": 0.2, "false_reject": 0.25, "trust": 1e6},
    ]
    said = evaluation(answers([1.0] * 414 + [0.0] * 586, "cascade"))  # 0.4 * 0.75 + 0.6 * 0.19
    use = {"name": "cascade", "rule": "exact", "appeal": "numeric", "replaces": True, "share": 0.5}
    assert corrected(recipe({"rates": given}, use), said, {}).value == pytest.approx(0.4, abs=2e-3)
    nested = {"name": "cascade", "options": {key: value for key, value in use.items() if key != "name"}}
    assert corrected(recipe({"rates": given}, nested), said, {}).value == pytest.approx(0.4, abs=2e-3)


def test_gold_on_some_questions_is_prediction_powered_and_on_all_of_them_the_answer() -> None:
    rng, config, hits = np.random.default_rng(0), recipe({"gold": "exact"}, "judge", "exact"), 0
    for _ in range(200):
        right = rng.random(2000) < 0.4
        judge = (rng.random(2000) < np.where(right, 0.8, 0.1)).astype(float)
        both: list[dict[str, Any]] = [{"verdicts": {"judge": j}} for j in judge]
        for i in range(200):
            both[i]["verdicts"]["exact"] = float(right[i])
        found = corrected(config, evaluation(both), {})
        hits += found.low < right.mean() < found.high
        assert found.label == "prediction-powered, gold on 200 of 2000 questions, as if drawn at random"
    assert 0.91 <= hits / 200 <= 0.99
    whole = corrected(config, evaluation(both[:200]), {})
    assert (whole.label, whole.value) == ("gold", pytest.approx(right[:200].mean()))
    assert corrected_accuracy(config, evaluation(both[190:]), {}) is None, "10 are too few"


@pytest.mark.parametrize(
    "config",
    [
        recipe(None),
        recipe({"rates": RATES}, "other"),
        recipe({"rates": RATES}, "exact", "other"),
        recipe({"certificate": "nowhere.json"}),
        recipe({"rates": [RATES[0] | {"false_accept": 0.9}]}),
        recipe({"rates": RATES}, eval={"use": [{"name": "numeric"}]}),
    ],
)
def test_without_rates_of_the_one_that_judged_there_is_nothing_to_say(config: dict[str, Any]) -> None:
    assert corrected_accuracy(config, NOISY, {}) is None


def test_an_evaluation_by_the_same_rewarder_in_a_list_of_its_own_is_corrected() -> None:
    config = recipe({"rates": RATES}, eval={"use": [{"name": "exact"}]})
    assert corrected(config, NOISY, {}).value == pytest.approx(0.4, abs=1e-3)
