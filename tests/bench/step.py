"""Where a step's time goes, and what share of the machine's bounds it reaches.

The bounds are what this machine does when it does nothing else: bytes read a second, by the fastest of several ways to
read a gigabyte, and float32 operations a second, by a large product of torch's. A step cannot be faster than its
weights are read, nor, in float32, than its products are computed. What the parts of a step take is measured around the
calls of the arithmetic and the attention; the rest is Python, the embedding and the draw.

    python -m tests.bench.step                                  # decode at 1, 8, 16 and 32 rows, prefill of 256
    python -m tests.bench.step --quantization q8 --rows 1,16 --context 500
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from qwire.engine.attention import RaggedBatch
from qwire.engine.config import EngineConfig
from qwire.engine.feed_forward import DenseFeedForward
from qwire.engine.kv_pool import KVPool
from qwire.engine.lean_decoder import LeanDecoder
from qwire.engine.loader import LoadedModel, load_model
from qwire.engine.low_rank import AdapterRows
from qwire.engine.q8.build import build
from qwire.engine.q8.float32 import Float32Arithmetic
from qwire.engine.ranking import most_likely
from qwire.engine.segment import Segment
from qwire.models.catalogue import DEFAULT_MODEL_ID
from qwire.models.store import ModelStore
from qwire.serve.environment import cache_dir

PAGE_TOKENS = 16


class Clock:
    """Times the calls of some functions by name."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def around(self, owner: Any, method: str, name: str) -> None:
        """Replace a method by one that is timed."""
        function: Callable[..., Any] = getattr(owner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[name] += time.perf_counter() - began
            return result

        setattr(owner, method, timed)


def segments(sequences: int, new: int, context: int) -> list[Segment]:
    """Return sequences that have `context` tokens, the last `new` of which are to be computed."""
    pages = -(-context // PAGE_TOKENS)
    return [Segment(tuple(range(n * pages, (n + 1) * pages)), context - new, new) for n in range(sequences)]


NO_ADAPTERS = AdapterRows((), torch.device("cpu"))


def step(loaded: LoadedModel, pool: KVPool, parts: list[Segment]) -> None:
    """Compute a step as `ModelRunner` does, drawing greedily."""
    tokens = sum(part.length for part in parts)
    positions = [position for part in parts for position in range(part.start, part.end)]
    batch = RaggedBatch(pool, parts, loaded.paged_attention)
    hidden = loaded.decoder.hidden(torch.arange(tokens) % 1000, torch.tensor(positions), batch, NO_ADAPTERS)
    last = torch.tensor([part.length for part in parts]).cumsum(0) - 1
    most_likely(loaded.decoder.logits(hidden[last]))


def measure(loaded: LoadedModel, pool: KVPool, parts: list[Segment], clock: Clock, rounds: int) -> dict[str, float]:
    """Return the seconds of a step's parts and of the `whole`, medians."""
    taken: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        clock.seconds.clear()
        began = time.perf_counter()
        step(loaded, pool, parts)
        taken["whole"].append(time.perf_counter() - began)
        for name, seconds in clock.seconds.items():
            taken[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def bytes_per_s(kernels: Path) -> float:
    """Return how fast this machine reads memory: by summing up, and by a product of one row."""
    matrix = torch.randn(256_000, 1024)
    packed, row = Float32Arithmetic(build(kernels)).pack(matrix), torch.randn(1, 1024)
    return matrix.nbytes / min(_least(matrix.sum), _least(lambda: packed.of(row)))


def operations_per_s() -> float:
    """Return how fast this machine multiplies in float32."""
    left, right = torch.randn(2, 2048, 2048).unbind(0)
    return 2 * 2048**3 / _least(lambda: left @ right)


def _least(function: Callable[[], Any]) -> float:
    taken: list[float] = []
    for _ in range(7):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return min(taken)


def multiplied(decoder: LeanDecoder) -> Iterator[Any]:
    """Yield the matrices of a dense decoder that each step reads, the head last; of an embedding only rows are read."""
    for layer in decoder.layers:
        assert isinstance(layer.feed_forward, DenseFeedForward)
        network = layer.feed_forward.network
        yield from (layer.query_key_value, layer.attention_output, network.gate_up, network.down)
    yield decoder.head


def watch(decoder: LeanDecoder, clock: Clock) -> None:
    """Time the parts of a decoder."""
    kinds = {type(decoder.head), type(decoder.layers[0].query_key_value)}
    for kind in kinds:
        for method in ("of", "add_to", "add_gated_to"):
            clock.around(kind, method, "products")
    clock.around(type(decoder.arithmetic), "rotate", "rotation")
    clock.around(RaggedBatch, "attend", "attention and KV")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL_ID, help="catalogue id, folder or hub name")
    parser.add_argument("--quantization", choices=("none", "q8"), default="none")
    parser.add_argument("--rows", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 16, 32])
    parser.add_argument("--context", type=int, default=96, help="tokens that each sequence has")
    parser.add_argument("--prefill", type=int, default=256, help="tokens of the prefill step")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    checkpoint = ModelStore(cache_dir(None)).resolve(arguments.model)
    loaded = load_model(checkpoint.folder, "", EngineConfig(device="cpu", quantization=arguments.quantization))
    decoder = loaded.decoder
    assert isinstance(decoder, LeanDecoder)
    matrices = list(multiplied(decoder))
    size, weights = sum(one.nbytes for one in matrices), sum(one.rows * one.columns for one in matrices)
    with torch.inference_mode():
        read, computed = bytes_per_s(cache_dir(None) / "kernels"), operations_per_s()
        print(f"reads {read / 1e9:.1f} GB/s, multiplies {computed / 1e9:.0f} GFLOP/s; weights {size / 1e6:.0f} MB\n")
        print("| step | whole, ms | products | attention and KV | rotation | rest | read bound | product bound |")
        print("|---|---|---|---|---|---|---|---|")
        clock = Clock()
        watch(decoder, clock)
        steps = [(f"decode, {rows} rows", segments(rows, 1, arguments.context)) for rows in arguments.rows]
        steps.append((f"prefill, {arguments.prefill} tokens", segments(1, arguments.prefill, arguments.prefill)))
        pool = KVPool(loaded.kv_shape, 64 * -(-max(arguments.context, arguments.prefill) // PAGE_TOKENS), PAGE_TOKENS)
        for layer in range(loaded.kv_shape.layers):
            for half in pool.layer(layer):
                half.normal_()
        for name, parts in steps:
            step(loaded, pool, parts)
            taken = measure(loaded, pool, parts, clock, arguments.rounds)
            tokens, in_head = sum(part.length for part in parts), matrices[-1].rows * matrices[-1].columns
            operations = 2 * ((weights - in_head) * tokens + in_head * len(parts))
            product_bound = operations / computed if arguments.quantization == "none" else None
            print(_row(name, taken, size / read, product_bound), flush=True)


def _row(name: str, taken: dict[str, float], read: float, products: float | None) -> str:
    whole = taken["whole"]
    own = [taken[part] for part in ("products", "attention and KV", "rotation")]
    cells = " | ".join(f"{seconds * 1e3:.1f}" for seconds in (whole, *own, whole - sum(own)))
    product_bound = "-" if products is None else f"{products / whole:.0%}"
    return f"| {name} | {cells} | {read / whole:.0%} | {product_bound} |"


if __name__ == "__main__":
    main()
