"""`sedd import` of RADD, MDLM and Lightning files: what every command takes, or one message."""

import pytest
from importing_checks import run_every_command
from plain_denoisers import lightning_config, write_lightning, write_mdlm, write_radd

from pipeline.data.tokenizer import train_char_tokenizer


@pytest.mark.parametrize("write", [write_radd, write_mdlm])
def test_every_command_takes_it(sedd, tmp_path, letters, write):
    write(tmp_path / "source")
    result = sedd("import", tmp_path / "source", tmp_path / "it", "--tokenizer", letters)
    assert result.exit_code == 0, result.output
    assert ": absorb, loglinear, " in result.stdout
    assert "11 tokens, texts of up to 8" in result.stdout
    run_every_command(sedd, tmp_path / "it", "bad")


@pytest.mark.parametrize("kind", ["mdlm", "sedd"])
@pytest.mark.parametrize("named", ["folder", "file"])
def test_every_command_takes_a_lightning_checkpoint(sedd, tmp_path, letters, kind, named):
    path = tmp_path / "source" / "last.ckpt"
    write_lightning(path, lightning_config(kind=kind))
    source = path if named == "file" else path.parent
    result = sedd("import", source, tmp_path / "it", "--tokenizer", letters)
    assert result.exit_code == 0, result.output
    run_every_command(sedd, tmp_path / "it", "bad")


def test_a_lightning_checkpoint_that_is_refused_leaves_nothing(refused, tmp_path, letters):
    path = tmp_path / "it.ckpt"
    write_lightning(path, lightning_config() | {"time_conditioning": True})
    assert "time_conditioning must be False" in refused(path, "--tokenizer", letters)
    write_lightning(path, lightning_config())
    train_char_tokenizer(["abc"]).save(tmp_path / "three")
    assert "the tokenizer has 6 tokens" in refused(path, "--tokenizer", tmp_path / "three")


def test_an_export_of_it_comes_back(sedd, tmp_path, letters):
    write_radd(tmp_path / "source")
    options = ("--tokenizer", letters)
    assert sedd("import", tmp_path / "source", tmp_path / "it", *options).exit_code == 0
    exported = sedd("export", tmp_path / "it", tmp_path / "out", "--license", "mit")
    assert exported.exit_code == 0, exported.output
    assert sedd("import", tmp_path / "out", tmp_path / "back").exit_code == 0
    for name in ("config.json", "model.safetensors", "tokenizer/tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "it" / name).read_bytes()


@pytest.mark.parametrize("write", [write_radd, write_mdlm])
def test_a_tokenizer_of_another_size(refused, tmp_path, write):
    write(tmp_path / "source")
    train_char_tokenizer(["abc"]).save(tmp_path / "three")
    message = refused(tmp_path / "source", "--tokenizer", tmp_path / "three")
    assert message.startswith("the tokenizer has 6 tokens, and the model was trained on 11")
