# Everything is run from here; `make help` lists it. Each target sets up what it needs itself.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export VENV PYTHON

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo env test lint clean

help: ## list the targets
	@echo 'make TARGET [VENV=folder of the environment] [PYTHON=interpreter to make it from]'
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-6s %s\n", $$1, $$2}' Makefile

demo: ## train a small detector on generated pictures and show what it finds
	@tools/setup_env.sh run
	"$(BIN)/vitbackbones" demo

env: ## set up the environment for training and tests
	@tools/setup_env.sh test

test: ## run the tests; PYTEST_ARGS are pytest's options
	@tools/setup_env.sh test
	"$(BIN)/python" -m pytest $(PYTEST_ARGS)

lint: ## check format, style, types and duplicated code
	@tools/setup_env.sh lint
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"
	"$(BIN)/pylint" vitbackbones tools tests

clean: ## remove build products and caches, but neither environment nor data
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find vitbackbones tools tests configs -name __pycache__ -type d -exec rm -rf {} +
