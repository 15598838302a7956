"""`similis keys`: make, list and revoke the API keys of the query service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from services.query.auth_keys import KeyFileError, new_key, read_keys, revoke_key
from services.query.auth_settings import Role

keys_app = typer.Typer(help="The query service's API keys; see docs/access.md.", no_args_is_help=True)

KeyFile = Annotated[
    Path,
    typer.Option("--file", envvar="SIMILIS_QUERY__AUTH__KEYS_FILE", help="The key file.", show_default=False),
]


@keys_app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is: a person or a program. It stands in the audit log.")],
    file: KeyFile,
    role: Annotated[Role, typer.Option(help="reader, operator or admin.")] = Role.READER,
    expires_days: Annotated[int, typer.Option(min=0, max=36_500, help="Days until it expires; 0: never.")] = 365,
) -> None:
    """Make a key and show it, this once: the file holds a hash alone. It works at once."""
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=expires_days) if expires_days else None
    try:
        key, secret = new_key(file, name, role, expires_at=until)
    except KeyFileError as error:
        raise _failed(str(error)) from error
    except ValidationError as error:
        raise typer.BadParameter("up to 64 letters, digits, spaces and . _ @ -", param_hint="NAME") from error
    ends = key.expires_at.date() if key.expires_at else "never"
    typer.echo(f"id {key.id}, {key.role}, expires {ends}; the key is shown only now:", err=True)
    typer.echo(secret)


@keys_app.command("list")
def list_keys(file: KeyFile) -> None:
    """Print the keys' ids, roles, dates and names; no secret is kept."""
    try:
        keys = read_keys(file)
    except KeyFileError as error:
        raise _failed(str(error)) from error
    now = datetime.now(UTC)
    for key in keys:
        ends = str(key.expires_at.date()) if key.expires_at else "never"
        state = "expired" if key.is_over(now) else "valid"
        typer.echo(f"{key.id}  {key.role:<8}  {state:<7}  made {key.created_at.date()}  expires {ends:<10}  {key.name}")


@keys_app.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="As `similis keys list` prints it.")], file: KeyFile) -> None:
    """Take a key out of the file. It, and every session that it began, ends at once."""
    try:
        was_there = revoke_key(file, key_id)
    except KeyFileError as error:
        raise _failed(str(error)) from error
    if not was_there:
        raise _failed("no key has this id")
    typer.echo(f"revoked {key_id}")


def _failed(text: str) -> typer.Exit:
    typer.echo(f"similis keys: {text}", err=True)
    return typer.Exit(1)
