"""Packing by Ray: the bytes of one machine's, whoever dies, and what is said where none packs."""

import os
import shutil
import signal
import sys
import threading
import time
from functools import partial

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from tiny_project import PROJECT, write_params

from pipeline.data.byte_level import train_bpe_tokenizer
from pipeline.errors import Interrupted, PipelineError
from pipeline.scale import cluster
from stages import pack

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
NUM_GROUPS = 12


@pytest.fixture
def start(monkeypatch):
    """Starts a cluster of nodes of some CPUs each, all of them real raylets of this machine."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    started = []

    def nodes(*cpus, path=PROJECT):
        found = Cluster()
        started.append(found)
        where = {"PYTHONPATH": str(path)}
        return found, [found.add_node(num_cpus=num, env_vars=where) for num in cpus]

    yield nodes
    for each in started:
        each.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two files of several row groups, labelled, and one without a document, and a tokenizer."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    words = ["".join(letters) for letters in generator.choice(list("abcdefgé"), (500, 5))]
    data = folder / "data"
    data.mkdir()

    def texts(num, size):
        return [" ".join(generator.choice(words, generator.integers(size))) for _ in range(num)]

    def write(name, documents, rows):
        kinds = [None if not text else f"kind {len(text) % 3}" for text in documents]
        table = pa.table({"text": pa.array(documents, pa.string()), "kind": kinds})
        pq.write_table(table, data / f"{name}.parquet", row_group_size=rows)

    write("a", texts(NUM_GROUPS * 40, 1500), 40)
    write("b", [], 1)
    write("c", [*texts(90, 20), ""], 30)
    train_bpe_tokenizer(words, 300).save(folder / "tokenizer")
    return folder


def packed(corpus, folder, monkeypatch, **changes):
    """Files that the stage writes, by name."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    values = {
        "data.column": "text",
        "data.files": {"train": "*.parquet", "test": None},
        "data.holdout": 0.2,
        "pack": {"mode": "concat", "length": 128},
        "sample.num": 4,
    }
    write_params(folder, values | changes)
    pack.main(corpus / "data", corpus / "tokenizer", folder / "packed")
    return {path.name: path.read_bytes() for path in (folder / "packed").iterdir()}


def by_ray(address):
    return {"resources.pack": "ray", "resources.ray_address": address}


def busy_workers():
    """Processes of the clusters that this one started, which run a task now."""
    children = psutil.Process().children(recursive=True)
    return [each for each in children if each.name() == "ray::_run"]


LABELLED = {
    "pack": {"mode": "pad", "length": 8000},
    "data.labels": ["kind"],
    "data.files": {"train": "a.parquet", "test": "c.parquet"},
}


def test_bytes_are_those_of_threads(corpus, tmp_path, monkeypatch, capfd, start):
    nodes, _ = start(1, 1)
    for number, changes in enumerate(({}, {"pack": {"mode": "pad", "length": 8000}}, LABELLED)):
        local = packed(corpus, tmp_path / f"local-{number}", monkeypatch, **changes)
        said = capfd.readouterr()
        found = packed(
            corpus, tmp_path / f"ray-{number}", monkeypatch, **changes, **by_ray(nodes.address)
        )
        assert found == local
        assert capfd.readouterr() == said


@pytest.mark.parametrize("what", ["a worker", "a node"])
def test_what_dies_in_the_middle_is_made_up_for(corpus, tmp_path, monkeypatch, start, what):
    local = packed(corpus, tmp_path / "local", monkeypatch)
    # The first one, of the driver, computes nothing: both others are at work.
    nodes, (*_, last) = start(0, 1, 1)
    taken = []

    def pieces_of(found, *others):
        return real(killing(found), *others)

    def killing(found):
        for part in found:
            taken.append(part)
            if len(taken) == 3:
                if what == "a node":
                    nodes.remove_node(last, allow_graceful=False)
                else:
                    busy = busy_workers()
                    assert busy
                    for each in busy:
                        each.kill()
            yield part

    real = pack.pieces_of
    monkeypatch.setattr(pack, "pieces_of", pieces_of)
    assert packed(corpus, tmp_path / "ray", monkeypatch, **by_ray(nodes.address)) == local
    assert len(taken) == NUM_GROUPS + 1 + 4


def test_tasks_run_a_little_ahead(tmp_path, start):
    nodes, _ = start(1)
    taken = []

    class Items(list):
        def __iter__(self):
            for item in super().__iter__():
                taken.append(item)
                yield item

    with cluster.cluster(nodes.address) as in_order:
        for place, result in enumerate(in_order(partial(max, 3), Items(range(30)))):
            assert result == max(3, place)
            assert len(taken) <= place + 4


def test_a_signal_is_told(start):
    # No machine computes: what is asked for does not come.
    nodes, _ = start(0)

    def interrupted():
        with cluster.cluster(nodes.address) as in_order:
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
            list(in_order(abs, [1]))

    before = signal.signal(signal.SIGINT, lambda *_: sys.exit("error: interrupted"))
    try:
        with pytest.raises(Interrupted, match="interrupted"):
            interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_cluster_without_a_machine_that_computes_is_waited_for(start, capsys):
    nodes, _ = start(0)
    with cluster.cluster(nodes.address) as in_order:
        assert capsys.readouterr().err == (
            f"resources.pack: ray: no machine at {nodes.address} computes yet: waiting for one\n"
        )
        nodes.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(PROJECT)})
        assert list(in_order(abs, [-1, 2])) == [1, 2]


def test_a_mistake_in_the_data_is_one_message(corpus, tmp_path, monkeypatch, start):
    nodes, _ = start(1)
    with pytest.raises(SystemExit):
        packed(
            corpus,
            tmp_path / "ray",
            monkeypatch,
            pack={"mode": "pad", "length": 40},
            **by_ray(nodes.address),
        )
    assert not any((tmp_path / "ray/packed").iterdir())


def test_workers_without_the_project_or_with_another(tmp_path, monkeypatch, start):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    # Of a package an editable installation would find the rest.
    (tmp_path / "empty/pipeline.py").touch()
    shutil.copytree(PROJECT / "pipeline", tmp_path / "other/pipeline")

    def said(name):
        nodes, _ = start(1, path=tmp_path / name)
        with (
            pytest.raises(PipelineError) as caught,
            cluster.cluster(nodes.address) as in_order,
        ):
            list(in_order(abs, [1]))
        return str(caught.value)

    assert said("empty") == (
        "resources.pack: ray: a worker cannot import this project: each machine needs its folder, "
        f"{PROJECT}, and its environment"
    )
    place = tmp_path / "other"
    assert said("other").endswith(
        f"has this project in {place}, not in {PROJECT}: machines must share its folder"
    )


def test_an_address_where_no_ray_answers(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 4.0)
    monkeypatch.setenv("RAY_ADDRESS", "")
    started = time.monotonic()
    with pytest.raises(PipelineError) as caught, cluster.cluster("127.0.0.1:1"):
        pass
    assert str(caught.value) == (
        "resources.ray_address: no Ray answers within 4 s (got 127.0.0.1:1): start one with "
        "`ray start --head`"
    )
    assert time.monotonic() - started < 8


def test_ray_of_another_version(start):
    from ray.experimental import internal_kv

    nodes, _ = start(1)
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    about = internal_kv._internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster")
    changed = about.replace(ray.__version__.encode(), b"2.0.0")
    internal_kv._internal_kv_put(b"CLUSTER_METADATA", changed, namespace=b"cluster")
    ray.shutdown()
    with pytest.raises(PipelineError) as caught, cluster.cluster(nodes.address):
        pass
    said = str(caught.value)
    assert said.startswith("resources.ray_address: Version mismatch: ")
    assert "Ray: 2.0.0" in said
    assert f"Ray: {ray.__version__}" in said
    assert "\n" not in said
    assert os.environ.get("RAY_ADDRESS") is None
