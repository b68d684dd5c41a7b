"""Which files a command works on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from edgeflex_flow.cli.selection import Work, work_to_run


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two flows and two sites with labels."""
    (tmp_path / "sites").mkdir()
    for name, priority in (("events", "high"), ("limits", "low")):
        (tmp_path / f"{name}.yaml").write_text(f"flow: {name}\nlabels: {{priority: {priority}}}\nnodes: {{}}\n")
    for name, region in (("s12", "north"), ("s40", "south")):
        text = f"site: {name}\nlabels: {{region: {region}}}\nflows: [events, limits]\n"
        (tmp_path / "sites" / f"{name}.yaml").write_text(text)
    return tmp_path


def sites(repository: Path) -> list[Path]:
    return sorted((repository / "sites").glob("*.yaml"))


def names(work: Work) -> list[str]:
    return [file.stem for file in work.files]


def refusal(files: list[Path], wanted: Mapping[str, str], site: Path | None = None) -> str:
    with pytest.raises(click.UsageError) as caught:
        work_to_run(files, site, wanted)
    return caught.value.message


def test_flow_files_run_at_the_site_that_is_given(repository: Path) -> None:
    files = [repository / "events.yaml", repository / "limits.yaml"]
    assert work_to_run(files, sites(repository)[0], {}) == Work(tuple(files), sites(repository)[0])


def test_a_site_file_stands_for_the_flows_that_it_lists(repository: Path) -> None:
    work = work_to_run([sites(repository)[1]], None, {})
    assert names(work) == ["events", "limits"]
    assert work.site == sites(repository)[1]


def test_labels_choose_one_of_several_sites(repository: Path) -> None:
    work = work_to_run(sites(repository), None, {"region": "south"})
    assert work.site == sites(repository)[1]
    assert names(work) == ["events", "limits"]


def test_labels_choose_among_the_flows_of_a_site(repository: Path) -> None:
    work = work_to_run(sites(repository)[:1], None, {"region": "north", "priority": "high"})
    assert names(work) == ["events"]


def test_labels_of_sites_and_of_flows_choose_together(repository: Path) -> None:
    work = work_to_run(sites(repository), None, {"region": "north", "priority": "low"})
    assert (work.site, names(work)) == (sites(repository)[0], ["limits"])


def test_a_label_of_the_flow_goes_before_that_of_its_site(repository: Path) -> None:
    (repository / "limits.yaml").write_text("flow: limits\nlabels: {region: everywhere}\nnodes: {}\n")
    work = work_to_run(sites(repository)[:1], None, {"region": "north"})
    assert names(work) == ["events"]


def test_several_sites_at_once_are_refused_and_named(repository: Path) -> None:
    assert "several sites are left: s12, s40" in refusal(sites(repository), {})


def test_a_label_that_no_site_has_is_refused(repository: Path) -> None:
    assert "no site has region=west: s12, s40" in refusal(sites(repository), {"region": "west"})


def test_a_label_that_no_flow_of_the_site_has_is_refused(repository: Path) -> None:
    text = refusal(sites(repository)[:1], {"priority": "mid"})
    assert "no file has the labels priority=mid; known: priority=high, priority=low, region=north" in text


def test_a_flow_that_has_no_file_is_named_with_the_nearest(repository: Path) -> None:
    (repository / "sites" / "s12.yaml").write_text("site: s12\nflows: [event]\n")
    text = refusal(sites(repository)[:1], {})
    assert "site 's12' lists the flow 'event'" in text
    assert "known: events, limits; did you mean 'events'?" in text


def test_a_flow_is_found_by_its_name_whatever_its_file_is_called(repository: Path) -> None:
    (repository / "events.yaml").rename(repository / "01.yaml")
    assert names(work_to_run(sites(repository)[:1], None, {})) == ["01", "limits"]


def test_a_flow_in_two_files_is_refused_and_both_are_named(repository: Path) -> None:
    (repository / "old.yaml").write_text("flow: limits\nnodes: {}\n")
    text = refusal(sites(repository)[:1], {})
    assert "lists the flow 'limits'" in text
    assert "hold it: limits.yaml, old.yaml" in text


def test_a_site_without_flows_is_refused(repository: Path) -> None:
    (repository / "sites" / "s12.yaml").write_text("site: s12\n")
    assert "lists no flows" in refusal(sites(repository)[:1], {})


def test_a_site_file_beside_flow_files_or_another_site_is_refused(repository: Path) -> None:
    mixed = [repository / "events.yaml", sites(repository)[0]]
    assert "give it alone" in refusal(mixed, {})
    assert "give it alone" in refusal(sites(repository)[:1], {}, site=sites(repository)[1])


def test_a_file_that_cannot_be_read_is_left_to_the_check(repository: Path) -> None:
    missing = repository / "none.yaml"
    assert work_to_run([missing], None, {}) == Work((missing,), None)
