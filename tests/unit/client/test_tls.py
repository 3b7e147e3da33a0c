"""TLS, one-sided and mutual."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from cryptography import x509

from qwire.client import AsyncClient, Client, ClientOptions, TLSOptions, Unavailable
from qwire.client.testing import FakeServer

from .conftest import Authority, Identity


def _server(identity: Identity, client_ca: bytes | None = None) -> FakeServer:
    pair = (identity.key, identity.certificate)
    return FakeServer(
        credentials=grpc.ssl_server_credentials([pair], client_ca, require_client_auth=client_ca is not None)
    )


def _options(tls: TLSOptions | None) -> ClientOptions:
    return ClientOptions(tls=tls, retry=None)


async def test_both_clients_over_tls(authority: Authority, loopback_identity: Identity) -> None:
    options = _options(TLSOptions(root_certificates=authority.certificate))
    with _server(loopback_identity) as server:
        with Client(server.target, options) as client:
            assert client.generate("hi").text == "hello"
        async with AsyncClient(server.target, options) as client:
            assert (await client.generate("hi")).text == "hello"


def test_a_server_of_another_authority_is_refused(loopback_identity: Identity) -> None:
    options = _options(TLSOptions(root_certificates=Authority().certificate))
    with _server(loopback_identity) as server, Client(server.target, options) as client, pytest.raises(Unavailable):
        client.generate("hi")


def test_plain_text_does_not_talk_to_tls(loopback_identity: Identity) -> None:
    with (
        _server(loopback_identity) as server,
        Client(server.target, _options(None)) as client,
        pytest.raises(Unavailable),
    ):
        client.generate("hi")


def test_the_name_of_the_server_can_be_given(authority: Authority) -> None:
    identity = authority.issue(x509.DNSName("qwire.example"))
    tls = TLSOptions(root_certificates=authority.certificate)
    named = TLSOptions(root_certificates=authority.certificate, server_name="qwire.example")
    with _server(identity) as server:
        with Client(server.target, _options(tls)) as client, pytest.raises(Unavailable):
            client.generate("hi")
        with Client(server.target, _options(named)) as client:
            assert client.generate("hi").text == "hello"


def test_mutual_tls_from_files(tmp_path: Path, authority: Authority, loopback_identity: Identity) -> None:
    certificate, key = authority.issue(x509.DNSName("client.example")).write(tmp_path)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.certificate)
    with _server(loopback_identity, client_ca=authority.certificate) as server:
        without = TLSOptions.from_files(root_certificates=ca)
        with Client(server.target, _options(without)) as client, pytest.raises(Unavailable):
            client.generate("hi")
        proven = TLSOptions.from_files(root_certificates=ca, client_certificate=certificate, client_key=key)
        with Client(server.target, _options(proven)) as client:
            assert client.generate("hi").text == "hello"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pem"):
        TLSOptions.from_files(root_certificates=tmp_path / "none.pem")
