"""What unit tests of several rooms share."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from qwire.telemetry.setup import Telemetry, TelemetryConfig, configure
from tests.support.log_lines import collected_log_lines
from tests.support.otlp_receiver import OtlpReceiver, otlp_receiver


@pytest.fixture
def receiver() -> Generator[OtlpReceiver]:
    with otlp_receiver() as running:
        yield running


@pytest.fixture
def telemetry(receiver: OtlpReceiver) -> Generator[Telemetry]:
    with collected_log_lines():
        configured = configure(TelemetryConfig(otlp_endpoint=receiver.endpoint))
        yield configured
        configured.shutdown()
