PYTHON ?= python3
BIN := .venv/bin
# DVC starts stages as `python`: it must be the environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test test-slow test-gpu gpu-day bench bench-quick profile ui clean lock

repro: .venv/installed
	$(BIN)/sedd check
	$(BIN)/dvc repro

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test-slow: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

# On a GPU's own Python, with whatever it has installed: PyTorch is enough for the second.
test-gpu:
	$(PYTHON) -m pytest -m gpu -o filterwarnings=default tests/test_gpu.py

gpu-day:
	$(PYTHON) -m benchmarks.gpu_day

bench: .venv/installed-bench
	$(BIN)/python -m benchmarks bench

bench-quick: .venv/installed-bench
	$(BIN)/python -m benchmarks bench --quick

profile: .venv/installed-bench
	$(BIN)/python -m benchmarks profile

ui: .venv/installed
	$(BIN)/sedd ui

clean: .venv/installed
	$(BIN)/sedd clean

# The newest versions that pyproject.toml allows, on every platform, of every extra but flash, which
# has to be compiled.
lock: .venv/installed
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate \
	  --extra dev --extra bench --extra mauve --extra lm-eval --extra ray --extra lock \
	  --custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

.venv/installed: pyproject.toml requirements.lock install.py
	$(PYTHON) -m venv .venv
	$(BIN)/python install.py
	touch $@

.venv/installed-dev: pyproject.toml requirements.lock install.py
	$(PYTHON) -m venv .venv
	$(BIN)/python install.py dev
	touch .venv/installed $@

.venv/installed-bench: pyproject.toml requirements.lock install.py
	$(PYTHON) -m venv .venv
	$(BIN)/python install.py bench
	touch .venv/installed $@
