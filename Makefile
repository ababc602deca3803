# The front door. Every target first sees to .venv, which takes no time once it is complete.
# PYTHON=... names the interpreter, TORCH_SPEC=... the torch; scripts/setup.sh explains them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# The path is set inside the recipes: in make's own lists a folder with spaces falls apart.
IN_VENV = PATH="$$PWD/.venv/bin:$$PATH";
OURS = find . \( -name .git -o -name .venv -o -path ./data -o -path ./runs \) -prune -o

.PHONY: help setup quickstart test test-all benchmark benchmark-gpu check format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s%s\n", $$1, $$2 }' Makefile

setup:  ## make .venv and install what is missing
	@bash scripts/setup.sh

quickstart: setup  ## train, translate and score on a generated corpus, in minutes on two cores
	@$(IN_VENV) bash examples/quickstart/run.sh

test: setup  ## the fast tests; ARGS="tests/data -k fetch" narrows them
	@$(IN_VENV) pytest -n 2 -m "not slow" $(ARGS)

test-all: setup  ## every test, the long ones too
	@$(IN_VENV) pytest -n 2 $(ARGS)

benchmark: setup  ## measure on the CPU, half an hour: benchmarks/results, docs/performance.md
	@$(IN_VENV) for part in mechanisms sparse label_smoothing adam training_step decoding \
		table plots; do \
		echo "== $$part"; OMP_NUM_THREADS=1 python -m "benchmarks.$$part"; done; \
	python -m benchmarks.check

benchmark-gpu:  ## check and measure on the GPU here, eight minutes at most: benchmarks/results/
	@$(IN_VENV) python3 -m benchmarks.gpu $(ARGS)

check: setup  ## lint, format, types, import layers, shell scripts: all of them, whatever fails
	@$(IN_VENV) status=0; \
	shell() { $(OURS) \( -name '*.s*h' -o -path ./.ci/run \) -print0 | xargs -0 shellcheck; }; \
	step() { echo "== $$*"; "$$@" || status=1; }; \
	step ruff check; \
	step ruff format --check; \
	step mypy; \
	step lint-imports --no-logo; \
	step shell; \
	exit $$status

format: setup  ## repair what the linter can repair, and format
	@$(IN_VENV) ruff check --fix; ruff format

clean:  ## remove caches; .venv, data/ and runs/ stay
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@$(OURS) -name __pycache__ -print0 | xargs -0 rm -rf
