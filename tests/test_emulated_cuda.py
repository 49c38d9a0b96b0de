"""What the code does on a device that only says it is CUDA: no device mix-ups, and few waits."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from emulated_cuda import DEVICE, emulated_cuda, waits
from torch.utils.checkpoint import checkpoint

from pipeline.baseline.gpt2 import NextToken, block_nats, new_baseline
from pipeline.methods.draws import Samples
from pipeline.methods.sedd.bound import draw_bound
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.methods.sedd.model import SEDD, SEDDConfig
from pipeline.methods.sedd.sampler import sample
from pipeline.training.loop import Settings, Trainer
from pipeline.training.run import held_out_loss
from pipeline.training.schedule import Order

pytestmark = pytest.mark.skipif(
    torch.version.cuda is not None, reason="the emulation is of PyTorch's build for CPUs"
)
CPU = torch.device("cpu")
CONDITIONAL, RAW, UNIFORM = ("absorb", "conditional"), ("absorb", "raw"), ("uniform", "raw")
STEPWISE = ("analytic", "euler")
MOST_WAITS = {
    ("train", *CONDITIONAL): 4,
    ("train", *RAW): 9,
    ("train", *UNIFORM): 9,
    ("train", "baseline"): 15,
    ("cached", *CONDITIONAL): 7,
    ("first_hitting", *CONDITIONAL): 7,
    ("analytic", *CONDITIONAL): 7,
    ("euler", *CONDITIONAL): 7,
    ("analytic", *RAW): 8,
    ("euler", *RAW): 8,
    ("analytic", *UNIFORM): 7,
    ("euler", *UNIFORM): 7,
}
"""How often a training step may wait for the device, and each network call of a sampler."""
SETTINGS = Settings(
    num_steps=30,
    batch_size=8,
    accumulate=1,
    lr=0.01,
    warmup_steps=5,
    weight_decay=0.01,
    beta1=0.9,
    beta2=0.99,
    clip=1.0,
    ema=0.9,
    precision="float32",
    deterministic=False,
    seed=0,
    log_every=7,
    eval_every=10,
    checkpoint_every=4,
)
BLOCKS = np.random.default_rng(0).integers(20, size=(64, 16)).astype(np.uint16)


@pytest.fixture
def cuda():
    """The device meanwhile."""
    with emulated_cuda():
        yield


def model(graph: str, parameterization: str, device: torch.device = CPU) -> SEDD:
    """With random weights, the same on every device."""
    torch.manual_seed(0)
    made = SEDD(
        SEDDConfig(
            graph=graph,
            noise="loglinear",
            parameterization=parameterization,
            vocab_size=20,
            length=16,
            width=32,
            num_blocks=2,
            num_heads=2,
            cond_dim=16,
            dropout=0.0,
            eps=1e-3,
            sigma_min=1e-4,
            sigma_max=20.0,
            t_min=1e-3,
        )
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.to(device)


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


@pytest.mark.parametrize("variant", [CONDITIONAL, RAW, UNIFORM], ids="-".join)
def test_bound_and_held_out_loss(cuda, variant):
    def numbers(device: torch.device) -> list[torch.Tensor]:
        made, x0 = model(*variant, device).eval(), torch.from_numpy(BLOCKS.astype(np.int64))
        bound = draw_bound(
            made,
            x0.to(device),
            num_replicates=2,
            num_draws=2,
            batch_size=24,
            generator=torch.Generator(device).manual_seed(0),
        )
        loss = held_out_loss(made, x0, batch_size=24, seed=0, precision="float32")
        assert bound.total.device == device
        terms = [bound.integral, bound.prior, bound.reconstruction]
        return [*(term.cpu() for term in terms), torch.tensor(loss)]

    for ours, theirs in zip(numbers(DEVICE), numbers(CPU), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_baseline(cuda):
    def numbers(device: torch.device) -> list[float]:
        sizes = SimpleNamespace(width=16, num_blocks=2, num_heads=2, dropout=0.0)
        made = new_baseline(
            sizes, vocab_size=20, length=16, eos_id=1, mode="pad", seed=0, device=device
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
