"""What is sent: every form of prompt and option, and clear errors for what cannot be sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwire.client import (
    BatchItem,
    ChatMessage,
    Client,
    ClientOptions,
    GenerationOptions,
    InvalidRequest,
    Priority,
    Prompt,
    Role,
    TextPrompt,
    TokenPrompt,
)
from qwire.client.batch_job_request import Chunks, create_request
from qwire.client.batch_request import batch_items
from qwire.client.request import count_request, generation_spec
from qwire.client.testing import FakeServer
from qwire.v1 import generate_pb2, types_pb2

_HI = [(types_pb2.ROLE_USER, "hi")]


def _chat(spec: types_pb2.GenerationSpec) -> list[tuple[int, str]]:
    return [(message.role, message.text) for message in spec.chat.messages]


@pytest.mark.parametrize(
    "prompt",
    [
        "hi",
        [ChatMessage(Role.USER, "hi")],
        [{"role": "user", "content": "hi"}],
        [{"role": "user", "text": "hi"}],
        [("user", "hi")],
        ((Role.USER, "hi"),),
    ],
)
def test_every_form_of_a_conversation_is_the_same_message(prompt: Prompt) -> None:
    assert _chat(generation_spec(prompt, {})) == _HI


def test_a_conversation_keeps_its_order_behind_the_system_message() -> None:
    prompt: Prompt = [("user", "a"), {"role": "assistant", "content": "b"}, ChatMessage(Role.USER, "c")]
    assert _chat(generation_spec(prompt, {"system": "be brief"})) == [
        (types_pb2.ROLE_SYSTEM, "be brief"),
        (types_pb2.ROLE_USER, "a"),
        (types_pb2.ROLE_ASSISTANT, "b"),
        (types_pb2.ROLE_USER, "c"),
    ]


def test_text_and_tokens_go_without_a_template() -> None:
    assert generation_spec(TextPrompt("def f("), {}).text == "def f("
    assert list(generation_spec(TokenPrompt([1, 2]), {}).tokens.ids) == [1, 2]
    assert generation_spec(TokenPrompt([]), {}).WhichOneof("input") == "tokens"  # for the server to refuse
    assert count_request(TextPrompt("a"), "m", None).text == "a"


def test_unset_is_unset_and_zero_is_zero() -> None:
    unset = generation_spec("hi", {"temperature": None})
    assert not unset.HasField("sampling")
    assert not unset.HasField("stop")
    assert not unset.HasField("output")
    zero = generation_spec("hi", {"temperature": 0, "seed": 0, "min_output_tokens": 0, "ignore_eos": False})
    assert [field.name for field, _ in zero.sampling.ListFields()] == ["temperature", "seed"]
    assert zero.stop.HasField("min_output_tokens")
    assert zero.stop.HasField("ignore_eos")


def test_every_option_reaches_its_field() -> None:
    options = GenerationOptions(
        model="m",
        adapter="a",
        temperature=0.5,
        top_k=1,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=-1,
        frequency_penalty=2,
        seed=2**64 - 1,
        logit_bias={7: -2.5, 4: 100},
        max_output_tokens=9,
        min_output_tokens=1,
        stop_strings=("x",),
        stop_token_ids=(5,),
        ignore_eos=True,
        token_info=False,
        top_logprobs=5,
        echo=True,
        prompt_logprobs=3,
        tool_call_fragments=True,
    )
    spec = generation_spec("hi", options)
    assert (spec.model, spec.adapter) == ("m", "a")
    sent = {field.name: value for part in (spec.sampling, spec.stop, spec.output) for field, value in part.ListFields()}
    sent |= {name: tuple(sent[name]) for name in ("stop_strings", "stop_token_ids")}
    sent["logit_bias"] = {one.token_id: one.bias for one in spec.sampling.logit_bias}
    assert sent == {name: value for name, value in options.items() if name not in ("model", "adapter")}
    elsewhere = {"system", "priority", "tools", "reasoning", "reasoning_budget_tokens"}
    elsewhere |= {"json_schema", "json_object", "regex", "choices", "grammar"}
    assert set(options) | elsewhere == set(GenerationOptions.__annotations__)


def test_priority() -> None:
    assert generation_spec("hi", {}).priority == types_pb2.PRIORITY_UNSPECIFIED
    assert generation_spec("hi", {"priority": Priority.LOW}).priority == types_pb2.PRIORITY_LOW
    assert generation_spec("hi", {"priority": Priority.HIGH}).priority == types_pb2.PRIORITY_HIGH


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        ("hi", {"top_k": -1}, "spec.sampling.top_k"),
        ("hi", {"top_k": 2**32}, "spec.sampling.top_k"),
        ("hi", {"seed": 2**64}, "spec.sampling.seed"),
        ("hi", {"temperature": "hot"}, "spec.sampling.temperature"),
        ("hi", {"logit_bias": [(1, 2.0)]}, "spec.sampling.logit_bias"),
        ("hi", {"logit_bias": {1: 0, -1: 2.0}}, "spec.sampling.logit_bias[1].token_id"),
        ("hi", {"logit_bias": {1: "much"}}, "spec.sampling.logit_bias[0].bias"),
        ("hi", {"max_output_tokens": -1}, "spec.stop.max_output_tokens"),
        ("hi", {"stop_strings": "END"}, "spec.stop.stop_strings"),
        ("hi", {"stop_strings": [1]}, "spec.stop.stop_strings"),
        ("hi", {"stop_token_ids": 5}, "spec.stop.stop_token_ids"),
        ("hi", {"stop_token_ids": [-5]}, "spec.stop.stop_token_ids"),
        ("hi", {"model": 5}, "spec.model"),
        ("hi", {"system": 5}, "spec.chat.messages[0].text"),
        ("broken \ud800", {}, "spec.chat.messages[0].text"),
        (5, {}, "spec.chat.messages"),
        (b"hi", {}, "spec.chat.messages"),
        ({"role": "user", "content": "hi"}, {}, "spec.chat.messages"),
        (["hi"], {}, "spec.chat.messages[0]"),
        ([("user", "a"), ("robot", "b")], {}, "spec.chat.messages[1].role"),
        ([("user", 5)], {}, "spec.chat.messages[0].text"),
        ([("user", None)], {}, "spec.chat.messages[0].text"),
        ([ChatMessage("robot", "a")], {}, "spec.chat.messages[0].role"),  # pyright: ignore[reportArgumentType]
        (TextPrompt(None), {}, "spec.text"),  # pyright: ignore[reportArgumentType]
        ("hi", {"priority": "high"}, "spec.priority"),
        ([("user", "a", "b")], {}, "spec.chat.messages[0]"),
        ([{"role": "user"}], {}, "spec.chat.messages[0]"),
        ([{"role": "user", "content": "a", "name": "b"}], {}, "spec.chat.messages[0]"),
        (TextPrompt("a"), {"system": "b"}, "spec.chat"),
        (TokenPrompt([-1]), {}, "spec.tokens.ids"),
        (TokenPrompt("12"), {}, "spec.tokens.ids"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_cannot_be_sent_names_its_field(prompt: Any, options: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        generation_spec(prompt, options)
    assert [violation.field for violation in raised.value.violations] == [field]
    assert str(raised.value).startswith(f"{field}: ")


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match=r"'temprature'.*temperature"):
        generation_spec("hi", {"temprature": 1})  # pyright: ignore[reportArgumentType]


def test_batch_errors_name_the_item() -> None:
    with pytest.raises(InvalidRequest, match=r"^items\[1\]\.spec\.sampling\.top_k: "):
        list(batch_items(["a", BatchItem("b", options={"top_k": -1})], {}))
    with pytest.raises(InvalidRequest, match=r"^items: "):
        list(batch_items("ab", {}))
    with pytest.raises(InvalidRequest, match=r"^items\[0\]\.id: "):
        list(batch_items([BatchItem("b", id=5)], {}))  # pyright: ignore[reportArgumentType]


def test_errors_of_an_upload_name_the_item_among_all() -> None:
    items = ["a"] * 700 + [BatchItem("b", id="mine", options={"top_k": -1})]
    with pytest.raises(InvalidRequest, match=r"^items\[700\]\.spec\.sampling\.top_k: "):
        list(Chunks("job", items, {}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("labels", {"a": 1}), ("max_attempts", -1), ("request_id", 5), ("retention", 5), ("completion_window", "a day")],
)
def test_errors_of_a_job_name_the_field(field: str, value: Any) -> None:
    options: dict[str, Any] = dict.fromkeys(("request_id", "labels", "completion_window", "retention", "max_attempts"))
    with pytest.raises(InvalidRequest, match=rf"^{field}: "):
        create_request(priority=None, **{**options, field: value})


def test_tokens_are_not_counted_again() -> None:
    with pytest.raises(InvalidRequest, match=r"^input: "):
        count_request(TokenPrompt([1]), "", None)


def test_nothing_is_sent_where_something_cannot_be() -> None:
    with FakeServer() as server, Client(server.target) as client:
        with pytest.raises(InvalidRequest):
            client.stream("hi", top_k=-1)
        assert server.calls == ()


def test_the_model_of_the_client_is_the_default() -> None:
    with FakeServer(models=["a", "b"]) as server, Client(server.target, ClientOptions(model="b")) as client:
        assert client.generate("hi").started.model == "b"
        assert client.generate("hi", model="a").started.model == "a"
        assert client.count_tokens("hi").model == "b"
        assert client.probe().model == "b"
        assert [r.unwrap().started.model for r in client.batch(["x", BatchItem("y", options={"model": "a"})])] == [
            "b",
            "a",
        ]


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_arrives_as_it_is(text: str) -> None:
    spec = generation_spec(text, {})
    assert (
        generate_pb2.GenerateRequest.FromString(generate_pb2.GenerateRequest(spec=spec).SerializeToString())
        .spec.chat.messages[0]
        .text
        == text
    )
