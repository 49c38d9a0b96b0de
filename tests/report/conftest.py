import shutil
from pathlib import Path

import pytest
from report_files import read, write_experiment

from pipeline.report.experiment import Experiment
from pipeline.report.page import render


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts/ and reports/ of an experiment, for reading only."""
    folder = tmp_path_factory.mktemp("experiment")
    write_experiment(folder)
    return folder


@pytest.fixture
def files(written: Path, tmp_path: Path) -> Path:
    """The same, for a test of its own to change."""
    return Path(shutil.copytree(written, tmp_path / "experiment"))


@pytest.fixture(scope="session")
def experiment(written: Path) -> Experiment:
    return read(written)


@pytest.fixture(scope="session")
def html(experiment: Experiment) -> str:
    return render(experiment, steps=64, num_samples=8)
