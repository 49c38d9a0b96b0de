import pytest
from tiny_project import PROJECT

from pipeline.config.edits import edited
from pipeline.config.presets import changes

SHIPPED = (PROJECT / "params.yaml").read_text()


@pytest.fixture
def params(elsewhere, tmp_path, monkeypatch):
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_dry_run_says_what_it_takes_and_writes_nothing(sedd, params):
    result = sedd("preset", "owt-small", "--dry-run")
    assert result.exit_code == 0
    assert params.read_text() == SHIPPED
    lines = result.stdout.splitlines()
    assert "0605786" in lines[1]
    assert "sweep: [1, 4, 16, 64] -> [16, 32, 64, 256, 512, 1024]" in lines
    assert "data.files.test: test.parquet -> null" in lines
    assert "tokens: 681,574,400,000 in 1,300,000 steps of 512 blocks of 1024" in lines
    # 162.3 M of embeddings, blocks and head, and 7.3 M of what is told the noise.
    assert "parameters: 169,627,218" in lines
    assert any(line.startswith("memory of training on a GPU: 24.4 GB") for line in lines)
    assert lines[-2].startswith("next: name in data.repo an Oxen repository that holds *.parquet")
    assert lines[-1] == "next: `sedd pin` writes which gpt2-large is the scorer"


def test_there_and_back_with_comments(sedd, params):
    assert "45 values changed" in sedd("preset", "text8").stdout
    text8 = params.read_text()
    assert text8 == edited(SHIPPED, changes(SHIPPED, "text8"))
    assert "0 values changed" in sedd("preset", "text8").stdout
    assert params.read_text() == text8
    assert sedd("preset", "names").exit_code == 0
    assert params.read_text() == SHIPPED


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (SHIPPED, "sedd", "error: preset sedd: there is none; there are names, text8, lm1b, "),
        (f"{SHIPPED}\nextra: 1\n", "text8", "params.yaml: extra: Extra inputs are not permitted"),
        (SHIPPED.replace("  seed: 0\n", "", 1), "text8", "params.yaml: train.seed: Field required"),
        (
            edited(SHIPPED, {"sample.order": "margin"}).replace("order: margin", "order: margins"),
            "text8",
            "params.yaml: sample.order",
        ),
        (
            SHIPPED.replace("sweep: [1, 4, 16, 64]", "sweep:\n- 1 # one\n- 4"),
            "text8",
            "params.yaml with text8: line 8: a comment within a list is lost",
        ),
    ],
)
def test_what_is_refused_in_one_message(sedd, params, text, name, message):
    params.write_text(text)
    result = sedd("preset", name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert params.read_text() == text
