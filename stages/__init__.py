"""Stages of dvc.yaml. Under a Python without the project's packages they say so and end."""

import importlib.util
import sys

if not all(importlib.util.find_spec(name) for name in ("dvc", "pydantic", "torch", "typer")):
    sys.exit(
        f"error: this stage was started with {sys.executable}, where the project is not "
        "installed: activate its environment (. .venv/bin/activate), or use `make repro`"
    )
