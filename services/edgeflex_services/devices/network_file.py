"""The file that says which network the service manages devices in.

```yaml
standard: camara            # or nef
api: {url: "https://api.network.example", auth: {kind: bearer, token: "${file:/run/secrets/network_token}"}}
network_id: 3f1a8d6e-4b59-4c0e-8a7f-2d1c5b6e9f00
```
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from edgeflex_flow.clock import Clock
from edgeflex_flow.errors import FatalError
from edgeflex_services.devices.camara import CamaraConfig, CamaraNetwork
from edgeflex_services.devices.nef import NefConfig, NefNetwork
from edgeflex_services.devices.network import Network

_FROM_ELSEWHERE: Final = re.compile(r"\$\{(file:)?([^}]+)\}")


def open_network(file: Path, clock: Clock) -> Network:
    """The back end that a file describes. Nothing is asked of the network yet. Raises FatalError."""
    config = read_network(file, os.environ)
    return CamaraNetwork(config, clock) if isinstance(config, CamaraConfig) else NefNetwork(config, clock)


def read_network(file: Path, environment: Mapping[str, str]) -> CamaraConfig | NefConfig:
    """What a file says. A text `${NAME}` stands for a variable, `${file:PATH}` for what a file holds.

    Raises FatalError.
    """
    try:
        told = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
        return msgspec.convert(_filled(told, environment), type=CamaraConfig | NefConfig)
    except (OSError, UnicodeDecodeError) as error:
        raise FatalError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (YAMLError, msgspec.ValidationError, ValueError) as error:
        raise FatalError(f"{file}: {' '.join(str(error).split())}") from error


def _filled(told: Any, environment: Mapping[str, str]) -> Any:
    """The same with what texts stand for in their place. Raises ValueError."""
    if isinstance(told, dict):
        return {name: _filled(each, environment) for name, each in told.items()}
    if isinstance(told, list):
        return [_filled(each, environment) for each in told]
    found = _FROM_ELSEWHERE.fullmatch(told) if isinstance(told, str) else None
    if found is None:
        return told
    is_file, name = found[1] is not None, found[2]
    if is_file:
        return Path(name).read_text(encoding="utf-8").strip()
    if name not in environment:
        raise ValueError(f"${{{name}}} is not in the environment")
    return environment[name]
