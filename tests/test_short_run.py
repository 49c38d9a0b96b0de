"""The losses of a short run are those that tests/golden/short_run.json keeps."""

import json

import pytest
from short_run import KEPT, losses, run


@pytest.fixture
def kept():
    return json.loads(KEPT.read_text())["runs"]["conditional"]


def test_a_short_training_ends_where_it_did(tmp_path, kept):
    run(tmp_path, {}, last="train")
    assert losses(tmp_path) == pytest.approx(kept["losses"], rel=1e-3)
