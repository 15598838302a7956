"""The command line: `similis …`. Each command imports only what it needs, when it runs.

This is a composition root, so it may reach into every room; no room imports it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from services.embedder.reindex_commands import reindex_app
from services.index_commands import index_app
from services.listener.commands import listener_app
from services.query.key_commands import keys_app
from services.training.command_line import task_app, train_command
from services.training.explain_evaluation.command import evaluate_app
from shared.errors import ConfigurationError, SimilisError

app = typer.Typer(
    name="similis",
    help="Similar known cases, a probable diagnosis and the reason, for every new scan. Research use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
topics_app = typer.Typer(help="The Kafka topics.", no_args_is_help=True)
schemas_app = typer.Typer(help="The frozen schemas and documents generated from the code.", no_args_is_help=True)
app.add_typer(listener_app, name="listener")
app.add_typer(index_app, name="index")
app.add_typer(reindex_app, name="reindex")
app.add_typer(keys_app, name="keys")
app.add_typer(topics_app, name="topics")
app.add_typer(schemas_app, name="schemas")
app.add_typer(task_app, name="task")
app.command("train")(train_command)
app.add_typer(evaluate_app, name="evaluate")

DEFAULT_DATA = Path("similis-data")
SCHEMAS = Path("schemas")


@app.command()
def embedder() -> None:
    """Run the embedder (settings: SIMILIS_EMBEDDER__*, SIMILIS_VISION__*)."""
    from services.embedder.app import main as run

    run()


@app.command()
def explainer() -> None:
    """Run the explainer (settings: SIMILIS_EXPLAINER__*, SIMILIS_VISION__*)."""
    from services.explainer.app import main as run

    run()


@app.command()
def query() -> None:
    """Run the query service and its web page (settings: SIMILIS_QUERY__*)."""
    from services.query.app import main as run

    run()


@app.command()
def up(
    data: Annotated[Path | None, typer.Option(help="Folder that holds everything; made if missing.")] = None,
    dicom_port: Annotated[int | None, typer.Option(help="DICOM port; 0: any free one.")] = None,
    http_port: Annotated[int | None, typer.Option(help="HTTP port of the page and API; 0: any free one.")] = None,
    kafka_port: Annotated[int | None, typer.Option(help="Kafka port; 0: any free one.")] = None,
    ae_title: Annotated[str | None, typer.Option(help="AE title of the listener.")] = None,
    study_quiet_s: Annotated[float | None, typer.Option(help="Quiet time after which a study is complete.")] = None,
) -> None:
    """Start everything on this machine, without demo data. Stays up until Ctrl-C.

    What is not given is read from the environment (SIMILIS_DATA, SIMILIS_DICOM_PORT, ...) or has its default.
    """
    from services.local.app import up as run
    from services.local.settings import LocalSettings

    given: dict[str, Any] = {
        "data": data,
        "dicom_port": dicom_port,
        "http_port": http_port,
        "kafka_port": kafka_port,
        "ae_title": ae_title,
        "study_quiet_s": study_quiet_s,
    }
    settings = LocalSettings(**{name: value for name, value in given.items() if value is not None})
    raise typer.Exit(run(settings))


@app.command()
def demo(
    data: Annotated[Path, typer.Option(help="Folder that holds everything; made if missing.")] = Path("demo-data"),
    dicom_port: Annotated[int, typer.Option(help="DICOM port; 0: any free one.")] = 0,
    http_port: Annotated[int, typer.Option(help="HTTP port; 0: any free one.")] = 0,
    phantoms: Annotated[int, typer.Option(min=1, help="Brain MR phantom studies to make and push.")] = 16,
    leave: Annotated[bool, typer.Option("--exit", help="End by itself instead of staying up until Ctrl-C.")] = False,
    report: Annotated[Path | None, typer.Option("--json", help="Write what was found as JSON.")] = None,
    timeout_s: Annotated[float, typer.Option(help="Longest wait for the results.")] = 1200.0,
) -> None:
    """Start everything, push about 24 studies by C-STORE, and show what came of them."""
    from services.demo.app import run

    raise typer.Exit(
        run(
            data=data,
            dicom_port=dicom_port,
            http_port=http_port,
            phantoms=phantoms,
            leave=leave,
            report=report,
            timeout_s=timeout_s,
        )
    )


@app.command()
def doctor(
    data: Annotated[Path, typer.Option(help="Folder of the one-machine profile.")] = DEFAULT_DATA,
) -> None:
    """Check settings, ports, broker, index, archive, weights and GPU; say what to mend."""
    from services.local.doctor import run

    raise typer.Exit(run(data))


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    studies: Annotated[int, typer.Option(min=1, help="How many studies.")] = 8,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 1,
    contrast: Annotated[float, typer.Option(help="Lesion contrast; 4 is clearly visible, 2 is hard.")] = 4.0,
) -> None:
    """Write brain MR phantom studies as DICOM, with exact lesion masks as DICOM SEG."""
    from services.training.phantoms.commands import phantom as run

    run(out, studies=studies, seed=seed, contrast=contrast)


@topics_app.command("create")
def topics_create() -> None:
    """Create every declared topic that does not exist yet."""
    import asyncio

    from shared.delivery import create_topics
    from shared.settings import SimilisSettings
    from shared.topics import declared
    from shared.vision.tasks import task_names

    report = asyncio.run(create_topics(SimilisSettings().kafka, declared(task_names())))
    for name in report.created:
        typer.echo(f"created {name}")
    typer.echo(f"{len(report.created)} topics created, {len(report.existing)} were there")
    for name, how in report.mismatched.items():
        typer.echo(f"{name} is not as declared: {how}", err=True)


@topics_app.command("list")
def topics_list() -> None:
    """Print every declared topic."""
    from shared.topics import declared
    from shared.vision.tasks import task_names

    for topic in declared(task_names()):
        typer.echo(f"{topic.name}  {topic.event.__name__}  {topic.partitions} partitions")


@schemas_app.command("export")
def schemas_export(folder: Annotated[Path, typer.Option(help="The schemas folder.")] = SCHEMAS) -> None:
    """Write JSON Schemas, AsyncAPI, OpenAPI and the README's settings table from the code."""
    from services.documents import export

    export(folder)


@schemas_app.command("check")
def schemas_check(folder: Annotated[Path, typer.Option(help="The schemas folder.")] = SCHEMAS) -> None:
    """Fail if a kept document differs from the code, or a schema breaks an older version."""
    from services.documents import check

    problems = check(folder)
    for problem in problems:
        typer.echo(problem, err=True)
    raise typer.Exit(1 if problems else 0)


def main(*args: Any) -> None:
    """Run the command line; an error of ours is one line, not a traceback."""
    try:
        app(*args)
    except ValidationError as error:
        for problem in error.errors():
            name = "__".join(str(part) for part in problem["loc"]).upper()
            typer.echo(f"similis: setting SIMILIS_{name}: {problem['msg']}", err=True)
        sys.exit(2)
    except SimilisError as error:
        typer.echo(f"similis: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)


if __name__ == "__main__":
    main()
