"""`edgeflex acl`: what a broker has to allow, and no more."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import click

from edgeflex_flow.cli.places import Definition
from edgeflex_flow.cli.site_plans import plans_of, site_file
from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.flowfile import Plan
from edgeflex_flow.flowfile.network import BusUser, bus_users
from edgeflex_flow.registry import Registry

SALT_BYTES = 12
"""mosquitto reads no other length."""
ITERATIONS = 10_000

_GROUP = re.compile(r"[^/+#]+")

_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f]|^\s|\s$")
"""What would end a line, or what mosquitto would cut off."""


@click.command()
@click.argument("site", metavar="SITE")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE…]")
@click.option("--only", type=click.Choice(["acl", "passwords"]), help="Print one of the two files, to redirect it.")
@click.option("--connection", help="Name of the connection in the site file; needed with --only if there are several.")
@click.option(
    "--iterations",
    type=click.IntRange(1, 10_000_000),
    default=ITERATIONS,
    show_default=True,
    help="Rounds of hashing: what a guess of a password costs, and each login the broker.",
)
@click.option("--policy-user", metavar="USER", help="Also the rights of the policy system, which logs in as USER.")
@click.option(
    "--listen",
    "listens",
    multiple=True,
    metavar="GROUP=FILTER",
    help="What `edgeflex serve policy` has as --listen and --trust; goes with --policy-user.",
)
@click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter: -D area=north.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_obj
def acl(
    registry: Registry,
    *,
    site: str,
    files: tuple[Path, ...],
    only: Literal["acl", "passwords"] | None,
    connection: str | None,
    iterations: int,
    policy_user: str | None,
    listens: tuple[str, ...],
    definitions: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Print an access list and password entries for mosquitto that allow what the flows of a site use.

    SITE is a site file, or the name of one in sites/ or flows/sites/. The flows are those that it lists, or those of
    the FILEs. Each user may publish on the topics of its nodes and receive what its nodes subscribe to. A level of a
    topic that a message fills in, such as {device}, is open to any text.

    With --policy-user the policy system may hear what --listen names, and publish requests for services and answers of
    those groups.

    Passwords are hashed (PBKDF2-SHA512, each with a salt of its own). One that is not there now, because it stands in a
    secret of the site, is left out with a note how to add it.

    Opens nothing. Exit codes: 0 printed; 1 something is wrong or not there; 2 wrong usage.
    """
    plans = plans_of(site_file(site), files, registry, definitions)
    try:
        users = _of_connection(bus_users(plans), connection)
        if policy_user is not None or listens:
            users.append(_policy_system(users, policy_user, listens))
        for user in users:
            _check_writable(user)
    except (EdgeflexError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(_as_json(plans, users, iterations), indent=2, ensure_ascii=False))
        return
    if only is not None and len({user.url for user in users}) > 1:
        names = ", ".join(dict.fromkeys(user.connection for user in users))
        raise click.UsageError(f"several brokers: choose one by --connection; known: {names}")
    parts: dict[str, Iterable[str]] = {
        "acl": acl_lines(plans, users),
        "passwords": password_lines(users, iterations),
    }
    chosen = ["\n".join(lines) for name, lines in parts.items() if only in (None, name)]
    click.echo("\n\n".join(text for text in chosen if text))
    if only != "acl":
        for user in users:
            if user.user is not None and user.password is None:
                click.echo(f"note: {user.user}: {_how_to_add(user.user)}", err=True)


def _of_connection(users: list[BusUser], connection: str | None) -> list[BusUser]:
    if not users:
        raise ValueError("no node of these flows uses a broker")
    if connection is None:
        return users
    urls = {user.url for user in users if user.connection == connection}
    if not urls:
        known = ", ".join(dict.fromkeys(user.connection for user in users))
        raise ValueError(f"no node uses a broker by the connection '{connection}'; known: {known}")
    return [user for user in users if user.url in urls]


def _policy_system(users: Sequence[BusUser], name: str | None, listens: Sequence[str]) -> BusUser:
    """The user of `edgeflex serve policy` at the flows' broker. Raises click.UsageError."""
    if name is None or not listens:
        raise click.UsageError("--policy-user and --listen go together: who logs in, and what is heard")
    if len({user.url for user in users}) > 1:
        names = ", ".join(dict.fromkeys(user.connection for user in users))
        raise click.UsageError(f"several brokers: say by --connection at which the policy system is; known: {names}")
    if any(user.user == name for user in users):
        raise click.UsageError(f"--policy-user: flows log in as '{name}' too; give the policy system a user of its own")
    found = BusUser("policy system", users[0].url, name, None)
    for text in listens:
        group, _, topics = text.partition("=")
        if not _GROUP.fullmatch(group) or not topics:
            raise click.UsageError(f"--listen: GROUP=FILTER, such as south=edgeflex/south/reports/+; got '{text}'")
        found.subscribe.add(topics)
        found.publish |= {f"edgeflex/{group}/service/+", f"edgeflex/{group}/answer/+"}
    return found


def _check_writable(user: BusUser) -> None:
    """ValueError for what a line of the files cannot hold: it would be cut off, or become lines of its own."""
    for text in (user.url, user.user or "", *user.publish, *user.subscribe):
        if _UNWRITABLE.search(text):
            raise ValueError(f"{text!r} cannot stand in a line of an access list")
    if user.user is not None and (":" in user.user or user.user.startswith("#") or not user.user):
        raise ValueError(f"{user.user!r} cannot stand in a file of passwords")


def acl_lines(plans: Sequence[Plan], users: Sequence[BusUser]) -> Iterator[str]:
    """An access list for `acl_file` of mosquitto."""
    yield f"# acl_file of mosquitto for the flows {', '.join(plan.name for plan in plans)} of site {plans[0].site}"
    # Those without a name come first: each `topic` counts for the `user` above it.
    for user in sorted(users, key=lambda each: each.user is not None):
        yield ""
        yield f"# {user.connection} {user.url}"
        yield "# clients without a user name (allow_anonymous true)" if user.user is None else f"user {user.user}"
        yield from (f"topic {access} {topic}" for topic, access in _accesses(user))


def _accesses(user: BusUser) -> list[tuple[str, str]]:
    def access(topic: str) -> str:
        return "readwrite" if topic in user.publish & user.subscribe else "write" if topic in user.publish else "read"

    return [(topic, access(topic)) for topic in sorted(user.publish | user.subscribe)]


def password_lines(users: Sequence[BusUser], iterations: int) -> Iterator[str]:
    """Entries for `password_file` of mosquitto. No comments: `mosquitto_passwd` takes them for a damaged file."""
    for user in users:
        if user.user is not None and user.password is not None:
            yield password_entry(user.user, user.password, iterations)


def _how_to_add(user: str) -> str:
    return f"its password is not there; add it: mosquitto_passwd FILE '{user}'"


def password_entry(user: str, password: str, iterations: int = ITERATIONS) -> str:
    """A line that lets a user log in, as mosquitto 2 reads it.

    >>> password_entry("pmu", "secret", 100).split("$")[:3]
    ['pmu:', '7', '100']
    """
    salt = secrets.token_bytes(SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    return f"{user}:$7${iterations}${b64encode(salt).decode()}${b64encode(digest).decode()}"


def _as_json(plans: Sequence[Plan], users: Sequence[BusUser], iterations: int) -> dict[str, object]:
    return {
        "site": plans[0].site,
        "flows": [plan.name for plan in plans],
        "users": [
            {
                "connection": user.connection,
                "url": user.url,
                "user": user.user,
                "publish": sorted(user.publish),
                "subscribe": sorted(user.subscribe),
                "password_entry": None
                if user.user is None or user.password is None
                else password_entry(user.user, user.password, iterations),
            }
            for user in users
        ],
    }
