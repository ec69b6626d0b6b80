# `make` lists the targets. Each sets up what it needs: system packages, .venv, twotrack in it.

ifndef PYTHON
PYTHON := $(or $(shell for name in python3.11 python3.12 python3.13 python3.14; do \
	$$name --version >/dev/null 2>&1 && echo $$name && break; done),python3)
endif
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo run test check bench bench-sync voices clean system-packages test-packages

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Install system packages, and twotrack into .venv

# Made anew only when the requirements change; the system packages are looked at every time.
$(STAMP): setup.cfg pyproject.toml | system-packages
	@echo "Installing twotrack into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --use-pep517 --editable '.[test]'
	@touch $@

system-packages:
	@PYTHON='$(PYTHON)' sh .ci/system-packages run

test-packages: | system-packages
	@PYTHON='$(PYTHON)' sh .ci/system-packages test

demo: install ## Record a real call of two voices, and show what came of it (15 s)
	@$(BIN)/twotrack demo

run: install ## Run the daemon in the foreground, with config/twotrack.toml
	@$(BIN)/twotrack serve --config config/twotrack.toml

test: install test-packages ## Run all tests
	@$(BIN)/pytest

check: install ## Check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: bench-sync ## Run the benchmarks

bench-sync: install ## Measure how far sounds lie from where they were spoken, on synthetic calls
	@$(BIN)/python benchmarks/sync.py

voices: system-packages ## Make the demo's two voices anew
	@sh daemon/twotrack/voices/make.sh

clean: ## Remove all that make made: .venv, caches, the demo's recordings
	rm -rf $(VENV) build dist daemon/*.egg-info twotrack-demo
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find daemon tests -name __pycache__ -type d -prune -exec rm -rf {} +
