"""Turns what is known of a model into its message."""

from __future__ import annotations

from qwire.engine.protocol import AdapterInfo
from qwire.rpc.generation_message import sampling_message
from qwire.rpc.registry import ServedModel
from qwire.v1 import model_pb2 as pb

_METHODS = {
    "none": pb.QUANTIZATION_METHOD_NONE,
    "int8": pb.QUANTIZATION_METHOD_INT8,
    "nf4": pb.QUANTIZATION_METHOD_NF4,
    "fp4": pb.QUANTIZATION_METHOD_FP4,
    "q8": pb.QUANTIZATION_METHOD_Q8,
}


def model_message(model: ServedModel) -> pb.Model:
    """Return a served model's message."""
    card, abilities = model.card, model.abilities
    quantization = card.quantization
    return pb.Model(
        id=card.model_id,
        revision=card.revision,
        architecture=card.architecture,
        parameters=card.parameters,
        vocabulary_tokens=card.vocabulary_tokens,
        limits=pb.ModelLimits(
            context_tokens=card.context_tokens,
            max_output_tokens=card.max_output_tokens,
            default_max_output_tokens=card.default_max_output_tokens,
        ),
        # What is not named here is refused by `qwire.rpc.spec`, field by field.
        capabilities=pb.ModelCapabilities(
            chat=abilities.chat,
            reasoning=abilities.thinking,
            tools=abilities.tools,
            constraints=card.constraints,
            adapters=card.adapters,
            logprobs=True,
            resume=True,
        ),
        quantization=pb.Quantization(
            method=_METHODS.get(quantization.method, pb.QUANTIZATION_METHOD_UNSPECIFIED),
            bits=quantization.bits,
            compute_dtype=quantization.compute_dtype,
            double_quantization=quantization.double_quantization,
            skipped_modules=quantization.skipped_modules,
            source_format=quantization.source_format,
        ),
        default_sampling=sampling_message(card.default_sampling, seed=None),
        end_of_sequence_token_ids=sorted(card.eos_token_ids),
        weights_sha256=card.weights_sha256,
        tokenizer_sha256=card.tokenizer_sha256,
    )


def adapter_message(info: AdapterInfo) -> pb.Adapter:
    """Return an adapter's message."""
    return pb.Adapter(id=info.adapter_id, rank=info.rank, loaded=info.loaded, sha256=info.sha256, problem=info.problem)
