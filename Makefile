# Everything a person or CI runs, one word each: `make help` lists them.
#
# The environment is .venv, made by the interpreter's own venv module and filled by pip from the
# lock files in requirements/, each of which holds every package with its hashes. A stamp in .venv
# remembers what was installed; it runs again only when a lock file or pyproject.toml changed.

PYTHON ?= python3
ARGS   ?=
# A soak: so many disks for each moment of a power loss, so many ledger runs of so many seconds, and so many tasks whose
# workers, senders and schedulers are killed so often.
SEEDS   ?= 10
SECONDS ?= 60
TASKS   ?= 20000
KILLS   ?= 200
SOAK   := tests/simulation/test_power_loss.py tests/simulation/test_campaign.py \
          tests/simulation/test_tasks_campaign.py
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# --no-deps: the lock files are complete, so pip has nothing to look for.
LOCKED := $(PIP) install --quiet --no-deps --no-build-isolation --require-hashes --use-pep517
PEER_PIP := pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --require-hashes --use-pep517
MYSELF := $(PIP) install --quiet --no-deps --no-build-isolation --editable .
UV     := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
          --no-header --no-emit-index-url --no-emit-find-links
LEAN   := --excludes requirements/excludes.txt
# Engines whose packages contradict each other: each has a lock file and an environment of its own in PEERS.
PEERS  := $(VENV)/peers
ENGINES := bytewax flink pathway pyspark

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test check static format lint types imports tidy docs soak bench package lock clean

help: ## list what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "  PYTHON=python3.12 chooses the interpreter of a new .venv; ARGS='...' goes to pytest, the demo or the benchmark."

# ---- what a newcomer runs -----------------------------------------------------------------------

demo: $(VENV)/.demo ## run the main job on real flights
	$(BIN)/millstream demo $(ARGS)

test: $(VENV)/.dev ## run all tests (ARGS="-k log" for some)
	$(BIN)/python -m pytest $(ARGS)

# ---- the whole truth ----------------------------------------------------------------------------

check: static test ## the whole truth: format, lint, types, imports, then tests (tidy and docs among them)

static: format lint types imports ## everything in check that runs no test

format: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports --config importlinter.ini --no-cache

tidy: $(VENV)/.dev ## only the rules of shape, exports and lock files
	$(BIN)/python -m pytest tests/architecture --ignore=tests/architecture/test_docs.py $(ARGS)

docs: $(VENV)/.dev ## only the docs: examples run, links resolve, nothing is left unnamed
	$(BIN)/python -m pytest tests/architecture/test_docs.py $(ARGS)

# ---- for contributors ---------------------------------------------------------------------------

soak: $(VENV)/.dev ## kill processes and cut the power for long: make soak SEEDS=20 SECONDS=60
	MILLSTREAM_SEEDS=$(SEEDS) MILLSTREAM_SECONDS=$(SECONDS) MILLSTREAM_LEDGER_TASKS=$(TASKS) \
	  MILLSTREAM_LEDGER_KILLS=$(KILLS) $(BIN)/python -m pytest $(SOAK) -v $(ARGS)

bench: $(VENV)/.bench $(if $(filter stream,$(NAME)),$(ENGINES:%=$(PEERS)/%/.installed)) ## run a benchmark beside its peers: make bench NAME=log
	@test -n "$(NAME)" || { echo "error: which benchmark? For example: make bench NAME=log" >&2; exit 2; }
	@$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

package: $(VENV)/.dev ## build the wheel and the source archive in dist/
	$(BIN)/python -m build --no-isolation

lock: $(VENV)/.lock ## renew the lock files (ARGS="--upgrade" takes newer versions)
	$(UV) $(LEAN) $(ARGS) --group build -o requirements/build.txt
	$(UV) $(LEAN) $(ARGS) --group lock -o requirements/lock.txt
	$(UV) $(LEAN) $(ARGS) --extra delta --extra demo --extra django --extra fsspec --extra http --extra iceberg --extra learn --extra sql --group dev -c requirements/build.txt pyproject.toml -o requirements/dev.txt
	$(UV) $(LEAN) $(ARGS) --extra demo -c requirements/dev.txt pyproject.toml -o requirements/demo.txt
	$(UV) $(LEAN) $(ARGS) --group bench -c requirements/dev.txt -o requirements/bench.txt
	$(UV) $(LEAN) $(ARGS) --group honker -o requirements/honker.txt
	@# Without the exclusions: Pathway and Flink import pandas.
	for engine in $(ENGINES); do $(UV) $(ARGS) --group $$engine -o requirements/$$engine.txt || exit 1; done

clean: ## remove .venv, caches and everything that was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# ---- the environment ----------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "error: millstream needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not here). Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) has no venv module. On Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.build: requirements/build.txt | $(BIN)/python
	$(LOCKED) -r requirements/build.txt
	@touch $@

$(VENV)/.demo: requirements/demo.txt pyproject.toml $(VENV)/.build
	$(LOCKED) -r requirements/demo.txt
	$(MYSELF)
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml $(VENV)/.build
	$(LOCKED) -r requirements/dev.txt
	$(MYSELF)
	@touch $@

$(VENV)/.bench: requirements/bench.txt requirements/honker.txt $(VENV)/.dev
	$(LOCKED) -r requirements/bench.txt
	@# Its build calls maturin by name, which bench.txt just put beside our Python.
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(LOCKED) -r requirements/honker.txt 2>$(VENV)/honker.log || \
	  echo "note: honker cannot be installed here (no wheel fits and no Rust builds it); the benchmark runs without this peer."
	@touch $@

$(PEERS)/%/.installed: requirements/%.txt requirements/build.txt | $(BIN)/python
	@$(BIN)/python -m venv $(@D) && \
	  $(@D)/bin/python -m $(PEER_PIP) -r requirements/build.txt && $(@D)/bin/python -m $(PEER_PIP) -r requirements/$*.txt && \
	  touch $@ || echo "note: $* cannot be installed here; the benchmark runs without this peer."

$(VENV)/.lock: requirements/lock.txt | $(BIN)/python
	$(LOCKED) -r requirements/lock.txt
	@touch $@
