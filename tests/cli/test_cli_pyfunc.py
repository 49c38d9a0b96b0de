"""What a logged model predicts: what `sedd infill` prints."""

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from tiny_project import shipped_params

from pipeline.cli.model import one_line
from pipeline.cli.pyfunc import Infilling
from pipeline.config.params import params_of
from pipeline.tracking.logged_model import checkpoint_at


def predicted(folder, templates, **options):
    defaults = checkpoint_at(folder, params_of(shipped_params(), "params.yaml")).defaults
    frame = pd.DataFrame({"template": templates}, index=range(5, 5 + len(templates)))
    found = Infilling(folder).predict(frame, defaults | {"steps": 4, "seed": 3} | options)
    assert list(found.columns) == ["text"]
    assert list(found.index) == list(frame.index)
    return list(found["text"])


def escaped(texts):
    """As a terminal shows them."""
    return [one_line(text) for text in texts]


def printed(sedd, folder, template, num, *options):
    steps = ("--steps", 4, "--seed", 3, "--num", num)
    result = sedd("infill", "--model", folder, "--template", template, *steps, *options)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize("method", ["conditional", "raw", "embedding"])
def test_rows_are_what_infill_prints(sedd, elsewhere, make_model, make_embedding, method):
    folder = make_embedding() if method == "embedding" else make_model(parameterization=method)
    gapped = printed(sedd, folder, "a[2]c[?]", 3)
    assert len(set(gapped)) > 1
    between = printed(sedd, folder, "[?]bc", 2)
    templates = ["a[2]c[?]", "[?]bc", "a[2]c[?]", "a[2]c[?]", "[?]bc"]
    assert escaped(predicted(folder, templates)) == [
        *(gapped[0], between[0], gapped[1], gapped[2], between[1])
    ]


def test_options_are_those_of_infill(sedd, elsewhere, model):
    options = {"predictor": "first_hitting", "temperature": 0.5, "top_p": 0.9}
    typed = ("--predictor", "first_hitting", "--temperature", 0.5, "--top-p", 0.9)
    found = escaped(predicted(model, ["a[?]"] * 4, **options))
    assert found == printed(sedd, model, "a[?]", 4, *typed)
    assert found != escaped(predicted(model, ["a[?]"] * 4))


def test_by_default_models_are_sampled_as_the_experiment_was(tmp_path, model):
    changes = {"temperature": 0.5, "order": "margin"}
    values = shipped_params() | {"steps": 7}
    values["sample"] |= changes
    found = checkpoint_at(model, params_of(values, "params.yaml")).defaults
    assert {key: found[key] for key in ("steps", *changes)} == {"steps": 7, **changes}


def test_without_a_seed_texts_are_new(elsewhere, model):
    found = {tuple(predicted(model, ["[?]"] * 8, seed=None)) for _ in range(3)}
    assert len(found) > 1


def test_text_is_as_it_is(elsewhere, model):
    assert predicted(model, ["a\n\\b"]) == ["a\n\\b"]


def test_what_cannot_condition_is_refused_but_for_templates_that_give_nothing(
    sedd, elsewhere, make_model
):
    folder = make_model("uniform", "raw")
    assert escaped(predicted(folder, ["[?]"] * 2)) == printed(sedd, folder, "[?]", 2)
    with pytest.raises(MlflowException, match="uniform graph: this is no conditioning"):
        predicted(folder, ["[?]", "a[?]"])


@pytest.mark.parametrize(
    ("templates", "options", "message"),
    [
        (["a", "b[x]"], {}, r"--template 'b\[x\]': a gap is \[3\] for three tokens"),
        (["aé[?]"], {}, "does not know 'é'"),
        (["abcdefghi"], {}, "a block of this model holds at most 7"),
        (["a", None], {}, r"a row's template must be a text \(got (nan|None)\)"),
        (["a"], {"steps": 0}, r"--steps must be from 1 to 1000000 \(got 0\)"),
        (["a"], {"predictor": "ddim"}, r"predictor must be auto, .* \(got ddim\)"),
        (["a"], {"predictor": "\x1b[2J"}, r"\(got \\x1b\[2J\)"),
        (["a"], {"grid": "x"}, r"grid must be uniform or cosine .* \(got x\)"),
    ],
)
def test_what_is_wrong_is_one_message(elsewhere, model, templates, options, message):
    with pytest.raises(MlflowException, match=message) as caught:
        predicted(model, templates, **options)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert "\n" not in caught.value.message
