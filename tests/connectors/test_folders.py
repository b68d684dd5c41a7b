from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeflex_connectors import file_write
from edgeflex_connectors.file_write import FileWriteConfig
from edgeflex_connectors.folders import make_folder_for
from edgeflex_connectors.sqlite import SqliteConfig, SqliteStore
from edgeflex_flow.errors import FatalError

if TYPE_CHECKING:
    from conftest import ContextMaker


def test_folder_is_made(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder_for(tmp_path / "data" / "history.db")
    assert (tmp_path / "data").is_dir()


def test_folder_in_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"drive/data/history.db: the folder .*/drive does not exist"):
        make_folder_for(tmp_path / "drive" / "data" / "history.db")


def test_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(FatalError, match="the folder cannot be made: File exists"):
        make_folder_for(tmp_path / "data" / "history.db")


def test_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="a folder, not a file"):
        make_folder_for(tmp_path)


@pytest.mark.parametrize("name", ["day.jsonl", "day.npz"])
def test_recordings_make_their_folder(tmp_path: Path, make_context: ContextMaker, name: str) -> None:
    sink = file_write.NODE.open(FileWriteConfig(path=f"data/{name}"), make_context())
    with closing(sink):
        sink.open()
    assert (tmp_path / "data").is_dir()


def test_stores_make_their_folder(tmp_path: Path) -> None:
    file = tmp_path / "data" / "history.db"
    with closing(SqliteStore(SqliteConfig(path=str(file)), file)) as store:
        store.open()
    assert file.exists()
