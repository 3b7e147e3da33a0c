"""Constraints as the client sends them, and answers read as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwire.client import Client, GenerationOptions, InvalidRequest
from qwire.client.batch_request import batch_items
from qwire.client.request import generation_spec
from qwire.client.testing import FakeServer
from qwire.v1 import types_pb2

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"json_schema": '{"type": "null"}'}, {"json_schema": '{"type": "null"}'}),
        ({"json_object": True}, {"json_object": True}),
        ({"json_object": False}, {"json_object": False}),
        ({"regex": "a+"}, {"regex": "a+"}),
        ({"regex": ""}, {"regex": ""}),
        ({"choices": ["a", "b"]}, {"choice": types_pb2.ChoiceConstraint(choices=["a", "b"])}),
        ({"choices": []}, {"choice": types_pb2.ChoiceConstraint()}),
        ({"grammar": "start: X", "regex": None}, {"grammar": "start: X"}),
    ],
)
def test_what_is_given_is_sent_for_the_server_to_judge(options: GenerationOptions, expected: dict[str, Any]):
    spec = generation_spec("hi", options)
    assert spec.constraint == types_pb2.OutputConstraint(**expected)
    assert spec.constraint.WhichOneof("constraint") == next(iter(expected))


def test_nothing_given_is_nothing_sent():
    assert not generation_spec("hi", {"regex": None, "choices": None}).HasField("constraint")


def test_a_parsed_schema_is_written_as_json():
    assert json.loads(generation_spec("hi", {"json_schema": SCHEMA}).constraint.json_schema) == SCHEMA


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"regex": "a", "choices": ["a"]}, "spec.constraint"),
        ({"json_schema": {}, "json_object": False}, "spec.constraint"),
        ({"json_schema": {"const": {1}}}, "spec.constraint.json_schema"),
        ({"json_schema": 5}, "spec.constraint.json_schema"),
        ({"json_object": "yes"}, "spec.constraint.json_object"),
        ({"regex": 5}, "spec.constraint.regex"),
        ({"choices": "yes"}, "spec.constraint.choice.choices"),
        ({"choices": [1]}, "spec.constraint.choice.choices"),
        ({"grammar": b"\xff"}, "spec.constraint.grammar"),
    ],
)
def test_what_cannot_be_sent_names_its_field(options: Any, field: str):
    with pytest.raises(InvalidRequest) as raised:
        generation_spec("hi", options)
    assert [one.field for one in raised.value.violations] == [field]


def test_items_of_a_batch_have_constraints_of_their_own():
    first, second = batch_items(["a", "b"], {"regex": "x"})
    assert (first.spec.constraint.regex, second.spec.constraint.regex) == ("x", "x")


def test_an_answer_is_read_as_json():
    with FakeServer(reply='{"größe": 3}') as server, Client(server.target) as client:
        assert client.generate("hi", json_schema=SCHEMA).json() == {"größe": 3}
    with FakeServer(reply='{"größe":') as server, Client(server.target) as client:
        cut = client.generate("hi", json_schema=SCHEMA)
        with pytest.raises(ValueError, match="Expecting value"):
            cut.json()
