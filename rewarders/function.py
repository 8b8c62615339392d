"""Any Python function as a rewarder, by dotted path, in TRL's signature, in a killable process.

def brevity(completions, **columns):        # rewarders.py in the current directory
    return [1.0 if len(text) < 80 else 0.0 for text in completions]

use = [{ name = "function", path = "my_rewards:brevity" }]
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewarders.killable import Killable
from rewarders.process import ChildFailure, ChildTimeout
from rewarders.verdicts import for_all, number, scored, unscored
from swarm.config import nearest
from swarm.types import Group, Rollout, Status, Verdict

RESERVED = ("prompts", "completions", "completion_ids", "answer")


class Function:
    """The function's numbers; None abstains, an exception, wrong length, NaN or a hang are failures with their cause.

    `path` is `package.module:function` or `package.module.function`, found from the current directory first. The
    function gets lists of G: `prompts`, `completions` (text), `completion_ids`, `answer` (the prompt's, G times) and
    one column per key of the prompt's task data; those that it names, or all with `**columns`. It may be `async`.
    It sees the environment, and keeps its state from group to group until it hangs or dies. With `about_truth` it
    says whether answers are right (above 0.5), and is watched and certified as rewarders that do.
    """

    about_truth = False

    def __init__(self, *, path: str, timeout_s: float = 10.0, memory_mb: int = 0, about_truth: bool = False) -> None:
        if problem := check_function(path):
            raise ValueError(problem)
        self.name = "function"
        self.about_truth = about_truth
        self._path = path
        self._timeout_s = timeout_s
        module, attribute = split(path)
        spec = _find(path, module)
        source = Path(spec.origin) if isinstance(spec, importlib.machinery.ModuleSpec) and spec.origin else None
        self._source = source.read_text("utf-8", "replace") if source and source.suffix == ".py" else ""
        options = {"module": module, "attribute": attribute}
        handler = "rewarders.child_function:Caller"
        self.child = Killable(handler, options, bare=False, memory_mb=memory_mb, first_on_path=[str(Path.cwd())])

    def data(self) -> str:
        """The source of the function's module, for the version of its verdicts."""
        return self._source

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        num = len(group.rollouts)
        columns: dict[str, Any] = {str(key): [_plain(value)] * num for key, value in group.prompt.task.items()}
        columns |= {
            "prompts": [group.prompt.text] * num,
            "completions": [rollout.text for rollout in group.rollouts],
            "completion_ids": [_ids(rollout) for rollout in group.rollouts],
            "answer": [group.prompt.answer] * num,
        }
        try:
            values = await self.child.ask(columns, self._timeout_s)
        except ChildFailure as failure:
            status = Status.TIMEOUT if isinstance(failure, ChildTimeout) else Status.ERROR
            return for_all(group, unscored(self.name, status, f"{self._path}: {failure}"))
        if not isinstance(values, list) or len(values) != num:
            return for_all(group, unscored(self.name, Status.ERROR, f"{self._path}: broke the protocol"))
        return [self._verdict(value) for value in values]

    def close(self) -> None:
        """Kill the child."""
        self.child.close()

    def _verdict(self, value: Any) -> Verdict:
        if value is None:
            return unscored(self.name, Status.ABSTAINED, f"{self._path} answered None")
        as_number = number(value)
        if as_number is not None:
            return scored(self.name, as_number)
        cause = str(value.get("error")) if isinstance(value, dict) else "wanted a finite number or None"
        return unscored(self.name, Status.ERROR, f"{self._path}: {cause}")


def _ids(rollout: Rollout) -> list[int]:
    return [int(token) for token in rollout.tokens]


def _plain(value: Any) -> Any:
    """Task data as JSON takes it: numpy values and dates (tables have them) become numbers, lists and text."""
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    return value


def split(path: str) -> tuple[str, str]:
    """Module and attribute of `module:function` or `package.module.function`."""
    module, colon, attribute = path.partition(":")
    return (module, attribute) if colon else path.rpartition(".")[::2]


def check_function(path: str) -> str | None:
    """What is wrong with a function's path, with the nearest name, or None. Reads source; imports and runs nothing."""
    module, attribute = split(path)
    if not module or not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        return f"{path!r}: wanted package.module:function"
    spec = _find(path, module)
    if isinstance(spec, str):
        return spec
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None  # compiled: only importing would tell
    return _check_source(path, Path(spec.origin), attribute)


def _find(path: str, module: str) -> importlib.machinery.ModuleSpec | str | None:
    """Where a module is, or what is wrong with its name."""
    places: Sequence[str] | None = [str(Path.cwd()), *(p or str(Path.cwd()) for p in sys.path)]
    spec = None
    for i, part in enumerate(module.split(".")):
        name = ".".join(module.split(".")[: i + 1])
        spec = importlib.machinery.PathFinder.find_spec(part, places)  # by the last part: no parent is imported
        if spec is None and i == 0:  # built in, or installed in editable form
            spec = importlib.util.find_spec(name)
        if spec is None:
            where = f" in {name.rpartition('.')[0]}" if i else " in the current directory or installed"
            return f"{path!r}: there is no module {part!r}{where}{nearest(part, _modules(places, near=part))}"
        places = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if places is None and i + 1 < len(module.split(".")):
            return f"{path!r}: {name} is a module, not a package"
    return spec


def _modules(places: Sequence[str] | None, near: str) -> list[str]:
    found = {p.stem for place in places or () if Path(place).is_dir() for p in Path(place).glob("*.py")}
    return [name for name in sorted(found) if name[:1] == near[:1]]  # a whole site-packages is no help in a message


def _check_source(path: str, file: Path, attribute: str) -> str | None:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        return f"{path!r}: {file.name} is not valid Python: {error}"
    defined: dict[str, ast.AST] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.setdefault(node.name, node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            defined |= {(a.asname or a.name).partition(".")[0]: node for a in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.setdefault(node.id, node)
    first = attribute.partition(".")[0]
    if first not in defined:
        if "*" in defined or "__getattr__" in defined:
            return None
        return f"{path!r}: {file.name} defines no {first!r}{nearest(first, list(defined))}"
    found = defined[first]
    if isinstance(found, (ast.FunctionDef, ast.AsyncFunctionDef)) and "." not in attribute and not found.decorator_list:
        arguments = found.args
        named = [a.arg for a in [*arguments.args, *arguments.kwonlyargs]]
        if "completions" not in named and arguments.kwarg is None:
            return f"{path!r}: it takes ({', '.join(named)}); wanted (prompts, completions, **columns)"
    return None
