"""What the Dockerfile does, done on this machine: no container engine is needed to see that the image would work."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest
from deployed import DEPLOY

ROOT = DEPLOY.parent
MOST_BYTES = 40e6
"""Of our own code and data in the image."""
FLOW = """\
flow: image
nodes:
  in: {kind: file_replay, path: in.jsonl, columns: [frequency_hz]}
  rocof: {kind: rocof, from: in}
  out: {kind: file_write, from: rocof, path: out.jsonl}
"""


class Instruction(NamedTuple):
    name: str
    text: str


@pytest.fixture(scope="module")
def stages() -> list[list[Instruction]]:
    """The Dockerfile's instructions by stage; what comes before the first FROM is left out."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(Instruction(name, " ".join(rest.split())))
    return stages


def of(stage: list[Instruction], name: str) -> list[str]:
    return [each.text for each in stage if each.name == name]


def test_the_image_has_what_was_built_and_not_what_builds(stages: list[list[Instruction]]) -> None:
    build, final = stages
    assert of(build, "FROM")[0].split()[0] == of(final, "FROM")[0].split()[0]
    assert all("pip" not in text for text in of(final, "RUN"))
    assert "--constraint constraints.txt" in next(text for text in of(build, "RUN") if "pip install" in text)
    assert any("uninstall --yes pip" in text for text in of(build, "RUN"))
    whole = (DEPLOY / "Dockerfile").read_text()
    assert "index-url" not in whole
    assert not re.search(r"https?://(?!127\.0\.0\.1)", whole)
    assert ":latest" not in whole


def test_the_image_runs_as_a_number_that_is_not_root(stages: list[list[Instruction]]) -> None:
    [user] = of(stages[-1], "USER")
    number, _, group = user.partition(":")
    assert int(number) > 0
    assert int(group) > 0
    assert of(stages[-1], "HEALTHCHECK")
    assert of(stages[-1], "STOPSIGNAL") == ["SIGTERM"]
    names = [each.name for each in stages[-1]]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in {"RUN", "COPY"})


def test_what_is_copied_is_there_and_not_ignored(stages: list[list[Instruction]]) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in kept:
        assert (ROOT / name).exists(), name
    assert of(stages[0], "COPY") == [". ."]
    [flows] = [text for text in of(stages[-1], "COPY") if "--from" not in text]
    assert flows.split()[0] in kept
    for needed in (
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
        "edgeflex_flow",
        "deploy/entrypoint.sh",
    ):
        assert any(fnmatch(needed, name) for name in kept), needed


class Built(NamedTuple):
    """A tree as the build stage makes it, without what comes from others: that is mounted into it."""

    folder: Path
    kernels: int


@pytest.fixture(scope="module")
def built(stages: list[list[Instruction]]) -> Iterator[Built]:
    folder = Path(tempfile.mkdtemp(prefix="edgeflex-image-"))
    folder.chmod(0o755)
    try:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        [wheel] = (folder / "dist").iterdir()
        packages = folder / "packages"
        shutil.unpack_archive(wheel, packages, "zip")
        [warm_up] = [text for text in of(stages[0], "RUN") if "warm_up" in text]
        _, *arguments = shlex.split(warm_up)
        environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": "/mnt/image/kernels"}
        environment["PYTHONPATH"] = "/mnt/image/packages"
        # One module's kernels are enough to see that they are found again; all of them take minutes.
        arguments[-1] = arguments[-1].replace(
            "{kind.config.__module__ for kind in kinds()}", "{'edgeflex_operators.rocof'}"
        )
        assert "rocof" in arguments[-1]
        # Where it will be: numba knows files by their path.
        script = (
            f"mount -t tmpfs tmpfs /mnt && mkdir /mnt/image && mount --bind {folder} /mnt/image && exec "
            + shlex.join([sys.executable, *arguments])
        )
        subprocess.run(["unshare", "--mount", "sh", "-c", script], env=environment, cwd="/", check=True)
        shutil.copy(DEPLOY / "entrypoint.sh", folder / "entrypoint")
        (folder / "bin").mkdir()
        (folder / "bin" / "edgeflex").write_text('#!/bin/sh\nexec /mnt/python/bin/python3 -m edgeflex_flow "$@"\n')
        (folder / "bin" / "edgeflex").chmod(0o755)
        yield Built(folder, len(list((folder / "kernels").rglob("*.nbc"))))
    finally:
        shutil.rmtree(folder)


def test_the_wheel_is_small_and_has_the_flows(built: Built) -> None:
    files = [file for file in (built.folder / "packages").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    assert (built.folder / "packages" / "edgeflex_flow" / "shipped_flows" / "frequency_events.yaml").exists()
    assert built.kernels > 0


INSIDE = """\
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/python /mnt/others /mnt/image /mnt/state /mnt/tmp
mount --bind {python} /mnt/python
mount --bind {others} /mnt/others
mount --bind {image} /mnt/image
mount -t tmpfs -o mode=0700,uid=10001,gid=10001 tmpfs /mnt/state
mount -t tmpfs -o mode=0700,uid=10001,gid=10001 tmpfs /mnt/tmp
cp {folder}/flow.yaml {folder}/in.jsonl /mnt/state
for each in python others image; do mount -o remount,bind,ro /mnt/$each; done
mount -o remount,ro /mnt
mount -o remount,bind,ro / || true
cd /mnt/state
exec setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
  env -i PATH=/mnt/image/bin:/usr/bin:/bin HOME=/nowhere TMPDIR=/mnt/tmp PYTHONDONTWRITEBYTECODE=1 \
  PYTHONPATH=/mnt/image/packages:/mnt/others LD_LIBRARY_PATH=/mnt/python/lib \
  NUMBA_CPU_NAME=generic NUMBA_CACHE_DIR=/mnt/tmp/kernels \
  sh -c '/mnt/image/entrypoint run flow.yaml && cat out.jsonl && ! touch /mnt/image/x 2>/dev/null && \
  find /mnt/tmp/kernels -name "*.nbc" -newer /mnt/state/flow.yaml | wc -l && id -u'
"""


@pytest.mark.needs("unshare", "setpriv")
def test_a_flow_runs_as_another_user_on_a_read_only_tree_with_the_kernels_that_were_built(
    built: Built, tmp_path: Path
) -> None:
    """As the image does it, in a mount namespace: /opt/edgeflex is /mnt/image here."""
    (tmp_path / "flow.yaml").write_text(FLOW)
    rows = "".join(
        f'{{"type":"samples","time_ns":{k * 20_000_000},"device":"G1","quality":0,"frequency_hz":{50 - k / 1e3}}}\n'
        for k in range(100)
    )
    (tmp_path / "in.jsonl").write_text(rows)
    script = INSIDE.format(
        python=sys.base_prefix, others=sysconfig.get_paths()["purelib"], image=built.folder, folder=tmp_path
    )
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *rows_out, compiled_anew, user = done.stdout.splitlines()
    assert len(rows_out) > 70
    assert user == "10001"
    assert int(compiled_anew) == 0
