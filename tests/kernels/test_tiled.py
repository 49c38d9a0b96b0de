"""Loss and gradient a tile at a time: those of the plain formulation, in less memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy import random_model

from benchmarks.plain import plain_conditional_loss, plain_score_entropy
from pipeline.kernels import tiles
from pipeline.kernels.tiled import tiled_nats
from pipeline.methods.sedd import loss as losses
from pipeline.methods.sedd.loss import ScoreEntropy, masked_cross_entropy, score_entropy

VOCAB, LENGTH, ROWS = 101, 12, 16
every_variant = pytest.mark.parametrize(
    ("graph", "parameterization"),
    [("absorb", "conditional"), ("absorb", "raw"), ("uniform", "raw")],
)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles each way, the last ones not full."""
    small(monkeypatch, rows=7, columns=30)


def small(monkeypatch, rows, columns):
    """Tiles of at most so many positions and outputs; of whole rows, of so many positions."""
    sizes = {"TILE": rows * columns, "TILE_ROWS": rows, "WHOLE": {"cpu": rows * (VOCAB + 1)}}
    for name, value in (sizes | {"LINE": 1}).items():
        monkeypatch.setattr(tiles, name, value)


def a_model(graph, parameterization, dtype=torch.float64, **changes):
    sizes = {"vocab_size": VOCAB, "length": LENGTH, "width": 16, "num_blocks": 2}
    usual = {"noise": "geometric", "scale_by_sigma": graph == "absorb", "sigma_min": 1e-2}
    return random_model(graph, parameterization, **(sizes | usual | changes)).to(dtype)


def drawn_for(model):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(VOCAB, (ROWS, LENGTH), generator=generator)
    return ScoreEntropy(model).draw(x0, generator)


def plain_total(model, x0, xt, t):
    if model.timeless:
        return plain_conditional_loss(model, x0, xt).sum()
    return plain_score_entropy(model, x0, xt, t).sum()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_gradients(ours, plain, bar):
    """To `bar` of each parameter's largest entry."""
    for name, expected in plain.items():
        assert expected.abs().max() > 0, name
        error = (ours[name] - expected).abs().max() / expected.abs().max()
        assert error <= bar, (name, error.item())


@every_variant
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_training_loss_and_gradient_are_those_of_the_plain_formulation(
    graph, parameterization, dtype, bar
):
    model = a_model(graph, parameterization, dtype)
    drawn = drawn_for(model)
    ours, plain = ScoreEntropy(model).loss(*drawn), plain_total(model, *drawn)
    torch.testing.assert_close(ours, plain, rtol=bar, atol=0)
    assert_same_gradients(gradients(model, ours / ROWS), gradients(model, plain / ROWS), bar)


@every_variant
def test_the_size_of_tiles_makes_no_difference(graph, parameterization, monkeypatch):
    model = a_model(graph, parameterization)
    found = []
    for rows, columns in (1, 1), (7, 30), (50, 1), (1, 50), (1000, 1000):
        small(monkeypatch, rows, columns)
        loss = ScoreEntropy(model).loss(*drawn_for(model))
        found.append((loss, gradients(model, loss)))
    for loss, by_parameter in found[1:]:
        torch.testing.assert_close(loss, found[0][0], rtol=1e-12, atol=0)
        assert_same_gradients(by_parameter, found[0][1], 1e-12)


@pytest.mark.parametrize("num_columns", [1, 28, 50_258, 1_000_000])
@pytest.mark.parametrize("num_rows", [0, 1, 1000, 1_000_000])
def test_tiles_are_bounded_whatever_there_is_to_cover(num_rows, num_columns, monkeypatch):
    monkeypatch.undo()
    like = torch.empty(0, dtype=torch.bfloat16)
    rows, columns = tiles.tile_shape(num_rows, num_columns, "cpu")
    assert 1 <= rows <= tiles.TILE_ROWS
    assert 1 <= columns <= num_columns
    assert tiles.tile_memory(like, rows, columns).untyped_storage().nbytes() // 2 <= 2**22
    rows, columns = tiles.tile_shape(num_rows, num_columns, "cpu", whole_rows=True)
    assert columns == num_columns
    assert rows == 1 or rows * columns <= tiles.WHOLE["cpu"]


@every_variant
def test_positions_are_the_plain_formulations_and_sum_to_the_total(graph, parameterization):
    model = a_model(graph, parameterization)
    x0, xt, t = drawn_for(model)
    ours = score_entropy(model, x0, xt, t)
    expected = plain_score_entropy(model, x0, xt, t)
    torch.testing.assert_close(ours.positions, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.total, ours.positions.sum(), rtol=1e-12, atol=0)
    assert not ours.positions.requires_grad
    if model.timeless:
        by_text = masked_cross_entropy(model, x0, xt).positions.sum(-1)
        torch.testing.assert_close(by_text, plain_conditional_loss(model, x0, xt))


class Largest(TorchDispatchMode):
    """Notes the shapes of all tensors that operations return."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.shapes.add(tuple(result.shape))
        return result


@every_variant
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_no_tensor_is_larger_than_a_tile(graph, parameterization, precision, monkeypatch):
    """But weights and hidden states, of which the model has fewer than outputs."""
    model = a_model(graph, parameterization, torch.float32).train()
    seen = Largest()
    allowed = [7 * (VOCAB + 1), *(parameter.numel() for parameter in model.parameters())]

    def watched(hidden, *arguments, **options):
        allowed.append(hidden.numel())
        assert max(allowed) < len(hidden) * VOCAB / 4
        with seen:
            return tiled_nats(hidden, *arguments, **options)

    monkeypatch.setattr(losses, "tiled_nats", watched)
    drawn = drawn_for(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision.itemsize == 2):
        loss = ScoreEntropy(model).loss(*drawn)
    with seen:
        loss.backward()
    within = {shape for shape in seen.shapes if VOCAB <= max(shape, default=0) <= VOCAB + 1}
    assert within
    assert max(torch.Size(shape).numel() for shape in within) <= max(allowed)


@every_variant
def test_bfloat16_products_leave_loss_and_gradient_near(graph, parameterization):
    model = a_model(graph, parameterization, torch.float32)
    drawn = drawn_for(model)
    exact = ScoreEntropy(model).loss(*drawn)
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = ScoreEntropy(model).loss(*drawn), plain_total(model, *drawn)
    assert ours.dtype == torch.float32
    assert abs(ours / exact - 1) <= abs(plain / exact - 1) + 0.01
    by_exact, by_ours, by_plain = (gradients(model, loss) for loss in (exact, ours, plain))
    for name, expected in by_exact.items():
        assert by_ours[name].dtype == torch.float32
        error, plain_error = (
            (found[name] - expected).norm() / expected.norm() for found in (by_ours, by_plain)
        )
        assert error <= 1.5 * plain_error + 0.01, name


@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_bfloat16_fills_masks_to_whole_groups_with_tokens_that_weigh_nothing(
    parameterization, monkeypatch
):
    model = a_model("absorb", parameterization, torch.float32)
    x0, xt, t = drawn_for(model)
    asked = []

    def spied(hidden, *arguments, **options):
        asked.append(len(hidden))
        return tiled_nats(hidden, *arguments, **options)

    monkeypatch.setattr(losses, "tiled_nats", spied)
    found = []
    for group in 1, 64:
        monkeypatch.setattr(losses, "GROUP", group)
        with torch.autocast("cpu", torch.bfloat16):
            nats = score_entropy(model, x0, xt, t)
        assert not nats.positions[xt != VOCAB].any()
        found.append((nats.total, gradients(model, nats.total)))
    num_masks = int((xt == VOCAB).sum())
    assert asked == [num_masks, 64 * -(-num_masks // 64)]
    assert num_masks % 64
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=0)
    # What is left is the rounding of other shapes' products.
    assert_same_gradients(found[1][1], found[0][1], 1e-2)


@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_a_batch_without_a_mask_costs_nothing(parameterization):
    model = a_model("absorb", parameterization)
    x0, _, t = drawn_for(model)
    loss = ScoreEntropy(model).loss(x0, x0, t)
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(model, loss).values())


@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_activation_checkpointing_changes_no_bit(parameterization):
    model = a_model("absorb", parameterization, torch.float32, dropout=0.1).train()
    found = []
    for checkpointing in False, True:
        model.network.activation_checkpointing = checkpointing
        torch.manual_seed(1)
        loss = ScoreEntropy(model).loss(*drawn_for(model))
        found.append((loss, gradients(model, loss)))
    assert torch.equal(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        assert torch.equal(gradient, found[1][1][name]), name


def test_a_second_backward_pass_is_refused():
    head = torch.nn.Linear(3, VOCAB)
    nats = tiled_nats(torch.zeros(5, 3), head, lambda outputs, *_: outputs.exp_().sum(-1))
    nats.total.backward(retain_graph=True)
    with pytest.raises(AttributeError):
        nats.total.backward()


@pytest.mark.parametrize("num_rows", [1, 33, 41])
def test_what_lies_behind_the_rows_of_a_tile_is_in_no_gradient(monkeypatch, num_rows):
    """Fresh memory may hold what is no number, and oneDNN's AMX kernels read on to a whole line."""
    monkeypatch.undo()
    new_empty = torch.Tensor.new_empty

    def poisoned(self, *sizes, **kind):
        return new_empty(self, *sizes, **kind).fill_(torch.nan)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    memory = tiles.tile_memory(torch.empty(0, dtype=torch.bfloat16), num_rows, 24)
    assert memory.shape == (num_rows, 24)
    memory.fill_(1.0)
    whole = torch.empty(0, dtype=torch.bfloat16).set_(memory.untyped_storage())
    assert whole.isfinite().all()
    hidden = torch.ones(num_rows, 64, dtype=torch.bfloat16)
    assert (memory.T @ hidden).eq(num_rows).all()
