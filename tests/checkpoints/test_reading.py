import os
import pickle
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from reference_files import GOLDEN, TINY, config_of, random_model, write_published
from safetensors.torch import load_file, save_file
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from pipeline.checkpoints.reference import unpickling
from pipeline.checkpoints.reference.reading import build, read_published
from pipeline.errors import CheckpointError

CPU = torch.device("cpu")
CONFIG = config_of(TINY, tokens=11)
LAYOUTS = ["safetensors", "bin", "pth", "bare"]


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_model_that_was_written(tmp_path, layout, prefix):
    model = write_published(tmp_path, layout, CONFIG, prefix=prefix)
    published = read_published(tmp_path)
    assert_same(published.weights, model.network.state_dict())
    xt, sigma = torch.tensor([[0, 11, 3, 11]]), torch.tensor([0.7])
    built = build(published, CPU)
    assert not built.training
    assert torch.equal(built.log_score(xt, sigma), model.log_score(xt, sigma))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_averaged_weights_replace_the_raw_ones(tmp_path, prefix):
    model = write_published(tmp_path, "pth", CONFIG, prefix=prefix, ema=True)
    assert_same(read_published(tmp_path).weights, model.network.state_dict())


def test_averaged_weights_are_in_the_order_that_the_reference_registers():
    """Its own file has the names in that order; ours must be the same, or the list is misread."""
    stored = torch.load(GOLDEN / "absorb_pth/checkpoint.pth", weights_only=True)
    network = build(read_published(GOLDEN / "absorb_pth"), CPU).network
    buffers = dict(network.named_buffers())
    assert [name for name in stored if name not in buffers] == [
        name for name, _ in network.named_parameters()
    ]


@pytest.mark.parametrize("name", ["absorb_loglinear", "absorb_pth", "uniform_geometric"])
def test_reads_what_the_reference_wrote(name):
    folder = GOLDEN / name
    published = read_published(folder)
    file = folder / "model.safetensors"
    stored = (
        load_file(file)
        if file.exists()
        else torch.load(folder / "checkpoint.pth", weights_only=True)
    )
    assert_same(published.weights, stored)
    config = published.config
    uniform = name == "uniform_geometric"
    assert (config.graph, config.noise) == (
        ("uniform", "geometric") if uniform else ("absorb", "loglinear")
    )
    assert (config.eps, config.sigma_min) == ((None, 1e-4) if uniform else (1e-3, None))
    assert (config.parameterization, config.t_min) == ("raw", 1e-3)
    assert config.scale_by_sigma is not uniform


def test_a_run_folder_of_the_reference(tmp_path):
    model = write_published(tmp_path / "from", "pth", CONFIG, ema=True)
    for old, new in (
        ("config.yaml", ".hydra/config.yaml"),
        ("checkpoint.pth", "checkpoints-meta/checkpoint.pth"),
    ):
        (tmp_path / new).parent.mkdir()
        (tmp_path / "from" / old).rename(tmp_path / new)
    assert_same(read_published(tmp_path).weights, model.network.state_dict())


def test_half_precision_becomes_float32(tmp_path):
    model = write_published(tmp_path, "safetensors", CONFIG)
    weights = {name: value.bfloat16() for name, value in model.network.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    read = read_published(tmp_path).weights
    assert_same(read, {name: value.float() for name, value in weights.items()})


def test_shapes_alone_on_the_meta_device(tmp_path):
    write_published(tmp_path, "safetensors", CONFIG)
    model = build(read_published(tmp_path), torch.device("meta"))
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}


# What cannot be read, one message each.


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_published(folder)
    message = str(caught.value)
    assert message.count("\n") == 0
    return message


def edit(path: Path, change):
    """Change a checkpoint's dictionary of tensors."""
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def renamed(weights):
    weights["vocab_embedding"] = weights.pop("vocab_embed.embedding")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("blocks.1.norm2.weight"), "blocks.1.norm2.weight is missing"),
        (lambda w: w.update({"blocks.2.x": torch.ones(1)}), "blocks.2.x is unexpected"),
        (renamed, "vocab_embed.embedding is missing; vocab_embedding is unexpected"),
        (
            lambda w: w.update({"output_layer.linear.bias": torch.ones(11)}),
            "output_layer.linear.bias has shape [11], expected [12]",
        ),
        (
            # As many numbers, and a shape that broadcasts.
            lambda w: w.update({"output_layer.linear.bias": torch.ones(1, 12)}),
            "output_layer.linear.bias has shape [1, 12], expected [12]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    write_published(tmp_path, "safetensors", CONFIG)
    edit(tmp_path / "model.safetensors", change)
    assert message in refusal(tmp_path)


def test_some_names_with_the_prefix_and_some_without(tmp_path):
    model = write_published(tmp_path, "bare", CONFIG)
    weights = dict(model.network.state_dict())
    weights["module.vocab_embed.embedding"] = weights.pop("vocab_embed.embedding")
    torch.save(weights, tmp_path / "checkpoint.pth")
    assert "module.vocab_embed.embedding is unexpected" in refusal(tmp_path)


def swap_first_two(averaged):
    averaged[0], averaged[1] = averaged[1], averaged[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ema: ema["shadow_params"].pop(), "must be 30 tensors"),
        (lambda ema: ema["shadow_params"].append(torch.ones(1)), "must be 30 tensors"),
        (lambda ema: swap_first_two(ema["shadow_params"]), "vocab_embed.embedding has shape [8, 2"),
        (lambda ema: ema["shadow_params"].__setitem__(3, 0.5), "must be 30 tensors"),
        (lambda ema: ema.pop("shadow_params"), "ema must hold a list shadow_params"),
    ],
)
def test_averages_that_do_not_fit_are_refused(tmp_path, change, message):
    write_published(tmp_path, "pth", CONFIG, ema=True)
    stored = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    change(stored["ema"])
    torch.save(stored, tmp_path / "checkpoint.pth")
    assert message in refusal(tmp_path)


@pytest.mark.parametrize("change", [lambda w: w.pop("blocks.0.mlp.0.bias"), renamed])
def test_raw_weights_must_fit_although_averages_replace_them(tmp_path, change):
    write_published(tmp_path, "pth", CONFIG, ema=True)
    stored = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    change(stored["model"])
    torch.save(stored, tmp_path / "checkpoint.pth")
    assert " is missing" in refusal(tmp_path)


class Harm:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("layout", ["bin", "pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_does_not_run(tmp_path, layout, zipped):
    write_published(tmp_path, layout, CONFIG)
    path = tmp_path / {"bin": "pytorch_model.bin", "pth": "checkpoint.pth"}[layout]
    stored = torch.load(path, weights_only=True)
    stored["extra"] = Harm(tmp_path / "harmed")
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path)
    assert f"{path} is not opened: it asks for posix.mkdir" in message
    assert not (tmp_path / "harmed").exists()
    # The file does harm when it is trusted.
    torch.load(path, weights_only=False)
    assert (tmp_path / "harmed").exists()


@pytest.mark.parametrize("layout", LAYOUTS[:3])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_weights(tmp_path, layout, share):
    write_published(tmp_path, layout, CONFIG)
    [path] = [path for path in tmp_path.iterdir() if not path.name.startswith("config")]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert str(path) in refusal(tmp_path)


@pytest.mark.slow
def test_a_damaged_pickle_of_the_old_kind(tmp_path):
    """Cut anywhere, or with any byte turned: an error of ours or tensors of the right shapes."""
    model = write_published(tmp_path, "bare", CONFIG)
    path = tmp_path / "checkpoint.pth"
    torch.save(model.network.state_dict(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for at in range(0, 1500, 29):
        for damaged in (content[:at], content[:at] + b"\xff" + content[at + 1 :]):
            path.write_bytes(damaged)
            with suppress(CheckpointError):
                read_published(tmp_path)


@pytest.mark.parametrize("stored", [[], {}, {"a": 1}, torch.ones(2), {"model": {"a": "b"}}, "x"])
def test_pickles_of_something_else(tmp_path, stored):
    write_published(tmp_path, "bare", CONFIG)
    torch.save(stored, tmp_path / "checkpoint.pth")
    message = refusal(tmp_path)
    assert "checkpoint.pth" in message
    assert "not" in message


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_missing_files_are_named(tmp_path, layout):
    write_published(tmp_path, layout, CONFIG)
    for path in list(tmp_path.iterdir()):
        content = path.read_bytes()
        path.unlink()
        message = refusal(tmp_path)
        assert "no published checkpoint in" in message
        assert path.name in message.split("needed: ")[1]
        path.write_bytes(content)
    assert "there is no folder" in refusal(tmp_path / "none")


def test_two_random_models_differ(tmp_path):
    """Else the averaged and the raw weights could not be told apart above."""
    one, two = (random_model(CONFIG, tmp_path, seed).network.state_dict() for seed in (0, 1))
    assert all(not torch.equal(one[name], two[name]) for name in one if "inv_freq" not in name)


# Files that are no accident.


def repacked(path: Path, compression: int, only: str = "") -> None:
    """Write a zip again, with entries whose names hold `only` compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            kind = compression if only in name else zipfile.ZIP_STORED
            archive.writestr(name, content, compress_type=kind)


@pytest.mark.parametrize("only", ["", "data/3", "version", "data.pkl"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_entry_is_named(tmp_path, compression, only):
    """Mapped, compressed bytes would be taken for weights."""
    write_published(tmp_path, "pth", CONFIG)
    repacked(tmp_path / "checkpoint.pth", compression, only)
    assert re.search(rf"entry checkpoint/\S*{only}\S* is compressed", refusal(tmp_path)), only


def test_a_zip_that_was_repacked_without_compression_is_read(tmp_path):
    model = write_published(tmp_path, "pth", CONFIG)
    repacked(tmp_path / "checkpoint.pth", zipfile.ZIP_STORED)
    assert_same(read_published(tmp_path).weights, model.network.state_dict())


def pairs(depth: int) -> bytes:
    """A tuple of a tuple twice, and so on, `depth` times."""
    return b"K\x01\x85q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(depth))


def shared(depth: int) -> bytes:
    """A dict whose key is that."""
    return b"}q\xf0" + pairs(depth) + b"h\xf0h%cK\x01s" % depth


HOSTILE = {
    "deep": (b"})" + b"\x85" * 200_000 + b"K\x01s", "damaged"),
    "endless": (shared(40), "does not end"),
    "codec": (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00idna\x86R", "codec 'idna'"),
    "long": (shared(20), "a name is no text"),
    "number": (b"}K\x05K\x01s", "a name is no text"),
    "memory": (
        b"cbuiltins\nbytearray\n(\x8a\x05" + (2**31).to_bytes(5, "little") + b"tR",
        "it asks for builtins.bytearray",
    ),
    "size": (b"ctorch\nSize\n(X\x01\x00\x00\x00atR", "it asks for torch.Size"),
    "sparse": (b"ctorch._utils\n_rebuild_sparse_tensor\n)R", "_rebuild_sparse_tensor"),
    "storage of nothing": (b"}X\x01\x00\x00\x00aK\x01Qs", "checkpoint.pth"),
    # As large as it says, although nothing is stored.
    "storage": (
        b"ctorch.storage\nUntypedStorage\n\x8a\x05%b\x85R" % bytes([0, 0, 0, 0, 1]),
        "damaged",
    ),
    "key of a storage": (b"(X\x07\x00\x00\x00storage}tQ", "damaged"),
}


def test_members_of_a_set_are_hashed_in_rehearsal_too(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickling, "PATIENCE", 1.0)
    write_published(tmp_path, "pth", CONFIG)
    with zipfile.ZipFile(tmp_path / "checkpoint.pth", "w") as archive:
        content = b"\x80\x02" + pairs(40) + b"c__builtin__\nset\n]h\x28a\x85R."
        archive.writestr("archive/data.pkl", content)
    assert "is not opened: it does not end" in refusal(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_takes_too_much_is_refused(tmp_path, monkeypatch, name, zipped):
    monkeypatch.setattr(unpickling, "PATIENCE", 3.0)
    write_published(tmp_path, "pth", CONFIG)
    body, message = HOSTILE[name]
    content = b"\x80\x02" + body + b"."
    with (tmp_path / "checkpoint.pth").open("wb") as file:
        if zipped:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("archive/data.pkl", content)
                archive.writestr("archive/byteorder", "little")
                archive.writestr("archive/version", "3\n")
        else:
            for header in (MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True}):
                pickle.dump(header, file, 2)
            file.write(content)
            pickle.dump([], file, 2)
    text = refusal(tmp_path)
    assert message in text
    assert len(text) < 1000


def test_a_legacy_pickle_with_a_zip_behind_it_is_looked_at(tmp_path):
    """torch takes for a zip what starts as one, zipfile what ends as one."""
    write_published(tmp_path, "pth", CONFIG)
    path = tmp_path / "checkpoint.pth"
    archive = path.read_bytes()
    stored = torch.load(path, weights_only=True) | {"extra": Harm(tmp_path / "harmed")}
    torch.save(stored, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + archive)
    assert "it asks for posix.mkdir" in refusal(tmp_path)


def test_a_zip_with_another_before_it_is_refused(tmp_path):
    """torch takes the entries of the first, zipfile those of the last."""
    write_published(tmp_path, "pth", CONFIG)
    path = tmp_path / "checkpoint.pth"
    archive = path.read_bytes()
    path.write_bytes(archive + archive)
    assert "something stands before its first entry" in refusal(tmp_path)


def test_a_tensor_that_repeats_what_is_stored_once_is_named(tmp_path):
    """A few bytes would become as many weights as the config asks for."""
    model = write_published(tmp_path, "bare", CONFIG)
    weights = dict(model.network.state_dict())
    shape = weights["output_layer.linear.weight"].shape
    weights["output_layer.linear.weight"] = torch.ones(1, 1).expand(shape)
    torch.save(weights, tmp_path / "checkpoint.pth")
    assert "output_layer.linear.weight repeats its values" in refusal(tmp_path)


@pytest.mark.parametrize("layout", ["safetensors", "bare"])
def test_published_weights_must_be_finite_numbers(tmp_path, layout):
    model = write_published(tmp_path, layout, CONFIG)
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    weights["vocab_embed.embedding"][3, 2] = float("nan")
    path = tmp_path / ("model.safetensors" if layout == "safetensors" else "checkpoint.pth")
    (save_file if layout == "safetensors" else torch.save)(weights, path)
    assert "vocab_embed.embedding holds values that are no finite numbers" in refusal(tmp_path)
