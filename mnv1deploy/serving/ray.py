"""Ray Serve: replicas of the service of one machine, behind Ray's own proxies.

``serve run mnv1deploy.serving.ray:app model=net.onnx replicas=2`` starts it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from ray import serve
from starlette.types import ASGIApp

from mnv1deploy import bundled
from mnv1deploy.classifier import load
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import Images, Logits
from mnv1deploy.machine import count
from mnv1deploy.serving import http, logs, model
from mnv1deploy.serving.batching import Batching
from mnv1deploy.serving.limits import Limits
from mnv1deploy.serving.pool import Pool

REPLICAS = 8
"""At most, where their number follows the requests."""

ONGOING = 8
"""Requests in flight that one replica is for, where their number follows them: as many as a batch has."""


def app(arguments: Mapping[str, str]) -> Any:
    """The application that Ray Serve runs: one deployment, each replica of which has a processor and opens its models.

    Args:
        arguments: ``model``, artifacts separated by commas, each as ``mnv1 serve --model`` takes it, at the same place
            on all machines; by default the bundled int8 ONNX. ``replicas``, a number; by default as many as the
            requests in flight ask for, from 1 to REPLICAS.

    Raises:
        MnvError: for other arguments, or a model that is not there.
    """
    if unknown := set(arguments) - {"model", "replicas"}:
        raise MnvError(f"There is no argument {min(unknown)}.", "There are model and replicas.")
    scaling: dict[str, Any] = {
        "autoscaling_config": {"min_replicas": 1, "max_replicas": REPLICAS, "target_ongoing_requests": ONGOING}
    }
    if "replicas" in arguments:
        scaling = {"num_replicas": count(arguments["replicas"])}
    paths = model.named(arguments.get("model", str(bundled.INT8)).split(","))
    places = {name: path.absolute() for name, path in paths.items()}  # replicas are in folders of their own
    limits = Limits()

    def build() -> ASGIApp:  # in each replica
        logs.to_standard_error(requests=False)  # Ray Serve logs them itself
        classifiers = {name: load(path, threads=1) for name, path in places.items()}
        return http.application(classifiers, limits=limits, workers=1, batching=ServeBatching())

    deployed = serve.deployment(
        name="mnv1",
        max_ongoing_requests=limits.queue,
        max_queued_requests=limits.queue,  # at each proxy, which answers 503 to what comes beyond
        ray_actor_options={"num_cpus": 1},
        **scaling,
    )(serve.ingress(build)())
    return deployed.bind()


class ServeBatching(Batching):
    """By Ray Serve's own batches, which its dashboard shows; ``size`` counts requests."""

    def around(self, pool: Pool, compute: Callable[[Images], Logits]) -> Callable[[Images], Awaitable[Logits]]:
        """See Batching."""

        async def together(requests: list[Images]) -> list[Logits]:
            logits = await pool.run(lambda: compute(np.concatenate(requests)))
            return np.split(logits, np.cumsum([len(images) for images in requests])[:-1])

        batched: Callable[[Images], Awaitable[Logits]] = serve.batch(
            max_batch_size=self.size, batch_wait_timeout_s=self.seconds
        )(together)
        return batched
