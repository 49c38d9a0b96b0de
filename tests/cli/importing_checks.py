"""What an imported checkpoint must be, and be good for."""

from pathlib import Path

import torch
from reference_files import TINY, config_of

from pipeline.cli.model import load_model

LETTERS = "abcdefgh"
CONFIG = config_of(TINY, tokens=3 + len(LETTERS))


def assert_holds(folder: Path, model) -> None:
    imported, _ = load_model(folder, torch.device("cpu"))
    assert imported.config == model.config
    for name, value in model.network.state_dict().items():
        assert torch.equal(imported.network.state_dict()[name], value), name
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer",
    }


def run_every_command(sedd, folder, text, steps=2):
    """Run all commands that take a model; the texts that `sample` and `infill` print."""
    model = ("--model", folder)
    once = ("--num", 1, "--steps", steps, "--seed", 1)
    shown = {
        name: sedd(name, *arguments, *model)
        for name, arguments in {
            "sample": once,
            "infill": ("--prefix", text, "--gap", 2, *once),
            "perturb": (text, "-t", 0.5, "--seed", 1),
            "loss": (text, "-t", 0.5, "--seed", 1),
            "shift": (text, "-n", 1),
        }.items()
    }
    for name, result in shown.items():
        assert result.exit_code == 0, f"{name}: {result.stderr}"
    assert shown["infill"].stdout.startswith(text)
    assert float(shown["loss"].stdout.split()[-1]) > 0
    return shown
