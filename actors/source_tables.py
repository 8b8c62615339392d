"""Questions from tables: JSONL, Parquet, and anything that the `datasets` library opens.

`prompt` and `answer` name columns. A prompt is a text, or a list of chat messages whose last one is the user's.
Every column is handed to rewarders as task data. Each epoch has its own seeded order.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarm.config import nearest
from swarm.errors import ConfigError
from swarm.types import Prompt

Row = dict[str, Any]


class Table:
    """Rows that are in memory, as prompts."""

    def __init__(
        self, rows: Sequence[Row], place: str, *, seed: int, prompt: str, answer: str | None, template: str
    ) -> None:
        """`place` names the data in messages. Raises ConfigError with up to five of the problems found."""
        self.name = place
        if not rows:
            raise ConfigError(f"{place}: no rows; give a data set with at least a few questions")
        if "{question}" not in template:
            raise ConfigError(f"template = {template!r}: wanted a text with {{question}} in it")
        problems = [
            f"{place}: no column {column!r} ({key} = {column!r}){nearest(column, list(rows[0]))}"
            for key, column in (("prompt", prompt), ("answer", answer))
            if column is not None and column not in rows[0]
        ]
        if problems:
            raise ConfigError(problems)
        self._seed, self._prompts = seed, []
        for number, row in enumerate(rows, 1):
            try:
                self._prompts.append(_prompt(row, place, prompt, answer, template))
            except ValueError as error:
                problems.append(f"{place}, row {number}: {error}")
                if len(problems) == 5:
                    break
        if problems:
            raise ConfigError(problems)
        self._epoch, self._order = -1, range(0)

    def item(self, epoch: int, index: int) -> Prompt | None:
        """Row `index` of an epoch's order, None past the end."""
        if index >= len(self._prompts):
            return None
        if epoch != self._epoch:
            order = list(range(len(self._prompts)))
            random.Random(f"{self._seed}/{epoch}").shuffle(order)
            self._epoch, self._order = epoch, order
        return self._prompts[self._order[index]]


class Jsonl(Table):
    """One JSON object per line of the file at `path`."""

    def __init__(
        self, *, seed: int, path: str, prompt: str = "prompt", answer: str | None = None, template: str = "{question}"
    ) -> None:
        rows = []
        for number, line in enumerate(_text_of(path).splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ConfigError(f"{path}, line {number}: wanted a JSON object with columns, found {line[:40]!r}")
            rows.append(row)
        super().__init__(rows, path, seed=seed, prompt=prompt, answer=answer, template=template)


class Parquet(Table):
    """The Parquet file at `path`."""

    def __init__(
        self, *, seed: int, path: str, prompt: str = "prompt", answer: str | None = None, template: str = "{question}"
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        _there(path)
        try:
            rows = pq.read_table(path).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise ConfigError(f"{path}: cannot be read as Parquet: {error}") from None
        super().__init__(rows, path, seed=seed, prompt=prompt, answer=answer, template=template)


class Datasets(Table):
    """What `datasets.load_from_disk` or `datasets.load_dataset` opens at `path`: a folder or a hub id."""

    def __init__(
        self,
        *,
        seed: int,
        path: str,
        name: str | None = None,
        split: str = "train",
        prompt: str = "prompt",
        answer: str | None = None,
        template: str = "{question}",
    ) -> None:
        place = f"{path}:{split}"
        super().__init__(_open_datasets(path, name, split), place, seed=seed, prompt=prompt, answer=answer, template=template)


def _open_datasets(path: str, name: str | None, split: str) -> list[Row]:
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"{path}: the `datasets` package is not installed: pip install datasets") from None
    try:
        if Path(path, "dataset_info.json").exists() or Path(path, "dataset_dict.json").exists():
            data = datasets.load_from_disk(path)
        else:
            data = datasets.load_dataset(path, name)
        if isinstance(data, datasets.DatasetDict):
            if split not in data:
                raise ConfigError(f"{path}: no split {split!r}{nearest(split, list(data))}")
            data = data[split]
        return list(data)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - the hub's, the file system's and the builders' errors have no common root
        raise ConfigError(
            f"{path}: `datasets` cannot open it ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "give a folder, or an id of a hub that can be reached"
        ) from None


def _prompt(row: Row, place: str, prompt: str, answer: str | None, template: str) -> Prompt:
    """One row as a prompt. Raises ValueError saying what is wrong with it."""
    content, system = row.get(prompt), ""
    if isinstance(content, list) and content and all(isinstance(m, dict) and "content" in m for m in content):
        if content[-1].get("role") != "user" or any(m.get("role") != "system" for m in content[:-1]):
            raise ValueError(f"{prompt} has roles {[m.get('role') for m in content]}; wanted system messages and one user's")
        system = "\n".join(m["content"] for m in content[:-1])
        content = content[-1]["content"]
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"{prompt} = {content!r:.60}: wanted a text or a list of chat messages")
    text = template.replace("{question}", content)
    expected = None if answer is None or row.get(answer) is None else str(row[answer])
    task = json.loads(json.dumps(row, default=str))
    identity = hashlib.blake2b(f"{place}/{text}".encode(), digest_size=12).hexdigest()
    return Prompt(identity, text, expected, place, task, system)


def _there(path: str) -> None:
    file = Path(path)
    if not file.is_file():
        siblings = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        raise ConfigError(f"path = {path!r}: no such file{nearest(file.name, siblings)}")


def _text_of(path: str) -> str:
    _there(path)
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
