import itertools
import multiprocessing
import os
import random
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from regression import BLOCKS, Regression
from torch import nn
from toy import SETTINGS

from pipeline.errors import BusyError, CheckpointError, PipelineError, reported
from pipeline.scale.seeds import step_seed
from pipeline.training.ema import Ema
from pipeline.training.gradient import gradient_norm
from pipeline.training.loop import Trainer, Watch, fit
from pipeline.training.schedule import Order, learning_rate
from pipeline.training.state import TrainingState, training_state

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for the end of the process."""


def train(state, settings=SETTINGS, blocks=BLOCKS, method=None, evaluate=None, sample_every=15):
    method = method or Regression()
    fit(
        method,
        blocks,
        settings,
        Watch(evaluate or (lambda: 1.0), lambda step: {"texts": [f"text {step}"]}, sample_every),
        device=CPU,
        state=state,
        desc="test",
    )
    return method, state


def test_a_run_interrupted_anywhere_ends_like_an_uninterrupted_one(tmp_path):
    whole, logged = train(TrainingState(tmp_path / "whole"))
    for after in (1, 4, 5, 11, 29):
        state = TrainingState(tmp_path / str(after))
        calls = 0

        class Dying(Regression):
            def draw(self, x0, generator, after=after):
                nonlocal calls
                calls += 1
                if calls > after:
                    raise Killed
                return super().draw(x0, generator)

        with pytest.raises(Killed):
            train(state, method=Dying())
        resumed, _ = train(state)
        assert list(state.losses) == list(logged.losses)
        assert list(state.snapshots) == list(logged.snapshots)
        for name, value in resumed.module.state_dict().items():
            assert torch.equal(value, whole.module.state_dict()[name]), (after, name)


def test_a_resumed_run_does_not_repeat_what_was_saved(tmp_path):
    state = TrainingState(tmp_path)
    train(state)
    seen = []

    class Counting(Regression):
        def draw(self, x0, generator):
            seen.append(1)
            return super().draw(x0, generator)

    train(state, method=Counting())
    assert not seen


def test_what_is_logged(tmp_path):
    _, logged = train(TrainingState(tmp_path))
    assert [row["step"] for row in logged.losses] == [7, 10, 14, 15, 20, 21, 28, 30]
    evaluated = [row["step"] for row in logged.losses if row["eval_loss"] is not None]
    assert evaluated == [10, 15, 20, 30]
    assert [row["step"] for row in logged.snapshots] == [15, 30]
    assert [*logged.snapshots][1]["texts"] == ["text 30"]


def test_training_learns(tmp_path):
    _, logged = train(TrainingState(tmp_path))
    first, *_, last = logged.losses
    assert last["train_loss"] < 0.5 * first["train_loss"]


def test_the_module_holds_the_averages_in_evaluations_and_at_the_end(tmp_path):
    method = Regression()
    seen = []
    plain = [p.detach().clone() for p in method.module.parameters()]

    def evaluate():
        assert not method.module.training
        seen.append([p.detach().clone() for p in method.module.parameters()])
        return 0.0

    train(TrainingState(tmp_path), method=method, evaluate=evaluate)
    for average, parameter in zip(seen[-1], method.module.parameters(), strict=True):
        assert torch.equal(average, parameter)
    assert not torch.equal(plain[0], seen[0][0])


def test_ema_is_the_warmed_up_average():
    module = nn.Linear(1, 1, bias=False)
    ema = Ema(module, 0.5)
    expected = module.weight.item()
    for update in range(1, 30):
        with torch.no_grad():
            module.weight.fill_(update)
        ema.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert ema.averages[0].item() == pytest.approx(expected, rel=1e-5)
    with ema.in_module():
        assert module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert module.weight.item() == 29


def test_bfloat16_is_for_products_alone(tmp_path):
    dtypes = set()

    class Watched(Regression):
        def loss(self, *drawn):
            dtypes.add(self.module[0](torch.ones(1, 3)).dtype)
            return super().loss(*drawn)

    settings = replace(SETTINGS, precision="bfloat16")
    method, _ = train(TrainingState(tmp_path / "narrow"), settings, method=Watched())
    exact, _ = train(TrainingState(tmp_path / "wide"))
    assert dtypes == {torch.bfloat16}
    for narrow, wide in zip(method.module.parameters(), exact.module.parameters(), strict=True):
        assert narrow.dtype == torch.float32
        assert not torch.equal(narrow, wide)
        torch.testing.assert_close(narrow, wide, rtol=0.05, atol=0.05)


def test_every_block_comes_once_an_epoch_in_an_order_of_its_own():
    order = Order(40, seed=3)
    seen = np.concatenate([order.batch(step, 16) for step in range(5)])
    first, second = seen[:40], seen[40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Order(40, seed=4).batch(0, 40))
    assert np.array_equal(Order(40, seed=3).batch(2, 16), seen[32:48])


def test_the_order_is_numpys_permutation_in_half_its_memory():
    num = 2**19
    tracemalloc.start()
    found = Order(num, seed=3).batch(0, num // 64)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = np.random.default_rng(step_seed(3, "order", 0)).permutation(num)
    assert np.array_equal(found, whole[: num // 64])
    assert found.dtype == whole.dtype
    assert most < 5 * num


def test_a_batch_larger_than_the_data_repeats_it():
    batch = Order(3, seed=0).batch(0, 8)
    assert np.bincount(batch).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_learning_rate_warms_up_and_decays_to_zero():
    given = {"peak": 0.05, "warmup_steps": 5, "num_steps": 30}
    rates = [learning_rate(step, decay="linear", **given) for step in range(31)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[5] == pytest.approx(0.05)
    assert max(rates) == pytest.approx(0.05)
    assert rates[30] == 0
    assert np.all(np.diff(rates[5:]) < 0)
    stays = [learning_rate(step, decay="none", **given) for step in range(31)]
    assert stays[:5] == rates[:5]
    assert stays[5:] == [0.05] * 26


def test_step_seeds_differ_by_seed_purpose_and_number():
    seeds = [
        step_seed(seed, purpose, number)
        for seed in range(3)
        for purpose in ("step", "order")
        for number in range(3)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_loss_that_is_not_finite_ends_training(tmp_path):
    class Diverging(Regression):
        def loss(self, *drawn):
            return super().loss(*drawn) * float("nan")

    with pytest.raises(PipelineError, match="diverged"):
        train(TrainingState(tmp_path), method=Diverging())


@pytest.mark.parametrize("step", [7, 15, 30])
def test_an_update_that_breaks_the_weights_ends_training_where_it_is_looked_at(tmp_path, step):
    class Breaking(Regression):
        calls = 0

        def finish_step(self, of_all=None):
            super().finish_step()
            self.calls += 1
            if self.calls == step:
                with torch.no_grad():
                    next(self.module.parameters()).view(-1)[0] = float("inf")

    state = TrainingState(tmp_path)
    with pytest.raises(PipelineError, match=rf"diverged: the largest weight is .* at step {step};"):
        train(state, method=Breaking())
    assert state.load(CPU)["step"] < step


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_held_out_loss_that_is_not_finite_ends_training_before_samples(tmp_path, loss):
    with pytest.raises(PipelineError, match=rf"diverged: the held-out loss is {loss} at step 10;"):
        train(TrainingState(tmp_path), evaluate=lambda: loss, sample_every=10)


def test_two_trainers_of_one_fingerprint_are_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with training_state("train", {"lr": 1}) as state:
        with pytest.raises(BusyError, match="already"), training_state("train", {"lr": 1}):
            pass
        with training_state("train", {"lr": 2}) as other:
            other.finish()
        state.finish()
    assert list((tmp_path / ".store" / "train").iterdir()) == []


def test_an_unfinished_state_stays_and_leftovers_of_a_killed_write_go(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with training_state("train", {}) as state:
        state.save({"step": 3})
        (state.folder / ".state.pt.1.partial").write_text("half")
    with training_state("train", {}) as state:
        assert state.load(CPU) == {"step": 3}
        assert [path.name for path in state.folder.iterdir()] == ["state.pt"]


def test_a_damaged_state_is_named(tmp_path):
    state = TrainingState(tmp_path)
    state.save({"step": 3})
    state.path.write_bytes(state.path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read"):
        state.load(CPU)


def stopped(folder, steps=9):
    """A state of step 8, whose rows of steps 7 and 5 are written, and not that of step 9."""
    state = TrainingState(folder)
    left = list(range(steps))

    class Dying(Regression):
        def draw(self, x0, generator):
            if not left:
                raise Killed
            left.pop()
            return super().draw(x0, generator)

    with pytest.raises(Killed):
        train(state, method=Dying(), sample_every=5)
    return state


def test_rows_that_a_killed_checkpoint_left_are_cut(tmp_path):
    """The last of them is torn."""
    _, whole = train(TrainingState(tmp_path / "whole"), sample_every=5)
    state = stopped(tmp_path / "stopped")
    for rows in (state.losses, state.snapshots):
        with rows.path.open("ab") as file:
            file.write(b'{"step": 10}\n{"step": 11, "te')
    train(state, sample_every=5)
    for found, expected in ((state.losses, whole.losses), (state.snapshots, whole.snapshots)):
        assert found.path.read_bytes() == expected.path.read_bytes()


@pytest.mark.parametrize("name", ["losses", "snapshots"])
def test_rows_that_are_lost_or_damaged_are_named(tmp_path, name):
    state = stopped(tmp_path)
    path = getattr(state, name).path
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    said = rf"{name}\.jsonl has {len(content) - 1} bytes of {len(content)}: remove {tmp_path} to"
    with pytest.raises(CheckpointError, match=said):
        train(state)
    path.write_bytes(b"?" + content[1:])
    with pytest.raises(CheckpointError, match=rf"{name}\.jsonl is damaged: remove {tmp_path} to"):
        list(getattr(state, name))


def test_a_checkpoint_beside_training_is_of_the_moment_when_it_was_asked_for(tmp_path):
    state, weights = TrainingState(tmp_path), torch.zeros(1_000_000)
    for step in range(5):
        state.save({"step": step, "weights": weights, "moments": [weights]}, beside=True)
        weights += 1
    state.settle()
    saved = state.load(CPU)
    assert saved["step"] == 4
    assert torch.equal(saved["weights"], torch.full_like(weights, 4))
    assert torch.equal(saved["moments"][0], saved["weights"])


def saving(folder, beside):
    """Save one checkpoint after another until the end, each of one number."""
    state = TrainingState(folder)
    for step in itertools.count(1):
        state.losses.append({"step": step})
        state.save({"step": step, "weights": torch.full((300_000,), float(step))}, beside=beside)


@pytest.mark.parametrize("beside", [False, True])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, beside):
    state, chance, last = TrainingState(tmp_path), random.Random(0), 0
    while last < 10:
        process = multiprocessing.get_context("fork").Process(
            target=saving, args=(tmp_path, beside)
        )
        process.start()
        time.sleep(chance.uniform(0.02, 0.1))
        process.kill()
        process.join()
        if (saved := state.load(CPU)) is not None:
            last += 1
            assert torch.equal(saved["weights"], torch.full((300_000,), float(saved["step"])))
            assert [row["step"] for row in state.losses][-1] == saved["step"]
        assert len(list(tmp_path.glob(".*.partial"))) <= 1


@pytest.mark.parametrize("beside", [False, True])
def test_a_full_disk_is_said_and_leaves_the_last_checkpoint(tmp_path, capsys, beside):
    state = TrainingState(tmp_path)
    state.save({"step": 3})
    (tmp_path / f".state.pt.{os.getpid()}.partial").symlink_to("/dev/full")

    def save():
        state.save({"weights": torch.zeros(100_000)}, beside=beside)
        state.settle()

    with pytest.raises(SystemExit) as exit_info:
        reported(save)()
    assert exit_info.value.code == 1
    assert "no disk space left while writing" in capsys.readouterr().err
    assert state.load(CPU) == {"step": 3}


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_a_gradient_longer_than_clip_is_shortened_to_it(clip):
    norms = []
    for most in clip, 1e9:
        method = Regression()
        trainer = Trainer(method, replace(SETTINGS, clip=most), CPU)
        parameters = list(method.module.parameters())
        trainer.optimizer.step = lambda given=parameters: norms.append(gradient_norm(given).item())
        trainer.train_step(BLOCKS, Order(len(BLOCKS), 0))
    clipped, whole = norms
    assert whole > 0.5
    assert clipped == pytest.approx(min(clip, whole), rel=1e-4)
