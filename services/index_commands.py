"""`similis index`: the embedded vector engine's owner process, its snapshots and their restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.errors import ConfigurationError
from shared.settings import QdrantSettings, SimilisSettings


class _Settings(SimilisSettings):
    qdrant: QdrantSettings = QdrantSettings()


index_app = typer.Typer(help="The embedded vector engine: run it, take a snapshot, restore one.")


@index_app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    data: Annotated[Path | None, typer.Option(help="Folder of the embedded engine.")] = None,
    socket: Annotated[Path | None, typer.Option(help="Unix socket to serve on.")] = None,
    monitoring_host: Annotated[str, typer.Option(help="Address of /metrics.")] = "127.0.0.1",
    monitoring_port: Annotated[int, typer.Option(help="Port of /metrics; 0: any free one.")] = 0,
    endpoint_file: Annotated[Path | None, typer.Option(help="Where to write the bound addresses as JSON.")] = None,
) -> None:
    """Run the embedded vector engine's one owner process, with --data and --socket; or one of the commands."""
    if context.invoked_subcommand is not None:
        return
    if data is None or socket is None:
        raise typer.BadParameter("to run the engine give --data and --socket")
    from shared.vector_index import serve_edge

    serve_edge(
        data,
        socket,
        monitoring_host=monitoring_host,
        monitoring_port=monitoring_port,
        endpoint_file=endpoint_file,
    )


@index_app.command()
def snapshot(
    target: Annotated[Path, typer.Argument(help="A new folder, or a new file that ends in .tar.")],
    socket: Annotated[
        Path | None, typer.Option(help="The running engine's socket; default: SIMILIS_QDRANT__SOCKET.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Longest wait for it.")] = 3600.0,
) -> None:
    """Copy all collections and aliases, consistent and lasting, while searches are answered."""
    from shared.vector_index.edge_client import take_snapshot

    points = take_snapshot(socket or _socket(_Settings().qdrant), target.absolute(), timeout_s=timeout_s)
    for name, count in points.items():
        typer.echo(f"{name}  {count} points")
    typer.echo(f"{len(points)} collections in {target}")


@index_app.command()
def restore(
    source: Annotated[Path, typer.Argument(help="A snapshot: a folder or a .tar file.")],
    data: Annotated[Path, typer.Option(help="Folder of the embedded engine, which must not run.")],
    replace: Annotated[bool, typer.Option("--replace", help="Lose what the folder holds.")] = False,
) -> None:
    """Check a snapshot, every file and every collection of it, and put it in the engine's folder."""
    from shared.vector_index.snapshots import restore as put_back

    manifest = put_back(source, data, replace=replace)
    for collection in manifest.collections:
        typer.echo(f"{collection.name}  {collection.points} points")
    typer.echo(f"{len(manifest.collections)} collections of {manifest.made_at} in {data}")


def _socket(settings: QdrantSettings) -> Path:
    if settings.url is not None:
        raise ConfigurationError("a Qdrant server makes its own snapshots: see docs/index.md")
    if settings.socket is None:
        raise ConfigurationError("give --socket, or set SIMILIS_QDRANT__SOCKET: the running engine makes the snapshot")
    return settings.socket
