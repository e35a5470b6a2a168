"""The options of `Decoding` and `Reranking` as fields of a component.

LlamaIndex writes a component down, reads it back and shows it by its pydantic fields. So each option is a field, made
of the dataclass that declares it and of nothing else; `decoding` (`reranking`) is all of them as one value, which
constructors, copies and calls take too. Both at once is fine unless they contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast, get_type_hints

from llama_index.core.bridge.pydantic import BaseModel, Field, create_model
from llama_index.core.schema import BaseComponent

from grit_integrations.option_sets import Options
from grit_integrations.options import Decoding, Reranking

if TYPE_CHECKING:
    from grit_integrations.model import GritLM


def _fields_of(kind: type[Options]) -> dict[str, Any]:
    hints, said = get_type_hints(kind), kind.descriptions()
    return {
        option.name: (hints[option.name], Field(default=option.default, description=said.get(option.name)))
        for option in fields(kind)
    }


if TYPE_CHECKING:
    _DecodingFields = BaseModel
    _RerankingFields = BaseModel
else:
    _DecodingFields = create_model("_DecodingFields", **_fields_of(Decoding))
    _RerankingFields = create_model("_RerankingFields", **_fields_of(Reranking))


class OptionComponent(BaseComponent):
    """A component whose fields hold the options of one kind."""

    _kind: ClassVar[type[Options]]
    _whole: ClassVar[str]  # what all options as one value are called

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # type checkers do not see the fields

    @classmethod
    def option_names(cls) -> set[str]:
        """Return every name under which a constructor takes options of this kind."""
        return {*cls._kind.names(), cls._whole}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return the component that `to_dict` described; `kwargs` go over it, such as `model=` or `decoding=`."""
        if cls._whole in kwargs:
            data = {name: value for name, value in data.items() if name not in cls.option_names()}
        return super().from_dict(data, **kwargs)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; `update` takes options under each of their names, and all of them as one value."""
        changes = dict(update or {})
        if changes.keys() & self.option_names():
            own = self._own() if changes.get(self._whole) is None else None
            changes |= self._taken(changes, own)
        return super().model_copy(update=changes, deep=deep)

    def _own(self) -> Options:
        """Return the options of this component, read now since they are settable, as one value."""
        return self._kind(**{option.name: getattr(self, option.name) for option in fields(self._kind)})

    @classmethod
    def _taken(cls, options: dict[str, Any], own: Options | None = None) -> dict[str, Any]:
        """Take the options of this kind out of `options`, and return all of them, checked, as the fields' values."""
        given = {name: options.pop(name) for name in list(options) if name in cls.option_names()}
        whole = given.pop(cls._whole, None)
        settled = cls._kind.of(whole, given) if own is None else own.with_options(**given)
        return {option.name: getattr(settled, option.name) for option in fields(settled)}


class DecodingComponent(OptionComponent, _DecodingFields):
    """A component that generates: `temperature`, `max_new_tokens` and all other options of `Decoding` are fields.

    `max_tokens` and `stop_sequences` are names of theirs too.
    """

    _kind: ClassVar[type[Options]] = Decoding
    _whole: ClassVar[str] = "decoding"

    if TYPE_CHECKING:

        def __init__(self, grit: GritLM, **fields: Any) -> None: ...

    @property
    def decoding(self) -> Decoding:
        """How tokens are chosen and when they end, as one value."""
        return cast(Decoding, self._own())


class RerankingComponent(OptionComponent, _RerankingFields):
    """A component that reranks: `method`, `order` and all other options of `Reranking` are fields."""

    _kind: ClassVar[type[Options]] = Reranking
    _whole: ClassVar[str] = "reranking"

    if TYPE_CHECKING:

        def __init__(self, grit: GritLM, **fields: Any) -> None: ...

    @property
    def reranking(self) -> Reranking:
        """How nodes are put in order, as one value."""
        return cast(Reranking, self._own())
