"""Many pictures: rows in files that grow, runs that are killed and resumed, pictures sorted into folders."""

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from mnv1deploy import bundled, classifier, datasets, many
from mnv1deploy.classifier import Prediction
from mnv1deploy.cli import app
from mnv1deploy.errors import MnvError
from mnv1deploy.report import console, rows
from mnv1deploy.sorting import Sorter

PREDICT = (sys.executable, "-W", "error", "-m", "mnv1deploy.cli", "predict")

HOSTILE = ('quote"d, and\nbroken.png', "bytes\udcff.png", "=1+2.png", " spaced .png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 330 real pictures in two folders, four with hostile names, and three that cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    for part in ("a", "b"):
        (folder / part).mkdir()
    found = datasets.calibration().images
    for number in range(323):
        Image.fromarray(found[number % len(found)]).save(folder / "ab"[number % 2] / f"{number // 2:03}.png")
    for name, image in zip(HOSTILE, found[-4:], strict=True):
        Image.fromarray(image).save(folder / name)
    for name in ("000-broken.jpg", "b/080-broken.png", "z-broken.png"):
        (folder / name).write_bytes(b"\xff\xd8\xff no")
    return folder


def predict(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command in this process."""
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.chdir(cwd)
        try:
            status = app(["predict", *map(str, arguments)], standalone_mode=False)
        except MnvError as error:
            console.show_error(error.message, error.hint)
            status = 1
    return subprocess.CompletedProcess(arguments, status or 0, output.getvalue(), errors.getvalue())


@contextmanager
def started(*arguments: object, cwd: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command in a process of its own, which is killed where the context is left."""
    command = [*PREDICT, *map(str, arguments)]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], object]) -> None:
    """Fails after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read(path: Path) -> list[rows.Row]:
    """The rows of a file, by its suffix."""
    if path.suffix == ".parquet":
        return list(rows.read_parquet(path))
    form = rows.Csv(3) if path.suffix == ".csv" else rows.JsonLines()
    with path.open("rb") as file:
        return [row for row, _ in form.read(file)]


def options(path: Path) -> list[str]:
    """What has answers written to a file of this suffix."""
    if path.suffix == ".jsonl":
        return ["--json-lines", "--output", str(path)]
    return [f"--{path.suffix[1:]}", str(path)]


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of every form, of one run each."""
    folder = tmp_path_factory.mktemp("undisturbed")
    files = {suffix: folder / f"answers{suffix}" for suffix in (".csv", ".jsonl", ".parquet")}
    for path in files.values():
        done = predict(".", *options(path), cwd=pictures)
        assert (done.returncode, done.stdout, done.stderr.count("cannot be read")) == (1, "", 3)
    return files


# Rows ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_form_has_a_row_for_every_picture_in_order(pictures: Path, undisturbed: dict[str, Path]) -> None:
    expected = rows_of(pictures)
    assert len(expected) == 330
    assert [row["path"] for row in expected] == sorted(row["path"] for row in expected)
    assert [row["path"] for row in expected if "error" in row] == ["000-broken.jpg", "b/080-broken.png", "z-broken.png"]
    for path in undisturbed.values():
        assert read(path) == expected


def rows_of(folder: Path) -> list[rows.Row]:
    """What Python's own interface says of the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names = sorted(str(path) for path in Path().rglob("*.*g"))
        network = classifier.load()
        answers = [rows.as_dict(str(path), answer) for path, answer in network.predict_all(names, top=3)]
    return [{**row, "path": rows.encodable(row["path"])} for row in answers]


def test_csv_is_what_a_spreadsheet_reads(undisturbed: dict[str, Path]) -> None:
    with undisturbed[".csv"].open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == [
        *("path", "label", "probability", "label_2", "probability_2", "label_3", "probability_3", "error")
    ]
    assert {row["path"] for row in found} >= {'quote"d, and\nbroken.png', "bytes\\xff.png"}
    assert all((row["error"] == "") == (0 < float(row["probability"] or 0) <= 1) for row in found)


def test_parquet_is_what_others_read(undisturbed: dict[str, Path]) -> None:
    table = pyarrow.parquet.read_table(undisturbed[".parquet"])
    assert table.column_names == ["path", "label", "probability", "top", "error"]
    assert table["error"].null_count == 327
    assert table["label"].null_count == table["probability"].null_count == 3
    assert not undisturbed[".parquet"].with_name("answers.parquet.jsonl").exists()


def test_rows_on_standard_output_are_those_of_the_file(pictures: Path, undisturbed: dict[str, Path]) -> None:
    for arguments, suffix in ((["--csv", "-"], ".csv"), (["--json-lines"], ".jsonl")):
        done = predict(".", *arguments, cwd=pictures)
        assert done.stdout == undisturbed[suffix].read_text("utf-8")


@pytest.mark.slow
def test_processes_answer_as_threads_do(pictures: Path, undisturbed: dict[str, Path]) -> None:
    done = predict(".", "--csv", "-", "--workers", 2, cwd=pictures)
    assert done.stdout == undisturbed[".csv"].read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("model", [bundled.INT8, bundled.FP32], ids=["int8", "fp32"])
def test_a_batch_has_the_same_bits_wherever_it_is_answered(pictures: Path, model: Path) -> None:
    network = classifier.load(model)
    paths = sorted(map(str, pictures.rglob("*.*g")))[:70]
    again = partial(classifier.load, model, threads=1)
    by_processes = many.answer(network, many.batches(paths), top=3, workers=2, open_again=again)
    alone = many.answer(network, many.batches(paths), top=3, workers=1, open_again=again)
    for batch, other in zip(by_processes, alone, strict=True):
        assert [(path, str(answer)) for path, answer in batch] == [(path, str(answer)) for path, answer in other]


def test_processes_are_for_many_pictures_that_they_can_read() -> None:
    paths = ["x.png"] * many.WORTH_PROCESSES
    assert many.default_workers(paths[1:], "CPUExecutionProvider") == 1
    assert many.default_workers(paths, "CUDAExecutionProvider") == 1
    assert many.default_workers([*paths, "-"], "CPUExecutionProvider") == 1
    assert many.default_workers(paths, "CPUExecutionProvider") == many.machine.processors()


def workers_of(pid: int) -> list[int]:
    """Those processes of a run."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_worker_that_is_ended_is_one_sentence(tmp_path: Path) -> None:
    """Its picture is a pipe that nobody writes to, so that it is still there to be killed."""
    os.mkfifo(tmp_path / "never.png")
    with started("never.png", "--workers", 2, cwd=tmp_path) as process:
        wait_until(lambda: workers_of(process.pid))
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        assert "A process that answers pictures was ended" in process.communicate(timeout=60)[1]
        assert process.returncode == 1


def test_no_worker_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never.png")
    with started("never.png", "--workers", 2, cwd=tmp_path) as process:
        wait_until(lambda: workers_of(process.pid))
        (worker,) = workers_of(process.pid)
    wait_until(lambda: not Path(f"/proc/{worker}").exists())


# A run that goes on -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "workers"), [(".csv", 1), (".jsonl", 2), (".parquet", 2)])
def test_a_killed_run_resumes_to_the_same_bytes(
    pictures: Path, undisturbed: dict[str, Path], suffix: str, workers: int, tmp_path: Path
) -> None:
    """Killed where a pipe that nobody writes to stands in for a picture that cannot be read."""
    whole = undisturbed[suffix].read_bytes()
    shutil.copytree(pictures, tmp_path / "pictures")
    held = tmp_path / "pictures" / "b" / "080-broken.png"
    content = held.read_bytes()
    held.unlink()
    os.mkfifo(tmp_path / "pipe")
    held.symlink_to(tmp_path / "pipe")
    path = tmp_path / f"answers{suffix}"
    log = path.with_name(f"{path.name}.jsonl") if suffix == ".parquet" else path
    arguments = [".", *options(path), "--workers", workers]
    with started(*arguments, cwd=held.parents[1]):
        wait_until(lambda: log.exists() and log.read_bytes().count(b"\n") > 128)
    half = log.read_bytes()
    assert half.count(b"\n") < 300
    log.write_bytes(half + b'"torn')
    held.unlink()
    held.write_bytes(content)
    refused = predict(*arguments, cwd=held.parents[1])
    assert (refused.returncode, log.read_bytes()) == (1, half + b'"torn')
    assert "--resume" in refused.stderr
    resumed = predict(*arguments, "--resume", cwd=held.parents[1])
    assert resumed.returncode == 1
    assert path.read_bytes() == whole
    assert log == path or not log.exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_finished_run_resumes_to_the_same_bytes_and_goes_on_with_new_pictures(
    pictures: Path, undisturbed: dict[str, Path], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"answers{suffix}"
    shutil.copy(undisturbed[suffix], path)
    done = predict(".", *options(path), "--resume", cwd=pictures)
    assert (done.returncode, done.stderr) == (1, "")
    assert path.read_bytes() == undisturbed[suffix].read_bytes()
    new = tmp_path / "new"
    shutil.copytree(pictures, new)
    shutil.copy(pictures / "a" / "000.png", new / "a" / "000-new.png")
    predict(".", *options(path), "--resume", cwd=new)
    before, after = read(undisturbed[suffix]), read(path)
    assert after[:-1] == before
    (first,) = (row for row in before if row["path"] == "a/000.png")
    assert after[-1] == {**first, "path": "a/000-new.png"}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("cut", [0, 1, 20, -1, -200])
def test_a_file_cut_anywhere_is_gone_on_with(
    pictures: Path, undisturbed: dict[str, Path], suffix: str, cut: int, tmp_path: Path
) -> None:
    form = rows.Csv(3) if suffix == ".csv" else rows.JsonLines()
    path = tmp_path / "answers"
    whole = undisturbed[suffix].read_bytes()
    path.write_bytes(whole[:cut])
    with rows.kept(path, form, resume=True) as log:
        assert log.resumable
    kept = path.read_bytes()
    assert whole.startswith(kept)
    assert kept.endswith(b"\n") or not kept
    assert len(whole[:cut]) - len(kept) < 500 or not kept


def test_a_row_torn_between_its_quotes_is_dropped(tmp_path: Path) -> None:
    form = rows.Csv(1)
    path = tmp_path / "answers.csv"
    path.write_text(form.header() + 'a.png,cat,0.5,\n"b\n')
    with rows.kept(path, form, resume=True):
        pass
    assert path.read_text() == form.header() + "a.png,cat,0.5,\n"


@pytest.mark.slow
def test_another_model_or_top_does_not_go_on(pictures: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    for suffix, source in undisturbed.items():
        path = tmp_path / f"answers{suffix}"
        shutil.copy(source, path)
        for other in (["--model", bundled.FP32], ["--top", "2"]):
            done = predict(".", *options(path), "--resume", *other, cwd=pictures)
            assert done.returncode == 1
            assert "Go on with the" in done.stderr
            if suffix != ".parquet":
                assert path.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("content", ["no json\n{}\n", "[]\n", '{"label": "cat"}\n', "\x80\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    for path, form in ((tmp_path / "a.jsonl", rows.JsonLines()), (tmp_path / "a.csv", rows.Csv(3))):
        path.write_text(content, "latin-1")
        with pytest.raises(MnvError, match="no answers to go on with"), rows.kept(path, form, resume=True):
            pass
        assert path.read_text("latin-1") == content


def test_no_parquet_to_go_on_with(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(MnvError, match="no answers to go on with"), rows.kept_as_parquet(path, resume=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """No more than a few batches are ahead of the one that is asked for."""
    taken = 0

    def work() -> Iterator[many.Batch]:
        nonlocal taken
        while True:
            taken += 1
            yield [str(tmp_path / "none.png")] * 32

    for workers in (1, 2):
        taken = 0
        network = classifier.load()
        answers = many.answer(network, work(), top=1, workers=workers, open_again=classifier.load)
        for _ in range(20):
            next(answers)
        answers.close()
        assert 20 <= taken <= 20 + 2 * workers + 2


# Sorting ------------------------------------------------------------------------------------------------------------


def sorted_into(folder: Path) -> dict[str, list[str]]:
    """Names of the files of every folder in one."""
    return {inner.name: sorted(path.name for path in inner.iterdir()) for inner in sorted(folder.iterdir())}


@pytest.mark.parametrize("how", ["copy", "link", "move"])
def test_pictures_are_sorted_into_folders(pictures: Path, how: str, tmp_path: Path) -> None:
    """All that can be read, whole, by class or as unsure; what cannot stays."""
    shutil.copytree(pictures, tmp_path / "source")
    before = readable(tmp_path / "source")
    chosen = ["--sort", "sorted", "--sort-by", how, "--min-probability", 0.5, "--csv", "rows.csv"]
    assert predict("source", *chosen, cwd=tmp_path).returncode == 1
    answers = [row for row in read(tmp_path / "rows.csv") if "error" not in row]
    wanted = Counter(row["label"] if row["probability"] >= 0.5 else "unsure" for row in answers)
    assert {name: len(files) for name, files in sorted_into(tmp_path / "sorted").items()} == wanted
    assert "unsure" in wanted
    there = [path for path in (tmp_path / "sorted").rglob("*") if not path.is_dir()]
    assert sorted(path.read_bytes() for path in there) == before
    assert all(path.is_symlink() == (how == "link") for path in there)
    assert len(list((tmp_path / "source").rglob("*.*g"))) == (3 if how == "move" else 330)


def readable(folder: Path) -> list[bytes]:
    """The contents of all pictures that can be read."""
    return sorted(path.read_bytes() for path in folder.rglob("*.*g") if path.read_bytes()[:1] != b"\xff")


def test_no_file_is_written_over(tmp_path: Path) -> None:
    cat = Prediction((("cat", 0.9),))
    sorter = Sorter(tmp_path / "sorted", ["cat"])
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "x.png").write_text(str(number))
        sorter.put(str(tmp_path / str(number) / "x.png"), cat)
    found = {path.name: path.read_text() for path in (tmp_path / "sorted" / "cat").iterdir()}
    assert found == {"x.png": "0", "x-2.png": "1", "x-3.png": "2"}


@pytest.mark.parametrize("how", ["copy", "link", "move"])
def test_a_picture_that_was_sorted_is_not_sorted_again(tmp_path: Path, how: str) -> None:
    cat = Prediction((("cat", 0.9),))
    sorter = Sorter(tmp_path / "sorted", ["cat"], how)  # type: ignore[arg-type]
    (tmp_path / "x.png").write_text("x")
    sorter.put(str(tmp_path / "x.png"), cat)
    if how == "move":  # killed between the second name and the end of the first
        os.link(tmp_path / "sorted" / "cat" / "x.png", tmp_path / "x.png")
    sorter.put(str(tmp_path / "x.png"), cat, again=True)
    assert sorted_into(tmp_path / "sorted") == {"cat": ["x.png"]}
    assert (tmp_path / "x.png").exists() == (how != "move")


def test_moving_to_another_disk_copies_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.link

    def link(source: object, target: object) -> None:
        if ".sorting-" not in str(source):
            raise OSError(18, "Invalid cross-device link")
        plain(source, target)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "x.png").write_text("x")
    Sorter(tmp_path / "sorted", ["cat"], "move").put(str(tmp_path / "x.png"), Prediction((("cat", 0.9),)))
    assert sorted_into(tmp_path / "sorted") == {"cat": ["x.png"]}
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("label", ["../../out", "..", "a/b", "/etc", "a\\b", "x\n"])
def test_a_class_name_leads_nowhere_else(tmp_path: Path, label: str) -> None:
    place = Sorter(tmp_path, [label, "cat"]).place_of(Prediction(((label, 0.9),)))
    assert place.parent == tmp_path
    assert place.name.strip(".")
    assert place.name.isprintable()


def test_folders_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="a_b"):
        Sorter(tmp_path, ["a/b", "a_b"])
    with pytest.raises(MnvError, match="unsure"):
        Sorter(tmp_path, ["unsure", "cat"], least=0.5)
    Sorter(tmp_path, ["unsure", "cat"])
    (tmp_path / "file").touch()
    with pytest.raises(MnvError, match="it is a file"):
        Sorter(tmp_path / "file", ["cat"])


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(source: str, target: str) -> None:
        Path(target).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", copy)
    (tmp_path / "x.png").write_text("x")
    with pytest.raises(MnvError, match="No space left on device"):
        Sorter(tmp_path / "sorted", ["cat"]).put(str(tmp_path / "x.png"), Prediction((("cat", 0.9),)))
    assert sorted_into(tmp_path / "sorted") == {"cat": []}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["copy", "move"])
def test_a_killed_run_that_sorts_resumes(pictures: Path, how: str, tmp_path: Path) -> None:
    """Nothing is lost and nothing doubled."""
    source = tmp_path / "source"
    shutil.copytree(pictures, source)
    before = readable(source)
    command = ["source", "--sort", "sorted", "--sort-by", how, "--csv", "rows.csv", "--workers", 2]
    with started(*command, cwd=tmp_path):
        wait_until(lambda: len(list((tmp_path / "sorted").rglob("*.png"))) > 100)
    assert predict(*command, "--resume", cwd=tmp_path).returncode == 1
    there = [path for path in (tmp_path / "sorted").rglob("*.png") if not path.name.startswith(".")]
    assert sorted(path.read_bytes() for path in there) == before
    assert len(read(tmp_path / "rows.csv")) == 330
    assert len(list(source.rglob("*.*g"))) == (3 if how == "move" else 330)
