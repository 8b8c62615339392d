"""The learner on a small random Llama, in process at ZeRO stage 0."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from learners.losses import LOSSES, Terms, token_mean
from swarm import weight_delta
from swarm.config import LimitsSection
from swarm.errors import ConfigError, DivergedError
from swarm.roles import Learner
from swarm.types import Rates, Span
from swarm.weights import combined, digest, open_mapped
from tests.learners.conftest import VOCAB

MIXED = (1.0, 0.0, 0.0, 1.0)
FLAT = (1.0, 1.0, 1.0, 1.0)


def test_steps_publishes_and_reports(make_learner, make_group):
    learner = make_learner(dtype="bfloat16")
    assert isinstance(learner, Learner)
    before = learner.checksum()
    report = learner.step(1, [make_group(MIXED, 1), make_group(FLAT, 2)])
    assert learner.checksum() != before
    assert report.num_rollouts == 8
    assert 0 < report.num_trained_tokens < report.num_tokens
    assert all(np.isfinite(value) for value in report.metrics.values())
    assert report.metrics["learn/flat_groups_frac"] == 0.5
    assert report.metrics["learn/reward_mean"] == 0.75
    assert report.metrics["learn/truncated_frac"] == 0.5
    assert report.metrics["learn/lag_max_steps"] == 0
    assert 0 < report.metrics["learn/ess_frac"] <= 1
    usage = learner.usage()
    assert usage.tokens == report.num_tokens
    assert usage.busy_s >= report.seconds


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_publication_is_the_weights_in_the_engines_dtype(make_learner, make_group, dtype):
    learner = make_learner(dtype=dtype)
    learner.step(1, [make_group(MIXED, 1)])
    published = learner.publish()
    tensors = open_mapped(published.path)
    assert published.version.step == 1
    assert published.digest == digest((n, t.dtype, t.shape, t.data) for n, t in tensors.items())
    assert published.digest == combined(published.tensors)
    with learner._engine.parameters(learner._model) as parameters:
        assert list(tensors) == list(parameters)
        assert "lm_head.weight" not in tensors
        for name, tensor in tensors.items():
            read = torch.frombuffer(bytearray(tensor.data), dtype=getattr(torch, dtype)).view(tensor.shape)
            assert torch.equal(read, parameters[name].to(read.dtype))


def test_the_two_newest_publications_are_kept_and_all_go_at_the_end(make_learner, make_group):
    learner = make_learner()
    paths = []
    for step in (1, 2, 3):
        learner.step(step, [make_group(MIXED, step, step=step - 1)])
        paths.append(Path(learner.publish().path))
    assert [p.exists() for p in paths] == [False, True, True]
    learner.close()
    assert not paths[0].parent.exists()


def test_a_bfloat16_publication_comes_with_what_it_changes_in_the_one_before(make_learner, make_group):
    learner = make_learner(dtype="bfloat16", lr=1e-4)
    first = learner.publish()
    assert first.delta is None
    learner.step(1, [make_group(MIXED, 1)])
    second = learner.publish()
    delta = second.delta
    assert delta.base == first.digest
    assert delta.bytes == Path(delta.path).stat().st_size
    assert 0 < delta.changed < delta.elements == sum(p.numel() for p in learner._model.parameters())
    old, new = (np.fromfile(w.path, np.uint8) for w in (first, second))
    assert weight_delta.apply(old, np.fromfile(delta.path, np.uint8)) == delta.changed
    assert (old == new).all()
    learner.step(2, [make_group(FLAT, 2, step=1)])
    third = learner.publish()
    assert (third.delta.base, third.delta.changed) == (second.digest, 0)
    assert not Path(delta.path).exists()
    again = learner.publish()  # the same version once more, as after a resume
    assert (again.path, again.digest, again.delta.base) == (third.path, third.digest, third.digest)
    learner.close()
    assert not Path(again.path).parent.exists()


def test_a_float32_publication_is_full(make_learner, make_group):
    learner = make_learner(dtype="float32")
    learner.publish()
    learner.step(1, [make_group(MIXED, 1)])
    assert learner.publish().delta is None


def test_the_canary_is_what_the_published_weights_say(make_learner, make_group):
    learner = make_learner(dtype="float32")
    learner.step(1, [make_group(MIXED, 1)])
    published = learner.publish()
    assert len(published.canary_logprobs) == len(published.canary_tokens) - 1
    tokens = torch.tensor([published.canary_tokens])
    with torch.no_grad():
        full = learner._model.model(tokens).last_hidden_state @ learner._model.lm_head.weight.T
    wanted = full.log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])[:, 0]
    assert torch.allclose(torch.tensor(published.canary_logprobs), wanted, atol=1e-5)


def test_logprobs_at_loss_positions_equal_those_of_full_logits(make_learner, make_group):
    learner = make_learner()
    group = make_group(MIXED, 5, temperature=0.7)
    seen, objective = {}, learner._objective

    class Watched:
        keeps_flat = whole_groups = needs_start = needs_entropy = False

        def __call__(self, new, *rest):
            seen["new"] = new.detach()
            return objective(new, *rest)

    learner._objective = Watched()
    before = [p.detach().clone() for p in learner._model.parameters()]
    learner.step(1, [group])
    with torch.no_grad():
        for p, old in zip(learner._model.parameters(), before, strict=True):
            p.copy_(old)
        wanted = []
        for rollout in sorted(group.rollouts, key=lambda r: -len(r.tokens)):
            ids = torch.tensor(np.concatenate([group.prompt_tokens, rollout.tokens])[None].astype(np.int64))
            hidden = learner._model.model(ids).last_hidden_state
            full = (hidden @ learner._model.lm_head.weight.T / 0.7).log_softmax(-1)[0]
            start = len(group.prompt_tokens)
            wanted += [full[start + i - 1, t] for i, t in enumerate(rollout.tokens.tolist())]
    assert torch.allclose(seen["new"], torch.stack(wanted), atol=1e-5)


def gradient(learner, groups):
    """The gradient of a step, taken just before the optimiser would use it."""
    taken = {}

    def take(lr, limit):
        taken.update({n: p.grad.clone() for n, p in learner._model.named_parameters()})
        learner._engine.forget()
        return 1.0

    learner._engine.update = take
    learner.step(1, groups)
    return taken


def test_padded_micro_batches_give_the_gradient_of_one_rollout_at_a_time(make_learner, make_group):
    groups = [make_group(MIXED, 1), make_group(MIXED, 2, prompt_length=3), make_group(FLAT, 3)]
    together = gradient(make_learner(micro_tokens=8192), groups)
    alone = gradient(make_learner(micro_tokens=1), groups)
    for name, value in together.items():
        assert torch.allclose(value, alone[name], rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize("budget", [8192, 30])
def test_sharing_prompts_gives_the_gradient_of_a_row_per_rollout(make_learner, make_group, budget):
    groups = [make_group(MIXED, 1), make_group(MIXED, 2, prompt_length=3), make_group(FLAT, 3)]
    shared, padded = make_learner(micro_tokens=budget), make_learner(micro_tokens=budget)
    assert shared._shares
    padded._shares = False
    want = gradient(padded, groups)
    for name, value in gradient(shared, groups).items():
        assert torch.allclose(value, want[name], rtol=1e-4, atol=1e-7), name


def test_leaving_flat_groups_out_changes_nothing_but_the_denominator(make_learner, make_group):
    mixed, flat = make_group(MIXED, 1), make_group(FLAT, 2)
    num = [sum(len(r.tokens) for r in g.rollouts) for g in (mixed, flat)]
    both, one = gradient(make_learner(), [mixed, flat]), gradient(make_learner(), [mixed])
    for name, value in both.items():
        want = one[name] * (num[0] / sum(num))
        assert torch.allclose(value, want, rtol=1e-4, atol=1e-7), name


def test_a_batch_without_advantage_costs_no_forward_pass_and_moves_nothing(make_learner, make_group):
    learner = make_learner(weight_decay=0.1)
    learner.step(1, [make_group(MIXED, 1)])
    before, calls = learner.checksum(), []
    learner._model.register_forward_hook(lambda *_: calls.append(1))
    report = learner.step(2, [make_group(FLAT, 2, step=1), make_group((1.0, None, None, None), 3, step=1)])
    assert not calls
    assert report.metrics["learn/updates"] == 0
    assert report.num_trained_tokens == 0
    assert report.metrics["learn/masked_rollouts"] == 3
    assert learner.checksum() == before
    assert learner.publish().version.step == 2


def test_masked_rollouts_are_as_if_not_generated(make_learner, make_group):
    whole = make_group((1.0, None, 0.0, 0.0), 4)
    without = replace(whole, rollouts=tuple(r for i, r in enumerate(whole.rollouts) if i != 1))
    sums = []
    for group in (whole, without):
        learner = make_learner()
        learner.step(1, [group])
        sums.append(learner.checksum())
    assert sums[0] == sums[1]


def test_tokens_outside_the_loss_mask_carry_no_loss(make_learner, make_group):
    group = make_group(MIXED, 6, lengths=(4, 4, 4, 4))
    mask = np.array([True, False, False, True])
    masked = replace(group, rollouts=tuple(replace(r, loss_mask=mask) for r in group.rollouts))
    report = make_learner().step(1, [masked])
    assert report.num_trained_tokens == 8
    assert report.num_tokens == 16


def test_equal_histories_give_equal_checksums(make_learner, make_group):
    sums = []
    for _ in range(2):
        learner = make_learner(dtype="bfloat16")
        for step in (1, 2):
            learner.step(step, [make_group(MIXED, step), make_group(MIXED, 10 + step)])
        sums.append(learner.checksum())
    assert sums[0] == sums[1]


def test_the_importance_weight_of_each_lag_is_reported(make_learner, make_group):
    learner = make_learner()
    learner.step(1, [make_group(MIXED, 1)])
    group = make_group(MIXED, 2, lengths=(4, 4, 4, 4))
    split = tuple(replace(r, spans=(Span(0, 0, 1), Span(1, 1, 4))) for r in group.rollouts)
    metrics = learner.step(2, [replace(group, rollouts=split)]).metrics
    assert metrics["learn/lag_mean_steps"] == 0.25
    assert metrics["learn/lag_max_steps"] == 1
    assert {"learn/importance_lag0_mean", "learn/importance_lag1_mean"} <= set(metrics)


def test_a_token_of_weights_that_do_not_exist_yet_is_a_bug(make_learner, make_group):
    with pytest.raises(AssertionError, match="the weights are 0"):
        make_learner().step(1, [make_group(MIXED, 1, step=1)])


def test_tokens_of_another_lineage_have_no_lag(make_learner, make_group):
    metrics = make_learner().step(1, [make_group(MIXED, 1, step=7, lineage=4)]).metrics
    assert "learn/lag_max_steps" not in metrics


def test_a_step_out_of_order_or_without_groups_is_refused(make_learner, make_group):
    learner = make_learner()
    with pytest.raises(ValueError, match="cannot follow"):
        learner.step(2, [make_group(MIXED, 1)])
    with pytest.raises(ValueError, match="empty"):
        learner.step(1, [])


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(make_learner, make_group):
    learner = make_learner()
    before = learner.checksum()
    group = make_group(MIXED, 1)
    bad = replace(group.rollouts[0], logprobs=np.full(len(group.rollouts[0].tokens), np.nan, np.float32))
    with pytest.raises(DivergedError, match="loss"):
        learner.step(1, [replace(group, rollouts=(bad, *group.rollouts[1:]))])
    assert learner.checksum() == before


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(make_learner, make_group, monkeypatch):
    def cusp(t):
        return Terms((t.new - t.new.detach()).abs().sqrt(), t.advantage > 0, token_mean)  # 0, with gradient 0 * inf

    monkeypatch.setitem(LOSSES, "cusp", cusp)
    learner = make_learner(loss={"name": "cusp"})
    before = learner.checksum()
    with pytest.raises(DivergedError, match="gradient"):
        learner.step(1, [make_group(MIXED, 1)])
    assert learner.checksum() == before


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"grad_norm": 1e-6}, "gradient norm is .*learners.limits.grad_norm = 1e-06"),
        ({"entropy_nats": 9.0}, "entropy collapsed to .*learners.limits.entropy_nats = 9"),
        ({"ess_frac": 0.9999}, "effective sample size collapsed to .*learners.limits.ess_frac = 0.9999"),
    ],
)
def test_a_limit_that_is_passed_leaves_the_weights_alone(make_learner, make_group, limits, cause):
    learner = make_learner(limits=limits)
    before = learner.checksum()
    with pytest.raises(DivergedError, match=cause):
        learner.step(1, [make_group(MIXED, 1)])
    assert learner.checksum() == before
    learner._section = learner._section.model_copy(update={"limits": LimitsSection()})
    learner.step(1, [make_group(MIXED, 1)])
    fresh = make_learner()
    fresh.step(1, [make_group(MIXED, 1)])
    assert learner.checksum() == fresh.checksum()


def test_what_a_family_earned_is_part_of_a_checkpoint(make_learner, make_group, tmp_path):
    learner = make_learner(advantage="receiver_baseline")
    learner.step(1, [make_group(MIXED, 1)])
    learner.save(tmp_path)
    resumed = make_learner(advantage="receiver_baseline")
    resumed.restore(tmp_path, lineage=1)
    assert resumed._treatment.baselines == learner._treatment.baselines == {"": 0.5}


def test_a_resumed_correction_goes_on_as_the_interrupted_one_would_have(make_learner, make_group, tmp_path):
    rule = {"advantage": "running_std", "noise": "backward", "on_failure": "ipw"}

    def batch(step):
        groups = [make_group((1.0, 0.0, None, 1.0), 2 * step + i, step=step) for i in range(2)]
        verdicts = [
            [(replace(r.verdicts[0], rates=Rates(0.1 * i, 0.2)),) for r in g.rollouts] for i, g in enumerate(groups)
        ]
        return [g.with_verdicts(v) for g, v in zip(groups, verdicts, strict=True)]

    learner = make_learner(**rule)
    learner.step(1, batch(0))
    learner.save(tmp_path)
    learner.saved()
    report = learner.step(2, batch(1))
    assert report.metrics["learn/noise_cosine"] < 1.0
    assert report.metrics["learn/noise_noop"] == 0.0
    resumed = make_learner(**rule)
    resumed.restore(tmp_path, lineage=0)
    resumed.step(2, batch(1))
    assert resumed.checksum() == learner.checksum()
    assert resumed._treatment.state() == learner._treatment.state()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_trains_on_shapes_that_hurt(make_learner, make_group, name):
    """One rollout, an empty completion, equal rewards, one token, cut at the limit: finite, and the version moves."""
    learner = make_learner(loss=name)
    alone, flat, lone_tokens = make_group((1.0,), 1), make_group(FLAT, 2), make_group(MIXED, 3, lengths=(1, 1, 1, 1))
    empty = make_group(MIXED, 4, lengths=(3, 3, 3, 3))
    nothing = replace(
        empty.rollouts[1],
        tokens=np.zeros(0, np.int32),
        logprobs=np.zeros(0, np.float32),
        loss_mask=np.zeros(0, bool),
        spans=(),
    )
    empty = replace(empty, rollouts=(empty.rollouts[0], nothing, *empty.rollouts[2:]))
    report = learner.step(1, [alone, flat, lone_tokens, empty])
    assert all(np.isfinite(value) for value in report.metrics.values())
    assert report.num_rollouts == 1 + 4 + 4 + 4
    learner.step(2, [make_group((1.0,), 5, step=1)])
    assert learner.version.step == 2


def test_clipping_acts_only_from_the_second_update_of_a_batch_on(make_learner, make_group):
    def batch():
        # the same question twice, so that the first update moves the ratios of the second
        return [make_group(MIXED, 1), make_group(MIXED, 1)]

    once = make_learner(lr=0.1).step(1, batch()).metrics
    twice = make_learner(lr=0.1, updates_per_step=2).step(1, batch()).metrics
    assert once["learn/clip_frac"] == 0
    assert twice["learn/clip_frac"] > 0
    assert (once["learn/updates"], twice["learn/updates"]) == (1, 2)


def test_the_kl_penalty_is_zero_at_the_initial_policy_and_pulls_back_to_it(make_learner, make_group):
    learner = make_learner(kl_coef=10.0, lr=1e-3)
    first = learner.step(1, [make_group(MIXED, 1)]).metrics
    assert first["learn/kl_reference_nats"] == 0
    reports = [learner.step(s, [make_group(FLAT, 1)]) for s in range(2, 8)]
    distances = [r.metrics["learn/kl_reference_nats"] for r in reports]
    assert reports[0].num_trained_tokens > 0  # advantage 0, yet the penalty needs them
    assert distances[-1] < distances[0]


def test_gradient_clipping_and_the_schedule_reach_the_optimiser(make_learner, make_group):
    learner = make_learner(schedule="linear", steps=4, warmup_steps=2, lr=1e-3)
    rates = [learner.step(s, [make_group(MIXED, s)]).metrics["learn/lr"] for s in (1, 2, 3, 4)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_interrupted_run_ends_in_the_weights_of_an_uninterrupted_one(make_learner, make_group, tmp_path, dtype):
    def train(learner, first, last):
        for step in range(first, last + 1):
            learner.step(step, [make_group(MIXED, step), make_group(MIXED, 20 + step)])

    options = {"dtype": dtype, "schedule": "cosine", "weight_decay": 0.01}
    whole = make_learner(**options)
    train(whole, 1, 5)
    first = make_learner(**options)
    train(first, 1, 3)
    first.save(tmp_path)
    train(first, 4, 5)  # saving does not disturb
    first.saved()
    resumed = make_learner(**options)
    resumed.restore(tmp_path, lineage=2)
    assert (resumed.version.lineage, resumed.version.step) == (2, 3)
    train(resumed, 4, 5)
    assert whole.checksum() == first.checksum() == resumed.checksum()


def cut(path: Path, num: int = 4) -> None:
    path.write_bytes(path.read_bytes()[:-num])


def swap_a_name(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"exp_avg:", b"exp_abc:", 1))


BROKEN = {
    "a missing rank": (lambda f: (f / STATE).rename(f / "state-0-of-2.safetensors"), OSError, "state-1-of-2.*missing"),
    "no rank": (lambda f: (f / STATE).unlink(), OSError, "state files of 0 savings"),
    "a cut file": (lambda f: cut(f / STATE), ValueError, "cut short"),
    "a lost piece": (lambda f: swap_a_name(f / STATE), ValueError, "exp_avg of .* is not whole"),
    "half the facts": (lambda f: cut(f / "learner.json"), ValueError, "learner.json: broken"),
    "no facts": (lambda f: (f / "learner.json").unlink(), OSError, "learner.json"),
    "half a random state": (lambda f: cut(f / "rng.pt", 100), ValueError, "rng.pt: broken"),
    "no random state": (lambda f: (f / "rng.pt").unlink(), OSError, "rng.pt"),
    "an old release": (lambda f: (f / "learner.json").write_text('{"step": 3}'), ValueError, "earlier release"),
}
STATE = "state-0-of-1.safetensors"


@pytest.mark.parametrize("how", BROKEN)
def test_broken_states_are_refused_by_name_and_leave_the_learner_alone(make_learner, make_group, tmp_path, how):
    learner = make_learner()
    learner.step(1, [make_group(MIXED, 1)])
    before = learner.checksum()
    learner.save(tmp_path)
    learner.saved()
    spoil, error, words = BROKEN[how]
    spoil(tmp_path)
    with pytest.raises(error, match=words):
        learner.restore(tmp_path, lineage=0)
    assert learner.checksum() == before


def test_a_state_of_another_model_is_refused(make_learner, tmp_path):
    learner = make_learner()
    learner.save(tmp_path)
    learner.saved()
    facts = tmp_path / "learner.json"
    facts.write_text(facts.read_text().replace("[300, 64]", "[150, 128]"))
    with pytest.raises(ValueError, match=r"another model; .*embed_tokens.weight is \(150, 128\), wanted \(300, 64\)"):
        learner.restore(tmp_path, lineage=0)


@pytest.mark.parametrize("every", [3, 100], ids=["buffer", "no buffer"])
def test_what_is_saved_is_the_state_of_that_moment_though_training_goes_on(make_learner, make_group, tmp_path, every):
    learner = make_learner(checkpoint_every=every)
    learner.step(1, [make_group(MIXED, 1)])
    first = learner.checksum()
    taken = learner.save(tmp_path)
    assert taken.bytes == 3 * 4 * sum(p.numel() for p in learner._model.parameters())
    assert taken.capture_s >= 0
    learner.step(2, [make_group(MIXED, 2, step=1)])
    learner.saved()
    assert learner.checksum() != first
    learner.restore(tmp_path, lineage=0)
    assert learner.checksum() == first
    assert learner.version.step == 1


def test_a_folder_that_is_gone_is_an_os_error_and_told_once(make_learner, tmp_path):
    learner = make_learner()
    learner.save(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        learner.saved()
    learner.saved()


def test_rewards_go_up_on_a_bandit(make_learner, make_group):
    """Forty on-policy steps, reward 1 for a token below 150: their probability, a half at first, goes up."""
    learner = make_learner(lr=3e-3, steps=40)
    rng, rewarded = np.random.default_rng(0), []
    for step in range(1, 41):
        group = make_group((0.0,) * 8, 1, step=step - 1, lengths=(1,) * 8)
        with torch.no_grad():
            ids = torch.tensor(group.prompt_tokens[None].astype(np.int64))
            logprobs = learner._model(input_ids=ids).logits[0, -1].log_softmax(-1).numpy()
        probs = np.exp(logprobs.astype(np.float64))
        rewarded.append(probs[:150].sum() / probs.sum())
        tokens = rng.choice(len(probs), 8, p=probs / probs.sum())
        rollouts = []
        for rollout, token in zip(group.rollouts, tokens, strict=True):
            verdict = replace(rollout.verdicts[0], value=float(token < 150))
            new = {"tokens": np.array([token], np.int32), "logprobs": logprobs[[token]], "verdicts": (verdict,)}
            rollouts.append(replace(rollout, **new))
        learner.step(step, [replace(group, rollouts=tuple(rollouts))])
    assert rewarded[0] < 0.55
    assert rewarded[-1] > 0.65


def test_a_folder_without_a_model_is_a_config_error(make_learner, tmp_path):
    with pytest.raises(ConfigError, match="not a model folder"):
        make_learner(model=tmp_path)


def test_a_disk_that_takes_no_more_is_an_os_error_and_the_learner_goes_on(make_learner, make_group, tmp_path):
    learner = make_learner()
    learner.step(1, [make_group(MIXED, 1)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "full").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # a real write fails, after its first bytes
    try:
        learner.save(tmp_path / "full")
        with pytest.raises(OSError, match="File too large"):
            learner.saved()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "full").glob("*.safetensors"))
    learner.step(2, [make_group(MIXED, 2, step=1)])
    (tmp_path / "good").mkdir()
    learner.save(tmp_path / "good")
    learner.saved()
    learner.restore(tmp_path / "good", 0)


def test_a_completion_of_ten_thousand_tokens_is_trained_on_as_its_rows_say(make_learner, make_group):
    lengths = (10_000, 3)
    groups = [make_group((1.0, 0.0), 1, lengths=lengths)]
    report = make_learner(micro_tokens=4096).step(1, groups)
    assert report.num_trained_tokens == sum(lengths)
    assert all(np.isfinite(value) for value in report.metrics.values())
    assert report.metrics["learn/grad_norm"] > 0


def test_the_last_token_of_the_vocabulary_is_learned_and_one_beyond_it_is_refused(make_learner, make_group):
    """Engines pad the vocabulary: they may say ids that the model does not have."""

    def group(token):
        whole = make_group((1.0, 0.0), 1, lengths=(3, 3))
        first = replace(whole.rollouts[0], tokens=np.array([5, token, 6], np.int32))
        return replace(whole, rollouts=(first, whole.rollouts[1]))

    learner = make_learner()
    before = learner.checksum()
    with pytest.raises(ValueError, match=rf"group g1: token {VOCAB} is outside the vocabulary of {VOCAB}"):
        learner.step(1, [group(VOCAB)])
    assert learner.checksum() == before
    assert learner.step(1, [group(VOCAB - 1)]).num_trained_tokens == 6


def test_a_correction_that_does_nothing_is_told_once_also_after_a_resume(make_learner, make_group, tmp_path):
    rule = {"advantage": "leave_one_out", "noise": "backward"}
    learner = make_learner(**rule)
    [told] = learner.step(1, [make_group(MIXED, 1)]).notices
    assert (told["event"], told["step"], told["kind"]) == ("noise", 1, "no rates")
    assert learner.step(2, [make_group(MIXED, 2)]).notices == ()
    learner.save(tmp_path)
    learner.saved()
    learner.close()
    resumed = make_learner(**rule)
    resumed.restore(tmp_path, 0)
    assert resumed.step(3, [make_group(MIXED, 3)]).notices == ()
