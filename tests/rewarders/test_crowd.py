"""Several judges without gold, and the sentinels that hold them."""

from __future__ import annotations

import numpy as np
import pytest

from rewarders.crowd import dawid_skene, shared_errors, silence

RATES = ((0.1, 0.2), (0.15, 0.25), (0.2, 0.15))


def votes(rng, right, judges=3):
    columns = []
    for p0, p1 in RATES[:judges]:
        coin = rng.random(len(right))
        columns.append(np.where(right, coin >= p1, coin < p0))
    return np.stack(columns, axis=1).astype(float)


def known(rng, num=60, judges=3):
    return {name: votes(rng, np.full(num, name == "right"), judges) for name in ("right", "wrong")}


def with_keys(rng, num=1500):
    """Answers of which a fifth are keys that fool the first two judges, and sentinels of all three kinds."""
    key = rng.random(num) < 0.2
    right = ~key & (rng.random(num) < 0.4)
    said, sentinels = votes(rng, right), known(rng)
    sentinels["key"] = votes(rng, np.zeros(60, bool))
    said[key, :2] = sentinels["key"][:, :2] = 1.0
    return said, sentinels, right, key


def test_rates_are_found_from_agreement_alone_where_judges_err_alone():
    rng = np.random.default_rng(0)
    right = rng.random(3000) < 0.4
    found = dawid_skene(votes(rng, right))
    for rates, (p0, p1) in zip(found.rates, RATES, strict=True):
        assert rates.false_accept == pytest.approx(p0, abs=0.05)
        assert rates.false_reject == pytest.approx(p1, abs=0.05)
    assert found.classes["right"] == pytest.approx(0.4, abs=0.05)
    assert ((found.right > 0.5) == right).mean() > 0.8


def test_judges_that_share_a_blind_spot_certify_one_another_until_sentinels_hold_them():
    said, sentinels, right, key = with_keys(np.random.default_rng(1))
    truth = said[~right, 0].mean()
    assert truth == pytest.approx(0.36, abs=0.05)
    alone, held = dawid_skene(said), dawid_skene(said, sentinels)
    assert alone.rates[0].false_accept < 0.15
    assert (alone.right[key] > 0.5).mean() > 0.9
    assert held.rates[0].false_accept == pytest.approx(truth, abs=0.1)
    assert (held.right[key] > 0.5).mean() < 0.4
    assert shared_errors(sentinels)[0].judges == (0, 1)


def test_judges_that_err_alone_raise_no_alarm():
    fired = sum(bool(shared_errors(known(np.random.default_rng(seed)))) for seed in range(40))
    assert fired <= 2


def test_judges_that_copy_one_another_do():
    rng = np.random.default_rng(2)
    sentinels = known(rng)
    for part in sentinels.values():
        part[:, 2] = np.where(rng.random(len(part)) < 0.8, part[:, 0], part[:, 2])
    found = shared_errors(sentinels)
    assert {s.judges for s in found} == {(0, 2)}
    assert all(s.correlation > 0.4 for s in found)


def test_abstentions_are_left_out():
    rng = np.random.default_rng(3)
    right = rng.random(3000) < 0.4
    said = votes(rng, right)
    said[rng.random(said.shape) < 0.2] = np.nan
    found = dawid_skene(said, known(rng))
    assert found.rates[1].false_reject == pytest.approx(RATES[1][1], abs=0.06)
    assert len(found.right) == 3000


def test_two_judges_need_sentinels_that_are_right_and_wrong():
    rng = np.random.default_rng(4)
    said = votes(rng, rng.random(2000) < 0.4, judges=2)
    with pytest.raises(ValueError, match="2 judges: without sentinels at least three"):
        dawid_skene(said)
    with pytest.raises(ValueError, match="some that are 'right' and some of another class"):
        dawid_skene(said, {"right": said[:50]})
    assert dawid_skene(said, known(rng, judges=2)).rates[0].false_accept == pytest.approx(0.1, abs=0.07)


def test_answers_without_any_vote_say_nothing():
    """They had the prior of the start, and pulled the share of right answers to it."""
    rng = np.random.default_rng(5)
    right = rng.random(800) < 0.6
    said, sentinels = votes(rng, right), known(rng)
    unjudged = np.concatenate([np.full((400, 3), np.nan), said])
    without, found = dawid_skene(said, sentinels), dawid_skene(unjudged, sentinels)
    assert (found.rates, found.classes) == (without.rates, without.classes)
    assert np.isnan(found.right[:400]).all()
    np.testing.assert_array_equal(found.right[400:], without.right)
    assert found.classes["right"] == pytest.approx(right.mean(), abs=0.08)


@pytest.mark.parametrize("where", ["the answers", "right sentinels", "wrong sentinels"])
def test_a_judge_without_votes_gets_no_rates(where):
    rng = np.random.default_rng(6)
    parts = {"the answers": votes(rng, rng.random(200) < 0.6)}
    parts |= {f"{name} sentinels": rows for name, rows in known(rng).items()}
    parts[where][:, 1] = np.nan
    said = parts.pop("the answers")
    sentinels = {name.split()[0]: rows for name, rows in parts.items()}
    assert silence(said, sentinels) == {1: where}
    with pytest.raises(ValueError, match=f"judge 1 gave no vote on {where}$"):
        dawid_skene(said, sentinels)


@pytest.mark.parametrize("said", [np.empty((0, 3)), np.full((5, 3), np.nan)])
def test_no_votes_at_all_are_no_rates(said):
    with pytest.raises(ValueError, match="judge 0 gave no vote on the answers"):
        dawid_skene(said, known(np.random.default_rng(7)))
