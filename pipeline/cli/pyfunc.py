"""`sedd infill` as MLflow calls it: what the MLmodel file of a logged model names as its loader."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.chosen import Chosen, choose
from pipeline.cli.model import load_model
from pipeline.cli.sampling import Sampling
from pipeline.cli.template import Template, parse_template
from pipeline.device import pick_device
from pipeline.errors import ParamsError, PipelineError
from pipeline.methods.draws import FREE
from pipeline.methods.registry import method_of
from pipeline.table import shown

if TYPE_CHECKING:
    import pandas as pd

OWN = ("steps", "predictor", "temperature", "top_p", "seed")
"""Parameters that are no part of how a sampler steps."""


def _load_pyfunc(path: str) -> "Infilling":
    return Infilling(Path(path))


class Infilling:
    """The model of a checkpoint, which fills templates."""

    def __init__(self, folder: Path) -> None:
        """Load it, onto a GPU if there is one.

        Raises:
            PipelineError: it is damaged.
        """
        self._folder = folder
        self._loaded = load_model(folder, pick_device("auto"))

    def predict(self, model_input: "pd.DataFrame", params: dict[str, Any]) -> "pd.DataFrame":
        """Column `text`: an infill of each row's `template`.

        n rows of one template are what `sedd infill --num n` draws of it, whatever the others are.

        Args:
            model_input: has the column `template`.
            params: options of `sedd infill`, all of the signature's; a seed of None is a new one.
        Raises:
            MlflowException: a template or an option cannot be used.
        """
        import pandas as pd
        from mlflow.exceptions import MlflowException

        templates = list(model_input["template"])
        stepping = {key: value for key, value in params.items() if key not in OWN}
        own = {key: params[key] for key in OWN}
        try:
            if wrong := [each for each in templates if not isinstance(each, str)]:
                raise ParamsError(f"a row's template must be a text (got {wrong[0]!r})")
            chosen = choose(
                **own, stepping=stepping, batch_size=None, device="auto", show_states=False
            )
            filled = {
                template: iter(self._fill(template, num, chosen))
                for template, num in Counter(templates).items()
            }
        except PipelineError as error:
            said = "\n".join(map(shown, error.args))
            raise MlflowException.invalid_parameter_value(said) from None
        texts = [next(filled[template]) for template in templates]
        return pd.DataFrame({"text": texts}, index=model_input.index)

    def _fill(self, text: str, num: int, chosen: Chosen) -> list[str]:
        sampling = Sampling.of(*self._loaded, self._folder, chosen)
        model, tokenizer = self._loaded
        template = Template(parse_template(text), tokenizer, model.length, sampling.mode)
        layouts = sampling.choose_layouts(template, num)
        asks = any(token != FREE for layout in layouts for token in layout.fixed)
        if asks and (reason := method_of(model).cannot_condition(model)):
            raise ParamsError(reason)
        filled = zip(layouts, sampling.fill(layouts), strict=True)
        eos_id = tokenizer.eos_id
        return [tokenizer.decode_all(layout.text_of(ids, eos_id)) for layout, ids in filled]
