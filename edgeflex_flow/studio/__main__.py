"""`python -m edgeflex_flow.studio LEVEL FORM FD`: the studio, as the supervisor starts it, with the level and form of
its logs. It ends with its channel."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from pathlib import Path

from edgeflex_flow.clock import SystemClock
from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.log_lines import set_up_logs
from edgeflex_flow.studio import LOG
from edgeflex_flow.studio.app import make_app
from edgeflex_flow.studio.link import Link, connect
from edgeflex_flow.studio.model import Model
from edgeflex_flow.studio.state import Attempts, Studio
from edgeflex_flow.studio.users import Door
from edgeflex_flow.web import THIS_COMPUTER, bind, serve, tls_of, url_of

EXIT_FATAL = 3


def run(link: Link) -> None:
    """Serve until the supervisor ends. Raises FatalError."""
    begin = link.begin()
    settings = begin.settings
    stop = threading.Event()
    tls = tls_of(_path(settings.certificate), _path(settings.key))
    door = Door(_path(settings.users))
    studio = Studio(begin.site, settings.base_path, Model(), link, door, Attempts(SystemClock()))
    listening = bind(settings.host, settings.port)
    url = url_of(settings.host, listening, tls) + settings.base_path
    if tls is None and settings.host not in THIS_COMPUTER and not settings.proxies:
        LOG.warning("%s without TLS: passwords can be read on the way", settings.host)

    def started() -> None:
        link.serve(studio.model, end)
        link.tell_serving(url)

    def end() -> None:
        studio.is_ending = True
        stop.set()

    def ending() -> None:
        end()
        studio.model.wake()  # streams end at once

    serve(make_app(studio, settings.proxies), listening, stop, tls=tls, on_start=started, on_end=ending)


OOM_SCORE = "800"
"""Where memory runs out, the system ends this before any flow."""


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def main(log_level: str, log_format: str, descriptor: int) -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    set_up_logs(log_level, log_format)
    try:
        run(connect(descriptor))
    except EdgeflexError as error:
        LOG.error("%s", error)
        sys.exit(EXIT_FATAL)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
