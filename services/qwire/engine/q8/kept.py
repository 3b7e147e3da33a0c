"""Quantized weights, kept on disk from one start to the next."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from qwire.engine.q8.build import sources_sha256
from qwire.engine.q8.kernel import Q8Arithmetic, Q8Matrix
from qwire.engine.weight_files import WeightFiles
from qwire.models.errors import ModelError
from qwire.models.file_lock import locked_if_free
from qwire.models.manifest import Manifest
from qwire.telemetry.logging import get_logger

log = get_logger(__name__)

_FORMAT = 1
"""To be raised when the loader names, joins or converts weights otherwise, or `_Facts` changes."""
_FACTS = "facts.json"
_STALE_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class _Facts:
    """What reading the weights told of them; see `WeightFiles`."""

    parameters: int
    non_finite: int


class KeptMatrices:
    """Quantizes the matrices of one checkpoint, or takes them as an earlier start left them.

    They lie in a folder of their own, a file for each, with a manifest of their digests; where one differs, all are
    made again. The folder's name tells weights, configuration and the code that quantizes, so that others are never
    taken for them; all CPUs make the same of them. One process at a time makes them, and the others meanwhile go
    without. Where nothing can be written or read, the log says so, and that is all.

    Args:
        arithmetic: Quantizes.
        folder: Where such folders lie; made when needed. Several processes and machines may share it.
        weights_sha256: See `Checkpoint.weights_sha256`.
        config: The content of `config.json`.
    """

    def __init__(self, arithmetic: Q8Arithmetic, folder: Path, weights_sha256: str, config: bytes) -> None:
        facts = (weights_sha256, hashlib.sha256(config).hexdigest(), sources_sha256(), str(_FORMAT))
        self._arithmetic = arithmetic
        self._weights = weights_sha256[:16]
        self._folder = folder / f"{self._weights}-{hashlib.sha256(' '.join(facts).encode()).hexdigest()[:32]}"
        self._making = self._folder.with_suffix(".making")
        self._scratch: Path | None = None
        self._lock = ExitStack()
        self._facts = self._read_facts()
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
                log.warning("packed_weights_unusable", matrix=name, reason=str(error))
        matrix = self._arithmetic.pack(read(), bias)
        if self._scratch is not None:
            try:
                tensors = {"values": matrix.values, "scales": matrix.scales}
                shape = {"rows": str(matrix.rows), "columns": str(matrix.columns)}
                save_file(tensors, self._scratch / f"{name}.safetensors", shape)
            except Exception as error:  # noqa: BLE001 - safetensors' own, where the disk is full
                self._give_up(str(error))
        return matrix

    def finish(self, files: WeightFiles) -> None:
        """Keep what was quantized, now that all of it is there; or tell `files` of the weights that were not read."""
        if self._facts is not None:
            files.parameters, files.non_finite = self._facts.parameters, self._facts.non_finite
        elif self._scratch is not None:
            try:
                self._complete(self._scratch, _Facts(files.parameters, files.non_finite))
            except OSError as error:
                self._give_up(str(error))
        self._lock.close()
        self._forget_others()

    def abandon(self) -> None:
        """Keep nothing, as loading failed."""
        self._give_up("loading failed")
        self._lock.close()

    def _read_facts(self) -> _Facts | None:
        """Return what was kept; None = nothing usable was."""
        try:
            manifest = Manifest.read(self._folder)
            if manifest is None:
                return None
            manifest.verify(self._folder)
            facts = _Facts(**json.loads((self._folder / _FACTS).read_bytes()))
        except (ModelError, OSError, ValueError, TypeError) as error:
            log.warning("packed_weights_unusable", reason=str(error))
            return None
        with suppress(OSError):  # another user's; see `_forget_others`
            os.utime(self._folder)
        return facts

    def _restored(self, path: Path, bias: Tensor | None) -> Q8Matrix:
        file: Any
        with safe_open(path, framework="pt") as file:
            shape = file.metadata()
            matrix = Q8Matrix(self._arithmetic.library, int(shape["rows"]), int(shape["columns"]), bias)
            matrix.copy_from(file.get_tensor("values"), file.get_tensor("scales"))
        return matrix

    def _begin(self) -> None:
        """Make a folder to write to, which gets its name when it is complete."""
        try:
            if not self._lock.enter_context(locked_if_free(self._folder.with_suffix(".lock"))):
                log.info("packed_weights_not_kept", reason="another process makes them")
                return
            self._facts = self._read_facts()  # one was faster
            if self._facts is not None:
                return
            shutil.rmtree(self._making, ignore_errors=True)  # of one that was killed
            self._making.mkdir()
            self._scratch = self._making
        except OSError as error:
            self._give_up(str(error))

    def _complete(self, scratch: Path, facts: _Facts) -> None:
        (scratch / _FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")
        Manifest.describe(scratch).write(scratch)
        readable = scratch.stat().st_mode & 0o666  # safetensors lets nobody else read
        for path in scratch.iterdir():
            path.chmod(readable)
        shutil.rmtree(self._folder, ignore_errors=True)  # what is there was not usable
        scratch.rename(self._folder)
        log.info("packed_weights_kept", folder=self._folder.name)

    def _give_up(self, reason: str) -> None:
        log.info("packed_weights_not_kept", reason=reason)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch = None

    def _forget_others(self) -> None:
        """Remove what other code made of these weights and no start has used for a week."""
        with suppress(OSError):  # it may not be looked at; or somebody else does the same
            for path in self._folder.parent.glob(f"{self._weights}-*"):
                if path.stem != self._folder.name and time.time() - path.stat().st_mtime > _STALE_S:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
