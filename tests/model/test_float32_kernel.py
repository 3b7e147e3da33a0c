"""The float32 kernel against the same products in double precision, on every path that this CPU can run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import silu

from qwire.engine.arithmetic import Norm, gated
from qwire.engine.exact import ExactArithmetic
from qwire.engine.low_rank import LowRank
from qwire.engine.q8.build import NATIVE, build
from qwire.engine.q8.float32 import Float32Arithmetic
from qwire.engine.q8.float32_matrix import Float32Matrix
from tests.model.kernel_paths import PATHS, can_run

pytestmark = pytest.mark.model

EPSILON = 1e-6
# rows of weights, columns: below, at and above the borders of blocks, pieces and panels, and the shapes of real layers.
SHAPES = [(1, 1), (31, 63), (32, 64), (33, 65), (100, 1025), (1152, 896), (896, 4864)]
# Tokens: every size of a tile and what is left of several, and more than one chunk.
TOKENS = [*range(1, 14), 24, 25, 61, 220]


def steps(rows: int, columns: int) -> Tensor:
    """Return whole multiples of 16-bit steps, as a file of 8 bits a weight has them."""
    size = torch.randn(rows, columns // 16, 1).half().float()
    return (torch.randint(-127, 128, (rows, columns // 16, 16)) * size).view(rows, columns)


@pytest.fixture(params=PATHS)
def kernel(request: pytest.FixtureRequest, library_folder: Path) -> Float32Arithmetic:
    options, instructions = PATHS[request.param]
    if not can_run(instructions):
        pytest.skip(f"this CPU has no {instructions}")
    return Float32Arithmetic(build(library_folder, options))


@pytest.fixture
def native(library_folder: Path) -> Float32Arithmetic:
    return Float32Arithmetic(build(library_folder, NATIVE))


# Numbers, and how many bytes they need.
FORMS: dict[str, tuple[Callable[[int, int], Tensor], float]] = {
    "steps": (steps, 1.25),
    "halves": (lambda rows, columns: torch.randn(rows, columns).bfloat16().float(), 2),
    "whole": (torch.randn, 4),
}


def close(result: Tensor, reference: Tensor, size: Tensor) -> None:
    """Compare to a millionth of what was added up."""
    assert ((result.double() - reference).abs() <= 1e-6 * size).all()


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_products_are_those_of_double_precision(kernel: Float32Arithmetic, rows: int, columns: int) -> None:
    torch.manual_seed(rows * columns)
    matrix, bias = torch.randn(rows, columns), torch.randn(rows)
    weight = kernel.pack(matrix, bias)
    for tokens in TOKENS:
        x = torch.randn(tokens, columns)
        size = x.abs().double() @ matrix.abs().double().T + bias.abs()
        result = weight.of(x)
        close(result, x.double() @ matrix.double().T + bias, size)
        residual = torch.randn(tokens, rows)
        added = residual.clone()
        weight.add_to(added, x)
        torch.testing.assert_close(added, residual + result, rtol=1e-5, atol=1e-4)


def test_a_row_is_the_same_bits_beside_any_other(kernel: Float32Arithmetic) -> None:
    torch.manual_seed(1)
    weight, x = kernel.pack(torch.randn(100, 1500)), torch.randn(200, 1500)
    together = weight.of(x)
    assert torch.equal(together, torch.cat([weight.of(row[None]) for row in x]))
    assert torch.equal(together[:7], weight.of(x[:7]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 16), (31, 64), (100, 1040), (33, 2080)])
def test_numbers_that_need_fewer_bytes_take_fewer_and_give_the_same_bits(
    kernel: Float32Arithmetic, form: str, rows: int, columns: int
) -> None:
    make, width = FORMS[form]
    torch.manual_seed(rows)
    matrix, bias = make(rows, columns), torch.randn(rows)
    held = kernel.pack(matrix, bias)
    assert held.nbytes == -(-rows // 32) * 32 * columns * width
    assert torch.equal(held.rows_of(torch.arange(rows)), matrix)
    # One row of other numbers, and all are held whole.
    whole = kernel.pack(torch.cat((matrix, torch.randn(1, columns))), torch.cat((bias, torch.zeros(1))))
    assert whole.nbytes == (rows // 32 + 1) * 32 * columns * 4
    for tokens in (1, 5, 12, 13, 30, 520):  # one tile, several, and more than a chunk
        x = torch.randn(tokens, columns)
        assert torch.equal(held.of(x), whole.of(x)[:, :rows])


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q5_0, Kind.Q4_0, Kind.BF16], ids=lambda kind: kind.name)
def test_weights_that_were_quantized_before_are_held_as_such(kernel: Float32Arithmetic, kind: Kind) -> None:
    torch.manual_seed(5)
    matrix = torch.from_numpy(gguf.dequantize(gguf.quantize(torch.randn(96, 256).numpy(), kind), kind))
    held = kernel.pack(matrix)
    assert held.nbytes == matrix.numel() * (2 if kind is Kind.BF16 else 1.25)
    assert torch.equal(held.rows_of(torch.arange(96)), matrix)


BITS = st.integers(0, 2**16 - 1)
GROUP = 16


@given(
    steps=st.lists(st.floats(width=32, min_value=0, max_value=2.0**120), min_size=1, max_size=40),
    seed=st.integers(0, 2**32),
    most=st.integers(1, 127),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whole_multiples_come_back(native: Float32Arithmetic, steps: list[float], seed: int, most: int) -> None:
    numbers = torch.randint(-most, most + 1, (len(steps), GROUP), generator=torch.Generator().manual_seed(seed))
    table = torch.tensor(steps)[:, None] * numbers
    assert_comes_back(native, table)
    if seed % 2:  # one number is not a multiple, and all are whole
        table[seed % len(steps), seed % GROUP] = 3.0e38
        assert_comes_back(native, table)


@given(st.lists(st.lists(BITS, min_size=GROUP, max_size=GROUP), min_size=1, max_size=40), BITS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_halves_come_back(native: Float32Arithmetic, halves: list[list[int]], low: int) -> None:
    bits = torch.tensor(halves, dtype=torch.int64) << 16
    bits[-1, -1] |= low  # 0 = halves
    table = bits.to(torch.int32).view(torch.float32)
    held = assert_comes_back(native, table)
    assert held.nbytes <= -(-len(halves) // 32) * 32 * GROUP * (4 if low else 2)


def assert_comes_back(kernel: Float32Arithmetic, table: Tensor) -> Float32Matrix:
    """Compare bits, but for the sign of zeros, which no sum sees."""
    held = kernel.embed(table)
    back = held.rows_of(torch.arange(len(table)))
    bits, expected = (one.masked_fill(one == 0, 0.0).view(torch.int32) for one in (back, table))
    assert torch.equal(bits, expected)
    return held


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_norm_and_gate_are_part_of_the_product(kernel: Float32Arithmetic, threads: int, form: str) -> None:
    torch.manual_seed(2)
    matrix, norm = FORMS[form][0](70, 96), Norm(torch.rand(96) + 0.5, EPSILON)
    weight, by_torch = kernel.pack(matrix), ExactArithmetic(16).pack(matrix)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for tokens in (1, 5, 30):
            x = torch.randn(tokens, 96) * 3
            torch.testing.assert_close(weight.of(x, norm), by_torch.of(x, norm), rtol=1e-4, atol=1e-3)
            gate_up, residual = torch.randn(tokens, 192) * 4, torch.randn(tokens, 70)
            gate, up = gate_up.chunk(2, dim=-1)
            added = residual.clone()
            weight.add_gated_to(added, gate_up)
            torch.testing.assert_close(added, residual + (silu(gate) * up) @ matrix.T, rtol=1e-4, atol=1e-3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_in_its_row_alone(kernel: Float32Arithmetic, value: float, form: str) -> None:
    torch.manual_seed(3)
    matrix, x = FORMS[form][0](40, 64), torch.randn(9, 64)
    clean = kernel.pack(matrix).of(x)
    x[4, 40] = value
    result = kernel.pack(matrix).of(x)
    assert not result[4].isfinite().any()
    assert torch.equal(result[[0, 1, 2, 3, 5, 6, 7, 8]], clean[[0, 1, 2, 3, 5, 6, 7, 8]])


@pytest.mark.parametrize("prepare", [Norm(torch.rand(96) + 0.5, EPSILON).of, gated], ids=["normalized", "gated"])
def test_what_an_adapter_adds_to_a_row_has_the_same_bits_beside_any_other(
    kernel: Float32Arithmetic, prepare: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(6)
    x = torch.randn(50, 96 if prepare is not gated else 192)
    change = LowRank(torch.randn(8, 96), torch.randn(200, 8)).product(kernel.exact)
    together = change(prepare(x))
    assert torch.equal(together, torch.cat([change(prepare(row[None])) for row in x]))
    assert torch.equal(together[:7], change(prepare(x[:7])))


def test_an_embedding_gives_its_rows_and_is_a_matrix(kernel: Float32Arithmetic) -> None:
    torch.manual_seed(4)
    table, x = torch.randn(70, 48), torch.randn(3, 48)
    embedding = kernel.embed(table)
    rows = torch.tensor([0, 33, 69, 33])
    assert torch.equal(embedding.rows_of(rows), table[rows])
    assert embedding.rows_of(rows).is_contiguous()
    torch.testing.assert_close(embedding.as_matrix().of(x), x @ table.T, rtol=1e-5, atol=1e-4)
