"""`similis listener …`. Each command imports only what it needs, when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

listener_app = typer.Typer()

_DATA: Final = Path("similis-data")
CrosswalkFile = Annotated[
    Path, typer.Option("--crosswalk", envvar="SIMILIS_LISTENER__CROSSWALK_FILE", help="The crosswalk file.")
]
CrosswalkKey = Annotated[
    Path,
    typer.Option(
        "--key",
        envvar=["SIMILIS_LISTENER__CROSSWALK_KEY_FILE", "SIMILIS_LISTENER__PSEUDONYM_KEY_FILE"],
        help="The crosswalk's secret key; without one of its own, that of the pseudonyms.",
    ),
]


@listener_app.callback(invoke_without_command=True)
def listener(context: typer.Context) -> None:
    """Run the DICOM listener (settings: SIMILIS_LISTENER__*), or one of its commands."""
    if context.invoked_subcommand is not None:
        return
    from services.listener.app import main as run

    run()


@listener_app.command("test-rules")
def judge_files(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.dcm...", help="DICOM files to judge.")],
    rules: Annotated[
        Path, typer.Option(envvar="SIMILIS_LISTENER__RULES_FILE", help="The rules file.", show_default=False)
    ],
    calling: Annotated[str, typer.Option(help="Calling AE title of the supposed sender.")] = "",
    called: Annotated[
        str, typer.Option(envvar="SIMILIS_LISTENER__AE_TITLE", help="AE title that it calls.")
    ] = "SIMILIS",
    ip: Annotated[str, typer.Option(help="IP address of the sender.")] = "127.0.0.1",
) -> None:
    """Say which routing rule decides about files, and how; prints nothing of the patient.

    Exit status: 0 all accepted, 3 one dropped, 4 one refused, 1 one cannot be read, 2 the rules are wrong.
    """
    from services.listener.rules_command import Sender, run

    raise typer.Exit(run(files, rules, Sender(calling, called, ip), out=sys.stdout, err=sys.stderr))


@listener_app.command("reidentify")
def reidentify(
    pseudonyms: Annotated[list[str], typer.Argument(metavar="PSEUDONYM...", help="32 hexadecimal digits each.")],
    crosswalk: CrosswalkFile = _DATA / "crosswalk",
    key: CrosswalkKey = _DATA / "pseudonym.key",
) -> None:
    """Print the patients behind pseudonyms. Exit status: 0, or 3 if one is not in the crosswalk."""
    from services.listener.reidentify import print_identities as run
    from shared.pseudonym import load_key

    raise typer.Exit(run(crosswalk, load_key(key, generate=False), pseudonyms, out=sys.stdout, err=sys.stderr))


@listener_app.command("forget")
def forget(
    pseudonyms: Annotated[list[str], typer.Argument(metavar="PSEUDONYM...", help="32 hexadecimal digits each.")],
    crosswalk: CrosswalkFile = _DATA / "crosswalk",
    key: CrosswalkKey = _DATA / "pseudonym.key",
) -> None:
    """Remove patients from the crosswalk; backups of it still have them. Exit status: 0, or 3 if one was not in it."""
    from services.listener.reidentify import print_forgotten as run
    from shared.pseudonym import load_key

    raise typer.Exit(run(crosswalk, load_key(key, generate=False), pseudonyms, out=sys.stdout, err=sys.stderr))
