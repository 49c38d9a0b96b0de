"""`sedd perturb`, `loss` and `shift`: the forward process and the loss on one text, by number."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options
from pipeline.errors import ParamsError, reported

if TYPE_CHECKING:
    import torch

    from pipeline.data.tokenizer import Mode, TextTokenizer
    from pipeline.methods.protocol import Model, Noised

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

    Glyphs: ░ is a mask, ⏎ eos, · pad. In the row `moved`, 1 marks a changed token.
    """
    if not 0 <= t <= 1:
        raise ParamsError(f"-t must be from 0 to 1 (got {t:g})")
    import torch

    from pipeline.checkpoints.checkpoint import block_mode
    from pipeline.cli.model import load_model

    loaded, tokenizer = load_model(model, torch.device("cpu"))
    _noised(loaded, tokenizer, block_mode(model), text, t, options.pick_seed(seed))


@reported
def loss(
    text: Text,
    t: Time,
    model: options.ModelFolder = options.MODEL,
    seed: options.Seed = None,
    device: options.Device = None,
) -> None:
    """Noise a text as `perturb` does and print the loss of each position.

    It is in nats a unit of time: its sum, averaged over t and noise, is the bound's integral (of
    SEDD the diffusion-weighted score entropy).
    """
    if not 0 < t <= 1:
        raise ParamsError(f"-t must be above 0 and at most 1 (got {t:g})")
    device = options.pick_device_name(device)
    import torch

    from pipeline.checkpoints.checkpoint import block_mode
    from pipeline.cli.model import load_model
    from pipeline.device import pick_device
    from pipeline.methods.registry import method_of

    loaded, tokenizer = load_model(model, pick_device(device))
    mode, seed = block_mode(model), options.pick_seed(seed)
    x0, noised = _noised(loaded, tokenizer, mode, text, t, seed)
    with torch.no_grad():
        output, losses = method_of(loaded).position_nats(loaded, x0, noised, t)
    print(f"output       {list(output.shape)}")
    print(f"loss         {list(losses.shape)}")
    print("position  x0  xt  loss")
    rows = zip(x0[0].tolist(), noised.xt[0].tolist(), losses[0].tolist(), strict=True)
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
    plain = [id for id in range(tokenizer.size) if id not in tokenizer.special_ids]
    place = {id: index for index, id in enumerate(plain)}
    ids = tokenizer.encode_known(text)
    shifted = [plain[(place[id] + n) % len(plain)] for id in ids]
    print(f"ids          {ids}")
    print(f"shifted ids  {shifted}")
    print(f"text         {one_line(text)}")
    print(f"shifted      {one_line(tokenizer.decode_all(shifted))}")


def _noised(
    model: "Model", tokenizer: "TextTokenizer", mode: "Mode", text: str, t: float, seed: int
) -> "tuple[torch.Tensor, Noised]":
    """Print and return x0 [1, L] and what it is at time t."""
    import torch

    from pipeline.cli.model import block_of
    from pipeline.methods.registry import method_of

    device = model.device
    x0 = torch.tensor([block_of(text, tokenizer, model.length, mode)], device=device)
    # Drawn on the CPU, so that a seed means the same noise on every device.
    noised = method_of(model).noised(model, x0, t, torch.Generator().manual_seed(seed))
    facts = {"seed": seed, "t": f"{t:g}", **noised.facts}
    moved = "".join("01"[moved] for moved in (noised.xt != x0)[0].tolist())
    shown = {"x0": tokenizer.show(x0[0].tolist()), "moved": moved}
    shown["xt"] = tokenizer.show(noised.xt[0].tolist())
    for name, value in (facts | shown).items():
        print(f"{name:11}  {value}")
    return x0, noised
