"""An example of every rewarder: how it is made, what it judges, what is right and what is wrong there.

A rewarder that is registered must be in `EXAMPLES`, or in `NOT_HERE` with the reason; the contract suite and the
hostile suite then run over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rewarders.bleu import Bleu
from rewarders.cascade import Cascade
from rewarders.choice import Choice
from rewarders.code import Code
from rewarders.ensemble import Ensemble
from rewarders.exact import Exact
from rewarders.function import Function
from rewarders.gate import Gate
from rewarders.guard import Guard
from rewarders.hybrid import Hybrid
from rewarders.json_schema import JsonSchema
from rewarders.judge_simulator import JudgeSimulator
from rewarders.length import Length
from rewarders.math_verify import MathVerify
from rewarders.noisy import Noisy
from rewarders.numeric import Numeric
from rewarders.pattern import Pattern
from rewarders.principles import Principles
from rewarders.reasoning_gym import ReasoningGym
from rewarders.route import Route
from rewarders.rubric import Rubric
from rewarders.truth import Truth
from rewarders.weighted import Weighted
from rewarders.yes_no import YesNo

# A reasoning-gym entry that most rewarders can judge: its answer is a number.
QUESTION, ANSWER = "State the final answer to the following arithmetic problem: 484 + 229 =", "713"
PLACE = {"family": "chain_sum", "seed": 3, "size": 100, "index": 5, "config": {"max_terms": 2}}

HOLDS_IT = f'It contains "{ANSWER}".'

LIMIT_S = 60.0
"""Of one group: large ones are judged here, on busy machines."""

USERS = """
def same(completions, answer, **columns):
    return [None if a is None else float(c == a) for c, a in zip(completions, answer)]
"""
"""What the suites write to `contract_rewards.py` in the current directory."""


@dataclass(frozen=True)
class Example:
    make: Callable[[], Any]
    answer: str = ANSWER
    right: str = ANSWER
    wrong: tuple[str, str] = ("12345", "no idea")
    values: tuple[float, float] = (1.0, 0.0)
    """Of a right and of a wrong answer."""
    task: Mapping[str, Any] = field(default_factory=lambda: PLACE)
    needs_answer: bool = True
    """Whether it abstains from a prompt without answer and task data."""
    graded: bool = False
    """Whether text that holds the answer among other things is worth something."""
    pays_any_text: str = ""
    """Why text that says nothing may earn a reward here."""

    @property
    def group(self) -> dict[str, Any]:
        """What `make_group` takes beside the texts."""
        return {"question": QUESTION, "answer": self.answer, "task": self.task}


EXAMPLES: dict[str, Example] = {
    "exact": Example(Exact),
    "numeric": Example(Numeric),
    "choice": Example(Choice, answer="B", right="The answer is (B).", wrong=("A", "no idea")),
    "pattern": Example(lambda: Pattern(pattern="[0-9]{3}", timeout_s=LIMIT_S), needs_answer=False),
    "json_schema": Example(lambda: JsonSchema(timeout_s=LIMIT_S), task=PLACE | {"schema": {"const": 713}}),
    "bleu": Example(lambda: Bleu(timeout_s=LIMIT_S), graded=True),
    "length": Example(
        lambda: Length(most=4, shape="within", unit="characters"),
        needs_answer=False,
        pays_any_text="it measures how long a text is, not whether it is right",
    ),
    "truth": Example(lambda: Truth(rule=Exact()), values=(1.0, -1.0)),
    "reasoning_gym": Example(lambda: ReasoningGym(timeout_s=LIMIT_S), graded=True),
    "math_verify": Example(lambda: MathVerify(timeout_s=LIMIT_S)),
    "code": Example(
        lambda: Code(timeout_s=LIMIT_S),
        right=f"```python\nprint({ANSWER})\n```",
        wrong=("```python\nprint(1)\n```", "no idea"),
        task={"tests": [{"input": "", "output": ANSWER}]},
    ),
    "function": Example(lambda: Function(path="contract_rewards:same", timeout_s=LIMIT_S)),
    "yes_no": Example(lambda: YesNo(judge=JudgeSimulator())),
    "rubric": Example(lambda: Rubric(judge=JudgeSimulator(), criteria=[HOLDS_IT]), needs_answer=False, graded=True),
    "principles": Example(
        lambda: Principles(judge=JudgeSimulator(), principles=[HOLDS_IT]), needs_answer=False, graded=True
    ),
    "gate": Example(lambda: Gate(when=Exact(), then=Exact())),
    "guard": Example(lambda: Guard(of=Exact())),
    "weighted": Example(lambda: Weighted(of=[Exact(), Exact()], weights=[0.5, 0.5])),
    "route": Example(lambda: Route(to={}, otherwise=Exact())),
    "cascade": Example(lambda: Cascade(rule=Exact(), appeal=Exact(), replaces=True)),
    "noisy": Example(lambda: Noisy(of=Exact())),
    "hybrid": Example(lambda: Hybrid(rule=Exact(), soft=Exact())),
    "ensemble": Example(lambda: Ensemble(of=[Exact(), Exact()], how="min")),
}

NOT_HERE: dict[str, str] = {
    "pairwise": "compares, and knows of no right answer: tests/rewarders/test_judges.py",
    "reward_model": "needs a model, and its scores have no right and wrong: tests/rewarders/test_reward_model.py",
    "par": "shapes scores that have no right and wrong: tests/rewarders/test_curves.py",
    "lsc": "as par",
}
"""Rewarders without right and wrong texts, or that need a model or a network; and where they are tested instead."""
