"""What mnv1 serve bears: JPEGs in, answers out, every answer compared with that of mnv1 predict.

    python scripts/load_serve.py --seconds 60 --connections 64      # a JSON object per part, as they are done
    python scripts/measure.py serve                                 # the same, into docs/measurements.json

The parts, on this machine's processors, which client and server share:

- decoding alone, without a network and without HTTP: what bounds any such server (before and after the others);
- mnv1 serve of the bundled int8 ONNX, without and with batches, and with JPEGs decoded at a part of their size;
- the same file in services of LitServe and BentoML, installed into a temporary environment, or --python that has them;
- hostile clients beside well-behaved ones: damaged pictures, bombs of pixels and scans, heads and bodies without end;
- a server that is killed, and one that is told to stop, and started again, under load.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from PIL import Image

from mnv1deploy import bundled, images, machine
from mnv1deploy.classifier import Classifier, load
from mnv1deploy.report.answers import as_dict
from mnv1deploy.report.console import to_json

ROOT = Path(__file__).parents[1]
SIZE = (500, 375)
"""Of the JPEGs, in pixels, as of a photograph on a page."""

PICTURES = 200
OTHERS = {"LitServe": ("litserve", "python-multipart"), "BentoML": ("bentoml",)}
"""Other servers, and what they need beside onnxruntime and Pillow; the first is the package of that name."""

HOST = "127.0.0.1"


# ---- Pictures and their answers


def jpegs() -> list[bytes]:
    """Crops of the example photographs, all different, in qualities from 75 to 95."""
    random = np.random.default_rng(0)
    photographs = [Image.open(path).convert("RGB") for path in sorted((ROOT / "examples").glob("*.*[gp]"))]
    found = []
    for number in range(PICTURES):
        photograph = photographs[number % len(photographs)]
        scale = random.uniform(0.6, 1.0) * min(photograph.width / SIZE[0], photograph.height / SIZE[1])
        width, height = SIZE[0] * scale, SIZE[1] * scale
        left, top = random.uniform(0, photograph.width - width), random.uniform(0, photograph.height - height)
        box = (left, top, left + width, top + height)
        encoded = io.BytesIO()
        photograph.resize(SIZE, Image.Resampling.BICUBIC, box).save(encoded, "JPEG", quality=75 + number % 21)
        found.append(encoded.getvalue())
    return found


def expected(classifier: Classifier, picture: bytes) -> bytes:
    """The answer to a picture, byte for byte."""
    return to_json(as_dict("-", classifier.predict(picture, top=3)), indent=None).encode()


# ---- The client


@dataclass
class Load:
    """What clients saw.

    Attributes:
        latencies: of every right answer, in seconds.
        wrong: answers that were not what was expected, the first of them.
        cut: requests whose connection broke before the answer.
        refused: attempts to connect that failed.
    """

    latencies: list[float] = field(default_factory=list)
    wrong: int = 0
    example: bytes = b""
    cut: int = 0
    refused: int = 0


class Connection(asyncio.Protocol):
    """Sends requests one after another while ``more`` gives the numbers of more of them."""

    def __init__(
        self, requests: Sequence[bytes], right: Callable[[int, bytes], bool], load: Load, more: Callable[[], int | None]
    ) -> None:
        self._requests, self._right, self._load, self._more = requests, right, load, more
        self.closed = asyncio.get_running_loop().create_future()
        self._number: int | None = None

    def connection_made(self, transport: Any) -> None:
        """See Protocol."""
        self._transport = transport
        self._next()

    def _next(self) -> None:
        self._number, self._answer = self._more(), b""
        if self._number is None:
            self._transport.close()
        else:
            self._sent = time.perf_counter()
            self._transport.write(self._requests[self._number])

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        self._answer += data
        head, blank, body = self._answer.partition(b"\r\n\r\n")
        if not blank or self._number is None:
            return
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if length and len(body) < int(length[1]):
            return
        if head.startswith(b"HTTP/1.1 200") and self._right(self._number, body):
            self._load.latencies.append(time.perf_counter() - self._sent)
        else:
            self._load.wrong += 1
            self._load.example = self._load.example or self._answer[:500]
        if b"\r\nconnection: close" in head.lower():
            self._number = None
            self._transport.close()
        else:
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        """See Protocol."""
        self._load.cut += self._number is not None
        self.closed.set_result(None)


async def _bear(
    port: int, requests: Sequence[bytes], right: Callable[[int, bytes], bool], connections: int, seconds: float
) -> Load:
    load, end, turn = Load(), time.perf_counter() + seconds, 0

    def more() -> int | None:
        nonlocal turn
        turn += 1
        return turn % len(requests) if time.perf_counter() < end else None

    async def client() -> None:
        loop = asyncio.get_running_loop()
        while time.perf_counter() < end:
            try:
                _, protocol = await loop.create_connection(lambda: Connection(requests, right, load, more), HOST, port)
                await protocol.closed
            except OSError:
                load.refused += 1
                await asyncio.sleep(0.05)

    await asyncio.gather(*(client() for _ in range(connections)))
    return load


def bear(
    port: int, requests: Sequence[bytes], right: Callable[[int, bytes], bool], connections: int, seconds: float
) -> Load:
    """So many connections for so long, each with a new request as soon as it has an answer."""
    return uvloop.run(_bear(port, requests, right, connections, seconds))


def posts(pictures: Sequence[bytes], path: str, *, form: bool = False) -> list[bytes]:
    """A request for each picture: it is the body, or the file of a form."""
    found = []
    for picture in pictures:
        kind = "application/octet-stream"
        if form:
            kind = "multipart/form-data; boundary=limit"
            start = b'--limit\r\nContent-Disposition: form-data; name="content"; filename="a.jpg"\r\n'
            picture = start + b"Content-Type: image/jpeg\r\n\r\n" + picture + b"\r\n--limit--\r\n"
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nContent-Length: {len(picture)}\r\n\r\n"
        found.append(head.encode() + picture)
    return found


# ---- Servers


def free_port() -> int:
    """One that nobody listens at, below those that systems hand out: such a one may be another's before it is used."""
    while True:
        port = random.randrange(20_000, 32_768)  # noqa: S311
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port


def start(command: Sequence[str], port: int) -> subprocess.Popen[bytes]:
    """A server's process, when it takes connections."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    end = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = connection.recv(100)
            if answer.startswith(b"HTTP/") and answer[9:12] != b"503":  # LitServe's answer while its workers start
                return process
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"{' '.join(command)} does not answer (exit code {process.returncode}).")
        time.sleep(0.05)


@contextlib.contextmanager
def running(command: Sequence[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server, ended with all its processes."""
    process = start(command, port)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def family(process: int) -> list[Path]:
    """Of a process and all that it has started, their folders in /proc; BentoML's have a group each."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [process]
    for one in found:  # which grows meanwhile
        found += children.get(one, [])
    return [Path("/proc", str(one)) for one in found]


def memory(process: int) -> float | None:
    """What a server has of it, in MiB, pages that its processes share counted once each; None but on Linux."""
    total = 0.0
    for folder in family(process):
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+) kB", (folder / "smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) / 1024 if found else 0
    return round(total, 1) if total else None


def processor_seconds(process: int) -> float:
    """What a server has had of the processors; 0 but on Linux."""
    total = 0.0
    for folder in family(process):
        with contextlib.suppress(OSError):
            total += processor_seconds_of(folder)
    return total


def processor_seconds_of(folder: Path) -> float:
    """What the process of a folder in /proc has had. Raises OSError if it has ended."""
    user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def mnv1_serve(port: int, *options: str) -> list[str]:
    """The command."""
    command = [sys.executable, "-m", "mnv1deploy.cli", "serve", "--port", str(port), "--no-log-requests"]
    return [*command, "--model", f"net={bundled.INT8}", *options]


# ---- The parts

Row = dict[str, Any]


def decoding(pictures: Sequence[bytes], classifier: Classifier, seconds: float) -> Row:
    """Pictures that as many threads as there are processors decode and scale, and do nothing else."""
    end, counts = time.perf_counter() + seconds, []

    def work(number: int) -> None:
        count = 0
        while time.perf_counter() < end:
            images.read(pictures[(number + count) % len(pictures)], classifier.spec.pixels)
            count += 1
        counts.append(count)

    threads = [threading.Thread(target=work, args=(number * 7,)) for number in range(machine.processors())]
    begin, used = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, used = time.perf_counter() - begin, time.process_time() - used
    return {
        "part": "decoding alone",
        "images_per_second": round(sum(counts) / took, 1),
        "processor": round(1000 * used / sum(counts), 3),
    }


def loaded(
    part: str,
    command: Sequence[str],
    port: int,
    requests: Sequence[bytes],
    right: Callable[[int, bytes], bool],
    connections: int,
    seconds: float,
) -> Row:
    """A server under load, after a short one that warms it up."""
    with running(command, port) as process:
        bear(port, requests, right, connections, min(2.0, seconds))
        before, used = memory(process.pid), processor_seconds(process.pid)
        begin, ours = time.perf_counter(), time.process_time()
        load = bear(port, requests, right, connections, seconds)
        took, ours = time.perf_counter() - begin, time.process_time() - ours
        after, used = memory(process.pid), processor_seconds(process.pid) - used
    if load.wrong or load.cut or not load.latencies:
        raise SystemExit(f"{part}: {load.wrong} wrong answers, {load.cut} cut: {load.example!r}")
    p50, p99 = np.percentile(load.latencies, [50, 99]) * 1000
    return {
        "part": part,
        "connections": connections,
        "seconds": seconds,
        "images_per_second": round(len(load.latencies) / took, 1),
        "p50": round(p50, 2),
        "p99": round(p99, 2),
        "processor": round(1000 * used / len(load.latencies), 3),
        "processor_of_client": round(1000 * ours / len(load.latencies), 3),
        "memory_start": before,
        "memory_end": after,
        "answers": len(load.latencies),
        "wrong": load.wrong,
    }


def other(
    name: str, python: str, pictures: Sequence[bytes], labels: Sequence[str], connections: int, seconds: float
) -> Row:
    """The same file served by one of OTHERS; its answers are compared with those of the label that we give."""
    package = OTHERS[name][0]
    port = free_port()
    script = str(ROOT / "scripts" / f"{package}_service.py")
    command = [python, script, str(bundled.INT8), str(port), str(machine.processors())]
    agreed = 0

    def right(number: int, body: bytes) -> bool:
        nonlocal agreed
        label = json.loads(body)["label"]
        agreed += label == labels[number]
        return bool(label)

    requests = posts(pictures, "/predict", form=True)
    row = loaded(f"{name} {version(python, package)}", command, port, requests, right, connections, seconds)
    return {**row, "agreement": round(agreed / max(1, agreed, row["answers"]), 4)}


@contextlib.contextmanager
def python_with(given: str | None, packages: Sequence[str]) -> Iterator[str]:
    """A Python that has these packages: the given one, or one of an environment that is removed afterwards."""
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, folder], check=True)
        python = str(Path(folder, "bin", "python"))
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, *packages], check=True)
        yield python


def version(python: str, package: str) -> str:
    """Of a package that this Python has."""
    code = f"from importlib.metadata import version; print(version('{package}'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def hostile_bodies(picture: bytes) -> dict[str, bytes]:
    """Requests that nobody well-meaning sends."""
    progressive = io.BytesIO()
    Image.new("L", (8000, 4000)).save(progressive, "JPEG", progressive=True)
    scan = progressive.getvalue()[progressive.getvalue().rindex(b"\xff\xda") : -2]
    bomb = io.BytesIO()
    Image.new("1", (5700, 5700)).save(bomb, "PNG")  # 32 million pixels in 4 KB, which is let in
    huge = bytearray(bomb.getvalue())
    huge[16:24] = (60_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    bodies = {
        "cut off": picture[: len(picture) // 2],
        "damaged": picture[:2000] + bytes(2000) + picture[4000:],
        "random": np.random.default_rng(1).bytes(50_000),
        "bomb of pixels": bytes(huge),
        "large picture": bomb.getvalue(),
        "bomb of scans": progressive.getvalue()[:-2] + 2000 * scan + b"\xff\xd9",
        "bomb of brackets": b"[" * 1_000_000,
    }
    found = {name: posts([body], "/classify")[0] for name, body in bodies.items()}
    found["bomb of brackets"] = found["bomb of brackets"].replace(b"octet-stream", b"json")
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\n"
    found["10,000 headers"] = head + b"".join(b"X-%d: y\r\n" % i for i in range(10_000)) + b"\r\n"
    found["head without end"] = head + b"X: " + bytes([65]) * 1_000_000
    found["body too large"] = head + b"Content-Length: 100000000000\r\n\r\n" + bytes(1_000_000)
    found["no HTTP"] = b"\x16\x03\x01" + bytes(100)
    return found


def hostile(
    requests: Sequence[bytes], right: Callable[[int, bytes], bool], picture: bytes, connections: int, seconds: float
) -> Row:
    """Well-behaved clients beside all of those, and 100 connections that send a byte a second."""
    port, bodies = free_port(), hostile_bodies(picture)
    statuses: dict[str, set[str]] = {name: set() for name in bodies}
    end = 0.0

    def attack() -> None:
        while time.perf_counter() < end:
            for name, content in bodies.items():
                with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=30) as connection:
                    with contextlib.suppress(OSError):  # it has heard enough
                        connection.sendall(content)
                    statuses[name].add(connection.recv(100)[9:12].decode())

    def drip() -> None:
        held = []
        for _ in range(100):
            with contextlib.suppress(OSError):
                held.append(socket.create_connection((HOST, port), timeout=5))
        while time.perf_counter() < end:
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.send(b"P")
            time.sleep(1)
        for connection in held:
            connection.close()

    with running(mnv1_serve(port, "--timeout", "10"), port) as process:
        before, end = memory(process.pid), time.perf_counter() + seconds
        threads = [threading.Thread(target=attack), threading.Thread(target=drip)]
        for thread in threads:
            thread.start()
        load = bear(port, requests, right, connections, seconds)
        for thread in threads:
            thread.join()
        again = bear(port, requests, right, connections, 1.0)
        alive, after = process.poll() is None, memory(process.pid)
    if load.wrong or load.cut or again.wrong or not again.latencies or not alive:
        raise SystemExit(f"hostile clients: {load.wrong} wrong, {load.cut} cut: {load.example!r}")
    return {
        "part": "hostile clients",
        "connections": connections,
        "seconds": seconds,
        "answers": len(load.latencies),
        "wrong": load.wrong,
        "memory_start": before,
        "memory_end": after,
        "statuses": {name: sorted(found) for name, found in statuses.items()},
    }


def restarted(
    requests: Sequence[bytes],
    right: Callable[[int, bytes], bool],
    number: signal.Signals,
    connections: int,
    seconds: float,
) -> Row:
    """A server that ends by a signal in the middle of a load, and is started again at its port."""
    port = free_port()
    process = start(mnv1_serve(port), port)
    after = [process]

    def end() -> None:
        time.sleep(seconds / 3)
        os.kill(process.pid, number)
        process.wait()
        after.append(start(mnv1_serve(port), port))

    thread = threading.Thread(target=end)
    thread.start()
    try:
        load = bear(port, requests, right, connections, seconds)
    finally:
        thread.join()
        after[-1].terminate()
        after[-1].wait()
    if load.wrong or not load.latencies:
        raise SystemExit(f"{number.name}: {load.wrong} wrong: {load.example!r}")
    return {
        "part": number.name,
        "connections": connections,
        "seconds": seconds,
        "answers": len(load.latencies),
        "wrong": load.wrong,
        "cut": load.cut,
    }


def rows(seconds: float = 60.0, connections: int = 64, python: str | None = None) -> Iterator[Row]:
    """All parts."""
    classifier = load(threads=1)
    pictures = jpegs()
    answers = [expected(classifier, picture) for picture in pictures]
    labels = [json.loads(answer)["label"] for answer in answers]
    requests = posts(pictures, "/classify")

    def right(number: int, body: bytes) -> bool:
        return body == answers[number]

    scaled = load(threads=1, jpeg="scaled")
    answers_scaled = [expected(scaled, picture) for picture in pictures]

    def right_scaled(number: int, body: bytes) -> bool:
        return body == answers_scaled[number]

    def serve(part: str, *options: str, seconds: float = seconds, right: Callable[[int, bytes], bool] = right) -> Row:
        port = free_port()
        return loaded(part, mnv1_serve(port, *options), port, requests, right, connections, seconds)

    yield decoding(pictures, classifier, seconds / 3)
    yield serve("mnv1 serve")
    yield serve("mnv1 serve --batch 1", "--batch", "1", seconds=seconds / 3)
    yield serve("mnv1 serve --jpeg scaled", "--jpeg", "scaled", seconds=seconds / 3, right=right_scaled)
    packages = ["onnxruntime", "pillow", *(package for needed in OTHERS.values() for package in needed)]
    with python_with(python, packages) as found:
        for name in OTHERS:
            yield other(name, found, pictures, labels, connections, seconds / 3)
    yield decoding(pictures, classifier, seconds / 3)
    yield hostile(requests, right, pictures[0], 8, seconds / 3)
    for number in (signal.SIGKILL, signal.SIGTERM):
        yield restarted(requests, right, number, connections, max(15.0, seconds / 3))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of the longest part")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--python", help="of an environment that has the other servers")
    options = parser.parse_args()
    for row in rows(options.seconds, options.connections, options.python):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
