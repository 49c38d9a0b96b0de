"""Detokenizers: from the words, apart, that a set's rows hold, to text as people write it.

Each is a list of rules for one row, in order, as the evaluation code of the papers has them, with
whatever is wrong in them: a figure a token depends on every blank. They cannot be undone.
"""

import re
from collections.abc import Callable
from functools import reduce

Rule = Callable[[str], str]


def _literal(old: str, new: str) -> Rule:
    return lambda text: text.replace(old, new)


def _matched(pattern: str, new: str) -> Rule:
    """The end, $, is that of the text, or before one final line end."""
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(new, text)


def _tight(opening: str, closing: str) -> Rule:
    """No blanks just inside a pair of signs, which reaches to the first that closes."""
    inside = re.compile(f"{re.escape(opening)}([^{re.escape(closing)}]*){re.escape(closing)}")
    return lambda text: inside.sub(lambda found: opening + found[1].strip() + closing, text)


WIKITEXT: list[Rule] = [
    _literal("s '", "s'"),
    # Meant for a digit behind an apostrophe; it takes slashes for the ends of the pattern.
    _matched("/' [0-9]/", "/'[0-9]/"),
    *(_literal(f" @{sign}@ ", sign) for sign in "-,."),
    *(_literal(f" {sign} ", f"{sign} ") for sign in ":;.!?,"),
    *(_tight(*pair) for pair in ("()", "[]", "{}", '""', "''")),
    _literal("= = = =", "===="),
    _literal("= = =", "==="),
    _literal("= =", "=="),
    _literal(" ° ", "°"),
    _literal(" \n", "\n"),
    _literal("\n ", "\n"),
    _literal(" N ", " 1 "),
    _literal(" 's", "'s"),
]
PTB: list[Rule] = [
    _literal(" 's", "'s"),
    _literal("s ' ", "s' "),
    _literal(" n't", "n't"),
    _literal(" \n ", "\n"),
    _literal("\\/", "/"),
    # Neighbours share a blank, so that one pass leaves every second.
    *[_literal(" N ", " 1 ")] * 10,
    _literal("$ 1", "$1"),
    _literal("# 1", "#1"),
    _literal("<unk>", "?"),
]
LM1B: list[Rule] = [
    _literal("http : / / ", "http://"),
    _literal("https : / / ", "https://"),
    _matched(r" '(\w+)", r"'\1"),
    _matched(r" (\w+) \. ", r" \1. "),
    _matched(r" (\w+) \.$", r" \1."),
    _literal(" ? ", "? "),
    _matched(r" \?$", "?"),
    _literal(" ! ", "! "),
    _matched(r" !$", "!"),
    *(_literal(f" {sign} ", f"{sign} ") for sign in ",:;"),
    _literal(" / ", "/"),
    _matched(r'" ([^"]+) "', r'"\1"'),
    _matched(r"' ([^']+) '", r"'\1'"),
    _matched(r"\( ([^()]+) \)", r"(\1)"),
    _matched(r"\[ ([^\[\]]+) \]", r"[\1]"),
    _literal("$ ", "$"),
    _literal("£ ", "£"),
]
LAMBADA: list[Rule] = [
    _literal("“", '"'),
    _literal("”", '"'),
    lambda text: "\n" + text.strip(),
]
DETOKENIZERS: dict[str, list[Rule]] = {
    "none": [],
    "wikitext": WIKITEXT,
    "ptb": PTB,
    "lm1b": LM1B,
    "lambada": LAMBADA,
    "scientific_papers": [*WIKITEXT, *LM1B],
}


def detokenized(text: str, name: str) -> str:
    """One row by the rules of the detokenizer `name`, a key of DETOKENIZERS."""
    return reduce(lambda done, rule: rule(done), DETOKENIZERS[name], text)
