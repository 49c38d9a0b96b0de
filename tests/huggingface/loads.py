"""Loads exports as anyone would, where this project cannot be seen, and says what they compute.

python -I -S loads.py SITE_PACKAGES ASKED ANSWERED, both files of torch.save.
"""

import re
import sys
from importlib.util import find_spec

sys.path.append(sys.argv[1])
assert find_spec("pipeline") is None

import torch  # noqa: E402
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer  # noqa: E402


def computed(ask):
    """What the export in a folder computes with what is asked."""
    folder, found = ask["folder"], {}
    for dtype in (torch.float32, torch.float64):
        model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=dtype)
        with torch.no_grad():
            score = model(ask["xt"], sigma=ask["sigma"].to(dtype)).log_score
        found[f"log_score {dtype}"] = score
        if ask["has_mask"]:
            masked = AutoModelForMaskedLM.from_pretrained(
                folder, trust_remote_code=True, dtype=dtype
            )
            with torch.no_grad():
                found[f"logits {dtype}"] = masked(ask["xt"], ask["sigma"].to(dtype)).logits
                found[f"logits alone {dtype}"] = masked(ask["xt"]).logits
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    seeded = torch.Generator().manual_seed
    found["samples"] = model.sample(6, num_steps=5, generator=seeded(1))
    found["infilled"] = model.sample(6, num_steps=5, generator=seeded(2), fixed=ask["fixed"])
    found["state"] = {name: value.clone() for name, value in model.state_dict().items()}
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    found["ids"] = [tokenizer(text)["input_ids"] for text in ask["texts"]]
    found["texts"] = tokenizer.batch_decode(found["samples"])
    found["mask_id"] = tokenizer.mask_token_id
    found["special ids"] = tokenizer.eos_token_id, tokenizer.pad_token_id
    # What the card says to do.
    (code,) = re.findall(r"```python\n(.*?)```", ask["card"], re.DOTALL)
    shown = {"FOLDER": folder}
    exec(code, shown)
    found["card"] = {name: shown.get(name) for name in ("texts", "log_score", "logits")}
    return found


torch.set_num_threads(1)
asked = torch.load(sys.argv[2], weights_only=False)
answered = {name: computed(ask) for name, ask in asked.items()}
torch.save(answered, sys.argv[3])
