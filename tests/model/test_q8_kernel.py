"""The 8-bit kernel against the same products in double precision, on every path that this CPU can run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad, silu

from qwire.engine.arithmetic import HeadNorms, Norm
from qwire.engine.q8 import build as build_module
from qwire.engine.q8.build import BuildFailed, build
from qwire.engine.q8.fallback import FallbackArithmetic, rounded, transformed
from qwire.engine.q8.kernel import BLOCK, GROUP, Q8Arithmetic
from tests.model.kernel_paths import PATHS, can_run

pytestmark = pytest.mark.model

EPSILON = 1e-6
# rows of weights, columns: below, at and above the borders of blocks and groups, and the shapes of real layers.
SHAPES = [(1, 1), (15, 31), (16, 32), (17, 33), (48, 64), (100, 100), (1152, 896), (896, 4864)]
# Tokens: every size of a tile and what is left of several, and more than one chunk.
TOKENS = [*range(1, 14), 24, 25, 95, 97, 200]
MOST_TOKENS = 800
# Activations that pass by before weights are read again (`kCached`), rows of a tile on any path: borders of chunks.
CACHED, TILES = 1 << 19, (4, 6, 10, 12)


@pytest.fixture(params=PATHS)
def kernel(request: pytest.FixtureRequest, library_folder: Path) -> Q8Arithmetic:
    options, instructions = PATHS[request.param]
    if not can_run(instructions):
        pytest.skip(f"this CPU has no {instructions}")
    return Q8Arithmetic(build(library_folder, options))


def close(result: Tensor, reference: Tensor, size: Tensor) -> None:
    """Compare to a millionth of what was added up."""
    assert ((result.double() - reference).abs() <= 1e-6 * size).all()


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_products_are_those_of_double_precision(kernel: Q8Arithmetic, rows: int, columns: int) -> None:
    torch.manual_seed(rows * columns)
    matrix, bias = torch.randn(rows, columns), torch.randn(rows)
    weight = kernel.pack(matrix, bias)
    held = FallbackArithmetic().pack(matrix)
    exact = (held.values.double() * held.scales.double()).flatten(1)
    numbers = weight.rows_of(torch.arange(rows))
    assert torch.equal(numbers, held.rows_of(torch.arange(rows)))
    # What is rounded is off by less than half a step; the error of transformed numbers is spread over all of a group.
    groups = transformed(pad(matrix, (0, -columns % GROUP)).unflatten(1, (-1, GROUP)))
    assert (numbers - matrix).square().mean().sqrt() <= 0.5 * groups.abs().max() / 127
    for tokens in TOKENS:
        x = torch.randn(tokens, columns)
        multiplied = rounded(x).double()
        size = multiplied.abs() @ exact.abs().T + bias.abs().double()
        expected = multiplied @ exact.T + bias
        result = weight.of(x)
        close(result, expected, size)
        residual = torch.randn(tokens, rows)
        added = residual.clone()
        weight.add_to(added, x)
        torch.testing.assert_close(added, residual + result)


def near(*borders: int, most: int) -> st.SearchStrategy[int]:
    """Return any number up to the largest, and often one at a border, one below or one above."""
    edges = sorted({number for border in (1, *borders, most) for number in range(border - 1, border + 2)})
    return st.one_of(st.sampled_from([number for number in edges if 0 < number <= most]), st.integers(1, most))


@st.composite
def products(draw: st.DrawFn) -> tuple[int, int, int]:
    """Return rows and columns of a weight and a number of tokens, of which few are large at once."""
    rows = draw(near(BLOCK, 2 * BLOCK, 4 * BLOCK, most=200))
    columns = draw(near(GROUP // 2, GROUP, 2 * GROUP, 13 * GROUP, most=1300))
    chunks = [max(1, CACHED // (columns * tile)) * tile for tile in TILES]
    tiles = [number * tile for tile in TILES for number in (1, 2, 5)]
    return rows, columns, draw(near(*tiles, *chunks, most=MOST_TOKENS))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(product=products(), seed=st.integers(0, 2**31), biased=st.booleans(), threads=st.sampled_from([1, 2, 3]))
def test_products_of_any_shape_are_those_of_double_precision(
    kernel: Q8Arithmetic, *, product: tuple[int, int, int], seed: int, biased: bool, threads: int
) -> None:
    (rows, columns, tokens), source = product, torch.Generator().manual_seed(seed)
    matrix, x = (torch.randn(count, columns, generator=source) for count in (rows, tokens))
    bias, residual = (torch.randn(*size, generator=source) for size in ((rows,), (tokens, rows)))
    held = FallbackArithmetic().pack(matrix)
    exact, multiplied = (held.values.double() * held.scales.double()).flatten(1), rounded(x).double()
    added = bias if biased else torch.zeros(rows)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        weight = kernel.pack(matrix, bias if biased else None)
        result, total = weight.of(x), residual.clone()
        weight.add_to(total, x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(weight.rows_of(torch.arange(rows)), held.rows_of(torch.arange(rows)))
    close(result, multiplied @ exact.T + added, multiplied.abs() @ exact.abs().T + added.abs().double())
    torch.testing.assert_close(total, residual + result)


def test_a_row_is_the_same_bits_on_every_path_and_beside_any_other(library_folder: Path) -> None:
    torch.manual_seed(1)
    matrix, x = torch.randn(100, 320), torch.randn(40, 320)
    results: list[Tensor] = []
    for options, instructions in PATHS.values():
        if can_run(instructions):
            weight = Q8Arithmetic(build(library_folder, options)).pack(matrix)
            together = weight.of(x)
            alone = torch.cat([weight.of(row[None]) for row in x])
            assert torch.equal(together, alone)
            results.append(together)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_norm_and_gate_are_part_of_the_product(kernel: Q8Arithmetic, threads: int) -> None:
    torch.manual_seed(2)
    matrix, norm = torch.randn(70, 96), Norm(torch.rand(96) + 0.5, EPSILON)
    weight = kernel.pack(matrix)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for tokens in (1, 5, 30):
            x = torch.randn(tokens, 96) * 3
            normed = x / (x.double().square().mean(-1, keepdim=True) + EPSILON).sqrt() * norm.weight
            torch.testing.assert_close(weight.of(x, norm), weight.of(normed.float()), rtol=1e-4, atol=1e-3)
            gate_up, residual = torch.randn(tokens, 192) * 4, torch.randn(tokens, 70)
            gate, up = gate_up.chunk(2, dim=-1)
            added = residual.clone()
            weight.add_gated_to(added, gate_up)
            expected = residual + weight.of(silu(gate) * up)
            torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-3)
    finally:
        torch.set_num_threads(before)


def test_extreme_gates_stay_finite(kernel: Q8Arithmetic) -> None:
    weight = kernel.pack(torch.ones(1, 32))
    gate = torch.tensor([-1e30, -200.0, -88.0, -1.0, 0.0, 1.0, 88.0, 200.0]).repeat(4)
    added = torch.zeros(1, 1)
    weight.add_gated_to(added, torch.cat((gate, torch.ones(32)))[None])
    torch.testing.assert_close(added, (silu(gate.double()).sum()).float().view(1, 1), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_so_in_its_row_alone(kernel: Q8Arithmetic, value: float) -> None:
    torch.manual_seed(3)
    matrix, x = torch.randn(40, 64), torch.randn(9, 64)
    clean = kernel.pack(matrix).of(x)
    x[4, 40] = value
    result = kernel.pack(matrix).of(x)
    assert result[4].isnan().all()
    assert torch.equal(result[[0, 1, 2, 3, 5, 6, 7, 8]], clean[[0, 1, 2, 3, 5, 6, 7, 8]])
    matrix[7, 3] = value
    assert kernel.pack(matrix).of(x[:4])[:, 7].isnan().all()


def test_zeros_and_tiny_weights_are_exact(kernel: Q8Arithmetic) -> None:
    weight = kernel.pack(torch.zeros(20, 40))
    assert torch.equal(weight.of(torch.randn(3, 40)), torch.zeros(3, 20))
    assert torch.equal(kernel.pack(torch.ones(20, 40)).of(torch.zeros(3, 40)), torch.zeros(3, 20))
    tiny = kernel.pack(torch.full((16, 32), 1e-12))  # its scale is zero in float16
    assert torch.equal(tiny.of(torch.ones(1, 32)), torch.zeros(1, 16))


@pytest.mark.parametrize("normed", [False, True])
def test_heads_turn_as_in_transformers(kernel: Q8Arithmetic, *, normed: bool) -> None:
    torch.manual_seed(4)
    tokens, heads, query_heads, size = 11, 6, 4, 16
    x = torch.randn(tokens, heads + 2, size)
    angles = torch.randn(tokens, size // 2)
    norms = HeadNorms(torch.rand(2, size) + 0.5, query_heads, EPSILON) if normed else None
    expected = x.clone()
    FallbackArithmetic().rotate(expected[:, :heads], angles.cos(), angles.sin(), norms)
    kernel.rotate(x[:, :heads], angles.cos(), angles.sin(), norms)
    torch.testing.assert_close(x, expected)
    if not normed:
        back = x.clone()
        kernel.rotate(back[:, :heads], angles.cos(), -angles.sin(), None)
        assert not torch.equal(back, x)


def test_torch_alone_computes_the_same(kernel: Q8Arithmetic) -> None:
    torch.manual_seed(5)
    matrix, bias, norm = torch.randn(50, 100), torch.randn(50), Norm(torch.rand(100) + 0.5, EPSILON)
    packed, fallback = kernel.pack(matrix, bias), FallbackArithmetic().pack(matrix, bias)
    rows = torch.tensor([0, 17, 49])
    assert torch.equal(packed.rows_of(rows), fallback.rows_of(rows))
    x, gate_up = torch.randn(6, 100), torch.randn(6, 200)
    torch.testing.assert_close(packed.of(x, norm), fallback.of(x, norm), rtol=1e-3, atol=1e-2)
    for add in ("add_to", "add_gated_to"):
        left, right = torch.ones(6, 50), torch.ones(6, 50)
        source = x if add == "add_to" else gate_up
        getattr(packed, add)(left, source)
        getattr(fallback, add)(right, source)
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-2)


def test_it_is_compiled_once(tmp_path: Path) -> None:
    first = build(tmp_path)
    written = first.stat().st_mtime_ns
    assert build(tmp_path) == first
    assert first.stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_another_cpu_compiles_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(tmp_path)
    monkeypatch.setattr(build_module, "_cpu", lambda: "another one")
    assert build(tmp_path) != first


def test_a_missing_or_failing_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildFailed, match="-mno-such"):
        build(tmp_path, ("-mno-such-instruction",))
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildFailed, match="no compiler"):
        build(tmp_path)
