"""How an engine runs: device, quantization, and the bounds of its queue, its steps and its KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

QUANTIZATIONS = ("auto", "none", "q8", "int8", "nf4", "fp4")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16", "float16")
SPECULATIONS = ("none", "prompt-lookup", "draft-model")
PAGE_TOKENS = 16
"""Tokens of a page where neither the configuration nor the attention asks for another number."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How an engine runs. Every bound is checked here or when the model is loaded; none is changed in silence.

    Attributes:
        device: Torch device such as `cpu`, `cuda` or `cuda:1`; `auto` = CUDA where there is one, else the CPU.
        threads: CPU threads of one matrix product, at least 1; None = one per physical core that the process may use.
        quantization: `none`; on CPUs `q8`, 8 bits in groups of 64; or bitsandbytes' `int8`, `nf4` or `fp4`, which are
            slow on a CPU. On CPUs `none` and `q8` are computed by a kernel that is compiled on this machine, and by
            torch, slower, where there is no compiler. `auto` = `q8` on a CPU with a compiler, else `none`. With `int8`
            the columns kept in higher precision are chosen per step, so that what else runs can move an output by less
            than the quantization itself does.
        double_quantization: Whether the scales of 4-bit weights are quantized as well; no effect on other weights.
        compute_dtype: Type of the matrix products: `float32`, `bfloat16`, `float16`; `auto` = float32 on a CPU, and
            on CUDA bfloat16 where the device has it, else float16. A CPU computes in float32 only.
        max_running: Generations in prefill or decode at once, at least 1.
        max_waiting: Generations in the queue beside them; more are refused with QueueFull. 0 = no queue. Low priority
            has half of it. A quarter more is there for callers that another one would keep out, and for high priority.
        priority_aging_s: A generation that is passed over for this long has the next higher priority, seconds, > 0; so
            low ones are not put off for ever. To wait while earlier ones of its own priority run does not count.
        max_step_tokens: Prompt and output tokens computed in one step, at least `max_running`. Larger steps fill
            prompts faster; smaller ones keep running generations fluent and cancel sooner.
        kv_capacity_tokens: Tokens that the KV cache holds, rounded up to whole pages; None = as many as half of the
            memory left after loading holds, but no more than `max_running` full contexts. Generations take of it as
            they grow, so it bounds how many run at once: where it is used up, the last one by priority and arrival
            waits and later computes its tokens again. No request may be larger than the whole. On a CPU its memory is
            taken when it is first used, and what is kept for reuse fills it in time: say how much it may be where
            several engines share a machine.
        page_tokens: Tokens of a page, the piece in which the KV cache is taken and reused, at least 1. Smaller pages
            waste less at a generation's end and are reused more exactly; larger ones cost less bookkeeping. None = 16,
            and 256 on CUDA in half precision, where flash attention reads keys and values in pages of a multiple of
            256; with others torch attends there, one generation after the other.
        prefix_reuse: Keep keys and values of generations that ended, as long as nobody needs their pages, and reuse
            them where another request begins with the same tokens. It changes time, and output by rounding only (with
            `int8`, see there, by as much as what else runs). How long a first token takes then tells a caller whether
            somebody has sent the same beginning before.
        context_tokens: Tokens of prompt and output together; None = what the model was made for, which is also the
            upper bound.
        default_max_output_tokens: Output tokens of a request that does not say; below the context.
        allow_failed_quality: Serve a quantization although it is recorded to fail the quality gate on these weights;
            otherwise it is refused. What was never measured is allowed, with a warning in the log.
        adapters_dir: A folder each of whose subfolders is a LoRA adapter as peft saves it, under the name that requests
            give. It is looked at when a request names an adapter, so what is put there, replaced or taken away counts
            from the next request on. None = requests name no adapters.
        max_adapters: Adapters in memory at once, at least 1. Where a request names another one, the one that was not
            used for the longest time goes; where all of them are used, the request waits.
        speculation: Whether further tokens of running generations are guessed and computed in the step of the next one:
            `none`; `prompt-lookup`, by what followed the last tokens the last time they occurred; or `draft-model`, by
            a smaller model, which the engine must be given. It changes time, and output by rounding only (with `q8` not
            even so; with `int8`, see there, by as much as what else runs). It pays where guesses hold and few
            generations run; guesses take what is left of `max_step_tokens`, never the place of a prompt. Tokens that a
            constraint forces are computed ahead in any case.
        draft_tokens: The most tokens guessed at once for one generation, at least 1. No effect on forced tokens.
        lookup_least_tokens: Prompt lookup needs at least so many last tokens to have occurred before; at least 1.
        lookup_most_tokens: It looks for so many first, then for fewer; at least `lookup_least_tokens`.
        decode_graphs: On CUDA with flash attention, record the steps of single tokens when the engine starts and replay
            them, so that the device does not wait for Python between its kernels. It takes seconds at the start and
            some memory. Steps with prompts, drafts or adapters are not replayed, nor those of more generations than a
            page has tokens, nor any where the host has to look at activations, as with `int8`. No effect elsewhere.
        kernel_dir: Where the compiled kernel is kept; None = `~/.cache/qwire/kernels`.
        keep_packed: Keep `q8` weights from one start to the next, as large as they are in memory, where the kernel
            quantizes them; those of a draft model are not kept.
        packed_dir: Where; None = nowhere, so that they are quantized at each start. Served from a configuration file,
            None = `packed/` in its `cache_dir`.
    """

    device: str = "auto"
    threads: int | None = None
    quantization: str = "auto"
    double_quantization: bool = True
    compute_dtype: str = "auto"
    max_running: int = 16
    max_waiting: int = 64
    priority_aging_s: float = 30.0
    max_step_tokens: int = 256
    kv_capacity_tokens: int | None = None
    page_tokens: int | None = None
    prefix_reuse: bool = True
    context_tokens: int | None = None
    default_max_output_tokens: int = 512
    allow_failed_quality: bool = False
    adapters_dir: Path | None = None
    max_adapters: int = 8
    speculation: str = "none"
    draft_tokens: int = 4
    lookup_least_tokens: int = 2
    lookup_most_tokens: int = 4
    decode_graphs: bool = True
    kernel_dir: Path | None = None
    keep_packed: bool = True
    packed_dir: Path | None = None

    @property
    def reserved_waiting(self) -> int:
        """Places in the queue beyond `max_waiting`; see there."""
        return -(-self.max_waiting // 4)

    def __post_init__(self) -> None:
        _check_choice("quantization", self.quantization, QUANTIZATIONS)
        _check_choice("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        _check_least("threads", self.threads, 1)
        _check_least("max_running", self.max_running, 1)
        _check_least("max_waiting", self.max_waiting, 0)
        if not self.priority_aging_s > 0:
            raise ValueError(f"priority_aging_s is {self.priority_aging_s}; it must be above 0")
        _check_least("max_step_tokens", self.max_step_tokens, self.max_running)
        _check_least("kv_capacity_tokens", self.kv_capacity_tokens, 2)
        _check_least("page_tokens", self.page_tokens, 1)
        _check_least("context_tokens", self.context_tokens, 2)
        _check_least("default_max_output_tokens", self.default_max_output_tokens, 1)
        _check_least("max_adapters", self.max_adapters, 1)
        _check_choice("speculation", self.speculation, SPECULATIONS)
        _check_least("draft_tokens", self.draft_tokens, 1)
        _check_least("lookup_least_tokens", self.lookup_least_tokens, 1)
        _check_least("lookup_most_tokens", self.lookup_most_tokens, self.lookup_least_tokens)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def _check_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
