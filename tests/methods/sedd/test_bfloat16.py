"""Products in bfloat16: samplers keep their laws, and the bound is where float32 has it."""

import math

import pytest
import torch
from chains import SAMPLERS, draw, law_of_orders, n_step_law, transformer
from toy import check_law, index_of, small_model

from pipeline.kernels.precision import products_in
from pipeline.methods.estimates import rate
from pipeline.methods.sedd.bound import draw_bound

CPU = torch.device("cpu")


@pytest.mark.parametrize(("graph", "parameterization", "predictor"), SAMPLERS)
def test_samples_follow_the_law_of_the_network_as_it_computes(graph, parameterization, predictor):
    model = transformer(3, graph, parameterization).float()
    with torch.no_grad(), products_in("bfloat16", CPU):
        law = law_of_orders(model) if predictor == "first_hitting" else None
        law = n_step_law(model, 3, predictor) if law is None else law
        samples = draw(model, 3, predictor)
    check_law(index_of(samples.tokens, 7), law)


@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_outputs_that_are_drawn_from_are_not_rounded(parameterization):
    model = transformer(8, parameterization=parameterization).float()
    xt, sigma = torch.full((2, 8), 7), torch.ones(2)
    with torch.no_grad(), products_in("bfloat16", CPU):
        outputs = model.network(xt, sigma)
    assert outputs.dtype == torch.float32
    assert not torch.equal(outputs, outputs.bfloat16().float())


@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_the_bound_is_within_a_hundredth_of_a_nat_a_token(parameterization):
    model = small_model(parameterization=parameterization).float().eval()
    x0 = torch.randint(
        model.config.vocab_size, (64, model.length), generator=torch.Generator().manual_seed(0)
    )
    found = []
    for precision in ("float32", "bfloat16"):
        with products_in(precision, CPU):
            bound = draw_bound(
                model,
                x0,
                num_replicates=2,
                num_draws=2,
                batch_size=64,
                seed=0,
            )
        found.append(rate(bound.total, torch.full((64,), model.length)).value)
    assert found[0] != found[1]
    assert math.isclose(*found, abs_tol=0.01)
