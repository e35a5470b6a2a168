"""Every error this package raises on purpose.

GritError
├── ModelLoadError            a checkpoint, tokenizer or device that cannot be used as asked
├── PromptError               text or messages that cannot become a prompt (also ValueError)
│   ├── EmptyTextError        nothing to read
│   └── ContextOverflowError  longer than the model's window
├── OptionError               an option or its value that does not exist (also ValueError)
├── CacheError                a KV cache store that cannot be used as asked
│   ├── CacheCorruptError     a stored block that is torn, altered or foreign (raised with strict=True only)
│   └── CacheFullError        a block that the disk or the size limit has no room for (strict=True only)
├── RerankError               a model whose scores put nothing in order
├── CollectionMismatchError   stored vectors that another model made (also ValueError)
├── IngestError               a file that cannot be read as text
├── ConfigError               a training recipe that cannot be run (also ValueError)
├── DataError                 a line of training data that is wrong (also ValueError)
├── TrainingDivergedError     a loss or gradient that is not a number
└── MissingExtraError         an optional dependency that is not installed (also ImportError)

A message says what was found, what was wanted, and the cure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class GritError(Exception):
    """Base of every error this package raises on purpose."""


class ModelLoadError(GritError):
    """A checkpoint, tokenizer or device that cannot be used as asked."""


class PromptError(GritError, ValueError):
    """Text or messages that cannot become a prompt."""


class EmptyTextError(PromptError):
    """Text without a single character to read."""


class ContextOverflowError(PromptError):
    """A prompt longer than the model's window."""


class OptionError(GritError, ValueError):
    """An option that does not exist, or a value that it cannot have."""

    @classmethod
    def unknown(cls, name: str, known: Iterable[str]) -> OptionError:
        """Return the error for an option that does not exist, with the nearest of those that do."""
        options = sorted(known)
        near = difflib.get_close_matches(name, options, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return cls(f"The option {name!r} is unknown.{hint} Options are {', '.join(options)}.")

    @classmethod
    def of_pydantic(cls, found: Mapping[str, Any]) -> OptionError:
        """Return the error for an entry of pydantic's `errors()`: the one that a validator raised, or one by name."""
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, OptionError):
            return cause
        what = f"{found['loc'][0]}={found['input']!r} is not possible. " if found["loc"] else ""
        return cls(f"{what}{found['msg']}.")


class CacheError(GritError):
    """A KV cache store that cannot be used as asked."""


class CacheCorruptError(CacheError):
    """A stored block that is torn, altered or foreign; it is quarantined and never used."""


class CacheFullError(CacheError):
    """A block that the disk or the store's size limit has no room for."""


class RerankError(GritError):
    """A model whose scores put nothing in order."""


class CollectionMismatchError(GritError, ValueError):
    """A collection whose vectors were made by another model."""


class IngestError(GritError):
    """A file that cannot be read as text."""


class ConfigError(GritError, ValueError):
    """A training recipe that cannot be run as it is written."""


class DataError(GritError, ValueError):
    """A data file that the trainer cannot use."""


class TrainingDivergedError(GritError):
    """A loss or a gradient is not a number; training stopped before it spoilt the weights."""


class MissingExtraError(GritError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"`{package}` is not installed and this part of grit_integrations needs it. "
            f"Install it with: pip install 'grit_integrations[{extra}]'",
            name=package,
        )
        self._arguments = package, extra

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments, vars(self)  # without this, an exception is made again of its message
