"""How long a completion is, as a component of its own: it stands beside the other verdicts and is in none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from rewarders.verdicts import scored
from swarm.types import Group, Verdict

SHAPES: dict[str, Callable[[int, int], float]] = {
    "shorter": lambda count, most: 1 - min(count / most, 1.0),
    "longer": lambda count, most: min(count / most, 1.0),
    "within": lambda count, most: float(count <= most),
}


class Length:
    """The number of tokens or characters, shaped to [0, 1] by `most`.

    `shorter` falls from 1 for an empty completion to 0 from `most` on, `longer` rises so, `within` is 1 up to `most`.
    The bare count is in the verdict's parts. Give it a small weight: alone it pays for saying nothing.
    """

    about_truth = False

    def __init__(
        self,
        *,
        most: int,
        shape: Literal["shorter", "longer", "within"] = "shorter",
        unit: Literal["tokens", "characters"] = "tokens",
    ) -> None:
        if most < 1:
            raise ValueError(f"most = {most}: wanted at least 1, in {unit}")
        for option, value, there in (("shape", shape, SHAPES), ("unit", unit, ("tokens", "characters"))):
            if value not in there:
                raise ValueError(f"{option} = {value!r}: wanted one of {', '.join(there)}")
        self.name = "length"
        self._most, self._unit = most, unit
        self._shape = SHAPES[shape]

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        counts = [len(r.tokens) if self._unit == "tokens" else len(r.text) for r in group.rollouts]
        return [scored(self.name, self._shape(count, self._most), parts={self._unit: float(count)}) for count in counts]

    def close(self) -> None:
        """Nothing to release."""
