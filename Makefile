# Two commands for a fresh machine: `make quickstart` and `make test`. PYTHON=python3.12 takes another interpreter.
PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
DATA ?=
FLAGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test lint clean

help:  ## Say what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP)  ## Make .venv and install the locked requirements

$(STAMP): requirements.txt setup.cfg setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

quickstart: $(STAMP)  ## Train a small model on synthetic scenes, or on your photos with DATA=/some/folder
	$(BIN)/python -m flsl_jax.main --config=configs/quickstart.py --workdir=$(WORKDIR) \
	  $(if $(DATA),--config.data.name=folder --config.data.root="$(DATA)" --config.evaluation.every_epochs=0.0) $(FLAGS)

test: $(STAMP)  ## Run the whole test suite, on a CPU and without network
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)  ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
