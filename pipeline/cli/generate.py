"""`sedd sample` and `sedd infill`: texts on stdout, one a line; everything else on stderr."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options
from pipeline.cli.chosen import choose
from pipeline.errors import ParamsError, reported

if TYPE_CHECKING:
    from pipeline.cli.template import Gap


@reported
def sample(
    model: options.ModelFolder = options.MODEL,
    steps: options.Steps = None,
    num: options.Number = 10,
    seed: options.Seed = None,
    predictor: options.Predictor = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    grid: options.GridOption = None,
    order: options.OrderOption = None,
    gamma: options.Gamma = None,
    corrector: options.CorrectorOption = None,
    eta: options.Eta = None,
    hold: options.Hold = None,
    num_redrawn: options.NumRedrawn = None,
    label: options.Labels = None,
    guidance: options.Guidance = 1.0,
    show_intermediate: options.ShowIntermediate = False,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
) -> None:
    """Draw texts from a model.

    Each is one line on stdout, up to its eos: an empty line for an empty text. A model of running
    text gives windows of it, in which each eos is visible. Special tokens of a malformed text stay
    visible; line ends, control characters and backslashes are escaped.
    """
    options.check_range("--num", num, 1, options.MOST)
    chosen = choose(
        *(steps, predictor, temperature, top_p, seed, batch_size, device, show_intermediate),
        {"grid": grid, "order": order, "gamma": gamma}
        | {"corrector": corrector, "eta": eta, "hold": hold, "num_redrawn": num_redrawn},
        *(label, guidance),
    )

    from pipeline.cli.model import one_line
    from pipeline.cli.sampling import Sampling

    sampling = Sampling.start(model, chosen)
    sampling.announce()
    num_invalid = 0
    for drawn in sampling.draw(sampling.batches(range(num))):
        for ids in drawn:
            print(one_line(sampling.tokenizer.decode(ids, sampling.mode)), flush=True)
            num_invalid += sampling.tokenizer.is_invalid_utf8(ids, sampling.mode)
    _tell_invalid(num_invalid, num)


@reported
def infill(
    template: Annotated[
        str | None,
        typer.Option(help="Pieces and gaps: [3] is a gap of three tokens, [?] of any number."),
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="How the text begins.")] = None,
    suffix: Annotated[str | None, typer.Option(help="How it ends.")] = None,
    gap: Annotated[
        int | None,
        typer.Option(help="Tokens after the prefix, before the suffix.", show_default="any number"),
    ] = None,
    model: options.ModelFolder = options.MODEL,
    steps: options.Steps = None,
    num: options.Number = 10,
    seed: options.Seed = None,
    predictor: options.Predictor = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    grid: options.GridOption = None,
    order: options.OrderOption = None,
    gamma: options.Gamma = None,
    corrector: options.CorrectorOption = None,
    eta: options.Eta = None,
    hold: options.Hold = None,
    num_redrawn: options.NumRedrawn = None,
    label: options.Labels = None,
    guidance: options.Guidance = 1.0,
    show_intermediate: options.ShowIntermediate = False,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
) -> None:
    """Fill the gaps of a text; what is given stays exactly as it is.

    Give --prefix, --suffix or both, with --gap or without, or a --template with gaps anywhere:

    \b
      sedd infill --prefix Ma                 Ma and what follows
      sedd infill --prefix Ma --suffix a      Ma, something, a
      sedd infill --prefix Ma --gap 3         Ma, three more tokens, the end
      sedd infill --template "A[2]n[?]"       A, two tokens, n, and what follows
      sedd infill --template "[?]nn[?]e"      an nn somewhere, an e at the end

    A bracket of the text is written [[. A template that ends in a piece or in a gap of given
    length ends there; one that ends in [?] (--prefix alone) is ended by the model.

    Other gaps of any number get their length before they are filled: the text takes the length of
    a training text that is long enough, drawn at random, and the tokens to spare are divided among
    these gaps, all ways alike.

    With the absorbing graph this samples the model given the pieces: exactly with --predictor
    first_hitting, else the more nearly the more steps. With the uniform graph it does not, at any
    number of steps: the model takes the fixed tokens for noised ones, and believes them less than
    it should. Embedding diffusion does as it was trained to, unless its share of known rows is 0.
    """
    parts = _parts(template, prefix, suffix, gap)
    options.check_range("--num", num, 1, options.MOST)
    chosen = choose(
        *(steps, predictor, temperature, top_p, seed, batch_size, device, show_intermediate),
        {"grid": grid, "order": order, "gamma": gamma}
        | {"corrector": corrector, "eta": eta, "hold": hold, "num_redrawn": num_redrawn},
        *(label, guidance),
    )

    from pipeline.cli.model import one_line
    from pipeline.cli.sampling import Sampling, note
    from pipeline.cli.template import Template
    from pipeline.methods.registry import method_of

    sampling = Sampling.start(model, chosen)
    tokenizer = sampling.tokenizer
    layouts = sampling.choose_layouts(
        Template(parts, tokenizer, sampling.model.length, sampling.mode), num
    )
    sampling.announce()
    if reason := method_of(sampling.model).cannot_condition(sampling.model):
        note(reason)
    num_invalid = 0
    for layout, ids in zip(layouts, sampling.fill(layouts), strict=True):
        print(one_line(tokenizer.decode_all(layout.text_of(ids, tokenizer.eos_id))), flush=True)
        num_invalid += tokenizer.is_invalid_utf8(ids)
    _tell_invalid(num_invalid, num)


def _tell_invalid(num_invalid: int, num: int) -> None:
    from pipeline.cli.sampling import note

    if num_invalid:
        note(f"{num_invalid} of {num} texts hold bytes that are no UTF-8, shown as �")


def _parts(
    template: str | None, prefix: str | None, suffix: str | None, gap: int | None
) -> "list[str | Gap]":
    from pipeline.cli.template import Gap, parse_template

    if template is not None:
        if prefix is not None or suffix is not None or gap is not None:
            raise ParamsError("--template says it all: leave out --prefix, --suffix and --gap")
        return parse_template(template)
    if prefix is None and suffix is None and gap is None:
        raise ParamsError("what is given? Say --prefix, --suffix, --gap or --template")
    if gap is not None:
        options.check_range("--gap", gap, 0)
    parts: list[str | Gap] = [prefix or "", Gap(gap), suffix or ""]
    return [part for part in parts if part != ""]
