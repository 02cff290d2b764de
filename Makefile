# demo test check bench soak protos docs. Everything they need goes into .venv; nothing asks for root.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test check bench soak engines protos docs clean

# The first of these that is Python 3.11 or newer.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin
k ?=

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install one, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: $$("$(PYTHON)" -c 'import sys; print(sys.executable)') can't make a virtual environment:" \
	       "the package python3-venv (Debian, Ubuntu) is missing" >&2; exit 1; }
	@echo "making .venv with $$("$(PYTHON)" --version)" >&2
	@"$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip # an older one shows no progress

.venv/.runtime: pyproject.toml | .venv/bin/python
	@echo "installing hybrid-pcc into .venv" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@echo "installing hybrid-pcc and its development tools into .venv" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/.runtime

demo: .venv/.runtime ## both routes on this machine, over four real inputs; opens the chat on a terminal
	@$(BIN)/python examples/demo.py

test: .venv/.dev ## everything this machine can run; make test k=frames narrows
	@$(BIN)/hybrid list show starter >/dev/null 2>&1 || $(BIN)/hybrid pull starter --yes
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(if $(k),-k '$(k)')

check: .venv/.dev ## format, lint, strict types, floors, generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 4
	@$(BIN)/python .ci/contracts_selftest.py
	@$(BIN)/python .ci/protos.py --check
	@$(BIN)/python .ci/deps.py
	@$(BIN)/python .ci/docs.py --check

bench: .venv/.dev ## one JSON line a row: our figure, the baseline's, the ratio
	@$(BIN)/python bench/run.py $(if $(k),-k '$(k)')

soak: .venv/.dev ## the long form of the node's checks, about an hour; make soak k=residue narrows
	@$(BIN)/python -m pytest -m soak $(if $(k),-k '$(k)')

engines: .venv/.dev ## the openai engine against a real llama.cpp server; builds it, minutes
	@$(BIN)/python tests/engines/real.py

protos: .venv/.dev ## stubs from the .proto, vectors from the code
	@$(BIN)/python .ci/protos.py

docs: .venv/.dev ## help texts and trees in the documents, from the code
	@$(BIN)/python .ci/docs.py

clean: ## the environment and caches
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
