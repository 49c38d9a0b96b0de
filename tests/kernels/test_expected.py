"""A softmax and the mean of a table under it, a tile at a time: those of the plain formulation."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.kernels import tiles
from pipeline.kernels.expected import expected

ROWS, VOCAB, INNER, COLUMNS = 60, 101, 5, 3
TILE_ROWS = 7


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles either way, 32 wide, the last ones not full."""
    monkeypatch.setattr(tiles, "TILE_ROWS", TILE_ROWS)
    monkeypatch.setattr(tiles, "TILE", 32 * 32)


def arguments(dtype=torch.float64, rows=ROWS, vocab=VOCAB, bias=True, evidence=True):
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()

    leaves = [leaf(rows, INNER), leaf(vocab, INNER), leaf(vocab), leaf(vocab, COLUMNS)]
    leaves[2] = leaves[2] if bias else None
    ids = torch.randint(vocab, (rows,), generator=generator)
    return *leaves, ids, leaf(rows, COLUMNS) if evidence else None


def plain(hidden, weight, bias, table, ids, evidence):
    logits = F.linear(hidden, weight, bias).to(table.dtype)
    if evidence is not None:
        logits = logits + evidence @ table.T
    return logits.softmax(-1) @ table, F.cross_entropy(logits, ids, reduction="none")


def with_gradients(compute, given, uses=(True, True)):
    """Both outputs, and gradients by all leaves of a random sum of those that are used."""
    outputs, generator = compute(*given), torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in outputs]
    used = [(x * w).sum() for x, w, use in zip(outputs, weights, uses, strict=True) if use]
    leaves = [x for x in given if x is not None and x.requires_grad]
    return [*outputs, *torch.autograd.grad(sum(used), leaves, materialize_grads=True)]


@pytest.mark.parametrize("uses", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("bias", "evidence"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("rows", [1, TILE_ROWS, 10_000])
def test_values_and_gradients_are_those_of_the_plain_formulation(
    monkeypatch, rows, bias, evidence, uses
):
    monkeypatch.setattr(tiles, "TILE_ROWS", rows)
    given = arguments(bias=bias, evidence=evidence)
    ours, wanted = (with_gradients(compute, given, uses) for compute in (expected, plain))
    torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-11)


def test_gradients_are_those_of_finite_differences():
    *leaves, ids, evidence = arguments(rows=TILE_ROWS + 2, vocab=4)
    assert torch.autograd.gradcheck(
        lambda *given: tuple(expected(*given[:4], ids, given[4])), (*leaves, evidence)
    )


def test_bfloat16_products_leave_values_and_gradients_near():
    """As near as they leave the plain formulation; what is returned and summed is wide."""
    given = arguments(torch.float32)
    exact = with_gradients(plain, given)
    with torch.autocast("cpu", torch.bfloat16):
        ours, rounded = (with_gradients(compute, given) for compute in (expected, plain))
    assert not torch.allclose(ours[0], exact[0], rtol=1e-4, atol=1e-4)
    for mine, theirs, wanted in zip(ours, rounded, exact, strict=True):
        assert mine.dtype == torch.float32
        error, plain_error = ((x - wanted).norm() / wanted.norm() for x in (mine, theirs))
        assert error <= 1.5 * plain_error + 0.01


class Largest(TorchDispatchMode):
    """Notes how large the largest tensor is that an operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.numel())
        return result


def test_nothing_is_larger_than_a_weight_and_no_probability_is_kept():
    given, seen, kept = arguments(), Largest(), []

    def pack(tensor):
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), seen:
        mean, nats = expected(*given)
        (mean.sum() + nats.sum()).backward()
    assert seen.size == VOCAB * INNER
    assert kept
    assert not [shape for shape in kept if VOCAB in shape and shape[0] != VOCAB]


def test_no_position_at_all():
    given = arguments(rows=0)
    mean, nats, *gradients = with_gradients(expected, given)
    assert mean.shape == (0, COLUMNS)
    assert nats.shape == (0,)
    assert not any(gradient.any() for gradient in gradients)


def test_outputs_far_apart_overflow_nothing():
    hidden, weight, bias, *others = arguments(torch.float32)
    far = (1e4 * bias).detach().requires_grad_()
    assert all(
        each.isfinite().all() for each in with_gradients(expected, (hidden, weight, far, *others))
    )
