"""MAUVE: features are transformers' own, sets share no text, and the package gives the rest."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_scorers import EOS, PAD, samples_of, save_tiny_lm, scorer_of, stand_in, tiny_model

from pipeline.errors import CheckpointError, DataError, PipelineError
from pipeline.evaluation.causal import GPT2, CausalLM
from pipeline.evaluation.mauve import features, mauve, real_halves
from pipeline.evaluation.scorer import load_scorer
from pipeline.evaluation.scores import Scored
from pipeline.scale.units import UNKEPT


def features_by(scorer, samples, batch_size=8):
    vocabulary = SimpleNamespace(eos_id=EOS)
    scored = Scored(samples, None, scorer, vocabulary, (), ())
    return features(scored, samples, batch_size=batch_size, units=UNKEPT)


def last_states(model, sequences):
    """transformers' last hidden state of the last token of each, alone in a forward."""
    with torch.no_grad():
        each = [model(torch.tensor([ids]), output_hidden_states=True) for ids in sequences]
    return np.stack([found.hidden_states[-1][0, -1].numpy() for found in each])


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [GPT2, CausalLM])
def test_features_are_transformers_last_states(kind):
    """Ends and what follows are cut off, empty texts left out, long ones cut at what it reads."""
    model = tiny_model(6, 6)
    rows = [
        [3, 4, EOS, PAD, PAD, PAD, PAD, PAD],
        [EOS, PAD, PAD, PAD, PAD, PAD, PAD, PAD],
        [5, EOS, 3, 3, 3, 3, 3, 3],
        [2, 3, 4, 5, 2, 3, 4, 5],
        [4, EOS, PAD, PAD, PAD, PAD, PAD, PAD],
    ]
    found = features_by(scorer_of(model, kind=kind), samples_of(rows), batch_size=2)
    assert_near(found, last_states(model, [[3, 4], [5], [2, 3, 4, 5, 2, 3], [4]]))


def test_windows_of_running_text_are_read_whole():
    model, rows = tiny_model(6, 6), [[3, EOS, 4, 4], [2, 2, 3, EOS]]
    samples = dataclasses.replace(samples_of(rows), mode="concat")
    assert_near(features_by(scorer_of(model), samples), last_states(model, rows))


def test_a_scorer_of_other_tokens_reads_the_text(tmp_path):
    lm = save_tiny_lm(tmp_path)
    vocabulary = lm.tokenizer.backend_tokenizer
    lm.tokenizer.save_pretrained(tmp_path)
    other = vocabulary.to_str().replace('"byte_fallback":false', '"byte_fallback":true')
    scorer = load_scorer(
        str(tmp_path), baseline=tmp_path, tokenizer=other, start_id=EOS,
        device=torch.device("cpu"), precision="float32",
    )  # fmt: skip
    assert scorer.tokenizer is not None
    samples = samples_of([[3, EOS]] * 3, ["Anna", "", "Bella " * 8])
    read = [lm.tokenizer.encode(samples.texts[place])[:8] for place in (0, 2)]
    assert len(read[1]) == 8
    assert_near(features_by(scorer, samples), last_states(lm.model, read))


def test_states_that_are_not_finite_are_said():
    model = tiny_model(6, 6)
    model.transformer.ln_f.bias.data[0] = float("nan")
    with pytest.raises(CheckpointError, match="no finite states"):
        features_by(scorer_of(model), samples_of([[3, EOS]]))


def test_halves_share_no_text_and_too_few_are_said():
    first, second = real_halves(100, 40, seed=3)
    assert len(first) == len(second) == len({*first, *second}) / 2 == 40
    assert first.tolist() == real_halves(100, 40, seed=3)[0].tolist()
    assert first.tolist() != real_halves(100, 40, seed=4)[0].tolist()
    with pytest.raises(DataError, match=r"score.mauve_seeds: .* 79 blocks, .* \(got 40\)"):
        real_halves(79, 40, seed=3)


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("pipeline.environment.find_spec", lambda name: None)
    with pytest.raises(PipelineError) as error:
        mauve(np.zeros((4, 2)), np.zeros((4, 2)), [25])
    assert str(error.value) == (
        "score.mauve_seeds: the package mauve is not installed, which is an extra: "
        "`python install.py mauve` in the project's folder installs it"
    )


def test_mean_and_spread_over_seeds(monkeypatch):
    stand_in(monkeypatch)
    real, others = np.zeros((8, 2)), np.zeros((4, 2))
    spread = pytest.approx(7**0.5)
    assert mauve(real, others, [1, 2, 6]) == {"mauve": 2.5, "mauve_spread": spread}
    assert mauve(real, others, [1]) == {"mauve": 0.5, "mauve_spread": None}
    with pytest.raises(DataError, match="two texts or more"):
        mauve(real, others[:1], [1])


def test_the_package_itself_tells_laws_apart():
    package = pytest.importorskip("mauve", reason="an extra: python install.py mauve")
    generator = np.random.default_rng(0)
    real, alike, other = (generator.normal(size=(400, 8)) for _ in range(3))
    other += 1.0
    seeds = [25, 26, 27]
    near, far = mauve(real, alike, seeds), mauve(real, other, seeds)
    values = [package.compute_mauve(p_features=real, q_features=alike, seed=s).mauve for s in seeds]
    assert near["mauve"] == pytest.approx(np.mean(values))
    assert near["mauve_spread"] == pytest.approx(np.std(values, ddof=1))
    assert far["mauve"] + 0.2 < near["mauve"] <= 1
    assert mauve(real, alike, seeds) == near
