"""The details of a call of blocking gRPC, with other metadata."""

from __future__ import annotations

from collections.abc import Iterable

import grpc


class CallDetails(grpc.ClientCallDetails):
    """A call's details with other metadata.

    Args:
        details: The details.
        metadata: The metadata in place of theirs.
    """

    def __init__(self, details: grpc.ClientCallDetails, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = tuple(metadata)
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression
