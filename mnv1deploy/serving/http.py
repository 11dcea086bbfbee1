"""The routes: the Open Inference Protocol, ``/classify``, ``/metrics`` and the page."""

from __future__ import annotations

import asyncio
import base64
import binascii
import html
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from string import Template
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from mnv1deploy import formats, machine, packages, schema
from mnv1deploy.classifier import Classifier
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import Images
from mnv1deploy.report.answers import as_dict
from mnv1deploy.report.console import to_json
from mnv1deploy.serving import protocol
from mnv1deploy.serving.batching import Batching
from mnv1deploy.serving.guard import Guard
from mnv1deploy.serving.limits import FAILED, Limits, RefusedError
from mnv1deploy.serving.metrics import Metrics
from mnv1deploy.serving.model import VERSION, Model
from mnv1deploy.serving.pool import Pool
from mnv1deploy.web import PACKAGE

PAGE = Path(__file__).parent / "page"
"""What takes the place of the network in the page of mnv1deploy/web, where the network is here."""

TOP = 3
"""Classes that an answer names, as ``mnv1 predict`` does."""

BODY = "The body"
"""What sentences call a picture that has no name."""


def application(
    classifiers: Mapping[str, Classifier],
    *,
    limits: Limits | None = None,
    workers: int | None = None,
    batching: Batching | None = None,
) -> ASGIApp:
    """The ASGI application that serves these networks by their names, the first where a request names none.

    Args:
        classifiers: opened with one thread each, requests being computed beside each other.
        limits: of a request, and of all.
        workers: threads that decode and compute; by default as many as there are processors.
        batching: of requests; by default what comes while no worker is free is computed together.
    """
    service = _Service(classifiers, limits or Limits(), workers or machine.processors(), batching or Batching())
    routes: list[BaseRoute] = [
        Route("/classify", service.classify, methods=["POST"]),  # they are tried in this order
        *_model_routes("/v2/models/{model}", service),
        *_model_routes("/v2/models/{model}/versions/{version}", service),
        Route("/v2", service.server_metadata),
        Route("/v2/health/live", service.live),
        Route("/v2/health/ready", service.ready),
        Route("/metrics", service.read_metrics),
        *_page(classifiers),
    ]
    handlers: Mapping[Any, Any] = {RefusedError: _refused, HTTPException: _http_error, Exception: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=service.lifespan)
    return Guard(app, service.limits, service.metrics)


def _model_routes(path: str, service: _Service) -> list[BaseRoute]:
    return [
        Route(path, service.model_metadata),
        Route(f"{path}/ready", service.model_ready),
        Route(f"{path}/infer", service.infer, methods=["POST"]),
    ]


class _Service:
    """The endpoints, whose names are the metrics' routes, and what they share."""

    def __init__(self, classifiers: Mapping[str, Classifier], limits: Limits, workers: int, batching: Batching) -> None:
        self.limits = limits
        self.pool = Pool(workers, limits.queue)
        self.metrics = Metrics(lambda: self.pool.taken)
        self.models = {
            name: Model(name, classifier, self.pool, limits, batching, self.metrics)
            for name, classifier in classifiers.items()
        }
        self.platforms = {name: _platform(classifier) for name, classifier in classifiers.items()}

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Ends with what is being computed."""
        yield
        self.pool.close()

    async def server_metadata(self, request: Request) -> Response:
        """``/v2``."""
        return _json(protocol.server_metadata(packages.versions()["mnv1deploy"]))

    async def live(self, request: Request) -> Response:
        """``/v2/health/live``."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """``/v2/health/ready``: artifacts are open before the first connection is taken."""
        return _json({"ready": True})

    async def model_metadata(self, request: Request) -> Response:
        """``/v2/models/NAME``."""
        model = self._of_path(request)
        return _json(protocol.model_metadata(model.name, VERSION, self.platforms[model.name], model.spec))

    async def model_ready(self, request: Request) -> Response:
        """``/v2/models/NAME/ready``."""
        return _json({"name": self._of_path(request).name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """``/v2/models/NAME/infer``: raw pixels in, logits out."""
        model = self._of_path(request)
        if "content-encoding" in request.headers:
            raise RefusedError(415, "Compressed requests are not read.", "Send it as it is.")
        asked: list[protocol.InferRequest] = []

        def read() -> Images:
            found = protocol.InferRequest.read(body, request.headers.get(protocol.HEADER_LENGTH), model.spec)
            asked.append(found)
            return found.images

        body = await request.body()
        with self.pool.places():
            logits = await model.logits(read)
        answer, headers = asked[0].answer(model.name, VERSION, logits, model.spec.classes)
        return Response(answer, headers=headers)

    async def classify(self, request: Request) -> Response:
        """``/classify``: encoded pictures in, what ``mnv1 predict --json`` says of them out."""
        model = self._named(request.query_params.get("model", next(iter(self.models))), 400)
        top = _top(request.query_params.get("top", str(TOP)))
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await self._classify_all(model, await _files(request, self.limits), top)
        body = await request.body()
        if kind == "application/json":
            found = _from_json(body)
            if isinstance(found, list):
                return await self._classify_all(model, [(f"Picture {i}", one) for i, one in enumerate(found)], top)
            body = found
        with self.pool.places():
            return _json(as_dict("-", await model.classify(body, BODY, top)))

    async def _classify_all(self, model: Model, pictures: list[tuple[str, bytes]], top: int) -> Response:
        """One that cannot be read has its error in place of an answer, with status 422 if none can."""
        if not pictures:
            raise RefusedError(400, "There is no picture in the request.", "Send files, as of a form.")
        with self.pool.places(len(pictures)):
            tasks = [model.classify(content, name, top) for name, content in pictures]
            found = await asyncio.gather(*tasks, return_exceptions=True)
        answers = []
        for (name, _), answer in zip(pictures, found, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, RefusedError):
                raise answer
            if isinstance(answer, RefusedError) and answer.status != 422:
                raise answer
            answers.append(as_dict(name, answer))
        return _json(answers, 422 if all("error" in answer for answer in answers) else 200)

    async def read_metrics(self, request: Request) -> Response:
        """``/metrics``."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _of_path(self, request: Request) -> Model:
        version = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise RefusedError(404, f"There is no version {version} of this model.", f"There is {VERSION}.")
        return self._named(request.path_params["model"], 404)

    def _named(self, name: str, status: int) -> Model:
        if name not in self.models:
            raise RefusedError(status, f"There is no model called {name}.", f"There are {', '.join(self.models)}.")
        return self.models[name]


def _json(content: Any, status: int = 200) -> Response:
    return Response(to_json(content, indent=None), status, media_type="application/json")


async def _refused(request: Request, error: RefusedError) -> Response:
    response = _json({"error": str(error)}, error.status)
    response.headers.update(error.headers)
    return response


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Starlette's own: no such path, not by this method, a form that cannot be read."""
    response = _json({"error": f"{error.detail.rstrip('.')}."}, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    """Starlette raises it again when this is sent; the guard then has it in the log."""
    return await _refused(request, FAILED)


def _top(text: str) -> int:
    try:
        return machine.count(text)
    except MnvError as error:
        raise RefusedError(400, f"top: {error.message}") from error


async def _files(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """The files of a form and their names; its other fields are none of ours."""
    async with request.form(max_files=limits.queue, max_part_size=limits.body) as form:
        return [
            (part.filename or "The file", await part.read())
            for _, part in form.multi_items()
            if isinstance(part, UploadFile)
        ]


def _from_json(body: bytes) -> bytes | list[bytes]:
    """Of ``{"image": "BASE64"}`` the picture, of ``{"images": ["BASE64", ...]}`` all."""
    try:
        found = schema.loads(body)
        if not isinstance(found, dict) or found.keys() not in ({"image"}, {"images"}):
            raise ValueError('it is {"image": "BASE64"} or {"images": ["BASE64", ...]}')
        texts = found["images"] if "images" in found else [found["image"]]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("a picture is text in base64")
        pictures = [base64.b64decode(text, validate=True) for text in texts]
    except (ValueError, binascii.Error) as error:
        raise RefusedError(400, f"This JSON holds no picture: {MnvError.reason(error)}.") from error
    return pictures if "images" in found else pictures[0]


def _platform(classifier: Classifier) -> str:
    path = getattr(classifier.session, "path", None)
    return f"mnv1deploy_{formats.of_file(path).name}" if path else "mnv1deploy"


def _page(classifiers: Mapping[str, Classifier]) -> list[BaseRoute]:
    """A web artifact's own page, on which pictures stay in the browser; without one the same page that sends them.

    The latter stands also where JPEGs are decoded scaled, which a browser cannot do.
    """
    for classifier in classifiers.values():
        if _platform(classifier) == "mnv1deploy_web" and classifier.spec.preprocessing.jpeg == "whole":
            return [Mount("/", StaticFiles(directory=getattr(classifier.session, "path"), html=True))]  # noqa: B009
    spec = next(iter(classifiers.values())).spec
    about = f"{spec.name}: {len(spec.classes)} classes. Pictures are sent to this server."
    values = {"title": html.escape(spec.name), "about": html.escape(about), "size": spec.input_size, "preload": ""}
    text = Template((PACKAGE / "index.html").read_text("utf-8")).substitute(values)

    async def page(request: Request) -> Response:
        return Response(text, media_type="text/html")

    def file(path: Path) -> BaseRoute:
        async def page(request: Request) -> Response:
            return FileResponse(path)

        return Route(f"/{path.name}", page)

    return [Route("/", page), *map(file, (PACKAGE / "page.js", PACKAGE / "page.css", PAGE / "index.js"))]
