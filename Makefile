# Everything is run from here; `make help` lists it. Each target sets up what it needs itself.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export VENV PYTHON

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo env test fast lint format style types workflows duplicates checkers dist clean

help: ## list the targets
	@echo 'make TARGET [VENV=folder of the environment] [PYTHON=interpreter to make it from]'
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

demo: ## train a small detector on generated images and show what it finds
	@tools/setup_env.sh run
	"$(BIN)/vitbackbones" demo

env: ## set up the environment for training and tests
	@tools/setup_env.sh test

test: ## run the tests; PYTEST_ARGS are pytest's options
	@tools/setup_env.sh test
	"$(BIN)/python" -m pytest $(PYTEST_ARGS)

fast: ## run the tests that take a minute on two cores, some for each part of the package
	@$(MAKE) --no-print-directory test PYTEST_ARGS="-m fast -n 2 $(PYTEST_ARGS)"

lint: format style types workflows duplicates ## run all checks that follow

checkers:
	@tools/setup_env.sh lint

format: checkers ## check the format of the code
	"$(BIN)/ruff" format --check .

style: checkers ## check its style
	"$(BIN)/ruff" check .

types: checkers ## check its types
	"$(BIN)/mypy"

workflows: checkers ## check what GitHub runs and asks
	"$(BIN)/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
	"$(BIN)/check-jsonschema" --builtin-schema vendor.github-issue-forms \
	    .github/ISSUE_TEMPLATE/*_*.yml

duplicates: checkers ## look for duplicated code
	"$(BIN)/pylint" vitbackbones tools tests
	"$(BIN)/pylint" --ignore-signatures=n vitbackbones/backbones # constructors repeat no option

dist: ## build the wheel and the sdist in dist/ and check them
	@tools/setup_env.sh dist
	rm -rf build dist
	"$(BIN)/python" -m build
	"$(BIN)/twine" check --strict dist/*

clean: ## remove build products and caches, but neither environment nor data
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find vitbackbones tools tests configs -name __pycache__ -type d -exec rm -rf {} +
