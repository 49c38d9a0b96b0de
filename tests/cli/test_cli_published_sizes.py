"""Every command on models of the sizes that were published, with random weights."""

from types import SimpleNamespace

import pytest
from importing_checks import assert_holds, run_every_command
from reference_files import NARROW, SMALL, config_of, write_byte_level, write_published

from pipeline.cli.sampling import default_batch_size
from pipeline.data.gpt2 import read_gpt2_tokenizer


@pytest.fixture(scope="session")
def gpt2_sized(tmp_path_factory):
    folder = write_byte_level(tmp_path_factory.mktemp("gpt2"), num_merges=50_000)
    assert read_gpt2_tokenizer(folder).size == 50_257
    return folder


@pytest.mark.parametrize(
    ("length", "vocab_size", "expected"),
    [(16, 29, 128), (1024, 50_257, 2), (128, 50_257, 20), (4096, 50_257, 1)],
)
def test_texts_that_take_long_are_drawn_few_at_a_time(length, vocab_size, expected):
    model = SimpleNamespace(length=length, config=SimpleNamespace(vocab_size=vocab_size))
    assert default_batch_size(model) == expected


def import_and_use(sedd, tmp_path, tokenizer, sizes, layout, steps):
    model = write_published(tmp_path / "source", layout, config_of(sizes, tokens=50_257))
    source, target = tmp_path / "source", tmp_path / "it"
    result = sedd("import", source, target, "--tokenizer", tokenizer)
    assert result.exit_code == 0, result.output
    assert_holds(target, model)
    assert (model.length, model.graph.num_states) == (1024, 50_258)
    shown = run_every_command(sedd, target, "Hello there", steps)
    # Random bytes are hardly ever UTF-8.
    assert "1 of 1 texts hold bytes that are no UTF-8, shown as �" in shown["sample"].stderr
    assert "�" in shown["sample"].stdout
    assert "mask id      50257" in shown["perturb"].stdout


def test_the_published_vocabulary_and_length(sedd, elsewhere, tmp_path, gpt2_sized):
    import_and_use(sedd, tmp_path, gpt2_sized, NARROW, "safetensors", steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["safetensors", "pth"])
def test_the_published_small_size(sedd, elsewhere, tmp_path, gpt2_sized, layout):
    import_and_use(sedd, tmp_path, gpt2_sized, SMALL, layout, steps=2)
