"""`similis keys …`: the API keys of the query service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from services.query.access.users import Role

keys_app = typer.Typer(help="API keys of the query service: add, list, revoke.", no_args_is_help=True)

KeysFile = Annotated[
    Path,
    typer.Option(
        "--file", envvar="SIMILIS_QUERY__AUTH__KEYS_FILE", help="The file of hashed keys.", show_default=False
    ),
]


@keys_app.command()
def add(
    name: Annotated[
        str, typer.Argument(help="Whose key it is: letters, digits and . _ @ -; goes into records as key:NAME.")
    ],
    file: KeysFile,
    role: Annotated[Role, typer.Option(help="reader: search and see; operator: also label, ask for maps; admin: all.")],
    expires_days: Annotated[
        int | None, typer.Option(min=1, max=36500, help="Days until it ends; unset: never.")
    ] = None,
) -> None:
    """Make a key and print it, this once. A running service takes it at once. The file is made if it is missing."""
    import re

    from services.query.access.api_keys import NAME_PATTERN, changing, new_key

    if re.fullmatch(NAME_PATTERN, name) is None:
        raise typer.BadParameter("a name has 1 to 64 letters, digits and . _ @ - and begins with a letter or digit")
    now = datetime.now(UTC).replace(microsecond=0)
    ends = None if expires_days is None else now + timedelta(days=expires_days)
    key, record = new_key(name, role, created_at=now, expires_at=ends)
    with changing(file) as records:
        records.append(record)
    typer.echo(key)
    typer.echo(f"key {record.key_id} of {name}, {role.value}: keep it safe, it is not shown again", err=True)


@keys_app.command("list")
def list_keys(file: KeysFile) -> None:
    """Print all keys, without what opens the door: id, role, name, when made, when it ends."""
    from services.query.access.api_keys import read_keys

    for record in read_keys(file).keys:
        ends = (
            "never ends"
            if record.expires_at is None
            else f"{'ended' if record.is_over() else 'ends'} {record.expires_at:%Y-%m-%d}"
        )
        typer.echo(f"{record.key_id}  {record.role.value:<8}  {record.name}  made {record.created_at:%Y-%m-%d}  {ends}")


@keys_app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="Its id, see `similis keys list`.")], file: KeysFile) -> None:
    """Take a key out. A running service refuses it, and the sessions it opened, at once. Exit status 3: no such key."""
    from services.query.access.api_keys import changing, read_keys

    if all(record.key_id != key_id for record in read_keys(file).keys):
        typer.echo(f"there is no key {key_id}", err=True)
        raise typer.Exit(3)
    with changing(file) as records:
        records[:] = [record for record in records if record.key_id != key_id]
    typer.echo(f"key {key_id} is revoked", err=True)
