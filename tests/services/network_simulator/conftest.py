"""A simulated network for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_network import SimulatedNetwork


@pytest.fixture
def network(tmp_path: Path) -> Iterator[SimulatedNetwork]:
    """With four devices and a sink."""
    with SimulatedNetwork(tmp_path) as running:
        yield running
