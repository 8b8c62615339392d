"""`reward/appeals`, `reward/accuracy`, `reward/crowd`, `reward/failures`: what can be known of verifiers, and of
accuracy, where the truth is simulated and so known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.bench import Bench, Cell, Figure, Result
from cluster.bench_reward_noise import heard
from cluster.statistics import Estimate, prediction_powered, proportion, rogan_gladen
from learners import failures
from rewarders.channels import Channel, Evidence, channel_of
from rewarders.crowd import Truth, dawid_skene, shared_errors
from swarm.types import Rates

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def share(name: str, hits: Sequence[bool], low: float | None = None, high: float | None = None) -> Figure:
    """A share with its Wilson interval, and whether it is from `low` to `high`."""
    value, (least, most) = sum(hits) / len(hits), proportion(sum(hits), len(hits))
    bounds = [f"{sign} {x:g}" for sign, x in ((">=", low), ("<=", high)) if x is not None]
    holds = (low is None or value >= low) and (high is None or value <= high)
    return Figure(name, value, least, most, " and ".join(bounds), holds if bounds else None, f"of {len(hits)}")


class Appeals(Bench):
    """E6: a tenth of a rule's negatives is shown to a judge that errs itself."""

    name = "reward/appeals"
    goal = "the rule's false reject rate by appeals, corrected for the judge's own errors, within 0.03 of the truth"
    wall = ("30 s", "10 s")
    judges: Mapping[str, tuple[float, float]] = {
        "true accepts 0.95, false 0": (0.95, 0.0),
        "true accepts 0.95, false 0.05": (0.95, 0.05),
        "true accepts 0.8, false 0": (0.8, 0.0),
    }
    p1, accuracy, q, items, steps, stays, probes = 0.3, 0.4, 0.1, 1024, 100, 0.9, 1000

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"judge": judge, "seeds": 10 if quick else 200} for judge in self.judges]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        plain, corrected, inside = [], [], []
        for seed in range(cell["seeds"]):
            evidence, judge = self._evidence(np.random.default_rng(seed), *self.judges[cell["judge"]])
            plain.append(channel_of(evidence).false_reject.mean)
            found = channel_of(evidence, judge).false_reject
            corrected.append(found.mean)
            low, high = found.interval()
            inside.append(low <= self.p1 <= high)
        return {"plain": plain, "corrected": corrected, "inside": inside}

    def _evidence(self, rng: np.random.Generator, t: float, f: float) -> tuple[Evidence, Channel]:
        """What is left of all steps at the end, and the judge's channel from `probes` answers of each kind."""
        evidence = Evidence()
        for _ in range(self.steps):
            right = rng.random(self.items) < self.accuracy
            rejected = ~right | (rng.random(self.items) < self.p1)
            shown = rejected & (rng.random(self.items) < self.q)
            accepted = heard(right[shown], f, 1.0 - t, rng.random(int(shown.sum())))
            evidence = evidence.faded(self.stays) + Evidence(
                positives=float((~rejected).sum()),
                negatives=float(rejected.sum()),
                appealed=len(accepted) / self.q,
                appealed_squares=len(accepted) / self.q**2,
                overturned=float(accepted.sum()) / self.q,
            )
        errors = rng.binomial(self.probes, (f, 1.0 - t)).tolist()
        return evidence, channel_of(Evidence(self.probes, errors[0], self.probes, errors[1]))

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out = []
        for r in results:
            judge, v = r.cell["judge"], r.values
            out.append(Figure.of(f"false reject rate (true 0.3), not corrected, {judge}", v["plain"]))
            note = f"standard deviation {np.std(v['corrected']):.3f}"
            out.append(Figure.of(f"the same, corrected, {judge}", v["corrected"], note=note))
            errors = np.abs(np.array(v["corrected"]) - self.p1).tolist()
            out.append(Figure.of(f"error, corrected, {judge}", errors, "<= 0.03", f"largest {max(errors):.3f}"))
            out.append(share(f"95 % interval covers, {judge}", v["inside"]))
        return out


class Accuracy(Bench):
    """E7: accuracy from 5000 noisy verdicts and 200 gold answers."""

    name = "reward/accuracy"
    goal = "prediction-powered and Rogan-Gladen intervals cover at their level where each should"
    wall = ("1 min", "10 s")
    settings: Mapping[str, tuple[float, float, float]] = {
        "rates 0.1 and 0.2": (0.1, 0.2, 0.4),
        "gold at another accuracy, 0.7": (0.1, 0.2, 0.7),
        "rates 0.3 and 0.3": (0.3, 0.3, 0.4),
    }
    truth, judged, gold = 0.4, 5000, 200

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"setting": s, "repeats": 200 if quick else 2000} for s in self.settings]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        p0, p1, gold_truth = self.settings[cell["setting"]]
        rng = np.random.default_rng(0)
        found: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(cell["repeats"]):
            right, known = rng.random(self.judged) < self.truth, rng.random(self.gold) < gold_truth
            said, of_known = heard(right, p0, p1, rng.random(self.judged)), heard(known, p0, p1, rng.random(self.gold))
            estimates = [
                Estimate(float(said.mean()), *proportion(int(said.sum()), self.judged), "raw mean"),
                Estimate(float(known.mean()), *proportion(int(known.sum()), self.gold), "gold only"),
                prediction_powered(known.astype(float), of_known, said),
                rogan_gladen(
                    said.sum(),
                    self.judged,
                    wrong=float((~known).sum()),
                    accepted_wrong=of_known[~known].sum(),
                    right=float(known.sum()),
                    rejected_right=(1.0 - of_known[known]).sum(),
                ),
            ]
            for e in estimates:
                found.setdefault(e.label, []).append((float(e.value), float(e.low), float(e.high)))
        return {label: np.transpose(values).tolist() for label, values in found.items()}

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out = []
        for r in results:
            setting = r.cell["setting"]
            for label, (value, low, high) in r.values.items():
                note = f"standard deviation {np.std(value):.3f}"
                out.append(Figure.of(f"accuracy (true 0.4), {label}, {setting}", value, note=note))
                hits = [a <= self.truth <= b for a, b in zip(low, high, strict=True)]
                same_stream = label == "prediction-powered" and self.settings[setting][2] == self.truth
                bounds = (0.935, 0.965) if same_stream or label == "Rogan-Gladen" else (None, None)
                out.append(share(f"95 % interval covers, {label}, {setting}", hits, *bounds))
                out.append(
                    Figure.of(f"interval's half width, {label}, {setting}", (np.subtract(high, low) / 2).tolist())
                )
        return out


RATES = ((0.1, 0.2), (0.15, 0.25), (0.2, 0.15), (0.1, 0.3), (0.25, 0.1))
"""Of five judges: false accepts, false rejects."""


class Crowd(Bench):
    """E8: rates of judges without gold, and what sentinels are for."""

    name = "reward/crowd"
    goal = "Dawid-Skene's rates get better with n; colluding judges are caught by sentinels, and only by them"
    wall = ("4 min", "1 min")
    sizes = (200, 500, 2000, 10_000)
    repeats: Mapping[int, int] = {200: 8, 500: 8, 2000: 4, 10_000: 2}
    prior, keys, sentinels, coin = 0.4, 0.2, 50, 0.8

    def cells(self, quick: bool) -> Sequence[Cell]:
        sizes = self.sizes[:2] if quick else self.sizes
        out = [{"what": "rates", "judges": j, "n": n, "repeats": self.repeats[n]} for j in (3, 5) for n in sizes]
        return [*out, *({"what": w, "judges": j, "n": 2000, "repeats": 2 if quick else 6} for w, j in _COLLUSION)]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        run = {"rates": self._rates, "a key fools two": self._keys, "a shared coin": self._coin}[cell["what"]]
        seeds = range(100, 100 + cell["repeats"])  # the steps of the fit were chosen on seeds 0 to 2
        found = [run(np.random.default_rng(seed), cell["n"], cell["judges"]) for seed in seeds]
        return {key: [f[key] for f in found] for key in found[0]}

    def _votes(self, rng: np.random.Generator, right: Bools, judges: int) -> Floats:
        return np.stack([heard(right, *RATES[j], rng.random(len(right))) for j in range(judges)], axis=1)

    def _known(self, rng: np.random.Generator, judges: int) -> dict[str, Floats]:
        return {name: self._votes(rng, np.full(self.sentinels, name == "right"), judges) for name in ("right", "wrong")}

    def _rates(self, rng: np.random.Generator, n: int, judges: int) -> dict[str, Any]:
        right = rng.random(n) < self.prior
        votes = self._votes(rng, right, judges)
        fit = dawid_skene(votes)
        return {
            "error": _error(fit, [Rates(*RATES[j]) for j in range(judges)]),
            "over_majority": float(((fit.right > 0.5) == right).mean() - ((votes.mean(axis=1) > 0.5) == right).mean()),
            "alarm": bool(shared_errors(self._known(rng, judges))),
        }

    def _keys(self, rng: np.random.Generator, n: int, judges: int) -> dict[str, Any]:
        """A fifth of the answers are keys, which are wrong and which the first two judges always accept."""
        key = rng.random(n) < self.keys
        right = ~key & (rng.random(n) < self.prior)
        votes, known = self._votes(rng, right, judges), self._known(rng, judges)
        known["key"] = self._votes(rng, np.zeros(self.sentinels, bool), judges)
        votes[key, :2] = known["key"][:, :2] = 1.0
        on_key = self.keys / (self.keys + (1.0 - self.keys) * (1.0 - self.prior))
        accept = [on_key * (j < 2) + (1.0 - on_key * (j < 2)) * RATES[j][0] for j in range(judges)]
        true = [Rates(a, RATES[j][1]) for j, a in enumerate(accept)]
        alone, anchored = dawid_skene(votes), dawid_skene(votes, known)
        return {
            "error_alone": _error(alone, true),
            "error_anchored": _error(anchored, true),
            "worst_anchored": _errors(anchored, true).max(),
            "reported": alone.rates[0].false_accept,
            "true": true[0].false_accept,
            "key_accuracy_alone": float((alone.right[key] <= 0.5).mean()),
            "key_accuracy_anchored": float((anchored.right[key] <= 0.5).mean()),
            "alarm": (0, 1) in [s.judges for s in shared_errors(known) if s.on == "wrong"],
        }

    def _coin(self, rng: np.random.Generator, n: int, judges: int) -> dict[str, Any]:
        """With probability `coin`, once for an answer, the second and third judge say what the first says."""
        right = rng.random(n) < self.prior
        known = self._known(rng, judges)
        votes = self._votes(rng, right, judges)
        for part in (votes, *known.values()):
            same = rng.random(len(part)) < self.coin
            part[same, 1:3] = part[same, :1]
        # A follower's rates are then a mixture of its leader's and its own.
        true = [
            Rates(
                *(
                    self.coin * a + (1.0 - self.coin) * b if j in (1, 2) else b
                    for a, b in zip(RATES[0], RATES[j], strict=True)
                )
            )
            for j in range(judges)
        ]
        fit, anchored = dawid_skene(votes), dawid_skene(votes, known)
        return {
            "error_alone": _error(fit, true),
            "error_anchored": _error(anchored, true),
            "accuracy": float(((fit.right > 0.5) == right).mean()),
            "majority": float(((votes.mean(axis=1) > 0.5) == right).mean()),
            "alarm": bool(shared_errors(known)),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out, alarms = [], []
        errors: dict[tuple[int, int], float] = {}
        for r in (r for r in results if r.cell["what"] == "rates"):
            judges, n, v = r.cell["judges"], r.cell["n"], r.values
            errors[judges, n] = float(np.mean(v["error"]))
            note = f"mean {errors[judges, n]:.3f}; accuracy over majority {np.mean(v['over_majority']):+.3f}"
            out.append(Figure.of(f"mean error of rates, {judges} judges, n = {n}", v["error"], _GOALS.get(n, ""), note))
            alarms += v["alarm"]
        for judges in (3, 5):
            sizes = sorted(n for j, n in errors if j == judges)
            ratio = errors[judges, sizes[-1]] / errors[judges, sizes[0]]
            goal = f"error at n = {sizes[-1]} over n = {sizes[0]}, {judges} judges"
            out.append(Figure(goal, ratio, ratio, ratio, "<= 0.5", ratio <= 0.5))
        out.append(share("alarm on judges that err alone", alarms, high=0.05))
        for r in (r for r in results if r.cell["what"] != "rates"):
            what, v = r.cell["what"], r.values
            goals = {"error_anchored": "<= 0.05", "worst_anchored": "<= 0.05"} if what == "a key fools two" else {}
            out += [Figure.of(f"{_SAID[k]}, {what}", v[k], goals.get(k, "")) for k in v if k != "alarm"]
            out.append(share(f"alarm, {what}", v["alarm"], low=0.95))
        return out


_COLLUSION = (("a key fools two", 3), ("a shared coin", 5))
_GOALS = {2000: "<= 0.02", 10_000: "<= 0.01"}
_SAID = {
    "error_alone": "mean error of rates without sentinels",
    "error_anchored": "mean error of rates with 50 sentinels a family",
    "worst_anchored": "largest error of a rate with 50 sentinels a family",
    "reported": "false accept rate of a fooled judge without sentinels",
    "true": "its true one",
    "key_accuracy_alone": "accuracy on keys without sentinels",
    "key_accuracy_anchored": "accuracy on keys with sentinels",
    "accuracy": "accuracy without sentinels",
    "majority": "accuracy of the majority",
}


def _errors(fit: Truth, true: Sequence[Rates]) -> Floats:
    return np.abs(
        [
            [f.false_accept - t.false_accept, f.false_reject - t.false_reject]
            for f, t in zip(fit.rates, true, strict=True)
        ]
    )


def _error(fit: Truth, true: Sequence[Rates]) -> float:
    return float(_errors(fit, true).mean())


class Failures(Bench):
    """E12: timeouts that favour short answers."""

    name = "reward/failures"
    goal = (
        "inverse-propensity weights give the accuracy within 0.005 where timeouts follow length; 0 and masking do not"
    )
    wall = ("30 s", "10 s")
    num = 200_000

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"seed": seed, "num": self.num} for seed in range(2 if quick else 10)]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        rng = np.random.default_rng(cell["seed"])
        z = rng.standard_normal(cell["num"])
        lengths = np.exp(5.0 + 0.6 * z).astype(int) + 1
        right = rng.random(cell["num"]) < 1.0 / (1.0 + np.exp(0.44 - 0.62 * z))
        lost = rng.random(cell["num"]) < 0.3 / (1.0 + np.exp(2.0 - 1.2 * z))
        counts = failures.counted({}, zip(lengths.tolist(), (~lost).tolist(), strict=True))
        kept = ~lost
        weights = np.array([failures.weight(counts, n) for n in lengths[kept].tolist()])
        return {
            "accuracy": {
                "the truth": float(right.mean()),
                "failures as 0": float((right & kept).mean()),
                "masked": float(right[kept].mean()),
                "ipw": float(np.average(right[kept], weights=weights)),
            },
            "correlation": {
                "the truth": _correlation(lengths, right),
                "failures as 0": _correlation(lengths, right & kept),
                "masked": _correlation(lengths[kept], right[kept]),
                "ipw": _correlation(lengths[kept], right[kept], weights),
            },
            "lost": {"right": float(lost[right].mean()), "wrong": float(lost[~right].mean())},
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        values = [r.values for r in results]
        out = []
        for arm in values[0]["accuracy"]:
            out.append(Figure.of(f"accuracy, {arm}", [v["accuracy"][arm] for v in values]))
            if arm != "the truth":
                errors = [abs(v["accuracy"][arm] - v["accuracy"]["the truth"]) for v in values]
                out.append(Figure.of(f"error of accuracy, {arm}", errors, "<= 0.005" if arm == "ipw" else ""))
            name = f"correlation of length and reward, {arm}"
            out.append(Figure.of(name, [v["correlation"][arm] for v in values]))
        out += [Figure.of(f"lost of {kind} answers", [v["lost"][kind] for v in values]) for kind in values[0]["lost"]]
        return out


def _correlation(lengths: NDArray[Any], right: Bools, weights: Floats | None = None) -> float:
    covariance = np.cov(lengths, right, aweights=weights)
    return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
