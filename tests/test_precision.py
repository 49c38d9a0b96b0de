"""Which precision a device takes, and what it says of those that it has not."""

import pytest
import torch
from tiny_project import write_params

from pipeline.config.params import load_params
from pipeline.device import check_compile, check_device, is_of_memory, pick_device, pick_precision
from pipeline.errors import ParamsError
from pipeline.kernels.precision import products_in, same_bytes

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU by its capability, as PyTorch would tell it."""

    def of(capability: tuple[int, int]) -> None:
        monkeypatch.setattr("pipeline.device.has_bfloat16", lambda device: capability >= (8, 0))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")

    return of


def test_auto_is_what_suits_the_device(gpu):
    assert pick_precision("auto", CPU, "train.precision") == "float32"
    gpu((9, 0))
    assert pick_precision("auto", GPU, "train.precision") == "bfloat16"
    gpu((7, 0))
    assert pick_precision("auto", GPU, "train.precision") == "float32"


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_what_a_gpu_has_is_taken_as_asked(gpu, precision):
    gpu((8, 0))
    assert pick_precision(precision, GPU, "train.precision") == precision


def test_what_a_device_has_not_is_named_with_what_it_has(gpu):
    with pytest.raises(ParamsError) as said:
        pick_precision("tf32", CPU, "sample.precision")
    assert str(said.value) == (
        "sample.precision: cpu computes in bfloat16 or float32 (got tf32); auto takes what suits it"
    )
    gpu((7, 5))
    with pytest.raises(ParamsError, match=r"a GPU computes in float32 \(got bfloat16\)"):
        pick_precision("bfloat16", GPU, "train.precision")


def test_precision_holds_inside_alone():
    assert torch.get_float32_matmul_precision() == "highest"
    with products_in("tf32", CPU):
        assert torch.get_float32_matmul_precision() == "high"
        assert not torch.is_autocast_enabled("cpu")
    with products_in("bfloat16", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with pytest.raises(ZeroDivisionError), products_in("tf32", CPU):
        1 / 0  # noqa: B018
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.is_autocast_enabled("cpu")


def test_repeatable_kernels_are_asked_for_on_a_gpu_alone():
    with same_bytes(True, CPU):
        assert not torch.are_deterministic_algorithms_enabled()
    with same_bytes(False, GPU):
        assert not torch.are_deterministic_algorithms_enabled()
    with same_bytes(True, GPU):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_graphs_are_of_gpus():
    with pytest.raises(ParamsError, match=r"graphs are of CUDA devices \(got graphs on cpu\)"):
        check_compile("graphs", CPU)


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ParamsError, match="this PyTorch is built for CPUs"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ParamsError, match="finds no GPU or too old a driver"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ParamsError, match=r"this machine has 2 CUDA devices \(got cuda:3\)"):
        pick_device("cuda:3")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("Triton Error [CUDA]: CUDA driver error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_memory_that_ran_out_is_known_by_its_words(error, told):
    assert is_of_memory(error) == told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score.precision": "tf32"}, "score.precision: cpu computes in bfloat16 or float32"),
        ({"evaluate.precision": "tf32"}, "evaluate.precision: cpu computes in"),
        ({"train.compile": "graphs"}, "graphs are of CUDA devices"),
    ],
)
def test_what_this_machine_cannot_is_said_before_anything_runs(tmp_path, changes, message):
    write_params(tmp_path, {"device": "cpu"} | changes)
    with pytest.raises(ParamsError, match=message):
        check_device(load_params(tmp_path / "params.yaml"))
