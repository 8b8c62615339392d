"""A trained reward model: { name = "reward_model", path = "path/to/model" }, in a killable process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rewarders.killable import Killable
from rewarders.process import ChildFailure, ChildTimeout
from rewarders.verdicts import for_all, number, scored, unscored
from swarm.config import Natural, Positive
from swarm.types import Group, Status, Verdict

Count = Annotated[int, Field(ge=1)]


class RewardModel:
    """The score that a sequence classifier (a folder as transformers saves it) gives to question and answer.

    With one label the score is its logit; with two, the log-odds of the second, which must mean the good one. With
    `probability` it goes through a sigmoid, into [0, 1]. The text is that of the model's chat template, where there is
    one, else question and answer as a pair; special tokens that an answer spells out are taken apart in it. More than
    `max_tokens` (0: as many as the model has positions) are not judged: an abstention; with `too_long = "truncate"` the
    last are left out. A score that is not finite is an error. `family` names what it was trained from: scorers of one
    family err together. `timeout_s` is for one group.
    """

    about_truth = False

    def __init__(
        self,
        *,
        path: str,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        device: str = "cpu",
        max_tokens: Natural = 0,
        too_long: Literal["abstain", "truncate"] = "abstain",
        probability: bool = False,
        batch: Count = 8,
        threads: Count = 1,
        family: str = "",
        timeout_s: Positive = 10.0,
    ) -> None:
        folder = Path(path).expanduser().resolve()
        if not (folder / "config.json").is_file():
            raise ValueError(f"path = {path!r}: wanted a model folder with a config.json")
        if too_long not in ("abstain", "truncate"):
            raise ValueError(f"too_long = {too_long!r}: wanted abstain or truncate")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype = {dtype!r}: wanted float32, bfloat16 or float16")
        self.name = "reward_model"
        self.family = family or str(folder)
        self._timeout_s = timeout_s
        options = {
            "folder": str(folder),
            "dtype": dtype,
            "device": device,
            "max_tokens": max_tokens,
            "truncate": too_long == "truncate",
            "probability": probability,
            "batch": batch,
            "threads": threads,
        }
        self.child = Killable("rewarders.child_reward_model:Scorer", options)

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        texts = [rollout.text for rollout in group.rollouts]
        job = {"system": group.prompt.system, "question": group.prompt.text, "answers": texts}
        try:
            found = await self.child.ask(job, self._timeout_s)
        except ChildFailure as failure:
            status = Status.TIMEOUT if isinstance(failure, ChildTimeout) else Status.ERROR
            return for_all(group, unscored(self.name, status, str(failure)))
        if not isinstance(found, list) or len(found) != len(texts):
            return for_all(group, unscored(self.name, Status.ERROR, "the scorer broke its protocol"))
        return [self._verdict(each) for each in found]

    def close(self) -> None:
        """Kill the child."""
        self.child.close()

    def _verdict(self, found: object) -> Verdict:
        match found:
            case {"tokens": int(num), "most": int(most)}:
                return unscored(self.name, Status.ABSTAINED, f"{num} tokens, more than {most}")
            case {"score": value} if (score := number(value)) is not None:
                return scored(self.name, score)
            case {"score": value}:
                return unscored(self.name, Status.ERROR, f"the score is {value!r}, not a finite number")
        return unscored(self.name, Status.ERROR, "the scorer broke its protocol")
