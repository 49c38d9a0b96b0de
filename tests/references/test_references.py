"""Published figures: in one table a protocol, ours beside them only where they may stand there."""

import re
from typing import get_args

import pytest

from pipeline.config.zero_shot import Detokenizer, Of, Protocol
from pipeline.references.tables import beside, published
from pipeline.references.trained import GEN_PPL, TEXT8, Trained, figures_of
from pipeline.zeroshot.comparable import NAMES, SETS, compare
from pipeline.zeroshot.detokenizers import DETOKENIZERS
from pipeline.zeroshot.page import render
from pipeline.zeroshot.protocols import PROTOCOLS

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
    assert tables[-1] == "small, protocol sedd: ≤ 40.71 ± 0.45; in no table: 8 of 264 blocks"
    assert len(beside({}).split("\n\n")) == len(published())


# Models that were trained on the papers' own text.

OF_TEXT8 = {
    "data": "ada/text8",
    "mode": "stream",
    "length": 256,
    "vocab_size": 27,
    "num_blocks": 19_531,
    "num_texts": 19_531,
    "bits_per_char": 1.4213,
    "stderr": 0.0012,
    "num_steps": 1024,
    "drawn_by": {"temperature": 1.0, "top_p": 1.0},
    "num_samples": 1024,
    "scorer": "gpt2-large",
    "scores": {
        "gen_ppl_mdlm": 104.2,
        "gen_ppl_mdlm_stderr": 1.3,
        "gen_ppl_sedd": 86.3,
        "gen_ppl_sedd_stderr": None,
        "entropy_per_sample": 5.61,
        "entropy_per_sample_stderr": 0.02,
        "entropy_per_sample_bits": 8.09,
        "entropy_per_sample_bits_stderr": 0.03,
    },
}
OF_WEB_TEXT = OF_TEXT8 | {"mode": "concat", "length": 1024, "vocab_size": 50_257}


def test_each_figure_of_a_run_has_a_table_of_as_many_columns():
    tables = {table.protocol: table for table in published()}
    for figure in figures_of(Trained(**OF_TEXT8)):
        assert len(tables[figure.protocol].sets) == len(figure.cells)


def test_a_run_stands_in_the_table_of_what_it_was_trained_on():
    text = beside({}, figures_of(Trained(**OF_TEXT8)))
    [mine] = [table for table in text.split("\n\n") if "ours, of ada/text8" in table]
    assert TEXT8 in mine
    assert mine.splitlines()[-1].split() == [
        *("ours,", "of", "ada/text8", "≤", "1.421", "±", "0.001", "this", "run")
    ]
    text = beside({}, figures_of(Trained(**OF_WEB_TEXT)))
    mine = [table.splitlines()[-1] for table in text.split("\n\n") if "ours, of" in table]
    assert [line.split()[3:-2] for line in mine] == [
        ["104.20", "±", "1.30", "5.61", "±", "0.02"],
        ["86.30", "8.09", "±", "0.03"],
    ]


@pytest.mark.parametrize(
    ("changes", "protocols", "said"),
    [
        ({"mode": "concat"}, [TEXT8], "pack.mode concat, the table's is stream"),
        ({"length": 128}, [TEXT8], "blocks of 128 tokens, the table's have 256"),
        ({"vocab_size": 30}, [TEXT8], "30 tokens, the table's are 27 characters"),
        ({"num_texts": 64}, [TEXT8], "64 of them bounded"),
        ({"num_steps": 128}, GEN_PPL, "128 steps, the table's 1,024"),
        ({"num_samples": 1_000}, ["gen_ppl_sedd"], "1,000 samples, the table's are 1,024"),
        ({"scorer": "gpt2"}, GEN_PPL, "scored by gpt2, the table's by gpt2-large"),
        ({"drawn_by": {"top_p": 0.9}}, GEN_PPL, "top_p 0.9, the table's 1"),
        ({"drawn_by": {"corrector": "cap"}}, GEN_PPL, "corrector cap, the table's none"),
    ],
)
def test_what_differs_of_a_run_is_said(changes, protocols, said):
    base = OF_TEXT8 if protocols == [TEXT8] else OF_WEB_TEXT
    found = {each.protocol: each.differs for each in figures_of(Trained(**base | changes))}
    names = [GEN_PPL[each][0] if each in GEN_PPL else each for each in protocols]
    for protocol, differs in found.items():
        if protocol in names:
            assert differs == [said]
        elif protocol != TEXT8 and TEXT8 not in names:
            assert differs == []


def test_a_perplexity_that_was_not_measured_says_why():
    scores = dict.fromkeys(OF_TEXT8["scores"], None)
    found = figures_of(Trained(**OF_WEB_TEXT | {"scores": scores}))[1]
    assert (found.cells, found.differs) == (
        ["not measured", "not measured"],
        ["it is of running text in GPT-2's tokens alone"],
    )
