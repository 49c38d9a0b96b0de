"""Stages of dvc.yaml. Under a Python without the project they say what to do, and end."""

import importlib.metadata
import sys

try:
    importlib.metadata.distribution("text-diffusion-pipeline")
except importlib.metadata.PackageNotFoundError:
    sys.exit(
        f"error: this stage was started with {sys.executable}, where the project is not "
        "installed: activate its environment (. .venv/bin/activate), or use `make repro`"
    )
