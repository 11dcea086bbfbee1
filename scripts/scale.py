"""What many pictures take: memory by their number, and time by the number of Ray's nodes.

    python scripts/scale.py memory --pictures 20000 200000
    python scripts/scale.py nodes --pictures 12000

Memory: links to a few hundred small PNGs, answered by one machine's ``mnv1 predict`` and by Ray; what is kept of every
process is the most that it had, as Linux counts it. Nodes: JPEGs of 500x375 on a cluster of nodes of one processor
each, which this machine pretends to be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from load_serve import family, processor_seconds_of
from PIL import Image
from predict_folder import ROOT, pictures

from mnv1deploy import cluster, datasets
from mnv1deploy.classifier import BATCH, load

Row = dict[str, Any]

MNV1 = (sys.executable, "-m", "mnv1deploy.cli", "predict")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "RAY_worker_niceness": "0",  # else workers starve beside anything that computes
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
}

MEMORY_PICTURES = (20_000, 200_000)
REAL = 500
"""Different pictures among them."""

IN_A_FOLDER = 1000


def links(count: int, folder: Path) -> Path:
    """So many PNGs in folders below; the same few hundred again and again, without taking room for each."""
    real = folder / "real"
    if not real.exists():
        real.mkdir()
        for number, image in enumerate(datasets.calibration().images[:REAL]):
            Image.fromarray(image).save(real / f"{number}.png")
    made = folder / f"pictures-{count}"
    different = len(list(real.iterdir()))
    for number in range(count):
        below = made / f"{number // IN_A_FOLDER:04}"
        if number % IN_A_FOLDER == 0:
            below.mkdir(parents=True)
        os.link(real / f"{number % different}.png", below / f"{number:07}.png")
    return made


def peaks(command: Sequence[str], folder: Path) -> tuple[dict[str, float], float]:
    """The most memory in MiB that processes of a command had, the largest of a kind, and seconds of the clock.

    The kinds are ``command``, the process itself; ``worker``, what answers pictures; and Ray's own programs by name.
    """
    most: dict[str, float] = defaultdict(float)
    begin = time.perf_counter()
    with subprocess.Popen(command, env=ENVIRONMENT, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for one in family(process.pid):
                with contextlib.suppress(OSError, TypeError):
                    kind = kind_of(one, process.pid)
                    peak = re.search(r"^VmHWM:\s+(\d+) kB", (one / "status").read_text(), re.MULTILINE)
                    most[kind] = max(most[kind], int(peak[1]) / 1024)  # type: ignore[index]
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}.")
    return dict(most), time.perf_counter() - begin


def kind_of(process: Path, command: int) -> str:
    """What the process of a folder in /proc is, by its command line; ``command`` is the number of the first of all."""
    if process.name == str(command):
        return "command"
    line = (process / "cmdline").read_bytes()
    program = line.partition(b"\0")[0]
    for name in ("gcs_server", "raylet"):  # whose lines name the workers' program too
        if program.endswith(name.encode()):
            return name
    if re.search(rb"^ray::(_answer|IDLE)|default_worker\.py|multiprocessing\.spawn", line):
        return "worker"
    return "other"


def memory(counts: Sequence[int] = MEMORY_PICTURES) -> Iterator[Row]:
    """A row per command and number of pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for count in counts:
            made = links(count, folder)
            for name, options in {
                "mnv1 predict --csv": ["--csv", str(folder / f"{count}.csv")],
                "mnv1 predict --ray local": ["--ray", "local", "--parquet", str(folder / f"{count}-by-ray")],
            }.items():
                most, seconds = peaks([*MNV1, str(made), *options], folder)
                yield {"command": name, "pictures": count, "mebibytes": most, "seconds": round(seconds, 1)}


NODES_PICTURES = 12_000
DIFFERENT = 1000
ROUNDS = 3
PART_OF = cluster.PART * BATCH
"""Pictures of the largest part."""


def nodes(count: int = NODES_PICTURES, rounds: int = ROUNDS) -> Iterator[Row]:
    """A row per number of nodes: the median of the rounds' pictures a second, and what Ray itself takes for a part."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ.update(ENVIRONMENT)
    real = sorted(map(str, pictures(min(count, DIFFERENT)).iterdir()))
    paths = [real[number % len(real)] for number in range(count)]
    size = sum(map(os.path.getsize, real)) / len(real)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found: dict[int, list[Row]] = defaultdict(list)
    try:
        ray.init(address=made.address, log_to_driver=False)
        for _ in range(rounds):
            found[1].append(answered(paths))
            other = made.add_node(num_cpus=1)
            made.wait_for_nodes()
            found[2].append(answered(paths))
            made.remove_node(other)
        whole = handed_out(ray, (paths * (-(-PART_OF // count)))[:PART_OF])
    finally:
        ray.shutdown()
        made.shutdown()
    for number, row in found.items():
        median = sorted(row, key=lambda one: one["images_per_second"])[len(row) // 2]
        yield {"nodes": number, "pictures": count, "bytes": round(size), **median, **whole}


def answered(paths: Sequence[str]) -> Row:
    """What the cluster does from the time on when it has answered a quarter: by then all its processes have begun."""
    answers = 0
    begun: tuple[float, int, dict[int, tuple[str, float]]] | None = None

    def advance(count: int) -> None:
        nonlocal answers, begun
        answers += count
        if not begun and answers >= len(paths) / 4:
            begun = time.perf_counter(), answers, processes()

    with tempfile.TemporaryDirectory() as folder:
        cluster.predict(paths, f"{folder}/answers", partial(load, threads=1), address="auto", top=3, advance=advance)
    assert begun
    begin, first, before = begun
    seconds, answers = time.perf_counter() - begin, answers - first
    used = spent_since(before)
    return {"images_per_second": answers / seconds, "milliseconds": 1000 * used["worker"] / answers}


def handed_out(ray: Any, paths: Sequence[str], parts: int = 50) -> Row:
    """What handing out a part of so many paths takes of processors, in milliseconds: of the command, and of Ray."""

    def nothing(paths: Sequence[str]) -> int:
        return len(paths)

    task = ray.remote(nothing)
    ray.get(task.remote(paths))
    before = processes()
    for _ in range(parts):
        ray.get(task.remote(paths))
    used = spent_since(before)
    command = used.pop("command")
    return {"command_per_part": 1000 * command / parts, "ray_per_part": 1000 * sum(used.values()) / parts}


def spent_since(before: dict[int, tuple[str, float]]) -> dict[str, float]:
    """Processor seconds by kind of process since :func:`processes` said this."""
    used: dict[str, float] = defaultdict(float)
    for number, (kind, spent) in processes().items():
        used[kind] += spent - before.get(number, ("", 0.0))[1]
    return used


def processes() -> dict[int, tuple[str, float]]:
    """Of this process and all that it has started: its kind, and what it has had of the processors, in seconds."""
    found = {}
    for one in family(os.getpid()):
        with contextlib.suppress(OSError):
            found[int(one.name)] = kind_of(one, os.getpid()), processor_seconds_of(one)
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("memory", "nodes"))
    parser.add_argument("--pictures", type=int, nargs="+", help="default: those of the page")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of nodes, whose median counts")
    chosen = parser.parse_args()
    if chosen.part == "memory":
        found = memory(chosen.pictures or MEMORY_PICTURES)
    else:
        (count,) = chosen.pictures or [NODES_PICTURES]
        found = nodes(count, chosen.rounds)
    for row in found:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
