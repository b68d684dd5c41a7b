r"""`edgeflex serve devices`: field devices on a 5G network, for authorised users.

    python -m edgeflex_services.devices --network network.yaml --callback-url https://dso.example:8630 \
        --certificate service.pem --key service.key --policy https://policies.example

`--network` names a file that says which standard the network speaks, and where. Users show tokens that the policy
system granted; with `--anyone` everybody may do everything, for trying it out on one machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from edgeflex_flow.clock import SystemClock
from edgeflex_flow.errors import FatalError
from edgeflex_flow.web import THIS_COMPUTER
from edgeflex_services.devices.answering import PATH
from edgeflex_services.devices.app import make_app
from edgeflex_services.devices.book import Book
from edgeflex_services.devices.desk import Desk
from edgeflex_services.devices.network_file import open_network
from edgeflex_services.devices.network_http import tls_context
from edgeflex_services.devices.store import Store
from edgeflex_services.devices.who import Door, OpenDoor, PolicyDoor
from edgeflex_services.program import log_to_errors, tell
from edgeflex_services.web import add_listening, listen

DEFAULT_PORT: Final = 8630
AUDIENCE: Final = "edgeflex-policy"
POLICY_TIMEOUT_S: Final = 5.0
FATAL: Final = 3


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Manage field devices on a 5G network.")
    add_listening(parser, DEFAULT_PORT)
    add = parser.add_argument
    add(
        "--network", type=Path, required=True, metavar="YAML", help="which standard the network speaks, and where it is"
    )
    add(
        "--callback-url", required=True, metavar="URL", help="where the network reaches this service: https://host:port"
    )
    add(
        "--data",
        type=Path,
        default=Path("~/edgeflex-data/devices.db"),
        metavar="FILE",
        help="SQLite file with devices, groups and who did what (default %(default)s)",
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--policy", metavar="URL", help="policy system whose tokens show who a user is")
    who.add_argument("--anyone", action="store_true", help="let anyone do everything; only on this computer itself")
    add("--policy-ca", metavar="PEM", help="authority of the policy system, if the system does not know it")
    add("--audience", default=AUDIENCE, help="claim `aud` that tokens must have (default %(default)s)")
    add("--patience", type=float, default=60.0, metavar="S", help="how long to ask a network that does not answer")
    add("--compare-every", type=float, default=300.0, metavar="S", help="how often to look what the network really has")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m edgeflex_services.devices") -> int:
    """The program, called `prog` in its usage. SIGTERM and SIGINT end it with exit code 0."""
    parser = _parser(prog)
    options = parser.parse_args(argv)
    if not 0 < options.patience <= 3600 or not 1 <= options.compare_every <= 86_400:
        parser.error("--patience is up to 3600 s, --compare-every from 1 to 86400 s")
    split = urlsplit(options.callback_url)
    if split.scheme not in ("http", "https") or not split.hostname or split.query or split.fragment:
        parser.error(f"--callback-url: expected https://host:port; got '{options.callback_url}'")
    if options.anyone and options.host not in THIS_COMPUTER:
        parser.error(f"--anyone only with --host {THIS_COMPUTER[0]}; got '{options.host}'")
    log_to_errors()
    try:
        _run(options)
    except FatalError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        return FATAL
    return 0


def _run(options: argparse.Namespace) -> None:
    clock = SystemClock()
    network = open_network(options.network, clock)
    if network.standard == "camara" and not options.callback_url.startswith("https://"):
        raise FatalError(f"--callback-url: CAMARA calls back by https:// alone; got '{options.callback_url}'")
    store = Store(options.data.expanduser())
    store.of_network(network.identity)
    book = Book(store, clock)
    desk = Desk(network, book, options.callback_url.rstrip("/") + PATH + "/callbacks", options.patience)
    if options.anyone:
        tell(event="warning", text="--anyone: everybody on this computer may do everything")
    listen(make_app(desk, _door(options), options.compare_every), options, on_end=book.let_go)


def _door(options: argparse.Namespace) -> Door:
    if options.anyone:
        return OpenDoor()
    client = httpx.AsyncClient(verify=tls_context(options.policy_ca), timeout=POLICY_TIMEOUT_S, trust_env=False)
    return PolicyDoor(client, options.policy, options.audience)


if __name__ == "__main__":
    sys.exit(main())
