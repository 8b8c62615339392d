"""Off-policy weights against slow transcriptions, and what all of them promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.corrections import CORRECTIONS

rollouts = st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=5), min_size=1, max_size=5)


def weights(name, rows, **options):
    gap = torch.tensor([g for row in rows for g in row], dtype=torch.float64)
    lengths = torch.tensor([len(row) for row in rows])
    rollout = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    return CORRECTIONS[name](gap, rollout, lengths.double(), **options).tolist()


def slow(name, rows):
    out = []
    for row in rows:
        for gap in row:
            match name:
                case "none":
                    out.append(1.0)
                case "truncated":
                    out.append(min(math.exp(gap), 2.0))
                case "masked":
                    out.append(math.exp(gap) if 0.5 <= math.exp(gap) <= 5.0 else 0.0)
                case "sequence":
                    out.append(min(math.exp(sum(row)), 2.0))
                case "geometric":
                    out.append(1.0 if 0.9 <= math.exp(sum(row) / len(row)) <= 1.1 else 0.0)
                case _:
                    raise KeyError(name)
    return out


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
@given(rows=rollouts)
def test_a_correction_is_its_equation(name, rows):
    assert weights(name, rows) == pytest.approx(slow(name, rows))


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
def test_what_the_proximal_policy_sampled_itself_has_weight_one(name):
    assert weights(name, [[0.0, 0.0], [0.0]]) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
def test_no_gap_makes_a_weight_infinite(name):
    assert all(math.isfinite(w) for w in weights(name, [[800.0, -800.0], [800.0], [-800.0]]))


@pytest.mark.parametrize("name", ["truncated", "sequence"])
def test_a_cap_bounds_the_weight(name):
    assert max(weights(name, [[1.0, 5.0], [0.1]], cap=1.5)) == 1.5
