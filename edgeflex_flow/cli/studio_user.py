"""`edgeflex studio-user`: who may sign in to the live page of a site."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeflex_flow.errors import FatalError, how_to_install

if TYPE_CHECKING:
    from edgeflex_flow.studio.users import User

USERS = click.option(
    "--users",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file that the site file names under `studio: {users: FILE}`.",
)


@click.group()
def studio_user() -> None:
    """Say who may sign in to the live page of a site, and who may operate there."""
    try:
        import argon2  # noqa: F401, PLC0415 - only asked for
    except ModuleNotFoundError as error:
        raise click.UsageError(f"studio-user needs argon2: {how_to_install('studio')}") from error


@studio_user.command()
@click.argument("name")
@click.option("--operate", is_flag=True, help="May also restart, stop and start flows and replay dead letters.")
@USERS
def add(name: str, *, operate: bool, file: Path) -> None:
    """Add NAME, or give another password or other rights. Asks for the password, or reads a line of standard input.

    A password has 12 to 200 characters. Who is signed in with the password of before is signed out.

    Exit codes: 0 written; 1 the password or the file cannot be used; 2 wrong usage.
    """
    from edgeflex_flow.passwords import LONGEST_PASSWORD, SHORTEST_PASSWORD, Passwords  # noqa: PLC0415
    from edgeflex_flow.studio.users import NAME, User, write_users  # noqa: PLC0415

    if not NAME.fullmatch(name):
        raise click.BadParameter("letters, digits and . _ @ -, 64 at most", param_hint="NAME")
    limits = f"{SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
    if sys.stdin.isatty():
        password = click.prompt(f"Password, {limits}", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise click.ClickException(f"a password has {limits}; got {len(password)}; nothing was written")
    users = _known(file)
    users[name] = User(Passwords().hash(password), operate)
    write_users(file, users)
    click.echo(f"{name} may {'look and operate' if operate else 'look'}")


@studio_user.command()
@click.argument("name")
@USERS
def remove(name: str, *, file: Path) -> None:
    """Remove NAME, who is signed out at once."""
    from edgeflex_flow.studio.users import write_users  # noqa: PLC0415

    users = _known(file)
    if users.pop(name, None) is None:
        raise click.ClickException(f"there is no user '{name}'; known: {', '.join(users) or 'none'}")
    write_users(file, users)


@studio_user.command("list")
@USERS
def list_users(file: Path) -> None:
    """Tell who may do what."""
    for name, user in sorted(_known(file).items()):
        click.echo(f"{name}\t{'operate' if user.operate else 'look'}")


def _known(file: Path) -> dict[str, User]:
    from edgeflex_flow.studio.users import read_users  # noqa: PLC0415

    try:
        return read_users(file) if file.exists() else {}
    except FatalError as error:
        raise click.ClickException(str(error)) from error
