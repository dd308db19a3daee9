# Everything happens in $(VENV), which is made on first use and again when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv

PY := $(VENV)/bin/python
STAMP := $(VENV)/.farebox-installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help demo test environments frameworks matrix coverage lint types bench admission bounds peers ledgers audit storm format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## a guided run against a fake provider: no key, no network
	@$(PY) docs/demo.py

# What failed beside the other worker has the machine to itself the second time; what fails then fails.
test: lint types ## ruff, mypy, pytest: what has to pass
	@$(PY) -m pytest || $(PY) -m pytest -n0 --last-failed --last-failed-no-failures=none

environments: $(STAMP) ## those of the next two that .ci/run has, too
	@$(PY) -m tests.environments ci

frameworks: $(STAMP) ## LangChain, pydantic-ai, CrewAI and others, real packages in environments of their own
	@$(PY) -m tests.environments frameworks

matrix: $(STAMP) ## the oldest and newest SDKs, the lowest of everything, other Pythons
	@$(PY) -m tests.environments matrix

coverage: $(STAMP) ## docs/coverage.md, from what the tests of every environment have shown
	@rm -rf build/surfaces
	@$(PY) -m pytest -q -m surface --surfaces=build/surfaces/main.json
	@$(PY) -m tests.environments frameworks matrix --surfaces build/surfaces
	@$(PY) -m tests.surfaces build/surfaces

lint: $(STAMP) ## ruff: check and format --check
	@$(PY) -m ruff check --quiet
	@$(PY) -m ruff format --check --quiet || { echo "not formatted; run: make format" >&2; exit 1; }

types: $(STAMP) ## mypy, strict
	@$(PY) -m mypy

bench: $(STAMP) ## what farebox adds to a call
	@$(PY) benchmarks/overhead.py

admission: $(STAMP) ## how much of a budget gets used, and what is cut or refused
	@$(PY) benchmarks/admission.py --write

bounds: $(STAMP) ## how often the estimate of the input is too low
	@$(PY) benchmarks/bounds.py --write

peers: $(STAMP) ## the same work through farebox and five other libraries
	@$(PY) benchmarks/peers.py --fresh --write

ledgers: $(STAMP) ## calls a second of each ledger, and how long reports take
	@$(PY) benchmarks/ledger.py --write
	@$(PY) benchmarks/report.py --write

audit: $(STAMP) ## kill processes for a minute, then compare the books of SQLite and Redis with their logs
	@$(PY) -m tests.ledgers.audit --seconds 60

storm: $(STAMP) ## all tests, the long ones too
	@FAREBOX_STORM=long $(PY) -m pytest --timeout=3600

format: $(STAMP) ## let ruff rewrite what it can
	@$(PY) -m ruff check --fix --exit-zero --quiet
	@$(PY) -m ruff format --quiet

clean: ## remove what make made, the venv too
	@if [ -f '$(VENV)/pyvenv.cfg' ]; then rm -rf '$(VENV)'; fi
	@rm -rf .venv-frameworks .venv-matrix
	@rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find src tests benchmarks docs -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp holds the folder that is installed: a copied or moved checkout must not test its original.
ifneq ($(shell cat '$(STAMP)' 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "farebox needs Python 3.11 or newer as '$(PYTHON)'; choose one with: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "'$(PYTHON)' has no venv or ensurepip; install them (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "setting up $(VENV)"
	@$(PY) -m pip --version >/dev/null 2>&1 \
	  || $(PYTHON) -m venv $$([ -f '$(VENV)/pyvenv.cfg' ] && echo --clear) '$(VENV)'
	@$(PY) -m pip install -qq 'pip>=25.1'  # the first that knows --group
	@$(PY) -m pip install -qq --editable '.[openai,anthropic,google,mistral,cohere,redis]' --group dev
	@printf '%s' '$(CURDIR)' > '$(STAMP)'
