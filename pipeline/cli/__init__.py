"""`sedd`: what a person types. Slow imports wait until a command runs, so that --help answers."""

import typer

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

app = typer.Typer(
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
