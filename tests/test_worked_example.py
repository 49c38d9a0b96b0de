"""The worked example of docs/oxen.md, as it stands there, with a real server."""

import json
import re
import shutil

import pytest
from tiny_clone import ALL, make_clone, ran, run, runs
from tiny_project import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
PUBLISHING = {"fetch", "report", "track", "publish"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example uses curl")
def test_the_worked_example(own_oxen_server, tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", (PROJECT / "docs/oxen.md").read_text(), re.DOTALL)
    clone = make_clone(tmp_path / "project", {})
    environment = {"OXEN": own_oxen_server.host, "OXEN_CONFIG_DIR": str(tmp_path / "oxen")}
    (tmp_path / "oxen").mkdir()
    said = [run(clone, "sh", "-ec", block, **environment) for block in blocks]
    for block, output in zip(blocks, said, strict=True):
        print(f"{block}---\n{output}")  # what the reader of a failure wants to see

    _, pinning, running, moving, second, compared, shown = said
    head = re.search(r"^pinned (\w+), ", pinning, re.MULTILINE)[1]
    assert re.search(rf"^\+  revision: {head} +#", pinning, re.MULTILINE)
    assert ran(running) == ALL
    unmoved, moved = moving.split("added    note.md")
    assert ran(unmoved) == set()
    assert "no file of data.files changes" in moved
    assert ran(moved) == PUBLISHING
    assert {"report", "track", "publish"} <= ran(second)
    assert "train" not in ran(second)
    # One of each data commit, and the second experiment.
    assert len(runs(clone)) == 3
    assert len(re.findall(r"^\w{12} \w+ [\d.]+ [\d.]+$", compared, re.MULTILINE)) == 3
    assert json.loads(shown)["data_frame"]["view"]["size"]["height"] == 2
    snapshots = sorted(path.name for path in (tmp_path / "samples/snapshots").glob("*/*"))
    assert snapshots == ["20.parquet", "40.parquet"]
