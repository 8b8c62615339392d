"""One group is one Arrow record batch: a row per rollout, group columns repeated (Parquet folds repeats away).

The schema carries a version number in its metadata. Reading anything else is a SchemaError that says which version
was found and which are known. `pandas.read_parquet`, DuckDB and `datasets` open the files as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from swarm.errors import SchemaError, boundary
from swarm.types import Finish, Group, Prompt, Rates, Rollout, Segment, Span, Status, Verdict

VERSION = 3
_KEY = b"swarm.schema"

_SPAN = pa.struct([("step", pa.int64()), ("start", pa.int32()), ("end", pa.int32())])
_SEGMENT = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("value", pa.float64())])
_PART = pa.struct([("name", pa.string()), ("value", pa.float64())])
_VERDICT = pa.struct(
    [
        ("rewarder", pa.string()),
        ("status", pa.string()),
        ("value", pa.float64()),
        ("cause", pa.string()),
        ("seconds", pa.float64()),
        ("segments", pa.list_(_SEGMENT)),
        ("parts", pa.list_(_PART)),
        ("version", pa.string()),
        ("stratum", pa.string()),
        ("false_accept", pa.float64()),  # null where nobody estimated them
        ("false_reject", pa.float64()),
        ("waited_s", pa.float64()),
    ]
)

SCHEMA = pa.schema(
    [
        ("group_id", pa.string()),
        ("ticket", pa.int64()),
        ("attempt", pa.int32()),
        ("prompt_id", pa.string()),
        ("prompt_text", pa.string()),
        ("prompt_system", pa.string()),
        ("prompt_answer", pa.string()),
        ("prompt_source", pa.string()),
        ("prompt_task", pa.string()),  # JSON
        ("prompt_tokens", pa.list_(pa.int32())),
        ("learner", pa.string()),
        ("lineage", pa.int32()),
        ("temperature", pa.float64()),
        ("cache_kept", pa.bool_()),
        ("generate_s", pa.float64()),
        ("rollout_index", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("loss_mask", pa.list_(pa.bool_())),
        ("spans", pa.list_(_SPAN)),
        ("text", pa.string()),
        ("finish", pa.string()),
        ("verdicts", pa.list_(_VERDICT)),
    ],
    metadata={_KEY: str(VERSION).encode()},
)


def to_batch(group: Group) -> pa.RecordBatch:
    """The record batch of a group. Raises SchemaError where a value does not fit its column."""
    with boundary(SchemaError, f"group {group.id}"):
        return pa.RecordBatch.from_pylist(_rows(group), schema=SCHEMA)


def _rows(group: Group) -> list[dict[str, Any]]:
    prompt = group.prompt
    shared = {
        "group_id": group.id,
        "ticket": group.ticket,
        "attempt": group.attempt,
        "prompt_id": prompt.id,
        "prompt_text": prompt.text,
        "prompt_system": prompt.system,
        "prompt_answer": prompt.answer,
        "prompt_source": prompt.source,
        "prompt_task": json.dumps(dict(prompt.task)),
        "prompt_tokens": group.prompt_tokens,
        "learner": group.learner,
        "lineage": group.lineage,
        "temperature": group.temperature,
        "cache_kept": group.cache_kept,
        "generate_s": group.generate_s,
    }
    return [
        shared
        | {
            "rollout_index": index,
            "tokens": r.tokens,
            "logprobs": r.logprobs,
            "loss_mask": r.loss_mask,
            "spans": [{"step": s.step, "start": s.start, "end": s.end} for s in r.spans],
            "text": r.text,
            "finish": r.finish.value,
            "verdicts": [_verdict_row(v) for v in r.verdicts],
        }
        for index, r in enumerate(group.rollouts)
    ]


def _verdict_row(v: Verdict) -> dict[str, Any]:
    return {
        "rewarder": v.rewarder,
        "status": v.status.value,
        "value": v.value,
        "cause": v.cause,
        "seconds": v.seconds,
        "segments": [{"start": s.start, "end": s.end, "value": s.value} for s in v.segments],
        "parts": [{"name": name, "value": value} for name, value in v.parts.items()],
        "version": v.version,
        "stratum": v.stratum,
        "false_accept": v.rates.false_accept if v.rates else None,
        "false_reject": v.rates.false_reject if v.rates else None,
        "waited_s": v.waited_s,
    }


def from_batch(batch: pa.RecordBatch) -> Group:
    """The group of a record batch. Raises SchemaError for another version or other columns."""
    _check(batch.schema)
    rows = batch.to_pylist()
    if not rows:
        raise SchemaError("a group without rollouts")
    if len({row["group_id"] for row in rows}) != 1:
        raise SchemaError("rows of more than one group in a record batch")
    with boundary(SchemaError, f"group {rows[0]['group_id']}"):
        return _group(rows)


def write_groups(path: Path, groups: Iterable[Group]) -> None:
    """Write groups durably as one Parquet file, a row group each: complete after this returns, or absent."""
    partial = path.with_name(path.name + ".partial")
    try:
        with pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
            for group in groups:
                writer.write_batch(to_batch(group))
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_groups(path: Path) -> list[Group]:
    """The groups of a Parquet file, in order. Raises SchemaError where it is not one of ours, or damaged."""
    with boundary(SchemaError, str(path)), pq.ParquetFile(path) as file:
        _check(file.schema_arrow)
        tables = [file.read_row_group(index) for index in range(file.num_row_groups)]
        batches = [table.combine_chunks().to_batches()[0] for table in tables]
        return [from_batch(batch.replace_schema_metadata(SCHEMA.metadata)) for batch in batches]


def _check(schema: pa.Schema) -> None:
    found = (schema.metadata or {}).get(_KEY)
    if found != str(VERSION).encode():
        named = found.decode(errors="replace") if found is not None else "none"
        raise SchemaError(f"schema version {named}, but this program reads {VERSION}; use the program that wrote it")
    if schema.names != SCHEMA.names:
        missing = sorted(set(SCHEMA.names) - set(schema.names))
        extra = sorted(set(schema.names) - set(SCHEMA.names))
        raise SchemaError(f"schema version {VERSION} with missing columns {missing} and unknown columns {extra}")


def _group(rows: list[dict[str, Any]]) -> Group:
    first = rows[0]
    return Group(
        id=first["group_id"],
        ticket=first["ticket"],
        attempt=first["attempt"],
        prompt=Prompt(
            id=first["prompt_id"],
            text=first["prompt_text"],
            answer=first["prompt_answer"],
            source=first["prompt_source"],
            task=json.loads(first["prompt_task"]),
            system=first["prompt_system"],
        ),
        prompt_tokens=np.asarray(first["prompt_tokens"], np.int32),
        rollouts=tuple(_rollout(row) for row in rows),
        learner=first["learner"],
        lineage=first["lineage"],
        temperature=first["temperature"],
        cache_kept=first["cache_kept"],
        generate_s=first["generate_s"],
    )


def _rollout(row: dict[str, Any]) -> Rollout:
    tokens = np.asarray(row["tokens"], np.int32)
    logprobs = np.asarray(row["logprobs"], np.float32)
    loss_mask = np.asarray(row["loss_mask"], bool)
    spans = tuple(Span(**span) for span in row["spans"])
    if not len(tokens) == len(logprobs) == len(loss_mask):
        raise ValueError(f"{len(tokens)} tokens, {len(logprobs)} log-probabilities, {len(loss_mask)} mask entries")
    edges = [0, *(span.end for span in spans)]
    if [span.start for span in spans] != edges[:-1] or edges[-1] != len(tokens):
        raise ValueError(f"version spans {spans} are not contiguous over {len(tokens)} tokens")
    verdicts = tuple(_verdict(v) for v in row["verdicts"])
    if any(v.segments and v.segments[-1].end > len(tokens) for v in verdicts):
        raise ValueError(f"a verdict's segments end beyond the {len(tokens)} tokens")
    return Rollout(tokens, logprobs, spans, row["text"], Finish(row["finish"]), loss_mask, verdicts)


def _verdict(v: dict[str, Any]) -> Verdict:
    rates = None if v["false_accept"] is None else Rates(v["false_accept"], v["false_reject"])
    return Verdict(
        rewarder=v["rewarder"],
        status=Status(v["status"]),
        value=v["value"],
        cause=v["cause"],
        seconds=v["seconds"],
        segments=tuple(Segment(**segment) for segment in v["segments"]),
        parts={part["name"]: part["value"] for part in v["parts"]},
        version=v["version"],
        stratum=v["stratum"],
        rates=rates,
        waited_s=v["waited_s"],
    )
