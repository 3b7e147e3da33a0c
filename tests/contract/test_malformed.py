"""What no generated stub would send: garbage, too much, fields from the future. The server answers on."""

from __future__ import annotations

import grpc.aio
import pytest
from google.protobuf.message import Message

from qwire.v1 import batch_pb2, generate_pb2, health_pb2, model_pb2
from qwire.v1.types_pb2 import GenerationSpec
from tests.contract.edge import Stubs
from tests.contract.failure import Failure, failure_of

SERVICES = (generate_pb2, batch_pb2, model_pb2, health_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for module in SERVICES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
LIMIT = 4 * 1024 * 1024


async def send(channel: grpc.aio.Channel, method: str, message: bytes) -> None:
    """Call a method with bytes; a stream is read for one message."""
    if METHODS[method].server_streaming:
        call = channel.unary_stream(method)(message)
        await call.read()
        call.cancel()
    else:
        await channel.unary_unary(method)(message)


async def check_alive(stubs: Stubs) -> None:
    spec = GenerationSpec(text="abc")
    assert (await stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec))).generation.text


@pytest.mark.parametrize("method", METHODS)
async def test_garbage_is_malformed(method: str, stubs: Stubs):
    for garbage in (b"\xff\xff\xff", b"\x0a\x7fshort", b"\x0b"):
        failure = await failure_of(send(stubs.channel, method, garbage))
        assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")
    await check_alive(stubs)


async def test_text_that_is_not_utf8_is_malformed(stubs: Stubs):
    spec = GenerationSpec(text="????").SerializeToString().replace(b"????", b"\xff\xfe\xfd\xfc")
    message = b"\x0a" + bytes([len(spec)]) + spec
    failure = await failure_of(send(stubs.channel, "/qwire.v1.GenerateService/Generate", message))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")


async def test_garbage_to_standard_health_is_malformed(stubs: Stubs):
    call = stubs.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff\xff")
    failure = await failure_of(call)
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")


@pytest.mark.parametrize("method", METHODS)
async def test_oversize_message_names_size_and_limit(method: str, stubs: Stubs):
    failure = await failure_of(send(stubs.channel, method, bytes(LIMIT + 1)))
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    assert failure.metadata == {"size_bytes": str(LIMIT + 1), "limit_bytes": str(LIMIT)} | (
        {"generation_id": failure.metadata["generation_id"]} if "generation_id" in failure.metadata else {}
    )
    await check_alive(stubs)


async def test_far_beyond_the_limit_grpc_itself_refuses(stubs: Stubs):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(stubs.channel, "/qwire.v1.GenerateService/Generate", bytes(4 * LIMIT + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await check_alive(stubs)


def with_unknown(message: Message, number: int = 1999) -> bytes:
    """Serialize a message as a newer client would: with a field that this contract does not have."""
    tag = number << 3
    return message.SerializeToString() + bytes([tag & 0x7F | 0x80, tag >> 7, 1])


@pytest.mark.parametrize("method", METHODS)
async def test_unknown_field_of_a_request_is_refused(method: str, stubs: Stubs):
    failure = await failure_of(send(stubs.channel, method, with_unknown(model_pb2.ListModelsRequest())))
    assert (failure.code, failure.reason) in {
        ("INVALID_ARGUMENT", "UNSUPPORTED"),
        ("INVALID_ARGUMENT", "INVALID_FIELD"),
    }
    assert failure.fields["1999"] == "UNSUPPORTED"


@pytest.mark.parametrize(
    "path",
    ["", "sampling", "stop", "output", "resume", "chat", "tokens", "chat.messages[0]", "sampling.logit_bias[0]"],
)
async def test_unknown_field_within_a_spec_is_refused_with_its_path(path: str, stubs: Stubs):
    spec = GenerationSpec(text="abc")
    inner: Message = spec
    if path.startswith("chat.messages"):
        inner = spec.chat.messages.add(role=2, text="hi")
    elif path.startswith("sampling.logit_bias"):
        inner = spec.sampling.logit_bias.add()
    elif path:
        inner = getattr(spec, path)
        inner.SetInParent()
    inner.MergeFromString(with_unknown(type(inner)()))
    failure = await failure_of(stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
    assert failure.fields[f"spec.{path}.1999".replace("..", ".")] == "UNSUPPORTED"


async def test_unknown_field_of_a_batch_item_is_its_own_affair(stubs: Stubs):
    good = batch_pb2.BatchItem(id="good", spec=GenerationSpec(text="abc"))
    bad = batch_pb2.BatchItem(id="bad", spec=GenerationSpec(text="abc"))
    bad.MergeFromString(with_unknown(batch_pb2.BatchItem()))
    response = await stubs.batch.BatchGenerate(batch_pb2.BatchGenerateRequest(items=[good, bad]))
    assert response.results[0].generation.text
    assert Failure.of_status(response.results[1].error).fields == {"items[1].1999": "UNSUPPORTED"}
