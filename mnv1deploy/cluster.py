"""Answers to pictures on many machines: Ray hands out parts, and every part becomes a Parquet file of its own.

All machines have mnv1deploy and the model at the same place, and read the pictures themselves: only paths and counts
are sent about. A part whose process or machine is lost is done again elsewhere. Its file is there whole or not at all,
and under the same name, so that nothing can be lost or doubled.
"""

from __future__ import annotations

import functools
import io
import os
import platform
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from mnv1deploy import decoding, images, many
from mnv1deploy.classifier import BATCH, Classifier
from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic
from mnv1deploy.many import Answer
from mnv1deploy.packages import engine, silenced
from mnv1deploy.report import rows
from mnv1deploy.report.answers import as_dict

if TYPE_CHECKING:
    import pyarrow

LOCAL = "local"
"""In place of a cluster's address: a Ray of this machine's own, for as long as it takes."""

DONE = "_SUCCESS"
"""An empty file that says that a folder is complete, as Hadoop and Spark have it; readers of Parquet pass over it."""

PART = 256
"""Batches of a part at most: half a minute of one processor, which is what a lost machine costs."""

PARTS = 64
"""At least, where there are as many batches, for many processors to have a share."""

RETRIES = 8
"""Of a part whose process ends. A picture that ends every one would else be tried for ever."""

_PIECE = 2**20
"""Bytes that are read at a time."""


@dataclass(frozen=True)
class _Job:
    """What all processes are told; no two runs have the same name."""

    open_classifier: Callable[[], Classifier] = field(compare=False)
    folder: str = field(compare=False)
    place: str = field(compare=False)
    top: int = field(compare=False)
    name: str = field(default_factory=lambda: uuid.uuid4().hex)


def find(inputs: Iterable[str]) -> list[str]:
    """As :func:`mnv1deploy.images.find`, of addresses of files and folders too.

    Raises:
        MnvError: for a folder without a picture, an address that cannot be listed or has nothing, or standard input.
    """
    found: dict[str, None] = {}
    for given in inputs:
        if given == decoding.STANDARD_INPUT:
            raise MnvError("Standard input is on this machine alone.", "Name files, folders or addresses.")
        found.update(dict.fromkeys(_listed(given) if _is_remote(given) else images.find([given])))
    return list(found)


def predict(
    paths: Sequence[str],
    folder: str,
    open_classifier: Callable[[], Classifier],
    *,
    address: str,
    top: int,
    processors: int = 1,
    advance: Callable[[int], object] = lambda count: None,
) -> int:
    """Writes the rows of ``mnv1 predict --parquet``, as many to a file as a part has pictures, in order by their names.

    Memory holds the paths, and on every machine the rows of one part per process.

    Args:
        paths: of pictures, on every machine, or addresses.
        folder: that is not there yet, on a disk that all machines share; or an address.
        open_classifier: opens the network, once in every process; pickled.
        address: of the cluster; "auto", which finds the one that this machine is in; or LOCAL. Where this process has
            begun with Ray already, that is used.
        top: classes named per picture.
        processors: that each process keeps busy.
        advance: told of so many more pictures.

    Returns:
        How many pictures cannot be read.

    Raises:
        MnvError: if the folder is there, the cluster is not, or the work fails.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # one is told, and the others are the same
    ray = engine("ray", "ray")
    engine("pyarrow.fs", "ray")
    if not _is_remote(folder):
        folder = os.path.abspath(folder)
    _refuse_existing(folder)
    job = _Job(open_classifier, folder, os.getcwd(), top)
    unreadable = 0
    with _connected(ray, address):
        _make(folder)
        answer = ray.remote(_answer).options(num_cpus=processors, max_retries=RETRIES)
        parts = iter(_parts(paths).items())
        begun: dict[Any, Sequence[str]] = {}
        try:
            while True:
                room = int(ray.cluster_resources().get("CPU", 0)) // processors + 1  # machines come and go
                while len(begun) < room and (part := next(parts, None)):
                    begun[answer.remote(job, *part)] = part[1]
                if not begun:
                    break
                (done,), _ = ray.wait(list(begun), num_returns=1)
                try:
                    unreadable += ray.get(done)
                except ray.exceptions.RayError as error:
                    raise _failed(error, begun[done], folder) from error
                advance(len(begun.pop(done)))
        finally:
            for reference in begun:
                ray.cancel(reference, force=True)
    _end(folder, _parts(paths))
    return unreadable


def _parts(paths: Sequence[str]) -> dict[str, Sequence[str]]:
    """Paths by the name of their file; the same whatever the cluster, and whole batches, for the sake of rounding."""
    batches = -(-len(paths) // BATCH)
    size = BATCH * max(1, min(PART, batches // PARTS))
    starts = range(0, len(paths), size)
    digits = max(5, len(str(len(starts))))
    return {f"part-{n:0{digits}}.parquet": paths[start : start + size] for n, start in enumerate(starts)}


def _failed(error: Any, paths: Sequence[str], folder: str) -> MnvError:
    """What a process said, or that it ended."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, MnvError):
        return cause
    return MnvError(
        f"The pictures from {paths[0]} to {paths[-1]} cannot be answered on Ray: {MnvError.reason(cause or error)}.",
        f"Remove {folder}, which is not complete.",
    )


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    try:
        with silenced(prints=False):
            local = {"include_dashboard": False} if address == LOCAL else {}
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except Exception as error:  # of every kind, Exception itself among them where machines are too slow
        hint = f"Begin one with ray start --head, or try {LOCAL}, which is this machine alone."
        if address == LOCAL:
            hint = "Try again when this machine has less to do."
        raise MnvError(f"There is no Ray at {address}: {MnvError.reason(error)}.", hint) from error
    try:
        yield
    finally:
        ray.shutdown()


# In a process of the cluster ---------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _opened(job: _Job) -> Classifier:
    if os.path.isdir(job.place):
        os.chdir(job.place)
    return job.open_classifier()


def _answer(job: _Job, name: str, paths: Sequence[str]) -> int:
    """Writes a part's file. How many of its pictures cannot be read."""
    classifier = _opened(job)
    if os.getcwd() != job.place and not all(_is_remote(path) or os.path.isabs(path) for path in paths):
        raise MnvError(
            f"{platform.node()} has no folder {job.place}, in which the pictures are looked for.",
            "Name them by whole paths or addresses.",
        )
    found = [as_dict(path, answer) for path, answer in zip(paths, _answers(classifier, paths, job.top), strict=True)]
    _write(rows.table(found), job.folder, name)
    return sum("error" in row for row in found)


def _answers(classifier: Classifier, paths: Sequence[str], top: int) -> Iterator[Answer]:
    if any(map(_is_remote, paths)):  # threads wait for the network
        sources = (cast("IO[bytes]", _Remote(path)) if _is_remote(path) else path for path in paths)
        yield from (answer for _, answer in classifier.predict_all(sources, top=top))
    else:
        for batch in many.batches(paths):
            yield from classifier.predict_batch(batch, top=top)


def _write(table: pyarrow.Table, folder: str, name: str) -> None:
    parquet = engine("pyarrow.parquet", "ray")
    if not _is_remote(folder):
        if not os.path.isdir(folder):
            raise MnvError(
                f"{platform.node()} has no folder {folder}.",
                "Name one on a disk that all machines share, or an address.",
            )
        with atomic(Path(folder, name)) as temporary:
            parquet.write_table(table, temporary)
        return
    content = io.BytesIO()
    parquet.write_table(table, content)
    _put(f"{folder.rstrip('/')}/{name}", content.getvalue())


# Addresses ---------------------------------------------------------------------------------------------------------


class _Remote:
    """A picture at an address, read as a binary file; opened by the thread that decodes it."""

    def __init__(self, address: str) -> None:
        self.name = address

    def read(self, most: int) -> bytes:
        """At most so many bytes, more than a piece of which some servers give only in pieces."""
        filesystem, path = _filesystem(self.name)
        content = bytearray()
        try:
            with filesystem.open_input_stream(path) as stream:
                while len(content) < most and (piece := stream.read(min(_PIECE, most - len(content)))):
                    content += piece
        except FileNotFoundError as error:
            raise OSError("There is nothing at this address") from error
        return bytes(content)


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """What storage raises, as a sentence; every package has kinds of its own, and one that lacks is named by fsspec."""
    try:
        yield
    except MnvError:
        raise
    except Exception as error:
        raise MnvError(f"{what}: {MnvError.reason(error)}.") from error


def _is_remote(path: str) -> bool:
    return "://" in path and decoding.is_address(path) and not os.path.exists(path)


def _listed(address: str) -> list[str]:
    """The pictures below an address that is a folder's; of another the address itself."""
    fs = engine("pyarrow.fs", "ray")
    with _refused(f"{address} cannot be listed"):
        filesystem, path = _filesystem(address)
        kind = filesystem.get_file_info(path).type
        if kind != fs.FileType.Directory:
            if kind == fs.FileType.NotFound and not images.is_picture(address):
                raise MnvError(f"There is nothing at {address}.")
            return [address]
        below = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    start = len(path.rstrip("/"))
    names = sorted(info.path[start:] for info in below if info.is_file and images.is_picture(info.base_name))
    shown = [name for name in names if not any(map(images.is_hidden, name.strip("/").split("/")))]
    if not shown:
        raise MnvError(f"There is no picture in the folder {address}.")
    return [address.rstrip("/") + name for name in shown]


def _filesystem(address: str) -> tuple[Any, str]:
    """A file system and the path in it, which is taken as it stands: names may have spaces and any signs."""
    scheme, _, rest = address.partition("://")
    host, _, path = rest.partition("/")
    filesystem, root = _mounted(f"{scheme}://{host}/")
    return filesystem, f"{root.rstrip('/')}/{path}"


@functools.lru_cache(maxsize=16)
def _mounted(root: str) -> tuple[Any, str]:
    """Arrow's own for what it knows, s3 and gs among them, else fsspec's."""
    fs = engine("pyarrow.fs", "ray")
    try:
        found: tuple[Any, str] = fs.FileSystem.from_uri(root)
    except ValueError:
        filesystem, path = engine("fsspec.core", "ray").url_to_fs(root)
        found = fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path
    return found


# The folder --------------------------------------------------------------------------------------------------------


def _refuse_existing(folder: str) -> None:
    if _names_in(folder) if _is_remote(folder) else os.path.lexists(folder):
        raise MnvError(f"There is something at {folder} already.", "Remove it, or write to another folder.")


def _make(folder: str) -> None:
    """Before any picture is read: that a bucket is not there, or not one's own, is said at once."""
    if _is_remote(folder):
        with _refused(f"Cannot write to {folder}"):
            filesystem, path = _filesystem(folder)
            filesystem.create_dir(path.rstrip("/"))
        return
    try:
        os.makedirs(folder)
    except OSError as error:
        raise MnvError(f"Cannot write {folder}: {error.strerror}.") from error


def _end(folder: str, wanted: Iterable[str]) -> None:
    """Says that it is complete. Raises MnvError if it is not: where machines have a disk each, none has all."""
    missing = set(wanted) - _names_in(folder)
    if missing:
        raise MnvError(
            f"{len(missing)} files that were written are not in this machine's {folder}, {min(missing)} among them.",
            "Name a folder on a disk that all machines share, or an address.",
        )
    if _is_remote(folder):
        _put(f"{folder.rstrip('/')}/{DONE}", b"")
        return
    for left in Path(folder).glob(".part-*"):  # by processes that were killed
        left.unlink()
    Path(folder, DONE).touch()


def _names_in(folder: str) -> set[str]:
    if not _is_remote(folder):
        return set(os.listdir(folder))
    fs = engine("pyarrow.fs", "ray")
    with _refused(f"Cannot write to {folder}"):
        filesystem, path = _filesystem(folder)
        return {info.base_name for info in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))}


def _put(address: str, content: bytes) -> None:
    with _refused(f"Cannot write {address}"):
        filesystem, path = _filesystem(address)
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
