"""What an engine speculates with, as it is configured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwire.engine.config import EngineConfig
from qwire.engine.draft_model import DraftModel
from qwire.engine.drafter import Drafter
from qwire.engine.forced_tokens import ForcedTokens
from qwire.engine.loader import LoadedModel, load_model
from qwire.engine.prompt_lookup import PromptLookup
from qwire.models.checkpoint import Checkpoint


def load_draft_model(
    draft: Checkpoint | None, config: EngineConfig, checkpoint: Checkpoint, loaded: LoadedModel
) -> LoadedModel | None:
    """Load the draft model where the configuration wants one, and check that it can draft. Blocks.

    Args:
        draft: The draft model; None = there is none.
        config: Of the engine; the draft model runs on its device, with its quantization.
        checkpoint: The model that it drafts for.
        loaded: The same, loaded.

    Raises:
        UnsupportedCheckpoint: The folder holds nothing that this engine can run.
        ValueError: One is wanted and missing, or given and not wanted; or its vocabulary is another one.
    """
    if config.speculation != "draft-model":
        if draft is not None:
            raise ValueError(f"a draft model is given, but speculation is {config.speculation}")
        return None
    if draft is None:
        raise ValueError("speculation is draft-model, but no draft model is given")
    _check_vocabulary(checkpoint.folder, draft.folder)
    # What bounds the requests is the model that they are for.
    own = replace(config, context_tokens=None, default_max_output_tokens=1)
    model = load_model(draft.folder, draft.source_format, own)
    own_tokens, tokens = model.config.vocabulary_tokens, loaded.config.vocabulary_tokens
    if not _tokenizer(draft.folder).is_file() and own_tokens != tokens:
        raise ValueError(f"the draft model has a vocabulary of {own_tokens} tokens, the model one of {tokens}")
    return model


def make_drafter(config: EngineConfig, loaded: LoadedModel, draft: LoadedModel | None, pages: int) -> Drafter:
    """Return what guesses: always what constraints force, and what else is configured.

    Args:
        config: Of the engine.
        loaded: The model.
        draft: The draft model, for `draft-model` only.
        pages: Pages of the engine's KV cache; that of the draft model has as many.
    """
    if draft is not None:
        model = DraftModel(
            draft,
            loaded.config.vocabulary_tokens,
            pages=pages,
            page_tokens=draft.page_tokens,
            draft_tokens=config.draft_tokens,
            step_tokens=config.max_step_tokens,
        )
        return ForcedTokens(model)
    if config.speculation == "prompt-lookup":
        return ForcedTokens(PromptLookup(config.draft_tokens, config.lookup_least_tokens, config.lookup_most_tokens))
    return ForcedTokens()


def _check_vocabulary(folder: Path, draft: Path) -> None:
    """Compare tokens and ids; models of one family may differ in ids that stand for nothing."""
    files = [_tokenizer(folder), _tokenizer(draft)]
    if not any(file.is_file() for file in files):
        return
    for file in files:
        if not file.is_file():
            raise ValueError(f"whether the draft model has the same vocabulary cannot be told: {file} is missing")
    texts = [file.read_bytes() for file in files]
    if texts[0] == texts[1]:
        return
    own, other = (json.loads(text) for text in texts)
    added, other_added = _added(own), _added(other)
    if own["model"]["vocab"] != other["model"]["vocab"] or any(
        added[token] != other_added[token] for token in added.keys() & other_added.keys()
    ):
        raise ValueError("the draft model has another vocabulary than the model")


def _added(tokenizer: dict[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}


def _tokenizer(folder: Path) -> Path:
    return folder / "tokenizer.json"
