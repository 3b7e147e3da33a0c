"""Puts the events of a generation together."""

from __future__ import annotations

from qwire.rpc.generation_message import CHANNELS
from qwire.v1 import generate_pb2
from qwire.v1 import types_pb2 as pb


class GenerationBuilder:
    """A generation that grows with its events.

    Args:
        begun: What is there already, of a generation that is resumed; None = nothing.
    """

    def __init__(self, begun: pb.Generation | None = None) -> None:
        self._generation = begun or pb.Generation()
        self._texts: dict[int, list[str]] = {channel: [] for channel in CHANNELS.values()}
        self._texts[pb.CHANNEL_TEXT].append(self._generation.text)
        self._texts[pb.CHANNEL_REASONING].append(self._generation.reasoning)
        self._prompt_texts = [self._generation.prompt.text] if self._generation.HasField("prompt") else []

    def add(self, response: generate_pb2.StreamGenerateResponse) -> None:
        """Take the next event."""
        generation = self._generation
        match response.WhichOneof("event"):
            case "delta":
                self._texts[response.delta.channel].append(response.delta.text)
                generation.tokens.extend(response.delta.tokens)
            case "tool_call":
                generation.tool_calls.append(response.tool_call)
            case "prompt":
                self._prompt_texts.append(response.prompt.text)
                generation.prompt.tokens.extend(response.prompt.tokens)
            case "started":
                generation.started.CopyFrom(response.started)
            case _:
                generation.finished.CopyFrom(response.finished)

    def generation(self) -> pb.Generation:
        """Return what is there so far; the same message every time."""
        if self._prompt_texts:
            self._generation.prompt.text = "".join(self._prompt_texts)
        self._generation.text = "".join(self._texts[pb.CHANNEL_TEXT])
        self._generation.reasoning = "".join(self._texts[pb.CHANNEL_REASONING])
        return self._generation
