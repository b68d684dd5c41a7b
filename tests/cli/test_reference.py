"""`edgeflex reference`: the pages of docs/reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from flow_kinds import NODES

from edgeflex_flow.cli.reference import MARK, reference

Invoke = Callable[..., Result]


def test_every_kind_has_a_page_and_stands_in_the_index(invoke: Invoke) -> None:
    assert invoke(reference, "--out", "pages").exit_code == 0
    index = Path("pages/index.md").read_text(encoding="utf-8")
    names = {path.name for path in Path("pages").iterdir()}
    assert names == {"index.md", "connection_broker.md", "connection_table.md"} | {
        f"{node.kind}.md" for node in NODES if node.kind not in ("broker", "table")
    }
    assert [name for name in names - {"index.md"} if f"]({name})" not in index] == []


def test_a_page_is_markdown_of_all_that_the_kind_tells(invoke: Invoke) -> None:
    invoke(reference, "--out", "pages")
    text = Path("pages/meter.md").read_text(encoding="utf-8")
    assert text.startswith(f"{MARK}\n\n# `meter`\n\n*source, from `flow_kinds`*\n\nMeasures.")
    assert "\n## Output\n\nSamples with frequency and angle;\nmore columns under `channels`.\n" in text
    assert "\n| `port` | an integer | from 1 to 65535 | **required** | UDP port. |\n" in text
    assert text.endswith("\n## Example\n\n```python\n>>> MeterConfig(port=4713).port\n4713\n```\n")


def test_a_check_of_fresh_pages_is_content(invoke: Invoke) -> None:
    invoke(reference, "--out", "pages")
    assert invoke(reference, "--out", "pages", "--check").exit_code == 0


def test_a_check_tells_what_is_not_up_to_date_and_writes_nothing(invoke: Invoke) -> None:
    invoke(reference, "--out", "pages")
    changed = Path("pages/slope.md").read_text(encoding="utf-8").replace("500ms", "1s")
    Path("pages/slope.md").write_text(changed, encoding="utf-8")
    Path("pages/pair.md").unlink()
    Path("pages/gone.md").write_text(f"{MARK}\n", encoding="utf-8")
    result = invoke(reference, "--out", "pages", "--check")
    assert result.exit_code == 1
    assert "pages/gone.md: its kind is no more\n" in result.output
    assert "pages/pair.md: missing\n" in result.output
    assert "pages/slope.md: not up to date\n" in result.output
    assert "\n+| `window` |" in result.output
    assert "3 pages in pages are not up to date" in result.output
    assert not Path("pages/pair.md").exists()


def test_writing_brings_pages_up_to_date_and_leaves_hand_written_ones(invoke: Invoke) -> None:
    invoke(reference, "--out", "pages")
    Path("pages/pair.md").unlink()
    Path("pages/gone.md").write_text(f"{MARK}\n", encoding="utf-8")
    Path("pages/notes.md").write_text("mine", encoding="utf-8")
    assert invoke(reference, "--out", "pages").output == "pages: 13 pages, 2 changed\n"
    assert Path("pages/pair.md").exists()
    assert not Path("pages/gone.md").exists()
    assert Path("pages/notes.md").exists()


def test_a_missing_folder_is_not_up_to_date(invoke: Invoke) -> None:
    assert invoke(reference, "--out", "none", "--check").exit_code == 1
