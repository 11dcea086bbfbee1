"""mnv1 serve: real servers on loopback, asked by a client of the protocol, by HTTP's, and by nobody's well-wishers."""

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_images import header_only_png
from tritonclient import http as triton

from mnv1deploy import bundled, cli, datasets, images
from mnv1deploy.classifier import Classifier, load
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import Images, Logits
from mnv1deploy.report.answers import as_dict
from mnv1deploy.serving.batching import Batching
from mnv1deploy.serving.http import application
from mnv1deploy.serving.limits import Limits
from mnv1deploy.serving.model import named
from mnv1deploy.serving.server import Server
from mnv1deploy.spec import Jpeg, ModelSpec

EXAMPLES = ROOT / "examples"
PICTURES = [EXAMPLES / name for name in ("cat.png", "truck.jpg", "airplane.webp")]


@contextmanager
def serving(
    classifiers: dict[str, Classifier],
    limits: Limits = Limits(),  # noqa: B008
    workers: int = 2,
    batching: Batching | None = None,
) -> Iterator[str]:
    """Host and port of a server of these."""
    app = application(classifiers, limits=limits, workers=workers, batching=batching)
    server = Server(app, port=0, limits=limits)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.address.removeprefix("http://")
    finally:
        server.stop()
        thread.join()


@pytest.fixture(scope="module")
def classifiers() -> dict[str, Classifier]:
    """Two networks that do not give the same logits."""
    return {"int8": load(bundled.INT8, threads=1), "fp32": load(bundled.FP32, threads=1)}


@pytest.fixture(scope="module")
def address(classifiers: dict[str, Classifier]) -> Iterator[str]:
    """Where both are served."""
    with serving(classifiers) as found:
        yield found


Answer = tuple[int, Any, http.client.HTTPMessage]


def ask(address: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """Status, content and headers of an answer; JSON is read."""
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if body is None else "POST", path, body, fields)
        response = connection.getresponse()
        content = response.read()
        is_json = response.headers["content-type"] == "application/json"
        return response.status, json.loads(content) if is_json else content, response.headers


def sentence(answer: Answer, status: int) -> str:
    """Of a refusal with that status."""
    assert answer[0] == status, answer
    assert answer[1].keys() == {"error"}
    text = answer[1]["error"]
    assert text.endswith(".") and text.isprintable()
    return text


class Slow:
    """A session that waits until it may go on, and notes the pictures of every call."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        self.calls: list[int] = []
        self.fails = False
        self.path: Path | None = None

    @property
    def spec(self) -> ModelSpec:
        return self._classifier.spec

    def __call__(self, images: Images) -> Logits:
        self.calls.append(len(images))
        self.begun.release()
        assert self.go.wait(30)
        if self.fails:
            raise MnvError("The engine failed.")
        return self._classifier(images)


@pytest.fixture
def slow(classifiers: dict[str, Classifier]) -> Iterator[Slow]:
    """It goes on at the end of a test at the latest."""
    session = Slow(classifiers["int8"])
    yield session
    session.go.set()


def classifier_of(session: Slow) -> dict[str, Classifier]:
    return {"slow": Classifier(cast(Any, session))}


# The Open Inference Protocol ---------------------------------------------------------------------------------------


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    """Triton's, of the protocol."""
    with closing(triton.InferenceServerClient(address)) as found:
        yield found


def test_a_client_learns_what_there_is(client: Any, classifiers: dict[str, Classifier]) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("fp32")
    assert client.is_model_ready("fp32", "1")
    assert not client.is_model_ready("fp32", "2")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("int8", "1") == {
        "name": "int8",
        "versions": ["1"],
        "platform": "mnv1deploy_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }


@pytest.mark.parametrize("model", ["int8", "fp32"])
@pytest.mark.parametrize("binary_input", [True, False], ids=["bytes in", "JSON in"])
@pytest.mark.parametrize("binary_output", [True, False], ids=["bytes out", "JSON out"])
def test_a_client_gets_the_bits_of_the_network(
    client: Any, classifiers: dict[str, Classifier], model: str, binary_input: bool, binary_output: bool
) -> None:
    pictures = datasets.calibration().images[:40]  # more than the network computes at once
    tensor = triton.InferInput("image", list(pictures.shape), "UINT8")
    tensor.set_data_from_numpy(pictures, binary_data=binary_input)
    output = triton.InferRequestedOutput("logits", binary_data=binary_output)
    found = client.infer(model, [tensor], outputs=[output], request_id="7")
    expected = np.concatenate([classifiers[model](pictures[:32]), classifiers[model](pictures[32:])])
    logits = found.as_numpy("logits")
    assert (logits.dtype, logits.tobytes()) == (np.float32, expected.tobytes())
    assert found.get_response()["id"] == "7"
    assert found.get_response()["model_name"] == model


@pytest.mark.parametrize("binary", [True, False])
def test_a_client_gets_classes(client: Any, classifiers: dict[str, Classifier], binary: bool) -> None:
    pictures = datasets.calibration().images[:2]
    tensor = triton.InferInput("image", list(pictures.shape), "UINT8")
    tensor.set_data_from_numpy(pictures)
    output = triton.InferRequestedOutput("logits", binary_data=binary, class_count=3)
    found = client.infer("int8", [tensor], outputs=[output]).as_numpy("logits")
    assert found.shape == (2, 3)
    first = found[0, 0].decode() if binary else found[0, 0]
    value, index, label = first.split(":")
    logits = classifiers["int8"](pictures)[0]
    assert (np.float32(value), int(index)) == (logits.max(), logits.argmax())
    assert label == classifiers["int8"].spec.classes[int(index)]


def infer_body(**changes: Any) -> dict[str, Any]:
    """A request for one black picture, but for what is changed in its input."""
    tensor = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [0] * 3072}
    return {"inputs": [{**tensor, **changes}]}


def test_data_may_be_nested_and_outputs_left_out(address: str, classifiers: dict[str, Classifier]) -> None:
    pictures = datasets.calibration().images[:1]
    body = json.dumps(infer_body(data=pictures.tolist())).encode()
    status, answer, _ = ask(address, "/v2/models/int8/versions/1/infer", body)
    assert status == 200
    assert answer["outputs"][0]["data"] == classifiers["int8"](pictures)[0].tolist()


WRONG: dict[str, Any] = {
    "no JSON": b"{",
    "empty": b"",
    "a list": [],
    "nothing asked": {},
    "no input": {"inputs": []},
    "a number": {"inputs": 5},
    "two inputs": {"inputs": infer_body()["inputs"] * 2},
    "another input": infer_body(name="x"),
    "another type": infer_body(datatype="FP32"),
    "channels first": infer_body(shape=[1, 3, 32, 32]),
    "another size": infer_body(shape=[1, 31, 32, 3]),
    "no picture": infer_body(shape=[0, 32, 32, 3], data=[]),
    "a negative shape": infer_body(shape=[-1, -32, 32, 3]),
    "a shape of text": infer_body(shape=["1", 32, 32, 3]),
    "a huge shape": infer_body(shape=[10**30, 32, 32, 3]),
    "too few values": infer_body(data=[0] * 3071),
    "values beyond a byte": infer_body(data=[256] * 3072),
    "values below a byte": infer_body(data=[-1] * 3072),
    "numbers beyond 64 bits": infer_body(data=[10**30] * 3072),
    "fractions": infer_body(data=[0.5] * 3072),
    "truth": infer_body(data=[True] * 3072),
    "text": infer_body(data=["0"] * 3072),
    "uneven data": infer_body(data=[[0], [0, 1]]),
    "deep data": b'{"inputs":' + b"[" * 100_000,
    "data nested a little too deep": infer_body(data=json.loads("[" * 70 + "]" * 70)),
    "no data": infer_body(data=None),
    "data of another form": infer_body(data={"a": 1}),
    "bytes that are not there": infer_body(data=None, parameters={"binary_data_size": 3072}),
    "a size that is none": infer_body(data=None, parameters={"binary_data_size": "3072"}),
    "shared memory": infer_body(parameters={"shared_memory_region": "x"}),
    "another output": {**infer_body(), "outputs": [{"name": "x"}]},
    "classes below none": {**infer_body(), "outputs": [{"name": "logits", "parameters": {"classification": -1}}]},
    "no number": b'{"inputs": NaN}',
}


@pytest.mark.parametrize("name", WRONG)
def test_a_request_that_is_none_is_refused(address: str, name: str) -> None:
    body = WRONG[name] if isinstance(WRONG[name], bytes) else json.dumps(WRONG[name]).encode()
    sentence(ask(address, "/v2/models/int8/infer", body), 400)


@pytest.mark.parametrize("length", ["-1", "5", "99999999999", "x", ""])
def test_a_wrong_length_of_json_is_refused(address: str, length: str) -> None:
    body = json.dumps(infer_body()).encode()
    sentence(ask(address, "/v2/models/int8/infer", body, inference_header_content_length=length), 400)


def test_what_is_not_there_is_said(address: str) -> None:
    assert "There are int8, fp32" in sentence(ask(address, "/v2/models/x/infer", b"{}"), 404)
    sentence(ask(address, "/v2/models/int8/versions/2"), 404)
    sentence(ask(address, "/nothing"), 404)
    sentence(ask(address, "/v2/models/int8/infer"), 405)
    sentence(ask(address, "/v2/models/int8/infer", b"{}", content_encoding="gzip"), 415)


# /classify ---------------------------------------------------------------------------------------------------------


def form(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """A form's body and content type."""
    parts = b"".join(
        f'--limit\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files
    )
    return parts + b"--limit--\r\n", "multipart/form-data; boundary=limit"


@pytest.mark.parametrize("model", ["int8", "fp32"])
def test_answers_are_those_of_predict(address: str, classifiers: dict[str, Classifier], model: str) -> None:
    query = f"/classify?model={model}&top=4"
    expected = [as_dict(path.name, classifiers[model].predict(path, top=4)) for path in PICTURES]
    contents = [path.read_bytes() for path in PICTURES]
    for content, wanted in zip(contents, expected, strict=True):
        # what curl --data-binary says a body is
        found = ask(address, query, content, content_type="application/x-www-form-urlencoded")
        assert found[:2] == (200, {**wanted, "path": "-"})
    body, kind = form(*((path.name, content) for path, content in zip(PICTURES, contents, strict=True)))
    assert ask(address, query, body, content_type=kind)[:2] == (200, expected)
    texts = [base64.b64encode(content).decode() for content in contents]
    one, several = json.dumps({"image": texts[0]}).encode(), json.dumps({"images": texts}).encode()
    assert ask(address, query, one, content_type="application/json")[1] == {**expected[0], "path": "-"}
    found = ask(address, query, several, content_type="application/json; charset=utf-8")
    assert found[1] == [{**wanted, "path": f"Picture {i}"} for i, wanted in enumerate(expected)]


def test_three_classes_of_the_first_model_where_nothing_is_said(
    address: str, classifiers: dict[str, Classifier]
) -> None:
    found = ask(address, "/classify", PICTURES[0].read_bytes())[1]
    assert found == as_dict("-", classifiers["int8"].predict(PICTURES[0], top=3))


def unreadable() -> dict[str, bytes]:
    cat = PICTURES[0].read_bytes()
    return {
        "cut off": cat[: len(cat) // 2],
        "empty": b"",
        "a page": b"<!doctype html><html>",
        "an archive": b"PK\x03\x04" + bytes(100),
        "random": bytes(range(256)),
    }


@pytest.mark.parametrize("name", unreadable())
def test_a_picture_that_cannot_be_read_has_the_sentence_of_predict(address: str, name: str, tmp_path: Path) -> None:
    content = unreadable()[name]
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(MnvError) as error:
        images.read(path, load().spec.pixels)
    expected = str(error.value).replace(str(path), "broken.png")
    assert sentence(ask(address, "/classify", content), 422) == expected.replace("broken.png", "The body")
    body, kind = form(("broken.png", content))
    assert ask(address, "/classify", body, content_type=kind)[:2] == (422, [{"path": "broken.png", "error": expected}])
    body, kind = form(("broken.png", content), ("cat.png", PICTURES[0].read_bytes()))
    status, answers, _ = ask(address, "/classify", body, content_type=kind)
    assert (status, answers[0]["error"], answers[1]["label"]) == (200, expected, "cat")


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/classify?top=0", b"", ""),
        ("/classify?top=x", b"", ""),
        ("/classify?model=x", b"", ""),
        ("/classify", *form()),
        ("/classify", b"--limit", "multipart/form-data"),
        ("/classify", b"no form", "multipart/form-data; boundary=limit"),
        ("/classify", b"{}", "application/json"),
        ("/classify", b"[]", "application/json"),
        ("/classify", b'{"images": []}', "application/json"),
        ("/classify", b'{"image": 5}', "application/json"),
        ("/classify", b'{"image": "?"}', "application/json"),
        ("/classify", b'{"image": "\xff"}', "application/json"),
    ],
)
def test_what_asks_for_nothing_is_refused(address: str, path: str, body: bytes, kind: str) -> None:
    sentence(ask(address, path, body, content_type=kind), 400)


# Limits ------------------------------------------------------------------------------------------------------------


def test_a_full_queue_says_come_later_and_loses_nothing(slow: Slow, classifiers: dict[str, Classifier]) -> None:
    cat = PICTURES[0].read_bytes()
    with ThreadPoolExecutor(8) as threads, serving(classifier_of(slow), Limits(queue=3)) as address:
        accepted = [threads.submit(ask, address, "/classify", cat) for _ in range(3)]
        assert slow.begun.acquire(timeout=30) and slow.begun.acquire(timeout=30)
        wait_for(lambda: b"mnv1_queue_pictures 3.0" in ask(address, "/metrics")[1])
        refused = ask(address, "/classify", cat)
        assert "busy" in sentence(refused, 503)
        assert refused[2]["retry-after"] == "1"
        assert ask(address, "/v2/health/live")[0] == 200
        body, kind = form(*[("cat.png", cat)] * 4)
        sentence(ask(address, "/classify", body, content_type=kind), 400)  # a form has at most so many files
        slow.go.set()
        expected = as_dict("-", classifiers["int8"].predict(PICTURES[0], top=3))
        assert [one.result()[:2] for one in accepted] == [(200, expected)] * 3
        assert ask(address, "/classify", cat)[0] == 200


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_request_that_takes_too_long_keeps_its_place_until_its_work_ends(slow: Slow) -> None:
    cat = PICTURES[0].read_bytes()
    limits = Limits(queue=2, seconds=2)
    with serving(classifier_of(slow), limits, workers=1) as address, ThreadPoolExecutor(2) as threads:
        for late in [threads.submit(ask, address, "/classify", cat) for _ in range(2)]:
            assert "longer than 2 seconds" in sentence(late.result(), 503)
        waiting = re.compile(rb"mnv1_queue_pictures 1.0\n")
        wait_for(lambda: waiting.search(ask(address, "/metrics")[1]) is not None)
        slow.go.set()
        wait_for(lambda: b"mnv1_queue_pictures 0.0\n" in ask(address, "/metrics")[1])
        assert slow.calls == [1]  # what had not begun was given up
        assert ask(address, "/classify", cat)[0] == 200


def raw(address: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """What a server says until it closes the connection, to bytes that come in parts."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except OSError:  # it has heard enough
            pass
        found = b""
        try:
            while read := connection.recv(65536):
                found += read
        except ConnectionResetError:  # more was sent than it read
            pass
        return found


@pytest.fixture(scope="module")
def strict(classifiers: dict[str, Classifier]) -> Iterator[str]:
    """A server with small limits."""
    with serving(classifiers, Limits(body=300_000, pixels=200_000, seconds=2)) as found:
        yield found


HEAD = b"POST /classify HTTP/1.1\r\nHost: x\r\n"


def test_slow_loris_is_not_waited_for(strict: str) -> None:
    """uvicorn waits for ever for a head."""
    drops = [b"X-%d: y\r\n" % i for i in range(30)]
    well_served = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    cases = [(b"",), (b"P",), (HEAD, *drops), (HEAD + b"Content-Length: 9\r\n\r\n", b"1", b"2"), (well_served, HEAD)]
    with ThreadPoolExecutor(len(cases)) as threads:
        *found, second = threads.map(lambda parts: raw(strict, *parts, pause=0.1), cases)
    assert [answer[:13] for answer in found] == [b"HTTP/1.1 408 "] * 4
    assert (second[:13], second.count(b"HTTP/1.1 408 ")) == (b"HTTP/1.1 200 ", 1)


def test_a_client_that_closes_its_half_is_answered(address: str) -> None:
    """uvicorn hangs up on it."""
    cat = PICTURES[0].read_bytes()
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(cat) + cat)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while read := connection.recv(65536):
            answer += read
    assert b'"label": "cat"' in answer


def test_heads_have_limits(strict: str) -> None:
    """uvicorn's parser has none."""
    many = b"".join(b"X-%d: y\r\n" % i for i in range(10_000))
    for head in (HEAD + many + b"\r\n", HEAD + b"X: " + bytes([65]) * 10_000_000, b"GET /" + bytes([65]) * 10_000_000):
        assert raw(strict, head)[:13] in (b"HTTP/1.1 431 ", b""), head[:50]  # or a reset, before that was read
    assert raw(strict, HEAD + b"X: y\r\n" * 101 + b"\r\n").startswith(b"HTTP/1.1 431 ")
    assert raw(strict, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert ask(strict, "/v2/health/live")[0] == 200


def test_bodies_have_limits(strict: str, classifiers: dict[str, Classifier]) -> None:
    for head in (b"Content-Length: 300001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n" + bytes(300_001)):
        answer = raw(strict, HEAD + head + b"x")
        assert answer.startswith(b"HTTP/1.1 413 "), answer[:100]
        assert b"at most 300,000 bytes" in answer
    assert ask(strict, "/classify", PICTURES[0].read_bytes())[1]["label"] == "cat"
    # as JSON, or as a form's file, no more goes
    sentence(ask(strict, "/classify", b"{" + bytes(300_000), content_type="application/json"), 413)
    body, kind = form(("x", bytes(300_000)))
    sentence(ask(strict, "/classify", body, content_type=kind), 413)


def test_pictures_have_limits(strict: str, address: str) -> None:
    encoded = io.BytesIO()
    Image.new("1", (500, 401)).save(encoded, "PNG")
    assert "at most 200,000 are read" in sentence(ask(strict, "/classify", encoded.getvalue()), 422)
    assert ask(address, "/classify", encoded.getvalue())[0] == 200
    assert "is too large a picture" in sentence(ask(address, "/classify", header_only_png(30_000, 30_000)), 422)


def test_a_client_that_leaves_is_no_error(strict: str, caplog: pytest.LogCaptureFixture) -> None:
    host, port = strict.split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\nhalf")
    assert ask(strict, "/classify", PICTURES[0].read_bytes())[0] == 200
    wait_for(lambda: b'mnv1_requests_total{route="classify",status="499"} 5.0' in ask(strict, "/metrics")[1])


def test_connections_have_a_limit(classifiers: dict[str, Classifier]) -> None:
    with serving(classifiers, Limits(queue=1)) as address:
        host, port = address.split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(4)]
        wait_for(lambda: raw(address, b"")[:13] == b"HTTP/1.1 503 ")
        for connection in held:
            connection.close()
        wait_for(lambda: _lives(address))


def _lives(address: str) -> bool:
    try:
        return ask(address, "/v2/health/live")[0] == 200
    except OSError:
        return False


# Batching ----------------------------------------------------------------------------------------------------------


def test_everybody_in_a_batch_gets_his_own_answer(slow: Slow, classifiers: dict[str, Classifier]) -> None:
    pictures = datasets.calibration().images[:60]
    bodies = []
    for picture in pictures:
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "PNG")
        bodies.append(encoded.getvalue())
    slow.go.set()
    batching = Batching(8, 0.02)
    with serving(classifier_of(slow), batching=batching) as address, ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda body: ask(address, "/classify", body)[1], bodies))
    expected = classifiers["int8"].predict_array(pictures, top=3)
    assert found == [as_dict("-", answer) for answer in expected]
    assert sum(slow.calls) == 60
    assert 1 < max(slow.calls) <= 8


def test_a_batch_that_fails_fails_alone(slow: Slow, classifiers: dict[str, Classifier]) -> None:
    cat = PICTURES[0].read_bytes()
    slow.go.set()
    with serving(classifier_of(slow), batching=Batching(4, 0.05)) as address, ThreadPoolExecutor(4) as threads:
        slow.fails = True
        for failed in [threads.submit(ask, address, "/classify", cat) for _ in range(4)]:
            sentence(failed.result(), 500)
        slow.fails = False
        assert ask(address, "/classify", cat)[1]["label"] == "cat"
        metrics = ask(address, "/metrics")[1].decode()
    assert 'mnv1_requests_total{route="classify",status="500"} 4.0' in metrics


# Pages, names, the command -----------------------------------------------------------------------------------------


def test_the_page_and_its_files(address: str) -> None:
    status, page, _ = ask(address, "/")
    assert status == 200
    assert b"mobilenetv1_cifar10: 10 classes. Pictures are sent to this server." in page
    assert b"$" not in page
    for name in ("page.js", "page.css", "index.js"):
        assert ask(address, f"/{name}")[0] == 200
    assert b"fetch(`classify" in ask(address, "/index.js")[1]


def test_a_web_folders_own_page_stands_where_it_sees_the_same_pixels(slow: Slow, tmp_path: Path) -> None:
    folder = tmp_path / "net.web"
    folder.mkdir()
    (folder / "index.html").write_text("its own page")
    slow.path = folder
    pages: dict[Jpeg, bytes] = {"whole": b"its own page", "scaled": b"Pictures are sent to this server."}
    for jpeg, page in pages.items():
        with serving({"net": Classifier(cast(Any, slow), jpeg=jpeg)}) as address:
            assert page in ask(address, "/")[1]


def test_metrics_count_by_route_and_model(address: str) -> None:
    ask(address, "/classify?model=fp32", b"no picture")
    text = ask(address, "/metrics")[1].decode()
    assert re.search(r'^mnv1_unreadable_pictures_total\{model="fp32"\} [1-9]', text, re.MULTILINE)
    assert re.search(r'^mnv1_stage_seconds_count\{model="fp32",stage="read"\} [1-9]', text, re.MULTILINE)
    assert re.search(r'^mnv1_requests_total\{route="classify",status="422"\} [1-9]', text, re.MULTILINE)


def test_names_of_models(tmp_path: Path) -> None:
    for name in ("a/net.onnx", "b/net.onnx", "b/other.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    a, b, other = (str(tmp_path / name) for name in ("a/net.onnx", "b/net.onnx", "b/other.onnx"))
    assert named([a, other]) == {"net": Path(a), "other": Path(other)}
    (tmp_path / "a" / "net.pt").touch()
    assert named([a, str(tmp_path / "a" / "net.pt")]).keys() == {"net.onnx", "net.pt"}
    assert named([f"first={a}", b]) == {"first": Path(a), "net": Path(b)}
    for wrong in ([a, b], [a, a], [f"x={a}", f"x={b}"], [f"={a}"], [f"a/b={a}"]):
        with pytest.raises(MnvError):
            named(wrong)


def test_a_port_that_is_taken_is_said(address: str, classifiers: dict[str, Classifier]) -> None:
    port = int(address.split(":")[1])
    for host, taken in (("127.0.0.1", port), ("no.such.host.invalid", 0), ("192.0.2.1", 0)):
        with pytest.raises(MnvError, match="cannot be listened at"):
            Server(application(classifiers), host=host, port=taken)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setattr(sys, "argv", ["mnv1", "serve", "--debug"])
    with pytest.raises(MnvError, match=r"pip install 'mnv1deploy\[serve\]'"):
        cli.main()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_sigterm_finishes_what_was_accepted() -> None:
    command = [sys.executable, "-W", "error", "-m", "mnv1deploy.cli", "serve", "--port", "0", "--model"]
    process = subprocess.Popen(
        [*command, f"net={bundled.INT8}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    line = process.stdout.readline()
    found = re.match(r"http://(127\.0\.0\.1):(\d+) serves net; Ctrl-C stops it\.", line)
    assert found, line
    cat = PICTURES[0].read_bytes()
    with socket.create_connection((found[1], int(found[2])), timeout=30) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(cat) + cat[:1000])
        assert ask(f"{found[1]}:{found[2]}", "/v2/health/ready")[0] == 200
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not _lives(f"{found[1]}:{found[2]}"))
        connection.sendall(cat[1000:])
        answer = b""
        while read := connection.recv(65536):
            answer += read
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b'"label": "cat"' in answer
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    lines = [json.loads(line) for line in errors.splitlines()]
    assert {"event": "request", "path": "/classify", "status": 200, "bytes": len(cat)}.items() <= lines[-1].items()
