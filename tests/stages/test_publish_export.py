"""`publish.huggingface`: the publish stage also writes the model for transformers."""

import shutil
from pathlib import Path

import pytest
import yaml
from hub_server import TOKEN, receiving
from test_stage_publish import write_experiment
from toy import toy_config

from pipeline.checkpoints.checkpoint import save_checkpoint
from pipeline.config.params import load_params
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import ParamsError
from pipeline.methods.sedd.model import SEDD
from stages.publish import main

FIGURES = dict.fromkeys(("gen_ppl", "gen_ppl_stderr", "entropy", "well_formed", "nfe"), 1.5)
LIKELIHOOD = ("bound_nats_per_char", "bound_stderr", "baseline_nats_per_char", "baseline_stderr")
RESULTS = {
    "likelihood": dict.fromkeys(LIKELIHOOD, 2.25),
    "by_steps": {"2": FIGURES},
    "real_text": FIGURES,
}


def change(**publish: object) -> None:
    path = Path("params.yaml")
    values = yaml.safe_load(path.read_text())
    values["publish"] |= publish
    path.write_text(yaml.safe_dump(values))


@pytest.fixture(autouse=True)
def project(empty_project):
    write_experiment(empty_project, **RESULTS)
    tokenizer = train_char_tokenizer(["Ada"])
    tokenizer.save(empty_project / "tokenizer")
    noise = {"eps": 1e-3, "t_min": 1e-3, "sigma_min": None, "sigma_max": None}
    sizes = {"vocab_size": tokenizer.size, "length": 4}
    config = toy_config("absorb", "conditional", scale_by_sigma=True, **sizes, **noise)
    save_checkpoint(
        empty_project / "artifacts/checkpoint",
        SEDD(config),
        tokenizer=empty_project / "tokenizer",
        tokenizer_sha256=tokenizer.sha256,
    )
    return empty_project


def publish() -> None:
    main(Path("artifacts"), Path("reports"))


def test_a_folder_and_the_same_beside_the_samples(project):
    change(huggingface="./models/names", license="mit", checkpoint=True)
    publish()
    folder = project / "models/names"
    assert "at most 2.250 ± 2.250" in (folder / "README.md").read_text()
    assert "# names\n" in (folder / "README.md").read_text()
    (published,) = (project / "published/huggingface").iterdir()
    assert {path.name for path in published.iterdir()} == {path.name for path in folder.iterdir()}
    for path in folder.iterdir():
        assert (published / path.name).read_bytes() == path.read_bytes()
    # Once more, over the earlier one; and where something else is, nothing is written.
    publish()
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(SystemExit):
        publish()
    assert [path.name for path in folder.iterdir()] == ["mine"]


# Of the hub's client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def to_hub(monkeypatch):
    """Publishing to the hub that answers at an address."""

    def sent(endpoint: str) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        change(huggingface="org/names", license="mit", checkpoint=True)
        publish()

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return sent


def test_the_hub_gets_what_oxen_has(project, to_hub, capsys):
    with receiving(project / "sent") as (endpoint, made):
        to_hub(endpoint)
    assert f"sent the model to {endpoint}/org/names\n" in capsys.readouterr().out
    assert made == ["org/names"]
    sent = {path.name: path.read_bytes() for path in (project / "sent").iterdir()}
    (published,) = (project / "published/huggingface").iterdir()
    assert sent == {path.name: path.read_bytes() for path in published.iterdir()}


@pytest.mark.slow  # Its client tries again, with waits.
def test_a_hub_that_ends_in_the_middle_or_is_gone(project, to_hub, capsys):
    with receiving(project / "sent", drops=True) as (endpoint, _):
        for _ in range(2):
            with pytest.raises(SystemExit) as ended:
                to_hub(endpoint)
            assert ended.value.code == 1
            said = capsys.readouterr().err
            assert "error: publish.huggingface: org/names cannot be sent to the hub (" in said
            assert len(list((project / "published/huggingface").iterdir())) == 1
            endpoint = "http://127.0.0.1:9"


def test_by_default_there_is_none(project):
    publish()
    assert not (project / "published/huggingface").exists()


@pytest.mark.parametrize(
    ("publish", "said"),
    [
        ({"huggingface": "names", "license": "mit"}, "publish.huggingface: must be null, a folder"),
        ({"huggingface": "./names"}, "license must be given with huggingface"),
        ({"license": "My own"}, "publish.license: must be a licence as the hub spells it"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(publish, said):
    change(**publish)
    with pytest.raises(ParamsError) as caught:
        load_params()
    assert said in str(caught.value)


def test_embedding_diffusion_has_no_export():
    values = yaml.safe_load(Path("params.yaml").read_text()) | {"method": "embedding"}
    values["publish"] |= {"huggingface": "./names", "license": "mit"}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ParamsError, match="must be null with method embedding"):
        load_params()
