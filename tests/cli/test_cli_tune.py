import re
from types import MappingProxyType

import pytest
import torch
import yaml
from tiny_project import PROJECT, TINY, write_params
from torch._dynamo.exc import BackendCompilerFailed

from pipeline.cli import trials, tune
from pipeline.cli.trials import Choice, Job, Turn, memory_rise, pieces_that_fit, take_turn
from pipeline.config.edits import edit_yaml, edited
from pipeline.config.params import load_params
from pipeline.data.packed import Packed
from pipeline.device import why_not_compiled
from pipeline.kernels import gradient_memory
from pipeline.training.gradient import accumulate_gradient

FEW = ["--rounds", 1, "--steps", 1]


@pytest.fixture
def uncompiled(monkeypatch):
    """No C++ compiler: compiling takes longer than everything else here."""
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.fixture
def job(tiny):
    return Job(load_params(), Packed.open(tune.PACKED), torch.device("cpu"))


@pytest.fixture
def losses(monkeypatch):
    """Every step's mean loss, as training computes it."""
    noted = []

    def accumulate(*arguments, **how):
        total = accumulate_gradient(*arguments, **how)
        noted.append(total.item())
        return total

    monkeypatch.setattr("pipeline.training.loop.accumulate_gradient", accumulate)
    return noted


@pytest.fixture
def paced(monkeypatch):
    """Turns that take what the test says, instead of training; the choices that had one."""

    def pace(seconds, fails=MappingProxyType({})):
        asked = []

        def turn(job, choice, num_steps, num_rows=None):
            if choice in fails:
                raise fails[choice]
            asked.append(choice)
            taken = seconds(choice) if callable(seconds) else seconds.get(choice, 9.0)
            return Turn(0.0, taken, 10_000_000, 1_000_000)

        monkeypatch.setattr(trials, "take_turn", turn)
        monkeypatch.setattr("pipeline.device.why_not_compiled", lambda device: None)
        return asked

    return pace


def values(folder):
    train = yaml.safe_load((folder / "params.yaml").read_text())["train"]
    return train["precision"], train["compile"], train["accumulate"]


@pytest.mark.slow
def test_trials_are_shown(sedd, tiny, uncompiled):
    before = (tiny / "params.yaml").read_bytes()
    result = sedd("tune", "--dry-run", *FEW)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("cpu (1 threads), torch ")
    assert lines[0].endswith(": steps of 16 blocks of 16 tokens")
    assert "compilation is not tried: there is no compiler (no-such-compiler) in PATH" in lines
    table = [line.split() for line in lines if re.match(r"(float32|bfloat16) +(true|false)", line)]
    assert {tuple(row[:3]) for row in table} >= {
        (precision, "false", "1") for precision in ("float32", "bfloat16")
    }
    assert {row[2] for row in table} == {"1", "2", "4"}
    assert sum("<- best" in line for line in lines) == 1
    assert "tune: " in result.stderr
    assert (tiny / "params.yaml").read_bytes() == before


def test_the_fastest_is_written_and_all_else_stays(sedd, tiny, paced):
    text = edited((PROJECT / "params.yaml").read_text(), TINY)
    (tiny / "params.yaml").write_text(text)
    best = Choice("bfloat16", True, 2)
    paced({Choice("bfloat16", True, 1): 2.0, best: 1.0})
    result = sedd("tune", *FEW)
    assert result.exit_code == 0, result.output
    lines = zip(text.splitlines(), (tiny / "params.yaml").read_text().splitlines(), strict=True)
    moved = [(old, new) for old, new in lines if old != new]
    assert [new.split("#")[0].strip() for _, new in moved] == [
        "accumulate: 2",
        "precision: bfloat16",
        "compile: true",
    ]
    assert [old.split("#")[1] for old, _ in moved] == [new.split("#")[1] for _, new in moved]
    assert (
        "params.yaml changed: train.precision: bfloat16, train.compile: true, train.accumulate: 2\n"
        "this changes the arithmetic: the next `dvc repro` trains anew\n"
    ) in result.stdout


def test_a_dry_run_says_what_would_change(sedd, tiny, paced):
    paced({Choice("bfloat16", False, 1): 1.0})
    result = sedd("tune", "--dry-run", *FEW)
    assert "params.yaml would change: train.precision: bfloat16\n" in result.stdout
    assert values(tiny) == ("auto", False, 1)


def test_what_is_hardly_faster_changes_nothing(sedd, tiny, paced):
    paced({Choice("float32", False, 1): 1.0, Choice("bfloat16", False, 1): 0.98})
    assert "params.yaml stays" in sedd("tune", *FEW).stdout
    assert values(tiny) == ("auto", False, 1)


def test_what_is_not_faster_in_every_round_changes_nothing(sedd, tiny, paced):
    narrow = iter([1.0, 1.0, 1.0, 1.0, 1.3, 1.0])

    def seconds(choice):
        if choice == Choice("bfloat16", False, 1):
            return next(narrow)
        return 1.2 if choice == Choice("float32", False, 1) else 9.0

    paced(seconds)
    sedd("tune", "--rounds", 3, "--steps", 1)
    assert values(tiny) == ("auto", False, 1)


def test_a_long_first_step_counts(sedd, tiny, paced, monkeypatch):
    paced({Choice("float32", True, 1): 1.0, Choice("float32", False, 1): 1.1})
    plain = trials.take_turn
    monkeypatch.setattr(
        trials,
        "take_turn",
        lambda job, choice, *rest: Turn(
            1e3 * choice.compile, plain(job, choice, *rest).seconds, 1, 1
        ),
    )
    assert "params.yaml stays" in sedd("tune", *FEW).stdout


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError(), "out of memory"),
        (BackendCompilerFailed(len, ValueError("no"), None), "does not compile: backend='len'"),
    ],
)
def test_what_cannot_run_is_left_out(sedd, tiny, paced, error, reason):
    fast = Choice("bfloat16", True, 1)
    paced({fast: 1.0, Choice("float32", True, 1): 2.0}, fails={fast: error})
    result = sedd("tune", *FEW)
    assert f"{fast}: {reason}" in result.stderr
    assert values(tiny) == ("auto", True, 1)


def test_turns_alternate(job, paced):
    asked = paced({})
    choices = [Choice("float32", False, pieces) for pieces in (1, 2, 4)]
    assert [choice for choice, _ in trials.take_turns(job, choices, 3, 1)] == asked
    assert asked == [*choices, *choices[::-1], *choices]


def last_words(result):
    """The message of a command that failed after it had begun to show what it does."""
    assert result.exit_code == 1
    return result.stderr.splitlines()[-1].removeprefix("error: ")


def test_an_interrupt_leaves_the_file(sedd, tiny, paced):
    before = (tiny / "params.yaml").read_bytes()

    def interrupted(choice):
        raise KeyboardInterrupt

    paced(interrupted)
    assert last_words(sedd("tune", *FEW)) == "interrupted"
    assert (tiny / "params.yaml").read_bytes() == before


def test_every_choice_starts_from_the_same_weights_and_noise(job, losses):
    for pieces in (1, 1, 4):
        take_turn(job, Choice("float32", False, pieces), 3)
    assert losses[:5] == losses[5:10]
    assert losses[:5] == pytest.approx(losses[10:], rel=1e-5)


def test_losses_are_those_of_training(job, losses, tmp_path):
    from pipeline.data.tokenizer import TextTokenizer
    from pipeline.training.run import train
    from pipeline.training.state import training_state

    with training_state("train", {}) as state:
        tokenizer = TextTokenizer.load(tmp_path / "artifacts/tokenizer")
        train(job.params, job.packed, tokenizer, state, lambda row: None)
    trained = losses[:5]
    losses.clear()
    take_turn(job, Choice("float32", False, 1), 3)
    assert losses == trained


def test_gradients_count_in_the_memory_of_a_step(job, monkeypatch):
    left = []

    def noted(device):
        left.extend(memory for memory in gradient_memory._left.values() if memory is not None)
        return memory_rise(device)

    monkeypatch.setattr(trials, "memory_rise", noted)
    take_turn(job, Choice("float32", False, 1), 0)
    assert not left


def test_pieces_grow_until_memory_ends(job, monkeypatch):
    def turn(job, choice, num_steps, num_rows):
        if num_rows > 4:
            raise torch.OutOfMemoryError
        return Turn(0.0, 0.0, 0, 0)

    monkeypatch.setattr(trials, "take_turn", turn)
    assert pieces_that_fit(job, "float32") == [4, 8, 16]


def test_on_a_cpu_a_piece_is_tried_only_if_it_will_fit(job, monkeypatch):
    tried = []

    def turn(job, choice, num_steps, num_rows):
        tried.append(num_rows)
        return Turn(0.0, 0.0, 100, 10 * num_rows)

    class Memory:
        available = 190

    monkeypatch.setattr(trials, "take_turn", turn)
    monkeypatch.setattr(trials.psutil, "virtual_memory", Memory)
    assert pieces_that_fit(job, "float32") == [4, 8, 16]
    assert tried == [1, 2, 4]


def test_not_even_a_row_fits(sedd, tiny, monkeypatch):
    def turn(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(trials, "take_turn", turn)
    assert "train.activation_checkpointing" in last_words(sedd("tune"))


def test_memory_is_what_is_taken_meanwhile():
    with memory_rise(torch.device("cpu")) as rise:
        torch.ones(25_000_000).add_(1)
    assert 90e6 < rise.bytes < 160e6
    with memory_rise(torch.device("cpu")) as rise:
        pass
    assert rise.bytes < 20e6


def test_without_packed_data(refusal, project):
    assert "run `dvc repro pack` first" in refusal("tune")


def test_blocks_of_another_length(refusal, tiny):
    edit_yaml(tiny / "params.yaml", {"pack.length": 32})
    assert "hold 16 tokens, and pack.length is 32: run `dvc repro pack`" in refusal("tune")


def test_nothing_to_train(refusal, tiny):
    write_params(tiny, TINY | {"train.num_steps": 0, "train.init": "weights"})
    assert "train.num_steps is 0" in refusal("tune")


@pytest.mark.parametrize("option", ["--rounds", "--steps"])
def test_options_are_checked(refusal, tiny, option):
    assert f"{option} must be at least 1 (got 0)" in refusal("tune", option, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch warns of itself where it brings in its compiler
def test_blocks_compile(job, losses):
    if reason := why_not_compiled(job.device):
        pytest.skip(reason)
    turns = [take_turn(job, Choice("float32", compiled, 1), 2) for compiled in (False, True)]
    assert losses[4:] == pytest.approx(losses[:4], rel=1e-4)
    assert turns[1].first > turns[0].first


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
def test_trials_on_a_gpu(sedd, tiny):
    result = sedd("tune", "--dry-run", "--device", "cuda", *FEW)
    assert result.exit_code == 0, result.output
    assert torch.cuda.get_device_name() in result.stdout
    assert re.search(r"^bfloat16 .* MB ", result.stdout, re.MULTILINE)
