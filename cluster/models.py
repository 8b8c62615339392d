"""Where the policy's weights come from: `model.path` of a recipe becomes a checked Hugging Face model folder.

    smollm2-135m-instruct, tiny    made on first use, kept in the cache (`model_smollm2`, `model_tiny`)
    a folder                       checked: config.json, weights, tokenizer
    owner/name                     a hub id, fetched once by huggingface_hub into its own cache

The cache is `$SWARM_CACHE`, else `$XDG_CACHE_HOME/swarm`, else `~/.cache/swarm`; models lie under `models/NAME`. A
model is made in a folder beside its place and renamed when whole, under a file lock, so a killed or second process
never leaves or sees half a model. Nothing heavy is imported before something has to be made.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swarm.config import nearest
from swarm.errors import ConfigError

Say = Callable[[str], None]

BUILTIN: Mapping[str, str] = {"smollm2-135m-instruct": "cluster.model_smollm2", "tiny": "cluster.model_tiny"}
"""Name to module. Each has `MADE_FROM` (a JSON-able description: when it changes, the model is made again) and
`build(folder, say)`, which fills an empty folder."""

MARK = "swarm.json"
"""In a built folder: what it was made from."""

HUB_TIMEOUT_S = 5.0

WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZERS: tuple[tuple[str, ...], ...] = (
    ("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",),
)  # fmt: skip
"""Any one of these sets of files is a tokenizer."""


def cache_folder() -> Path:
    """Where built models are kept; not made by this call."""
    if own := os.environ.get("SWARM_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "swarm"


def resolve(path: str, say: Say = print) -> Path:
    """The model folder of `model.path`, made or fetched if need be; `say` gets lines of progress.

    Raises ConfigError naming what is missing, and what to do.
    """
    if path in BUILTIN:
        return _built(path, say)
    folder = Path(path).expanduser()
    if folder.is_dir():
        if problems := folder_problems(folder):
            raise ConfigError(problems)
        return folder.resolve()
    if folder.exists():
        raise ConfigError(f"model.path = {path!r}: a file; wanted a model folder, or one of {', '.join(BUILTIN)}")
    if path.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        siblings = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise ConfigError(f"model.path = {path!r}: no such folder{nearest(folder.name, siblings)}")
    return _fetched(path, say)


def folder_problems(folder: Path) -> list[str]:
    """What keeps a folder from being a model that engine and learner can load; one line each, empty if nothing."""
    return [p for p in (_config_problem(folder), _weights_problem(folder), _tokenizer_problem(folder)) if p]


def _config_problem(folder: Path) -> str | None:
    place = folder / "config.json"
    try:
        config = json.loads(place.read_text())
    except FileNotFoundError:
        return f"{folder}: not a model folder: no config.json"
    except (OSError, ValueError) as error:
        return f"{place}: not valid JSON: {error}"
    if not isinstance(config, dict) or not config.get("model_type"):
        return f"{place}: no model_type; wanted the config of a transformers model"
    return None


def _weights_problem(folder: Path) -> str | None:
    index = folder / WEIGHTS_INDEX
    if index.exists():
        try:
            shards = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{index}: not an index of weights: {error}"
    else:
        shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        old = ", ".join(sorted(p.name for p in folder.glob("*.bin")))
        hint = f"; {old} would have to be saved again as safetensors" if old else ""
        return f"{folder}: no weights (model.safetensors){hint}"
    for shard in shards:
        if problem := _safetensors_problem(shard):
            return problem
    return None


def _safetensors_problem(place: Path) -> str | None:
    """A safetensors file is u64 header length, JSON header, then exactly the bytes that its offsets name."""
    try:
        with place.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            actual = place.stat().st_size
            if length > actual:
                return f"{place}: truncated: the header alone is {length} bytes, the file has {actual}"
            header = json.loads(file.read(length))
    except FileNotFoundError:
        return f"{place}: missing, though {WEIGHTS_INDEX} names it"
    except (OSError, ValueError, struct.error) as error:
        return f"{place}: not a safetensors file: {error}"
    wanted = 8 + length + max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
    if actual != wanted:
        return f"{place}: truncated: {actual} bytes, its header tells of {wanted}"
    return None


def _tokenizer_problem(folder: Path) -> str | None:
    if any(all((folder / name).exists() for name in names) for names in TOKENIZERS):
        return None
    known = ", or ".join(" with ".join(names) for names in TOKENIZERS)
    return f"{folder}: no tokenizer; wanted {known} beside the weights"


def _built(name: str, say: Say) -> Path:
    module = importlib.import_module(BUILTIN[name])
    made_from: dict[str, Any] = module.MADE_FROM
    home = cache_folder() / "models"
    folder = home / name
    try:
        if _is_made(folder, made_from):
            return folder
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home / f".{name}.lock", f"{name}: another process is making it; waiting", say):
            if _is_made(folder, made_from):
                return folder
            scratch = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=home))
            try:
                module.build(scratch, say)
                if problems := folder_problems(scratch):
                    raise ConfigError(problems)
                (scratch / MARK).write_text(json.dumps(made_from, indent=1))
                if folder.exists():
                    folder.rename(scratch / ".old")  # a running engine keeps its open files
                scratch.chmod(0o755)
                scratch.rename(folder)
                shutil.rmtree(folder / ".old", ignore_errors=True)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"model.path = {name!r}: cannot be kept under {home}: {error}; set SWARM_CACHE") from error
    say(f"{name}: ready in {folder}")
    return folder


def _is_made(folder: Path, made_from: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads((folder / MARK).read_text()) == made_from) and not folder_problems(folder)
    except (OSError, ValueError):
        return False


@contextmanager
def _locked(place: Path, waiting: str, say: Say) -> Iterator[None]:
    """Hold an exclusive lock; the kernel drops it with the process, so there is nothing to clean up after a kill."""
    with place.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetched(repo: str, say: Say) -> Path:
    """A snapshot of a hub model. Asked once with a short limit first, so that no hub means no waiting."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        kept = Path(snapshot_download(repo, local_files_only=True, allow_patterns=wanted))
        if not folder_problems(kept):
            return kept
    except Exception:  # noqa: BLE001, S110 - not in the hub's cache, or an incomplete copy: the hub is asked next
        pass
    near = nearest(repo, list(BUILTIN))
    hint = f"; model.path may also be a folder or one of {', '.join(BUILTIN)}{near if near.startswith('; did') else ''}"
    try:
        HfApi().model_info(repo, timeout=HUB_TIMEOUT_S)
    except GatedRepoError:
        raise ConfigError(f"model.path = {repo!r}: gated on the hub; accept its terms and log in with `hf`") from None
    except RepositoryNotFoundError:
        raise ConfigError(f"model.path = {repo!r}: no such folder, and no such model on the hub{hint}") from None
    except Exception as error:  # noqa: BLE001 - of whatever HTTP library the hub's client uses
        cause = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise ConfigError(
            f"model.path = {repo!r}: no such folder, and the hub cannot be reached ({cause}){hint}"
        ) from None
    say(f"{repo}: fetching from the hub")
    try:
        folder = Path(snapshot_download(repo, allow_patterns=wanted, etag_timeout=HUB_TIMEOUT_S))
    except Exception as error:  # noqa: BLE001 - as above
        raise ConfigError(
            f"model.path = {repo!r}: fetching from the hub failed: {type(error).__name__}: {error}"
        ) from None
    if problems := folder_problems(folder):
        raise ConfigError(problems)
    return folder
