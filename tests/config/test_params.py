import json
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import load_yaml
from pydantic import ValidationError
from tiny_project import PROJECT, shipped_params, write_params

from pipeline.config.params import load_params
from pipeline.config.sections import Section
from pipeline.errors import ParamsError


def load(tmp_path, changes):
    write_params(tmp_path, changes)
    return load_params(tmp_path / "params.yaml")


def test_the_shipped_file_is_valid(tmp_path):
    assert load(tmp_path, {}).steps == 128


def test_no_value_has_a_default_in_code():
    def sections(kind):
        for child in kind.__subclasses__():
            # Published configurations are sections too, with what the paper's code supplies.
            if child.__module__.startswith("pipeline.config."):
                yield child
            yield from sections(child)

    for section in sections(Section):
        for name, field in section.model_fields.items():
            assert field.is_required(), f"{section.__name__}.{name}"


def test_params_are_frozen(tmp_path):
    with pytest.raises(ValidationError):
        load(tmp_path, {}).steps = 3


def test_every_mistake_is_named_at_once(tmp_path):
    changes = {
        "train.lr": -1,
        "train.batchsize": 3,
        "sweep": [1, "many"],
        "steps": 0,
        "device": "gpu",
        "diffusion.graph": "absorbing",
        "data.column": "",
        "data.files.train": "./train.parquet",
        "data.files.test": "/test.parquet",
        "model.dropout": 1.0,
    }
    with pytest.raises(ParamsError) as error:
        load(tmp_path, changes)
    text = str(error.value)
    for expected in (
        "params.yaml: train.lr: Input should be greater than 0 (got -1)",
        "params.yaml: train.batchsize: Extra inputs are not permitted (got 3)",
        "params.yaml: sweep.1: Input should be a valid integer (got 'many')",
        "params.yaml: steps: Input should be greater than or equal to 1 (got 0)",
        "params.yaml: device:",
        "'absorb' or 'uniform' (got 'absorbing')",
        "params.yaml: data.column:",
        "params.yaml: data.files.train: must be a path inside the repository, without . or .. or //"
        " (got './train.parquet')",
        "params.yaml: data.files.test: must be a path inside",
        "params.yaml: model.dropout: Input should be less than 1 (got 1.0)",
    ):
        assert expected in text
    assert len(text.splitlines()) == len(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [1024]}, r"steps: Input should be a valid integer (got [1024])"),
        ({"steps": 12.5}, "steps: Input should be a valid integer"),
        ({"steps": 2**63}, "steps: Input should be less than or equal to 1000000"),
        ({"train.batch_size": 2**31}, "train.batch_size: Input should be less than 2147483648"),
        ({"device": "cuda:٣"}, "device: must be auto, cpu, cuda or cuda:N (got 'cuda:٣')"),
        ({"steps": True}, "steps: Input should be a valid integer"),
        ({"sweep": 4}, "sweep: Input should be a valid list (got 4)"),
        ({"temperatures": [0.5, 0]}, "temperatures.1"),
        (
            {"temperatures": [1, 1.0]},
            "temperatures: values must differ (twice or more: 1) (got [1, 1.0])",
        ),
        ({"data.labels": [{"column": "Year", "edges": [2, 1]}]}, "data.labels.0.edges: must rise"),
        ({"data.labels": [{"column": "Year"}]}, "data.labels.0.edges: Field required"),
        ({"data.labels": ["Sex", "Sex"]}, "data: labels must be of columns that differ"),
        (
            {"data.labels": ["Sex"], "diffusion.graph": "uniform"},
            "data.labels must be [] with diffusion.uniform.parameterization raw: only absorb "
            "conditional, uniform conditional takes labels (got ['Sex'])",
        ),
        (
            {"data.labels": ["Sex"], "method": "embedding"},
            "data.labels must be [] with method embedding",
        ),
        (
            {"data.labels": ["Sex"], "pack.mode": "concat", "sample.labels": ["Year=1"]},
            "no single documents (got ['Sex']); sample.labels must be of Sex (got Year=1)",
        ),
        (
            {"data.labels": ["Sex"], "pack.mode": "stream"},
            "data.labels must be [] with pack.mode stream, whose blocks are no single documents",
        ),
        (
            {"data.labels": ["Sex"], "publish.huggingface": "a/b", "publish.license": "mit"},
            "publish.huggingface must be null with data.labels",
        ),
        (
            {"sample.guidance": 2},
            "sample.guidance are of models that were trained with data.labels",
        ),
        ({"data.labels": ["Sex"], "sample.labels": ["Sex"]}, "sample.labels: must be Column=value"),
        (
            {"data.labels": ["Sex"], "sample.labels": [], "sample.guidance": 2},
            "sample.guidance must be 1 where no label is asked for (got 2.0)",
        ),
        (
            {"temperatures": [0.5], "diffusion.graph": "uniform"},
            "temperatures must be [] with diffusion.uniform.parameterization raw",
        ),
        ({"sweep": [1, 4, 16, -2]}, "sweep.3: Input should be greater than or equal to 1"),
        ({"sweep": [1, 4, 4, 16]}, "sweep: values must differ (twice or more: 4) (got [1, 4"),
        ({"diffusion.geometric.sigma_min": 30.0}, "sigma_min must be less than sigma_max"),
        ({"model.num_heads": 3}, "num_heads must divide width"),
        ({"train.accumulate": 3}, "accumulate (3) must divide batch_size (64)"),
        (
            {"resources.processes": 3},
            "resources: processes * nodes must be a power of two (got 3 * 1)",
        ),
        (
            {"resources.processes": 2, "resources.nodes": 2, "train.accumulate": 2}
            | {"resources.launcher": "slurm", "baseline.accumulate": 4},
            "resources.processes (2) * resources.nodes (2) must divide train.accumulate (2)",
        ),
        (
            {"resources.processes": 2, "train.accumulate": 2},
            "resources.processes (2) * resources.nodes (1) must divide baseline.accumulate (1)",
        ),
        (
            {"resources.processes": 2, "resources.strategy": "fsdp", "train.compile": True}
            | {"train.batch_size": 48, "train.accumulate": 12, "baseline.accumulate": 2},
            "train.accumulate must be a power of two with resources.strategy fsdp and "
            "train.reduction fixed (got 12); train.compile must be false with resources.strategy "
            "fsdp (got true)",
        ),
        ({"resources.nodes": 2}, "resources: nodes must be 1 with launcher local (got 2)"),
        ({"resources.timeout_seconds": 0}, "resources.timeout_seconds: Input should be greater"),
        (
            {"resources.store": "s3://bucket"},
            "resources.store: must be a folder, as a bucket knows no locks",
        ),
        ({"resources.store": "artifacts/x"}, "resources.store: must be outside artifacts"),
        ({"resources.ray_address": "head"}, "resources.ray_address: must be auto or HOST:PORT"),
        (
            {"resources.pack": "ray", "pack.mode": "stream", "tokenizer.kind": "char"},
            "resources.pack must be local with pack.mode stream, which is one text",
        ),
        (
            {"resources.processes": 2, "train.accumulate": 2, "baseline.accumulate": 2}
            | {"device": "cuda:1"},
            "device must be auto, cpu or cuda with resources.processes 2",
        ),
        ({"evaluate.num_replicates": 8}, "evaluate.num_replicates"),
        (
            {"evaluate.num_texts": 0},
            "evaluate.num_texts: Input should be greater than or equal to 1",
        ),
        ({"evaluate.num_draws": 3}, "evaluate.num_draws: Input should be a multiple of 2"),
        ({"train.lr": float("nan")}, "train.lr"),
        ({"train.num_steps": 0}, "train: num_steps must be at least 1 (got 0)"),
        ({"train.num_steps": -1, "train.init": "here"}, "train.num_steps: "),
        ({"train.warmup_steps": 4400}, "train: warmup_steps (4400) must be less than num_steps"),
        ({"data.files.test": "train.parquet"}, "data.files: train and test must be different"),
        (
            {"tokenizer.vocab_size": 257},
            "tokenizer: vocab_size must be at least 258, for the 256 bytes, pad and eos (got 257)",
        ),
        (
            {"tokenizer.kind": "words"},
            "tokenizer.kind: Input should be 'char', 'bpe', 'sentencepiece' or 'gpt2' (got ",
        ),
        (
            {"tokenizer.sentencepiece.unk": 0},
            "tokenizer.sentencepiece: ids must differ (got bos 0, eos 1, pad 2, unk 0)",
        ),
        ({"tokenizer.sentencepiece.pad": -1}, "tokenizer.sentencepiece.pad: Input should be gr"),
        (
            {"tokenizer.kind": "sentencepiece", "tokenizer.sentencepiece.eos": 16384},
            "tokenizer: ids of sentencepiece must be less than vocab_size, 16384 (got 16384)",
        ),
        ({"tokenizer.char": {"size": 3}}, "tokenizer.char.size: Extra inputs are not permitted"),
        (
            {"pack.mode": "cut"},
            "pack.mode: Input should be 'pad', 'concat' or 'stream' (got 'cut')",
        ),
        (
            {"pack.mode": "stream", "tokenizer.kind": "gpt2"},
            "pack.mode stream is of characters: tokenizer.kind must be char (got gpt2)",
        ),
        (
            {"pack.mode": "stream", "data.files.test": None, "data.holdout": 0.5},
            "data.holdout must be below 0.5 with pack.mode stream",
        ),
        ({"diffusion.geometric.sigma_max": 100.0}, "diffusion.geometric.sigma_max"),
        ({"sample.predictor": "ancestral"}, "sample.predictor: "),
        ({"sample.temperature": 0.0}, "sample.temperature: "),
        ({"sample.temperature": "inf"}, "sample.temperature: "),
        ({"sample.top_p": 0.0}, "sample.top_p: "),
        ({"sample.top_p": 1.1}, "sample.top_p: "),
        (
            {"sample.predictor": "cached", "diffusion.graph": "uniform"},
            "sample.predictor must be auto, analytic or euler with "
            "diffusion.uniform.parameterization raw (got cached)",
        ),
        (
            {"sample.predictor": "first_hitting", "diffusion.absorb.parameterization": "raw"},
            "diffusion.absorb.parameterization raw (got first_hitting)",
        ),
        (
            {
                "sample.corrector": "cap",
                "sample.order": "margin",
                "diffusion.absorb.parameterization": "raw",
            },
            "sample.order must be random with diffusion.absorb.parameterization raw (got margin); "
            "sample.corrector must be none with diffusion.absorb.parameterization raw (got cap); ",
        ),
        ({"sample.eta": 1.5}, "sample.eta: Input should be less than or equal to 1 (got 1.5)"),
        ({"sample.hold": 0}, "sample.hold: Input should be greater than 0 (got 0)"),
        ({"sample.corrector": "cup"}, "sample.corrector: Input should be 'none', 'cap', "),
        (
            {"sample.predictor": "cached", "method": "embedding"},
            "sample.predictor must be auto, ddpm, ddim or draw with method embedding (got cached)",
        ),
        (
            {"sample.grid": "cosine", "method": "embedding"},
            "sample.grid must be uniform with method embedding (got cosine)",
        ),
        (
            {"sample.temperature": 0.5, "diffusion.graph": "uniform"},
            "sample.temperature must be 1 with diffusion.uniform.parameterization raw, which has "
            "no distribution of tokens to sharpen (got 0.5)",
        ),
        (
            {"sample.top_p": 0.9, "diffusion.graph": "uniform"},
            "sample.top_p must be 1 with diffusion.uniform.parameterization raw, which has "
            "no distribution of tokens to sharpen (got 0.9)",
        ),
    ],
)
def test_a_wrong_value_is_named(tmp_path, changes, message):
    with pytest.raises(ParamsError) as error:
        load(tmp_path, changes)
    assert message in str(error.value)
    assert "params.yaml: " in str(error.value)


@pytest.mark.parametrize("written", ["15e-4", ".15e-2", "+.0015", "1.5E-3"])
def test_numbers_that_yaml_may_read_as_text_are_numbers(tmp_path, written):
    write_params(tmp_path, {})
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("lr: 0.0015", f"lr: {written}"))
    assert load_params(path).train.lr == 0.0015


def test_a_missing_key_is_named(tmp_path):
    values = shipped_params()
    del values["train"]["lr"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ParamsError, match=r"train\.lr: Field required"):
        load_params(tmp_path / "params.yaml")


def test_a_missing_or_broken_file_is_said(tmp_path):
    with pytest.raises(ParamsError, match="is missing"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(ParamsError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: !!python/object/apply:os.getcwd []")
    with pytest.raises(ParamsError, match=r"params\.yaml: line 1: a: a tag is not read here"):
        load_params(tmp_path / "params.yaml")


def test_what_dvc_reads_is_read(tmp_path):
    path = tmp_path / "params.yaml"
    shipped = (PROJECT / "params.yaml").read_text()
    path.write_text(shipped.replace("steps: 128 ", "steps: 010 ").replace("Names", "no"))
    params = load_params(path)
    there = load_yaml(str(path))
    assert params.steps == there["steps"] == 10
    assert params.data.column == there["data"]["column"] == "no"
    path.write_text(shipped.replace("steps: 128 ", "steps: 128\nsteps: 64 "))
    with pytest.raises(ParamsError, match=r"params\.yaml: line 5: steps: it is there twice"):
        load_params(path)
    path.write_bytes(shipped.encode("utf-16"))
    with pytest.raises(ParamsError, match="no UTF-8"):
        load_params(path)


def test_a_number_where_text_belongs_is_said_to_need_quotes(tmp_path):
    with pytest.raises(ParamsError, match=r"data\.revision: .*got 1234567: write it in quotes"):
        load(tmp_path, {"data.revision": 1234567})


def test_what_is_said_of_a_file_is_short_whatever_it_holds(tmp_path):
    many = {f"key{number}": "x" * 500 for number in range(1000)}
    nested = json.loads(json.dumps([[[[["y" * 50] * 9] * 9] * 9] * 9]))
    with pytest.raises(ParamsError) as said:
        load(tmp_path, {"sweep": nested, "train": many})
    assert all(len(line) < 500 for line in said.value.args)


@pytest.mark.parametrize(
    "changes",
    [
        {"diffusion.graph": "uniform"},
        {"diffusion.noise": "geometric"},
        {"diffusion.absorb.parameterization": "raw"},
        {"steps": 64},
        {"tokenizer.kind": "bpe"},
        {"tokenizer.kind": "gpt2"},
        {"tokenizer.kind": "sentencepiece"},
        {"tokenizer.sentencepiece.eos": 16384},
        {"pack.mode": "concat"},
        {"steps": 1024},
    ],
)
def test_variants_are_valid_with_one_key_changed(tmp_path, changes):
    assert load(tmp_path, changes)


def test_a_section_that_was_called_otherwise_is_named_with_its_new_name(tmp_path):
    values = shipped_params()
    values["network"] = values.pop("oxen")
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ParamsError) as said:
        load_params(path)
    assert str(said.value) == f"{path}: network: this section is called oxen now: rename it"


PLACES = ("train.init", "tokenizer.source", "data.repo", "publish.repo", "publish.huggingface")


def test_no_place_is_one_that_dvc_empties(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    assert {out.partition("/")[0] for out in outs} == {"artifacts", "reports"}
    assert all(Path(out).suffix for out in outs if out.startswith("reports"))  # never a folder
    (tmp_path / "link").symlink_to("artifacts")
    for place in ("./artifacts//checkpoint/", "./x/../artifacts/data/model", "./link/checkpoint"):
        for written in (place, str(tmp_path / place)):
            with pytest.raises(ParamsError) as error:
                load(tmp_path, dict.fromkeys(PLACES, written) | {"publish.license": "mit"})
            assert len(error.value.args) == len(PLACES)
            for line, key in zip(sorted(error.value.args), sorted(PLACES), strict=True):
                assert f"{key}: must be outside artifacts, which DVC empties" in line
                assert " (got '" in line
    (tmp_path / "circle").symlink_to("circle")
    for place in ("./artifacts2/x", "./models/artifacts", "./circle"):
        params = load(tmp_path, dict.fromkeys(PLACES, place) | {"publish.license": "mit"})
        assert params.train.init == params.publish.huggingface == place
    for repo in ("bundled", "https://artifacts/checkpoint/x"):
        assert load(tmp_path, {"data.repo": repo}).data.repo == repo


def test_a_folder_of_nobody_is_said(tmp_path):
    for key in PLACES[:-1]:
        with pytest.raises(ParamsError, match=f"{key}: ~nosuchuser/x: there is no such user's"):
            load(tmp_path, {key: "~nosuchuser/x"})
