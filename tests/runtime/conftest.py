from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from policy_server import PolicyServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PolicyServer]:
    with PolicyServer(tmp_path) as made:
        yield made
