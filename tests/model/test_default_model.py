"""The default model against transformers' `generate`, one request at a time."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.checkpoint import Checkpoint

pytestmark = [pytest.mark.default_model, pytest.mark.timeout(900)]

OUTPUT_TOKENS = 12
TIE = 1e-3
"""A tie: where two outputs part, the reference's logits of the two tokens are closer than this. Sums in another order
move a logit by about 1e-4 here."""

QUESTIONS = [
    "Write a Python function that reverses a string.",
    "Explain what a mutex is in one sentence.",
    "List the first ten prime numbers.",
    "Translate 'good morning' to French, German and Japanese.",
    "用一句话解释什么是递归。",
    "写一个计算斐波那契数列的 Python 函数。",
    "再帰とは何か、一文で説明してください。",
    "Напиши функцию на Python, которая проверяет, является ли слово палиндромом.",
    "Qu'est-ce qu'une fermeture en programmation ?",
    "Erkläre den Unterschied zwischen einer Liste und einem Tupel.",
    "¿Qué hace el comando 'git rebase'?",
    "اكتب دالة تجمع عددين.",
    "बाइनरी सर्च क्या है?",
    "파이썬에서 딕셔너리를 정렬하는 방법은?",
    "What is 17 * 23?",
    "Γράψε μια συνάρτηση που ταξινομεί μια λίστα.",
]
TEXTS = [
    "def fibonacci(n: int) -> int:\n",
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, count(*) FROM users\n",
    "fn main() {\n    let numbers = vec![1, 2, 3];\n",
    "const express = require('express');\n",
    'package main\n\nimport (\n\t"fmt"\n',
    '{"name": "qwire", "version": ',
    "The quick brown fox",
    "\n\n\n",
    "1, 1, 2, 3, 5, 8, 13,",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "😀 😃 😄",
    "A",
    "import torch\nfrom torch import nn\n\n\nclass Attention(nn.Module):\n",
    "<html>\n<head>\n<title>",
]


@pytest.fixture(scope="module")
def prompts(default_checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    """32 prompts: chats in many languages, beginnings of code and prose, and 1,500 tokens of a program."""
    tokenizer = Tokenizer.from_file(str(default_checkpoint.folder / "tokenizer.json"))
    chats = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in QUESTIONS]
    texts = [*chats, *TEXTS, inspect.getsource(asyncio.tasks)]
    return [tuple(tokenizer.encode(text, add_special_tokens=False).ids[:1500]) for text in texts]


@pytest.fixture(scope="module")
def model(default_checkpoint: Checkpoint) -> Any:
    """The model as transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(default_checkpoint.folder, dtype=torch.float32, local_files_only=True)


@pytest.fixture(scope="module")
def references(model: Any, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    """What transformers generates for each prompt."""
    outputs: list[list[int]] = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        options = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": OUTPUT_TOKENS}
        output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        outputs.append(output[0, len(prompt) :].tolist())
    return outputs


def logit_gap(model: Any, prompt: tuple[int, ...], expected: list[int], output: list[int]) -> float:
    """Return by how much the reference's logits prefer its own token where the outputs part."""
    pairs = zip(expected, output, strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *expected[:same]]]), logits_to_keep=1).logits[0, -1]
    return (logits[expected[same]] - logits[output[same]]).item()


async def test_output_is_that_of_generate(
    default_checkpoint: Checkpoint, model: Any, prompts: list[tuple[int, ...]], references: list[list[int]]
) -> None:
    assert len(prompts) == 32
    assert len(prompts[-1]) == 1500
    engine = await LocalEngine.start(default_checkpoint, EngineConfig(device="cpu", quantization="none"))

    async def output_of(name: str, prompt: tuple[int, ...]) -> list[int]:
        request = TokenRequest(prompt, Envelope(name), StopParams(OUTPUT_TOKENS))
        return [token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids]

    order = list(range(len(prompts)))
    random.Random(1).shuffle(order)  # noqa: S311 - any order will do
    together = await asyncio.gather(*(output_of(f"together-{index}", prompts[index]) for index in order))
    alone = [await output_of(f"alone-{index}", prompts[index]) for index in range(0, len(prompts), 4)]
    await engine.close()
    outputs = [*zip(order, together, strict=True), *zip(range(0, len(prompts), 4), alone, strict=True)]
    gaps = {
        index: logit_gap(model, prompts[index], references[index], output)
        for index, output in outputs
        if output != references[index]
    }
    assert all(0 <= gap < TIE for gap in gaps.values()), gaps
    assert len(gaps) <= 1, "more ties than chance has among so few tokens"
