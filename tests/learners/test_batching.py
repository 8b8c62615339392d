"""What enters a micro-batch: every token once, within the budget, in any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.advantages import mean_only
from learners.batching import Row, micro_batches, pack, pad, rows, shares_of, tokens_in, totals
from learners.losses import Totals
from learners.rewards import Treatment
from swarm.types import Finish, PolicyVersion, Rollout, Span

NOW = PolicyVersion("me", 0, 0)
value = st.sampled_from([0.0, 0.5, 1.0, None])
shapes = st.lists(
    st.tuples(st.lists(st.tuples(value, st.integers(1, 20)), min_size=2, max_size=5), st.integers(1, 9)),
    min_size=1,
    max_size=5,
)


def centre(groups):
    return Treatment({"exact": 1.0}, mean_only).centre(groups)


def batch_of(make_group, shape):
    groups = []
    for i, (members, prompt_length) in enumerate(shape):
        group = make_group([v for v, _ in members], i, lengths=[n for _, n in members], prompt_length=prompt_length)
        mask = [np.arange(len(r.tokens)) % 3 != 1 for r in group.rollouts]
        pairs = zip(group.rollouts, mask, strict=True)
        groups.append(replace(group, rollouts=tuple(replace(r, loss_mask=m) for r, m in pairs)))
    return centre(groups)


def seen(batches):
    """(context, token, advantage, behaviour) of each place that carries loss."""
    found = []
    for batch in batches:
        width = batch.tokens.shape[1]
        for n, place in enumerate(batch.places):
            context = batch.tokens[place // width, : place % width + 1]
            found.append((tuple(context), batch.targets[n], batch.advantages[n], batch.behaviour[n]))
    return sorted(found)


@given(shape=shapes, budget=st.integers(1, 120))
def test_every_token_with_loss_and_advantage_appears_exactly_once(make_group, shape, budget):
    centred = batch_of(make_group, shape)
    wanted = []
    for item in centred:
        for rollout, advantages in zip(item.group.rollouts, item.advantages, strict=True):
            for i in np.flatnonzero(rollout.loss_mask & (advantages != 0.0)):
                context = (*item.group.prompt_tokens, *rollout.tokens[:i])
                wanted.append((context, rollout.tokens[i], np.float32(advantages[i]), rollout.logprobs[i]))
    assert seen(map(pad, micro_batches(rows(centred, NOW), budget))) == sorted(wanted)


@given(shape=shapes, budget=st.integers(1, 120))
def test_the_budget_is_kept_with_as_few_micro_batches_as_it_allows(make_group, shape, budget):
    parts = micro_batches(rows(batch_of(make_group, shape), NOW, keep_flat=True), budget)
    lengths = sorted((row.length for part in parts for row in part), reverse=True)
    greedy, width, num = 0, 0, 0
    for length in lengths:
        if num and width * (num + 1) <= budget:
            num += 1
        else:
            greedy, width, num = greedy + 1, length, 1
    assert len(parts) == greedy
    for part in parts:
        assert len(part) == 1 or pad(part).tokens.size <= budget


def unpacked(batches):
    """As `seen`, of packed batches: the context is the prompt and what of the completion stands before."""
    found = []
    for batch in batches:
        s = batch.shared
        starts = s.completions[:, 0]
        ends = s.completions.sum(1)
        n = 0
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            at, length = s.prompts[s.owner[i]]
            prompt = batch.tokens[0, at : at + length]
            assert (s.positions[0, at : at + length] == np.arange(length)).all()
            assert (s.positions[0, start:end] == length + np.arange(end - start)).all()
            while n < len(batch.places) and (
                batch.places[n] in range(start, end) or batch.places[n] == at + length - 1
            ):
                own = batch.tokens[0, start : batch.places[n] + 1] if batch.places[n] >= start else []
                found.append(((*prompt, *own), batch.targets[n], batch.advantages[n], batch.behaviour[n]))
                n += 1
                if n < len(batch.places) and batch.places[n] <= batch.places[n - 1]:
                    break  # the next completion begins
        assert n == len(batch.places)
    return sorted(found)


@given(shape=shapes, budget=st.integers(1, 120))
def test_packed_batches_hold_the_same_tokens_each_prompt_once(make_group, shape, budget):
    items = rows(batch_of(make_group, shape), NOW)
    parts = micro_batches(items, budget, shared=True)
    assert sorted(id(row) for part in parts for row in part) == sorted(map(id, items))
    packed = [pack(part) for part in parts]
    assert unpacked(packed) == seen(map(pad, micro_batches(items, budget)))
    for part, batch in zip(parts, packed, strict=True):
        assert len(part) == 1 or batch.tokens.size <= budget
        assert len(batch.shared.prompts) == len({row.group for row in part})


@given(shape=shapes, budget=st.integers(1, 120), order=st.randoms(use_true_random=False))
def test_the_summed_loss_does_not_depend_on_the_order_of_groups(make_group, shape, budget, order):
    centred = batch_of(make_group, shape)
    shuffled = order.sample(centred, len(centred))
    sums = [
        sum(float((b.advantages * b.behaviour).sum(dtype=np.float64)) for b in map(pad, micro_batches(items, budget)))
        for items in (rows(centred, NOW), rows(shuffled, NOW))
    ]
    assert sums[0] == pytest.approx(sums[1], abs=1e-6)
    assert totals(centred, 9) == totals(shuffled, 9)


def test_micro_batches_are_balanced(make_group):
    centred = batch_of(make_group, [([(v, 8) for v in (0.0, 1.0, 0.0)], 3)] * 3)
    parts = micro_batches(rows(centred, NOW), 8 * 10)
    assert [len(part) for part in parts] == [5, 4]


@given(shape=shapes, shared=st.booleans())
def test_rows_keep_their_rollout_length_and_group(make_group, shape, shared):
    for part in micro_batches(rows(batch_of(make_group, shape), NOW), 60, shared):
        batch = pack(part) if shared else pad(part)
        assert np.bincount(batch.rollout, minlength=len(part)).tolist() == batch.lengths.tolist()
        assert batch.lengths.tolist() == [row.rollout.loss_mask.sum() for row in part]
        assert batch.rewards.tolist() == [np.float32(row.reward) for row in part]
        same = [[a.group == b.group for a in part] for b in part]
        assert (batch.groups[:, None] == batch.groups[None]).tolist() == same


@given(shape=shapes, budget=st.integers(1, 30))
def test_whole_groups_are_never_cut_whatever_the_budget(make_group, shape, budget):
    items = rows(batch_of(make_group, shape), NOW, keep_flat=True)
    parts = micro_batches(items, budget, shared=True, whole_groups=True)
    assert sorted(id(row) for part in parts for row in part) == sorted(map(id, items))
    assert [len({row.group for row in part}) for part in parts] == [1] * len(parts)
    assert len(parts) == len({row.group for row in items})


def test_the_denominator_counts_flat_rollouts_but_not_masked_ones(make_group):
    rewards = [(1.0, 1.0, 1.0), (1.0, None, 0.0)]
    centred = centre([make_group(values, i, lengths=(3, 4, 5)) for i, values in enumerate(rewards)])
    assert totals(centred, 9) == Totals(tokens=12 + 8, rollouts=5, max_tokens=9)
    assert len(rows(centred, NOW)) == 2
    assert len(rows(centred, NOW, keep_flat=True)) == 5


def test_an_empty_prompt_is_refused(make_group):
    centred = centre([make_group((1.0, 0.0), prompt_length=0)])
    with pytest.raises(ValueError, match="no token"):
        rows(centred, NOW)


def plain_rows(shape):
    """Rows by (group, completion length), with prompts of 1 to 9 tokens by group."""
    rng = np.random.default_rng(0)
    prompts = {g: rng.integers(0, 9, 1 + g % 9).astype(np.int32) for g in range(10)}
    return [Row(f"g{g}", prompts[g], rollout(num), 1.0, np.ones(num), 1.0, np.zeros(num, np.int64)) for g, num in shape]


def rollout(num):
    zeros = np.zeros(num, np.int32)
    return Rollout(zeros, zeros.astype(np.float32), (Span(0, 0, num),), "", Finish.STOP, np.ones(num, bool))


SHAPES = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), min_size=1, max_size=30)


@given(SHAPES, st.integers(1, 5), st.integers(1, 300), st.booleans())
def test_ranks_get_every_row_once_in_equally_many_balanced_micro_batches(shape, ranks, budget, shared):
    items = plain_rows(shape)
    parts = micro_batches(items, budget, shared, ranks)
    shares = shares_of(parts, ranks, shared)
    dealt = [row for share in shares for part in share for row in part]
    assert sorted(map(id, dealt)) == sorted(map(id, items))
    assert len({len(share) for share in shares}) == 1
    idle = sum(not part for share in shares for part in share)
    assert idle < ranks
    if idle:
        assert all(len(part) == 1 for part in parts), "a micro-batch could have been cut for a rank that waits"
    if len(items) >= ranks:
        assert all(share[0] for share in shares), "a rank has nothing to do"
    costs = [[tokens_in(part, shared) for part in share if part] for share in shares]
    assert max(map(sum, costs)) - min(map(sum, costs)) <= max(map(max, filter(None, costs)))
    for part in parts:
        assert len(part) == 1 or tokens_in(part, shared) <= budget
    assert [[list(map(id, part)) for part in share] for share in shares] == [
        [list(map(id, part)) for part in share] for share in shares_of(parts, ranks, shared)
    ]


@given(SHAPES, st.integers(1, 300), st.booleans())
def test_one_rank_gets_the_micro_batches_as_they_are(shape, budget, shared):
    parts = micro_batches(plain_rows(shape), budget, shared)
    assert shares_of(parts, 1, shared) == [parts]


@given(SHAPES, st.booleans())
def test_tokens_are_those_of_the_arrays(shape, shared):
    items = sorted(plain_rows(shape), key=lambda row: row.group)
    assert tokens_in(items, shared) == (pack(items) if shared else pad(items)).tokens.size
