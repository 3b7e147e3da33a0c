"""What can go wrong between a model's name and a checkpoint that is safe to load.

ModelError
├── InvalidModelName     the caller's: the name is no catalogue id, folder or hub name
├── ModelNotFound        the caller's: the name is well formed, but nothing answers to it
├── DownloadFailed       nobody's: no source delivered the file; another try may succeed
├── ChecksumMismatch     the bytes are not the published ones: truncated, corrupted or tampered with
├── UnsafeFiles          the folder wants pickled weights, its own code, or files outside of it
├── IncompleteCheckpoint the folder lacks a file that serving needs
└── ConversionFailed     the published file is not one that this version can convert

All of them say in their text what to do next. All of them survive pickling, since they cross processes.
"""

from __future__ import annotations


class ModelError(Exception):
    """Base of everything that this room raises on purpose."""


class InvalidModelName(ModelError):
    """The name is not a catalogue id, a folder, or a hub name: the caller must change it."""


class ModelNotFound(ModelError):
    """The name is well formed, but there is no such model or folder."""


class DownloadFailed(ModelError):
    """No source delivered the file. What arrived is kept, and the next try goes on from there."""


class ChecksumMismatch(ModelError):
    """The bytes on disk are not the published ones; nothing was loaded."""


class UnsafeFiles(ModelError):
    """The folder holds what is never loaded: pickled weights alone, Python code, links that lead out of it."""


class IncompleteCheckpoint(ModelError):
    """The folder lacks a file that serving needs."""


class ConversionFailed(ModelError):
    """The published file cannot be converted: an architecture, a tensor or a format that is not known here."""
