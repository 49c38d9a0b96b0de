"""`sedd perturb`, `loss` and `shift`: the forward process and the loss on one text, by number."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options
from pipeline.errors import ParamsError, reported

if TYPE_CHECKING:
    import torch

    from pipeline.data.tokenizer import Mode, TextTokenizer
    from pipeline.sedd.model import SEDD

Text = Annotated[str, typer.Argument(metavar="TEXT")]
Time = Annotated[float, typer.Option("-t", "--time", help="From 0, clean, to 1, all noise.")]


@reported
def perturb(
    text: Text,
    t: Time,
    model: options.ModelFolder = options.MODEL,
    seed: options.Seed = None,
) -> None:
    """Noise a text as in training and print how much moved.

    Glyphs: ░ is the graph's mask, ⏎ eos, · pad. In the row `moved`, 1 marks a changed token.
    """
    if not 0 <= t <= 1:
        raise ParamsError(f"-t must be from 0 to 1 (got {t:g})")
    import torch

    from pipeline.cli.model import load_model
    from pipeline.training.checkpoint import block_mode

    sedd, tokenizer = load_model(model, torch.device("cpu"))
    _perturbed(sedd, tokenizer, block_mode(model), text, t, options.pick_seed(seed))


@reported
def loss(
    text: Text,
    t: Time,
    model: options.ModelFolder = options.MODEL,
    seed: options.Seed = None,
    device: options.Device = None,
) -> None:
    """Noise a text as `perturb` does and print the loss of each position.

    It is the diffusion-weighted score entropy, in nats a unit of time: its sum, averaged over t
    and noise, is what training minimises.
    """
    if not 0 < t <= 1:
        raise ParamsError(f"-t must be above 0 and at most 1 (got {t:g})")
    device = options.pick_device_name(device)
    import torch

    from pipeline.cli.model import load_model
    from pipeline.device import pick_device
    from pipeline.sedd.loss import score_entropy
    from pipeline.training.checkpoint import block_mode

    sedd, tokenizer = load_model(model, pick_device(device))
    x0, xt, times = _perturbed(sedd, tokenizer, block_mode(model), text, t, options.pick_seed(seed))
    with torch.no_grad():
        sigma = sedd.noise.sigma(times).to(next(sedd.parameters()).dtype)
        score = sedd.log_score(xt, sigma).exp()
        losses = score_entropy(sedd, x0, xt, times).positions
    print(f"score        {list(score.shape)}")
    print(f"loss         {list(losses.shape)}")
    print("position  x0  xt  loss")
    rows = zip(x0[0].tolist(), xt[0].tolist(), losses[0].tolist(), strict=True)
    for position, (clean, noised, nats) in enumerate(rows):
        print(f"{position:8}  {tokenizer.show([clean])}   {tokenizer.show([noised])}   {nats:.4f}")
    print(f"sum          {losses.sum():.4f}")


@reported
def shift(
    text: Text,
    n: Annotated[int, typer.Option("-n", help="How far; negative is backwards.")],
    model: options.ModelFolder = options.MODEL,
) -> None:
    """Add n to every token id and print the text that results.

    Ids have no order: the neighbour of a token is any token, so a small change of ids is no small
    change of text. That is why noise is not added to ids, and a graph says where tokens jump. The
    sum is taken modulo the number of tokens that are not special.
    """
    from pipeline.cli.model import load_tokenizer, one_line

    tokenizer = load_tokenizer(model)
    special = {tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id}
    plain = [id for id in range(tokenizer.size) if id not in special]
    place = {id: index for index, id in enumerate(plain)}
    ids = tokenizer.encode_known(text)
    shifted = [plain[(place[id] + n) % len(plain)] for id in ids]
    print(f"ids          {ids}")
    print(f"shifted ids  {shifted}")
    print(f"text         {one_line(text)}")
    print(f"shifted      {one_line(tokenizer.decode_all(shifted))}")


def _perturbed(
    sedd: "SEDD", tokenizer: "TextTokenizer", mode: "Mode", text: str, t: float, seed: int
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Print and return x0 [1, L], xt [1, L] and the time [1]."""
    import torch

    from pipeline.cli.model import block_of

    device = next(sedd.parameters()).device
    x0 = torch.tensor([block_of(text, tokenizer, sedd.length, mode)], device=device)
    times = torch.tensor([t], dtype=torch.float64, device=device)
    sigma = sedd.noise.sigma(times)
    # Drawn on the CPU, so that a seed means the same noise on every device.
    generator = torch.Generator().manual_seed(seed)
    xt = sedd.graph.sample_transition(x0.cpu(), sigma.cpu(), generator).to(device)
    print(f"seed         {seed}")
    print(f"t            {t:g}")
    print(f"sigma        {sigma.item():.6f}")
    print(f"move chance  {-torch.expm1(-sigma).item():.6f}")
    mask_id = sedd.graph.mask_id
    print(f"mask id      {'none: this graph has no mask' if mask_id is None else mask_id}")
    print(f"x0           {tokenizer.show(x0[0].tolist())}")
    print(f"moved        {''.join('01'[moved] for moved in (xt != x0)[0].tolist())}")
    print(f"xt           {tokenizer.show(xt[0].tolist())}")
    return x0, xt, times
