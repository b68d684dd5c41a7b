"""`edgeflex serve policy`: the policy system with its REST interface and its page for people."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import ServiceRequest
from edgeflex_services.policy_system.app import make_app
from edgeflex_services.policy_system.bus import EventBus, Listen, listen_problem
from edgeflex_services.policy_system.events import EventService, Ran
from edgeflex_services.policy_system.sole import TAKEN, SoleOnBus
from edgeflex_services.policy_system.system import ADMIN, AUDIENCE, PolicySystem
from edgeflex_services.program import log_to_errors, tell
from edgeflex_services.web import add_listening, listen

PORT = 8600
ADMIN_PASSWORD = "EDGEFLEX_POLICY_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable
DATABASE = "EDGEFLEX_POLICY_DATABASE"
BUS_USER, BUS_PASSWORD = "EDGEFLEX_POLICY_BUS_USER", "EDGEFLEX_POLICY_BUS_PASSWORD"
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
    add("--bus", metavar="URL", help=f"mqtt://… or mqtts://…; user and password by {BUS_USER}, {BUS_PASSWORD}")
    add("--ca", metavar="PEM", help="authority of the bus, if the system does not know it")
    listening: dict[str, Any] = {"action": _Listening, "dest": "listens", "default": [], "metavar": "GROUP=FILTER"}
    add("--listen", **listening, help="topics with reports to a group's policies, each message with a token")
    add("--trust", **listening, help="the same without tokens: the broker lets only the group publish there")
    parser.epilog = f"At the first start the administrator gets the password in {ADMIN_PASSWORD}, or one is made up."
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m edgeflex_services.policy_system") -> int:
    """The program, called `prog` in its usage. SIGTERM and SIGINT end it with exit code 0."""
    parser = _parser(prog)
    options = parser.parse_args(argv)
    log_to_errors()
    try:
        _run(options, os.environ)
    except WrongUsageError as error:
        parser.error(str(error))
    except FatalError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        return FATAL
    return 0


def _run(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    folder = options.data.expanduser()
    database = options.database or environment.get(DATABASE) or f"sqlite:///{folder / 'policy.db'}"
    if options.listens and options.bus is None:
        raise FatalError("--listen and --trust need a --bus")
    system = PolicySystem(database, folder, audience=options.audience)
    serving = threading.Event()

    def end() -> None:
        serving.wait()  # until signals are heeded
        os.kill(os.getpid(), signal.SIGTERM)

    def end_soon() -> None:
        threading.Thread(target=end, daemon=True).start()

    bus = sole = None
    try:
        told = system.start(admin_password=environment.get(ADMIN_PASSWORD), rotate_keys=options.rotate_keys)
        if told is not None:
            tell(event="administrator", user=ADMIN, password_from=str(told))
        _check_groups(options.listens, [group.name for group in system.accounts.groups()])
        if options.bus is not None:
            sole = _sole(system, on_lost=end_soon)
        bus = _bus(options, environment, system, on_deaf=end_soon)
        events = EventService(system, _no_bus if bus is None else bus.run_service)
        app = make_app(system, events)
        app.on_startup.append(serving.set)
        if bus is not None:
            bus.hear(events)
        listen(app, options, on_end=system.journal.end)
        if bus is not None and bus.is_deaf:
            raise FatalError(f"--bus: {bus.failure}")
        if sole is not None and sole.is_lost:
            raise FatalError(f"--bus: {TAKEN}")
    finally:
        if bus is not None:
            bus.close()
        if sole is not None:
            sole.close()
        system.close()


def _check_groups(listens: Sequence[Listen], known: Sequence[str]) -> None:
    """Raise WrongUsageError for a group that is not there. A new database has none: they are made once it is served."""
    missing = sorted({each.group for each in listens} - set(known))
    if missing and known:
        raise WrongUsageError(f"--listen, --trust: there is no group {', '.join(missing)}; known: {', '.join(known)}")
    if missing:
        tell(event="warning", text=f"there is no group yet: what is heard for {', '.join(missing)} meets no policy")


def _sole(system: PolicySystem, on_lost: Callable[[], None]) -> SoleOnBus:
    try:
        sole = SoleOnBus(system.engine, on_lost)
    except FatalError as error:
        raise FatalError(f"--bus: {error}") from error
    system.each_second.append(sole.check)
    return sole


def _bus(
    options: argparse.Namespace, environment: Mapping[str, str], system: PolicySystem, on_deaf: Callable[[], None]
) -> EventBus | None:
    if options.bus is None:
        return None
    try:
        return EventBus(
            system,
            options.bus,
            options.listens,
            on_deaf=on_deaf,
            tell=lambda event, **fields: tell(event=f"bus_{event}", **fields),
            user=environment.get(BUS_USER),
            password=environment.get(BUS_PASSWORD),
            ca=options.ca,
        )
    except FatalError as error:
        raise FatalError(f"--bus: {error}") from error


def _no_bus(_: str, request: ServiceRequest) -> Ran:
    return Ran(f"could not ask for {request.service}: no databus was given (--bus)", has_gone=False)


class WrongUsageError(FatalError):
    """The options do not fit what is there."""


class _Listening(argparse.Action):
    """Collects `GROUP=FILTER`, both of topics that need a token and of those that are trusted."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        group, _, topics = str(values).partition("=")
        if not group or not topics:
            parser.error(f"{option}: GROUP=FILTER, such as substation_12=edgeflex/substation_12/rocof/+")
        listen = Listen(group, topics, is_trusted=option == "--trust")
        problem = listen_problem(listen)
        if problem is not None:
            parser.error(f"{option}: {problem}")
        namespace.listens = [*namespace.listens, listen]


if __name__ == "__main__":
    sys.exit(main())
