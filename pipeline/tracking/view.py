"""How MLflow's own page shows an experiment: as training runs, with the charts one wants first.

Both are tags of the experiment. The charts are a view as its button "Share" keeps one (seen with
MLflow 3.17); the page opens with it where its address names it.
"""

import json
from typing import Any

KIND = "mlflow.experimentKind"
TRAINING = "custom_model_development"
NAME = "charts"
VIEW = f"mlflow.sharedViewState.{NAME}"
SECTION = "What comes out"
OVER_STEPS = ("by_steps/gen_ppl", "by_steps/entropy")
LOSSES = ["train_loss", "eval_loss"]
BARS = (["gen_ppl", "real_text/gen_ppl"], ["bound_bits_per_byte", "baseline_bits_per_byte"])
FRONTIER = {"entropy": "by_temperature/entropy", "gen_ppl": "by_temperature/gen_ppl"}


def experiment_tags() -> dict[str, str]:
    """What MLflow keeps of an experiment's kind, and of its charts."""
    by_entropy = {"xAxisKey": "metric", "selectedXAxisMetricKey": FRONTIER["entropy"]}
    axes = {
        "xaxis": {"key": "entropy", "type": "METRIC"},
        "yaxis": {"key": "gen_ppl", "type": "METRIC"},
    }
    drawn = [
        *(_line([key], xAxisScaleType="log") for key in OVER_STEPS),
        _line(LOSSES),
        *(_card("BAR", keys) for keys in BARS),
        _line([FRONTIER["gen_ppl"]], useGlobalXaxisKey=False, **by_entropy),
        _card("SCATTER", [], **axes),
    ]
    section = {"uuid": SECTION, "name": SECTION, "display": True, "isReordered": True}
    charts = {
        "compareRunCharts": drawn,
        "compareRunSections": [{**section, "deleted": False, "isGenerated": False}],
        # Otherwise its own sections, one for each prefix of a metric, come before.
        "isAccordionReordered": True,
    }
    return {KIND: TRAINING, VIEW: json.dumps(charts, separators=(",", ":"))}


def address(page: str, experiment_id: str | None) -> str:
    """Where MLflow's `page` shows the charts of an experiment; the page itself without one."""
    if experiment_id is None:
        return page
    asked = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={NAME}"
    return f"{page}/#/experiments/{experiment_id}/runs?{asked}"


def _line(keys: list[str], **more: Any) -> dict[str, Any]:
    """Curves as they are: MLflow would smooth them."""
    return _card("LINE", keys, useGlobalLineSmoothing=False, lineSmoothness=0, **more)


def _card(kind: str, keys: list[str], **more: Any) -> dict[str, Any]:
    metrics = {"metricKey": keys[0], "selectedMetricKeys": keys} if keys else {}
    return {
        "type": kind,
        "uuid": " ".join([kind, *keys]),
        "metricSectionId": SECTION,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
        **metrics,
        **more,
    }
