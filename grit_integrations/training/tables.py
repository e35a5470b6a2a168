"""Tables of TOML to frozen dataclasses, with errors that name the key, what it holds and what it may hold."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, Literal, TypeVar

from grit_integrations.errors import ConfigError

_T = TypeVar("_T")


def build(kind: type[_T], table: dict[str, Any], where: str = "") -> _T:
    """Return the dataclass `kind` with a table's values; what the table leaves out has its default.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a missing one, a value of the wrong type.
    """
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)
            raise ConfigError(f"Unknown key {where}{key}. The nearest known key is {where}{near[0]}.")
    for entry in dataclasses.fields(kind):  # type: ignore[arg-type]  # mypy: a dataclass is a type
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and entry.name not in table:
            raise ConfigError(f"The key {where}{entry.name} is missing. Add it to the recipe.")
    return kind(**{key: _value(hints[key], value, f"{where}{key}") for key, value in table.items()})


def _value(hint: Any, value: Any, where: str) -> Any:  # noqa: PLR0911  # one return per kind of value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {value!r}. It must be a table: [{where}].")
        return build(typing.cast(type[Any], hint), value, f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where} is {value!r}. It must be one of {', '.join(map(repr, arguments))}.")
        return value
    if origin in (typing.Union, types.UnionType):
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = origin or hint
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ConfigError(f"{where} is {value!r}, a {type(value).__name__}. It must be a {expected.__name__}.")
    return value
