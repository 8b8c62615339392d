"""Error rates of several judges of one question where there is no gold: Dawid and Skene's model, held by sentinels.

    votes of J judges on N answers (+ sentinels, whose truth is known) -> classes of answers -> rates of each judge

Without sentinels the model takes what judges agree on for the truth: those that share a blind spot certify one another.
So sentinels are a class each family (`right`, and one or more kinds of wrong: `wrong`, `key`, ...), which enter with
their truth fixed and from whose votes the fit starts. An answer is right with its posterior of the class `right`, and
a judge's false accept rate is its accept rate over all other classes, as frequent as the fit finds them.

`shared_errors` is the check that needs no model: whether two judges err together on sentinels more than by chance.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.types import Rates

RIGHT = "right"
"""The class of right answers; all others are kinds of wrong ones."""

Votes = NDArray[np.float64]
"""float64 [N, J]: 1 accepted, 0 rejected, NaN where a judge abstained."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What the votes say."""

    rates: tuple[Rates, ...]
    """Of each judge."""
    right: NDArray[np.float64]
    """float64 [N]: the posterior of each answer to be right; NaN where no judge voted on it."""
    classes: Mapping[str, float]
    """Share of each class among the answers with a vote."""


def dawid_skene(votes: Votes, sentinels: Mapping[str, Votes] | None = None) -> Truth:
    """Fit the model to `votes`; `sentinels` are votes of the same judges on answers of known class.

    Without sentinels there are two classes, and the fit starts from the majority: then rates are what the judges
    certify of one another. Answers without any vote are left out. Raises ValueError for fewer than three judges without
    sentinels (not identified), for sentinels without right or without wrong answers, and where a judge never votes on
    the answers or on sentinels of a class: it would get rates from no votes.
    Source: Dawid and Skene 1979, by crowd-kit; differs in the classes and the start, as said above.
    """
    import pandas as pd

    names = _classes(sentinels, votes.shape[1])
    if silent := silence(votes, sentinels):
        raise ValueError("; ".join(f"judge {j} gave no vote on {where}" for j, where in silent.items()))
    posterior = np.full(len(votes), np.nan)
    voted = ~np.isnan(votes).all(axis=1)
    votes = votes[voted]
    num, judges = votes.shape
    known = [(k, row) for k, name in enumerate(names) for row in (sentinels or {}).get(name, ())]
    every = np.vstack([votes, *(row for _, row in known)])
    task, judge = np.nonzero(~np.isnan(every))
    given = np.stack([task, judge, np.where(every[task, judge] >= 0.5, _ACCEPT, _REJECT)], 1)
    # Classes are labels that somebody gave: one more judge knows the class of every sentinel, and judges nothing else.
    told = np.array([(num + i, judges, k) for i, (k, _) in enumerate(known)], int).reshape(-1, 3)
    data = pd.DataFrame(np.vstack([given, told]), columns=["task", "worker", "label"])
    if known:
        truth = pd.Series({num + i: k for i, (k, _) in enumerate(known)})
        model = _fitted(data, truth, _start(known, judges, len(names)))
    else:
        model = _fitted(data)
    every_class = range(len(names))
    found = model.probas_.reindex(range(num), columns=every_class, fill_value=0.0).to_numpy()
    index = pd.MultiIndex.from_product([range(judges), [_ACCEPT]])
    accepts = model.errors_.reindex(index, columns=every_class, fill_value=0.0).to_numpy()
    share = found.mean(axis=0)
    wrong = share[1:] / max(share[1:].sum(), 1e-12)
    rates = tuple(Rates(float(a[1:] @ wrong), float(1.0 - a[0])) for a in accepts)
    posterior[voted] = found[:, 0]
    return Truth(rates, posterior, dict(zip(names, share.tolist(), strict=True)))


def silence(votes: Votes, sentinels: Mapping[str, Votes] | None = None) -> dict[int, str]:
    """Judges that never voted on the answers, or on sentinels of a class, and on which: they can be given no rates."""
    parts = {"the answers": votes, **{f"{name} sentinels": rows for name, rows in (sentinels or {}).items()}}
    given = {where: (~np.isnan(rows)).any(axis=0) for where, rows in parts.items()}
    silent = {j: [where for where, any_of in given.items() if not any_of[j]] for j in range(votes.shape[1])}
    return {j: ", ".join(where) for j, where in silent.items() if where}


@dataclass(frozen=True, slots=True)
class Shared:
    """Two judges that err together."""

    judges: tuple[int, int]
    on: str
    """`right` or `wrong` answers."""
    correlation: float
    """Of their errors, phi."""
    p: float
    """One-sided, Fisher's exact test, times the number of tests made."""


def shared_errors(sentinels: Mapping[str, Votes], level: float = 0.01) -> list[Shared]:
    """Pairs of judges whose errors on sentinels go together, at a family-wise level; empty where none do.

    Families of wrong answers are taken together: a family by which two judges are fooled and a third is not is just
    what this is to find. A judge's abstentions are left out.
    """
    parts = {RIGHT: [v for name, v in sentinels.items() if name == RIGHT]}
    parts["wrong"] = [v for name, v in sentinels.items() if name != RIGHT]
    found = [
        _shared(np.vstack(votes), pair, on)
        for on, votes in parts.items()
        if votes
        for pair in combinations(range(votes[0].shape[1]), 2)
    ]
    corrected = [Shared(s.judges, s.on, s.correlation, min(s.p * len(found), 1.0)) for s in found]
    return [s for s in corrected if s.p < level]


def _shared(votes: Votes, pair: tuple[int, int], on: str) -> Shared:
    from scipy.stats import fisher_exact

    both = votes[:, pair]
    accepted = both[~np.isnan(both).any(axis=1)] >= 0.5
    errs = accepted != (on == RIGHT)
    table = np.array([[int((errs == (a, b)).all(axis=1).sum()) for b in (True, False)] for a in (True, False)])
    margins = float(np.sqrt(np.prod([*table.sum(axis=0), *table.sum(axis=1)], dtype=np.float64)))
    phi = float(table[0, 0] * table[1, 1] - table[0, 1] * table[1, 0]) / margins if margins else 0.0
    return Shared(pair, on, phi, float(fisher_exact(table, alternative="greater").pvalue))


_ACCEPT, _REJECT = 0, 1
"""Labels of votes, in the order of the classes `right` and the first wrong one."""
_STEPS, _HELD_STEPS = 100, 20
"""Of the expectation-maximisation, without and with sentinels. A few judges cannot tell more than two classes apart by
themselves: in many steps the fit leaves what the sentinels said along directions that the votes do not fix."""
_NEVER = -np.inf
"""All steps are made. What crowd-kit watches to stop counts the prior of an answer once for each of its votes, so it
may fall while the fit gets better."""


def _classes(sentinels: Mapping[str, Votes] | None, judges: int) -> list[str]:
    """`right` first, then the kinds of wrong answers, `wrong` before the others."""
    if not sentinels:
        if judges < 3:
            raise ValueError(f"{judges} judges: without sentinels at least three are needed")
        return [RIGHT, "wrong"]
    names = sorted(set(sentinels) - {RIGHT}, key=lambda name: (name != "wrong", name))
    if RIGHT not in sentinels or not names:
        raise ValueError(f"sentinels of {sorted(sentinels)}: wanted some that are {RIGHT!r} and some of another class")
    return [RIGHT, *names]


def _fitted(data: Any, truth: Any = None, start: Any = None) -> Any:
    from crowdkit.aggregation import DawidSkene

    steps, strategy = (_STEPS, None) if start is None else (_HELD_STEPS, "assign")
    with warnings.catch_warnings():  # of calls that pandas is going to drop, at every step
        warnings.simplefilter("ignore", DeprecationWarning)
        return DawidSkene(n_iter=steps, tol=_NEVER, initial_error_strategy=strategy).fit(data, truth, start)


def _start(known: Sequence[tuple[int, Votes]], judges: int, classes: int) -> Any:
    """Error matrices as the sentinels alone give them, half an answer of each kind added."""
    import pandas as pd

    accept = np.empty((judges, classes))
    for k in range(classes):
        rows = np.array([row for at, row in known if at == k])
        accept[:, k] = (np.nansum(rows >= 0.5, axis=0) + 0.5) / ((~np.isnan(rows)).sum(axis=0) + 1.0)
    table = {(j, label): p for j in range(judges) for label, p in ((_ACCEPT, accept[j]), (_REJECT, 1.0 - accept[j]))}
    table |= {(judges, k): np.eye(classes)[k] for k in range(classes)}
    index = pd.MultiIndex.from_tuples(table, names=["worker", "label"])
    return pd.DataFrame(list(table.values()), index=index, columns=range(classes))
