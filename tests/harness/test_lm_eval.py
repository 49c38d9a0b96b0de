"""lm-evaluation-harness itself on local tasks, offline; and what is said where it is not here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_project import PROJECT
from toy import toy_config, write_model
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.harness.requests import Answering
from pipeline.methods.sedd.model import SEDD

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {output}
doc_to_text: "{{{{context}}}}"
doc_to_target: {target}
{more}
metric_list:
  - metric: {metric}
"""
ROWS = [
    {"context": "Ada", "word": " Ben", "choices": [" Ben", " a"], "label": 1},
    {"context": "Ben and", "word": " Ada", "choices": [" Ada", " Ben and Ada"], "label": 0},
]
KINDS = {
    "last": ("loglikelihood", '"{{word}}"', "perplexity", ""),
    "choice": ("multiple_choice", "label", "acc", 'doc_to_choice: choices\ntarget_delimiter: ""'),
    "whole": ("loglikelihood_rolling", '"{{context}}{{word}} {{context}}"', "bits_per_byte", ""),
    "until": (
        "generate_until", '"{{word}}"', "exact_match",
        'generation_kwargs: {until: ["B"], max_gen_toks: 5}',
    ),
}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """Random weights for texts of at most 12 characters, and their folder."""
    tokenizer = train_char_tokenizer(["Ada Ben and"])
    torch.manual_seed(0)
    model = SEDD(toy_config("absorb", "conditional", vocab_size=tokenizer.size, length=12)).eval()
    write_model(tmp_path, model, tokenizer)
    return Answering(
        model, tokenizer, "float32",
        num_draws=8, num_steps=4, batch_size=8, seed=3,
    )  # fmt: skip


def write_tasks(folder):
    folder.mkdir()
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, (output, target, metric, more) in KINDS.items():
        text = TASK.format(
            name=name, data=data, output=output, target=target, metric=metric, more=more
        )
        (folder / f"{name}.yaml").write_text(text)


def sedd(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-c", "from pipeline.cli import app; app()", "lm-eval", *arguments],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_harness_gets_the_models_own_answers_on_local_tasks(model, tmp_path):
    pytest.importorskip("lm_eval", reason="an extra: python install.py lm-eval")
    write_tasks(tmp_path / "tasks")
    done = sedd(
        tmp_path, "--model", "model", "--num-draws", "8", "--steps", "4", "--seed", "3",
        "--tasks", "last,choice,whole,until", "--include_path", "tasks", "--log_samples",
        "--output_path", "out", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for name in KINDS:
        (path,) = Path(tmp_path / "out").glob(f"**/samples_{name}_*.jsonl")
        found[name] = [json.loads(line)["resps"] for line in path.read_text().splitlines()]
    texts = [model.split(row["context"], row["word"]) for row in ROWS]
    nats, greedy = model.log_likelihoods(texts), model.are_likeliest(texts)
    answers = [(float(each[0][0][0]), str(each[0][0][1])) for each in found["last"]]
    assert answers == [(pytest.approx(n), str(g)) for n, g in zip(nats, greedy, strict=True)]

    choices = [model.split(row["context"], each) for row in ROWS for each in row["choices"]]
    answers = [float(each[0][0]) for row in found["choice"] for each in row]
    assert answers == pytest.approx(model.log_likelihoods(choices))

    whole = [row["context"] + row["word"] + " " + row["context"] for row in ROWS]
    nats = model.log_likelihoods([(model.split("", text)[0], 1) for text in whole])
    assert [float(each[0][0]) for each in found["whole"]] == pytest.approx(nats)

    generator = model.generator()
    drawn = [model.continuation(row["context"], 5, ["B"], generator) for row in ROWS]
    assert [each[0][0] for each in found["until"]] == drawn


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "x", "--num-draws", "3"], "--num-draws must be even and at least 2 (got 3)"),
        (["--tasks", "x", "--steps", "0"], "--steps must be from 1 to"),
        (["--limit", "3"], "--tasks is missing: names of the harness's tasks"),
    ],
)
def test_wrong_options_are_said(monkeypatch, arguments, said):
    monkeypatch.setattr("pipeline.environment.find_spec", lambda name: name)
    result = CliRunner().invoke(app, ["lm-eval", *arguments])
    assert result.exit_code == 1
    assert said in result.output


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("pipeline.environment.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["lm-eval", "--tasks", "lambada_openai"])
    assert result.exit_code == 1
    assert "the package lm_eval is not installed" in result.output
    assert "`python install.py lm-eval`" in result.output
