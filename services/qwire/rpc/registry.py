"""The models that a server serves, and those that it is still waiting for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qwire.engine.protocol import Engine, ModelCard
from qwire.rpc.errors import ModelNotFound, ModelNotReady
from qwire.text.abilities import TextAbilities
from qwire.text.generator import Generator


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model, ready to be asked.

    Attributes:
        card: What it is.
        generator: Generates text with it.
        engine: Generates tokens with it.
    """

    card: ModelCard
    generator: Generator
    engine: Engine

    @property
    def abilities(self) -> TextAbilities:
        """What it takes and says beyond plain text."""
        return self.generator.abilities


class ModelRegistry:
    """Models by id. Used from one event loop.

    Args:
        expected: Ids of models that will be added later; until then they are not ready rather than not found.
        models: Models that are there from the start.
    """

    def __init__(self, expected: Iterable[str] = (), models: Iterable[ServedModel] = ()) -> None:
        self._models: dict[str, ServedModel | None] = dict.fromkeys(expected)
        self._listeners: list[Callable[[ServedModel], None]] = []
        for model in models:
            self.add(model)

    def add(self, model: ServedModel) -> None:
        """Serve a model from now on.

        Raises:
            ValueError: A model of this id is served already.
        """
        model_id = model.card.model_id
        if self._models.get(model_id) is not None:
            raise ValueError(f"a model with the id {model_id!r} is served already")
        self._models[model_id] = model
        for listener in self._listeners:
            listener(model)

    def listen(self, listener: Callable[[ServedModel], None]) -> None:
        """Call `listener` for each model: at once for those that are there, later for those that are added."""
        self._listeners.append(listener)
        for model in self.all():
            listener(model)

    def get(self, model_id: str) -> ServedModel:
        """Return a model.

        Args:
            model_id: Its id; empty = the only one.

        Raises:
            ModelNotFound: No such model is served or expected, or the id is empty and there are several.
            ModelNotReady: The model is still being loaded, or nothing is known of any model yet.
        """
        if not self._models:
            raise ModelNotReady
        if not model_id and len(self._models) == 1:
            model_id = next(iter(self._models))
        if model_id not in self._models:
            raise ModelNotFound(model_id)
        model = self._models[model_id]
        if model is None:
            raise ModelNotReady
        return model

    def all(self) -> tuple[ServedModel, ...]:
        """Return every served model, ordered by id."""
        return tuple(model for _, model in sorted(self._models.items()) if model is not None)

    def ids(self) -> tuple[str, ...]:
        """Return the ids of every served or expected model, in order."""
        return tuple(sorted(self._models))
