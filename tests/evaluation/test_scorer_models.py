"""The networks behind scorers: GPT-2, and whatever else transformers has."""

import pytest
import torch
import torch.nn.functional as F
from tiny_scorers import plain_nats, samples_of, save_tiny_lm, tiny_model
from transformers import GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.evaluation import causal
from pipeline.evaluation.causal import CausalLM, load_causal
from pipeline.evaluation.gen_ppl import likelihood
from pipeline.evaluation.scorer import load_scorer

CPU = torch.device("cpu")


def load(folder, precision="float32"):
    return load_scorer(
        str(folder),
        baseline=folder,
        tokenizer=train_char_tokenizer(["another"]).definition,
        start_id=9,
        device=CPU,
        precision=precision,
    )


@torch.inference_mode()
@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "relu"])
def test_gpt2_is_loaded_as_it_was_saved(tmp_path, activation, monkeypatch):
    # Nine of fifty logits at a time, and five at last.
    monkeypatch.setattr(causal, "LOGITS", 3 * 12 * 9)
    model = tiny_model(50, 12, width=32)
    model.config.activation_function = activation
    model = GPT2LMHeadModel(model.config).eval()
    model.save_pretrained(tmp_path)
    ours = load_causal(tmp_path, CPU, "float32")
    ids = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(0))
    nats = ours.nats(ours.states(list(ids)), ids.flatten())
    expected = F.cross_entropy(model(ids).logits.flatten(0, 1), ids.flatten(), reduction="none")
    torch.testing.assert_close(nats, expected, rtol=1e-5, atol=1e-5)
    assert (ours.vocab_size, ours.max_tokens) == (50, 12)


@pytest.fixture
def neox(tmp_path):
    """A model of another kind, with the byte-level tokenizer of `save_tiny_lm`."""
    folder = save_tiny_lm(tmp_path / "neox").path
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = GPTNeoXConfig(vocab_size=280, intermediate_size=32, max_position_embeddings=8, **sizes)
    model = GPTNeoXForCausalLM(config).eval()
    model.save_pretrained(folder)
    return folder, model


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 5e-3)])
def test_another_model_scores_texts_of_mixed_lengths(neox, precision, tolerance):
    folder, model = neox
    scorer = load(folder, precision)
    assert isinstance(scorer.model, CausalLM)
    texts = ["Anna", "xyz", "Bella", "", "zyx"]
    found = likelihood(scorer, samples_of([[0]] * 5, texts), eos_id=9, batch_size=4)
    for text, nats in zip(texts, found.nats, strict=True):
        tokens = scorer.encode([text])[0]
        assert nats == pytest.approx(plain_nats(model, [scorer.start_id], tokens), rel=tolerance)
