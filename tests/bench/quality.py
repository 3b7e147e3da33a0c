"""What each quantization costs in quality: every mode against float32, on texts and code that ship with Python.

For each position of each text, the distribution of the next token is compared with float32's: Kullback-Leibler
divergence in nats, and how often the most likely token is the same. Perplexity is of the texts themselves. Greedy
agreement is the share of output tokens before the first that differs, over continuations of the texts' beginnings.

    make eval       # every mode that this machine can run; writes docs/quality.md and what engines refuse modes by
    make eval ARGS="--modes q8 --positions 256"     # replaces the row of q8, and float32's
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json.decoder
import pathlib
import pydoc_data.topics
import textwrap
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.models.catalogue import DEFAULT_MODEL_ID
from qwire.models.checkpoint import Checkpoint
from qwire.models.quality import Measurement, nested, record
from qwire.models.store import ModelStore
from qwire.serve.environment import cache_dir
from qwire.text.tokenizer import QwenTokenizer
from tests.bench.quality_page import CPU, DOCUMENT, Quality, caption, merged, table
from tests.support.teacher_forcing import forced_logits

_GREEDY_TOKENS = 48
_GREEDY_PROMPTS = 8
_ROWS = 64
_MODES = {"cpu": ("q8", "int8", "nf4", "fp4"), "cuda": ("int8", "nf4", "fp4")}


def texts() -> list[str]:
    """Return prose and code, of the installed Python."""
    prose = [pydoc_data.topics.topics[name] for name in ("objects", "import", "formatstrings", "exceptions")]
    code = [inspect.getsource(module) for module in (textwrap, json.decoder, asyncio.queues, pathlib)]
    return [*prose, *code]


@dataclass(frozen=True, slots=True)
class Reference:
    """What float32 says: log-probabilities of each text, and greedy continuations."""

    log_probabilities: list[Tensor]
    outputs: list[list[int]]


def log_probabilities(checkpoint: Checkpoint, config: EngineConfig, documents: Sequence[list[int]]) -> list[Tensor]:
    """Return the distribution of the next token at each position of each text."""
    return [
        torch.cat([rows.log_softmax(-1) for rows in logits])
        for logits in forced_logits(checkpoint, config, documents, rows=_ROWS)
    ]


async def continuations(
    checkpoint: Checkpoint, config: EngineConfig, documents: Sequence[list[int]]
) -> list[list[int]]:
    """Return greedy continuations of the texts' beginnings."""
    engine = await LocalEngine.start(checkpoint, config)

    async def output(document: list[int]) -> list[int]:
        stop = StopParams(_GREEDY_TOKENS, ignore_eos=True)
        request = TokenRequest(tuple(document[:64]), Envelope(uuid.uuid4().hex), stop)
        return [token_id async for chunk in engine.generate(request) for token_id in chunk.token_ids]

    outputs = await asyncio.gather(*(output(document) for document in documents[:_GREEDY_PROMPTS]))
    await engine.close()
    return outputs


def compare(
    reference: Reference, found: list[Tensor], outputs: list[list[int]], documents: Sequence[list[int]], seconds: float
) -> Quality:
    """Compare a mode with float32; float32 with itself gives the first row of the table."""
    divergences, same, surprise, positions = [], 0, 0.0, 0
    for p, q, document in zip(reference.log_probabilities, found, documents, strict=True):
        divergences.append((p.exp() * (p - q)).sum(-1).mean().item())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        following = torch.tensor(document[1:])[:, None]
        surprise -= q[:-1].gather(1, following).sum().item()
        positions += len(document)
    return Quality(
        perplexity=float(torch.tensor(surprise / (positions - len(documents))).exp()),
        kl=sum(divergences) / len(divergences),
        worst_kl=max(divergences),
        top_1=same / positions,
        greedy=_agreement(reference.outputs, outputs),
        positions=positions,
        seconds=seconds,
    )


def _agreement(expected: list[list[int]], found: list[list[int]]) -> float:
    same = 0
    for left, right in zip(expected, found, strict=True):
        differ = (n for n, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1])
        same += next(differ, len(left))
    return same / sum(map(len, expected))


def main() -> None:
    """Measure, print, and write the document."""
    arguments = _parse()
    device = _device(arguments.device)
    checkpoint = ModelStore(cache_dir(None)).resolve(arguments.model)
    tokenizer = QwenTokenizer.from_folder(checkpoint.folder)
    documents = [tokenizer.encode(text)[: arguments.positions] for text in texts()]
    results: dict[str, Quality] = {}
    reference: Reference | None = None
    for mode in ("none", *(_MODES[device.type] if arguments.modes is None else arguments.modes)):
        config = EngineConfig(
            device=str(device),
            quantization=mode,
            # What all are compared with is float32 where others are served in half precision, too.
            compute_dtype="float32" if mode == "none" else "auto",
            allow_failed_quality=True,
        )
        began = time.monotonic()
        found = log_probabilities(checkpoint, config, documents)
        seconds = time.monotonic() - began
        outputs = asyncio.run(continuations(checkpoint, config, documents))
        reference = reference or Reference(found, outputs)
        results[mode] = compare(reference, found, outputs, documents, seconds)
        print(table(result.row(mode) for mode, result in results.items()), flush=True)
    if arguments.write:
        # The document is about the default model; the record is about all.
        if checkpoint.model_id == DEFAULT_MODEL_ID:
            title = caption(checkpoint.model_id, _name(device))
            rows = {mode: result.row(mode) for mode, result in results.items()}
            DOCUMENT.write_text(merged(DOCUMENT.read_text(encoding="utf-8"), title, rows), encoding="utf-8")
        record(_measurements(checkpoint, device, results))


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _name(device: torch.device) -> str:
    return CPU if device.type == "cpu" else f"one {torch.cuda.get_device_name(device)}"


def _measurements(checkpoint: Checkpoint, device: torch.device, results: dict[str, Quality]) -> Iterator[Measurement]:
    for mode, result in results.items():
        if mode != "none":
            yield Measurement(
                model=checkpoint.model_id,
                weights_sha256=checkpoint.weights_sha256,
                quantization=mode,
                double_quantization=nested(mode, double_quantization=EngineConfig().double_quantization),
                device=device.type,
                positions=result.positions,
                kl=round(result.kl, 6),
            )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL_ID, help="catalogue id, folder or hub name")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--modes", nargs="*", choices=_MODES["cpu"], help="default: all that the device can run")
    parser.add_argument("--positions", type=int, default=256, help="tokens of each text")
    parser.add_argument(
        "--no-write", dest="write", action="store_false", help="leave docs/quality.md and the record as they are"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
