"""A call with one answer whose server is lost meanwhile: whether it is made again, from its beginning."""

from __future__ import annotations

import grpc

from qwire.client.errors import Cancelled
from qwire.client.interruption import NoProgress, Persistence, deadline_in, is_loss, left_s
from qwire.client.options import ResumeOptions
from qwire.client.status import error_from_rpc


class Repetition:
    """Decides over the attempts of one call.

    Args:
        options: The bounds; None = it is made once.
        timeout_s: How long it may take in all; None = no limit.
        answered: Whether the server has answered before. Where it never has, nothing was lost: nobody is there, which
            the caller is told at once.
    """

    def __init__(self, options: ResumeOptions | None, timeout_s: float | None, *, answered: bool) -> None:
        self._deadline = deadline_in(timeout_s)
        self._persistence = Persistence(NoProgress(can_go_on=answered), options, self._deadline)
        self._is_lost = False

    @property
    def left_s(self) -> float | None:
        """The next attempt's timeout, seconds; None = no limit."""
        return left_s(self._deadline)

    def wait_s(self, error: grpc.RpcError) -> float:
        """Return how long to wait before the next attempt, seconds.

        Raises:
            QwireError: What the error means: there is to be no other attempt.
        """
        # Whoever refuses a call is not lost; but where one was lost, others may be busy for the same reason.
        self._is_lost = self._is_lost or is_loss(error)
        if not self._is_lost:
            raise error_from_rpc(error) from error
        try:
            return self._persistence.wait_s(error)
        except grpc.RpcError:
            raise error_from_rpc(error) from error


def closed() -> Cancelled:
    """Return the error of a call that ends because its client is closed."""
    return Cancelled("cancelled by this client", code=grpc.StatusCode.CANCELLED)
