"""A model that thinks and calls tools, one token per byte, and says what a test has it say."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from qwire.engine.fake import FakeEngine
from qwire.engine.request import TokenRequest
from qwire.text.processor import TextProcessor
from qwire.text.request import TextPrompt
from qwire.text.template import ChatTemplate
from qwire.v1 import generate_pb2, types_pb2
from tests.contract.edge import Stubs, card_of, open_edge, served
from tests.contract.failure import collect

TEMPLATE = Path(__file__).parents[1] / "unit" / "text" / "data" / "qwen3.jinja"


@dataclass(frozen=True, slots=True)
class Thinker:
    """The model behind its server."""

    stubs: Stubs
    engine: FakeEngine
    processor: TextProcessor
    target: str

    def ids(self, text: str) -> list[int]:
        """Return a text's tokens."""
        return self.processor.encode(TextPrompt(text))

    def prompt(self) -> str:
        """Return the last prompt that the engine was asked to continue."""
        bytes_of = self.processor._tokenizer.token_bytes  # pyright: ignore[reportPrivateUsage] - one byte per token
        return b"".join(bytes_of[token_id] for token_id in self.engine.requests[-1].prompt_token_ids).decode()

    async def whole(self, spec: types_pb2.GenerationSpec) -> types_pb2.Generation:
        """Generate."""
        return (await self.stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec))).generation

    async def stream(self, spec: types_pb2.GenerationSpec) -> list[generate_pb2.StreamGenerateResponse]:
        """Generate, event by event."""
        return await collect(self.stubs.generate.StreamGenerate(generate_pb2.StreamGenerateRequest(spec=spec)))


@asynccontextmanager
async def open_thinker(
    processor: TextProcessor, output: str, *, after: str = "", template: str | None = None
) -> AsyncGenerator[Thinker, None]:
    """Serve a model that says `output` and ends its turn; `after`, once its thinking was ended for it."""
    tokenizer = processor._tokenizer  # pyright: ignore[reportPrivateUsage] - no folder needed
    source = TEMPLATE.read_text(encoding="utf-8") if template is None else template
    thinking = TextProcessor(tokenizer, ChatTemplate(source))
    card = replace(card_of(processor), context_tokens=4096, max_output_tokens=2048, default_max_output_tokens=1024)
    end = max(card.eos_token_ids)

    def script(request: TokenRequest) -> Sequence[int]:
        existing, said = request.output_token_ids, thinking.encode(TextPrompt(output))
        if existing == tuple(said[: len(existing)]):
            return [*said, end]
        rest = thinking.encode(TextPrompt(after))
        told = max(n for n in range(len(rest) + 1) if existing[len(existing) - n :] == tuple(rest[:n]))
        return [*existing[: len(existing) - told], *rest, end]

    engine = FakeEngine(script, card=card)
    async with open_edge([await served(thinking, engine)]) as edge:
        yield Thinker(edge.stubs, engine, thinking, f"127.0.0.1:{edge.port}")


def chat(*messages: types_pb2.ChatMessage, **fields: object) -> types_pb2.GenerationSpec:
    """Return a spec of these messages; none = one that says hi."""
    said = messages or (types_pb2.ChatMessage(role=types_pb2.ROLE_USER, text="hi"),)
    return types_pb2.GenerationSpec(chat=types_pb2.ChatInput(messages=said), **fields)  # pyright: ignore[reportArgumentType] - any field


def tools(*definitions: types_pb2.ToolDefinition) -> types_pb2.ToolOptions:
    """Return tools; none = one that tells the weather."""
    weather = types_pb2.ToolDefinition(
        name="weather", description="Tells the weather.", parameters_json_schema='{"type": "object"}'
    )
    return types_pb2.ToolOptions(tools=definitions or [weather])
