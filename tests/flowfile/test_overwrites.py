"""A sink cannot keep, without naming columns, what a source of its flow reads from the same connection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pytest
from flow_kinds import never_opened, no_state, pass_on
from msgspec import Meta

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import check_flow
from edgeflex_flow.flowfile.overwrites import _url
from edgeflex_flow.messages import Alarm, Samples
from edgeflex_flow.node import (
    ANY,
    ConnectionNode,
    Input,
    NodeConfig,
    OperatorNode,
    SinkNode,
    SourceNode,
    Wire,
    connection,
    message_wire,
    samples_wire,
)
from edgeflex_flow.registry import Registry


class ShelfConfig(NodeConfig, frozen=True, kw_only=True):
    """A store."""


class TakeConfig(NodeConfig, frozen=True, kw_only=True):
    """Reads a store."""

    store: Annotated[str, connection("store", "From where.")]


class PutConfig(NodeConfig, frozen=True, kw_only=True):
    """Keeps samples."""

    store: Annotated[str, connection("store", "Where.", keeps="columns")]
    columns: Annotated[tuple[str, ...], Meta(description="What it keeps.")] = ()


class PlainConfig(NodeConfig, frozen=True, kw_only=True):
    """Has no settings."""


def more(_config: PlainConfig, inputs: Mapping[str, Wire]) -> Wire:
    return samples_wire(*inputs["in"].columns, "z_v")


IN = {"in": Input((Samples,), step=pass_on)}
REGISTRY = Registry(
    [
        ConnectionNode("shelf", ShelfConfig, family="store", open=never_opened),
        SourceNode("take", TakeConfig, lambda _config, _inputs: samples_wire("x_v", "y_v"), never_opened),
        SourceNode("sense", PlainConfig, lambda _config, _inputs: samples_wire("x_v", "y_v"), never_opened),
        OperatorNode("more", PlainConfig, IN, more, no_state),
        OperatorNode("other", PlainConfig, IN, lambda _config, _inputs: samples_wire("z_v"), no_state),
        OperatorNode("look", PlainConfig, IN, lambda _config, _inputs: message_wire(Alarm), no_state),
        SinkNode("put", PutConfig, {"in": Input(ANY, needs=lambda config: config.columns)}, never_opened),
    ]
)
SITE = "site: here\nconnections:\n  history: {kind: shelf}\n  archive: {kind: shelf}\n"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(*nodes: str) -> list[str]:
    Path("site.yaml").write_text(SITE, encoding="utf-8")
    lines = "\n".join(f"  {node}" for node in nodes)
    Path("a.yaml").write_text(f"flow: a\nnodes:\n{lines}\n", encoding="utf-8")
    return [str(problem) for problem in check_flow(Path("a.yaml"), REGISTRY, site=Path("site.yaml")).problems]


STORED = "stored: {kind: take, store: history}"
KEPT = "kept: {kind: put, store: history, from: more}"


def test_columns_that_would_be_written_over_are_told_with_those_that_are_new() -> None:
    assert told(STORED, "more: {kind: more, from: stored}", KEPT) == [
        "a.yaml:5:43: node 'kept': would write 'x_v', 'y_v' over what node 'stored' reads from the same connection "
        "'history'; name in 'columns' only what is new; known: z_v"
    ]


def test_source_is_found_behind_other_sources_and_operators() -> None:
    live, more_of = "live: {kind: sense}", "more: {kind: more, from: [live, again]}"
    assert len(told(STORED, live, "again: {kind: more, from: stored}", more_of, KEPT)) == 1


@pytest.mark.parametrize(
    "kept",
    [
        KEPT.replace("history", "archive"),
        KEPT.replace("from", "columns: [z_v], from"),
        KEPT.replace("from", "columns: [x_v], from"),  # named: somebody wants it so
    ],
)
def test_other_connections_and_named_columns_are_let_through(kept: str) -> None:
    assert told(STORED, "more: {kind: more, from: stored}", kept) == []


@pytest.mark.parametrize("kind", ["other", "look"])
def test_new_columns_and_messages_are_let_through(kind: str) -> None:
    assert told(STORED, f"more: {{kind: {kind}, from: stored}}", KEPT) == []


def test_dead_letters_and_sources_of_something_else_are_let_through() -> None:
    assert told(STORED, "more: {kind: sense}", KEPT.replace("more", "[more, dead_letters]")) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{kind: sqlite, path: h.db}", "{kind: sqlite, path: ./data/../h.db, keep: 30d}"),
        ("{kind: sqlite, path: h.db}", "{kind: sqlite, path: link.db, synchronous: full}"),
        ("{kind: parquet, path: history}", "{kind: parquet, path: history/}"),
        (
            "{kind: postgres, url: 'postgresql://db.example/grid'}",
            "{kind: postgres, url: 'postgres://DB.example:5432/grid', username: other, tls: require}",
        ),
        (
            "{kind: influxdb, url: 'http://localhost:8086', database: grid}",
            "{kind: influxdb, url: 'http://127.0.0.1:8086/', database: grid}",
        ),
    ],
)
def test_two_names_of_one_store_are_one(one: str, other: str) -> None:
    Path("link.db").symlink_to("h.db")
    Path("data").mkdir()
    [problem] = told_of_stores(one, other)
    assert "reads from connection 'one', which is the same as 'other'; name in 'columns'" in problem


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{kind: sqlite, path: h.db}", "{kind: sqlite, path: g.db}"),
        ("{kind: sqlite, path: h}", "{kind: parquet, path: h}"),
        (
            "{kind: postgres, url: 'postgresql://db.example/grid'}",
            "{kind: postgres, url: 'postgresql://db.example/grid', schema: other}",
        ),
        (
            "{kind: postgres, url: 'postgresql://db.example/grid'}",
            "{kind: postgres, url: 'postgresql://db.example/test'}",
        ),
        (
            "{kind: influxdb, url: 'http://db:8086', database: grid}",
            "{kind: influxdb, url: 'http://db:8086', database: test}",
        ),
        (
            "{kind: influxdb, url: 'http://db:8086', database: grid}",
            "{kind: influxdb, url: 'http://db:8087', database: grid}",
        ),
        ("{kind: sqlite, path: '${ONE}'}", "{kind: sqlite, path: '${OTHER}'}"),
    ],
)
def test_two_stores_are_two(one: str, other: str) -> None:
    assert told_of_stores(one, other) == []


def told_of_stores(one: str, other: str) -> list[str]:
    Path("site.yaml").write_text(f"site: here\nconnections:\n  one: {one}\n  other: {other}\n", encoding="utf-8")
    flow = """
flow: again
nodes:
  stored: {kind: store_read, store: one, columns: [frequency_hz]}
  rocof: {kind: rocof, from: stored}
  kept: {kind: store_write, store: other, from: [rocof]}
"""
    Path("a.yaml").write_text(flow, encoding="utf-8")
    checked = check_flow(Path("a.yaml"), shipped_registry(), site=Path("site.yaml"), environment={})
    return [str(problem) for problem in checked.problems]


def test_shipped_kinds_are_checked() -> None:
    Path("site.yaml").write_text("site: here\nconnections: {history: {kind: sqlite, path: h.db}}\n", encoding="utf-8")
    flow = """
flow: again
nodes:
  stored: {kind: store_read, store: history, columns: [frequency_hz]}
  rocof: {kind: rocof, from: stored}
  kept: {kind: store_write, store: history, from: [rocof]}
"""
    Path("a.yaml").write_text(flow, encoding="utf-8")
    [problem] = check_flow(Path("a.yaml"), shipped_registry(), site=Path("site.yaml")).problems
    assert "would write 'frequency_hz' over what node 'stored' reads" in str(problem)
    assert problem.known == ("rocof_delay_s", "rocof_hz_per_s")


def test_url_that_is_none_means_itself() -> None:
    assert _url("http://[", {"http": 80}) == "http://["
    assert _url("http://a:99999", {"http": 80}) == "http://a:99999"
