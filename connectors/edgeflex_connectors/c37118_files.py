"""Configuration frames kept in files: as received, as hexadecimal text, or as a JSON list of such texts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeflex_connectors.c37118_config import ConfigFrame
from edgeflex_connectors.c37118_fragments import FragmentedConfigs
from edgeflex_connectors.c37118_header import SMALLEST_FRAME_BYTES, SYNC_BYTE, FrameError
from edgeflex_flow.errors import FatalError


def read_config_file(path: Path) -> list[ConfigFrame]:
    """All configuration frames of a file, at least one. Raises FatalError that names the file and what is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FatalError(f"configuration file {path}: {error.strerror}") from error
    try:
        raw = _frames_as_bytes(content)
    except (ValueError, msgspec.DecodeError) as error:
        raise FatalError(
            f"configuration file {path}: holds no C37.118 frames, neither as bytes (0xAA first) nor as hexadecimal text"
            f" nor as a JSON list of such texts: {error}"
        ) from error
    configs: list[ConfigFrame] = []
    fragments = FragmentedConfigs()
    place = 0
    while place < len(raw):
        size = max(int.from_bytes(raw[place + 2 : place + 4], "big"), SMALLEST_FRAME_BYTES)
        try:
            config = fragments.decode(0, raw[place : place + size])
        except FrameError as error:
            raise FatalError(
                f"configuration file {path}: frame {len(configs) + 1} at byte {place} of {len(raw)}: {error}"
            ) from error
        if config is not None:
            configs.append(config)
        place += size
    if not configs:
        raise FatalError(f"configuration file {path}: is empty; expected one or more CFG-2 frames")
    return configs


def _frames_as_bytes(content: bytes) -> bytes:
    if content[:1] == bytes([SYNC_BYTE]):
        return content
    text = content.decode("ascii").strip()
    if text.startswith("["):
        return b"".join(bytes.fromhex(each) for each in msgspec.json.decode(text, type=list[str]))
    return bytes.fromhex(text)
