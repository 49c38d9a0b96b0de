"""Whether a figure may stand beside a published one: computed from what was scored, not claimed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.zeroshot.protocols import LENGTH, PROTOCOLS

# Set -> the split that the tables are of, and its detokenizer.
SEDD = {
    "lambada": ("test", "lambada"),
    "wikitext2": ("train", "wikitext"),
    "wikitext103": ("test", "wikitext"),
    "ptb": ("test", "ptb"),
    "lm1b": ("test", "lm1b"),
}
MDLM = {
    "ptb": ("validation", "ptb"),
    "wikitext103": ("validation", "wikitext"),
    "lm1b": ("test", "lm1b"),
    "lambada": ("test", "lambada"),
    "ag_news": ("test", "none"),
    "pubmed": ("validation", "scientific_papers"),
    "arxiv": ("validation", "scientific_papers"),
}
SETS = {"sedd": SEDD, "mdlm": MDLM, "duo": MDLM, "bd3lm": MDLM}
NAMES = sorted({*SEDD, *MDLM})
SEDD_WORKERS = 8


@dataclass(frozen=True)
class Set:
    """What a file is said to be; `name` as the tables call the set, None where none does."""

    name: str | None
    split: str | None
    detokenizer: str


def compare(result: Mapping[str, Any]) -> dict[str, Any]:
    """`comparable_with`, the table that a result may stand beside, and else how it `differs`."""
    protocol = result["protocol"]
    table = PROTOCOLS[protocol].table
    if table is None:
        return {"comparable_with": None, "differs": [f"no table is of protocol {protocol}"]}
    differs = _differences(result)
    return {"comparable_with": None if differs else table, "differs": differs}


def _differences(result: Mapping[str, Any]) -> list[str]:
    protocol, name = result["protocol"], result["of"]
    differs = []
    if name is None:
        differs.append("which set of the tables it is was not said")
    elif (wanted := SETS[protocol].get(name)) is None:
        differs.append(f"the table has no {name}")
    else:
        split, detokenizer = wanted
        if result["split"] != split:
            differs.append(f"split {result['split']}, the table's is {split}")
        if result["detokenizer"] != detokenizer:
            differs.append(f"detokenizer {result['detokenizer']}, the table's is {detokenizer}")
    if result["tokenizer"] != "gpt2":
        differs.append("another tokenizer than GPT-2's")
    if result["length"] != LENGTH:
        differs.append(f"blocks of {result['length']:,} tokens, the table's have {LENGTH:,}")
    if result["num_blocks"] < result["num_blocks_of"]:
        differs.append(f"{result['num_blocks']:,} of {result['num_blocks_of']:,} blocks")
    if protocol == "sedd" and result["workers"] != SEDD_WORKERS:
        differs.append(f"{result['workers']} workers, the table's {SEDD_WORKERS}")
    return differs
