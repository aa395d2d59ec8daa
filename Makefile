SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The first Python that is new enough; `make PYTHON=/path/to/python` chooses another.
ifeq ($(origin PYTHON), undefined)
PYTHON := $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
endif
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
# Where builds of torch lie that the configured package index does not have: a folder each, `cpu`, `cu126` ...
TORCH_INDEX ?= https://download.pytorch.org/whl
ARGS ?=

.PHONY: help install train test test-all test-cpus test-gpu lint fmt type check golden bench bench-gpu ui docs family-table adapter-table settings-table clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do \
		printf '  %-12s %s\n' "$$name" "$$text"; done

install: $(STAMP)  ## Make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "No Python >= 3.11 found: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	set -- $$($(PYTHON) -m trainer_core.hardware.torch_build "$(TORCH_VERSION)"); \
	install() { $(BIN)/pip install -q -c constraints.txt "$$@"; }; \
	if [ -z "$${2:-}" ]; then install "$$1"; \
	else install "$$1" 2>/dev/null || install "$$1" --extra-index-url "$(TORCH_INDEX)/$$2" \
		|| { [ "$$2" = cpu ] && install "torch==$(TORCH_VERSION)"; }; fi
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

train: install  ## Train the demo LoRA through Dagster; print its path and SHA-256
	. ./env.sh; dagster asset materialize --select '*samples,*metrics'
	$(BIN)/lora-assets verify "$${LORA_ASSETS_HOME:-.lora-assets}/outputs/demo/demo.safetensors"

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Without this, each of the tests' processes would compile all modules anew where the environment forbids to keep them.
test test-all test-cpus: export PYTHONDONTWRITEBYTECODE :=

test: install  ## Run the tests that need no GPU, without the long campaigns
	$(PYTEST) -m "not gpu and not campaign" $(ARGS)

test-all: install  ## Before a release: all tests that need no GPU, then test-cpus
	$(PYTEST) -m "not gpu" $(ARGS)
	$(MAKE) test-cpus

test-cpus: install  ## Run the numeric tests with each of this CPU's instruction sets
	$(BIN)/python -m tests.cpus -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-gpu: install  ## Run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: install  ## Check style, layers and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell

fmt: install  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: install  ## Check types
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint type  ## Everything that CI checks, except tests

golden: install  ## Write the golden files anew: read the diff before you keep it
	GOLDEN=1 $(BIN)/python -m pytest tests/golden $(ARGS)

bench: install  ## Measure this machine
	$(BIN)/python -m benchmarks $(ARGS)

bench-gpu: install  ## Measure training steps of full-size models on a GPU; ARGS=--rehearse runs tiny ones on the CPU
	$(BIN)/python -m benchmarks.gpu $(ARGS)

ui: install  ## Open Dagster at 127.0.0.1:3000, behind a guard: it prints the address to open
	. ./env.sh; exec python -m lora_assets.web --workspace workspace.yaml $(ARGS)

docs: install  ## Generate the settings' pages and build the site into site/; a broken link is an error
	$(BIN)/python -m trainer_core.config.schema
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "site/index.html"

family-table: install  ## Measure every family against diffusers: docs/family-table.md
	$(BIN)/python -m tests.contract.table

adapter-table: install  ## Print the table of docs/adapters.md: every kind of adapter, measured
	$(BIN)/python -m tests.contract.adapter_table

settings-table: install  ## List every setting with the tests of its effect: docs/settings.md
	$(BIN)/python -m tests.settings_table

clean:  ## Remove caches; with CLEAN_STORE=1 also everything that was ever computed
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info .tmp_dagster_home_*
	if [ "$${CLEAN_STORE:-0}" = 1 ]; then rm -rf .lora-assets; fi
