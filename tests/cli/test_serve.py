from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from edgeflex_flow.cli import main


def test_a_missing_pandapower_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("edgeflex_services.powerflow")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pandapower", None)
    result = CliRunner().invoke(main, ["serve", "powerflow"])
    assert result.exit_code == 2
    assert "serve powerflow needs pandapower: pip install 'PATH/TO/edgeflex-flow[grid]'" in result.stderr


def test_a_market_without_litestar_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("edgeflex_services.market")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "litestar", None)
    result = CliRunner().invoke(main, ["serve", "market"])
    assert result.exit_code == 2
    assert "serve market needs litestar: pip install 'PATH/TO/edgeflex-flow[services]'" in result.stderr
