"""Turns a published GGUF file into a checkpoint folder, once.

Dequantizing the file directly takes a few seconds where loading it through transformers and saving it again takes more
than a minute; the values are the same bit for bit, which a test shows on a small model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from qwire.models.catalogue import CatalogueEntry, GenerationDefaults
from qwire.models.errors import ConversionFailed
from qwire.models.gguf_file import GGUFFile
from qwire.models.gguf_tokenizer import write_tokenizer
from qwire.models.gguf_weights import model_config, weights_bytes, write_weights
from qwire.models.manifest import Manifest, Origin

CONVERTER_VERSION = 1
"""Raised whenever the same file would become different bytes; every cache then converts again."""


def convert(entry: CatalogueEntry, source: Path, folder: Path, report: Callable[[int], None]) -> None:
    """Make the checkpoint folder of a catalogue entry; it appears whole or not at all.

    Args:
        entry: What `source` is.
        source: The published file, already verified.
        folder: Where the result goes; must not exist. Its parent is created.
        report: Called with the bytes of weights written so far.

    Raises:
        ConversionFailed: The file is not one that can be converted, or the disk is too full for the result.
    """
    file = GGUFFile(source)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        _check_space(unfinished, weights_bytes(file))
        _write(entry, file, unfinished, report)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def converted_bytes(source: Path) -> int:
    """How many bytes `convert` will report in the end."""
    return weights_bytes(GGUFFile(source))


def _check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ConversionFailed(
            f"the converted model needs {needed_bytes / 1e9:.1f} GB and {folder.parent} has {free_bytes / 1e9:.1f} GB "
            "free: make room, or choose another cache folder."
        )


def _write(entry: CatalogueEntry, file: GGUFFile, folder: Path, report: Callable[[int], None]) -> None:
    config = model_config(file, entry.generation.eos_token_ids[0], entry.generation.pad_token_id)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", _generation_config(entry.generation))
    write_tokenizer(file, folder)
    write_weights(file, folder, report)
    origin = Origin(
        model_id=entry.id,
        revision=entry.hub_revision,
        source_format=entry.source_format,
        source_file=entry.file.name,
        source_sha256=entry.file.sha256,
        converter_version=CONVERTER_VERSION,
    )
    Manifest.describe(folder, origin).write(folder)


def _generation_config(defaults: GenerationDefaults) -> dict[str, object]:
    return {
        "bos_token_id": defaults.pad_token_id,
        "do_sample": True,
        "eos_token_id": list(defaults.eos_token_ids),
        "pad_token_id": defaults.pad_token_id,
        "repetition_penalty": defaults.repetition_penalty,
        "temperature": defaults.temperature,
        "top_k": defaults.top_k,
        "top_p": defaults.top_p,
    }


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
