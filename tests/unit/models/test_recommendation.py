from __future__ import annotations

import json
import subprocess
import sys

import pytest

from qwire.models.memory_need import GIB, memory_need
from qwire.models.published import PUBLISHED, TASKS
from qwire.models.recommendation import DEVICES, parse_memory, parse_tokens, recommend

SIZES = [1, 2, 3, 4, 6, 8, 11, 12, 16, 24, 32, 40, 48, 64, 80, 141, 192, 512, 2048]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("context_tokens", "sequences"), [(None, 1), (4096, 1), (32_768, 8), (131_072, 2)])
def test_what_is_recommended_fits_and_can_do_it(
    task: str, device: str, context_tokens: int | None, sequences: int
) -> None:
    models = {model.name: model for model in PUBLISHED}
    for gib in SIZES:
        for found in recommend(task, gib * GIB, device=device, context_tokens=context_tokens, sequences=sequences):
            model = models[found.model]
            assert task in model.tasks
            assert context_tokens is None or found.context_tokens == context_tokens <= model.context_tokens
            need = memory_need(
                model.shape, found.quantization, device, tokens=found.context_tokens, sequences=sequences
            )
            assert need.total_bytes <= gib * GIB


@pytest.mark.parametrize("device", DEVICES)
def test_with_memory_enough_every_model_of_a_task_is_there_as_published(device: str) -> None:
    for task in TASKS:
        found = recommend(task, 4096 * GIB, device=device)
        assert {one.model for one in found} == {model.name for model in PUBLISHED if task in model.tasks}
        assert {one.quantization for one in found} == {"none" if device == "gpu" else "q8"}


def test_more_memory_never_recommends_a_coarser_quantization() -> None:
    order = ["none", "int8", "nf4"]
    before: dict[str, int] = {}
    for gib in SIZES:
        now = {one.model: order.index(one.quantization) for one in recommend("general", gib * GIB)}
        assert before.keys() <= now.keys()
        assert all(now[model] <= quantization for model, quantization in before.items())
        before = now


def test_the_order_is_made_for_it_then_size_with_the_failed_quantizations_last() -> None:
    found = recommend("coding", 24 * GIB)
    assert found[0].model == "Qwen/Qwen2.5-Coder-14B-Instruct"
    assert found[0].quantization == "int8"
    ranks = [(one.quantization == "nf4", not one.made_for_task, -one.parameters) for one in found]
    assert ranks == sorted(ranks)
    assert found[-1].quantization == "nf4"
    assert "failed" in found[-1].why


def test_experts_are_quantized_on_cpus_only() -> None:
    name = "Qwen/Qwen3-Coder-30B-A3B-Instruct"
    (on_cpu,) = [one for one in recommend("coding", 48 * GIB, device="cpu") if one.model == name]
    assert on_cpu.quantization == "q8"
    assert name not in {one.model for one in recommend("coding", 48 * GIB, device="gpu")}
    (on_gpu,) = [one for one in recommend("coding", 80 * GIB, device="gpu") if one.model == name]
    assert on_gpu.quantization == "none"


def test_context_and_concurrency_cost_memory() -> None:
    def need(context_tokens: int, sequences: int) -> int:
        found = recommend("coding", 512 * GIB, context_tokens=context_tokens, sequences=sequences)
        return next(one.need.total_bytes for one in found if one.model == "Qwen/Qwen2.5-Coder-14B-Instruct")

    assert need(32_768, 1) > need(16_384, 1) + 16_384 * 48 * 8 * 128 * 2
    # Two sequences of half the context have the same cache, and one more row of logits.
    assert 0 < need(16_384, 2) - need(32_768, 1) < 16 * 2**20


def test_the_default_context_is_bounded_by_the_models() -> None:
    assert {one.context_tokens for one in recommend("math", 512 * GIB)} == {4096, 8192}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "flying"}, "task is 'flying'; it must be one of general, coding"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"memory_bytes": 0}, "memory is 0"),
        ({"context_tokens": 0}, "context is 0"),
        ({"sequences": 0}, "concurrency is 0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommend(**{"task": "coding", "memory_bytes": GIB, **arguments})  # pyright: ignore[reportArgumentType] - by name


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * GIB), ("24 gib", 24 * GIB), ("1.5TiB", 1536 * GIB), ("500MB", 500_000_000), ("80GB", 80 * 10**9)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "24", "GiB", "24G", "-1GiB", "1e3GiB", "24GiB of it", "nanGiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_memory(text)


def test_tokens_are_read() -> None:
    assert (parse_tokens("32k"), parse_tokens("32K"), parse_tokens("100")) == (32_768, 32_768, 100)
    for text in ("", "k", "0", "-1", "1.5k", "1m"):
        with pytest.raises(ValueError, match="is no number of tokens"):
            parse_tokens(text)


@pytest.mark.parametrize("module", ["recommendation", "published_needs"])
def test_it_needs_the_standard_library_alone(module: str) -> None:
    script = f"import sys, json; import qwire.models.{module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    roots = {name.partition(".")[0] for name in json.loads(done.stdout)}
    with_nothing = subprocess.run(
        [sys.executable, "-c", "import sys, json; print(json.dumps(sorted(sys.modules)))"],
        check=True,
        capture_output=True,
        text=True,
    )
    before = {name.partition(".")[0] for name in json.loads(with_nothing.stdout)}
    assert {root for root in roots - before if root not in sys.stdlib_module_names} == {"qwire"}
