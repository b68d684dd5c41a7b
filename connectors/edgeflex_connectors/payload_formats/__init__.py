"""Formats of payloads: one file a format, which ends in `FORMAT = …`; all are pure, so that any transport may use them.

A node names the format of its payloads in its config: `format: villas.binary`, or a mapping with `type` and the
settings of that format. None of them knows of topics or sockets.
"""

from __future__ import annotations

from typing import TypeAlias

from edgeflex_connectors.payload_formats import (
    covee,
    csv_lines,
    flex,
    flexoffer,
    json_edgeflex,
    json_fields,
    sogno,
    villas_binary,
    villas_json,
)
from edgeflex_connectors.payload_formats.codec import PayloadFormat
from edgeflex_connectors.payload_formats.covee import Covee
from edgeflex_connectors.payload_formats.csv_lines import Csv
from edgeflex_connectors.payload_formats.flex import Flex
from edgeflex_connectors.payload_formats.flexoffer import FlexOfferFormat
from edgeflex_connectors.payload_formats.json_edgeflex import JsonEdgeflex
from edgeflex_connectors.payload_formats.json_fields import JsonFields
from edgeflex_connectors.payload_formats.sogno import Sogno
from edgeflex_connectors.payload_formats.villas_binary import VillasBinary
from edgeflex_connectors.payload_formats.villas_json import VillasJson

__all__ = [
    "FORMATS",
    "AnyFormat",
    "Covee",
    "Csv",
    "Flex",
    "FlexOfferFormat",
    "JsonEdgeflex",
    "JsonFields",
    "Sogno",
    "VillasBinary",
    "VillasJson",
    "format_of",
]

AnyFormat: TypeAlias = (
    JsonEdgeflex | JsonFields | Sogno | VillasJson | VillasBinary | Csv | Covee | Flex | FlexOfferFormat
)

FORMATS: dict[str, PayloadFormat] = {
    str(each.FORMAT.config.__struct_config__.tag): each.FORMAT
    for each in (json_edgeflex, json_fields, sogno, villas_json, villas_binary, csv_lines, covee, flex, flexoffer)
}
"""All formats by name."""


def format_of(config: AnyFormat) -> PayloadFormat:
    """The format that these settings are for."""
    return FORMATS[str(config.__struct_config__.tag)]
