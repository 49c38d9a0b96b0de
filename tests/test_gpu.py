"""What must hold on a CUDA device."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_project import TINY, write_params
from toy import random_model

from benchmarks.train import settings_of
from pipeline.checkpoints.reference.fixture import read_fixture
from pipeline.checkpoints.reference.verify import format_errors, verify
from pipeline.kernels import tiles
from pipeline.kernels.attention import attend
from pipeline.kernels.tiled import tiled_nats
from pipeline.methods.sedd.graph import Absorb, Uniform
from pipeline.methods.sedd.loss import ScoreEntropy, cross_entropy_
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.sampler import sample
from pipeline.training.loop import Trainer
from pipeline.training.schedule import Order

pytestmark = pytest.mark.gpu
GOLDEN = Path(__file__).parent / "golden"
VARIANTS = [
    ("absorb", "conditional"),
    ("absorb", "raw"),
    ("uniform", "raw"),
    ("uniform", "conditional"),
]


def model(graph: str, parameterization: str) -> SEDD:
    sizes = {"vocab_size": 20, "length": 16, "num_blocks": 2, "cond_dim": 16}
    usual = {"width": 64, "num_heads": 4, "eps": 1e-3, "t_min": 1e-3, "scale_by_sigma": True}
    return random_model(graph, parameterization, std=0.1, **sizes, **usual).train()


@pytest.mark.parametrize("attention", ["sdpa", "flash"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["absorb_loglinear", "absorb_pth", "uniform_geometric"])
def test_parity_with_the_code_of_the_paper(name, dtype, attention):
    if attention == "flash":
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
        if dtype == torch.float32:
            pytest.skip("flash-attn takes no float32")
    # Full precision is the verification's own doing.
    torch.set_float32_matmul_precision("high")
    try:
        errors = verify(read_fixture(GOLDEN / name), torch.device("cuda"), dtype, attention)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(error.within for error in errors), format_errors(errors)


def test_flash_attends_as_sdpa_does():
    pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    generator = torch.Generator("cuda").manual_seed(0)
    query, key, value = torch.randn(3, 4, 6, 100, 64, device="cuda", generator=generator).bfloat16()
    exact = attend(query.double(), key.double(), value.double(), "sdpa")
    for attention in ("sdpa", "flash"):
        ours = attend(query, key, value, attention).double()
        assert float((ours - exact).abs().max()) < 1e-2 * float(exact.abs().max())


@pytest.mark.parametrize(("graph", "parameterization"), VARIANTS)
def test_loss_and_gradient_are_those_of_the_cpu(graph, parameterization):
    losses, gradients = [], []
    method = ScoreEntropy(model(graph, parameterization))
    x0 = torch.randint(20, (32, 16), generator=torch.Generator().manual_seed(0))
    drawn = method.draw(x0, torch.Generator().manual_seed(0))
    for device in ("cpu", "cuda"):
        method = ScoreEntropy(model(graph, parameterization).to(device))
        loss = method.loss(*(tensor.to(device) for tensor in drawn)) / len(drawn[0])
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad.cpu() for p in method.module.parameters()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("name", ["cross-entropy", "absorb", "uniform"])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=str)
def test_the_head_at_a_vocabulary_that_is_padded(name, dtype, bar, monkeypatch):
    """Several tiles of heights that differ, against float64 on a CPU."""
    torch.compiler.reset()
    monkeypatch.setattr(tiles, "WHOLE", tiles.WHOLE | {"cuda": 2**24})
    draws, vocab = torch.Generator().manual_seed(0), 50_257
    x0, xt = torch.randint(vocab - 1, (2, 1000), generator=draws)
    sigma, weight, shift = torch.rand(3, 1000, generator=draws, dtype=torch.float64) + 0.5
    criterion, given = cross_entropy_, (x0, weight)
    if name != "cross-entropy":
        graph = {"absorb": Absorb, "uniform": Uniform}[name](vocab)
        xt = xt if graph.mask_id is None else torch.full_like(xt, graph.mask_id)
        criterion, given = graph.score_entropy_, (x0, xt, sigma, weight, shift)
    hidden = torch.randn(1000, 64, generator=draws, dtype=torch.float64)
    found = []
    for device, wide in ("cpu", torch.float64), ("cuda", torch.float32):
        torch.manual_seed(0)
        head = torch.nn.Linear(64, vocab).to(device, wide)
        x = hidden.detach().to(device, wide).requires_grad_()
        by_position = tuple(
            each.to(device, wide if each.is_floating_point() else each.dtype) for each in given
        )
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            nats = tiled_nats(x, head, criterion, by_position, whole_rows=name == "cross-entropy")
        nats.total.backward()
        found.append([nats.total.detach(), x.grad, head.weight.grad, head.bias.grad])
    for exact, ours in zip(*found, strict=True):
        assert (ours.cpu() - exact).norm() <= bar * exact.norm()


@pytest.mark.parametrize(
    ("graph", "parameterization", "predictor"),
    [
        *[(*variant, name) for variant in VARIANTS for name in ("analytic", "euler")],
        *[(*VARIANTS[0], name) for name in ("cached", "first_hitting")],
    ],
)
def test_sampling(graph, parameterization, predictor):
    made = model(graph, parameterization).cuda().eval()

    def draw() -> torch.Tensor:
        generator = torch.Generator("cuda").manual_seed(0)
        samples = sample(made, 64, num_steps=8, predictor=predictor, generator=generator)
        assert int(samples.nfe.max()) <= (16 if predictor == "first_hitting" else 9)
        return samples.tokens

    tokens = draw()
    assert tokens.device.type == "cuda"
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 20
    assert torch.equal(tokens, draw())


def recorded_calls(made: SEDD) -> int:
    """Graphs that a sampler's calls were replayed from."""
    replayed = []
    original = torch.cuda.CUDAGraph.replay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.cuda.CUDAGraph, "replay", lambda graph: (replayed.append(1), original(graph))[1]
        )
        generator = torch.Generator("cuda").manual_seed(0)
        made_once = sample(made, 64, num_steps=64, predictor="cached", generator=generator)
    assert int(made_once.nfe.max()) <= 16
    return len(replayed)


def test_a_sampler_draws_the_same_tokens_from_recorded_blocks(monkeypatch):
    made = model("absorb", "conditional").cuda().eval()

    def draw() -> torch.Tensor:
        generator = torch.Generator("cuda").manual_seed(0)
        return sample(made, 64, num_steps=64, predictor="cached", generator=generator).tokens

    assert recorded_calls(made) > 0
    with_graphs = draw()
    monkeypatch.setattr(made.network, "recording", nullcontext)
    assert torch.equal(with_graphs, draw())


@pytest.mark.parametrize(("graph", "parameterization"), VARIANTS)
def test_a_training_step_never_waits(graph, parameterization):
    objective = ScoreEntropy(model(graph, parameterization).cuda().train())
    settings = settings_of("char", batch_size=32, precision="bfloat16")
    trainer = Trainer(objective, settings, torch.device("cuda"))
    blocks, order = np.random.default_rng(0).integers(20, size=(256, 16)), Order(256, 0)
    for _ in range(3):
        trainer.train_step(blocks, order)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(blocks, order)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("deterministic", [True, False])
def test_training_resumes(tiny, run_stage, deterministic):
    inputs = ("artifacts/packed", "artifacts/tokenizer")
    outs = ("artifacts/checkpoint", "artifacts/snapshots.jsonl", "artifacts/run.json", "loss.csv")

    def ended() -> tuple[float, str]:
        loss = float(Path("loss.csv").read_text().splitlines()[-1].split(",")[1])
        return loss, json.loads(Path("artifacts/run.json").read_text())["sha256"]

    write_params(tiny, TINY | {"device": "cuda", "train.deterministic": deterministic})
    assert run_stage("train", *inputs, *outs).returncode == 0
    assert json.loads(Path("artifacts/run.json").read_text())["device"] != "cpu"
    whole = ended()
    # A file in the place of the checkpoint's folder ends the run after its last step.
    blocked = Path("blocked")
    blocked.touch()
    assert run_stage("train", *inputs, blocked, *outs[1:]).returncode != 0
    done = run_stage("train", *inputs, *outs)
    assert done.returncode == 0, done.stderr
    assert "40/40" in done.stderr
    assert ended()[0] == pytest.approx(whole[0], rel=0.02)
    assert not deterministic or ended()[1] == whole[1]
