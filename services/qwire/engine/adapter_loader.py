"""Turns an adapter's files into changes of a loaded model, and refuses what does not fit it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from qwire.engine.adapter import ADAPTABLE, Adapter, Projections
from qwire.engine.adapter_config import AdapterConfig
from qwire.engine.adapter_folder import WEIGHTS_FILE, AdapterSource
from qwire.engine.arithmetic import Product
from qwire.engine.errors import AdapterUnusable
from qwire.engine.loader import LoadedModel
from qwire.engine.low_rank import LowRank

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")


class AdapterLoader:
    """Loads adapters for one model.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    def load(self, source: AdapterSource) -> Adapter:
        """Read, check and place an adapter. Blocks for as long as its files take to read.

        Raises:
            AdapterUnusable: It cannot be applied to this model; says why.
        """
        files = source.read()
        config = AdapterConfig.parse(source.adapter_id, files.config)
        try:
            tensors = load(files.weights)
        except (SafetensorError, KeyError):  # the latter for types that torch does not have
            raise AdapterUnusable(source.adapter_id, f"its {WEIGHTS_FILE} is damaged or incomplete") from None
        halves = _Halves(source.adapter_id, tensors, self._loaded.linear_shapes)
        halves.check(config)
        changes = {module: self._change(halves, module, config) for module in halves.modules}
        return Adapter(
            adapter_id=source.adapter_id,
            sha256=files.sha256,
            rank=max(config.rank_of(module) for module in changes),
            changes=dict(self._products(changes)),
        )

    def _change(self, halves: _Halves, module: str, config: AdapterConfig) -> LowRank:
        down, up = halves.of(module)
        device, dtype = self._loaded.device, self._loaded.dtype
        # Scaled in float32, and rounded to what the model computes in once.
        return LowRank(down.to(device, dtype), (up.float() * config.scale_of(module)).to(device, dtype))

    def _products(self, changes: Mapping[str, LowRank]) -> Iterator[tuple[tuple[int, Projections], Product]]:
        """Join the changes of what the model computes as one."""
        for layer in range(self._loaded.config.layers):
            for product in self._loaded.decoder.products:
                modules = [f"model.layers.{layer}.{projection}" for projection in product]
                if any(module in changes for module in modules):
                    rows = [self._loaded.linear_shapes[module][0] for module in modules]
                    parts = [changes.get(module, count) for module, count in zip(modules, rows, strict=True)]
                    yield (layer, product), LowRank.stacked(parts).product(self._loaded.exact)


class _Halves:
    """The tensors of an adapter, two for each module that it changes.

    Attributes:
        modules: Those modules.
    """

    def __init__(self, adapter_id: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]) -> None:
        self._adapter_id = adapter_id
        self._shapes = shapes
        self._halves: dict[str, dict[str, Tensor]] = {}
        for name, tensor in sorted(tensors.items()):
            match = _TENSOR.fullmatch(name)
            if match is None:
                raise self._unusable(f"its tensor {name[:128]} is not one of LoRA's")
            self._halves.setdefault(match["module"], {})[match["half"]] = tensor
        if not self._halves:
            raise self._unusable("it has no tensors")
        self.modules = tuple(self._halves)

    def of(self, module: str) -> tuple[Tensor, Tensor]:
        """Return the two tensors of a module: `[rank, columns]` and `[rows, rank]`."""
        return self._halves[module]["A"], self._halves[module]["B"]

    def check(self, config: AdapterConfig) -> None:
        """Raise AdapterUnusable where the tensors do not fit the model or the configuration."""
        for module, halves in self._halves.items():
            shape = self._shapes.get(module)
            if shape is None:
                raise self._unusable(
                    f"it changes {module[:128]}; what can be changed in this model are {', '.join(self._projections())}"
                )
            if halves.keys() != {"A", "B"}:
                raise self._unusable(f"one of the two tensors of {module} is missing")
            rows, columns = shape
            rank = config.rank_of(module)
            for half, expected in (("A", (rank, columns)), ("B", (rows, rank))):
                self._check_tensor(f"{module}.lora_{half}", halves[half], expected)
        if config.targets is not None:
            self._check_targets(config)

    def _check_tensor(self, name: str, tensor: Tensor, expected: tuple[int, int]) -> None:
        if tuple(tensor.shape) != expected:
            raise self._unusable(f"{name} has the shape {list(tensor.shape)}; this model takes {list(expected)}")
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise self._unusable(f"{name} is of the type {tensor.dtype}; it must be float32, float16 or bfloat16")
        if not tensor.isfinite().all():
            raise self._unusable(f"{name} has values that are not finite")

    def _check_targets(self, config: AdapterConfig) -> None:
        for target in config.targets or ():
            if not any(module == target or module.endswith(f".{target}") for module in self._shapes):
                raise self._unusable(
                    f"its target_modules name {target[:128]}; what can be changed in this model are "
                    f"{', '.join(self._projections())}"
                )
        for module in self._shapes:
            if config.is_target(module) != (module in self._halves):
                raise self._unusable(f"its target_modules and its tensors disagree about {module}")

    def _projections(self) -> list[str]:
        return [name for name in ADAPTABLE if any(module.endswith(f".{name}") for module in self._shapes)]

    def _unusable(self, description: str) -> AdapterUnusable:
        return AdapterUnusable(self._adapter_id, description)
