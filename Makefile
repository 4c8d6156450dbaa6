# demo, test, ui, bench and lint install what they need first, once.
PYTHON ?= python3
BIN := .venv/bin
EXTRA ?= cpu
export SEATRIAL_HOME ?= $(CURDIR)/dagster_home
export DAGSTER_HOME := $(SEATRIAL_HOME)

.PHONY: demo test ui down bench lint install
demo: install            ## from data to a served, scored and watched release
	@$(BIN)/seatrial demo

test: install            ## every test; whole installations, which measure time, with nothing beside them
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/e2e
	@$(BIN)/python -m pytest tests/e2e

ui: install              ## the Dagster UI
	@mkdir -p "$(SEATRIAL_HOME)" && test -e "$(SEATRIAL_HOME)/dagster.yaml" || cp dagster_home/dagster.yaml "$(SEATRIAL_HOME)"
	@$(BIN)/dg dev

down:                    ## stop all that was started
	@test ! -x $(BIN)/seatrial || $(BIN)/seatrial down

bench: install           ## the benchmarks, as ratios measured in one run
	@$(BIN)/python -m pytest --timeout 0 tests/benchmarks

lint: install            ## format, lint, types, layers, definitions
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/dg check defs

install: .venv/.installed

# Two environments: ours, and the service's with its runtime packages only. torch comes first, so that nothing
# else pulls in another build of it. Nothing is compiled ahead: Python does that for the modules that are used, a
# small part of all.
.venv/.installed: pyproject.toml constraints.txt bentos/requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[$(EXTRA),dev]'
	@$(BIN)/python -m pipelines.gateways.environments bentos/requirements.txt "$(SEATRIAL_HOME)/environments"
	@touch $@
