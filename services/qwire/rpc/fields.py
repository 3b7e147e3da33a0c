"""Collects what is wrong with the fields of one message, so that a caller learns of everything at once."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from qwire.rpc.errors import FieldReason, FieldViolation, InvalidFields


class FieldChecker:
    """The violations found so far in one message and what is below it."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def refuse(self, field: str, description: str, reason: FieldReason = FieldReason.INVALID) -> None:
        """Note a violation.

        Args:
            field: The field's path from the request message.
            description: What is wrong and what is allowed, without the value that was sent.
            reason: Why it is refused.
        """
        self._violations.append(FieldViolation(field, description, reason))

    def unsupported(self, field: str, description: str) -> None:
        """Note a field that asks for something that is not done here."""
        self.refuse(field, description, FieldReason.UNSUPPORTED)

    def only_known(self, message: Message, path: str) -> None:
        """Refuse fields that this server's contract does not have.

        A newer client may set a field that an older server has never heard of. Proto3 would have it ignored, and the
        caller would get an answer to another question than the one asked; here nothing is ignored.

        Args:
            message: Looked at alone, without the messages below it.
            path: Where the message is; empty for the request message itself.
        """
        numbers = {unknown.field_number for unknown in UnknownFieldSet(message)}
        for number in sorted(numbers):
            self.unsupported(f"{path}.{number}".lstrip("."), f"this server knows no field with the number {number}")

    def in_range(self, field: str, value: float, low: float, high: float, *, above: bool = False) -> None:
        """Refuse a value outside [low, high], or outside (low, high] with `above`. NaN is outside."""
        if not (low < value <= high if above else low <= value <= high):
            self.refuse(field, f"must be in {'(' if above else '['}{low:g}, {high:g}]")

    def in_vocabulary(self, field: str, token_ids: Sequence[int], vocabulary_tokens: int) -> None:
        """Refuse the first of the token ids that is not below the vocabulary's size."""
        if token_ids and max(token_ids) >= vocabulary_tokens:
            index = next(index for index, token_id in enumerate(token_ids) if token_id >= vocabulary_tokens)
            self.refuse(f"{field}[{index}]", f"must be below the vocabulary's size, {vocabulary_tokens}")

    def raise_if_any(self) -> None:
        """Raise what was found.

        Raises:
            InvalidFields: Something was.
        """
        if self._violations:
            raise InvalidFields(tuple(self._violations))


def require_known(message: Message) -> None:
    """Refuse a request message, looked at alone, that has fields unknown to this server.

    Raises:
        InvalidFields: It has.
    """
    checker = FieldChecker()
    checker.only_known(message, "")
    checker.raise_if_any()
