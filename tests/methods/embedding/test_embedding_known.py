"""Known tokens: which training gives away, that they cost nothing, and samples given them."""

import itertools
from typing import get_args

import pytest
import torch
from embedding_toy import bayes_model, random_model, seeded
from toy import check_law, index_of, toy_distribution

from pipeline.methods.draws import FREE
from pipeline.methods.embedding import method
from pipeline.methods.embedding.loss import Denoising, draw_known
from pipeline.methods.embedding.sampler import Predictor, sample

LENGTH, ROWS = 6, 12_000
LOSSES = ("likelihood", "cross_entropy", "half", "mse_cross_entropy")
every_loss = pytest.mark.parametrize("loss", LOSSES)


def is_known(share, length=LENGTH):
    """Which positions are, of rows of distinct tokens."""
    x0 = torch.arange(length).expand(ROWS, -1)
    known = draw_known(x0, share, seeded())
    assert bool(((known == x0) | (known == FREE)).all())
    return known != FREE


def test_the_number_of_known_tokens_is_uniform():
    known = is_known(1.0)
    check_law(known.sum(-1) - 1, torch.full((LENGTH - 1,), 1 / (LENGTH - 1), dtype=torch.float64))


def test_half_are_one_run_anywhere_and_half_are_scattered():
    """Each set of positions has the chance that both ways together give it."""
    known, chances = is_known(1.0), []
    for subset in itertools.product([0, 1], repeat=LENGTH):
        count = sum(subset)
        same = [other for other in itertools.product([0, 1], repeat=LENGTH) if sum(other) == count]
        places = [i for i, each in enumerate(subset) if each]
        is_run = count and places[-1] - places[0] == count - 1
        scattered, run = 1 / len(same), is_run / (LENGTH - count + 1)
        chances.append((scattered + run) / 2 / (LENGTH - 1) if 0 < count < LENGTH else 0.0)
    law = torch.tensor(chances, dtype=torch.float64)
    assert law.sum().item() == pytest.approx(1)
    check_law(index_of(known.long(), 2), law)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_rows_has_known_tokens(share):
    """Within 4 standard errors of 12,000 rows."""
    rows = is_known(share).any(-1).double().mean().item()
    assert rows == pytest.approx(share, abs=4 * (share * (1 - share) / ROWS) ** 0.5)


def test_of_two_tokens_one_is_known():
    check_law(is_known(1.0, length=2).long().argmax(-1), torch.tensor([0.5, 0.5]).double())


def test_every_free_position_counts_alike_and_all_as_the_whole_batch():
    objective = Denoising(random_model(known=1.0, loss="half"))
    _, known, _, scale, _, _ = objective.draw(torch.zeros(50, 5, dtype=torch.int64), seeded())
    num_free = (known == FREE).sum(-1)
    assert len(num_free.unique()) == 4
    assert len(scale.unique()) == 1
    torch.testing.assert_close((scale * num_free).sum(), torch.tensor(250.0))


@every_loss
@pytest.mark.parametrize("input", ["evidence", "vector"])
def test_noise_at_known_positions_has_no_loss_and_no_gradient(loss, input):
    """Nor has what is expected there; a row of known tokens alone costs nothing at all."""
    objective = Denoising(random_model(loss=loss, input=input, known=1.0, self_condition=1.0))
    x0 = torch.randint(7, (16, 5), generator=seeded())
    x0, known, t, scale, estimated, noise = objective.draw(x0, seeded())
    noise.requires_grad_()
    total = objective.loss(x0, known, t, scale, estimated, noise)
    (by_noise,) = torch.autograd.grad(total, noise)
    assert not by_noise[known != FREE].any()
    assert by_noise[known == FREE].any()
    other = noise.masked_fill((known != FREE)[..., None], 7.0)
    assert torch.equal(objective.loss(x0, known, t, scale, estimated, other), total)
    objective.module.train()
    none = objective.loss(x0, x0, t, torch.ones(16), estimated, noise)
    none.backward()
    assert none.item() == 0
    assert not any(
        each.grad.any() for each in objective.module.parameters() if each.grad is not None
    )
    objective.finish_step()
    assert objective.module.clock.rms.isfinite().all()


@pytest.mark.parametrize("predictor", get_args(Predictor))
@pytest.mark.parametrize("fixed", [[1, FREE], [FREE, 2]])
def test_samples_given_known_tokens_follow_the_data_given_them(predictor, fixed):
    """Of the Bayes denoiser: nearer than 0.03, of which 0.01 is chance; not their marginal."""
    p0, known = toy_distribution(3, 2), torch.tensor(fixed)
    samples = sample(
        bayes_model(p0),
        10_000,
        num_steps=32,
        predictor=predictor,
        generator=seeded(),
        fixed=known,
    )
    held = known != FREE
    assert bool((samples.tokens[:, held] == known[held]).all())
    law = p0[1] if fixed[0] == 1 else p0[:, 2]
    marginal = p0.sum(int(fixed[0] == 1))
    drawn = samples.tokens[:, ~held].squeeze(1)
    counts = torch.bincount(drawn, minlength=3) / len(drawn)
    assert (counts - law / law.sum()).abs().sum() / 2 < 0.03
    assert (counts - marginal / marginal.sum()).abs().sum() / 2 > 0.05


def test_all_tokens_known_are_the_samples():
    fixed = torch.tensor([3, 1, 4, 1, 5])
    model = random_model()
    samples = sample(model, 4, num_steps=2, predictor="ddpm", generator=seeded(), fixed=fixed)
    assert torch.equal(samples.tokens, fixed.expand(4, -1))


def test_a_model_says_whether_it_was_trained_with_known_tokens():
    assert method.cannot_condition(random_model()) is None
    assert "embedding.known is 0" in method.cannot_condition(random_model(known=0.0))
