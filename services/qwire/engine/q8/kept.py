"""Quantized weights, kept on disk from one start to the next."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from qwire.engine.q8.build import sources_sha256
from qwire.engine.q8.kernel import Q8Arithmetic, Q8Matrix
from qwire.engine.resident import release_mapped
from qwire.engine.weight_files import WeightFiles
from qwire.models.errors import ModelError
from qwire.models.manifest import Manifest
from qwire.telemetry.logging import get_logger

log = get_logger(__name__)

_FACTS = "facts.json"
_DIGITS = 16
_STALE_S = 86400.0  # no start takes as long


@dataclass(frozen=True, slots=True)
class _Facts:
    """What reading the weights told of them; see `WeightFiles`."""

    parameters: int
    non_finite: int


class KeptMatrices:
    """Quantizes the matrices of one checkpoint, or takes them as an earlier start left them.

    They lie in a folder of their own, a file for each, with a manifest of their digests; where one differs, all are
    made again. The folder's name tells the weights and the code that quantizes, so that others are never taken for
    them; all CPUs make the same of them. A folder appears as a whole. Where it cannot be written or read, the log says
    so, and that is all.

    Args:
        arithmetic: Quantizes.
        folder: Where such folders lie; made when needed. Several processes and machines may share it.
        weights_sha256: See `Checkpoint.weights_sha256`.
    """

    def __init__(self, arithmetic: Q8Arithmetic, folder: Path, weights_sha256: str) -> None:
        self._arithmetic = arithmetic
        self._weights = weights_sha256[:_DIGITS]
        self._folder = folder / f"{self._weights}-{sources_sha256()[:_DIGITS]}"
        self._facts = self._read_facts()
        self._scratch: Path | None = None
        if self._facts is None:
            self._begin()

    def matrix(self, name: str, read: Callable[[], Tensor], bias: Tensor | None = None) -> Q8Matrix:
        """Return a matrix.

        Args:
            name: Names it; another one for each matrix.
            read: Returns its weight `[rows, columns]`, float32; called only where it was not kept.
            bias: `[rows]`; None = none.
        """
        if self._facts is not None:
            try:
                return self._restored(self._folder / f"{name}.safetensors", bias)
            except Exception as error:  # noqa: BLE001 - safetensors' own too: it was removed meanwhile
                log.warning("packed_weights_unusable", reason=str(error))
        matrix = self._arithmetic.pack(read(), bias)
        if self._scratch is not None:
            try:
                tensors = {"values": matrix.values, "scales": matrix.scales}
                shape = {"rows": str(matrix.rows), "columns": str(matrix.columns)}
                save_file(tensors, self._scratch / f"{name}.safetensors", shape)
            except Exception as error:  # noqa: BLE001 - safetensors' own, where the disk is full
                self._give_up(error)
        return matrix

    def finish(self, files: WeightFiles) -> None:
        """Keep what was quantized, now that all of it is there; or tell `files` of the weights that were not read."""
        if self._facts is not None:
            files.parameters, files.non_finite = self._facts.parameters, self._facts.non_finite
        elif self._scratch is not None:
            try:
                facts = _Facts(files.parameters, files.non_finite)
                (self._scratch / _FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")
                Manifest.describe(self._scratch).write(self._scratch)
                shutil.rmtree(self._folder, ignore_errors=True)  # what is there was not usable
                self._scratch.rename(self._folder)
                self._forget_others()
            except OSError as error:  # or another process was faster
                self._give_up(error)

    def _read_facts(self) -> _Facts | None:
        """Return what was kept; None = nothing usable was."""
        try:
            manifest = Manifest.read(self._folder)
            if manifest is None:
                return None
            manifest.verify(self._folder)
            os.utime(self._folder)  # see `_forget_others`
            return _Facts(**json.loads((self._folder / _FACTS).read_bytes()))
        except (ModelError, OSError) as error:
            log.warning("packed_weights_unusable", reason=str(error))
            return None

    def _restored(self, path: Path, bias: Tensor | None) -> Q8Matrix:
        file: Any
        with safe_open(path, framework="pt") as file:
            shape = file.metadata()
            matrix = Q8Matrix(self._arithmetic.library, int(shape["rows"]), int(shape["columns"]), bias)
            values, scales = file.get_tensor("values"), file.get_tensor("scales")
            matrix.copy_from(values, scales)
            release_mapped(values)
        return matrix

    def _begin(self) -> None:
        """Make a folder to write to, which gets its name when it is complete."""
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._scratch = Path(tempfile.mkdtemp(dir=self._folder.parent, prefix=f"{self._weights}-making-"))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.info("packed_weights_not_kept", reason=str(error))
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch = None

    def _forget_others(self) -> None:
        """Remove what other code made of these weights and has not used for long, and what was left unfinished."""
        for path in self._folder.parent.glob(f"{self._weights}-*"):
            if path != self._folder and time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)
