"""What judging rewarders have in common: prompts that hostile text cannot leave, answers read strictly, failures named.

    template + fields --fill--> one user message --ChatModel.ask--> Reply --yes_prob--> [0, 1], or None: no answer

Placeholders are substituted in one pass, so text that holds `{reference}` stays text. Each field is fenced with more
backticks than it contains, and the control tokens of chat templates (`<|im_end|>`, `[/INST]`, ...) are broken in it: a
server would read them as the end of our message. None of this keeps a judge from believing what it reads; it only
keeps data where data belongs.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from rewarders.chat import BudgetSpent, ChatModel, Reply, TooLong
from rewarders.verdicts import unscored
from swarm.types import Group, Rollout, Status, Verdict

LONGEST_TEXT = 20_000
"""Characters from the end of a field that a judge is shown."""
LEAST_MASS = 0.5
"""Smallest probability that the wanted words must have together for their shares to count as an answer, where the
answer itself is none of them."""
ANSWER_TOKENS = 8

PLACE = re.compile(r"\{([a-z_]+)\}")
CONTROL = re.compile(
    r"<(?=[|\uff5c][^<>\n]{1,40}[|\uff5c]>)|<(?=/?s>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk)>)|\[(?=/?INST\])"
)
FENCED = re.compile(r"^([A-Z][^\n]{0,80}):\n(`{3,})\n(.*?)\n\2$", re.DOTALL | re.MULTILINE)
WORD = re.compile(r"[^\W_]+")

T = TypeVar("T")


def fill(template: str, fields: Mapping[str, str]) -> str:
    """The template with each `{name}` of `fields` in its place; other braces, and those in the fields, stay."""
    return PLACE.sub(lambda found: fields.get(found[1], found[0]), template)


def check_template(template: str, wanted: Sequence[str]) -> None:
    """Raises ValueError where a placeholder is missing or unknown."""
    found = PLACE.findall(template)
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"template: lacks {{{missing[0]}}}; wanted {', '.join(f'{{{name}}}' for name in wanted)}")
    if unknown := [name for name in found if name not in wanted]:
        raise ValueError(f"template: {{{unknown[0]}}} is nothing that is filled in; known: {', '.join(wanted)}")


def fenced(text: str) -> str:
    """A text between lines of more backticks than it has in a row, made encodable and at most LONGEST_TEXT long."""
    text = text.encode("utf-8", "replace").decode()
    left_out = len(text) - LONGEST_TEXT
    if left_out > 0:
        text = f"[{left_out} characters left out]\n{text[-LONGEST_TEXT:]}"
    text = CONTROL.sub(lambda found: found[0] + "\u200b", text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def block(label: str, text: str) -> str:
    """A labelled fenced text and an empty line."""
    return f"{label}:\n{fenced(text)}\n\n"


def blocks(message: str) -> dict[str, str]:
    """The labelled fenced texts of a message, by label: the first of each. What `block` wrote, read back."""
    found: dict[str, str] = {}
    for label, _, text in FENCED.findall(message):
        found.setdefault(label, text)
    return found


def word_of(text: str, wanted: Sequence[str]) -> str | None:
    """Which of the wanted words an answer is: its first word, where no other of them occurs."""
    words = [word.casefold() for word in WORD.findall(text)]
    if not words or words[0] not in wanted or len({word for word in words if word in wanted}) > 1:
        return None
    return words[0]


def yes_prob(reply: Reply) -> float | None:
    """P(yes) over P(yes) + P(no) where the server gives probabilities, else 1 or 0 by the text; None for no answer."""
    word = word_of(reply.text, ("yes", "no"))
    if not reply.choices:
        return None if word is None else float(word == "yes")
    yes, no = reply.choices.get("yes", 0.0), reply.choices.get("no", 0.0)
    clear = yes + no >= LEAST_MASS or (word is not None and yes + no > 0.0)  # a small model spreads over many openings
    return yes / (yes + no) if clear else None


async def ask_yes(judge: ChatModel, message: str) -> tuple[float | None, str]:
    """P(yes) and the judge's words. Raises as `ChatModel.ask`."""
    messages = [{"role": "user", "content": message}]
    reply = await judge.ask(messages, max_tokens=ANSWER_TOKENS, choices=("yes", "no"))
    return yes_prob(reply), reply.text


def thresholded(prob: float, threshold: float | None) -> float:
    """The probability itself, or whether it is at least the threshold."""
    return prob if threshold is None else float(prob >= threshold)


def check_threshold(threshold: float | None) -> None:
    """Raises ValueError for one outside (0, 1]."""
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold = {threshold!r}: wanted a probability above 0, at most 1")


async def for_each(
    name: str, rollouts: Sequence[Rollout], one: Callable[[Rollout], Coroutine[Any, Any, Verdict]]
) -> list[Verdict]:
    """`one` on all rollouts at once, in order; its failures are verdicts. Raises BudgetSpent."""

    async def guarded(rollout: Rollout) -> Verdict:
        began = time.monotonic()
        try:
            return await one(rollout)
        except BudgetSpent:
            raise
        except (TimeoutError, ConnectionError, ValueError) as error:
            return failed(name, error, time.monotonic() - began)

    return await together([guarded(rollout) for rollout in rollouts])


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order. The first error cancels the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def failed(name: str, error: Exception, seconds: float = 0.0) -> Verdict:
    """The verdict where a judge could not be asked, or answered against the protocol; what it can never read is an
    abstention."""
    kinds = ((TimeoutError, Status.TIMEOUT), (TooLong, Status.ABSTAINED))
    status = next((status for kind, status in kinds if isinstance(error, kind)), Status.ERROR)
    return unscored(name, status, str(error) or type(error).__name__, seconds)


def unparsable(name: str, judge: ChatModel, text: str, wanted: str, seconds: float = 0.0) -> Verdict:
    """The abstention where a judge answered something else; its words are kept."""
    return unscored(name, Status.ABSTAINED, f"{judge.name} answered {text!r}; wanted {wanted}", seconds)


def question_of(group: Group, shown: bool) -> str:
    """The block with the prompt's question, or nothing."""
    return block("Question", group.prompt.text) if shown else ""
