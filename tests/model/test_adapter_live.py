"""From training to serving: an adapter is trained, put into a folder, and answers, while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer

from qwire.client import AdapterNotFound, AdapterUnusable, AsyncClient, BatchItem, InvalidRequest, TextPrompt
from qwire.engine.local import LocalEngine
from qwire.rpc.registry import ServedModel
from qwire.text.generator import Generator
from qwire.text.processor import TextProcessor
from tests.contract.edge import open_edge
from tests.support.peft_adapter import base_model
from tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
PROMPT, ANSWER = "the capital of France", " is Paris"


def train(checkpoint: Path, prompt: str, answer: str) -> Any:
    """Return a model with an adapter that was trained until it gives the answer to the prompt."""
    tokenizer: Tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    asked, told = (tokenizer.encode(text, add_special_tokens=False).ids for text in (prompt, answer))
    eos = tokenizer.token_to_id("<|im_end|>")
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(base_model(checkpoint), config)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.01)
    ids = torch.tensor([[*asked, *told, eos]])
    labels = ids.clone()
    labels[:, : len(asked)] = -100
    for _ in range(300):
        logits = model(input_ids=ids).logits[0, len(asked) - 1 : -1]
        if logits.argmax(-1).tolist() == labels[0, len(asked) :].tolist():
            return model
        loss = torch.nn.functional.cross_entropy(logits, labels[0, len(asked) :])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError("the adapter did not learn its answer")


async def test_a_trained_adapter_goes_live_without_a_restart(
    tmp_path: Path, start_engine: StartEngine, tmp_path_factory: pytest.TempPathFactory
):
    checkpoint = write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    engine = await start_engine(checkpoint, adapters_dir=adapters)
    card = await engine.card()
    served = ServedModel(card, Generator(TextProcessor.from_folder(checkpoint), engine, card), engine)
    async with open_edge([served]) as edge, AsyncClient(f"127.0.0.1:{edge.port}") as client:

        async def answer(adapter: str | None) -> str:
            generation = await client.generate(TextPrompt(PROMPT), adapter=adapter, temperature=0, max_output_tokens=20)
            return generation.text

        plain = await answer(None)
        assert plain != ANSWER
        assert (await client.model("tiny")).capabilities.adapters
        assert await client.adapters() == ()
        with pytest.raises(AdapterNotFound):
            await answer("capitals")

        model = await asyncio.to_thread(train, checkpoint, PROMPT, ANSWER)
        model.save_pretrained(adapters / ".new")
        (adapters / ".new").rename(adapters / "capitals")

        assert [(one.id, one.rank, one.loaded) for one in await client.adapters()] == [("capitals", 8, False)]
        assert await asyncio.gather(*map(answer, ("capitals", None, "capitals"))) == [ANSWER, plain, ANSWER]
        (listed,) = await client.adapters()
        assert (listed.loaded, len(listed.sha256), listed.problem) == (True, 64, "")
        items = [TextPrompt(PROMPT), BatchItem(TextPrompt(PROMPT), options={"adapter": None, "max_output_tokens": 20})]
        results = await client.batch(items, adapter="capitals", temperature=0)
        assert [result.unwrap().text for result in results] == [ANSWER, plain]

        stream = client.stream(TextPrompt(PROMPT), adapter="capitals", temperature=0)
        assert "".join([text async for text in stream.text_stream]) == ANSWER

        (adapters / "capitals" / "adapter_model.safetensors").write_bytes(b"half of a copy")
        with pytest.raises(AdapterUnusable, match="damaged or incomplete"):
            await answer("capitals")
        assert await answer(None) == plain
        with pytest.raises(InvalidRequest) as refused:
            await answer("../adapters/capitals")
        assert [violation.field for violation in refused.value.violations] == ["spec.adapter"]
