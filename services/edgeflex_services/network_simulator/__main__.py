"""`edgeflex serve network`: a mobile network that is not there, for clients of CAMARA's and 3GPP's APIs.

    python -m edgeflex_services.network_simulator --port 8640 --devices 100 --json

The APIs lie under the paths that their documents name (`/quality-on-demand/v1`, `/3gpp-as-session-with-qos/v1/…`).
`/simulation` tells all that is in the network, and lets coverage end, sessions break and notifications get lost.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from edgeflex_flow.clock import SystemClock
from edgeflex_flow.errors import FatalError
from edgeflex_services.network_simulator.app import make_app
from edgeflex_services.network_simulator.model import MOST_DEVICES, Setup, made_up_devices
from edgeflex_services.network_simulator.simulation import Simulation
from edgeflex_services.network_simulator.world import TakenError
from edgeflex_services.program import log_to_errors, tell
from edgeflex_services.web import add_listening, listen

DEFAULT_PORT: Final = 8640


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= MOST_DEVICES:
        raise argparse.ArgumentTypeError(f"a number from 0 to {MOST_DEVICES}; got {number}")
    return number


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Be a mobile network that is not there.")
    add_listening(parser, DEFAULT_PORT)
    add = parser.add_argument
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument(
        "--devices", type=_count, default=10, metavar="N", help="so many made up devices (default %(default)s)"
    )
    devices.add_argument("--file", type=Path, metavar="JSON", help="devices and profiles to begin with")
    add("--token", metavar="TEXT", help="that clients must show (default: anyone may come in)")
    add("--ca", type=Path, metavar="PEM", help="authority of those who get notifications, if the system knows it not")
    add("--seed", type=int, default=0, metavar="N", help="of all that is left to chance (default %(default)s)")
    add("--json", action="store_true", help="tell what happens in the network, a line of JSON each")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m edgeflex_services.network_simulator") -> int:
    """The program, called `prog` in its usage. SIGTERM and SIGINT end it with exit code 0."""
    parser = _parser(prog)
    options = parser.parse_args(argv)
    log_to_errors()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it tells of each request
    try:
        setup = _read(options.file) if options.file else Setup(devices=made_up_devices(options.devices, options.seed))
        simulation = Simulation(SystemClock(), setup, seed=options.seed, token=options.token, ca=options.ca)
        simulation.world.observe = _tell_json if options.json else _tell_text
        listen(make_app(simulation), options)
    except (FatalError, TakenError) as error:
        parser.error(str(error))
    return 0


def _read(file: Path) -> Setup:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Setup)
    except (OSError, msgspec.DecodeError) as error:
        raise FatalError(f"{file}: {error}") from error


def _tell_json(happened: Mapping[str, Any]) -> None:
    tell(**happened)


def _tell_text(happened: Mapping[str, Any]) -> None:
    sys.stdout.write(" ".join(f"{name}={value}" for name, value in happened.items()) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
