"""The table of verbs: name -> the function that runs it. Layer 4.

A verb is one file here and one line in `VERBS`. Its file imports nothing but typer and its neighbours at module
level, so that ``--help`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

import deepmad_hw

VERBS = {
    "quickstart": "deepmad_hw.cli.quickstart:quickstart",
    "doctor": "deepmad_hw.cli.doctor:doctor",
    "profile": "deepmad_hw.cli.profile:profile",
    "table": "deepmad_hw.cli.table:table",
    "design": "deepmad_hw.cli.design:design",
    "sweep": "deepmad_hw.cli.sweep:sweep",
    "calibrate": "deepmad_hw.cli.calibrate:calibrate",
    "trial": "deepmad_hw.cli.trial:trial",
    "export": "deepmad_hw.cli.export:export",
    "bench": "deepmad_hw.cli.bench:bench",
    "verify": "deepmad_hw.cli.verify:verify",
    "report": "deepmad_hw.cli.report:report",
}

app = typer.Typer(
    name="deepmad-hw",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Design convolutional networks for a device and a latency budget: profile, design, export, measure."""
    if version:
        typer.echo(f"deepmad-hw {deepmad_hw.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


for _name, _place in VERBS.items():
    _module, _function = _place.split(":")
    _verb = getattr(importlib.import_module(_module), _function)
    if isinstance(_verb, typer.Typer):
        app.add_typer(_verb, name=_name)
    else:
        app.command(_name)(_verb)
