"""What an output must match."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from qwire.engine.errors import InvalidRequest

MAX_CONSTRAINT_CHARACTERS = 65_536
MAX_CHOICES = 1024


class ConstraintKind(Enum):
    """In which notation a constraint is given. The values are the fields of `qwire.v1.OutputConstraint`."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the whole output must match. A turn can end only where it does, and must end where nothing can follow.

    An output that is cut short, by its limit, a stop token or a stop string, is the beginning of one that matches.

    Attributes:
        kind: The notation.
        text: A JSON Schema, a regular expression or a Lark grammar; empty for the other kinds.
        choices: The allowed outputs, for CHOICE.
        after_token_id: The constraint begins after this token has been drawn for the first time; until then anything
            may be said, except the end of the turn. None = it begins at once.
        opening_token_id: Only an output that begins with this token has anything in front of `after_token_id`; in any
            other the constraint begins at once. None = every output has.
    """

    kind: ConstraintKind
    text: str = ""
    choices: tuple[str, ...] = ()
    after_token_id: int | None = None
    opening_token_id: int | None = None

    @property
    def field(self) -> str:
        """Where it stands in a `qwire.v1.GenerationSpec`."""
        return f"constraint.{self.kind.value}"

    def check(self) -> None:
        """Check its size; whether it can be used shows when it is compiled.

        Raises:
            InvalidRequest: It is empty, or too large.
        """
        if self.kind is ConstraintKind.CHOICE:
            if not 1 <= len(self.choices) <= MAX_CHOICES:
                raise InvalidRequest(f"{self.field}.choices", f"must be 1 to {MAX_CHOICES}")
            if not all(self.choices):
                raise InvalidRequest(f"{self.field}.choices", "must each have at least one character")
        elif self.kind is not ConstraintKind.JSON_OBJECT and not self.text:
            raise InvalidRequest(self.field, "must not be empty")
        if len(self.text) + sum(map(len, self.choices)) > MAX_CONSTRAINT_CHARACTERS:
            raise InvalidRequest(self.field, f"must have at most {MAX_CONSTRAINT_CHARACTERS} characters")
