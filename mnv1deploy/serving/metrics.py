"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Of one application: its own registry, so that several may be in a process.

    Args:
        waiting: how many pictures wait or are being computed, asked when the metrics are read.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("mnv1_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.request_seconds = Histogram(
            "mnv1_request_seconds", "From head to answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self.stage_seconds = Histogram(
            "mnv1_stage_seconds",
            "A call of one stage, in a worker: read (decoding and scaling) or compute (the network).",
            ["model", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_pictures = Histogram(
            "mnv1_batch_pictures",
            "Pictures in a call of the network.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.unreadable = Counter("mnv1_unreadable_pictures", "RefusedError.", ["model"], registry=registry)
        Gauge("mnv1_queue_pictures", "Waiting or being computed.", registry=registry).set_function(waiting)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)
