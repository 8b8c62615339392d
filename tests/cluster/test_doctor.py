"""The doctor: estimates and what is missing."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cluster import doctor
from cluster.doctor import Machine, demand, missing, report
from cluster.estimate import GIB, estimate, parameters_in, shape_of, total_gib
from swarm import weights
from swarm.config import RunConfig, parse
from swarm.errors import ConfigError

BIG = Machine(cores=64, memory_gib=256.0, free_gib=200.0, shm_free_gib=128.0, gpus=0)


def recipe(folder: str = "tiny", **sections: dict) -> RunConfig:
    data = {
        "model": {"path": folder, "dtype": "bfloat16"},
        "actors": {"tasks": [{"name": "reasoning_gym", "family": "x"}], "engine": "transformers"},
        "rewarders": {"use": ["exact"]},
        "learners": {"steps": 5},
    }
    for name, values in sections.items():
        data[name] = data.get(name, {}) | values
    return parse(data, "test")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder of 3,000,000 parameters, as far as the doctor looks."""
    folder = tmp_path / "model"
    folder.mkdir()
    sizes = {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "vocab_size": 300,
    }
    (folder / "config.json").write_text(json.dumps(sizes | {"model_type": "llama"}))
    blocks = {f"w{i}": ("bfloat16", (1000, 1500), np.zeros(3_000_000, np.uint8)) for i in range(2)}
    weights.write(folder / "model.safetensors", blocks)
    return folder


def texts(config: RunConfig, machine: Machine = BIG, folder: Path | None = None, level: str = "error") -> list[str]:
    return [p.text for p in missing(config, folder, machine) if p.level == level]


def test_parameters_are_counted_from_headers(model):
    assert parameters_in(model / "model.safetensors") == 3_000_000
    shape = shape_of(model)
    assert (shape.parameters, shape.layers, shape.kv_width) == (3_000_000, 4, 256)


def test_the_learner_has_masters_gradients_moments_and_copies(model):
    rows = {row.process: row for row in estimate(recipe(str(model)), model)}
    assert rows["learner"].gib * GIB > 20 * 3_000_000
    for part in (
        "float32 weights",
        "gradients",
        "Adam moments",
        "copy to publish",
        "autocast copies",
        "activations",
        "logits",
    ):
        assert part in rows["learner"].why
    assert rows["published weights"].where == "shared memory"
    assert rows["published weights"].gib * GIB == pytest.approx(2.25 * 2 * 3_000_000)


def learner_gib(model, **options):
    rows = estimate(recipe(str(model), learners={"steps": 5} | options), model)
    return {row.where: row.gib for row in rows if row.process.startswith(("learner", "2 learner"))}


def test_ranks_are_counted_and_share_what_zero_divides(model):
    one, plain = learner_gib(model)["memory"], learner_gib(model, ranks=2)["memory"]
    assert plain == pytest.approx(2 * one)
    sharded = [learner_gib(model, ranks=2, zero_stage=stage)["memory"] for stage in (1, 2, 3)]
    assert plain > sharded[0] >= sharded[1] == sharded[2] > one


def test_a_checkpoint_before_the_last_step_takes_a_copy_of_the_state(model):
    once, often = learner_gib(model), learner_gib(model, checkpoint_every=2)
    assert (often["memory"] - once["memory"]) * GIB == pytest.approx(12 * 3_000_000)


def test_offload_moves_masters_and_moments_to_the_host(model):
    gpu = {"gpus": 1.0, "zero_stage": 2}
    here, away = learner_gib(model, **gpu), learner_gib(model, offload=True, **gpu)
    assert (away["memory"] - here["memory"]) * GIB == pytest.approx(12 * 3_000_000)
    assert away["GPU"] < here["GPU"]


@pytest.mark.parametrize(
    "change",
    [
        {"actors": {"num": 2}},
        {"actors": {"max_new_tokens": 256}},
        {"rewarders": {"num": 3}},
        {"rewarders": {"use": ["exact", "math_verify"]}},
        {"learners": {"steps": 5, "kl_coef": 0.1}},
        {"learners": {"steps": 5, "zero_stage": 2}},
        {"model": {"dtype": "float32"}},
    ],
)
def test_what_needs_more_memory_is_estimated_higher(model, change):
    small = recipe(str(model))
    merged = {name: small.model_dump(exclude_defaults=True).get(name, {}) | values for name, values in change.items()}
    large = recipe(str(model), **merged)
    place = ("memory", "shared memory")
    assert total_gib(estimate(large, model), *place) > total_gib(estimate(small, model), *place)


def test_smaller_micro_batches_lower_the_estimate(model):
    wide = recipe(str(model), learners={"steps": 5, "micro_tokens": 8192})
    narrow = recipe(str(model), learners={"steps": 5, "micro_tokens": 256})
    assert total_gib(estimate(narrow, model), "memory") < total_gib(estimate(wide, model), "memory")


def test_a_model_that_is_not_here_is_left_out_and_said(tmp_path):
    config = recipe("someone/model")
    assert any("not known yet" in row.why for row in estimate(config, None))
    assert any("not here yet" in t for t in texts(config, level="note"))


def test_a_healthy_recipe_has_no_errors(model):
    assert texts(recipe(str(model)), folder=model) == []


def test_a_missing_vllm_names_the_other_engine(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (text,) = texts(recipe(actors={"engine": "vllm", "tasks": [{"name": "reasoning_gym"}]}))
    assert "vLLM is not installed" in text
    assert "actors.engine=transformers" in text


def test_a_datasets_task_needs_the_package(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (text,) = texts(recipe(actors={"engine": "transformers", "tasks": [{"name": "datasets"}]}))
    assert "swarm[data]" in text


def test_unlike_versions_are_warned_of_and_absent_packages_are_errors(monkeypatch):
    pins = ["numpy==0.1", "no-such-package-anywhere>=2", "neither-this; extra == 'gpu'", "pytest>=1"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: pins)
    config = recipe()
    assert any(t.startswith("package numpy is ") and t.endswith("wanted ==0.1") for t in texts(config, level="warning"))
    assert texts(config) == ["package no-such-package-anywhere is not installed; wanted >=2"]


def test_another_python_is_an_error(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    assert any(t.startswith("Python 3.9.1: wanted ") for t in texts(recipe()))


@pytest.mark.parametrize(
    ("machine", "level", "wanted"),
    [
        (replace(BIG, memory_gib=1.0, free_gib=0.5), "error", "the machine has 1.0"),
        (replace(BIG, free_gib=0.5), "warning", "0.5 are free now"),
        (replace(BIG, shm_free_gib=0.001), "error", "--shm-size"),
        (replace(BIG, shm_free_gib=0.1), "warning", "object store"),
        (replace(BIG, shm_free_gib=None), "warning", "there is no /dev/shm"),
        (replace(BIG, cores=2), "note", "4 threads on 2 cores"),
        (replace(BIG, cores=1), "warning", "4 threads on 1 cores"),
    ],
)
def test_a_machine_that_is_too_small_is_told_of(model, machine, level, wanted):
    assert any(wanted in t for t in texts(recipe(str(model)), machine, model, level))


def test_gpus_that_are_not_there_are_an_error_and_enough_are_none(model):
    config = recipe(str(model), learners={"steps": 5, "gpus": 1.0})
    assert any("1 GPUs asked, 0 here" in t for t in texts(config, folder=model))
    assert texts(config, replace(BIG, gpus=1), model) == []


def test_a_judge_that_this_node_serves_is_counted_and_one_elsewhere_is_not(model):
    own = {"name": "own", "model": str(model), "engine": "transformers", "threads": 3, "gpus": 1.0}
    away = {"name": "away", "model": "big", "endpoint": "http://127.0.0.1:9/v1"}
    alone, both = (recipe(str(model), rewarders={"judges": judges}) for judges in ([away], [away, own]))
    assert not any("judge" in row.process for row in estimate(alone, model))
    [row] = [row for row in estimate(both, model) if row.process == "judge own"]
    assert row.where == "GPU"
    assert row.gib * GIB > 2 * 3_000_000
    assert any("1 GPUs asked, 0 here" in t for t in texts(both, folder=model))
    assert any("7 threads on 2 cores" in t for t in texts(both, replace(BIG, cores=2), model, "warning"))
    assert any("4 threads on 2 cores" in t for t in texts(alone, replace(BIG, cores=2), model, "note"))


def test_on_a_gpu_the_weights_are_not_counted_as_memory(model):
    cpu, gpu = recipe(str(model)), recipe(str(model), learners={"steps": 5, "gpus": 1.0})
    assert total_gib(estimate(cpu, model), "GPU") == 0
    assert total_gib(estimate(gpu, model), "GPU") * GIB > 16 * 3_000_000


def test_a_disk_without_room_for_checkpoints_is_an_error(model, monkeypatch):
    usage = type(doctor.shutil.disk_usage("/"))(2**40, 2**40, 20 * 2**20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert any("keep_checkpoints" in t for t in texts(recipe(str(model)), folder=model))


def test_an_address_that_does_not_answer_is_an_error_and_one_that_does_is_none():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert texts(recipe(cluster={"address": address})) == []
    assert any("does not answer" in t for t in texts(recipe(cluster={"address": address})))
    assert any("HOST:PORT" in t for t in texts(recipe(cluster={"address": "nowhere"})))


def test_auto_without_a_cluster_says_how_to_start_one(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(doctor, "RAY_ADDRESS_FILE", tmp_path / "none")
    assert any("ray start --head" in t for t in texts(recipe(cluster={"address": "auto"})))


def test_a_broken_model_is_an_error_in_words(model):
    (model / "config.json").write_text("{}")
    assert any("cannot tell the model's size" in t for t in texts(recipe(str(model)), folder=model))
    with pytest.raises(ConfigError, match="cannot tell"):
        demand(recipe(str(model)), model)


def test_the_report_shows_tables_or_json(model, capsys):
    config = recipe(str(model))
    screen = Console(file=io.StringIO(), width=80, record=True)
    healthy = report(config, screen)
    text = screen.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "published weights" in text
    assert "together" in text
    assert report(config, Console(file=io.StringIO()), as_json=True) is healthy
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"] is healthy
    assert found["memory"][0]["process"] == "driver"


def test_nothing_heavy_is_imported_for_a_report(model):
    code = (
        "import sys, cluster.doctor, cluster.memory, cluster.view; "
        "print([m for m in ('torch', 'ray', 'vllm', 'transformers', 'deepspeed', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_recipe_longer_than_the_models_context_is_an_error(model: Path) -> None:
    sizes = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(sizes | {"max_position_embeddings": 512}))
    (found,) = texts(recipe(actors={"max_prompt_tokens": 500, "max_new_tokens": 13}), folder=model)
    assert "513 tokens, the model's context is 512" in found
    assert not texts(recipe(actors={"max_prompt_tokens": 500, "max_new_tokens": 12}), folder=model)


def test_bfloat16_on_a_processor_without_it_is_a_warning() -> None:
    old = replace(BIG, bfloat16=False)
    asked = recipe(model={"dtype": "bfloat16"})
    assert "no instructions" in " ".join(texts(asked, old, level="warning"))
    assert not [t for t in texts(asked, BIG, level="warning") if "bfloat16" in t]
    assert not [t for t in texts(recipe(model={"dtype": "float32"}), old, level="warning") if "bfloat16" in t]


def test_the_estimate_knows_how_many_logits_are_kept():
    from cluster import estimate
    from learners import head

    assert estimate.LOGITS == head.KEEP


INSIDE = {"name": "route", "to": {"x": {"name": "gate", "when": "exact", "then": "code"}}}


@pytest.mark.parametrize("settings", [
    {"rewarders": {"use": ["code"]}}, {"rewarders": {"use": [INSIDE]}}, {"eval": {"use": [INSIDE]}},
])  # fmt: skip
def test_where_programs_would_run_is_told_to_those_who_judge_programs(monkeypatch, settings) -> None:
    judges = recipe(**settings)
    found = {level: " ".join(texts(judges, level=level)) for level in ("error", "warning", "note")}
    assert "programs run in" in found["note"] + found["warning"]
    assert "rewarder code" not in " ".join(texts(recipe(), level="note") + texts(recipe(), level="warning"))
    monkeypatch.setattr("rewarders.sandbox.shutil.which", lambda name: None)
    assert any("bubblewrap (bwrap) is not installed: programs run in plain processes" in t
               for t in texts(judges, level="warning"))  # fmt: skip
    monkeypatch.setattr("rewarders.sandbox.sys.executable", "/nowhere/python")
    assert any("no way to run programs" in t for t in texts(judges))
