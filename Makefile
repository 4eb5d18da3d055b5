# Everything that is done to this checkout by hand or by a machine. `make` alone lists it.
#
# The virtual environment is made anew only when what it holds has changed: its stamp depends on
# pyproject.toml and requirements.lock. Another place for it: `make test VENV=/tmp/venv`.

SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.passby-installed

# More arguments for the program that a target starts: `make test ARGS="-k city -x"`.
ARGS ?=

URL ?= http://127.0.0.1:8080
USERS ?= 20
SECONDS ?= 30
UPGRADE ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install run test check bench loadtest lock clean browser python

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## Make the virtual environment, as locked

run: $(STAMP) ## Start the demo at http://127.0.0.1:8080
	$(BIN)/passby demo $(ARGS)

test: $(STAMP) browser ## Run all tests
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP) ## Lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(STAMP) ## Measure, and print one table with its conditions
	$(BIN)/python -m bench $(ARGS)

loadtest: $(STAMP) ## Walk the made-up city against the server at URL
	$(BIN)/locust -f loadtest/locustfile.py --headless --host $(URL) \
		--users $(USERS) --spawn-rate $(USERS) --run-time $(SECONDS)s --only-summary $(ARGS)

lock: python ## Renew requirements.lock (UPGRADE=--upgrade moves every pin)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT \
		&& $(PYTHON) -m venv "$$folder" && "$$folder/bin/pip" install --quiet pip-tools \
		&& "$$folder/bin/python" .ci/lock.py $(UPGRADE)

clean: ## Remove the virtual environment, caches and built files; data in .passby stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Passby needs Python 3.11 or newer as '$(PYTHON)' (is: $$($(PYTHON) --version 2>&1))." >&2; \
		echo "Name another one with: make PYTHON=/path/to/python3" >&2; \
		exit 1; }

# An environment whose Python is gone or too old is made anew. `python` is an order-only
# prerequisite: it is always run, and never makes the stamp old.
$(STAMP): pyproject.toml requirements.lock | python
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		rm -rf $(VENV); \
		$(PYTHON) -m venv $(VENV) || { \
			rm -rf $(VENV); \
			echo "Making a virtual environment failed; on Debian, install python3-venv." >&2; \
			exit 1; }; \
	fi
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# What the tests need besides Python packages: a browser, for those in tests/browser.
browser:
	@if [ -d tests/browser ] && ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; \
		else \
			echo "No Chromium here and no right to install it: THE BROWSER'S TESTS WILL BE SKIPPED." >&2; \
		fi; \
	fi
