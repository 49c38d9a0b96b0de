"""What the code does on a device that only says it is CUDA: no device mix-ups, and few waits."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from emulated_cuda import DEVICE, NAME, emulated_cuda, waits
from tiny_project import TINY, write_params
from torch.utils.checkpoint import checkpoint
from toy import SETTINGS as USUAL
from toy import random_model
from typer.testing import CliRunner

from pipeline.baseline.gpt2 import NextToken, block_nats, new_baseline
from pipeline.checkpoints.checkpoint import save_checkpoint
from pipeline.cli import app
from pipeline.data.tokenizer import TextTokenizer
from pipeline.methods.draws import Samples
from pipeline.methods.embedding.bound import draw_bound as embedding_bound
from pipeline.methods.embedding.loss import Denoising
from pipeline.methods.embedding.model import EmbeddingConfig, EmbeddingDiffusion
from pipeline.methods.embedding.sampler import sample as embedding_sample
from pipeline.methods.sedd.bound import draw_bound
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.sampler import sample
from pipeline.training.loop import Trainer
from pipeline.training.run import held_out_loss
from pipeline.training.schedule import Order
from pipeline.training.state import TrainingState

pytestmark = pytest.mark.skipif(
    torch.version.cuda is not None, reason="the emulation is of PyTorch's build for CPUs"
)
CPU = torch.device("cpu")
CONDITIONAL, RAW, UNIFORM = ("absorb", "conditional"), ("absorb", "raw"), ("uniform", "raw")
STEPWISE = ("analytic", "euler")
MOST_WAITS = {
    ("train", *CONDITIONAL): 0,
    ("train", *RAW): 0,
    ("train", *UNIFORM): 0,
    ("train", "baseline"): 3,  # transformers looks for sequences in one row, part by part
    ("train", "embedding"): 0,
    ("sample", "embedding"): 0,
    ("cached", *CONDITIONAL): 0,
    ("first_hitting", *CONDITIONAL): 0,
    ("analytic", *CONDITIONAL): 0,
    ("euler", *CONDITIONAL): 0,
    ("analytic", *RAW): 3,
    ("euler", *RAW): 3,
    ("analytic", *UNIFORM): 0,
    ("euler", *UNIFORM): 0,
}
"""How often a training step may wait for the device, and each network call of a sampler."""
SETTINGS = replace(USUAL, lr=0.01)
BLOCKS = np.random.default_rng(0).integers(20, size=(64, 16)).astype(np.uint16)


@pytest.fixture
def cuda():
    """The device meanwhile."""
    with emulated_cuda():
        yield


def model(graph: str, parameterization: str, device: torch.device = CPU) -> SEDD:
    """With random weights, the same on every device."""
    sizes = {"vocab_size": 20, "length": 16, "num_blocks": 2, "cond_dim": 16}
    usual = {"width": 32, "num_heads": 2, "eps": 1e-3, "t_min": 1e-3, "scale_by_sigma": True}
    return random_model(graph, parameterization, std=0.1, **sizes, **usual).train().to(device)


def check_waits(times: int, *key: str) -> None:
    """Assert that what was done `times` waited no more often each time than MOST_WAITS allows.

    Waits that come once for many times are not among these.
    """
    allowed, found = MOST_WAITS[key], sum(round(num / times) for num in waits.values())
    told = "\n".join(f"{num / times:7.2f}  {line}" for line, num in sorted(waits.items()))
    assert found <= allowed, f"{found} waits each time, more than {allowed}:\n{told}"


# The emulation itself


def test_it_computes_what_the_cpu_computes(cuda):
    x, y = torch.rand(2, 5, 3)
    assert (x.device, x.cuda().device, x.to("cuda").is_cuda) == (CPU, DEVICE, True)
    for of in (
        lambda x, y: (x @ y.T).softmax(-1).sum(0),
        lambda x, y: x.addcmul_(y, y).exp_(),
        lambda x, y: torch.cat([x, y]).sort(-1).values[2:, None],
        lambda x, y: (
            torch.mm(x.bfloat16(), y.T.bfloat16(), out_dtype=torch.float32)
            if x.is_cuda
            else x.bfloat16().float() @ y.T.bfloat16().float()
        ),
    ):
        found = of(x.cuda(), y.cuda())
        assert found.device == DEVICE
        assert torch.equal(found.cpu(), of(x.clone(), y))


def test_autograd_optimisers_and_checkpoints_work(cuda):
    gradients = []
    for device in (CPU, DEVICE):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 4).to(device)
        parameters = list(layer.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=True)
        for x in torch.rand(3, 5, 4):
            y = checkpoint(
                lambda x, layer=layer: layer(x).relu(), x.to(device), use_reentrant=False
            )
            y.square().sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
        assert all(parameter.device == device for parameter in layer.parameters())
        gradients.append([parameter.grad.cpu() for parameter in parameters])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_autocast_casts_as_on_cuda(cuda):
    x = torch.ones(3, 3, device="cuda")
    assert (x @ x).dtype == torch.float32
    with torch.autocast("cuda", torch.bfloat16):
        assert not torch.is_autocast_enabled("cpu")
        narrow = x @ x
        assert narrow.dtype == torch.nn.functional.linear(x, x).dtype == torch.bfloat16
        assert (narrow + narrow).dtype == torch.bfloat16
        assert narrow.softmax(-1).dtype == narrow.sum().dtype == torch.float32
        assert torch.addcmul(x, narrow, narrow).dtype == torch.float32
        assert (x.cpu() @ x.cpu()).dtype == torch.float32


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: torch.ones(3).add_(x),
        lambda x: torch.ones(()).add_(x.sum()),
        lambda x: torch.ones(3)[x.long()],
        lambda x: torch.nn.Linear(3, 3)(x),
        lambda x: torch._foreach_add([x], [torch.ones(3)]),
        lambda x: torch.add(x, x, out=torch.empty(3)),
    ],
)
def test_a_mix_of_devices_is_refused(cuda, mixed):
    with pytest.raises(RuntimeError, match="all tensors to be on the same device"):
        mixed(torch.ones(3, device="cuda"))


def test_numbers_and_indices_of_the_cpu_are_not(cuda):
    x = torch.arange(3.0, device="cuda")
    assert (x * torch.tensor(2.0)).device == DEVICE
    assert torch.where(x > 0, x, torch.tensor(1.0)).tolist() == [1, 1, 2]
    waits.clear()
    assert x[torch.tensor([2, 0])].cpu().tolist() == [2, 0]
    assert [line.split(" ", 1)[1] for line in waits] == ["copy to the device", "copy to the host"]


@pytest.mark.parametrize(("generator", "device"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_generator_of_another_device_is_refused(cuda, generator, device):
    foreign = torch.Generator(generator)
    with pytest.raises(RuntimeError, match="device type for generator"):
        torch.rand(3, device=device, generator=foreign)
    with pytest.raises(RuntimeError, match="device type for generator"):
        torch.empty(3, device=device).uniform_(generator=foreign)
    assert torch.rand(3, device=generator, generator=foreign).device.type == generator


def test_what_cuda_has_not_is_refused(cuda):
    x = torch.ones(3, device="cuda")
    with pytest.raises(TypeError, match="cpu"):
        x.numpy()
    with pytest.raises(TypeError, match="cpu"):
        np.asarray(x)
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(3, device="cuda:1")
    with pytest.raises(RuntimeError, match="pin"):
        x.pin_memory()


@pytest.mark.parametrize(
    ("why", "wait"),
    [
        ("item", lambda x, mask: float(x.max())),
        ("item", lambda x, mask: x[0].item()),
        ("item", lambda x, mask: bool(x[0])),
        ("item", lambda x, mask: int(x.sum())),
        ("equal", lambda x, mask: torch.equal(x, x)),
        ("tolist", lambda x, mask: x.tolist()),
        ("nonzero", lambda x, mask: x.nonzero()),
        ("nonzero", lambda x, mask: torch.where(mask)),
        ("masked_select", lambda x, mask: x.masked_select(mask)),
        ("unique", lambda x, mask: x.unique()),
        ("unique", lambda x, mask: torch.unique(x[None], dim=0, return_inverse=True)),
        ("index by a mask", lambda x, mask: x[mask]),
        ("index by a mask", lambda x, mask: x.index_put_((mask,), -x)),
        ("index by a mask", lambda x, mask: x.__setitem__(mask, -x)),
        ("copy to the host", lambda x, mask: x.cpu()),
        ("copy to the host", lambda x, mask: x.to("cpu", non_blocking=True)),
        ("copy to the host", lambda x, mask: torch.empty(3).copy_(x)),
        ("copy to the device", lambda x, mask: x.copy_(torch.ones(3))),
        ("copy to the device", lambda x, mask: torch.tensor([1, 2], device="cuda")),
        ("copy to the device", lambda x, mask: torch.as_tensor(np.ones(3), device="cuda")),
        ("copy to the device", lambda x, mask: torch.ones(3).to(x)),
        ("copy to the device", lambda x, mask: torch.ones(3).cuda(non_blocking=True)),
        ("copy to the device", lambda x, mask: torch.ones(3).pin_memory().cuda()),
        ("synchronize", lambda x, mask: torch.cuda.synchronize()),
    ],
)
def test_a_wait_is_counted(cuda, why, wait):
    x = torch.ones(3, device="cuda")
    wait(x, x > 0)
    with torch.inference_mode():
        wait(torch.ones(3, device="cuda"), torch.zeros(3, device="cuda") < 1)
    assert waits == Counter({f"elsewhere {why}": 2})


def test_other_work_is_not_counted(cuda):
    x = torch.zeros(3, device="cuda").requires_grad_()
    pinned = torch.ones(4, 3).pin_memory()
    y = x + pinned[1].to("cuda", non_blocking=True) + torch.full((3,), 2.0, device=DEVICE)
    y = y.masked_fill(y > 3, 0.0).index_select(0, torch.arange(2, device="cuda"))
    y.sum().backward()
    x.detach()[x > 3] = 0.0
    x.detach().masked_scatter_(x > 3, x.detach()).to("cuda", torch.float64).argsort()
    assert not waits


def test_recorded_operations_are_done_again(cuda):
    x, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        y = torch.cat([x * 2, x]).view(2, 3).sum(0).add_(1.0)
    x.copy_(torch.arange(3.0, device="cuda"))
    graph.replay()
    assert y.tolist() == [1, 4, 7]
    with torch.cuda.graph(graph), pytest.raises(RuntimeError, match="capturing"):
        x.nonzero()


def test_a_wait_is_counted_where_the_project_causes_it(cuda):
    from pipeline.network.layers import taken

    at = torch.ones(2, 3, device="cuda") > 0
    taken(torch.ones(2, 3, 4, device="cuda"), at)
    (line,) = waits
    assert line.startswith("pipeline/network/layers.py:")
    assert line.endswith(" nonzero")


# The project on it


@pytest.mark.parametrize("variant", [CONDITIONAL, RAW, UNIFORM], ids="-".join)
def test_a_training_step(cuda, variant):
    def losses(device: torch.device) -> list[float]:
        trainer = Trainer(ScoreEntropy(model(*variant, device)), SETTINGS, device)
        order = Order(len(BLOCKS), SETTINGS.seed)
        found = []
        for _ in range(4):
            waits.clear()
            trainer.train_step(BLOCKS, order)
            if device == DEVICE:
                check_waits(1, "train", *variant)
            found.append(trainer._window.item())
        assert {each.device for each in trainer.ema.averages} == {device}
        return found

    assert losses(DEVICE) == pytest.approx(losses(CPU), rel=1e-5)


@pytest.mark.parametrize(
    ("variant", "predictor"),
    [
        *[(variant, name) for variant in (CONDITIONAL, RAW, UNIFORM) for name in STEPWISE],
        *[(CONDITIONAL, name) for name in ("cached", "first_hitting")],
    ],
    ids=str,
)
def test_sampling(cuda, variant, predictor):
    def draw(device: torch.device) -> Samples:
        generator = torch.Generator(device).manual_seed(0)
        made = model(*variant, device).eval()
        waits.clear()
        return sample(made, 8, num_steps=12, predictor=predictor, generator=generator)

    ours, theirs = draw(DEVICE), draw(CPU)
    assert ours.tokens.device == ours.nfe.device == DEVICE
    draw(DEVICE)
    check_waits(ours.calls, predictor, *variant)
    assert torch.equal(ours.tokens.cpu(), theirs.tokens)
    assert torch.equal(ours.nfe.cpu(), theirs.nfe)


@pytest.mark.parametrize("input", ["evidence", "vector"])
def test_embedding_diffusion(cuda, input):
    def made(device: torch.device) -> EmbeddingDiffusion:
        torch.manual_seed(0)
        sizes = {"vocab_size": 20, "length": 16, "width": 32, "num_blocks": 2, "num_heads": 2}
        config = EmbeddingConfig(
            **sizes,
            cond_dim=16 if input == "vector" else None,
            dropout=0.0,
            dim=8,
            norm="l2",
            input=input,
            loss="half",
            clock="nats",
            g_min=-5.0,
            g_max=6.0,
            self_condition=0.5,
            known=0.5,
        )
        found = EmbeddingDiffusion(config)
        for parameter in found.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        return found.to(device)

    def numbers(device: torch.device) -> list[torch.Tensor]:
        trainer, order = Trainer(Denoising(made(device)), SETTINGS, device), Order(len(BLOCKS), 0)
        for _ in range(3):
            waits.clear()
            trainer.train_step(BLOCKS, order)
        if device == DEVICE:
            check_waits(1, "train", "embedding")
        model, x0 = made(device).eval(), torch.from_numpy(BLOCKS.astype(np.int64))
        how = {"num_replicates": 2, "num_draws": 2, "batch_size": 24}
        generator = torch.Generator(device).manual_seed(0)
        bound = embedding_bound(model, x0, seed=0, **how)
        found = [bound.total, trainer._window, model.clock.rms]
        for predictor in ("ddim", "ddpm", "draw"):
            waits.clear()
            how = {"num_steps": 12, "predictor": predictor, "generator": generator}
            samples = embedding_sample(model, 8, **how)
            found.append(samples.tokens)
        if device == DEVICE:
            check_waits(samples.calls, "sample", "embedding")
        return [each.cpu() for each in found]

    for ours, theirs in zip(numbers(DEVICE), numbers(CPU), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", [CONDITIONAL, RAW, UNIFORM], ids="-".join)
def test_bound_and_held_out_loss(cuda, variant):
    def numbers(device: torch.device) -> list[torch.Tensor]:
        made, x0 = model(*variant, device).eval(), torch.from_numpy(BLOCKS.astype(np.int64))
        bound = draw_bound(
            made,
            x0,
            num_replicates=2,
            num_draws=2,
            batch_size=24,
            seed=0,
        )
        loss = held_out_loss(made, x0, batch_size=24, seed=0, precision="float32")
        assert bound.total.device == torch.device("cpu")
        terms = [bound.integral, bound.prior, bound.reconstruction]
        return [*(term.cpu() for term in terms), torch.tensor(loss)]

    for ours, theirs in zip(numbers(DEVICE), numbers(CPU), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_baseline(cuda):
    def numbers(device: torch.device) -> list[float]:
        sizes = SimpleNamespace(width=16, num_blocks=2, num_heads=2, dropout=0.0)
        made = new_baseline(
            sizes, vocab_size=20, length=16, start_id=1, mode="pad", seed=0, device=device
        )
        assert made.lm_head.weight is made.transformer.wte.weight
        trainer, order = Trainer(NextToken(made), SETTINGS, device), Order(len(BLOCKS), 0)
        for _ in range(3):
            waits.clear()
            trainer.train_step(BLOCKS, order)
        if device == DEVICE:
            check_waits(1, "train", "baseline")
        return [trainer._window.item(), *block_nats(made, BLOCKS, batch_size=24)[0]]

    assert numbers(DEVICE) == pytest.approx(numbers(CPU), rel=1e-5)


def stage(name: str, *arguments: object) -> str:
    """Run a stage in this process; what it says on stderr."""
    command = typer.Typer()
    command.command()(import_module(f"stages.{name}").main)
    result = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stderr


def values(path: str) -> dict[str, Any]:
    """What a JSON file holds."""
    return json.loads(Path(path).read_text())


def losses_of(path: str) -> list[float]:
    """Training losses of a curve."""
    with Path(path).open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]


def sedd(*arguments: object) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def project(tiny):
    """The tiny project, with the names as data too."""
    Path("artifacts/data").mkdir()
    for split, names in (("train", ["Ada", "Ben", "Anna"]), ("test", ["Ada", "Ida", "Ed"])):
        pq.write_table(pa.table({"Names": names}), f"artifacts/data/{split}.parquet")
    return tiny


TRAIN = ("artifacts/checkpoint", "artifacts/snapshots.jsonl", "artifacts/run.json", "loss.csv")
INPUTS = ("artifacts/packed", "artifacts/tokenizer")


def run_stages(project: Path, changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All that computes on a device, after one another; the figures of each."""
    write_params(project, TINY | changes)
    assert "40/40" in stage("train", *INPUTS, *TRAIN)
    stage("baseline", *INPUTS, "artifacts/baseline", "baseline.json", "baseline.csv")
    stage("evaluate", "artifacts/checkpoint", "artifacts/baseline", INPUTS[0], "likelihood.json")
    stage("sample", 8, "artifacts/checkpoint", INPUTS[1], "samples")
    scoring = "artifacts/data", INPUTS[1]
    stage("score", "samples/8.jsonl", *scoring, INPUTS[0], "artifacts/baseline", "scores.json")
    stage("real_text", INPUTS[1], INPUTS[0], "artifacts/baseline", "real_text.json")
    names = ("artifacts/run", "baseline", "likelihood", "samples/8.timing", "scores", "real_text")
    return {name: values(f"{name}.json") for name in names}


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-3), ("auto", 0.03)], ids=["float32", "bfloat16"]
)
def test_stages(project, cuda, precision, tolerance):
    theirs = run_stages(project, {"device": "cpu"})
    losses = losses_of("loss.csv"), losses_of("baseline.csv")
    shutil.rmtree("artifacts/checkpoint")
    ours = run_stages(
        project,
        {f"{name}.precision": precision for name in ("train", "baseline", "evaluate", "sample")}
        | {"device": "cuda", "score.precision": precision}
        | {"train.activation_checkpointing": precision == "auto"},
    )
    for name in ("artifacts/run", "baseline", "samples/8.timing"):
        assert ours[name]["device"] == NAME
        assert ours[name]["precision"] == precision.replace("auto", "bfloat16")
    for expected, path in zip(losses, ("loss.csv", "baseline.csv"), strict=True):
        assert losses_of(path) == pytest.approx(expected, rel=tolerance)
    for name, figure in (
        ("likelihood", "bound_nats_per_char"),
        ("likelihood", "baseline_nats_per_char"),
        ("real_text", "gen_ppl"),
    ):
        assert ours[name][figure] == pytest.approx(theirs[name][figure], rel=tolerance)
    assert ours["scores"]["num_samples"] == 16


@pytest.mark.parametrize("variant", [CONDITIONAL, RAW, UNIFORM], ids="-".join)
def test_commands(project, cuda, variant):
    made = model(*variant)
    tokenizer = TextTokenizer.load(Path("artifacts/tokenizer"))
    made = SEDD(replace(made.config, vocab_size=tokenizer.size))
    made.network.output_layer.linear.weight.data.normal_()
    save_checkpoint(
        Path("model"),
        made,
        tokenizer=Path("artifacts/tokenizer"),
        tokenizer_sha256=tokenizer.sha256,
        text_lengths=[1] * 16,
    )
    on_model = ("--model", "model", "--seed", 1)
    for command in (
        ("sample", "--num", 3, "--steps", 4),
        ("infill", "--prefix", "A", "--gap", 2, "--num", 3, "--steps", 4),
    ):
        on_cpu, on_cuda = (sedd(*command, *on_model, "--device", d) for d in ("cpu", "cuda"))
        assert on_cuda == on_cpu
        assert len(on_cpu.splitlines()) == 3
    on_cpu, on_cuda = (
        sedd("loss", "Ada", "-t", 0.5, *on_model, "--device", d).split() for d in ("cpu", "cuda")
    )
    assert float(on_cuda[-1]) == pytest.approx(float(on_cpu[-1]), rel=1e-5)
    assert len(on_cuda) == len(on_cpu) > 4 * 16
    assert "xt" in sedd("perturb", "Ada", "-t", 0.5, *on_model)


@pytest.mark.parametrize("variant", [CONDITIONAL, RAW, UNIFORM], ids="-".join)
def test_training_resumes(cuda, tmp_path, variant):
    order, state = Order(len(BLOCKS), SETTINGS.seed), TrainingState(tmp_path)

    def trainer() -> Trainer:
        return Trainer(ScoreEntropy(model(*variant, DEVICE)), SETTINGS, DEVICE)

    def trained(by: Trainer) -> list[list[float]]:
        for _ in range(2):
            by.train_step(BLOCKS, order)
        return [parameter.tolist() for parameter in (*by.ema.averages, by._window)]

    first, second = trainer(), trainer()
    trained(first)
    state.save(first.state_dict())
    saved = state.load(DEVICE)
    assert saved is not None
    second.load_state_dict(saved)
    assert trained(second) == trained(first)
