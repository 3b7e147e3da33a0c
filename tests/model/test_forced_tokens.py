"""What a constraint forces takes no step of its own, and what it forbids is not drafted."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from llguidance import LLTokenizer
from transformers import AutoModelForCausalLM

from qwire.engine.constraint import Constraint
from qwire.engine.local import LocalEngine
from qwire.engine.matcher import Matcher
from qwire.engine.request import SamplingParams, TokenRequest
from qwire.engine.sampler import sample
from qwire.engine.sequence import Sequence
from tests.model.constrained import SAMPLED, asking, choice, output_of, regex, schema
from tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
ORDER = {
    "type": "object",
    "properties": {
        "identifier_of_the_customer": {"type": "integer", "minimum": 0, "maximum": 99},
        "favourite_colour": {"enum": ["ultramarine", "vermilion"]},
    },
    "required": ["identifier_of_the_customer", "favourite_colour"],
    "additionalProperties": False,
}
CONSTRAINTS = [
    schema(ORDER),
    choice("the first of all the choices", "the second of all the choices"),
    regex(r"Dear (Mr|Ms) [A-Z][a-z]{1,9}, thank you for your letter of (May|June)"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of JSON are tokens."""
    corpus = json.dumps([ORDER] * 20)
    return write_tiny_checkpoint(tmp_path_factory.mktemp("forced"), corpus=corpus, spare_tokens=21)


def reference(folder: Path, request: TokenRequest) -> list[int]:
    """Draw token by token from transformers' logits, with a matcher that is never asked what is forced."""
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    eos = model.config.eos_token_id
    assert request.constraint is not None
    matcher = Matcher(request.constraint, _tokenizer(folder, model.config.vocab_size, eos), {eos})
    sequence = Sequence(request, frozenset({eos}), 0, 0, matcher)
    while not sequence.ended:
        with torch.inference_mode():
            logits = model(torch.tensor([sequence.token_ids(0, sequence.total_tokens)])).logits[0, -1:]
            (token_id,) = sample(logits, [sequence])
        assert token_id is not None
        sequence.append(token_id, 1)
    return sequence.output_token_ids


@functools.cache
def _tokenizer(folder: Path, vocabulary: int, eos: int) -> LLTokenizer:
    return LLTokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"), n_vocab=vocabulary, eos_token=eos)


@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=["schema", "choice", "regex"])
async def test_forced_tokens_take_no_step_and_change_nothing(
    folder: Path, start_engine: StartEngine, constraint: Constraint, sampling: SamplingParams
) -> None:
    request = asking("forced", constraint, sampling, 100)
    engine = await start_engine(folder)
    output, _ = await output_of(engine, request)
    assert output == reference(folder, request)
    stats = await engine.stats()
    assert stats.steps == len(output) - stats.accepted_tokens
    assert stats.steps < len(output) * 0.8
    assert stats.accepted_tokens == stats.drafted_tokens, "what is forced always comes"


@pytest.mark.parametrize("speculation", ["prompt-lookup", "draft-model"])
async def test_guesses_and_constraints_go_together(folder: Path, start_engine: StartEngine, speculation: str) -> None:
    plain = await start_engine(folder)
    draft = folder if speculation == "draft-model" else None
    engine = await start_engine(folder, draft=draft, speculation=speculation, lookup_least_tokens=1)
    free, _ = await output_of(plain, asking("4", None, SAMPLED, 40))
    late = replace(CONSTRAINTS[1], after_token_id=free[20])
    for index, constraint in enumerate([*CONSTRAINTS, regex("([0-9]+[a-f]){12}"), late]):
        request = asking(str(index), constraint, SAMPLED, 100)
        assert await output_of(engine, request) == await output_of(plain, request)
    for opening in (free[0], free[1]):  # it is drawn first, and it is not
        request = asking("4", replace(late, opening_token_id=opening), replace(SAMPLED, temperature=0.5), 100)
        assert await output_of(engine, request) == await output_of(plain, request)


async def test_a_draft_model_may_have_more_or_fewer_rows_that_stand_for_nothing(
    tmp_path: Path, start_engine: StartEngine
) -> None:
    folders = [tmp_path / "few", tmp_path / "many"]
    for folder, spare in zip(folders, (0, 30), strict=True):
        folder.mkdir()
        write_tiny_checkpoint(folder, spare_tokens=spare)
    for model, draft in (folders, folders[::-1]):
        engine = await start_engine(model, draft=draft, speculation="draft-model")
        last = (await engine.card()).vocabulary_tokens - 1
        request = asking("rows", None, SamplingParams(temperature=10.0, seed=3, logit_bias=((last, 1.0),)), 30)
        expected = await output_of(await start_engine(model), request)
        assert await output_of(engine, request) == expected
        assert (await engine.stats()).drafted_tokens > 0


async def test_a_draft_model_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, start_engine: StartEngine
) -> None:
    other = write_tiny_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="another vocabulary"):
        await start_engine(folder, draft=other, speculation="draft-model")
    (other / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        await start_engine(folder, draft=other, speculation="draft-model")
    with pytest.raises(ValueError, match="no draft model is given"):
        await start_engine(folder, speculation="draft-model")
    with pytest.raises(ValueError, match="speculation is none"):
        await start_engine(folder, draft=folder)


async def test_vocabularies_without_a_tokenizer_are_told_apart_by_their_size(
    tiny_qwen2: Path, tmp_path: Path, start_engine: StartEngine
) -> None:
    other = write_tiny_checkpoint(tmp_path)
    (other / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"vocabulary of \d+ tokens, the model one of 1000"):
        await start_engine(tiny_qwen2, draft=other, speculation="draft-model")
