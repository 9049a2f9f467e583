# `make` lists what there is. Every target sets up what it needs first, once.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
# Stamps lie inside the environment they speak of: who deletes .venv deletes them too.
VENV := .venv
STAMPS := $(VENV)/.setup
BIN := $(VENV)/bin
# uv from PATH, or the locked one, fetched with pip into .uv (which also works where the distribution manages Python).
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .uv/bin/uv)
export PYTHONUTF8 = 1
# .venv is this project's, whatever environment is active in the shell that calls make.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME CONDA_PREFIX
# Every process of the tests would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

say = printf '%s\n' "== $(1)"

.PHONY: help setup setup-prism demo test lint docs bench chaos long-run lifecycle upgrade-test java cluster-up cluster-down cluster-test server-test lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMPS)/prism  ## the environment from the lock, and Prism (once; minutes the first time)
	@:

setup-prism: $(STAMPS)/prism  ## Prism, the streaming engine, alone (3 minutes where it must be built)
	@:

# The demo does not wait for Prism: its streams run in process if Prism is still missing when they begin.
demo: $(STAMPS)/project  ## train, backfill, stream and compare, on real data
	@[ -e $(STAMPS)/prism ] || { \
	  $(call say,Prism is set up in the background; see build/setup-prism.log); mkdir -p build; \
	  nohup nice -n 19 $(MAKE) setup-prism >build/setup-prism.log 2>&1 </dev/null & }
	@$(BIN)/statecast demo

# Lint runs beside the tests. Three workers keep two cores busy, because many tests wait for a process or a disk.
test: setup  ## lint, types, layers and all tests
	@mkdir -p build
	@$(MAKE) lint >build/lint.log 2>&1 & lint=$$!; failed=0; \
	$(call say,tests); $(BIN)/python -m pytest -n 3 --dist worksteal || failed=$$?; \
	wait $$lint || failed=$$?; cat build/lint.log; exit $$failed

lint: setup  ## lint, format, types and layers
	@$(call say,ruff)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "these are not formatted; run: $(BIN)/ruff format"; $(BIN)/ruff format --check .; }
	@$(call say,mypy)
	@$(BIN)/mypy
	@$(call say,layers)
	@$(BIN)/lint-imports

docs: $(STAMPS)/project  ## the documentation site, in build/docs; a broken link or a missing docstring fails
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@$(call say,open build/docs/index.html)

bench: setup  ## speed and latency; the last line is one JSON object. SERIES=1000000 WINDOWS=6 for a large fleet
	@$(BIN)/python -m benchmarks.throughput $(if $(SERIES),--series=$(SERIES)) $(if $(WINDOWS),--windows=$(WINDOWS))

chaos: setup  ## streams killed at random moments (KILLS=20 SEED=1) against the same left alone
	@$(BIN)/python -m tests.chaos --kills=$(or $(KILLS),20) --seed=$(or $(SEED),1)

long-run: setup  ## float32 against float64 over 100,000 windows of every component (minutes)
	@LONG_RUN_WINDOWS=100000 $(BIN)/python -m pytest tests/laws/test_long_run.py

lifecycle: setup  ## a model from training to rollback while a stream runs; writes build/lifecycle.html. Last line: one JSON object
	@$(BIN)/python -m tests.lifecycle

upgrade-test: setup  ## Beam upgraded and taken back beneath a stream (BEAM=2.76.0 is the other version)
	@$(BIN)/python -m tests.chaos.upgrade $(or $(BEAM),2.76.0) --uv $(UV)

java: $(STAMPS)/project  ## what Flink needs, and the broker to test with: jars through Maven, once (Java 17 is yours)
	@$(BIN)/python -m pipelines.runners.java setup

cluster-up: $(STAMPS)/project  ## a Kafka broker and a Flink session cluster as local processes, to try things on
	@$(BIN)/python -m tests.cluster up

cluster-down: $(STAMPS)/project  ## end exactly these, and delete their data
	@$(BIN)/python -m tests.cluster down

cluster-test: setup java  ## parity on three engines; a cluster killed in every way (FAULTS="worker broker" in two). Last line: one JSON object
	@$(BIN)/python -m pytest tests/cluster
	@$(BIN)/python -m tests.cluster.faults $(FAULTS)

server-test: setup  ## the team server of mlflow/ with a real PostgreSQL (skipped without one), killed and restarted
	@$(BIN)/python -m pytest tests/server

lock: $(UV)  ## write requirements.lock anew from pyproject.toml
	@{ echo '# Every dependency with its hashes, for Python 3.11 and later, extras demo, excel, kafka, s3, server, docs and dev. Written by `make lock`.'; \
	   $(UV) pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --extra demo --extra excel --extra kafka --extra s3 --extra server --extra docs --extra dev \
	     --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean:  ## delete the environment and every cache inside this folder (Prism stays in the user's cache)
	@rm -rf .venv .venv.new .uv .uv.new .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info build
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# --- set-up -----------------------------------------------------------------------------------------------

# The lines of one package in the lock, hashes and all.
locked = awk '/^[a-z0-9]/ { on = index($$0, "$(1)==") == 1 } on' requirements.lock

.uv/bin/uv: requirements.lock
	@$(call say,uv is not installed: fetching the locked one into .uv)
	@rm -rf .uv.new
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { \
	  echo "neither uv nor pip is here: install one of them (Debian: apt-get install python3-pip), then run make again"; exit 1; }
	@mkdir .uv.new && $(call locked,uv) > .uv.new/requirements.txt
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes --target .uv.new -r .uv.new/requirements.txt
	@rm -rf .uv && mv .uv.new .uv && touch .uv/bin/uv

# Whatever uv leaves half-made when it is interrupted, the next `sync` completes: the stamp comes last.
$(STAMPS)/packages: requirements.lock | $(UV)
	@$(call say,environment from requirements.lock in .venv)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  rm -rf .venv.new .venv; $(UV) venv --quiet --relocatable --python '>=3.11' .venv.new && mv .venv.new .venv; }
	@# setuptools first: it builds the one dependency that is published as source, and this project
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r <($(call locked,setuptools))
	@# bytecode now: else the first start of every command, or each where none may be written, takes seconds
	@$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes --no-build-isolation requirements.lock
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/project: $(STAMPS)/packages pyproject.toml | $(UV)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMPS)/prism: $(STAMPS)/project
	@$(BIN)/python -m pipelines.runners.prism setup
	@touch $@
