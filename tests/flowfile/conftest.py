"""Checks flow texts against the kinds of `flow_kinds`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import flow_kinds
import pytest

from edgeflex_flow.flowfile import CheckedFlow, check_flow
from edgeflex_flow.flowfile.load import Secrets


class Check(Protocol):
    """`check(flow, site)`: what the check finds; texts are written to `flow.yaml` and `site.yaml`."""

    def __call__(
        self,
        flow: str = flow_kinds.FLOW,
        site: str | None = flow_kinds.SITE,
        *,
        params: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        secrets: Secrets = "optional",
    ) -> CheckedFlow: ...


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.chdir(tmp_path)

    def check_text(
        flow: str = flow_kinds.FLOW,
        site: str | None = flow_kinds.SITE,
        *,
        params: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        secrets: Secrets = "optional",
    ) -> CheckedFlow:
        Path("flow.yaml").write_text(flow, encoding="utf-8")
        if site is not None:
            Path("site.yaml").write_text(site, encoding="utf-8")
        return check_flow(
            Path("flow.yaml"),
            flow_kinds.registry(),
            site=None if site is None else Path("site.yaml"),
            params=params,
            environment=environment or {},
            secrets=secrets,
        )

    return check_text
