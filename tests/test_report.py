"""What a person or a script gets to see, whatever it is written to and whatever things are called."""

import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import export
from PIL import Image

from mnv1deploy import bundled, checkpoint, datasets, verification
from mnv1deploy.artifact import Manifest
from mnv1deploy.c.plan import footprint
from mnv1deploy.classifier import Prediction
from mnv1deploy.errors import MnvError
from mnv1deploy.exporting import Exported
from mnv1deploy.report import answers, as_json, console, plots, tables

CAT = Path(__file__).parents[1] / "examples" / "cat.png"
COMMAND = [sys.executable, "-W", "error", "-m", "mnv1deploy.cli"]

HOSTILE = "e\x1b[31mvil\nname\u202e.png"
SPELT = "e\\x1b[31mvil\\nname\\u202e.png"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of sh in which ``mnv1`` is the command; its output is buffered, whatever is usual here."""
    line = line.replace("mnv1 ", " ".join(COMMAND) + " ")
    everything = {**os.environ, "PYTHONUNBUFFERED": "", **environment}
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, env=everything)


def in_a_terminal(script: str, columns: int) -> list[str]:
    """What Python code prints on a terminal that is so wide."""
    import fcntl
    import termios

    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**environment, "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(terminal)
    seen = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(main)
    assert process.wait() == 0, seen.decode()
    return re.sub(r"\x1b\[[0-9;]*m", "", seen.decode()).replace("\r", "").split("\n")


# Standard output that cannot be written -----------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", ["info", f"predict {CAT} --json", "--help", "cost", "formats --json"])
def test_a_full_output_is_one_sentence_and_exit_code_1(arguments: str) -> None:
    done = shell(f"mnv1 {arguments} > /dev/full")
    assert (done.returncode, done.stderr) == (1, "mnv1: Standard output cannot be written: No space left on device.\n")


@pytest.mark.parametrize("arguments", ["info", f"predict {CAT}", "--version"])
def test_a_closed_output_is_one_sentence_and_exit_code_1(arguments: str) -> None:
    done = shell(f"mnv1 {arguments} >&-")
    assert (done.returncode, done.stderr) == (1, "mnv1: Standard output cannot be written: it is closed.\n")


@pytest.mark.slow
def test_a_closed_or_full_error_output_is_no_traceback() -> None:
    assert shell("mnv1 info none.onnx 2>&-").returncode == 1
    assert shell("mnv1 info none.onnx 2>/dev/full").returncode == 1
    assert shell("mnv1 info >/dev/null 2>&-").returncode == 0


def test_nobody_reads_is_exit_code_1_and_silence() -> None:
    done = shell("{ mnv1 info; echo $? >&2; } | head -n 0")
    assert done.stderr == "1\n"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "utf-16"])
def test_letters_that_an_encoding_lacks_are_replaced(tmp_path: Path, encoding: str) -> None:
    name = "狗é.png"
    (tmp_path / name).write_bytes(CAT.read_bytes())
    command = [*COMMAND, "predict", name]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = name.encode(encoding, "replace").decode(encoding)
    assert done.stdout.decode(encoding).split()[:2] == [expected, "cat"]
    tables_too = subprocess.run([*COMMAND, "cost"], env=environment, capture_output=True)
    assert (tables_too.returncode, tables_too.stderr) == (0, b"")


# Names that others gave ---------------------------------------------------------------------------------------------


def test_names_are_shown_without_what_has_no_shape() -> None:
    assert console.visible(HOSTILE) == SPELT
    assert console.visible("caf\udce9 \ud800 \x00\x85\u2028\t") == "caf\\xe9 \\ud800 \\x00\\x85\\u2028\\t"
    plain = "Bär\xa0狗\u3000नक्\u200dष 👨\u200d👩 $a\\b"
    assert console.visible(plain) == plain


@pytest.mark.slow
def test_a_file_name_with_an_escape_sequence_or_bytes_that_are_no_text(tmp_path: Path) -> None:
    for name in (HOSTILE, "bad\udcff.png"):
        (tmp_path / name).write_bytes(CAT.read_bytes())
    (tmp_path / f"broken{HOSTILE}").write_bytes(b"no picture")
    done = subprocess.run([*COMMAND, "predict", "."], cwd=tmp_path, capture_output=True)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == ["bad\\xff.png", SPELT]
    assert f"broken{SPELT}".encode() in done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    for option in ("--json", "--json-lines"):
        done = subprocess.run([*COMMAND, "predict", ".", option], cwd=tmp_path, capture_output=True)
        assert b"\\ud" not in done.stdout
        text = done.stdout.decode()
        found = json.loads(text) if option == "--json" else [json.loads(line) for line in text.splitlines()]
        assert [answer["path"] for answer in found if "error" not in answer] == ["bad\\xff.png", HOSTILE]


def test_json_has_no_halves_of_letters_and_no_nan() -> None:
    text = console.to_json({"\udcff": [float("nan"), float("inf"), ("\ud800a", 1, None, True, 0.5)]})
    assert json.loads(text) == {"\\xff": [None, None, ["\\ud800a", 1, None, True, 0.5]]}


def test_a_table_is_not_broken_by_a_line_break(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_table([f"a{HOSTILE}", ">b"], [(HOSTILE, 1), ("[bold]x[/bold]", 2)], title=HOSTILE, captions=[HOSTILE])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.count(SPELT) == 4
    assert "[bold]x[/bold]" in shown
    assert sum(line.strip().endswith((" 1", " 2")) for line in shown.splitlines()) == 2


def test_class_names_in_plots_are_names(tmp_path: Path) -> None:
    """No formula between dollar signs, no warning about a letter without a glyph."""
    sample = datasets.sample()
    names = ("$x^$", "$\\bad{", "狗", "a\nb", *sample.classes[4:])
    renamed = datasets.Dataset(sample.name, sample.images[:20], sample.labels[:20], names)
    all_right = verification.Evaluation(renamed, np.eye(10, dtype=np.float32)[renamed.labels])
    plots.plot_confusion(all_right, tmp_path / "confusion.svg")
    assert (tmp_path / "confusion.svg").stat().st_size > 1000


# Tables and facts by width ------------------------------------------------------------------------------------------

BENCH = """
from mnv1deploy.benchmark import Result
from mnv1deploy.report import tables
fields = dict(provider="CPUExecutionProvider", threads=None, batch_size=1, calls=9, min=.0401, mean=.0501, p50=.0451,
    p90=.0601, p99=1.2, std=.01, p50_lowest=.04, p50_highest=.05, images_per_second=21000, load=41.5, peak_memory=90)
names = ("mobilenetv1_cifar10_int8.onnx", "mobilenetv1_cifar10_fp32.onnx")
tables.show_bench([Result(artifact=name, ratio=1.0, **fields) for name in names], {})
"""

CONFUSION = """
import numpy
from mnv1deploy import datasets, verification
from mnv1deploy.report import tables
sample = datasets.sample()
tables.show_evaluation(verification.Evaluation(sample, numpy.eye(10)[sample.labels]))
"""


@pytest.mark.parametrize("columns", [80, 120])
def test_bench_in_a_terminal_keeps_every_name_whole(columns: int) -> None:
    lines = in_a_terminal(BENCH, columns)
    assert max(map(len, lines)) <= columns
    assert sum("mobilenetv1_cifar10_int8.onnx" in line for line in lines) == 2
    header = next(line for line in lines if "p50" in line and "artifact" in line)
    assert all(word in header for word in ("threads", "batch", "p50", "ratio"))
    left_out = next((line for line in lines if line.startswith("Left out here")), "")
    for word in ("min", "mean", "std", "p90", "p99", "images/s"):
        assert (word in header) != (word in left_out)
    assert bool(left_out) == (columns == 80)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_confusion_matrix_cuts_no_class_name(columns: int) -> None:
    lines = in_a_terminal(CONFUSION, columns)
    assert max(map(len, lines)) <= columns
    shown = " ".join(lines)
    for name in datasets.sample().classes:
        assert shown.count(name) >= 2  # in its row, and in the header or below the table


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_info_and_formats_in_a_terminal_are_wrapped_at_words(columns: int) -> None:
    code = "import sys; sys.argv = ['mnv1', {!r}]; from mnv1deploy.cli import main; main()"
    info = in_a_terminal(code.format("info"), columns)
    assert max(map(len, info)) <= columns
    assert any(line.startswith("proof         ") for line in info)
    assert sum(line[:14].strip() != "" for line in info) <= 10
    formats = in_a_terminal(code.format("formats"), columns)
    assert max(map(len, formats)) <= columns
    for word in ("torchscript", "executorch", ".tflm.tflite", "openvino"):
        assert any(word in line for line in formats)


def test_a_pipe_gets_every_column() -> None:
    done = subprocess.run([sys.executable, "-c", BENCH], capture_output=True, text=True, check=True)
    assert "Left out" not in done.stdout
    assert all(word in done.stdout for word in ("min", "mean", "std", "p90", "p99", "images/s"))


# Answers as they come -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_answers_are_written_as_they_come_and_stay_when_it_is_killed(tmp_path: Path) -> None:
    """Of many pictures, the first are answered long before the last; what was written stays."""
    paths = [str(tmp_path / f"{number}.png") for number in range(400)]
    with Image.open(CAT) as picture:
        picture.resize((48, 48)).save(paths[0])
    for path in paths[1:]:
        os.link(paths[0], path)
    fifo = tmp_path / "never.png"
    os.mkfifo(fifo)  # nobody writes to it, so that the command waits there for ever
    for option in ((), ("--json-lines",)):
        with (tmp_path / "answers").open("wb") as file:
            process = subprocess.Popen([*COMMAND, "predict", *paths, str(fifo), *option], stdout=file)
            deadline = time.monotonic() + 120
            while (tmp_path / "answers").read_bytes().count(b"\n") < 300 and time.monotonic() < deadline:
                time.sleep(0.1)
            process.send_signal(signal.SIGKILL)
            process.wait()
        lines = (tmp_path / "answers").read_text().splitlines()
        assert len(lines) >= 300
        assert all("cat" in line for line in lines)


def test_answers_are_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is written and flushed before the next is asked for."""
    written: list[str] = []
    monkeypatch.setattr(console.sys, "stdout", type("Out", (), {"write": written.append, "flush": lambda: None}))
    with answers.json_document() as show:
        for number in range(3):
            show(f"{number}.png", Prediction((("cat", 0.5),)))
            assert len(written) == number + 1
    assert [row["path"] for row in json.loads("".join(written))] == ["0.png", "1.png", "2.png"]


def test_json_of_no_picture_at_all_is_an_empty_list(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "predict", "none.png", "--json"], capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)) == (1, [])


# Plots --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plot", "plot.gif", "plot.", ".png", "plot.png.txt"])
def test_a_plot_of_no_known_kind_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [*COMMAND, "bench", "none.onnx", "--plot", name], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert ".png" in done.stderr
    assert ".svg" in done.stderr
    assert "none.onnx" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".svg", ".pdf"])
def test_a_plot_is_the_same_file_twice(tmp_path: Path, suffix: str) -> None:
    for name in ("first", "second"):
        plots.save_plot(tmp_path / f"{name}{suffix}", lambda figure: figure.subplots().plot([1, 2]) and None)
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("first", "second"))
    if suffix != ".svg":  # whose identifiers are random
        assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"first{suffix}", f"second{suffix}"]


def test_a_plot_onto_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(MnvError, match="is a folder"):
        plots.check(tmp_path / "plot.png")


# What is being done -------------------------------------------------------------------------------------------------


def test_long_work_says_what_it_does_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PATIENCE", 0.05)
    with console.stages() as told:
        told("calibrating", 0, 0)
        time.sleep(0.5)
        told("calibrating", 1, 2)
        told("proving\x1b", 0, 1)
        time.sleep(0.5)
    time.sleep(0.2)
    assert capsys.readouterr().err.splitlines() == ["mnv1: calibrating ...", "mnv1: proving\\x1b ..."]


def test_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with console.stages() as told:
        told("calibrating", 0, 0)
    assert capsys.readouterr().err == ""


def test_info_of_bundled_has_its_facts_in_a_pipe_a_line_each() -> None:
    done = subprocess.run([*COMMAND, "info", str(bundled.INT8)], capture_output=True, text=True, check=True)
    assert len([line for line in done.stdout.splitlines() if line.startswith("network ")]) == 1
    assert "symmetric padding" in next(line for line in done.stdout.splitlines() if line.startswith("network "))


def test_c_is_measured_in_flash_and_ram_not_by_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, images = checkpoint.load(bundled.CHECKPOINT).network, datasets.calibration().images
    path = export(network, "c", "int8", tmp_path, images)
    manifest = Manifest.read(path)
    assert manifest
    expected, exported = footprint(network.spec), Exported(path, manifest, ())
    (row,), facts = as_json.exported_as_dicts([exported], {}), as_json.info_as_dict(path)
    assert (row["flash"], row["ram"]) == (facts["flash"], facts["ram"]) == (expected.flash, expected.ram)
    tables.show_exported([exported], {}, {})
    tables.show_info(facts)
    text = capsys.readouterr().out
    assert text.count(f"{expected.flash:,} bytes of flash for weights and tables, {expected.ram:,} of RAM") == 2
    assert f"{manifest.bytes:,}" not in text
