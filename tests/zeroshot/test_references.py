"""Published figures: in one table a protocol, ours beside them only where they may stand there."""

import re
from typing import get_args

import pytest

from pipeline.config.zero_shot import Detokenizer, Of, Protocol
from pipeline.zeroshot.comparable import NAMES, SETS, compare
from pipeline.zeroshot.detokenizers import DETOKENIZERS
from pipeline.zeroshot.page import render
from pipeline.zeroshot.protocols import PROTOCOLS
from pipeline.zeroshot.references import beside, published

RESULT = {
    "protocol": "sedd",
    "of": "wikitext103",
    "split": "test",
    "detokenizer": "wikitext",
    "tokenizer": "gpt2",
    "length": 1024,
    "workers": 8,
    "num_blocks": 264,
    "num_blocks_of": 264,
    "perplexity_per_token": 40.7123,
    "perplexity_per_token_stderr": 0.4511,
}


def test_params_allow_what_there_is():
    assert get_args(Protocol) == tuple(PROTOCOLS)
    assert get_args(Detokenizer) == tuple(DETOKENIZERS)
    assert sorted(get_args(Of)) == NAMES


def test_every_table_is_of_one_protocol_and_full():
    tables = published()
    assert len({(table.metric, table.protocol) for table in tables}) == len(tables)
    for table in tables:
        names = [(row.model, row.size) for row in table.rows]
        assert len(set(names)) == len(names)
        assert all(len(row.values) == len(table.sets) for row in table.rows)
        assert all(re.match(r"\d{4}\.\d{4,5}|Radford", row.source) for row in table.rows)
        if table.protocol in SETS:
            assert sorted(table.sets) == sorted(SETS[table.protocol])
    figures = {(t.protocol, r.model, r.size): r.values for t in tables for r in t.rows}
    assert figures["sedd", "SEDD absorb", "small"][3] == 40.62
    assert figures["bd3lm", "MDLM", "small"][0] == 90.96


def test_a_figure_that_agrees_in_all_may_stand_beside_its_table():
    found = compare(RESULT)
    assert found == {"comparable_with": PROTOCOLS["sedd"].table, "differs": []}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"of": None}, "which set of the tables it is was not said"),
        ({"of": "ag_news"}, "the table has no ag_news"),
        ({"split": "validation"}, "split validation, the table's is test"),
        ({"detokenizer": "none"}, "detokenizer none, the table's is wikitext"),
        ({"tokenizer": "0" * 64}, "another tokenizer than GPT-2's"),
        ({"length": 512}, "blocks of 512 tokens, the table's have 1,024"),
        ({"num_blocks": 8}, "8 of 264 blocks"),
        ({"workers": 1}, "1 workers, the table's 8"),
        ({"protocol": "exact"}, "no table is of protocol exact"),
        ({"of": "wikitext2"}, "split test, the table's is train"),
    ],
)
def test_what_differs_is_said_and_nothing_else(changes, said):
    assert compare(RESULT | changes) == {"comparable_with": None, "differs": [said]}


def test_the_page_has_published_figures_only_where_ours_may_stand():
    figures = {
        "num_tokens": 9,
        "num_bytes": 30,
        "nats_per_token": 3.7,
        "nats_per_token_stderr": 0.01,
        "data_stderr": 0.01,
        "mc_stderr": 0.001,
        "num_replicates": 16,
        "num_draws": 2,
        "terms_nats_per_token": {"integral": 3.7},
        "bits_per_byte": 1.18,
        "tail": 0,
    }
    good = RESULT | figures | compare(RESULT)
    few = good | {"num_blocks": 8} | compare(RESULT | {"num_blocks": 8})
    about = {"name": "<wt>", "repo": "r", "revision": "0", "file": "f", "checkpoint_sha256": "ab"}
    page = render(about | {"protocols": {"sedd": good}})
    assert "<h1>&lt;wt&gt;</h1>" in page
    rows = re.findall(r"<tr><td>(.*?)<td>(.*?)<td>(.*?)<td>(.*)", page)
    assert len(rows) == len(published()[0].rows)
    assert ("SEDD absorb", "small", "≤ 40.62", "2310.16834, zero-shot table") in rows
    assert "<td>≤ 40.71 ± 0.45<td>this run" in page
    page = render(about | {"protocols": {"sedd": few}})
    assert "SEDD absorb" not in page
    assert "since 8 of 264 blocks" in page


def test_ours_stand_in_the_table_of_their_protocol_or_below_all():
    good = RESULT | compare(RESULT)
    few = RESULT | {"num_blocks": 8} | compare(RESULT | {"num_blocks": 8})
    text = beside({"wt": {"sedd": good}, "small": {"sedd": few}})
    tables = text.split("\n\n")
    mine = [table for table in tables if "ours, wt" in table]
    assert len(mine) == 1
    assert "protocol sedd" in mine[0]
    [row] = [line for line in mine[0].splitlines() if line.startswith("ours")]
    header = mine[0].splitlines()[1]
    assert row.index("≤ 40.71 ± 0.45") == header.index("wikitext103")
    assert tables[-1] == "small, protocol sedd: ≤ 40.71 ± 0.45, in no table: 8 of 264 blocks"
    assert len(beside({}).split("\n\n")) == len(published())
