"""What drawing the next tokens costs: our sampler against that of transformers' continuous batching, same logits.

The peer runs its own code from logits to tokens, `ModelRunner._forward_process_and_sample` around a model that returns
the logits: once with parameters of each request's own, which is what we offer, once with the same for all requests.
Logits are normal with a deviation of 3, flatter than a language model's, which is against us.

    python -m tests.bench.sampling                   # 1, 8 and 32 rows, 9 pairs each
    python -m tests.bench.sampling --rows 32 --pairs 21 --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, Qwen2Config, Qwen2ForCausalLM
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs
from transformers.generation.continuous_batching.model_runner import ModelRunner
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.engine.sampler import sample
from qwire.engine.sequence import Sequence

VOCABULARY = 151_936
PROMPT_TOKENS = 200
OFF = VOCABULARY
"""Top-k for a request that keeps every token, where others of its batch do not: the peer takes 0 for 1."""
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "top-k 20, top-p 0.8": [{"temperature": 0.7, "top_k": 20, "top_p": 0.8}],
    "top-p 0.8": [{"temperature": 0.7, "top_k": 0, "top_p": 0.8}],
    "temperature alone": [{"temperature": 0.7, "top_k": 0, "top_p": 1.0}],
    "mixed": [
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"temperature": 1.0, "top_k": 50, "top_p": 1.0},
        {"temperature": 0.7, "top_k": OFF, "top_p": 0.8},
        {"temperature": 0.7, "top_k": OFF, "top_p": 1.0},
    ],
}
"""Dealt out to the requests of a batch in turn."""


class Peer:
    """Continuous batching's step behind the forward.

    Args:
        rows: Requests in the batch.
        parameters: Dealt out to them; the first ones are the defaults.
        own: Whether each request has parameters of its own.
    """

    def __init__(self, rows: int, parameters: list[dict[str, Any]], *, own: bool) -> None:
        small = Qwen2Config(vocab_size=VOCABULARY, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        small.num_attention_heads = small.num_key_value_heads = 1
        generation = GenerationConfig(do_sample=True, **parameters[0])
        with torch.device("meta"):
            model: Any = Qwen2ForCausalLM(small)
        self._processors = ContinuousBatchingLogitsProcessorList(
            model._get_logits_processor(generation), per_request_processors=own
        )
        self._requests = [
            FutureRequestState(
                RequestState(str(row), [1], logit_processor_kwargs=parameters[row % len(parameters)]),
                has_new_token=True,
                complete_blocks={},
                query_length=1,
            )
            for row in range(rows)
        ]
        config = ContinuousBatchingConfig(use_cuda_graph=False)
        io: Any = ContinuousBatchingIOs.__new__(ContinuousBatchingIOs)  # its carry-over, which does nothing, is all
        cache: Any = None
        self._runner: Any = ModelRunner(self._processors, config, io, cache, do_sample=True, return_logprobs=False)
        self._arguments = torch.zeros(max(1, self._processors.tensors_required), rows, dtype=torch.int32)
        self._batch = {"input_ids": torch.zeros(1, rows, dtype=torch.int32), "logits_indices": torch.arange(rows)}
        self._output = torch.zeros(1, rows, dtype=torch.int32)

    def __call__(self, logits: Tensor) -> list[int]:
        arguments = self._processors.prepare_tensor_args(self._requests, self._arguments)
        batch = {**self._batch, "logits_processor_args": arguments}
        answer = SimpleNamespace(logits=logits[None])

        def model(**_: object) -> SimpleNamespace:
            return answer

        self._runner._forward_process_and_sample(model, batch, self._output, self._output, self._output)
        return self._output[0].tolist()


class Ours:
    """Our sampler, every request with parameters of its own."""

    def __init__(self, rows: int, parameters: list[dict[str, Any]]) -> None:
        self._sequences = [
            Sequence(
                TokenRequest(
                    tuple(range(PROMPT_TOKENS)),
                    Envelope(str(row)),
                    StopParams(100),
                    SamplingParams(**parameters[row % len(parameters)], seed=row),
                ),
                frozenset({3}),
                0,
                0,
            )
            for row in range(rows)
        ]

    def __call__(self, logits: Tensor) -> list[int | None]:
        return sample(logits, self._sequences)


@torch.inference_mode()
def compare(name: str, rows: int, pairs: int) -> dict[str, list[float]]:
    """Return the milliseconds of each side's draws."""
    parameters = PARAMETERS[name]
    sides: dict[str, Callable[[Tensor], object]] = {
        "ours": Ours(rows, parameters),
        "peer, own parameters": Peer(rows, parameters, own=True),
    }
    if len(parameters) == 1:
        sides["peer, one for all"] = Peer(rows, parameters, own=False)
    times: dict[str, list[float]] = {side: [] for side in sides}
    generator = torch.Generator().manual_seed(rows)
    for pair in range(-1, pairs):  # the first one warms
        logits = torch.randn(rows, VOCABULARY, generator=generator) * 3
        for side in sorted(sides, reverse=pair % 2 == 0):
            given = logits.clone()
            began = time.perf_counter()
            sides[side](given)
            if pair >= 0:
                times[side].append((time.perf_counter() - began) * 1e3)
    return times


def ratios(rows: int, pairs: int) -> list[float]:
    """Return how many times longer the peer's draw by top-k and top-p takes, the same parameters for all requests.

    That is its faster way, and its default; ours has parameters of each request's own. Both have one thread: more make
    ours wait for the scheduler where other work runs.
    """
    torch.set_num_threads(1)
    times = compare("top-k 20, top-p 0.8", rows, pairs)
    return _over(times["peer, one for all"], times["ours"])


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, vocabulary {VOCABULARY}; median (min-max) of {arguments.pairs} pairs")
    for name in PARAMETERS:
        for rows in arguments.rows:
            times = compare(name, rows, arguments.pairs)
            ours = times.pop("ours")
            print(f"{rows:>3} rows, {name}: ours {_spread(ours, 2)} ms")
            for side, theirs in times.items():
                print(f"          {side}: {_spread(theirs)} ms, ratio {_spread(_over(theirs, ours))}")


def _over(theirs: list[float], ours: list[float]) -> list[float]:
    return [one / other for one, other in zip(theirs, ours, strict=True)]


def _spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
