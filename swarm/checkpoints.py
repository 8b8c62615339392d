"""Checkpoints that are whole or absent.

A checkpoint is a folder `step_000050/` holding what the learner wrote (`learner/`), the ledger, the pool's finished
groups. It is written under another name (`begin`), listed in `manifest.json` with the size and hash of every file,
synced, and renamed (`finish`). Reading checks the manifest; a broken one is passed over for the one before it, with an
event.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import xxhash

_MANIFEST = "manifest.json"


def path_of(parent: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return parent / f"step_{step:06d}"


def step_of(folder: Path) -> int:
    """The learner step of a checkpoint folder."""
    return int(folder.name.removeprefix("step_"))


def begin(parent: Path, step: int) -> Path:
    """An empty folder for the checkpoint of `step`; what unfinished ones left is removed."""
    partial = parent / f".partial_{step:06d}"
    _remove([*parent.glob(".partial_*"), *parent.glob(".replaced_*")])
    partial.mkdir(parents=True)
    return partial


def finish(partial: Path, keep: int) -> tuple[Path, int]:
    """Make what is in a folder of `begin` the checkpoint of its step, then remove all but the newest `keep`; returns
    its folder and bytes. Raises OSError from the disk, and leaves the earlier checkpoints as they were.

    Checkpoints of later steps are removed too: they were broken, or the run would not be at this step again.
    """
    parent, step = partial.parent, int(partial.name.removeprefix(".partial_"))
    final, replaced = path_of(parent, step), parent / f".replaced_{step:06d}"
    files = {str(p.relative_to(partial)): _facts(p) for p in sorted(partial.rglob("*")) if p.is_file()}
    (partial / _MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
    _sync(partial / _MANIFEST)
    if final.exists():  # of an earlier process that ended here
        final.rename(replaced)
    partial.rename(final)
    _sync(parent)
    later = [folder for folder in _all(parent) if step_of(folder) > step]
    _remove([replaced, *later, *_all(parent)[len(later) + keep :]])
    return final, sum(int(facts["bytes"]) for facts in files.values())


def abandon(partial: Path) -> None:
    """Remove a folder of `begin`."""
    _remove([partial])


def newest_good(parent: Path, only: str = "") -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole (None where there is none), and what is wrong with newer ones. With `only`
    the other files in it are not looked at: reading all weights takes long."""
    problems: list[str] = []
    for folder in _all(parent):
        problem = check(folder, only)
        if problem is None:
            return folder, problems
        problems.append(f"{folder.name}: {problem}")
    return None, problems


def check(folder: Path, only: str = "") -> str | None:
    """What is wrong with a checkpoint, or None; with `only` in that file, where it has one."""
    try:
        files = json.loads((folder / _MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"no readable manifest ({error})"
    for name, facts in files.items():
        if only and name != only:
            continue
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
        if _facts(path) != facts:
            return f"{name} does not match its hash"
    return None


def _all(parent: Path) -> list[Path]:
    return sorted(parent.glob("step_*"), reverse=True)


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _facts(path: Path) -> dict[str, int | str]:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "xxh3": digest.hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
