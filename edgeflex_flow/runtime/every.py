"""Work that repeats while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(period_s: float, call: Callable[[], object], name: str) -> Iterator[None]:
    """Call `call` each `period_s` from a thread of that name, first after one period, until the block ends."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(period_s):
            call()

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
