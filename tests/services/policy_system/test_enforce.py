from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import cast

from edgeflex_flow.clock import SystemClock
from edgeflex_services.policy_system.enforce import AnyRequest, Door, check_password

TRIES = 6


def test_two_passwords_are_hashed_at_a_time() -> None:
    """Each takes 19 MB, and a processor."""
    guard, pairs = threading.Lock(), threading.Barrier(2)
    active, most = 0, 0

    def hashed(_name: str, _password: str) -> bool:
        nonlocal active, most
        with guard:
            active += 1
            most = max(most, active)
        pairs.wait(10.0)
        time.sleep(0.05)  # long enough that a third would come, if it could
        with guard:
            active -= 1
        return True

    system = SimpleNamespace(
        accounts=SimpleNamespace(check_password=hashed), tokens=SimpleNamespace(user=lambda _name: "ann")
    )

    async def try_all() -> list[bool]:
        state = SimpleNamespace(system=system, door=Door(SystemClock()))
        request = SimpleNamespace(app=SimpleNamespace(state=state), client=None)
        return await asyncio.gather(*(check_password(cast("AnyRequest", request), "ann", "x") for _ in range(TRIES)))

    assert asyncio.run(try_all()) == [True] * TRIES
    assert most == 2
