import random
from collections import Counter

import pytest
import torch

from pipeline.checkpoints.checkpoint import load_checkpoint
from pipeline.cli.chosen import Chosen
from pipeline.cli.sampling import Sampling
from pipeline.cli.template import FREE, Gap, Template, _divide, parse_template
from pipeline.errors import DataError
from pipeline.methods.samplers import PLAIN, UNCONDITIONAL


def filled(sedd, folder, *arguments, num=4):
    result = sedd("infill", "--model", folder, "--steps", 4, "--num", num, "--seed", 3, *arguments)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == result.stdout.count("\n") == num
    return lines


@pytest.fixture(scope="module")
def says_b(make_model, tokenizer):
    return make_model(says=tokenizer.encode_known("b")[0])


@pytest.fixture(scope="module")
def says_eos(make_model, tokenizer):
    return make_model(says=tokenizer.eos_id)


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("A[3]n[?]", ["A", Gap(3), "n", Gap(None)]),
        ("[?]nn[0]", [Gap(None), "nn", Gap(0)]),
        ("plain]", ["plain]"]),
        ("a[[3]b", ["a[3]b"]),
        ("[[[2]", ["[", Gap(2)]),
        ("a\nb[1]", ["a\nb", Gap(1)]),
        ("", []),
    ],
)
def test_template_syntax(template, parts):
    assert parse_template(template) == parts


@pytest.mark.parametrize(
    "template", ["a[", "a[x]", "[-1]", "[]", "[ 3]", "[٣]", "[" + "9" * 5000 + "]"]
)
def test_template_syntax_errors(template):
    with pytest.raises(DataError, match="a gap is \\[3\\]"):
        parse_template(template)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--prefix", "ac"], "acbbbbbb"),
        (["--prefix", "ac", "--gap", 2], "acbb"),
        (["--prefix", "ac", "--gap", 0], "ac"),
        (["--suffix", "ac", "--gap", 2], "bbac"),
        (["--prefix", "a", "--suffix", "c", "--gap", 3], "abbbc"),
        (["--gap", 7], "bbbbbbb"),
        (["--template", "a[2]c[?]"], "abbcbbbb"),
        (["--template", "[1]a[2]c[1]"], "babbcb"),
        (["--template", "acde"], "acde"),
        (["--template", "[[[1]]"], "[b]"),
        (["--prefix", "a[c]"], "a[c]bbbb"),
        (["--prefix", "acdef", "--suffix", "ac"], "acdefac"),
    ],
)
def test_gaps_are_filled_and_nothing_else(sedd, elsewhere, says_b, arguments, text):
    assert filled(sedd, says_b, *arguments, num=2) == [text, text]


def test_open_end_stops_at_eos_and_closed_end_does_not(sedd, elsewhere, says_eos):
    assert filled(sedd, says_eos, "--prefix", "ab", num=1) == ["ab"]
    # What the model puts in a gap stays visible, and what follows the gap is there.
    gapped = filled(sedd, says_eos, "--prefix", "ab", "--gap", 1, "--suffix", "c", num=1)
    assert gapped == ["ab<eos>c"]


@pytest.mark.parametrize(
    ("variant", "predictor"),
    [
        *[
            (("absorb", "conditional"), name)
            for name in ("analytic", "euler", "cached", "first_hitting")
        ],
        *[
            ((graph, "raw"), name)
            for graph in ("absorb", "uniform")
            for name in ("analytic", "euler")
        ],
    ],
    ids=str,
)
def test_fixed_ids_are_exact(make_model, tokenizer, variant, predictor):
    sampling = Sampling(
        model=load_checkpoint(make_model(*variant), torch.device("cpu")),
        tokenizer=tokenizer,
        chosen=Chosen(3, predictor, 1.0, 1.0, PLAIN, UNCONDITIONAL, 0, None, "cpu", False),
        batch_size=5,
        text_lengths=None,
        mode="pad",
    )
    source = random.Random(0)
    template = Template(["a", Gap(None), "c", Gap(None), "d", Gap(1)], tokenizer, 8)
    layouts = [template.layout(source.choice([4, 5, 6, 7]), source) for _ in range(12)]
    assert len(set(layouts)) > 5
    for layout, ids in zip(layouts, sampling.fill(layouts), strict=True):
        assert len(ids) == 8
        for want, got in zip(layout.fixed, ids, strict=True):
            assert 0 <= got < tokenizer.size
            assert want in (FREE, got)
        assert ids[layout.end :] == [tokenizer.eos_id] + [tokenizer.pad_id] * (7 - layout.end)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--predictor", "euler", "--batch-size", 3],
        ["--predictor", "first_hitting", "--temperature", 0.5, "--top-p", 0.9],
        ["--corrector", "loop", "--eta", 0.5, "--hold", 0.3],
        ["--corrector", "conf", "--grid", "cosine"],
        ["--order", "entropy_bound", "--gamma", 1],
    ],
)
def test_pieces_stand_where_they_were_put(sedd, elsewhere, model, options):
    for line in filled(sedd, model, "--prefix", "ab", "--suffix", "cd", *options, num=4):
        assert line.startswith("ab")
        assert line.endswith("cd")
    for line in filled(sedd, model, "--prefix", "ab", *options, num=4):
        assert line.startswith("ab")
    for line in filled(sedd, model, "--template", "[?]ab[?]", *options, num=4):
        assert "ab" in line


def test_lengths_of_gaps_are_those_of_training_texts(sedd, elsewhere, make_model, tokenizer):
    counts = (50, 10, 0, 30, 20, 0, 0, 40)
    folder = make_model(says=tokenizer.encode("b")[0], text_lengths=counts)
    lines = filled(sedd, folder, "--suffix", "a", num=2000)
    lengths = Counter(map(len, lines))
    assert set(lengths) == {1, 3, 4, 7}
    for length, drawn in lengths.items():
        chance = counts[length] / 100
        assert abs(drawn / 2000 - chance) < 4.5 * (chance * (1 - chance) / 2000) ** 0.5


def test_seed_decides(sedd, elsewhere, model):
    options = (model, "--template", "a[?]b[?]c")
    assert filled(sedd, *options, num=6) == filled(sedd, *options, num=6)
    assert filled(sedd, *options, num=6) != filled(sedd, *options, "--seed", 4, num=6)


def test_intermediate_states_keep_the_pieces(sedd, elsewhere, model):
    result = sedd(
        *("infill", "--model", model, "--prefix", "ab", "--suffix", "c", "--steps", 4),
        *("--num", 3, "--show-intermediate", "--seed", 1),
    )
    states = [line.split("\t") for line in result.stderr.splitlines() if "\t" in line]
    assert {index for index, *_ in states} == {"0", "1", "2"}
    for index, line in enumerate(result.stdout.splitlines()):
        own = [state for number, _, _, state in states if int(number) == index]
        assert all(state.startswith("ab") and "c⏎" in state for state in own)
        assert "░" not in own[-1]
        assert line.startswith("ab")


def test_uniform_graph_is_told_of(sedd, elsewhere, make_model):
    folder = make_model("uniform", "raw")
    result = sedd("infill", "--model", folder, "--prefix", "ab", "--steps", 2)
    assert "this is no conditioning" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prefix", "abcdefgh"],
        ["--prefix", "abcdef", "--suffix", "gh"],
        ["--prefix", "abc", "--gap", 5],
        ["--template", "a[3]b[3]"],
        ["--template", "[?]abcdefgh[?]"],
        ["--gap", 10**8],
    ],
)
def test_longer_than_the_block(refusal, elsewhere, model, arguments):
    message = refusal("infill", "--model", model, "--steps", 2, *arguments)
    assert "a block of this model holds at most 7" in message


def test_unknown_characters(refusal, elsewhere, model):
    message = refusal("infill", "--model", model, "--steps", 2, "--prefix", "aé", "--suffix", "ß")
    assert "does not know 'é'" in message


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--gap", -1],
        ["--template", "a[2]", "--prefix", "a"],
        ["--template", "a[2]", "--gap", 2],
        ["--template", "a[b]"],
    ],
)
def test_what_is_given_must_make_sense(refusal, elsewhere, model, arguments):
    refusal("infill", "--model", model, "--steps", 2, *arguments)


@pytest.mark.parametrize(
    ("text_lengths", "message"),
    [
        ((0, 5, 5, 0, 0, 0, 0, 0), "no training text has the 3 tokens"),
        (None, "windows that say nothing of how long its texts were"),
    ],
)
def test_no_length_for_a_gap(refusal, elsewhere, make_model, text_lengths, message):
    folder = make_model(text_lengths=text_lengths)
    said = refusal("infill", "--model", folder, "--steps", 2, "--prefix", "a", "--suffix", "cd")
    assert message in said
    assert "--gap N" in said


def test_a_window_of_running_text_goes_on_after_the_end_of_a_template(tokenizer):
    template = Template(["ab", Gap(1)], tokenizer, 8, "concat")
    layout = template.layout(template.num_tokens, random.Random(0))
    ids = tokenizer.encode("ab")
    assert layout.fixed == (*ids, FREE, tokenizer.eos_id, FREE, FREE, FREE, FREE)


def test_of_running_text_the_template_is_printed(sedd, elsewhere, make_model, tokenizer):
    folder = make_model(says=tokenizer.encode("c")[0], text_lengths=None)
    assert filled(sedd, folder, "--prefix", "ab", "--gap", 1, num=1) == ["abc"]


def test_all_divisions_are_equally_likely():
    source = random.Random(0)
    counts = Counter(tuple(_divide(4, 3, source)) for _ in range(15_000))
    assert all(sum(sizes) == 4 and min(sizes) >= 0 for sizes in counts)
    # 15 divisions of 4 into 3, each with 1,000 of 15,000 expected, standard deviation 31.
    assert len(counts) == 15
    assert all(abs(count - 1000) < 155 for count in counts.values())
    assert _divide(3, 1, source) == [3]
    assert _divide(0, 2, source) == [0, 0]
    assert _divide(0, 0, source) == []
