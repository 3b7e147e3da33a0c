"""The instruction-tuned Qwen models that this engine can run: their shapes, contexts, tasks and licences.

What is downloaded by a short name, with a digest, is another table: `qwire.models.catalogue`. These are served by their
hub name.

Where each figure comes from:
- layers, heads, tied embeddings, licences: the tables of the announcements, at
  `QwenLM/qwenlm.github.io@1f89f8c8`, `content/blog/{qwen2,qwen2.5,qwen2.5-coder-family,qwen2.5-math,qwen3}/index.md`;
  Qwen3 and its 2507 releases: Apache 2.0 by `QwenLM/Qwen3`'s README.
- hidden and inner sizes, vocabularies, head sizes, and the contexts of Qwen2.5-Math and Qwen3: those of each model's
  `config.json`, as `Lightning-AI/litgpt@26857050`, `litgpt/config.py` quotes them model by model; for Qwen3 and
  Qwen3-Coder-480B the files themselves, in `ai-dynamo/aiconfigurator@095f58a5`, `model_configs`.
- Qwen2: the table of its technical report, arXiv:2407.10671.
- Qwen3-Coder-30B-A3B: its model card, which has the figures of Qwen3-30B-A3B and 262,144 tokens of context.
- context of Qwen2, Qwen2.5 and Qwen2.5-Coder: 32,768 tokens, which their `config.json` and model cards set. The 128K of
  the announcements need YaRN, which an operator adds to `config.json`.
- tasks: what the announcements say that a model is for, that first.

The numbers of parameters are computed from the shapes, and a test compares them with those published.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwire.models.shape import Shape

TASKS = ("general", "coding", "math", "reasoning", "tools")
"""What a model may be asked for: conversation, code, mathematics, thinking before the answer, calls of tools."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model of the Hugging Face hub.

    Attributes:
        name: Its hub name.
        shape: Its sizes.
        context_tokens: Prompt and output tokens together, as its `config.json` says.
        tasks: What it is for, of `TASKS`; what it was made for first.
        license: SPDX identifier, or the name of Qwen's own licence.
    """

    name: str
    shape: Shape
    context_tokens: int
    tasks: tuple[str, ...]
    license: str


def _qwen2(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, *, tied: bool = False) -> Shape:
    vocabulary = 151_936 if tied else 152_064
    return Shape(
        *(vocabulary, hidden, layers, heads, kv_heads, hidden // heads, inner),
        tied=tied,
        biased=True,
        head_norms=False,
    )


def _qwen3(
    hidden: int, layers: int, heads: int, kv_heads: int, inner: int, *, tied: bool = False, experts: int = 0
) -> Shape:
    return Shape(
        *(151_936, hidden, layers, heads, kv_heads, 128, inner),
        tied=tied,
        biased=False,
        head_norms=True,
        experts=experts,
        experts_per_token=8 if experts else 0,
    )


_QWEN2 = {
    "0.5B": _qwen2(896, 24, 14, 2, 4864, tied=True),
    "1.5B": _qwen2(1536, 28, 12, 2, 8960, tied=True),
    "3B": _qwen2(2048, 36, 16, 2, 11008, tied=True),
    "7B": _qwen2(3584, 28, 28, 4, 18944),
    "14B": _qwen2(5120, 48, 40, 8, 13824),
    "32B": _qwen2(5120, 64, 40, 8, 27648),
    "72B": _qwen2(8192, 80, 64, 8, 29568),
}
_QWEN3 = {
    "0.6B": _qwen3(1024, 28, 16, 8, 3072, tied=True),
    "1.7B": _qwen3(2048, 28, 16, 8, 6144, tied=True),
    "4B": _qwen3(2560, 36, 32, 8, 9728, tied=True),
    "8B": _qwen3(4096, 36, 32, 8, 12288),
    "14B": _qwen3(5120, 40, 40, 8, 17408),
    "32B": _qwen3(5120, 64, 64, 8, 25600),
    "30B-A3B": _qwen3(2048, 48, 32, 4, 768, experts=128),
    "235B-A22B": _qwen3(4096, 94, 64, 4, 1536, experts=128),
}
_CODER_480B = _qwen3(6144, 62, 96, 8, 2560, experts=160)

_APACHE = "Apache-2.0"
_LICENSES = {"Qwen2": {"72B": "Qianwen"}, "Qwen2.5": {"3B": "Qwen Research", "72B": "Qwen"}}
_GENERAL = ("general", "coding", "math", "tools")
_HYBRID = ("general", "reasoning", "coding", "math", "tools")
_THINKING = ("reasoning", "coding", "math", "tools")
_CONTEXT = 32_768
_LONG = 262_144


def _release(
    family: str, shapes: dict[str, Shape], sizes: str, context_tokens: int, tasks: tuple[str, ...], *, suffix: str
) -> tuple[PublishedModel, ...]:
    """Return the models of one announcement; `sizes` are keys of `shapes`."""
    licenses = _LICENSES.get(family.partition("-")[0], {})
    return tuple(
        PublishedModel(
            f"Qwen/{family}-{size}{suffix}", shapes[size], context_tokens, tasks, licenses.get(size, _APACHE)
        )
        for size in sizes.split()
    )


PUBLISHED: tuple[PublishedModel, ...] = (
    *_release("Qwen2", _QWEN2, "0.5B 1.5B 7B 72B", _CONTEXT, ("general",), suffix="-Instruct"),
    *_release("Qwen2.5", _QWEN2, "0.5B 1.5B 3B 7B 14B 32B 72B", _CONTEXT, _GENERAL, suffix="-Instruct"),
    # The template of their tool calls is that of Qwen2.5.
    *_release("Qwen2.5-Coder", _QWEN2, "0.5B 1.5B 3B 7B 14B 32B", _CONTEXT, ("coding", "tools"), suffix="-Instruct"),
    *_release("Qwen2.5-Math", _QWEN2, "1.5B 7B 72B", 4_096, ("math",), suffix="-Instruct"),
    *_release("Qwen3", _QWEN3, "0.6B 1.7B 4B 8B 14B 32B 30B-A3B 235B-A22B", 40_960, _HYBRID, suffix=""),
    *_release("Qwen3", _QWEN3, "4B 30B-A3B 235B-A22B", _LONG, _GENERAL, suffix="-Instruct-2507"),
    *_release(
        "Qwen3",
        _QWEN3,
        "4B 30B-A3B 235B-A22B",
        _LONG,
        ("reasoning", "coding", "math", "tools"),
        suffix="-Thinking-2507",
    ),
    # Tools are left out: they call them in a notation of their own, which is not read yet.
    *_release("Qwen3-Coder", _QWEN3, "30B-A3B", _LONG, ("coding",), suffix="-Instruct"),
    PublishedModel("Qwen/Qwen3-Coder-480B-A35B-Instruct", _CODER_480B, _LONG, ("coding",), _APACHE),
)
"""All of them, older families first."""
