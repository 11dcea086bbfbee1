"""Files written whole or not at all, wherever that cannot be."""

import errno
from pathlib import Path

import pytest

from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic, staged


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with a file and a folder."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("kept")
    return tmp_path


def contents(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("target", ["file/a", "file/a/b", "folder"])
def test_a_file_goes_neither_below_a_file_nor_onto_a_folder(there: Path, target: str) -> None:
    before = contents(there)
    with (
        pytest.raises(MnvError, match=r"^Cannot write .* (is a file, not a folder|it is a folder)"),
        atomic(there / target),
    ):
        raise AssertionError("it was begun")
    assert contents(there) == before


@pytest.mark.parametrize("target", ["file", "file/a"])
def test_a_file_where_a_folder_goes(there: Path, target: str) -> None:
    with pytest.raises(MnvError, match="is a file, not a folder"), staged(there / target):
        raise AssertionError("it was begun")


def test_what_is_staged_replaces_only_its_own_kind(there: Path) -> None:
    before = contents(there)
    with pytest.raises(MnvError, match="there is a file of that name"), staged(there) as folder:
        (folder / "a").write_text("new")
        (folder / "file").mkdir()
    with pytest.raises(MnvError, match="there is a folder of that name"), staged(there) as folder:
        (folder / "folder").write_text("new")
    assert contents(there) == before
    with staged(there) as folder:
        (folder / "file").write_text("new")
        (folder / "folder").mkdir()
    assert contents(there) == ["file", "folder"]


@pytest.mark.parametrize("writer", [atomic, staged])
def test_a_full_disk_is_one_sentence(there: Path, writer: object) -> None:
    before = contents(there)
    target = there / "new" if writer is atomic else there
    with pytest.raises(MnvError, match="No space left"), writer(target):  # type: ignore[operator]
        raise OSError(errno.ENOSPC, "No space left on device")
    assert contents(there) == before
