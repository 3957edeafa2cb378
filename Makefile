# Two commands for a fresh machine: `make quickstart` and `make test`. PYTHON=python3.12 takes another interpreter.
PYTHON ?= python3
VENV ?= .venv
DATA ?=
WORKDIR ?= runs/$(if $(DATA),photos,quickstart)
FLAGS ?=
# PyTorch for the tests that compare with it. Its CPU build is enough, and much smaller: PyTorch's page says how to install that.
TORCH ?= torch==2.13.0
# What reads videos, data sets of Hugging Face, TIFF and DICOM; and what programs of jax.export and indices of vectors need.
READERS ?= av==18.1.0 datasets==5.2.0 tifffile==2026.3.3 imagecodecs==2026.3.6 pydicom==3.0.2 pillow-heif==1.8.1
PROGRAMS ?= flatbuffers==25.12.19 faiss-cpu==1.15.1
# What detectors and segmenters need beside it, and their export.
DETECTORS ?= torchvision==0.28.0 pycocotools==2.0.11 lightning-fabric==2.6.6 onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2

BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-torch lint pages docs package hooks clean

help:  ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP)  ## Make .venv and install the locked requirements

$(STAMP): requirements.txt setup.cfg setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# exec: so that a signal to make reaches the training too, which then saves.
quickstart: $(STAMP)  ## Train a small model on synthetic scenes, or on your photos with DATA=/some/folder (WORKDIR=, FLAGS=)
	exec $(BIN)/python -m flsl_jax.main --config=configs/$(if $(DATA),photos,quickstart).py --workdir=$(WORKDIR) \
	  $(if $(DATA),--config.data.root="$(DATA)") $(FLAGS)

test: $(STAMP)  ## Run the whole test suite, on a CPU and without network
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-torch: $(STAMP)  ## Install PyTorch and what the extras need, and run the tests that use them
	$(BIN)/python -m pip install --quiet -c requirements.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet -c requirements.txt $(DETECTORS) $(READERS) $(PROGRAMS)
	$(BIN)/python -m pytest -n 2 --dist worksteal $$(grep -rlE --include='test_*.py' \
	  -e '(importorskip|find_spec)\("(torch|av|datasets|faiss|flatbuffers|onnx|pillow_heif|pydicom|tifffile)' \
	  -e 'import_framework|(torch|framework)_twin|published' tests)

lint: $(STAMP)  ## Check style, format and types, and the shell scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/shellcheck -x launch/*.sh launch/*.sbatch benchmarks/*.sh .ci/run .ci/package

pages: $(STAMP)  ## Write what of the pages is generated anew: docs/config.md and marked blocks
	$(BIN)/python -m docs.generate

docs: $(STAMP)  ## Build the documentation into site/; a broken link or reference is an error
	$(BIN)/python -m pip install --quiet -c requirements.txt --no-build-isolation -e '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

package: $(STAMP)  ## Build the wheel, install it in an empty environment and use it there
	.ci/package $(BIN)/python

hooks: $(STAMP)  ## Check style and format before each commit, by git hooks
	$(BIN)/python -m pip install --quiet pre-commit
	$(BIN)/pre-commit install

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info build site
