"""`edgeflex serve policy`: the policy system with its REST interface and its page for people."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeflex_flow.errors import FatalError
from edgeflex_services.policy_system.app import make_app
from edgeflex_services.policy_system.system import AUDIENCE, PolicySystem
from edgeflex_services.program import tell
from edgeflex_services.web import add_listening, listen

PORT = 8600
ADMIN_PASSWORD = "EDGEFLEX_POLICY_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable
DATABASE = "EDGEFLEX_POLICY_DATABASE"
FATAL = 3


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Keep policies, serve them to flows, decide by them.")
    add_listening(parser, PORT)
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        default=Path("~/edgeflex-data/policy"),
        metavar="FOLDER",
        help="keys, and the database if no other is named (default %(default)s)",
    )
    database = f"postgresql://… or sqlite:///FILE; rather by {DATABASE} if it holds a password"
    add("--database", metavar="URL", help=database)
    add("--audience", default=AUDIENCE, help="claim `aud` that tokens must have (default %(default)s)")
    add("--rotate-keys", action="store_true", help="sign tokens with a new key from now on")
    parser.epilog = f"At the first start the administrator gets the password in {ADMIN_PASSWORD}, or one is made up."
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m edgeflex_services.policy_system") -> int:
    """The program, called `prog` in its usage. SIGTERM and SIGINT end it with exit code 0."""
    options = _parser(prog).parse_args(argv)
    try:
        _run(options, os.environ)
    except FatalError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        return FATAL
    return 0


def _run(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    folder = options.data.expanduser()
    database = options.database or environment.get(DATABASE) or f"sqlite:///{folder / 'policy.db'}"
    system = PolicySystem(database, folder, audience=options.audience)
    try:
        told = system.start(admin_password=environment.get(ADMIN_PASSWORD), rotate_keys=options.rotate_keys)
        if told is not None:
            tell(event="administrator", user="admin", password_file=str(told))
        listen(make_app(system), options)
    finally:
        system.close()


if __name__ == "__main__":
    sys.exit(main())
