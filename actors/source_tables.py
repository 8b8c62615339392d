"""Questions from tables: JSONL, Parquet, and anything that the `datasets` library opens.

`prompt` and `answer` name columns. A prompt is a text, or a list of chat messages: any system messages, then one of the
user. Every column is handed to rewarders as task data. Each epoch has its own seeded order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.questions import Item, check_template, digest, fill, keyed, make_id
from swarm.config import nearest
from swarm.errors import ConfigError
from swarm.types import Prompt

Row = Mapping[str, Any]

MOST_PROBLEMS = 5
"""Bad rows that are named before the rest is left unread."""

HUB_TIMEOUT_S = 5.0


class Table:
    """Rows that are in memory, as items."""

    def __init__(
        self,
        rows: Iterable[Row],
        place: str,
        *,
        seed: int,
        prompt: str,
        answer: str | None,
        template: str,
        numbers: Sequence[int] | None = None,
        unit: str = "row",
    ) -> None:
        """`place` names the data in messages, `numbers` the rows (lines of a file, say); they count from 1 without.
        Raises ConfigError with the first problems found."""
        check_template(template)
        self.name, self._seed = Path(place).name or place, seed
        self._items: list[Item] = []
        problems: list[str] = []
        for i, row in enumerate(rows):
            try:
                self._items.append(_item(row, self.name, prompt, answer, template))
            except ValueError as error:
                number = numbers[i] if numbers else i + 1
                problems.append(f"{place}, {unit} {number}: {error}")
                if len(problems) == MOST_PROBLEMS:
                    break
        if problems:
            raise ConfigError(problems)
        if not self._items:
            raise ConfigError(f"{place}: no {unit}s; wanted a data set with questions")
        self.num_rows = len({digest(item.question) for item in self._items})
        if self.num_rows < 2:
            raise ConfigError(f"{place}: one question only; wanted at least one to train on and one to hold out")
        self._epoch: int | None = None
        self._order: Sequence[int] = range(len(self._items))

    def item(self, epoch: int | None, index: int) -> Item | None:
        """Item `index` of an epoch's order (None: that of the table); None past the end."""
        if index >= len(self._items):
            return None
        if epoch is None:
            return self._items[index]
        if epoch != self._epoch:
            # Sorting by a hash is an order that no library's random numbers can change.
            self._order = sorted(range(len(self._items)), key=lambda i: keyed("order", f"{self._seed}/{epoch}/{i}"))
            self._epoch = epoch
        return self._items[self._order[index]]


class Jsonl(Table):
    """One JSON object per line of the file at `path`; blank lines are passed over."""

    def __init__(
        self, *, seed: int, path: str, prompt: str = "prompt", answer: str | None = None, template: str = "{question}"
    ) -> None:
        rows, numbers, problems = [], [], []
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(  # noqa: TRY004 - about the data, like its neighbours
                        f"wanted an object with columns, found {line.strip()[:40]!r}"
                    )
            except ValueError as error:
                problems.append(f"{path}, line {number}: not a JSON row: {error}")
                if len(problems) == MOST_PROBLEMS:
                    break
                continue
            rows.append(row)
            numbers.append(number)
        if problems:
            raise ConfigError(problems)
        super().__init__(
            rows, path, seed=seed, prompt=prompt, answer=answer, template=template, numbers=numbers, unit="line"
        )


class Parquet(Table):
    """The Parquet file at `path`."""

    def __init__(
        self, *, seed: int, path: str, prompt: str = "prompt", answer: str | None = None, template: str = "{question}"
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        _check_there(path)
        try:
            table = pq.ParquetFile(path).read()
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{path}: cannot be read as Parquet: {error}") from None
        _check_columns(path, table.column_names, prompt=prompt, answer=answer)
        rows = (row for batch in table.to_batches(max_chunksize=1024) for row in batch.to_pylist())
        super().__init__(rows, path, seed=seed, prompt=prompt, answer=answer, template=template)


class Datasets(Table):
    """What `datasets.load_from_disk` or `datasets.load_dataset` opens at `path`: a folder, or a hub id with an optional
    configuration `name`."""

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
        data = _open_datasets(path, name, split)
        _check_columns(f"{path} ({split})", data.column_names, prompt=prompt, answer=answer)
        super().__init__(data, path, seed=seed, prompt=prompt, answer=answer, template=template)


def _open_datasets(path: str, name: str | None, split: str) -> Any:
    """A `datasets.Dataset`. The hub is asked once with a short limit first, so that no hub means no waiting."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"path = {path!r}: the `datasets` package is not installed: pip install datasets") from None
    folder = Path(path)
    saved = any((folder / mark).exists() for mark in ("dataset_info.json", "dataset_dict.json", "state.json"))
    try:
        if saved:
            data = datasets.load_from_disk(path)
        else:
            if not folder.exists():
                _ask_hub(path)
            data = datasets.load_dataset(path, name)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001
        # The hub's, the file system's and the builders' errors have no common root.
        raise ConfigError(f"path = {path!r}: `datasets` cannot open it: {_brief(error)}") from None
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise ConfigError(f"split = {split!r}: {path} has no such split{nearest(split, list(data))}")
        data = data[split]
    return data


def _ask_hub(path: str) -> None:
    """Raises ConfigError where the hub has no such data set, or can't be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(path, timeout=HUB_TIMEOUT_S)
    except GatedRepoError:
        raise ConfigError(f"path = {path!r}: gated on the hub; accept its terms and log in with `hf`") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ConfigError(f"path = {path!r}: no such folder, and no such data set on the hub") from None
    except Exception as error:  # noqa: BLE001 - as above
        raise ConfigError(f"path = {path!r}: no such folder, and the hub cannot be reached ({_brief(error)})") from None


def _item(row: Row, source: str, prompt: str, answer: str | None, template: str) -> Item:
    """One row. Raises ValueError saying what is wrong with it."""
    for column in (prompt, answer):
        if column is not None and column not in row:
            raise ValueError(f"no column {column!r}{nearest(column, list(row))}")
    content, system = row[prompt], ""
    if isinstance(content, list):
        content, system = _messages(content, prompt)
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"{prompt} = {_cut(content)}: wanted a text, or a list of chat messages")
    expected = None if answer is None or row[answer] is None else str(row[answer])
    task = {key: _plain(value) for key, value in row.items() if not isinstance(value, bytes)}
    # The same question with another system message is another prompt, but lies on the same side of the split.
    identity = f"{source}/{system}"
    text = fill(template, content)
    return Item(content, Prompt(make_id(identity, content), text, expected, source, task, system))


def _messages(messages: Sequence[Any], column: str) -> tuple[Any, str]:
    """The user's message and the system's."""
    if not all(isinstance(m, Mapping) and "role" in m and isinstance(m.get("content"), str) for m in messages):
        raise ValueError(f"{column} = {_cut(messages)}: wanted messages with a role and a content that is a text")
    roles = [m["role"] for m in messages]
    if roles[-1:] != ["user"] or any(role != "system" for role in roles[:-1]):
        raise ValueError(
            f"{column} has roles {', '.join(roles) or 'of nobody'}; wanted one of the user, after any of the system"
        )
    return messages[-1]["content"], "\n".join(m["content"] for m in messages[:-1])


def _plain(value: Any) -> Any:
    """A value as JSON has it: dates and the like as text, bytes and numbers that aren't finite as nothing."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, bytes) else str(value)


def _check_columns(place: str, known: Sequence[str], **wanted: str | None) -> None:
    problems = [
        f"{key} = {column!r}: {place} has no such column{nearest(column, list(known))}"
        for key, column in wanted.items()
        if column is not None and column not in known
    ]
    if problems:
        raise ConfigError(problems)


def _lines(path: str) -> list[str]:
    _check_there(path)
    try:
        # Not splitlines(): it also cuts at characters that JSON allows within a text.
        return Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None


def _check_there(path: str) -> None:
    file = Path(path)
    if not file.is_file():
        siblings = [p.name for p in file.parent.iterdir() if p.is_file()] if file.parent.is_dir() else []
        what = "a folder, not a file" if file.is_dir() else "no such file"
        raise ConfigError(f"path = {path!r}: {what}{nearest(file.name, siblings)}")


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _brief(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
