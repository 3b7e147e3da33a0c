"""What a loaded model is, as the contract tells it."""

from __future__ import annotations

from qwire.engine.config import EngineConfig
from qwire.engine.loader import LoadedModel
from qwire.engine.protocol import ModelCard
from qwire.models.checkpoint import Checkpoint


def model_card(checkpoint: Checkpoint, loaded: LoadedModel, config: EngineConfig) -> ModelCard:
    """Return the card of a model that was loaded from this checkpoint with this configuration."""
    model = loaded.config
    context_tokens = config.context_tokens or model.context_tokens
    return ModelCard(
        model_id=checkpoint.model_id,
        revision=checkpoint.revision,
        architecture=model.architecture,
        parameters=loaded.parameters,
        vocabulary_tokens=model.vocabulary_tokens,
        context_tokens=context_tokens,
        max_output_tokens=context_tokens - 1,
        default_max_output_tokens=config.default_max_output_tokens,
        eos_token_ids=model.eos_token_ids,
        default_sampling=model.default_sampling,
        quantization=loaded.quantization,
        weights_sha256=checkpoint.weights_sha256,
        tokenizer_sha256=checkpoint.tokenizer_sha256,
        # Without the text of tokens, or without a way to end, nothing can be matched.
        constraints=(checkpoint.folder / "tokenizer.json").is_file() and bool(model.eos_token_ids),
        adapters=config.adapters_dir is not None,
    )
