"""What a card does for the head and its loss, on a CPU: the values and gradients of the plain way.

torch.compile makes code for a CPU here, of the same operations as on a card.
"""

import pytest
import torch
from test_tiled import (
    LENGTH,
    ROWS,
    VOCAB,
    Largest,
    a_model,
    assert_same_gradients,
    drawn_for,
    every_variant,
    gradients,
    plain_total,
)
from torch import nn

from pipeline.device import why_not_compiled
from pipeline.kernels import row_tiles, tiled, tiles
from pipeline.kernels.criterion import add_at_, is_in, put_at, put_at_, value_at
from pipeline.kernels.row_tiles import fuses, nats_by_row_tiles, priced
from pipeline.kernels.tiled import tiled_nats
from pipeline.methods.sedd.graph import Absorb, Uniform
from pipeline.methods.sedd.loss import ScoreEntropy, cross_entropy_, score_entropy

WIDTH = 128
"""VOCAB, with and without a mask, as a card takes it."""
ROWS_OF_A_TILE = 28


@pytest.fixture(autouse=True)
def card(monkeypatch):
    """Several tiles, the last one not full."""
    monkeypatch.setattr(tiles, "LINE", 4)
    monkeypatch.setattr(tiles, "WHOLE", {"cuda": (ROWS_OF_A_TILE + 3) * WIDTH})
    monkeypatch.setitem(tiled.WAYS, "cpu", nats_by_row_tiles)


def products_seen(monkeypatch):
    """The gradients by products, a tile each, as the last two products take them."""
    seen = []

    def spied(a, b, wide):
        if a.shape[1] == WIDTH:
            seen.append(a)
        return product(a, b, wide)

    product = row_tiles._product
    monkeypatch.setattr(row_tiles, "_product", spied)
    return seen


@every_variant
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_loss_and_gradient_are_those_of_the_plain_formulation(
    graph, parameterization, dtype, bar, monkeypatch
):
    model = a_model(graph, parameterization, dtype)
    drawn, seen = drawn_for(model), products_seen(monkeypatch)
    ours, plain = ScoreEntropy(model).loss(*drawn), plain_total(model, *drawn)
    torch.testing.assert_close(ours, plain, rtol=bar, atol=0)
    assert_same_gradients(gradients(model, ours / ROWS), gradients(model, plain / ROWS), bar)
    assert len(seen) > 2
    assert max(len(each) for each in seen) <= ROWS_OF_A_TILE
    with torch.no_grad():
        again = ScoreEntropy(model).loss(*drawn)
    torch.testing.assert_close(again, ours.detach(), rtol=bar, atol=0)


@every_variant
def test_the_padding_stays_zero_and_rows_are_aligned(graph, parameterization, monkeypatch):
    model = a_model(graph, parameterization, torch.float32)
    seen = products_seen(monkeypatch)
    ScoreEntropy(model).loss(*drawn_for(model))
    for gradient in seen:
        assert gradient.stride() == (WIDTH, 1)
        assert gradient.data_ptr() % 64 == 0
        outputs, padding = gradient.tensor_split([model.network.head.out_features], dim=1)
        assert not padding.any()
        assert outputs.any()


@every_variant
def test_bfloat16_products_leave_loss_and_gradient_near(graph, parameterization):
    model = a_model(graph, parameterization, torch.float32)
    drawn = drawn_for(model)
    exact = ScoreEntropy(model).loss(*drawn)
    by_exact = gradients(model, exact)
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = ScoreEntropy(model).loss(*drawn), plain_total(model, *drawn)
    assert ours.dtype == torch.float32
    assert abs(ours / exact - 1) <= abs(plain / exact - 1) + 0.01
    by_ours, by_plain = gradients(model, ours), gradients(model, plain)
    for name, expected in by_exact.items():
        assert by_ours[name].dtype == torch.float32
        error, plain_error = (
            (found[name] - expected).norm() / expected.norm() for found in (by_ours, by_plain)
        )
        assert error <= 1.5 * plain_error + 0.01, name


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Of torch.compile's own.
@every_variant
def test_fused_it_is_the_same_and_is_compiled_once(graph, parameterization, monkeypatch):
    """For tiles of any height and every step, and once more where no gradient is asked for."""
    if reason := why_not_compiled(torch.device("cpu")):
        pytest.skip(reason)
    torch.compiler.reset()
    row_tiles.fused.cache_clear()
    model = a_model(graph, parameterization, torch.float32)
    drawn = drawn_for(model)
    plain = ScoreEntropy(model).loss(*drawn)
    by_plain, positions = gradients(model, plain), score_entropy(model, *drawn).positions
    monkeypatch.setattr(row_tiles, "fuses", lambda device: True)
    counted = torch._dynamo.utils.counters["stats"]
    counted.clear()
    ours = ScoreEntropy(model).loss(*drawn)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0)
    assert_same_gradients(gradients(model, ours), by_plain, 1e-5)
    for start in 1, 2, 3:
        ScoreEntropy(model).loss(*(each[start:] for each in drawn))
    assert counted["unique_graphs"] == 1
    with torch.no_grad():
        again = score_entropy(model, *drawn).positions
        score_entropy(model, *(each[1:] for each in drawn))
    assert counted["unique_graphs"] == 2
    torch.testing.assert_close(again, positions, rtol=1e-4, atol=1e-5)


CASES = {
    "cross-entropy": (cross_entropy_, 2),
    "absorb": (Absorb(VOCAB).score_entropy_, 5),
    "uniform": (Uniform(VOCAB).score_entropy_, 5),
}


@pytest.mark.parametrize(("criterion", "num_given"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("columns", [slice(0, VOCAB), slice(0, 40), slice(40, VOCAB)])
def test_what_is_compiled_of_a_criterion_is_what_runs_without(
    criterion, num_given, columns, monkeypatch
):
    """Where it compares columns, the other way gathers and scatters."""
    draws = torch.Generator().manual_seed(0)
    x0 = torch.randint(VOCAB - 1, (50,), generator=draws)
    xt = torch.where(torch.arange(50) % 5 == 0, x0, (x0 + 7) % VOCAB)
    if num_given == 2:
        columns = slice(0, VOCAB)
    elif criterion.__self__.mask_id is not None:
        xt = torch.full_like(x0, VOCAB - 1)
    real = torch.rand(3, 50, dtype=torch.float64, generator=draws) + 0.1
    by_position = (x0, real[0]) if num_given == 2 else (x0, xt, *real)
    outputs = torch.randn(50, VOCAB, dtype=torch.float64, generator=draws)[:, columns]
    found = []
    for compiling in False, True:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda now=compiling: now)
        gradient = outputs.clone()
        found.append((criterion(gradient, columns, *by_position), gradient))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


def test_one_number_of_each_row_is_reached_either_way(monkeypatch):
    columns, ids = slice(3, 6), torch.tensor([3, 5, 2, 6])
    for compiling in False, True:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda now=compiling: now)
        outputs = torch.arange(12.0).view(4, 3)
        there = is_in(ids, columns)
        assert there.tolist() == [True, True, False, False]
        assert value_at(outputs, ids, columns)[there].tolist() == [0, 5]
        add_at_(outputs, ids, columns, torch.full((4,), 0.5))
        assert outputs.tolist() == [[0.5, 1, 2], [3, 4, 5.5], [6, 7, 8], [9, 10, 11]]
        put_at_(outputs, ids, columns, 20.0)
        assert outputs.tolist() == [[20, 1, 2], [3, 4, 20], [6, 7, 8], [9, 10, 11]]
        put = put_at(outputs, ids + 1, columns, torch.full((4,), 30.0))
        assert put.tolist() == [[20, 30, 2], [3, 4, 20], [30, 7, 8], [9, 10, 11]]


def test_without_a_gradient_none_is_written():
    outputs = torch.randn(5, VOCAB)
    before, given = outputs.clone(), (torch.arange(5), torch.ones(5))
    nats = priced(outputs, cross_entropy_, given, torch.float32, with_gradient=False)
    assert torch.equal(outputs, before)
    again = priced(outputs, cross_entropy_, given, torch.float32, with_gradient=True)
    assert torch.equal(nats, again)
    expected = before.softmax(-1) - nn.functional.one_hot(given[0], VOCAB)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)


@every_variant
def test_no_tensor_is_larger_than_a_tile_or_the_head(graph, parameterization, monkeypatch):
    model, seen = a_model(graph, parameterization, torch.float32), Largest()
    way = nats_by_row_tiles

    def watched(*arguments):
        with seen:
            return way(*arguments)

    monkeypatch.setitem(tiled.WAYS, "cpu", watched)
    loss = ScoreEntropy(model).loss(*drawn_for(model))
    gradients(model, loss)
    largest = max(torch.Size(shape).numel() for shape in seen.shapes)
    assert largest <= (ROWS_OF_A_TILE + 4) * WIDTH < ROWS * LENGTH * VOCAB / 4


def test_without_a_position_the_gradient_is_zero():
    head, hidden = nn.Linear(4, 6), torch.ones(0, 4, requires_grad=True)
    tiled_nats(hidden, head, lambda outputs, columns: outputs.sum(-1)).total.backward()
    assert torch.equal(head.weight.grad, torch.zeros(6, 4))
    assert torch.equal(head.bias.grad, torch.zeros(6))


@pytest.mark.parametrize("num_columns", [64, 50_304, 1_000_000])
@pytest.mark.parametrize("num_rows", [0, 1, 1000, 16_384, 1_000_000])
@pytest.mark.parametrize("whole_rows", [False, True])
def test_tiles_on_a_card_are_few_and_bounded(num_rows, num_columns, whole_rows, monkeypatch):
    monkeypatch.undo()
    rows, columns = tiles.tile_shape(num_rows, num_columns, "cuda", whole_rows=whole_rows)
    assert columns == num_columns
    assert rows % tiles.LINE == 0
    assert 0 < rows * columns <= 2**28
    assert -(-num_rows // rows) <= 1 + 1.1 * num_rows * num_columns / 2**28


def test_nothing_is_fused_without_what_it_takes(monkeypatch):
    fuses.cache_clear()
    assert not fuses("cpu")
    monkeypatch.setattr(row_tiles, "find_spec", lambda name: None)
    assert not fuses("cuda")
    fuses.cache_clear()
