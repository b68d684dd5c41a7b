"""The files of a site that runs: what they say now, what they said when it was checked, and what last ran well."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import click
import msgspec

from edgeflex_flow.cli.selection import listed_flows
from edgeflex_flow.disk import replace_durably
from edgeflex_flow.errors import FlowFileError, Problem, how_to_install
from edgeflex_flow.flowfile import Plan, load_flow, load_flows
from edgeflex_flow.flowfile.document import recalled, remembered, stamp_of
from edgeflex_flow.flowfile.outline import flow_folder, outline
from edgeflex_flow.flowfile.plan import StudioConfig
from edgeflex_flow.flowfile.revision import digest_of, identity_of
from edgeflex_flow.registry import Registry
from edgeflex_flow.supervisor.keeper import Version
from edgeflex_flow.supervisor.nursery import Launch
from edgeflex_flow.supervisor.studio import settings_of
from edgeflex_flow.supervisor.studio_channel import Settings

VERSIONS = "versions"
PROVEN = "proven.json"

log = logging.getLogger("edgeflex.supervisor")


class _Proven(msgspec.Struct, frozen=True):
    """A version that has run well."""

    digest: str
    file: str
    kept: str


class FilesOfSite:
    """The files of a site. `folder`: where what they said is kept."""

    def __init__(
        self,
        site: Path,
        registry: Registry,
        params: Mapping[str, str],
        folder: Path,
        logs: tuple[str, str],
        *,
        studio: tuple[str, int] | None = None,
    ) -> None:
        """`logs`: level and format; `studio`: host and port where the site is shown, whatever its file says."""
        self._address = studio
        self.studio: Settings | None = None
        """How the site is shown live, if it is."""
        self.file = site
        self.name = outline(site).name
        self._registry = registry
        self._params = params
        self._folder = folder
        self._logs = logs
        self.seen: Mapping[str, object] = {}
        """By absolute path, the stamps of all files that count as they were when they were read last."""
        self._proven: dict[str, _Proven] = {}
        self._lock = threading.Lock()
        """Held while it is looked what has run well, or written."""

    def load(self) -> Mapping[str, Version]:
        """The flows by name, with what their files say now, so that they can be started again as they are."""
        before = {name: stamp_of(name) for name in self._beside()}
        with remembered() as read:
            try:
                site = outline(self.file)
                try:
                    found = listed_flows(site)
                except click.UsageError as error:  # it may be right again in a moment
                    raise FlowFileError([Problem(file=str(self.file), message=error.message)]) from error
                files = [each.file for each in found]
                plans = load_flows(files, self._registry, site=self.file, params=self._params)
            finally:
                self.seen = {**before, **read.stamps}
        self.name, self.studio = site.name, self._studio_of(plans)
        with self._lock:
            names = {plan.name for plan in plans}
            self._proven = {name: each for name, each in self._read_proven().items() if name in names}
        return {plan.name: self._version(plan, read.texts) for plan in plans}

    def _studio_of(self, plans: Sequence[Plan]) -> Settings | None:
        """Raises FlowFileError when it cannot be shown there, or not with what is installed."""
        if not plans or (self._address is None and plans[0].studio is None):
            return None
        config = plans[0].studio or StudioConfig()
        try:
            if find_spec("litestar") is None:
                raise ValueError(f"it needs litestar: {how_to_install('studio')}")
            if self._address is not None:
                config = msgspec.structs.replace(config, host=self._address[0], port=self._address[1])
        except ValueError as error:
            raise FlowFileError([Problem(file=str(self.file), message=f"studio: {error}")]) from error
        return settings_of(config, plans[0])

    def _version(self, plan: Plan, texts: Mapping[str, str]) -> Version:
        params = tuple((name, value) for name, value in self._params.items() if name in plan.params)
        level, form = self._logs
        launch = Launch(
            plan.name, plan.file.absolute(), self.file.absolute(), self._folder.absolute(), texts, params, level, form
        )
        return Version(digest_of(plan), identity_of(plan), launch, plan)

    def load_proven(self) -> Mapping[str, Version]:
        """The flows as they last ran well."""
        self._proven = self._read_proven()
        versions = {}
        for name, proven in self._proven.items():
            try:
                texts = json.loads((self._folder / VERSIONS / proven.kept).read_bytes())
                with recalled(texts):
                    plan = load_flow(Path(proven.file), self._registry, site=self.file, params=self._params)
                versions[name] = self._version(plan, texts)
                self.studio = self._studio_of([plan])
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others are started
                log.error("flow '%s' cannot be started as it last ran well: %s", name, error)  # noqa: TRY400
        return versions

    def prove(self, version: Version) -> bool:
        """Keep it as one that has run well; whether that went well. One at a time, any thread."""
        with self._lock:
            return self._prove(version)

    def _prove(self, version: Version) -> bool:
        content = json.dumps(dict(sorted(version.launch.texts.items())), ensure_ascii=False).encode()
        kept = f"{hashlib.sha256(content).hexdigest()[:16]}.json"
        proven = {**self._proven, version.plan.name: _Proven(version.digest, str(version.launch.file), kept)}
        folder = self._folder / VERSIONS
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_durably(folder / kept, content)
            replace_durably(self._folder / PROVEN, msgspec.json.encode(proven))
            self._proven = proven
            for file in folder.iterdir():
                if file.name not in {each.kept for each in proven.values()}:
                    file.unlink()
        except OSError as error:
            log.error("that flow '%s' runs well cannot be kept: %s", version.plan.name, error)  # noqa: TRY400
            return False
        return True

    def _read_proven(self) -> dict[str, _Proven]:
        try:
            return msgspec.json.decode((self._folder / PROVEN).read_bytes(), type=dict[str, _Proven])
        except (OSError, msgspec.MsgspecError):
            return {}

    def stamps(self) -> Mapping[str, object]:
        """Other than `seen` when one of the files is another or gone, or another flow file comes."""
        return {name: stamp_of(name) for name in {*self.seen, *self._beside()}}

    def _beside(self) -> set[str]:
        """The site file, and all that may be flow files of it."""
        found = {os.path.abspath(self.file)}
        with suppress(OSError):  # a folder that is being replaced, or a disk that is away for a moment
            found |= {str(each) for each in flow_folder(self.file).absolute().glob("*.yaml")}
        return found
