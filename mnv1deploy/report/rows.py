"""Answers as rows of CSV, JSON lines or Parquet, in files that grow and that a run which was ended goes on with.

A file is the same to the byte, however often its run was killed and resumed: rows stand in the pictures' order, a last
one that was not written whole is dropped, and pictures go through the network in the same batches again.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from mnv1deploy.classifier import BATCH
from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic, growing
from mnv1deploy.many import Answer, Batch, batches
from mnv1deploy.packages import engine
from mnv1deploy.report.answers import Row, Show, as_dict
from mnv1deploy.report.console import encodable, to_json, write

if TYPE_CHECKING:
    import pyarrow

STANDARD_OUTPUT = "-"

ROW_GROUP = 2**16
"""Rows that a Parquet file has together, and that are in memory when it is written."""

_LOOKED_AT_AGAIN = 2
"""Batches at the end of what a run left. Their answers say whether it is still the same model; the last may not have
been sorted, and sorting by moving shifts all that follow."""


class Form(Protocol):
    """How rows are written as text, UTF-8."""

    def header(self) -> str:
        """What stands before the first row."""

    def line(self, row: Row) -> str:
        """A row, to the end of its line."""

    def read(self, file: IO[bytes]) -> Iterator[tuple[Row, int]]:
        """Rows that are whole, and where each ends, in bytes. Raises ValueError for others that are not the last."""


class JsonLines(Form):
    """An object per line."""

    def header(self) -> str:
        """See Form."""
        return ""

    def line(self, row: Row) -> str:
        """See Form."""
        return to_json(row, indent=None) + "\n"

    def read(self, file: IO[bytes]) -> Iterator[tuple[Row, int]]:
        """See Form."""
        for line, end in _lines(file):
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("path"), str):
                raise ValueError("a line is no answer")
            yield row, end


class Csv(Form):
    """RFC 4180: path, label, probability, label_2, probability_2, ..., error; lines end as on Unix.

    Args:
        top: classes named per picture.
    """

    def __init__(self, top: int) -> None:
        numbers = ["", *(f"_{place}" for place in range(2, top + 1))]
        named = [f"{what}{number}" for number in numbers for what in ("label", "probability")]
        self._columns = ["path", *named, "error"]

    def header(self) -> str:
        """See Form."""
        return self._text(self._columns)

    def line(self, row: Row) -> str:
        """See Form."""
        cells = [cell for found in row.get("top", []) for cell in (found["label"], found["probability"])]
        empty = [""] * (len(self._columns) - 2 - len(cells))
        return self._text([row["path"], *cells, *empty, row.get("error", "")])

    def _text(self, cells: Sequence[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(encodable(c) if isinstance(c, str) else c for c in cells)
        return text.getvalue()

    def read(self, file: IO[bytes]) -> Iterator[tuple[Row, int]]:
        """See Form."""
        end = 0

        def lines() -> Iterator[str]:
            nonlocal end
            for line, end in _lines(file):  # noqa: B007
                yield line

        reader = csv.reader(lines(), strict=True)
        if next(reader, self._columns) != self._columns:
            raise ValueError("it has other columns")
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):  # between two quotes, where a line may end too
                    return
                raise ValueError(str(error)) from error
            if len(cells) != len(self._columns):
                raise ValueError("a line has not as many cells as the first")
            yield self._row(cells), end

    def _row(self, cells: Sequence[str]) -> Row:
        if cells[-1]:
            return {"path": cells[0], "error": cells[-1]}
        pairs = zip(cells[1:-1:2], cells[2:-1:2], strict=True)
        top = [{"label": label, "probability": float(number)} for label, number in pairs if number]
        return {"path": cells[0], **top[0], "top": top}


def _lines(file: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Whole lines, and where each ends."""
    end = 0
    for line in file:
        end += len(line)
        if line.endswith(b"\n"):
            yield line.decode(), end


class Log(Protocol):
    """Where the answers to many pictures go.

    Attributes:
        unreadable: pictures so far that could not be read.
        resumable: whether another run can go on with it.
    """

    unreadable: int
    resumable: bool

    def left(self, paths: Sequence[str]) -> list[Batch]:
        """The batches of all paths that have an unanswered picture, or whose answers are to be looked at again."""

    def add(self, batch: Sequence[tuple[str, Answer]]) -> list[bool]:
        """Writes those answers that are not there yet; says of each whether it was."""


class Shown(Log):
    """Answers that are written and gone."""

    unreadable = 0
    resumable = False

    def __init__(self, show: Show) -> None:
        self._show = show

    def left(self, paths: Sequence[str]) -> list[Batch]:
        """See Log."""
        return batches(paths)

    def add(self, batch: Sequence[tuple[str, Answer]]) -> list[bool]:
        """See Log."""
        for path, answer in batch:
            self.unreadable += isinstance(answer, MnvError)
            self._show(path, answer)
        return [False] * len(batch)


def printed(form: Form) -> Shown:
    """Rows on standard output."""
    write(form.header())
    return Shown(lambda path, answer: write(form.line(as_dict(path, answer))))


class Rows(Log):
    """A file of rows that grows; see :func:`kept`."""

    resumable = True

    def __init__(self, path: Path, file: IO[bytes], form: Form) -> None:
        self.unreadable = 0
        self._path, self._file, self._form = path, file, form
        self._answered: Counter[str] = Counter()
        self._there: set[str] = set()
        last: deque[Row] = deque(maxlen=_LOOKED_AT_AGAIN * BATCH)
        end = 0
        try:
            for row, end in form.read(file):  # noqa: B007
                self._answered[row["path"]] += 1
                self.unreadable += "error" in row
                last.append(row)
        except ValueError as error:
            raise MnvError(
                f"{path} has no answers to go on with: {MnvError.reason(error)}.",
                "Go on with the --top it was begun with, or write to another file.",
            ) from error
        self._last = {row["path"]: row for row in last}
        if end:
            file.seek(end)
            file.truncate()
        else:
            file.seek(0)
            file.truncate()
            file.write(form.header().encode())

    def left(self, paths: Sequence[str]) -> list[Batch]:
        """See Log."""
        unseen = Counter(self._answered)
        done = bytearray(len(paths))
        for place, path in enumerate(paths):
            name = encodable(path)
            if unseen[name] > 0:
                unseen[name] -= 1
                done[place] = True
        last = done.rfind(True)
        again = last // BATCH - _LOOKED_AT_AGAIN + 1 if last >= 0 else len(paths)
        work = []
        for number, batch in enumerate(batches(paths)):
            there = done[number * BATCH : number * BATCH + len(batch)]
            if number >= again or not all(there):
                work.append(batch)
                self._there.update(path for path, answered in zip(batch, there, strict=True) if answered)
        return work

    def add(self, batch: Sequence[tuple[str, Answer]]) -> list[bool]:
        """See Log. Raises MnvError if an answer is there and is another."""
        there = []
        for path, answer in batch:
            row = as_dict(path, answer)
            name = encodable(path)
            there.append(path in self._there)
            if not there[-1]:
                self._file.write(self._form.line(row).encode())
                self.unreadable += isinstance(answer, MnvError)
            elif name in self._last and not _same(row, self._last[name]):
                raise MnvError(
                    f"{self._path} says another thing of {path} than is found now.",
                    "Go on with the model and the --top it was begun with, or write to another file.",
                )
        self._file.flush()
        return there


def _same(row: Row, other: Row) -> bool:
    """Whether two rows say the same, but for how floating point rounds where batches are others."""
    if "error" in row or "error" in other:
        return "error" in row and "error" in other
    if len(row["top"]) != len(other["top"]) or row["label"] != other["label"]:
        return False
    pairs = zip(row["top"], other["top"], strict=True)
    return all(math.isclose(a["probability"], b["probability"], rel_tol=1e-3, abs_tol=1e-4) for a, b in pairs)


@contextmanager
def kept(path: Path | None, form: Form, *, resume: bool) -> Iterator[Log]:
    """A file of rows.

    Args:
        path: of the file; None or ``-`` is standard output.
        form: of its rows.
        resume: go on with what is there; else there must be nothing.

    Raises:
        MnvError: if there is a file already, or it cannot be written or gone on with.
    """
    if path is None or str(path) == STANDARD_OUTPUT:
        yield printed(form)
        return
    _refuse_existing(path, resume)
    with growing(path) as file:
        yield Rows(path, file, form)


@contextmanager
def kept_as_parquet(path: Path, *, resume: bool) -> Iterator[Log]:
    """As :func:`kept`, of a Parquet file, which has an end without which nobody reads it.

    While it grows it is JSON lines, in a file beside it that has ``.jsonl`` after its name; from it the Parquet file is
    written when all is answered.
    """
    parquet = engine("pyarrow.parquet", "parquet")
    growing_path = path.with_name(f"{path.name}.jsonl")
    for there in (path, growing_path):
        _refuse_existing(there, resume)
    if path.exists() and not growing_path.exists():
        with atomic(growing_path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(map(JsonLines().line, read_parquet(path)))
    with kept(growing_path, JsonLines(), resume=resume) as rows:
        yield rows
    with (
        atomic(path) as temporary,
        parquet.ParquetWriter(temporary, schema()) as writer,
        growing_path.open("rb") as file,
    ):
        found = (row for row, _ in JsonLines().read(file))
        while group := list(islice(found, ROW_GROUP)):
            writer.write_table(table(group))
    growing_path.unlink()


def _refuse_existing(path: Path, resume: bool) -> None:
    if path.exists() and not resume:
        raise MnvError(
            f"There is a file {path} already.", "Go on with it with --resume, remove it, or write to another file."
        )


def schema() -> pyarrow.Schema:
    """Of Parquet's rows: path, label, probability, top (a list of label and probability), error; the last four may
    be null.
    """
    arrow = engine("pyarrow", "parquet")
    named = [("label", arrow.string()), ("probability", arrow.float64())]
    top = arrow.list_(arrow.struct(named))
    return arrow.schema([("path", arrow.string()), *named, ("top", top), ("error", arrow.string())])


def table(rows: Sequence[Row]) -> pyarrow.Table:
    """Rows for Parquet."""
    plain = [{**row, "path": encodable(row["path"])} for row in rows]
    return engine("pyarrow", "parquet").Table.from_pylist(plain, schema=schema())


def read_parquet(path: Path) -> Iterator[Row]:
    """The rows of such a file. Raises MnvError for another file."""
    parquet = engine("pyarrow.parquet", "parquet")
    try:
        with parquet.ParquetFile(path) as file:
            if not file.schema_arrow.equals(schema()):
                raise ValueError("it has other columns")
            for batch in file.iter_batches(ROW_GROUP):
                for row in batch.to_pylist():
                    yield {key: value for key, value in row.items() if value is not None}
    except (OSError, ValueError) as error:  # pyarrow's own are ValueErrors
        raise MnvError(
            f"{path} has no answers to go on with: {MnvError.reason(error)}.", "Write to another file."
        ) from error
