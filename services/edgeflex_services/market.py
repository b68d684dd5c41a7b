"""`edgeflex serve market`: a market of FlexOffers that accepts, rejects, clears by merit order and assigns.

    python -m edgeflex_services.market --port 8620 --demand=-5:0.10 --json

Offers come and are looked at by REST in three dialects (`/api/v1/edgeflex/offers`, `…/inea/…`, `…/goflex/…`). Once
accepted they are cleared every `--clear-every`: against the demand that `--demand` or REST give, and at `--wholesale`,
the price of any further energy. `--delay` and `--refuse` make the market late and unwilling, for tests.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import FlexOffer
from edgeflex_services.market_api import make_app
from edgeflex_services.market_book import Behaviour, MarketBook, Rules
from edgeflex_services.market_clearing import PRICE_LIMIT
from edgeflex_services.market_demand import Demand
from edgeflex_services.program import log_to_errors, tell
from edgeflex_services.web import add_listening, listen

DEFAULT_PORT: Final = 8620


def _demand(text: str) -> Demand:
    energy, _, price = text.partition(":")
    try:
        given = {"energy_kwh": float(energy), **({"price_eur_per_kwh": float(price)} if price else {})}
        return msgspec.convert(given, type=Demand)
    except (ValueError, msgspec.ValidationError) as error:
        raise argparse.ArgumentTypeError(f"expected KWH or KWH:EUR_PER_KWH, got '{text}' ({error})") from error


def _wholesale(text: str) -> float | None:
    if text == "none":
        return None
    try:
        price = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a price or none, got '{text}'") from error
    if not abs(price) < PRICE_LIMIT:
        raise argparse.ArgumentTypeError(f"expected a price below {PRICE_LIMIT:g} EUR/kWh, got '{text}'")
    return price


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Be a market of FlexOffers.")
    add_listening(parser, DEFAULT_PORT)
    add = parser.add_argument
    add("--interval", type=int, default=900, metavar="S", help="length of its intervals (default %(default)s)")
    add(
        "--demand",
        type=_demand,
        default=[],
        action="append",
        metavar="KWH[:PRICE]",
        help="energy that is needed in every interval, negative if there is too much (--demand=-5), and its price "
        "limit in EUR/kWh",
    )
    add(
        "--wholesale",
        type=_wholesale,
        default=0.0,
        metavar="PRICE",
        help="price of any further energy in EUR/kWh, or none (default %(default)s)",
    )
    add("--clear-every", type=float, default=1.0, metavar="S", help="time between two clearings (default %(default)s)")
    add("--max-duration", type=float, default=float("inf"), metavar="S", help="longest profile that is accepted")
    add("--delay", type=float, default=0.0, metavar="S", help="hold back all answers for so long")
    add("--refuse", type=float, default=0.0, metavar="SHARE", help="refuse this share of all offers")
    add("--seed", type=int, metavar="N", help="of the choice which ones are refused")
    add("--file", type=Path, metavar="DB", help="keep offers in this SQLite file (default: in memory)")
    add("--clients", type=Path, metavar="JSON", help="tokens by owner; `operator` may do everything (default: anyone)")
    add("--json", action="store_true", help="tell each change of an offer as a line of JSON")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m edgeflex_services.market") -> int:
    """The program, called `prog` in its usage. SIGTERM and SIGINT end it with exit code 0."""
    parser = _parser(prog)
    options = parser.parse_args(argv)
    if options.interval < 1 or not 0.01 <= options.clear_every <= 86_400:
        parser.error("--interval is at least 1 s, --clear-every from 0.01 to 86400 s")
    log_to_errors()
    rules = Rules(
        interval_s=options.interval,
        wholesale_eur_per_kwh=options.wholesale,
        max_duration_s=options.max_duration,
    )
    try:
        behaviour = msgspec.convert({"delay_s": options.delay, "refuse_share": options.refuse}, type=Behaviour)
        clients = None if options.clients is None else _read_clients(options.clients)
        book = MarketBook(rules, file=options.file, tell=_tell_json if options.json else _tell_text, seed=options.seed)
        book.behaviour = behaviour
        if options.demand:
            book.set_demand(options.demand)
        listen(make_app(book, clients, options.clear_every), options)
    except (FatalError, msgspec.ValidationError, OSError) as error:
        parser.error(str(error))
    return 0


def _read_clients(file: Path) -> dict[str, str]:
    try:
        clients = msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise FatalError(f"{file}: {error}") from error
    if not clients or not all(clients.values()):
        raise FatalError(f"{file}: expected names of owners and their tokens, none of them empty")
    return clients


def _tell_json(offer: FlexOffer) -> None:
    energy = None if offer.schedule is None else [each.energy_kwh for each in offer.schedule.slices]
    tell(
        event="offer",
        id=offer.id,
        state=offer.state,
        reason=offer.state_reason,
        offered_by=offer.offered_by,
        location=offer.location,
        energy_kwh=energy,
    )


def _tell_text(offer: FlexOffer) -> None:
    reason = f": {offer.state_reason}" if offer.state_reason else ""
    sys.stdout.write(f"{offer.id} of {offer.offered_by} {offer.state}{reason}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
