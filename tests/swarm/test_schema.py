"""Groups through record batches and Parquet and back, and what is refused."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import schema
from swarm.errors import SchemaError
from swarm.types import Finish, Group, Prompt, Rates, Rollout, Segment, Span, Status, Verdict

text = st.text(max_size=12)  # hypothesis leaves out lone surrogates, which UTF-8 cannot hold
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def verdicts(draw: st.DrawFn, num_tokens: int) -> Verdict:
    edges = sorted(draw(st.sets(st.integers(0, num_tokens))))
    values = draw(st.lists(st.floats(-1, 1), min_size=len(edges), max_size=len(edges)))
    segments = tuple(Segment(a, b, v) for a, b, v in zip(edges, edges[1:], values, strict=False))
    status = draw(st.sampled_from(Status))
    value = draw(st.floats(allow_nan=False, allow_infinity=False)) if status is Status.SCORED else None
    rates = draw(st.none() | st.builds(Rates, st.floats(0, 1), st.floats(0, 1)))
    parts = draw(st.dictionaries(text, st.floats(-9, 9), max_size=2))
    seconds, waited = draw(st.floats(0, 1e6)), draw(st.floats(0, 1e6))
    return Verdict(
        draw(text), status, value, draw(text), seconds, segments, parts, draw(text), draw(text), rates, waited
    )


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    num = draw(st.integers(0, 6))
    cuts = sorted(draw(st.sets(st.integers(1, num - 1)))) if num > 1 else []
    edges = [0, *cuts, num] if num else []
    steps = draw(st.lists(st.integers(0, 2**40), min_size=len(edges), max_size=len(edges)))
    return Rollout(
        tokens=np.asarray(draw(st.lists(st.integers(0, 2**31 - 1), min_size=num, max_size=num)), np.int32),
        logprobs=np.asarray(draw(st.lists(st.floats(-50, 0, width=32), min_size=num, max_size=num)), np.float32),
        spans=tuple(Span(s, a, b) for s, a, b in zip(steps, edges, edges[1:], strict=False)),
        text=draw(text),
        finish=draw(st.sampled_from(Finish)),
        loss_mask=np.asarray(draw(st.lists(st.booleans(), min_size=num, max_size=num)), bool),
        verdicts=tuple(draw(st.lists(verdicts(num), max_size=2))),
    )


@st.composite
def groups(draw: st.DrawFn) -> Group:
    prompt = Prompt(
        id=draw(text),
        text=draw(text),
        answer=draw(st.none() | text),
        source=draw(text),
        task=draw(st.dictionaries(text, json_values, max_size=2)),
        system=draw(text),
    )
    return Group(
        id=draw(text),
        ticket=draw(st.integers(-1, 2**62)),
        attempt=draw(st.integers(0, 2**30)),
        prompt=prompt,
        prompt_tokens=np.asarray(draw(st.lists(st.integers(0, 2**31 - 1), max_size=5)), np.int32),
        rollouts=tuple(draw(st.lists(rollouts(), min_size=1, max_size=3))),
        learner=draw(text),
        lineage=draw(st.integers(0, 99)),
        temperature=draw(st.floats(0, 2)),
        cache_kept=draw(st.booleans()),
        generate_s=draw(st.floats(0, 1e6)),
    )


def plain(value: object) -> object:
    """A dataclass as nested values that compare; arrays with their dtype."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.tolist()
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [plain(v) for v in value] if isinstance(value, tuple) else value


@given(groups())
def test_a_group_is_the_same_after_a_record_batch(group: Group) -> None:
    assert plain(schema.from_batch(schema.to_batch(group))) == plain(group)


@settings(max_examples=15, deadline=None)
@given(st.lists(groups(), max_size=3))
def test_groups_are_the_same_and_in_order_after_parquet(made: list[Group]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "groups.parquet"
        schema.write_groups(path, made)
        assert [plain(g) for g in schema.read_groups(path)] == [plain(g) for g in made]
        assert [p.name for p in path.parent.iterdir()] == [path.name]


def example(**changes: object) -> Group:
    mask = np.asarray([True, True, False])
    scored = (Verdict("exact", Status.SCORED, 1.0), Verdict("judge", Status.ABSTAINED, cause="no answer found"))
    tokens, logprobs = np.asarray([5, 6, 2], np.int32), np.asarray([-0.5, -1.0, -2.0], np.float32)
    first = Rollout(tokens, logprobs, (Span(3, 0, 1), Span(4, 1, 3)), "4 é", Finish.STOP, mask, scored)
    empty = Rollout(tokens[:0], logprobs[:0], (), "", Finish.LENGTH, mask[:0])
    prompt = Prompt("p1", "2 + 2?", None, "sums", {"seed": 7})
    made = Group("g", 4, 0, prompt, np.asarray([1, 2], np.int32), (first, empty), "learner", 0, 1.0, True)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_the_file_opens_in_plain_pyarrow_and_pandas(tmp_path: Path) -> None:
    path = tmp_path / "groups.parquet"
    schema.write_groups(path, [example(), example(id="h", ticket=5)])
    table = pq.read_table(path)
    assert table.num_rows == 4
    assert table.column("ticket").to_pylist() == [4, 4, 5, 5]
    pytest.importorskip("pandas")
    frame = table.to_pandas()
    assert frame["tokens"][0].tolist() == [5, 6, 2]
    assert frame["verdicts"][0][1]["cause"] == "no answer found"
    assert frame["prompt_answer"].isna().all()


@pytest.mark.parametrize("version", [b"1", b"nonsense \xff", None])
def test_another_version_is_refused_and_both_are_named(tmp_path: Path, version: bytes | None) -> None:
    metadata = {b"swarm.schema": version} if version is not None else None
    batch = schema.to_batch(example()).replace_schema_metadata(metadata)
    named = version.decode(errors="replace") if version else "none"
    with pytest.raises(SchemaError, match=f"schema version {named}, but this program reads 3"):
        schema.from_batch(batch)
    path = tmp_path / "other.parquet"
    pq.write_table(pa.Table.from_batches([batch]), path)
    with pytest.raises(SchemaError, match=f"schema version {named}"):
        schema.read_groups(path)


def test_missing_and_unknown_columns_are_named() -> None:
    batch = schema.to_batch(example())
    fewer = batch.select([name for name in batch.schema.names if name != "logprobs"])
    with pytest.raises(SchemaError, match=r"missing columns \['logprobs'\]"):
        schema.from_batch(fewer.replace_schema_metadata(schema.SCHEMA.metadata))
    more = batch.append_column("mood", pa.array(["fine", "fine"]))
    with pytest.raises(SchemaError, match=r"unknown columns \['mood'\]"):
        schema.from_batch(more.replace_schema_metadata(schema.SCHEMA.metadata))


def broken(**changes: object) -> Group:
    made = example()
    return dataclasses.replace(made, rollouts=(dataclasses.replace(made.rollouts[0], **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spans": (Span(3, 0, 1), Span(4, 2, 3))}, "not contiguous over 3 tokens"),
        ({"spans": (Span(3, 0, 2),)}, "not contiguous over 3 tokens"),
        ({"spans": ()}, "not contiguous over 3 tokens"),
        ({"logprobs": np.zeros(2, np.float32)}, "3 tokens, 2 log-probabilities"),
        ({"loss_mask": np.ones(4, bool)}, "4 mask entries"),
    ],
)
def test_rollouts_that_contradict_themselves_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        schema.from_batch(schema.to_batch(broken(**changes)))


def test_rows_of_two_groups_or_of_none_are_refused() -> None:
    a, b = schema.to_batch(example()), schema.to_batch(example(id="h"))
    both = pa.Table.from_batches([a, b]).combine_chunks().to_batches()[0]
    with pytest.raises(SchemaError, match="more than one group"):
        schema.from_batch(both)
    with pytest.raises(SchemaError, match="without rollouts"):
        schema.from_batch(a.slice(0, 0))


def test_a_value_that_fits_no_column_is_a_schema_error() -> None:
    with pytest.raises(SchemaError, match="group g"):
        schema.to_batch(example(prompt=Prompt("p", "x", task={"when": object()})))
    with pytest.raises(SchemaError, match="group g"):
        schema.to_batch(example(ticket="four"))


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "text", "missing"])
def test_a_damaged_file_is_a_schema_error_that_names_it(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "groups.parquet"
    schema.write_groups(path, [example(), example(id="h")])
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        spoilt = {
            "truncated": data[:-100],
            "overwritten": data[:200] + bytes(400) + data[600:],
            "text": b"a,b\n1,2\n",
        }
        path.write_bytes(spoilt[damage])
    with pytest.raises(SchemaError, match=r"groups\.parquet"):
        schema.read_groups(path)


def test_a_write_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "groups.parquet"
    schema.write_groups(path, [example()])
    with pytest.raises(SchemaError):
        schema.write_groups(path, [example(), example(ticket="four")])
    assert [p.name for p in tmp_path.iterdir()] == ["groups.parquet"]
    assert [g.id for g in schema.read_groups(path)] == ["g"]


def test_segments_beyond_the_tokens_are_refused() -> None:
    group = example()
    judged = Verdict("steps", Status.SCORED, 1.0, segments=(Segment(0, 99, 1.0),))
    batch = schema.to_batch(group.with_verdicts([(judged,)] * len(group.rollouts)))
    with pytest.raises(SchemaError, match="segments end beyond"):
        schema.from_batch(batch)


@pytest.mark.parametrize("edges", [[(0, 3), (2, 4)], [(2, 4), (0, 2)], [(1, 1)]])
def test_segments_that_overlap_are_refused(edges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="overlap"):
        Verdict("steps", Status.SCORED, 1.0, segments=tuple(Segment(a, b, 0.0) for a, b in edges))


def test_a_part_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="are not finite"):
        Verdict("tests", Status.SCORED, 1.0, parts={"first": float("nan")})
