"""Several judges without gold, and the sentinels that hold them."""

from __future__ import annotations

import numpy as np
import pytest

from rewarders.crowd import dawid_skene, shared_errors

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
