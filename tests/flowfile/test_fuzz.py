"""Whatever a file holds, reading it gives a plan or FlowFileError, and the check gives problems."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import flow_kinds
from flow_kinds import FLOW, SITE
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import Plan, json_schema, load_flow, to_mermaid, to_svg

REGISTRY = flow_kinds.registry()
ENVIRONMENT = {"PORT": "4711", "USER": "me"}
FRAGMENT_LINES = (
    "kind: ¦from: ¦pmu¦slope¦{¦}¦[¦]¦,¦: ¦\n¦\n  ¦- ¦&a ¦*a¦!t ¦'¦\"¦|¦<<¦?¦#¦%¦\t¦\x00¦ü¦500ms¦1e999¦.nan",
    "null¦~¦-1",
    "true¦${site}¦${PORT}¦${NO}¦${x}¦${file:no}¦$¦{policy: p, field: f, default: 1, min: 0, max: 2}¦dead_letters",
    "history¦databus¦broker¦[pmu, slope]¦{in: pmu}¦1 Hz/s¦5 %¦99999999999999999999999999999999",
)
FRAGMENTS = [fragment for line in FRAGMENT_LINES for fragment in line.split("¦")]


@contextmanager
def files(flow: str, site: str) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        flow_file, site_file = Path(folder, "flow.yaml"), Path(folder, "site.yaml")
        flow_file.write_bytes(flow.encode("utf-8", errors="surrogatepass"))
        site_file.write_bytes(site.encode("utf-8", errors="surrogatepass"))
        yield flow_file, site_file


def load(flow: str, site: str) -> Plan | FlowFileError:
    """The plan, or the FlowFileError."""
    with files(flow, site) as (flow_file, site_file):
        try:
            return load_flow(flow_file, REGISTRY, site=site_file, environment=ENVIRONMENT, secrets="optional")
        except FlowFileError as error:
            return error


def assert_useful(found: Plan | FlowFileError) -> None:
    """A plan can be drawn, an error holds problems that can be shown."""
    if isinstance(found, FlowFileError):
        assert found.problems
        assert all(problem.message and problem.line >= 0 for problem in found.problems)
        assert str(found)
    else:
        assert to_mermaid(found)
        assert to_svg(found)


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """The text with a few pieces cut, doubled, or replaced by fragments of flow files."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 30)))
        middle = draw(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5), st.just(text[start:end] * 2)))
        text = text[:start] + middle + text[end:]
    return text


@given(mutated(FLOW), st.just(SITE))
@settings(max_examples=200)
def test_mutated_flows_give_a_plan_or_problems(flow: str, site: str) -> None:
    assert_useful(load(flow, site))


@given(mutated(SITE))
@settings(max_examples=150)
def test_mutated_sites_give_a_plan_or_problems(site: str) -> None:
    assert_useful(load(FLOW, site))


@given(st.text(max_size=200))
@example("\ud800")
def test_any_text_gives_problems(text: str) -> None:
    found = load(text, text)
    assert isinstance(found, FlowFileError)
    assert_useful(found)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(FRAGMENTS)
)
KEYS = st.one_of(
    st.sampled_from(["kind", "from", "port", "window", "column", "steps", "onset", "in"]), st.text(max_size=4)
)
TREES = st.recursive(
    LEAVES, lambda each: st.one_of(st.lists(each, max_size=3), st.dictionaries(KEYS, each, max_size=4)), max_leaves=8
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), TREES, max_size=3), TREES, TREES)
@settings(max_examples=80)
def test_any_tree_gives_a_plan_or_problems(nodes: object, params: object, extra: object) -> None:
    kinds = [
        f"  n_{kind}: {{kind: {kind}, from: {json.dumps(extra)}, column: {json.dumps(params)}}}"
        for kind in REGISTRY.nodes
    ]
    text = "\n".join(["flow: a", f"params: {json.dumps(params)}", "nodes:", *kinds, f"  x: {json.dumps(nodes)}"])
    assert_useful(load(text, f"site: s\nconnections: {json.dumps(nodes)}\n"))


def test_the_schema_does_not_change_between_runs() -> None:
    assert json_schema(REGISTRY) == json_schema(flow_kinds.registry())
