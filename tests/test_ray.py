"""Pictures on many machines: a real Ray on loopback, whose workers and nodes are killed."""

from __future__ import annotations

import http.server
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from mnv1deploy import classifier, cluster, datasets
from mnv1deploy.classifier import Classifier
from mnv1deploy.cli import app
from mnv1deploy.errors import MnvError
from mnv1deploy.report import rows

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own, of every kind

OPEN = partial(classifier.load, threads=1)
PICTURES, UNREADABLE = 660, 2


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many pictures, links to 300 real ones and to one that cannot be read, in a folder whose name is no plain word."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "real").mkdir()
    for number, image in enumerate(datasets.calibration().images[:300]):
        Image.fromarray(image).save(folder / "real" / f"{number}.png")
    (folder / "real" / "300.png").write_bytes(b"no picture")
    (folder / "all of 100%").mkdir()
    for number in range(PICTURES):
        (folder / "all of 100%" / f"{number:03} #.png").symlink_to(folder / "real" / f"{(number + 150) % 301}.png")
    return folder / "all of 100%"


@pytest.fixture(scope="module")
def expected(pictures: Path) -> list[rows.Row]:
    """What one machine says."""
    paths = cluster.find([str(pictures)])
    assert len(paths) == PICTURES
    return [rows.as_dict(str(path), answer) for path, answer in OPEN().predict_all(paths, top=3)]


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, object]]:
    """A cluster of two nodes with a processor each."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else, beside anything that computes, they hardly start
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            other = made.add_node(num_cpus=1)
            ray.init(address=made.address, log_to_driver=False)
            yield made, other
        finally:
            ray.shutdown()
            made.shutdown()


def found(folder: Path) -> list[rows.Row]:
    """The rows of all files, in the order of their names; beside them there is the mark of a complete folder alone."""
    assert {path.name for path in folder.iterdir() if path.suffix != ".parquet"} == {cluster.DONE}
    return [row for path in sorted(folder.iterdir()) if path.suffix for row in rows.read_parquet(path)]


def predict_while(pictures: Path, folder: Path, disturb: Callable[[], object]) -> int:
    """Disturbs a run when some of its files are there; how many pictures cannot be read."""

    def slowly() -> Classifier:  # a function in a function is sent whole, and needs nothing of this file there
        network = OPEN()
        quick = network.answers

        def slow(*arguments: object, **options: object) -> object:
            time.sleep(0.2)
            return quick(*arguments, **options)

        network.answers = slow
        return network

    written: list[int] = []

    def wait() -> None:
        wait_until(lambda: len(list(folder.glob("part-*"))) >= 5)
        there = list(folder.glob("part-*"))
        disturb()
        written.append(len(there))

    disturber = threading.Thread(target=wait, daemon=True)
    disturber.start()
    counted: list[int] = []
    paths = cluster.find([str(pictures)])
    unreadable = cluster.predict(paths, str(folder), slowly, address="auto", top=3, advance=counted.append)
    assert sum(counted) == len(paths)
    assert written and written[0] < len(list(folder.glob("part-*")))
    return unreadable


def answering(below: Any) -> list[int]:
    """Processes of a node that answer just now."""
    return workers(below.all_processes["raylet"][0].process.pid, "_answer")


def workers(raylet: int, doing: str) -> list[int]:
    """Processes of a node that do this; Ray writes what they do where their command line was."""
    children = [pid for path in Path(f"/proc/{raylet}/task").glob("*/children") for pid in _read(path).split()]
    return [int(pid) for pid in children if _read(Path("/proc", pid, "cmdline")).startswith(f"ray::{doing}")]


def wait_until(condition: Callable[[], object]) -> None:
    """Fails after two minutes, in which Ray notices everything."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""


def test_what_one_machine_says_though_a_worker_and_a_node_are_killed(
    two_nodes: tuple[Cluster, object], pictures: Path, expected: list[rows.Row], tmp_path: Path
) -> None:
    """Nothing is lost, nothing doubled, the order kept; bit for bit."""
    import ray

    made, other = two_nodes
    killed: list[int] = []

    def kill_worker() -> None:
        wait_until(lambda: answering(other))
        killed.extend(answering(other))
        os.kill(killed[0], signal.SIGKILL)

    def kill_node() -> None:
        """Raylet and workers; the latter would else end what they have begun."""
        wait_until(lambda: answering(other))
        last = answering(other)
        made.remove_node(other, allow_graceful=False)
        for pid in last:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.extend(last)

    assert predict_while(pictures, tmp_path / "worker", kill_worker) == UNREADABLE
    assert len(killed) == 1
    assert found(tmp_path / "worker") == expected
    assert predict_while(pictures, tmp_path / "node", kill_node) == UNREADABLE
    assert len(killed) == 2
    wait_until(lambda: [node["Alive"] for node in ray.nodes()].count(True) == 1)
    assert found(tmp_path / "node") == expected


def test_the_command_writes_a_folder_once(
    two_nodes: tuple[Cluster, object],
    pictures: Path,
    expected: list[rows.Row],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At an address here; paths are those that were given, of the folder that the command was given in."""
    monkeypatch.chdir(pictures.parent)
    command = ["predict", pictures.name, "--ray", "auto", "--parquet", f"file://{tmp_path}/answers"]
    assert app(command, standalone_mode=False) == 1
    assert f"{PICTURES} pictures, {UNREADABLE} of them cannot be read" in capsys.readouterr().out
    whole = [{**row, "path": str(pictures.parent / row["path"])} for row in found(tmp_path / "answers")]
    assert [{**row, "error": row.get("error") and 1} for row in whole] == [
        {**row, "error": row.get("error") and 1} for row in expected
    ]
    with pytest.raises(MnvError, match="already"):
        app(command, standalone_mode=False)


def test_what_goes_wrong_in_a_process_of_the_cluster_is_said(
    two_nodes: tuple[Cluster, object], pictures: Path, tmp_path: Path
) -> None:
    def refuse() -> Classifier:
        raise MnvError("No such model here.", "Copy it.")

    def fail() -> Classifier:
        raise RuntimeError("of another kind")

    paths = cluster.find([str(pictures)])
    run = partial(cluster.predict, paths, address="auto", top=3)
    with pytest.raises(MnvError, match=r"No such model here\. Copy it\."):
        run(str(tmp_path / "a"), refuse)
    with pytest.raises(MnvError, match=r"\d{3} #\.png to .*\d{3} #\.png .*of another kind"):
        run(str(tmp_path / "b"), fail)
    assert not (tmp_path / "b" / cluster.DONE).exists()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


def test_pictures_at_addresses_are_found_and_read(pictures: Path, expected: list[rows.Row], tmp_path: Path) -> None:
    """Names with any signs, below an address of files; and by a server on this machine."""
    job = cluster._Job(OPEN, str(tmp_path), os.getcwd(), 3)
    paths = cluster.find([f"file://{pictures}"])
    assert [path.removeprefix("file://") for path in paths] == [row["path"] for row in expected]
    assert cluster._answer(job, "part.parquet", paths) == UNREADABLE
    read = list(rows.read_parquet(tmp_path / "part.parquet"))
    assert [row.get("top") for row in read] == [row.get("top") for row in expected]
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(pictures.parent / "real"))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        start = f"http://127.0.0.1:{server.server_port}/"
        names = ["0.png", "1.png", "300.png", "nowhere.png"]
        assert cluster._answer(job, "by_http.parquet", [start + name for name in names]) == 2
        server.shutdown()
    local = OPEN().predict_all([pictures.parent / "real" / name for name in names[:2]], top=3)
    by_http = list(rows.read_parquet(tmp_path / "by_http.parquet"))
    assert by_http[:2] == [rows.as_dict(start + path.name, answer) for path, answer in local]
    assert [row["error"] for row in by_http[2:]] == [
        f"The file {start}300.png cannot be read as a picture. It is in no format that Pillow reads, or it is cut off.",
        f"The file {start}nowhere.png cannot be read as a picture. There is nothing at this address.",
    ]


def test_what_is_no_picture_of_a_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="Standard input"):
        cluster.find(["-"])
    with pytest.raises(MnvError, match="no picture"):
        cluster.find([f"file://{tmp_path}"])
    with pytest.raises(MnvError, match="cannot be listed"):
        cluster.find(["nonsense://x/y"])
    with pytest.raises(MnvError, match="There is nothing at"):
        cluster.find([f"file://{tmp_path}/photos"])


def test_the_package_that_an_address_takes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    address = "s3a://bucket/photos"  # which is not among Arrow's own
    for refused in (cluster.find, lambda given: cluster.predict(["a.png"], given[0], OPEN, address="local", top=3)):
        with pytest.raises(MnvError, match=r"Install s3fs to access S3\."):
            refused([address])


def test_a_ray_that_does_not_start_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises Exception itself where a machine is too slow for its own limit of time."""
    import ray

    def init(**options: object) -> None:
        raise Exception("The node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(MnvError, match=r"no Ray at local: The node timed out during startup\. "):
        cluster.predict(["a.png"], str(tmp_path / "answers"), OPEN, address="local", top=3)
    assert not (tmp_path / "answers").exists()


def test_files_are_whole_batches_and_sort_by_name() -> None:
    """Whatever the number of pictures; the rounding of floating point depends on who is together in a batch."""
    for count in (1, 32, 33, 660, 2**17, 10**6 + 1):
        parts = cluster._parts([str(number) for number in range(count)])
        assert [path for name in sorted(parts) for path in parts[name]] == [str(number) for number in range(count)]
        sizes = [len(part) for part in parts.values()]
        assert all(size % classifier.BATCH == 0 for size in sizes[:-1])
        assert max(sizes) <= cluster.PART * classifier.BATCH
        assert len(parts) >= min(cluster.PARTS, -(-count // classifier.BATCH))
