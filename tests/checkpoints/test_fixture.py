"""golden.npz is refused unless it holds exactly the arrays that the format asks for."""

import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.checkpoints.reference.fixture import COMPUTED, INPUTS, read_fixture
from pipeline.errors import CheckpointError, DataError

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = INPUTS + COMPUTED


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "absorb_pth", tmp_path / "fixture"))


@pytest.fixture
def refusal(folder):
    """Change the arrays of the fixture in place; return the message that refuses it."""

    def refused(change):
        arrays = dict(np.load(folder / "golden.npz"))
        change(arrays)
        np.savez(folder / "golden.npz", **arrays)
        with pytest.raises(DataError) as error:
            read_fixture(folder)
        return str(error.value).removeprefix(f"{folder / 'golden.npz'}: ")

    return refused


def test_reading(folder):
    fixture = read_fixture(folder)
    assert set(fixture.arrays) == set(NAMES)
    assert fixture.arrays["log_score"].shape == (5, 10, 32)
    assert fixture.arrays["denoise_probs"].shape == (5, 10, 31)
    assert fixture.arrays["x_t"].dtype == torch.int64


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_array(refusal, name):
    assert refusal(lambda arrays: arrays.pop(name)) == f"{name} is missing"


def test_an_extra_array(refusal):
    assert refusal(lambda arrays: arrays.update(scores=np.ones(5))) == "scores is unexpected"


def test_every_wrong_name_at_once(refusal):
    message = refusal(lambda arrays: arrays.update(xt=arrays.pop("x_t"), z=arrays.pop("loss")))
    assert message == "x_t is missing; loss is missing; xt is unexpected; z is unexpected"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "x0"])
def test_another_shape(refusal, name):
    message = refusal(lambda arrays: arrays.update({name: arrays[name][None]}))
    assert message.startswith(f"{name} is ")
    assert ";" not in message


@pytest.mark.parametrize("name", NAMES)
def test_another_dtype(refusal, name):
    message = refusal(lambda arrays: arrays.update({name: arrays[name].astype("float16")}))
    assert message.startswith(f"{name} is float16 [")
    assert ";" not in message


@pytest.mark.parametrize("shape", [(50,), (0, 10), (5, 0)])
def test_tokens_of_no_batch(refusal, shape):
    message = refusal(lambda arrays: arrays.update(x0=np.zeros(shape, dtype=np.int64)))
    assert message == f"x0 has shape {list(shape)}, expected [B, L]"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x0", 31, "x0 must lie in 0..30"),
        ("x_t", 32, "x_t must lie in 0..31"),
        ("x_t", -1, "x_t must lie in 0..31"),
        ("t", 0, "t must lie in (0, 1]"),
        ("t", np.nan, "t must lie in (0, 1]"),
        ("step_size", 0.5, "step_size must be above 0 and at most 0.07 (got 0.5)"),
    ],
)
def test_inputs_out_of_range(refusal, name, value, message):
    def put(arrays):
        arrays[name].flat[-1] = value

    assert refusal(put) == message


def test_more_positions_than_the_model_has(refusal):
    def lengthen(arrays):
        for name, array in arrays.items():
            if array.ndim > 1:
                arrays[name] = np.concatenate([array, array], 1)

    assert refusal(lengthen) == "x0 has 20 positions, the model at most 10"


def flipped(content, index):
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


def one_array(path):
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def no_arrays(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in NAMES:
            archive.writestr(f"{name}.npy", "text")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no archive"),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(flipped(path.read_bytes(), 2000)),
        lambda path: path.write_bytes(pickle.dumps(dict.fromkeys(NAMES, 1))),
        lambda path: np.savez(path, **dict.fromkeys(NAMES, np.array([None]))),
        one_array,
        no_arrays,
    ],
    ids=[
        "missing",
        "empty",
        "text",
        "truncated",
        "a bit flipped",
        "pickle",
        "pickled arrays",
        "npy",
        "archive of texts",
    ],
)
def test_a_damaged_archive(folder, damage):
    damage(folder / "golden.npz")
    with pytest.raises(DataError, match=r"golden\.npz"):
        read_fixture(folder)


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        read_fixture(tmp_path / "nowhere")


def test_truncated_weights(folder):
    weights = folder / "checkpoint.pth"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pth"):
        read_fixture(folder)
