# `make help` lists the commands. Each sets up what it needs, in .venv (Python 3.11) or .venv-<version>, and sets up
# nothing that is already there. Another interpreter: make test PYTHON=python3.13 (or PYTHON=/path/to/python).

ifndef PYTHON
PYTHON := $(shell .ci/find-python)
endif
VERSION := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
ifeq ($(VERSION),)
$(error Python 3.11 or newer is needed and "$(PYTHON)" is none; name one: make PYTHON=/path/to/python $(MAKECMDGOALS))
endif
VENV ?= $(if $(filter 3.11,$(VERSION)),.venv,.venv-$(VERSION))
BIN := $(VENV)/bin
# Exact versions, where they are recorded for this interpreter; the ranges of pyproject.toml elsewhere.
LOCK := $(wildcard constraints-$(VERSION).txt)

TESTS ?= tests
VERSIONS ?= 3.11 3.12 3.13
ARGS ?=
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile -q
# What depends on the versions of Python, JAX, NumPyro and ArviZ; the rest differs by nothing but the compiler.
TESTS_OF_VERSIONS := tests/core tests/graph tests/transform tests/random tests/nn/bijections tests/nn/priors \
    $(addprefix tests/infer/, \
        target/test_inspection.py target/test_code_of_models.py target/test_parameterization.py target/test_traced.py \
        target/test_configs.py target/test_posterior.py results/test_fit.py results/test_arviz_io.py \
        results/test_plots.py results/test_compare.py results/test_prediction.py results/test_storage.py \
        diagnostics/test_mcmc.py descent/test_map.py variational/test_svi.py variational/test_pathfinder.py \
        mcmc/test_nuts.py mcmc/test_backends.py laplace/test_laplace.py)
# The CPU build where the index offers one; it is an oracle of the tests, not a dependency.
TORCH ?= torch==2.13.0
BENCHMARKS := $(sort $(wildcard benchmarks/[!_]*.py))
NOTEBOOKS := $(patsubst notebooks/%.py,docs/notebooks/%.ipynb,$(filter-out %/run.py,$(sort $(wildcard notebooks/*.py))))

.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:
.PHONY: help demo test test-slow test-versions test-all torch test-torch lint format bench notebooks docs lock clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

demo: $(VENV)/.has-plot  ## fit the place cell of examples/ in three ways; results in demo_output/
	@$(BIN)/python examples/place_cell.py

test: $(VENV)/.has-dev  ## the quick tests, in parallel (TESTS=tests/nn, ARGS='-x -k name')
	@$(PYTEST) -m 'not slow' $(TESTS) $(ARGS)

test-slow: $(VENV)/.has-dev  ## the slow tests: reference posteriors, kills, calibration, several processes, the wheel
	@$(PYTEST) -m slow $(TESTS) $(ARGS)

test-versions:  ## what depends on versions, quickly, on every other supported interpreter found here
	@for version in $(filter-out $(VERSION),$(VERSIONS)); do \
	    if python=$$(.ci/find-python $$version); then \
	        echo "== Python $$version ($$python)"; \
	        $(MAKE) --no-print-directory test PYTHON=$$python TESTS='$(TESTS_OF_VERSIONS)' || exit 1; \
	    else \
	        echo "== Python $$version: not found here"; \
	    fi; \
	done

test-all: test test-slow test-versions  ## all of these, one after another

torch: $(VENV)/.has-torch  ## install PyTorch (the CPU build), which some tests compare with

test-torch: torch  ## the layers against PyTorch
	@$(PYTEST) -m 'not slow' tests/nn $(ARGS)

lint: $(VENV)/.has-dev  ## style, format, types, and the rules of the house
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; echo 'make format mends it'; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m pytest -q tests/test_house.py

format: $(VENV)/.has-dev  ## lay out the code and mend what can be mended mechanically
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

bench: $(VENV)/.has-dev  ## the benchmarks, one claim a script
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

notebooks: $(NOTEBOOKS)  ## execute notebooks/*.py (those that changed) into docs/notebooks/

docs/notebooks/%.ipynb: notebooks/%.py notebooks/run.py | $(VENV)/.has-notebooks
	@$(BIN)/python notebooks/run.py $< $@

docs: $(VENV)/.has-docs notebooks  ## the documentation, without a warning; docs/_build/html/index.html
	@$(BIN)/python -m sphinx -W --keep-going -q -j auto docs docs/_build/html
	@echo docs/_build/html/index.html

lock: $(BIN)/python  ## resolve the newest versions anew and record them for this interpreter
	@$(BIN)/python .ci/lock.py > constraints-$(VERSION).new && mv constraints-$(VERSION).new constraints-$(VERSION).txt
	@git --no-pager diff --stat -- constraints-$(VERSION).txt

clean:  ## remove everything that the commands made, environments included
	rm -rf .venv .venv-* .pytest_cache .hypothesis .mypy_cache .ruff_cache .jax_cache build dist
	rm -rf demo_output benchmarks/results docs/_build docs/notebooks docs/api
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.has-torch: | $(VENV)/.has-dev
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(TORCH)
	@touch $@

# One stamp for each set of extras; done again when the dependencies or the recorded versions change.
$(VENV)/.has-%: pyproject.toml $(LOCK) | $(BIN)/python
	@echo "$(VENV): installing brainstate_prob[$*]"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[$*]' $(addprefix --constraint ,$(LOCK))
	@touch $@

$(BIN)/python:
	@echo "$(VENV): a new environment for Python $(VERSION)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade pip
