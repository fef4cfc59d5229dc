# `make run` and `make test` do their own set-up; everything else builds on the same environment.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SECONDS_OF_DEMO ?= 180
ARGS ?=

.PHONY: run test test-cluster setup system browser lint types imports notebooks build bench lock reference proto clean help

help: ## Show what there is.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: setup ## Set up and run the demonstration (SECONDS_OF_DEMO=180, ARGS="--json").
	$(BIN)/tidegate demo --seconds $(SECONDS_OF_DEMO) $(ARGS)

test: setup browser ## Set up and run all tests.
	$(BIN)/python -m pytest $(ARGS)

test-cluster: setup ## End-to-end tests against the cluster of KUBECONFIG (no nodes needed).
	TIDEGATE_TEST_CLUSTER=1 $(BIN)/python -m pytest tests/real_cluster $(ARGS)

setup: system $(VENV)/.done

# A half-made environment is made again: the stamp is the last thing written.
$(VENV)/.done: pyproject.toml requirements.lock | system
	@if ! command -v $(PYTHON) >/dev/null; then \
	  if command -v python3 >/dev/null && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then :; else \
	    echo "Tidegate needs Python 3.11 or newer (Debian: apt-get install python3 python3-venv)." >&2; exit 2; fi; fi
	@echo "setting up $(VENV) (a minute the first time)" >&2
	rm -rf $(VENV)
	$$(command -v $(PYTHON) || command -v python3) -m venv $(VENV) || { \
	  echo "python3-venv is missing (Debian: apt-get install python3-venv)." >&2; rm -rf $(VENV); exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

browser: ## Install Debian's chromium for the dashboard's tests, when it is missing and that is allowed.
	@bash scripts/system_packages.sh test

system: ## Install Debian's prometheus when it is missing and that is allowed.
	@bash scripts/system_packages.sh

lint: setup ## ruff, formatter included.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy --strict.
	$(BIN)/mypy

imports: setup ## Who may import whom.
	$(BIN)/lint-imports

notebooks: setup ## Execute every notebook from a clean kernel.
	$(BIN)/python notebooks/execute.py

build: setup ## Build the wheel and try it in an environment of its own.
	$(BIN)/python scripts/try_wheel.py

bench: setup ## The timing tables.
	$(BIN)/python bench/tick.py $(ARGS)

reference: setup ## Write the references in docs/ from the code.
	$(BIN)/tidegate config --reference > docs/configuration.md
	$(BIN)/python scripts/generate_commands.py
	$(BIN)/python scripts/generate_metrics.py

proto: setup ## Generate the KEDA scaler's messages anew from its .proto.
	$(BIN)/python scripts/generate_proto.py

lock: ## Resolve pyproject.toml's dependencies anew into requirements.lock (needs uv).
	bash scripts/lock.sh

clean: ## Remove what was set up or built.
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
