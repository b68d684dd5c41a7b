"""An edited flow beside one that `edgeflex up` has running; it takes its place, or is discarded."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervised import Up, up

STEP = "kind: threshold, column: active_power_w, above: {above}"
SETTLE = ("--settle", "500ms")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A flow that watches a power which swings between 80 and 120 W."""
    with up(tmp_path_factory.mktemp("site")) as made:
        made.write("watch", STEP.format(above=100))
        made.run_these()
        made.start()
        made.running("watch")
        over = threading.Event()

        def swing() -> None:
            number = 0
            while not over.wait(0.05):
                made.send("watch", 80 if number // 4 % 2 else 120)
                number += 1

        thread = threading.Thread(target=swing)
        thread.start()
        try:
            yield made
        finally:
            over.set()
            thread.join()


def edited(site: Up, above: int = 100, name: str = "watch.yaml") -> Path:
    """An edited version of the flow, in a folder of its own."""
    file = site.folder / "edits" / name
    file.parent.mkdir(exist_ok=True)
    text = site.flow("watch").read_text().replace("above: 100", f"above: {above}")
    file.write_text(text.replace("../watch.jsonl", f"../{name}.jsonl"))
    return file


def edgeflex(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeflex_flow", *(str(each) for each in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120.0, check=False)


def beside(site: Up) -> tuple[object, ...]:
    return ("--beside", site.flow("watch"), "--site", site.site)


def shadowed(site: Up, new: Path, *more: object, lasts: str = "3s") -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and all that was told: what deviates, and last what came of it."""
    done = edgeflex("shadow", new, *beside(site), *SETTLE, "--for", lasts, "--json", *more)
    assert done.stdout, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_flow_that_does_the_same_deviates_in_nothing(site: Up) -> None:
    code, [result] = shadowed(site, edited(site))
    assert code == 0
    assert result["compared"] >= 5
    live = result["live"]["step"]
    assert live["alike"] > 0
    assert live["differs"] == 0
    assert result["nodes"]["step"] == {"alike": result["compared"], "differs": 0, "only_running": 0, "only_new": 0}
    assert result["notes"][0].startswith("not judged, since sources and sinks are not opened: out.path")


def test_what_an_edit_would_do_is_told_as_it_happens_and_nothing_goes_out(site: Up) -> None:
    new = edited(site, 60)
    code, [*found, result] = shadowed(site, new)
    assert code == 5
    missing = [each for each in found if each["what"] == "only running"]  # the power never comes back under 60 W
    assert result["nodes"]["step"]["only_running"] == len(missing) > 0
    assert result["deviating"] == len(found)
    assert all(each["node"] == "step" for each in found)
    assert not (site.folder / "watch.yaml.jsonl").exists()
    assert "100.0" in (site.folder / "watch.jsonl").read_text()


def test_discard_ends_a_shadow(site: Up) -> None:
    new = edited(site, name="discarded.yaml")
    command = [sys.executable, "-m", "edgeflex_flow", "shadow", new, *beside(site), *SETTLE]
    with subprocess.Popen([str(each) for each in command], stdout=subprocess.PIPE, text=True) as process:
        site.wait(lambda: site.folder.joinpath(".watch.yaml.shadow").exists(), "the shadow did not begin")
        time.sleep(3.0)
        twin = edgeflex("shadow", edited(site, name="twin.yaml"), *beside(site))
        assert twin.returncode == 1
        assert f"runs beside {site.flow('watch')} already, in process {process.pid}" in twin.stderr
        done = edgeflex("discard", new, "--beside", site.flow("watch"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("discarded: ")
        assert process.wait(30.0) in (0, 5)
    assert not site.folder.joinpath(".watch.yaml.shadow").exists()
    assert edgeflex("discard", new, "--beside", site.flow("watch")).returncode == 3


def test_what_did_not_run_beside_it_or_was_edited_since_is_not_promoted(site: Up) -> None:
    new = edited(site, 110, "promoted.yaml")
    before = site.flow("watch").read_text()
    done = edgeflex("promote", new, *beside(site), "--yes")
    assert done.returncode == 3
    assert "has not run beside" in done.stderr
    shadowed(site, new, lasts="1s")
    new.write_text(new.read_text() + "# once more\n")
    done = edgeflex("promote", new, *beside(site), "--yes")
    assert done.returncode == 3
    assert "is not as it was in the shadow: run it again" in done.stderr
    done = edgeflex("promote", edited(site, name="another.yaml"), *beside(site), "--yes")
    assert done.returncode == 3
    assert site.flow("watch").read_text() == before


def test_two_files_of_one_flow_in_a_site_are_refused(site: Up) -> None:
    new = site.folder / "twin.txt"
    new.write_text(site.flow("watch").read_text())
    done = edgeflex("shadow", new, *beside(site))
    assert done.returncode == 2
    assert "the site would find two files of one flow" in done.stderr


def test_a_flow_of_another_name_is_refused(site: Up) -> None:
    new = edited(site, name="renamed.yaml")
    new.write_text(new.read_text().replace("flow: watch", "flow: guard"))
    done = edgeflex("shadow", new, *beside(site))
    assert done.returncode == 2
    assert "is flow 'guard', and what runs is 'watch'" in done.stderr


def test_a_flow_that_does_not_run_is_said_to_give_nothing(tmp_path: Path) -> None:
    with up(tmp_path) as quiet:
        quiet.write("watch", STEP.format(above=100))
        quiet.run_these()
        done = edgeflex("shadow", edited(quiet), *beside(quiet))
        assert done.returncode == 3
        assert "nothing came of 'watch'" in done.stderr
        assert not list(tmp_path.glob(".watch.yaml.*"))


def test_promote_puts_it_in_the_place_of_the_running_one(tmp_path: Path) -> None:
    with up(tmp_path) as site:
        site.write("watch", STEP.format(above=100))
        site.flow("watch").chmod(0o640)
        site.run_these()
        site.start()
        site.running("watch")
        before = site.flow("watch").read_text()
        new = edited(site, 110)
        over = threading.Event()

        def swing() -> None:
            while not over.wait(0.05):
                site.send("watch", 80 if int(time.time() * 5) % 2 else 120)

        thread = threading.Thread(target=swing)
        thread.start()
        try:
            code, [*_, result] = shadowed(site, new, lasts="2s")
            assert (code, result["deviating"] > 0) == (5, True)
            done = edgeflex("promote", new, *beside(site), "--yes")
            assert done.returncode == 0, done.stderr
        finally:
            over.set()
            thread.join()
        assert "step.above: 100.0 → 110.0" in done.stdout
        assert "'watch' runs as revision" in done.stdout
        assert site.flow("watch").read_text() == new.read_text()
        assert site.flow("watch").stat().st_mode & 0o777 == 0o640
        assert (tmp_path / ".watch.yaml.before").read_text() == before
        assert not (tmp_path / ".watch.yaml.shadow").exists()
        site.wait_for("flow 'watch' runs its new version")
