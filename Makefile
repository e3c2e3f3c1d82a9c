# The two commands a newcomer needs are `make quickstart` and `make test`; both do their own set-up in .venv.
# Another interpreter: `PYTHON=python3.12 make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Two sets of packages: what running needs, and what developing needs. Their stamps say which are installed.
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
# The developer's set holds the runner's, so where it is there, `make quickstart` takes it.
RUN_READY := $(if $(wildcard $(DEV_STAMP)),$(DEV_STAMP),$(RUN_STAMP))

.DEFAULT_GOAL := help
.PHONY: help quickstart test stress lint docs wheel check clean

help:  ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

quickstart: $(RUN_READY)  ## Install what running needs, then profile, design, export and measure on this machine.
	$(BIN)/deepmad-hw quickstart

test: $(DEV_STAMP)  ## Install what developing needs, then run all tests on two workers.
	$(BIN)/python -m pytest -n 2

stress: $(DEV_STAMP)  ## Try each promise of docs/reliability.md in full, with nothing else running (up to 2 hours).
	$(BIN)/python benchmarks/stress.py --page docs/reliability-tried.md

lint: $(DEV_STAMP)  ## Check format, style, types and who imports whom.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(DEV_STAMP)  ## Build the documents as a site into site/, without a network.
	$(BIN)/typer deepmad_hw.cli.app utils docs --name deepmad-hw --title "Command line" --output docs/reference/cli.md
	$(BIN)/mkdocs build --strict

wheel: $(DEV_STAMP)  ## Build the wheel into dist/.
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

check:  ## Do all that a change must pass: tests, lint, wheel, tests against the wheel.
	.ci/run

clean:  ## Remove the environment and everything built.
	rm -rf $(VENV) dist build site docs/reference/cli.md .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed; name one: PYTHON=python3.12 make ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# First what is pinned, refused where a file's hash is not listed; then the project, and torch in the machine's own build.
$(RUN_STAMP): pyproject.toml constraints.txt hashes-run.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement hashes-run.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[cpu]'
	touch $@

$(DEV_STAMP): pyproject.toml constraints.txt hashes-run.txt hashes-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement hashes-run.txt --requirement hashes-dev.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[cpu,openvino,torch,dev,docs,gpu,rtx]'
	touch $@
