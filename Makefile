# Two commands: `make run` trains a small language model here, `make test` checks everything. Both set up what they need.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
READY := $(VENV)/.ready-$(EXTRA)

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all lint types format

help:  ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## Make .venv and install (EXTRA=gpu for a CUDA machine)

$(READY): pyproject.toml cluster/setup_venv.sh
	PYTHON=$(PYTHON) VENV=$(VENV) EXTRA=$(EXTRA) bash cluster/setup_venv.sh
	@touch $@

RECIPE ?= cluster/recipes/cpu.toml
run: setup  ## Train as RECIPE says (default: cluster/recipes/cpu.toml)
	$(BIN)/swarm run $(RECIPE) $(ARGS)

lint: setup  ## Style and likely bugs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## Static types
	$(BIN)/mypy

format: setup  ## Rewrite to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint types  ## Lint, types and the tests that fit into a quarter of an hour
	$(BIN)/pytest -m "not slow" $(ARGS)

test-all: lint types  ## All tests, also the slow campaigns
	$(BIN)/pytest --hypothesis-profile thorough $(ARGS)
