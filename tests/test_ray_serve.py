"""Ray Serve: two replicas of the service on loopback, one of which is killed under load."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from load_serve import expected, free_port
from PIL import Image
from test_ray import wait_until, workers
from tritonclient.http import InferenceServerClient, InferInput

from mnv1deploy import bundled, classifier, datasets
from mnv1deploy.errors import MnvError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own, of every kind

CLIENTS, PICTURES = 4, 400


SERVING = """
import sys, ray
from ray import serve
from mnv1deploy.serving.ray import app
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(app({"replicas": "2"}))
print("raylet", ray._private.worker._global_node.all_processes["raylet"][0].process.pid, flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
"""
"""A process of its own: one that has had a cluster may crash with another."""


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[int, int]]:
    """Where two replicas are served, and the process that has started theirs."""
    port = free_port()
    # niceness: else, beside anything that computes, they hardly start
    environment = {**os.environ, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-W", "ignore", "-c", SERVING, str(port)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        raylet = next(int(line.split()[1]) for line in process.stdout if line.startswith("raylet"))
        yield port, raylet
        process.stdin.close()


@pytest.fixture
def port(served: tuple[int, int]) -> int:
    return served[0]


def replicas(raylet: int) -> list[int]:
    """The processes that answer."""
    return workers(raylet, "ServeReplica")


def test_every_picture_has_its_own_answer_once_though_a_replica_is_killed(
    served: tuple[int, int], tmp_path: Path
) -> None:
    """A request that was at the killed one fails, its client asks again, and nobody else notices."""
    port, raylet = served
    network = classifier.load(threads=1)
    files = [tmp_path / f"{number}.png" for number in range(PICTURES)]
    for file, image in zip(files, datasets.calibration().images, strict=False):
        Image.fromarray(image).save(file)
    turns, half = iter(files), threading.Event()
    answers: dict[Path, bytes] = {}
    failures: Counter[object] = Counter()

    def client() -> None:
        """Asks for one picture after another, on one connection, where an answer too many would be the next one's."""
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            for file in turns:
                while True:
                    try:
                        connection.request("POST", "/classify", file.read_bytes())
                        response = connection.getresponse()
                        content = response.read()
                    except (OSError, http.client.HTTPException) as error:
                        failures[type(error)] += 1
                        connection.close()
                    else:
                        if response.status == 200:
                            break
                        failures[response.status] += 1
                    time.sleep(0.05)
                answers[file] = content
                if len(answers) == PICTURES // 4:
                    half.set()

    before = replicas(raylet)
    assert len(before) == 2
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(client) for _ in range(CLIENTS)]
        assert half.wait(60)
        os.kill(before[0], signal.SIGKILL)
        for one in clients:
            one.result()
    assert answers == {file: expected(network, file.read_bytes()) for file in files}
    assert sum(failures.values()) <= CLIENTS, failures
    wait_until(lambda: len(set(replicas(raylet)) - {before[0]}) == 2)


def test_the_protocol_is_that_of_one_machine(port: int) -> None:
    """Pictures of several requests are computed in one call; each gets its own."""
    pixels = datasets.calibration().images[:24]
    wanted = classifier.load(threads=1)(pixels)

    def infer(start: int) -> np.ndarray:
        tensor = InferInput("image", pixels[start : start + 2].shape, "UINT8")
        tensor.set_data_from_numpy(pixels[start : start + 2])
        with InferenceServerClient(f"127.0.0.1:{port}") as client:
            found: np.ndarray = client.infer(bundled.INT8.stem, [tensor]).as_numpy("logits")
            return found

    with ThreadPoolExecutor(12) as threads:
        np.testing.assert_array_equal(np.concatenate(list(threads.map(infer, range(0, 24, 2)))), wanted)


def test_arguments_that_are_none_are_refused() -> None:
    from mnv1deploy.serving.ray import app

    with pytest.raises(MnvError, match="no argument models"):
        app({"models": "x"})
    with pytest.raises(MnvError, match="'0' is no whole number"):
        app({"replicas": "0"})
    with pytest.raises(MnvError, match=r"nowhere\.onnx"):
        app({"model": "nowhere.onnx"})
