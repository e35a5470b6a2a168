"""Options of a call as one value: given whole, one by one, or under the names that other libraries have for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from inspect import cleandoc
from typing import Any, ClassVar, Self

from grit_integrations.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a call as one value. Callers may also give them one by one; what takes either asks `of`."""

    aliases: ClassVar[Mapping[str, str]] = {}  # other names of options, as other libraries call them

    @classmethod
    def names(cls) -> list[str]:
        """Return every name that an option may be given under."""
        return [*(option.name for option in fields(cls)), *cls.aliases]

    @classmethod
    def of(cls, value: Self | Mapping[str, Any] | None, overrides: Mapping[str, Any]) -> Self:
        """Return the options that are given as one value (or its plain data), one by one, or both.

        Raises:
            OptionError: something else than a value, an unknown name, a value outside its range, or an option that is
                given both ways and differently.

        Example:
            >>> from grit_integrations import Decoding
            >>> Decoding.of(Decoding(temperature=0.5), {"max_tokens": 8})
            ... # doctest: +ELLIPSIS
            Decoding(max_new_tokens=8, temperature=0.5, ...)
        """
        if value is not None and not isinstance(value, cls | Mapping):
            kind = cls.__name__
            raise OptionError(f"{kind.lower()}={value!r} is not possible. It must be a {kind}(...).")
        whole = cls().with_options(**value) if isinstance(value, Mapping) else value or cls()
        settled = whole.with_options(**overrides)
        for name, found in whole.chosen().items():
            if getattr(settled, name) != found:
                raise OptionError(
                    f"{name} is given twice, as {getattr(settled, name)!r} and within {cls.__name__.lower()} as "
                    f"{found!r}. Give it once."
                )
        return settled

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """Return what the class's docstring says of each option; nothing where Python has dropped docstrings."""
        written = cleandoc(cls.__doc__ or "")  # Python 3.13 has taken the indentation away already
        _, _, attributes = written.partition("Attributes:")
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
        names = [option.name for option in fields(cls)]
        return {name: " ".join(text.split()) for name, text in entries if name in names}

    def with_options(self, **overrides: Any) -> Self:
        """Return a copy with single options put over these; `None` keeps what is here.

        Raises:
            OptionError: an unknown name (the message gives the nearest known one), one option under two names, or a
                value outside its range.

        Example:
            >>> from grit_integrations import Decoding
            >>> Decoding(temperature=0.5).with_options(max_tokens=8, temperature=None).max_new_tokens
            8
        """
        changes: dict[str, Any] = {}
        for name, value in overrides.items():
            if name not in self.names():
                raise OptionError.unknown(name, self.names())
            if value is None:
                continue
            target = self.aliases.get(name, name)
            if target in changes and changes[target] != value:
                raise OptionError(f"{target} is given twice, as {changes[target]!r} and as {value!r}. Give it once.")
            changes[target] = value
        return replace(self, **changes)

    def chosen(self) -> dict[str, Any]:
        """Return the options that are not at their default."""
        values = {option.name: (getattr(self, option.name), option.default) for option in fields(self)}
        return {name: value for name, (value, default) in values.items() if default is MISSING or value != default}
