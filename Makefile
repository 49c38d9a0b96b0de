PYTHON ?= python3
BIN := .venv/bin
# DVC starts stages as `python`: it must be the environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test test-slow test-gpu ui clean

repro: .venv/installed
	sedd check
	dvc repro

test: .venv/installed-dev
	ruff check .
	ruff format --check .
	mypy
	pytest -n auto

test-slow: .venv/installed-dev
	pytest -m slow

test-gpu: .venv/installed-dev
	pytest -m gpu

ui: .venv/installed
	sedd ui

clean: .venv/installed
	sedd clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: pyproject.toml
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch .venv/installed $@
