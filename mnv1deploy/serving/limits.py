"""What one request, and all of them together, may take; and how what goes beyond is refused."""

from __future__ import annotations

from dataclasses import dataclass

from mnv1deploy.errors import MnvError

BODIES = 8
"""As many of the largest bodies may be in memory at once, each being anybody's."""

RETRY_SECONDS = 1
"""What a client is told to wait: the longest queue is done by then, where a picture takes milliseconds."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a service.

    Attributes:
        body: bytes of one request.
        pixels: of one picture.
        seconds: that one request may take, from its first byte to its answer.
        queue: pictures that wait or are being computed.
    """

    body: int = 32 << 20
    pixels: int = 2**25
    seconds: float = 30.0
    queue: int = 128

    @property
    def connections(self) -> int:
        """That are open at once: each takes memory before it has said anything."""
        return 4 * self.queue


class RefusedError(MnvError):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: what is wrong, in one sentence.
        hint: what to do about it, in one sentence.
    """

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status

    @property
    def headers(self) -> dict[str, str]:
        """What a client is told beside the sentence."""
        return {"retry-after": str(RETRY_SECONDS)} if self.status == 503 else {}


FAILED = RefusedError(500, "The server failed.", "Its log says how.")


def busy(what: str) -> RefusedError:
    """For a request that would be answered if it came later."""
    return RefusedError(503, f"The server is busy: {what}.", "Send it again in a second.")
