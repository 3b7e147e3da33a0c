"""The contract as lines of text; run as a module, it records them: `python -m tests.golden.contract`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

from qwire.v1 import batch_pb2, generate_pb2, health_pb2, model_pb2, types_pb2

GOLDEN = Path(__file__).with_name("contract.txt")
MODULES = (types_pb2, generate_pb2, batch_pb2, model_pb2, health_pb2)


def lines() -> list[str]:
    """One line for each thing that a caller can depend on, in order."""
    found: set[str] = set()
    for module in MODULES:
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)  # pyright: ignore[reportArgumentType] - the same class behind two names
        for message in file.message_type:
            found.update(message_lines(message, file.package))
        for enum in file.enum_type:
            found.update(enum_lines(enum, file.package))
        for service in file.service:
            found.update(service_lines(service, file.package))
    return sorted(found)


def message_lines(message: DescriptorProto, scope: str) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield f"message {name}"
    for field in message.field:
        label = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
        presence = "optional " if field.proto3_optional else ""
        kind = field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        choice = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        inside = f" in oneof {choice}" if choice and not presence else ""
        yield f"field {name} {field.number} = {presence}{label}{kind} {field.name}{inside}"
    for nested in message.nested_type:
        yield from message_lines(nested, name)
    for enum in message.enum_type:
        yield from enum_lines(enum, name)


def enum_lines(enum: EnumDescriptorProto, scope: str) -> Iterator[str]:
    yield f"enum {scope}.{enum.name}"
    for value in enum.value:
        yield f"value {scope}.{enum.name} {value.number} = {value.name}"


def service_lines(service: ServiceDescriptorProto, scope: str) -> Iterator[str]:
    yield f"service {scope}.{service.name}"
    for method in service.method:
        streams = "stream " if method.server_streaming else ""
        asks = "stream " if method.client_streaming else ""
        name = f"{scope}.{service.name}/{method.name}"
        yield f"method {name} {asks}{method.input_type} -> {streams}{method.output_type}"


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(lines()) + "\n", encoding="utf-8")
