"""Turns a GenerationSpec into a GenerationRequest, or says which fields are at fault."""

from __future__ import annotations

from dataclasses import replace

from qwire.engine.constraint import Constraint
from qwire.engine.protocol import ModelCard
from qwire.engine.request import MAX_LOGIT_BIAS, MAX_LOGIT_BIASES, MAX_TOP_LOGPROBS, Envelope
from qwire.rpc.constraint import constraint_of
from qwire.rpc.fields import FieldChecker
from qwire.rpc.prompt import PromptConverter
from qwire.text.abilities import TextAbilities
from qwire.text.request import GenerationRequest, ResumePoint, SamplingOptions, StopOptions
from qwire.v1 import types_pb2 as pb

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARACTERS = 256
MAX_STOP_TOKENS = 64
MAX_LAST_SEQUENCE = 2**63
"""Far beyond any stream, and leaves room to count on in 64 bits."""

_PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: 0,
    pb.PRIORITY_LOW: -1,
    pb.PRIORITY_NORMAL: 0,
    pb.PRIORITY_HIGH: 1,
}


class SpecConverter:
    """Converts one spec for one model.

    Args:
        spec: The message.
        card: The model that it is for.
        path: Where the spec is in its request, such as `spec` or `items[2].spec`.
        abilities: What the model takes beyond plain text.
    """

    def __init__(self, spec: pb.GenerationSpec, card: ModelCard, path: str, abilities: TextAbilities) -> None:
        self._spec = spec
        self._card = card
        self._path = path
        self._checker = FieldChecker()
        self._prompt = PromptConverter(self._checker, card, path, abilities)

    def convert(self, envelope: Envelope) -> GenerationRequest:
        """Return the request.

        Args:
            envelope: Who asks; its priority is replaced by the spec's.

        Raises:
            InvalidFields: Fields are out of range, missing, unknown or not supported; all of them are told.
        """
        self._checker.only_known(self._spec, self._path)
        self._refuse_unsupported()
        prompt = self._prompt.of_spec(self._spec)
        sampling = self._sampling()
        stop = self._stop()
        resume = self._resume(stop)
        top_logprobs = self._top_logprobs()
        constraint = self._constraint()
        priority = self._priority()
        self._checker.raise_if_any()
        return GenerationRequest(
            prompt=prompt,
            envelope=replace(envelope, priority=priority),
            sampling=sampling,
            stop=stop,
            resume=resume,
            top_logprobs=top_logprobs,
            reasoning_budget_tokens=self._budget_tokens(),
            constraint=constraint,
        )

    def _refuse_unsupported(self) -> None:
        spec, path = self._spec, self._path
        if spec.adapter:
            self._checker.unsupported(f"{path}.adapter", "the model has no adapters capability")

    def _constraint(self) -> Constraint | None:
        spec, path, check = self._spec, self._path, self._checker
        if not spec.HasField("constraint"):
            return None
        if not self._card.constraints:
            check.unsupported(f"{path}.constraint", "the model has no constraints capability")
            return None
        if spec.HasField("tools"):
            check.refuse(f"{path}.constraint", "is not allowed with tools: a call would have to match it, too")
        if spec.stop.ignore_eos:
            check.refuse(f"{path}.stop.ignore_eos", "must be false with a constraint: nothing may follow its end")
        if spec.stop.min_output_tokens:
            check.refuse(f"{path}.stop.min_output_tokens", "must be 0 with a constraint, which says what may end where")
        return constraint_of(check, spec.constraint, path)

    def _top_logprobs(self) -> int | None:
        options, path, check = self._spec.output, f"{self._path}.output", self._checker
        check.only_known(options, path)
        if not options.HasField("top_logprobs"):
            return None
        check.in_range(f"{path}.top_logprobs", options.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if options.HasField("token_info") and not options.token_info:
            check.refuse(f"{path}.top_logprobs", "is reported with the tokens, which token_info = false leaves out")
        return options.top_logprobs

    def _sampling(self) -> SamplingOptions:
        options, path, check = self._spec.sampling, f"{self._path}.sampling", self._checker
        check.only_known(options, path)
        check.in_range(f"{path}.temperature", options.temperature, 0, 10)
        if options.HasField("top_p"):
            check.in_range(f"{path}.top_p", options.top_p, 0, 1, above=True)
        check.in_range(f"{path}.min_p", options.min_p, 0, 1)
        if options.HasField("repetition_penalty"):
            check.in_range(f"{path}.repetition_penalty", options.repetition_penalty, 0, 10, above=True)
        check.in_range(f"{path}.presence_penalty", options.presence_penalty, -2, 2)
        check.in_range(f"{path}.frequency_penalty", options.frequency_penalty, -2, 2)
        return SamplingOptions(
            temperature=options.temperature if options.HasField("temperature") else None,
            top_k=options.top_k if options.HasField("top_k") else None,
            top_p=options.top_p if options.HasField("top_p") else None,
            min_p=options.min_p if options.HasField("min_p") else None,
            repetition_penalty=options.repetition_penalty if options.HasField("repetition_penalty") else None,
            presence_penalty=options.presence_penalty if options.HasField("presence_penalty") else None,
            frequency_penalty=options.frequency_penalty if options.HasField("frequency_penalty") else None,
            seed=options.seed if options.HasField("seed") else None,
            logit_bias=self._logit_bias(f"{path}.logit_bias") or None,
        )

    def _logit_bias(self, path: str) -> tuple[tuple[int, float], ...]:
        biases, check = self._spec.sampling.logit_bias[:MAX_LOGIT_BIASES], self._checker
        if len(self._spec.sampling.logit_bias) > MAX_LOGIT_BIASES:
            check.refuse(path, f"at most {MAX_LOGIT_BIASES} tokens may have a bias")
        seen = set[int]()
        for index, one in enumerate(biases):
            check.only_known(one, f"{path}[{index}]")
            check.in_range(f"{path}[{index}].bias", one.bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
            if one.token_id >= self._card.vocabulary_tokens:
                size = self._card.vocabulary_tokens
                check.refuse(f"{path}[{index}].token_id", f"must be below the vocabulary's size, {size}")
            elif one.token_id in seen:
                check.refuse(f"{path}[{index}].token_id", "must not have a bias before")
            seen.add(one.token_id)
        return tuple((one.token_id, one.bias) for one in biases)

    def _stop(self) -> StopOptions:
        options, path, check = self._spec.stop, f"{self._path}.stop", self._checker
        check.only_known(options, path)
        limit = self._card.max_output_tokens
        if options.HasField("max_output_tokens"):
            check.in_range(f"{path}.max_output_tokens", options.max_output_tokens, 1, limit)
            limit = min(limit, options.max_output_tokens)
        check.in_range(f"{path}.min_output_tokens", options.min_output_tokens, 0, limit)
        if len(options.stop_strings) > MAX_STOP_STRINGS:
            check.refuse(f"{path}.stop_strings", f"at most {MAX_STOP_STRINGS} stop strings are allowed")
        for index, string in enumerate(options.stop_strings[:MAX_STOP_STRINGS]):
            if not 1 <= len(string) <= MAX_STOP_STRING_CHARACTERS:
                check.refuse(f"{path}.stop_strings[{index}]", f"must have 1 to {MAX_STOP_STRING_CHARACTERS} characters")
        if len(options.stop_token_ids) > MAX_STOP_TOKENS:
            check.refuse(f"{path}.stop_token_ids", f"at most {MAX_STOP_TOKENS} stop tokens are allowed")
        stop_token_ids = options.stop_token_ids[:MAX_STOP_TOKENS]
        check.in_vocabulary(f"{path}.stop_token_ids", stop_token_ids, self._card.vocabulary_tokens)
        return StopOptions(
            max_output_tokens=options.max_output_tokens if options.HasField("max_output_tokens") else None,
            min_output_tokens=options.min_output_tokens,
            stop_strings=tuple(options.stop_strings),
            stop_token_ids=frozenset(stop_token_ids),
            ignore_eos=options.ignore_eos,
        )

    def _resume(self, stop: StopOptions) -> ResumePoint | None:
        if not self._spec.HasField("resume"):
            return None
        point, path, check = self._spec.resume, f"{self._path}.resume", self._checker
        check.only_known(point, path)
        limit = stop.max_output_tokens or self._card.max_output_tokens
        if not 1 <= len(point.output_token_ids) <= limit:
            check.refuse(f"{path}.output_token_ids", "must have at least one token id and at most max_output_tokens")
        token_ids = tuple(point.output_token_ids[:limit])
        check.in_vocabulary(f"{path}.output_token_ids", token_ids, self._card.vocabulary_tokens)
        if point.last_sequence >= MAX_LAST_SEQUENCE:
            check.refuse(f"{path}.last_sequence", "must be below 2^63")
        return ResumePoint(token_ids, point.last_sequence)

    def _budget_tokens(self) -> int | None:
        reasoning = self._spec.reasoning
        return reasoning.budget_tokens if reasoning.HasField("budget_tokens") else None

    def _priority(self) -> int:
        priority = _PRIORITIES.get(self._spec.priority)
        if priority is None:
            self._checker.refuse(f"{self._path}.priority", "must be a value of qwire.v1.Priority")
            return 0
        return priority
