"""`sedd`: what a person types. Slow imports wait until a command runs, so that --help answers."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from pipeline.cli import (
    doctor,
    explain,
    exporting,
    generate,
    harness,
    importing,
    login,
    pinning,
    plan,
    preset,
    project,
    tune,
    verify,
    zero_shot,
)
from pipeline.errors import reported, typed


class Commands(TyperGroup):
    """What is typed wrong ends as every other mistake does: with one message and status 1."""

    @reported
    @typed
    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command that is asked for, without any the help."""
        given = args[0] if args else options.pop("args", None)
        given = (sys.argv[1:] if given is None else given) or ["--help"]
        raise SystemExit(super().main(given, **options | {"standalone_mode": False}) or 0)


app = typer.Typer(
    cls=Commands,
    help="Sample, infill and look into text diffusion models.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    generate.sample,
    generate.infill,
    explain.perturb,
    explain.loss,
    explain.shift,
    project.compare,
    project.ui,
    project.check,
    project.clean,
    pinning.pin,
    preset.preset,
    plan.plan,
    project.publish,
    verify.verify,
    tune.tune,
    login.login,
    doctor.doctor,
    zero_shot.zero_shot,
    zero_shot.references,
    exporting.export,
):
    app.command()(command)
app.command("import")(importing.import_)
# What it does not know is for lm-evaluation-harness.
app.command("lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    harness.lm_eval
)
