"""What is served: models, their bounds and what they can do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from qwire.client.started import Sampling
from qwire.v1 import generate_pb2, model_pb2


class QuantizationMethod(Enum):
    """How the weights are held."""

    NONE = "none"
    INT8 = "int8"
    NF4 = "nf4"
    FP4 = "fp4"
    Q8 = "q8"
    UNKNOWN = "unknown"
    """Not reported, or a method that this version of the client does not know."""


_METHODS = {
    model_pb2.QUANTIZATION_METHOD_NONE: QuantizationMethod.NONE,
    model_pb2.QUANTIZATION_METHOD_INT8: QuantizationMethod.INT8,
    model_pb2.QUANTIZATION_METHOD_NF4: QuantizationMethod.NF4,
    model_pb2.QUANTIZATION_METHOD_FP4: QuantizationMethod.FP4,
    model_pb2.QUANTIZATION_METHOD_Q8: QuantizationMethod.Q8,
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """Facts about the quantization in force.

    Attributes:
        method: How the linear layers' weights are held.
        bits: Bits per quantized weight, scales not counted.
        compute_dtype: The type that matrix products are computed in, such as `float32`.
        double_quantization: Whether the scales of 4-bit weights are quantized as well.
        skipped_modules: Modules left in the compute type.
        source_format: Quantization of the published weights file, such as `Q4_K_M`; empty = none.
    """

    method: QuantizationMethod
    bits: int
    compute_dtype: str
    double_quantization: bool
    skipped_modules: tuple[str, ...]
    source_format: str

    @classmethod
    def from_proto(cls, proto: model_pb2.Quantization) -> Quantization:
        """Convert the message."""
        return cls(
            method=_METHODS.get(proto.method, QuantizationMethod.UNKNOWN),
            bits=proto.bits,
            compute_dtype=proto.compute_dtype,
            double_quantization=proto.double_quantization,
            skipped_modules=tuple(proto.skipped_modules),
            source_format=proto.source_format,
        )


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """The bounds of a model as served.

    Attributes:
        context_tokens: Tokens of prompt and output together.
        max_output_tokens: The most output tokens that a request may ask for.
        default_max_output_tokens: Output tokens where a request does not say.
    """

    context_tokens: int
    max_output_tokens: int
    default_max_output_tokens: int


@dataclass(frozen=True, slots=True)
class ModelCapabilities:
    """What a model honours; a request for anything else is refused with `Unsupported`."""

    chat: bool
    reasoning: bool
    tools: bool
    constraints: bool
    adapters: bool
    logprobs: bool
    resume: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A served model.

    Attributes:
        id: What `GenerationOptions.model` takes.
        revision: The revision of its weights, such as a hub commit.
        architecture: Its name, such as `Qwen2ForCausalLM`.
        parameters: Weights in all.
        vocabulary_tokens: Token ids are below it.
        limits: Its bounds.
        capabilities: What it honours.
        quantization: How its weights are held.
        default_sampling: What a sampling option means where a request leaves it out.
        end_of_sequence_token_ids: Tokens that end a turn.
        weights_sha256: Digest of the weights manifest, hexadecimal.
        tokenizer_sha256: Digest of the tokenizer file, hexadecimal.
    """

    id: str
    revision: str
    architecture: str
    parameters: int
    vocabulary_tokens: int
    limits: ModelLimits
    capabilities: ModelCapabilities
    quantization: Quantization
    default_sampling: Sampling
    end_of_sequence_token_ids: tuple[int, ...]
    weights_sha256: str
    tokenizer_sha256: str

    @classmethod
    def from_proto(cls, proto: model_pb2.Model) -> Model:
        """Convert the message."""
        limits, can = proto.limits, proto.capabilities
        return cls(
            id=proto.id,
            revision=proto.revision,
            architecture=proto.architecture,
            parameters=proto.parameters,
            vocabulary_tokens=proto.vocabulary_tokens,
            limits=ModelLimits(limits.context_tokens, limits.max_output_tokens, limits.default_max_output_tokens),
            capabilities=ModelCapabilities(
                chat=can.chat,
                reasoning=can.reasoning,
                tools=can.tools,
                constraints=can.constraints,
                adapters=can.adapters,
                logprobs=can.logprobs,
                resume=can.resume,
            ),
            quantization=Quantization.from_proto(proto.quantization),
            default_sampling=Sampling.from_proto(proto.default_sampling),
            end_of_sequence_token_ids=tuple(proto.end_of_sequence_token_ids),
            weights_sha256=proto.weights_sha256,
            tokenizer_sha256=proto.tokenizer_sha256,
        )


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter: a fine-tuning of a served model that a request can ask for.

    Attributes:
        id: What `GenerationOptions.adapter` takes.
        rank: Of its changes; where they differ, the largest one once it is loaded. 0 = not known.
        loaded: Whether it is in memory; one that is not is loaded when a request names it, which then waits for that.
        sha256: Digest of its files, hexadecimal: another digest is another adapter. Empty = it is not loaded.
        problem: Why a request that names it will fail, as far as that is known; empty = nothing is.
    """

    id: str
    rank: int
    loaded: bool
    sha256: str
    problem: str

    @classmethod
    def from_proto(cls, proto: model_pb2.Adapter) -> Adapter:
        """Convert the message."""
        return cls(proto.id, proto.rank, proto.loaded, proto.sha256, proto.problem)


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How long a prompt is.

    Attributes:
        model: The model that counted.
        tokens: Tokens of the prompt, control tokens of the chat template included.
        context_tokens: Tokens that the model's context holds, prompt and output together.
    """

    model: str
    tokens: int
    context_tokens: int

    @classmethod
    def from_proto(cls, proto: generate_pb2.CountTokensResponse) -> TokenCount:
        """Convert the message."""
        return cls(proto.model, proto.tokens, proto.context_tokens)
