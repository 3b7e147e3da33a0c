"""The arithmetic of the engine's benchmark: figures, bounds and the page, from made-up runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.engine.bounds import BOUNDS, DRAW, KL, TOP_1, Bound, judge_memory
from tests.bench.engine.report import report, verdicts
from tests.bench.engine.results import Memory, Results
from tests.bench.engine.run import Figures, LostTokens, Run, percentile
from tests.bench.engine.workload import Request, Workload, at_once, poisson, random_tokens, shared_prefix

ENCODE = random_tokens(1000)


def made(tokens_per_s: float, ttft_s: float = 1.0) -> Run:
    return Run(tokens_per_s, [ttft_s, ttft_s * 3], [0.1, 0.2])


def results(ours: list[float], theirs: list[float]) -> Results:
    made_up = Results("a machine", groups=[["float32", "vllm"]])
    for side, speeds in (("float32", ours), ("vllm", theirs)):
        for speed in speeds:
            made_up.add(side, "8", made(speed, 1 / speed))
    return made_up


def test_times_count_from_the_arrival() -> None:
    workload = Workload("two", [Request([1], 3), Request([2], 2, at_s=1.0)])
    answer = {"seconds": 5.0, "requests": [{"times_s": [0.5, 1.0, 2.5]}, {"times_s": [1.25, 5.0]}]}
    run = Run.of(workload, answer)
    assert run.tokens_per_s == 1.0
    assert run.ttft_s == [0.5, 0.25]
    assert run.tpot_s == [1.0, 3.75]


def test_a_lost_token_is_told() -> None:
    workload = Workload("one", [Request([1], 3)])
    with pytest.raises(LostTokens, match=r"\[3\], got \[2\]"):
        Run.of(workload, {"seconds": 1.0, "requests": [{"times_s": [0.5, 1.0]}]})


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([4.0, 1.0, 3.0, 2.0], 100) == 4.0
    assert percentile([7.0], 95) == 7.0


def test_ratios_are_of_one_round() -> None:
    # Each round is slower than the last; the ratio is the same in all.
    figures = Figures.of([made(10), made(20), made(40)], [made(5), made(10), made(20)])
    assert (figures.ratio.median, figures.ratio.least, figures.ratio.most) == (2.0, 2.0, 2.0)
    assert figures.tokens_per_s.show() == "20.0 (10.0-40.0)"
    assert figures.ttft_mean_s.median == 2.0


@pytest.mark.parametrize(
    ("ours", "limit", "verdict"),
    [([20, 21, 30], 2.0, "PASS"), ([20, 19, 18], 2.0, "MISS"), ([], 2.0, "NOT MEASURED")],
)
def test_a_bound_is_judged_by_the_median(ours: list[float], limit: float, verdict: str) -> None:
    line = Bound("float32", "vllm", "8", "speed", limit).judge(results(ours, [10] * len(ours)))
    assert line.startswith(f"{verdict}:")
    assert "float32 over vllm at 8" in line


def test_of_times_the_smaller_is_better() -> None:
    bound = Bound("float32", "vllm", "8", "ttft", 1.0)
    assert bound.judge(results([20], [10])).startswith("PASS")
    assert bound.judge(results([10], [20])).startswith("MISS")


def test_memory_is_judged_after_loading() -> None:
    made_up = Results("a machine")
    assert judge_memory(made_up)[0].startswith("NOT MEASURED")
    made_up.memory = {"q8": Memory(100, 440, 9000)}
    assert judge_memory(made_up)[0].startswith("NOT MEASURED")
    made_up.float32_bytes = 1000
    assert judge_memory(made_up)[0].startswith("PASS")
    made_up.memory["q8"] = Memory(100, 441, 441)
    assert [line.split(":")[0] for line in judge_memory(made_up)] == ["MISS"]
    made_up.memory["float32"] = Memory(100, 882, 9000)
    assert judge_memory(made_up)[1].startswith("NOT JUDGED: memory of q8 after loading over that of float32 is 0.50")


def test_parts_are_judged_where_they_were_measured() -> None:
    made_up = Results("a machine", parts={DRAW.what: [9.0, 10.0, 70.0], KL.what: [0.0021], TOP_1.what: [0.98]})
    assert [line.split(":")[0] for line in verdicts(made_up)] == ["PASS", "NOT MEASURED", "MISS", "PASS"]
    assert verdicts(made_up)[0].endswith("is 10.00 (9.00-70.00), >= 10.0")
    assert verdicts(made_up)[2].endswith("is 0.0021, <= 0.002")


def test_the_page_tells_what_is_missing_and_what_was_not_measured() -> None:
    made_up = results([20], [10])
    made_up.drop("vllm", "it did not install")
    page = report(made_up, ["images/a.svg"])
    assert "`vllm` is missing: it did not install" in page
    assert len(verdicts(made_up)) == sum(bound.side == "float32" for bound in BOUNDS) + 1
    assert all(line.startswith("NOT MEASURED") for line in verdicts(made_up))
    assert "| 8 | float32 | 20.0 (20.0-20.0) | 1.00 (1.00-1.00) |" in page
    assert "![images/a.svg](images/a.svg)" in page


def test_bounds_of_sides_that_did_not_run_are_not_listed() -> None:
    made_up = Results("a machine", groups=[["none", "int8"]])
    made_up.add("none", "1", made(1))
    assert verdicts(made_up) == []
    assert "What must hold" not in report(made_up, [])


def test_results_survive_a_file(tmp_path: Path) -> None:
    made_up = results([20, 30], [10, 11])
    made_up.memory["vllm"] = Memory(1, 2, 3, 4)
    made_up.save(tmp_path / "kept.json")
    assert Results.load(tmp_path / "kept.json") == made_up


def test_prompts_differ_from_round_to_round_and_within_one() -> None:
    first, second = at_once(ENCODE, 8, 4, seed=1), at_once(ENCODE, 8, 4, seed=2)
    prompts = [tuple(request.prompt) for workload in (first, second) for request in workload.requests]
    assert len(set(prompts)) == 16
    assert at_once(ENCODE, 8, 4, seed=1) == first


def test_a_prefix_is_shared_and_no_more() -> None:
    workload = shared_prefix(ENCODE, 4, 2, seed=3)
    prompts = [request.prompt for request in workload.requests]
    assert all(prompt[:1000] == prompts[0][:1000] for prompt in prompts)
    assert len({tuple(prompt[1000:]) for prompt in prompts}) == 4


def test_arrivals_are_those_of_the_seed_and_the_rate() -> None:
    arrivals = [request.at_s for request in poisson(ENCODE, 2000, 2, 4.0, seed=1).requests]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] / 2000 == pytest.approx(1 / 4, rel=0.1)
    assert arrivals == [request.at_s for request in poisson(ENCODE, 2000, 2, 4.0, seed=1).requests]
