"""What an adapter's `adapter_config.json` says, in the format of peft. What is not applied is refused, not ignored."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwire.engine.errors import AdapterUnusable

CONFIG_FILE = "adapter_config.json"

_READ = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "bias"}
    | {"layers_to_transform", "layers_pattern", "exclude_modules", "init_lora_weights", "task_type"}
)
# They tell of the training, or of how peft itself works; what the adapter computes is the same whatever they say.
_WITHOUT_EFFECT = frozenset(
    {"auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode", "lora_dropout"}
    | {"loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size"}
    | {"runtime_config", "ensure_weight_tying"}
)
# Other ways to begin a training change the base model's weights, and the adapter is worth nothing without that change.
_INITIALIZATIONS = (True, False, "gaussian", "orthogonal", "eva", None)
_PLAIN_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The facts of `adapter_config.json`.

    Attributes:
        rank: Of the changes, at least 1.
        alpha: The changes are scaled by `alpha / rank` (LoRA, Hu et al. 2021).
        rank_stabilized: Scaled by `alpha / sqrt(rank)` instead (rsLoRA, Kalajdzievski 2023).
        ranks: Other ranks, by module.
        alphas: Other alphas, by module.
        targets: The modules that it changes; None = it names them by a pattern, and its weights tell.
    """

    rank: int
    alpha: float
    rank_stabilized: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: tuple[str, ...] | None

    @classmethod
    def parse(cls, adapter_id: str, content: bytes) -> AdapterConfig:
        """Read the file's content.

        Raises:
            AdapterUnusable: It is malformed, or asks for something that is not applied here.
        """
        try:
            config = json.loads(content)
        except (ValueError, RecursionError):
            raise AdapterUnusable(adapter_id, f"{CONFIG_FILE} is not JSON") from None
        if not isinstance(config, dict):
            raise AdapterUnusable(adapter_id, f"{CONFIG_FILE} is not a JSON object")
        return _Reader(adapter_id, config).read()

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's change."""
        return next((rank for name, rank in self.ranks.items() if _names(name, module)), self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor of a module's change."""
        alpha = next((alpha for name, alpha in self.alphas.items() if _names(name, module)), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def is_target(self, module: str) -> bool:
        """Say whether `targets`, which is there, has a module."""
        return any(_names(target, module) for target in self.targets or ())


def _names(name: str, module: str) -> bool:
    """Say whether a name of the configuration means a module: its path, or the end of it."""
    return module == name or module.endswith(f".{name}")


class _Reader:
    def __init__(self, adapter_id: str, config: Mapping[str, Any]) -> None:
        self._adapter_id = adapter_id
        self._config = config

    def read(self) -> AdapterConfig:
        self._refuse_unsupported()
        return AdapterConfig(
            rank=self._rank("r", self._config.get("r")),
            alpha=self._number("lora_alpha", self._config.get("lora_alpha")),
            rank_stabilized=self._config.get("use_rslora") is True,
            ranks={name: self._rank("rank_pattern", value) for name, value in self._pattern("rank_pattern")},
            alphas={name: self._number("alpha_pattern", value) for name, value in self._pattern("alpha_pattern")},
            targets=self._targets(),
        )

    def _refuse_unsupported(self) -> None:
        config = self._config
        if config.get("peft_type") != "LORA":
            raise self._unusable("its peft_type is not LORA")
        if config.get("bias", "none") != "none":
            raise self._unusable("it changes biases; bias must be none")
        if config.get("init_lora_weights", True) not in _INITIALIZATIONS:
            raise self._unusable(
                "its init_lora_weights changes the base model; save it with path_initial_model_for_weight_conversion"
            )
        for name, value in sorted(config.items()):
            if name not in _READ | _WITHOUT_EFFECT and value:
                raise self._unusable(f"it uses {name[:64]}, which is not supported")

    def _targets(self) -> tuple[str, ...] | None:
        targets = self._config.get("target_modules")
        if isinstance(targets, str):
            return None
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise self._unusable("its target_modules are neither a list of names nor a pattern")
        # Which of a module's layers are meant, and which modules are not, only peft can tell.
        restricted = any(self._config.get(name) for name in ("exclude_modules", "layers_pattern"))
        return None if restricted or self._config.get("layers_to_transform") is not None else tuple(targets)

    def _pattern(self, key: str) -> list[tuple[str, Any]]:
        pattern = self._config.get(key) or {}
        if not isinstance(pattern, dict):
            raise self._unusable(f"its {key} is not a JSON object")
        for name in pattern:
            if not _PLAIN_MODULE.fullmatch(name):
                raise self._unusable(f"its {key} has a regular expression; only names of modules are supported")
        return list(pattern.items())

    def _rank(self, key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._unusable(f"its {key} is not a whole number above 0")
        return value

    def _number(self, key: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self._unusable(f"its {key} is not a finite number")
        return float(value)

    def _unusable(self, description: str) -> AdapterUnusable:
        return AdapterUnusable(self._adapter_id, description)
