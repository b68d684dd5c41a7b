"""`edgeflex serve`: programs that stand beside a flow."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from edgeflex_flow.errors import how_to_install
from edgeflex_services.frequency_grid import main as frequency_grid_service
from edgeflex_services.pmu_simulator import main as pmu_simulator


@contextmanager
def _extra(service: str, extra: str, libraries: Sequence[str]) -> Iterator[None]:
    """Import a service that is not everywhere, and takes its time, only when it is asked for."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in libraries:
            raise
        raise click.UsageError(f"serve {service} needs {missing}: {how_to_install(extra)}") from error


@click.group()
def serve() -> None:
    """Run a program that stands beside a flow."""


@serve.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def pmu(arguments: tuple[str, ...]) -> None:
    """Be ten PMUs, or a PDC: a recorded disturbance of the IEEE 39-bus system (--help tells the options)."""
    sys.exit(pmu_simulator(arguments, prog="edgeflex serve pmu"))


@serve.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def powerflow(arguments: tuple[str, ...]) -> None:
    """Be a grid: publish its voltages over MQTT and obey set-points (--help tells the options)."""
    with _extra("powerflow", "grid", ("pandapower",)):
        from edgeflex_services.powerflow_service import main as powerflow_service  # noqa: PLC0415
    sys.exit(powerflow_service(arguments, prog="edgeflex serve powerflow"))


@serve.command("frequency-grid", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def frequency_grid(arguments: tuple[str, ...]) -> None:
    """Be a grid of one or two areas whose frequency can be held: PMU frames out, set-points in over MQTT (--help)."""
    sys.exit(frequency_grid_service(arguments, prog="edgeflex serve frequency-grid"))


@serve.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def policy(arguments: tuple[str, ...]) -> None:
    """Keep policies, serve them to flows, and decide by them, with a page for people (--help tells the options)."""
    with _extra("policy", "services", ("litestar", "uvicorn", "sqlalchemy", "jinja2", "argon2", "jwt")):
        from edgeflex_services.policy_system.__main__ import main as policy_system  # noqa: PLC0415
    sys.exit(policy_system(arguments, prog="edgeflex serve policy"))


@serve.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def market(arguments: tuple[str, ...]) -> None:
    """Be a market of FlexOffers: accept, clear by merit order, assign (--help tells the options)."""
    with _extra("market", "services", ("litestar", "uvicorn")):
        from edgeflex_services.market import main as market_service  # noqa: PLC0415
    sys.exit(market_service(arguments, prog="edgeflex serve market"))


@serve.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def network(arguments: tuple[str, ...]) -> None:
    """Be a mobile network that is not there, for clients of CAMARA's and 3GPP's APIs (--help tells the options)."""
    with _extra("network", "services", ("litestar", "uvicorn", "httpx")):
        from edgeflex_services.network_simulator.__main__ import main as network_simulator  # noqa: PLC0415
    sys.exit(network_simulator(arguments, prog="edgeflex serve network"))


@serve.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def devices(arguments: tuple[str, ...]) -> None:
    """Manage field devices on a 5G network, by CAMARA or 3GPP (--help tells the options)."""
    with _extra("devices", "services", ("litestar", "uvicorn", "httpx", "jwt")):
        from edgeflex_services.devices.__main__ import main as device_service  # noqa: PLC0415
    sys.exit(device_service(arguments, prog="edgeflex serve devices"))
