import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML, YAMLError

from pipeline.config.strict_yaml import MOST_BYTES, parse, read_text
from pipeline.errors import PipelineError

# What numbers, bools, dates and nulls are made of.
LETTERS = st.text("0123456789+-_.:eExXoObBtrufalsynNIA~", min_size=1, max_size=12)
WORDS = st.sampled_from(["on", "Off", "yes", "NO", "y", "N", "True", "nULL", "~", "null", "tRUE"])
examples = settings(max_examples=150)
ANY = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=12)


@examples
@given(st.from_regex(r"[-+]?(0[xob]?)?[0-9_]+(\.[0-9_]*)?([eE][-+]?[0-9]+)?", fullmatch=True))
@example("010")
@example("-0o17")
@example("0x_")
@example("1_000")
@example("._")
@example("+.inf")
@example("1:30.5")
@example("2024-01-02")
@example("2024-13-45")
@example("<<")
@example("=")
def test_a_number_is_what_dvc_reads_or_refused(written):
    same_or_refused(f"a: {written}\n")


@examples
@given(
    LETTERS
    | ANY
    | st.sampled_from(
        ["on", "Off", "yes", "NO", "y", "N", "True", "nULL", "~", "null", "TRUE", "tRUE"]
    )
)
def test_a_plain_value_is_what_dvc_reads_or_refused(written):
    same_or_refused(f"a: {written}\n")
    same_or_refused(f"a: [{written}, {{b: {written}}}]\n")


@examples
@given(st.text("ab01:-?[]{},#&*!|>%@'\" \n\t", max_size=30))
def test_a_document_is_what_dvc_reads_or_refused(text):
    same_or_refused(text)


def same_or_refused(text):
    try:
        here = parse(text)
    except PipelineError:
        return
    assert repr(here) == repr(YAML(typ="safe").load(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb:\n  c: 2\n  c: 3\n", "line 4: b: c: it is there twice"),
        ("a: 1\nb: {c: &x 2}\n", "line 2: b.c: & and * are not read here"),
        ("a: {<<: {b: 1}}\n", "line 1: a: << has no one meaning"),
        ("a:\n- 1\n- !!int '2'\n", "line 3: a.1: a tag is not read here"),
        ("a: ! 2\n", "line 1: a: a tag is not read here"),
        ("a: 2024-01-02\n", "line 1: a: 2024-01-02 has no one meaning: write it in quotes"),
        ("a: [b:c]\n", "line 1: a.0: b:c has no one meaning: write it in quotes"),
        ("a: 0x_\n", "line 1: a: 0x_ has no one meaning: write it in quotes"),
        (f"a: {'9' * 5000}\n", "has no one meaning"),
        ("1: a\n", "line 1: a key must be text"),
        ("? [a]\n: b\n", "line 1: a key must be text"),
        ("%YAML 1.1\n---\na: on\n", "a line that begins with % is not read here"),
        ("a: 1\n--- b\n", "not valid YAML: "),
        ("a: [1\n", "not valid YAML: "),
        ("a: \x00\n", "not valid YAML: "),
        ('a: "\\ud800"\n', "not valid YAML: "),
        ("[" * 100, "more than 20 levels"),
        ("[" * 100_000, "not valid YAML: "),
        ("{a: " * 100_000, "more than 20 levels"),
        ("".join(f"{' ' * n}a:\n" for n in range(300)), "line 20: a.a.a."),
        ("- " * 100_000, "more than 20 levels"),
    ],
)
def test_what_is_refused(text, said):
    with pytest.raises(PipelineError, match=re.escape(said)) as error:
        parse(text)
    assert len(str(error.value)) < 300


def test_what_dvc_refuses_is_refused():
    for text in ("a: 1\na: 1\n", "a: [1\n", "a: 0x_\n", "a: 1\n--- b\n"):
        with pytest.raises((YAMLError, ValueError)):
            YAML(typ="safe").load(text)
        with pytest.raises(PipelineError):
            parse(text)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n"])
def test_a_file_of_nothing_holds_nothing(text):
    assert parse(text) is None


def test_a_file_is_bounded_and_utf_8(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"#" * MOST_BYTES)
    assert parse(read_text(path)) is None
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(PipelineError, match="larger than 1,048,576 bytes"):
        read_text(path)
    path.write_bytes("a: 1".encode("utf-16"))
    with pytest.raises(PipelineError, match="no UTF-8"):
        read_text(path)
    with pytest.raises(PipelineError, match="cannot be read: Is a directory"):
        read_text(tmp_path)
