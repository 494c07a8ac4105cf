# The front door for people and CI. `make run` needs Python 3.11+ and nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CONFIG ?= gatehouse.yaml

.PHONY: help run install test check protos dashboards pictures golden test-slow test-vllm bench bench-full bench-parts clean

help:            ## what there is to make
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Gatehouse needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.run: $(BIN)/python pyproject.toml
	@echo "Installing Gatehouse into $(VENV) (the first time takes a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	@echo "Installing what tests need into $(VENV) (the first time takes a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.run

install: $(VENV)/.run

run: $(VENV)/.run  ## start the gateway; with no vLLM at hand a demo model server answers
	@exec $(BIN)/gatehouse up -c $(CONFIG) --or-demo

test: $(VENV)/.dev  ## run every test that fits in a few minutes
	$(BIN)/python -m pytest

check: $(VENV)/.dev  ## ruff, mypy --strict, import rules, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/lint-imports
	$(BIN)/python scripts/protos.py --check
	$(BIN)/python -m scripts.dashboards --check

protos: $(VENV)/.dev  ## generate gatehouse/pb from protos/
	$(BIN)/python scripts/protos.py

dashboards: $(VENV)/.dev  ## write deploy/grafana/dashboards anew, after a change of scripts/dashboards
	$(BIN)/python -m scripts.dashboards

pictures: $(VENV)/.dev  ## take docs/images anew (needs Chromium, Prometheus and six minutes)
	$(BIN)/python -m scripts.pictures

golden: $(VENV)/.dev  ## write envoy/*.yaml anew, after a change of the renderer
	$(BIN)/gatehouse render gatehouse.yaml --out envoy

test-slow: $(VENV)/.dev  ## long property tests and fault loops
	$(BIN)/python -m pytest -m slow

test-vllm: $(VENV)/.dev  ## end to end against real vLLM on the CPU (installs several GB the first time)
	$(BIN)/python scripts/vllm_env.py
	$(BIN)/python -m pytest -m vllm tests/vllm

$(VENV)/.bench: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

bench: $(VENV)/.bench  ## Gatehouse beside its peers, in ten minutes (docs/benchmarks.md); peers are installed the first time
	$(BIN)/python -m benchmarks

bench-full: $(VENV)/.bench  ## the same with more rounds, streams and sizes, in an hour at most
	$(BIN)/python -m benchmarks --full

bench-parts: $(VENV)/.dev  ## the limiter, beside envoyproxy/ratelimit where Go is at hand, and the receiver, one core each
	$(BIN)/python benchmarks/limiter.py
	$(BIN)/python benchmarks/receiver.py

clean:           ## remove what was installed and generated
	rm -rf $(VENV) .venv-vllm .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
