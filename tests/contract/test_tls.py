"""TLS and mTLS from files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from qwire.engine.fake import FakeEngine
from qwire.rpc.config import TLSConfig
from qwire.rpc.registry import ModelRegistry
from qwire.rpc.server import GatewayServer, ServerConfig
from qwire.text.processor import TextProcessor
from qwire.v1.generate_pb2 import GenerateRequest
from qwire.v1.types_pb2 import GenerationSpec
from tests.contract.edge import CONFIG, Stubs, card_of, open_edge, served


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test authority")
        self.certificate = self._sign(self._name, self._key, authority=True)

    def issue(self, name: str) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Identity(self._sign(_name(name), key, authority=False), pem)

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> bytes:
        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> TLSConfig:
    server = authority.issue("server")
    for name, content in (("crt", server.certificate), ("key", server.key), ("ca", authority.certificate)):
        (tmp_path / name).write_bytes(content)
    return TLSConfig(tmp_path / "crt", tmp_path / "key")


async def generate(port: int, credentials: grpc.ChannelCredentials | None) -> str:
    address = f"127.0.0.1:{port}"
    options = (("grpc.enable_retries", 0),)
    channel = (
        grpc.aio.insecure_channel(address, options)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options)
    )
    async with channel:
        request = GenerateRequest(spec=GenerationSpec(text="abc"))
        return (await Stubs(channel).generate.Generate(request, timeout=20)).generation.text


async def test_tls(tls: TLSConfig, authority: Authority, processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor))
    async with open_edge([await served(processor, engine)], config=replace(CONFIG, tls=tls)) as edge:
        assert await generate(edge.port, grpc.ssl_channel_credentials(authority.certificate))
        for credentials in (None, grpc.ssl_channel_credentials(Authority().certificate)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await generate(edge.port, credentials)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_mtls(tls: TLSConfig, authority: Authority, processor: TextProcessor):
    config = replace(CONFIG, tls=replace(tls, client_ca=tls.certificate.parent / "ca"))
    engine = FakeEngine(card=card_of(processor))
    ours, other = authority.issue("client"), Authority().issue("client")
    async with open_edge([await served(processor, engine)], config=config) as edge:
        assert await generate(
            edge.port, grpc.ssl_channel_credentials(authority.certificate, ours.key, ours.certificate)
        )
        for identity in (None, other):
            pair = (None, None) if identity is None else (identity.key, identity.certificate)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await generate(edge.port, grpc.ssl_channel_credentials(authority.certificate, *pair))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_missing_file_is_an_error_at_the_start(tls: TLSConfig):
    config = replace(CONFIG, tls=replace(tls, key=Path("/does/not/exist")))
    server = GatewayServer(ModelRegistry(), config)
    with pytest.raises(FileNotFoundError):
        await server.start()
    await server.drain(0)


async def test_a_port_in_use_is_an_error_at_the_start():
    async with open_edge(config=replace(CONFIG, reuse_port=False)) as edge:
        server = GatewayServer(ModelRegistry(), ServerConfig(port=edge.port, reuse_port=False))
        with pytest.raises(RuntimeError, match=str(edge.port)):
            await server.start()
        await server.drain(0)


async def test_two_servers_share_a_port(processor: TextProcessor):
    first = FakeEngine(card=card_of(processor))
    shared = replace(CONFIG, reuse_port=True)
    async with (
        open_edge([await served(processor, first)], config=shared) as edge,
        open_edge([await served(processor, first)], config=replace(shared, port=edge.port)) as other,
    ):
        assert other.port == edge.port
