"""Files that hold a table: a mapping of names to entries of one type, such as the data of generating units."""

from __future__ import annotations

from pathlib import Path

from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile.decode import ConfigDecoder, StructT
from edgeflex_flow.flowfile.document import read_document
from edgeflex_flow.flowfile.fields import read_hint
from edgeflex_flow.flowfile.report import FileReport, Report, got
from edgeflex_flow.flowfile.wording import expectation


def load_table(file: Path, kind: type[StructT]) -> dict[str, StructT]:
    """The entries of a YAML file by name. Quantities are written with their unit, as in flow files.

    Raises FlowFileError with all that is wrong, each problem at the line and column of its own value.
    """
    document = read_document(file)
    report = Report([document])
    here = FileReport(document.file, report, secrets_required=True)
    root = document.root
    entries = None if root is None else root.mapping()
    if root is not None and entries is None:
        here.problem(root.place, f"the file is a mapping of names to {expectation(read_hint(kind))}", got=got(root))
    decoder = ConfigDecoder(here, node=None)
    made = {name: decoder.entry(kind, value, name) for name, value in (entries or {}).items()}
    if report.problems:
        raise FlowFileError(report.problems)
    return {name: entry for name, entry in made.items() if entry is not None}
