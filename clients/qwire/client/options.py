"""How a client connects: every option, with its default and its reason."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from qwire.client.timeout import check_timeout

_TENANT = re.compile(r"[A-Za-z0-9._:@/-]{1,64}")
_METADATA_KEY = re.compile(r"(?!grpc-)[a-z0-9_.-]+(?<!-bin)")


def _require(*, holds: bool, option: str, rule: str) -> None:
    if not holds:
        raise ValueError(f"{option} must be {rule}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSOptions:
    """Encryption, and who proves what to whom. All values are PEM text as bytes; `from_files` reads them.

    Raises:
        ValueError: One of client certificate and client key is given without the other.
    """

    root_certificates: bytes | None = None
    """The authorities that may vouch for the server. None = those that come with gRPC."""

    client_certificate: bytes | None = field(default=None, repr=False)
    """The client's own certificate chain, for servers that ask for one (mutual TLS). None = none."""

    client_key: bytes | None = field(default=None, repr=False)
    """The private key of the client certificate."""

    server_name: str | None = None
    """The name that the server's certificate must carry. None = the host of the target."""

    def __post_init__(self) -> None:
        _require(
            holds=(self.client_certificate is None) == (self.client_key is None),
            option="client_certificate and client_key",
            rule="given together",
        )

    @classmethod
    def from_files(
        cls,
        *,
        root_certificates: Path | None = None,
        client_certificate: Path | None = None,
        client_key: Path | None = None,
        server_name: str | None = None,
    ) -> Self:
        """Read the PEM files.

        Raises:
            OSError: A file cannot be read.
            ValueError: As for the class.
        """
        return cls(
            root_certificates=root_certificates.read_bytes() if root_certificates else None,
            client_certificate=client_certificate.read_bytes() if client_certificate else None,
            client_key=client_key.read_bytes() if client_key else None,
            server_name=server_name,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOptions:
    """When gRPC itself sends a call again: after UNAVAILABLE or CANCELLED, and never once a response message has come.

    CANCELLED without details is what a gRPC server says to calls that reach it while it closes its connections, usually
    before any of its code has seen them. One that was cancelled by its generation id is not sent again: the server's
    pushback forbids it.

    Raises:
        ValueError: A value is out of range.
    """

    max_attempts: int = 5
    """Attempts in all, the first included. Range [2, 5]: gRPC allows no more than 5."""

    initial_backoff_s: float = 0.1
    """Seconds before the second attempt, give or take 20 %. A server's pushback overrides it. > 0."""

    max_backoff_s: float = 1.0
    """The longest wait between two attempts, seconds. At least `initial_backoff_s`."""

    backoff_multiplier: float = 2.0
    """Each wait is this many times the one before it. > 0."""

    throttle_tokens: int | None = None
    """Do not retry a server that keeps failing: each failure takes a token, and retries stop while half of these or
    fewer are left. gRPC counts streams that the client itself leaves as failures, too. Range [1, 1000]; None = do."""

    throttle_token_ratio: float = 0.1
    """Tokens that each success gives back, where `throttle_tokens` is set. > 0."""

    def __post_init__(self) -> None:
        _require(holds=2 <= self.max_attempts <= 5, option="max_attempts", rule="from 2 to 5")  # noqa: PLR2004 - gRPC's
        _require(holds=self.initial_backoff_s > 0, option="initial_backoff_s", rule="above 0")
        _require(
            holds=self.max_backoff_s >= self.initial_backoff_s, option="max_backoff_s", rule="initial_backoff_s or more"
        )
        _require(holds=self.backoff_multiplier > 0, option="backoff_multiplier", rule="above 0")
        tokens = 1 if self.throttle_tokens is None else self.throttle_tokens
        _require(holds=1 <= tokens <= 1000, option="throttle_tokens", rule="from 1 to 1000")  # noqa: PLR2004 - gRPC's
        _require(holds=self.throttle_token_ratio > 0, option="throttle_token_ratio", rule="above 0")

    def service_config(self) -> str:
        """Return the gRPC service config (JSON) that declares this policy for every method."""
        policy = {
            "maxAttempts": self.max_attempts,
            "initialBackoff": f"{self.initial_backoff_s:.9f}s",
            "maxBackoff": f"{self.max_backoff_s:.9f}s",
            "backoffMultiplier": self.backoff_multiplier,
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
        }
        config: dict[str, object] = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
        if self.throttle_tokens is not None:
            config["retryThrottling"] = {"maxTokens": self.throttle_tokens, "tokenRatio": self.throttle_token_ratio}
        return json.dumps(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeOptions:
    """How long the client tries to go on with a stream that broke after it had started.

    `generate` is asked again from its beginning for as long, where the connection or the server is lost; not where the
    server never answered this client a `generate`, nor where it answers with an error.

    Raises:
        ValueError: A value is out of range.
    """

    timeout_s: float = 60.0
    """Seconds without a new token after which no further attempt is made; never beyond the call's own timeout. > 0."""

    max_attempts: int = 20
    """Attempts in a row without a new token. At least 1."""

    initial_backoff_s: float = 0.1
    """Seconds before the first attempt, give or take 20 %; twice as long before each further one. The time that a
    server asks for counts where it is longer. > 0."""

    max_backoff_s: float = 5.0
    """The longest of these waits, and of those of gRPC between two tries to connect, seconds. At least
    `initial_backoff_s`."""

    def __post_init__(self) -> None:
        check_timeout(self.timeout_s)
        _require(holds=self.max_attempts >= 1, option="max_attempts", rule="1 or more")
        _require(holds=self.initial_backoff_s > 0, option="initial_backoff_s", rule="above 0")
        _require(
            holds=self.max_backoff_s >= self.initial_backoff_s, option="max_backoff_s", rule="initial_backoff_s or more"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepaliveOptions:
    """How a silent connection is found out to be dead.

    Raises:
        ValueError: A value is out of range.
    """

    time_s: float = 30.0
    """Seconds without traffic after which the client pings. At least 10: servers cut off clients that ping often."""

    timeout_s: float = 10.0
    """Seconds to wait for the answer before the connection counts as dead and its calls as UNAVAILABLE. > 0."""

    without_calls: bool = True
    """Ping even while no call is open, so that the next call does not find a dead connection."""

    def __post_init__(self) -> None:
        _require(holds=self.time_s >= 10, option="time_s", rule="10 or more")  # noqa: PLR2004 - servers' usual bound
        _require(holds=self.timeout_s > 0, option="timeout_s", rule="above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Everything about a client but where its server is.

    Raises:
        ValueError: A value is out of range.
    """

    model: str = ""
    """The model of calls that name none. Empty = the server's only one; it refuses when it serves several."""

    timeout_s: float = 600.0
    """Seconds that a generation or a batch may take in all, unless the call says otherwise. `math.inf` = no limit."""

    control_timeout_s: float = 30.0
    """The same for every other call (models, health, count_tokens, cancel). A health watch has no limit by default."""

    tls: TLSOptions | None = None
    """Encryption. None = plain text: for the loopback interface and for networks that encrypt by themselves."""

    retry: RetryOptions | None = field(default_factory=RetryOptions)
    """Retries. None = every call is sent once."""

    resume: ResumeOptions | None = field(default_factory=ResumeOptions)
    """Going on with generations that broke. None = a break ends the call with its error."""

    keepalive: KeepaliveOptions | None = field(default_factory=KeepaliveOptions)
    """Keepalive pings. None = none: a dead connection is found when the system gives up on it, after minutes."""

    max_receive_bytes: int = 16 * 1024 * 1024
    """The largest message to accept; a larger one ends its call with LimitExceeded. > 0."""

    max_send_bytes: int | None = None
    """The largest message to send. None = no limit here: the server has its own and says so."""

    tenant: str = ""
    """The name under which the server shares a busy model fairly among callers. 1 to 64 letters, digits and characters
    of `. _ : @ / -`. Empty = the share of all who have no name."""

    tenant_key: str = "x-qwire-tenant"
    """The metadata key that carries it; the server's `tenant_key`."""

    channel_options: tuple[tuple[str, str | int], ...] = ()
    """gRPC channel arguments; each replaces the one of the same key that the options above stand for."""

    def __post_init__(self) -> None:
        for option in ("timeout_s", "control_timeout_s"):
            check_timeout(getattr(self, option), option)
        holds = not self.tenant or _TENANT.fullmatch(self.tenant) is not None
        _require(holds=holds, option="tenant", rule="1 to 64 letters, digits and characters of . _ : @ / -")
        holds = _METADATA_KEY.fullmatch(self.tenant_key) is not None
        _require(holds=holds, option="tenant_key", rule="a lower-case metadata key")
        _require(holds=self.max_receive_bytes > 0, option="max_receive_bytes", rule="above 0")
        _require(holds=self.max_send_bytes is None or self.max_send_bytes > 0, option="max_send_bytes", rule="above 0")
