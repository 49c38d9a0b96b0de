import copy
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pipeline.baseline.gpt2 import new_baseline, save_baseline
from pipeline.config.params import load_params
from pipeline.evaluation.causal import GPT2
from pipeline.evaluation.samples import Samples
from pipeline.evaluation.scorer import Scorer

PAD, EOS, UNK = 0, 1, 2


def tiny_model(vocab_size, max_tokens, seed=0, width=16, scale=4.0):
    """A GPT-2 whose predictions are far from even."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=max_tokens,
            n_embd=width,
            n_layer=2,
            n_head=2,
            bos_token_id=EOS,
            eos_token_id=EOS,
        )
    ).eval()
    for parameter in model.parameters():
        parameter.data.mul_(scale)
    return model


def write_baseline(folder, tokenizer, mode="pad"):
    """A baseline as training begins with it, for the tiny project in `folder`."""
    model = new_baseline(
        load_params().baseline,
        vocab_size=tokenizer.size,
        length=16,
        start_id=tokenizer.eos_id,
        mode=mode,
        seed=0,
        device=torch.device("cpu"),
    )
    save_baseline(folder / "artifacts/baseline", model, tokenizer=folder / "artifacts/tokenizer")
    return model


def plain_nats(model, context, targets):
    """Nats of `targets` after `context`, each token in a forward of its own."""
    nats, ids = 0.0, list(context)
    for target in targets:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        nats -= logits.log_softmax(-1)[target].item()
        ids.append(target)
    return nats


def samples_of(ids, texts=None, nfe=3.0):
    ids = np.array(ids)
    texts = [str(row) for row in ids.tolist()] if texts is None else texts
    return Samples(8, np.arange(len(ids)), ids, texts, np.full(len(ids), nfe))


def scorer_of(model, precision="float32", device="cpu", kind=GPT2):
    """A transformers model as a scorer of token ids, like the baseline."""
    network = kind(copy.deepcopy(model).to(device), precision)
    return Scorer("baseline", "00", precision, network, start_id=EOS, tokenizer=None)


def tiny_id_scorer(device="cpu"):
    """A scorer of ids 0 to 5 in blocks of 6, the weights those of `tiny_model(6, 6)`."""
    return scorer_of(tiny_model(6, 6), device=device)


def cached_hub(folder, monkeypatch):
    """A cache of the hub, which is away: gpt2 at the commit aaa..., the newest, and bbb... ."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = folder / "models--gpt2"
    for seed, commit in enumerate("ab"):
        lm = save_tiny_lm(place / "snapshots" / (commit * 40))
        tiny_model(lm.model.config.vocab_size, 8, seed).save_pretrained(lm.path)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    return place / "snapshots"


def save_tiny_lm(folder):
    """A small transformers model with a byte-level BPE tokenizer of its own, in `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Anna", "Annabel", "Bella", "Isabella", "Belinda"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.save_pretrained(folder)
    model = tiny_model(tokenizer.get_vocab_size(), 8)
    model.save_pretrained(folder)
    return SimpleNamespace(path=folder, tokenizer=fast, model=model)


def stand_in(monkeypatch):
    """In the place of MAUVE's package: the seed less the second set's size over the first's."""
    module = ModuleType("mauve")
    module.__spec__ = ModuleSpec("mauve", None)
    module.compute_mauve = lambda p_features, q_features, seed: SimpleNamespace(
        mauve=seed - len(q_features) / len(p_features)
    )
    monkeypatch.setitem(sys.modules, "mauve", module)
