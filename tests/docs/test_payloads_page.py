"""The examples of docs/payloads.md: each format reads its payload, and writes one that it reads again."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from ruamel.yaml import YAML

from edgeflex_connectors.batching import SamplesBuilder
from edgeflex_connectors.payload_formats import FORMATS, AnyFormat
from edgeflex_connectors.payload_formats.codec import Decoded
from edgeflex_connectors.payloads import PayloadDecoder, PayloadEncoder
from edgeflex_flow.messages import FlexOffer, FlexRequest, Message

PAGE = (Path(__file__).parents[2] / "docs" / "payloads.md").read_text()
EXAMPLE = re.compile(r"^### (\S+)\n\n```\w*\n(.*?)```\n\n```yaml\n(.*?)```", re.DOTALL | re.MULTILINE)
EXAMPLES = {name: (payload, settings) for name, payload, settings in EXAMPLE.findall(PAGE)}


def test_every_format_has_an_example() -> None:
    assert set(EXAMPLES) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_the_settings_read_the_payload_and_write_it(name: str) -> None:
    payload, settings = EXAMPLES[name]
    given = YAML(typ="safe").load(settings)
    config: AnyFormat = msgspec.convert(given["format"], AnyFormat)
    wire = bytes.fromhex(payload.splitlines()[0]) if name == "villas.binary" else payload.encode()
    decoder = PayloadDecoder(config, (), (FlexRequest, FlexOffer), given.get("device", "G1"))
    decoded = decoder.decode("a/topic", wire)
    if isinstance(decoded, Message):
        (again,) = PayloadEncoder(config).encode_message(decoded)
        assert decoder.decode("a/topic", again) == decoded
        return
    assert isinstance(decoded, Decoded)
    assert decoded.error is None
    assert len(decoded.rows) == 1
    builder = SamplesBuilder(config.columns)
    builder.add(*decoded.rows[0])
    (again,) = PayloadEncoder(config).encode(builder.take(0))
    second = decoder.decode("a/topic", again)
    assert isinstance(second, Decoded)
    assert second.rows[0][:3] == decoded.rows[0][:3]
    assert second.rows[0][3] == pytest.approx(decoded.rows[0][3], nan_ok=True)
