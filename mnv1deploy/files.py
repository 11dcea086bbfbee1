"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mnv1deploy.errors import MnvError

if TYPE_CHECKING:
    import zipfile


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; renamed to ``path`` on success, removed on any failure.

    Raises:
        MnvError: if nothing can be written there.
    """
    import tempfile

    path = Path(path)
    if path.is_dir():
        raise MnvError(f"Cannot write {path}: it is a folder.", "Remove it, or choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        with _room_for(path):
            yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes files private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def growing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to read and write, made if need be, that keeps what is written whatever happens to the writer.

    Raises:
        MnvError: if it cannot be opened or has no room.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "r+b" if path.exists() else "x+b")  # noqa: SIM115
    except OSError as error:
        raise _cannot_write(path, error) from error
    with _room_for(path), file:
        yield file


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Says of a disk that is full or fails what it is, whoever writes."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _cannot_write(path, error) from error
        raise


def _cannot_write(path: Path, error: OSError) -> MnvError:
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        inside = next(parent for parent in (path, *path.parents) if parent.exists())
        return MnvError(f"Cannot write {path}: {inside} is a file, not a folder.", "Choose another folder.")
    return MnvError(f"Cannot write {path}: {error.strerror}.")


def cache_folder() -> Path:
    """Where what can be made again is kept: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mnv1deploy"


@contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """A temporary folder inside ``folder``; what it holds is moved to ``folder`` on success, and thrown away if not.

    Raises:
        MnvError: if nothing can be written there.
    """
    import shutil
    import tempfile

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".staged-", dir=folder))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        with _room_for(folder):
            yield temporary
        made = sorted(temporary.iterdir())
        for path in made:
            target = folder / path.name
            if target.exists() and target.is_dir() != path.is_dir():  # it is not an earlier one of ours
                kind = "folder" if target.is_dir() else "file"
                raise MnvError(f"Cannot write {target}: there is a {kind} of that name.", "Remove it, or rename it.")
        for path in made:
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A zip archive's file of at most ``limit`` bytes. Raises ValueError for a larger one, which is not unpacked."""
    if (size := archive.getinfo(name).file_size) > limit:
        raise ValueError(f"its {name} has {size:,} bytes, more than {limit:,}")
    return archive.read(name)


def rewritten(archive: bytes, dropped: tuple[str, ...], change: Callable[[str, bytes], tuple[str, bytes]]) -> bytes:
    """A zip archive, uncompressed and undated, without the files whose names end so, the others changed."""
    import zipfile

    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            if not name.endswith(dropped):
                kept, content = change(name, source.read(name))
                target.writestr(zipfile.ZipInfo(kept), content)
    return result.getvalue()


def sha256(path: str | Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with Path(path).open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(file.read()).hexdigest()
        )
