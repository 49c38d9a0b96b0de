"""`sedd`: what a person types. Slow imports wait until a command runs, so that --help answers."""

from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from pipeline.cli import (
    doctor,
    explain,
    generate,
    importing,
    login,
    pinning,
    project,
    tune,
    verify,
)
from pipeline.table import shown


class Commands(TyperGroup):
    """What was typed wrong is shown as everything else is, and not at any length."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TyperException as error:
            error.message = shown(error.message)[:900]
            raise


app = typer.Typer(
    cls=Commands,
    help="Sample, infill and look into text diffusion models.",
    no_args_is_help=True,
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
    project.publish,
    verify.verify,
    tune.tune,
    login.login,
    doctor.doctor,
):
    app.command()(command)
app.command("import")(importing.import_)
