"""Turns an OutputConstraint into what the engine takes, or says which fields are at fault."""

from __future__ import annotations

from qwire.engine.constraint import Constraint, ConstraintKind
from qwire.engine.errors import InvalidRequest
from qwire.rpc.fields import FieldChecker
from qwire.v1 import types_pb2 as pb


def constraint_of(check: FieldChecker, message: pb.OutputConstraint, path: str) -> Constraint | None:
    """Return the constraint, unless a violation was noted. Whether it can be used, the engine finds out.

    Args:
        check: Where violations are noted.
        message: The message.
        path: Where the spec is that has it.
    """
    check.only_known(message, f"{path}.constraint")
    name = message.WhichOneof("constraint")
    if name is None:
        check.refuse(f"{path}.constraint", "is empty: set one of its fields")
        return None
    constraint = Constraint(ConstraintKind(name))
    if name == "choice":
        check.only_known(message.choice, f"{path}.constraint.choice")
        constraint = Constraint(constraint.kind, choices=tuple(message.choice.choices))
    elif name == "json_object":
        if not message.json_object:
            check.refuse(f"{path}.constraint.json_object", "must be true; leave the constraint out for any output")
    else:
        constraint = Constraint(constraint.kind, getattr(message, name))
    try:
        constraint.check()
    except InvalidRequest as error:
        check.refuse(f"{path}.{error.field}", error.description)
    return constraint
