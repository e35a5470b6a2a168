"""The options of `Decoding` and `Reranking` as fields of an adapter.

LangChain configures, copies, traces and pickles a model by its pydantic fields. So each option is a field, made of the
dataclass that declares it and of nothing else; `decoding` (`reranking`) is all of them as one value, which
constructors, copies and calls take too. Both at once is fine unless they contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast, get_type_hints

from pydantic import BaseModel, Field, create_model, model_validator

from grit_integrations.errors import OptionError
from grit_integrations.option_sets import Options
from grit_integrations.option_values import check, is_count
from grit_integrations.options import Decoding, Reranking

_NAMES = {"max_new_tokens": "max_tokens"}  # what LangChain's users call an option
_SHAPES: Mapping[Any, Any] = {tuple[str, ...]: list[str]}
_PAIR = frozenset({"logprobs", "top_logprobs"})
_SAME = tuple(option.name for option in fields(Decoding) if option.name not in _PAIR)


def _fields_of(kind: type[Options], *, unset: bool = False, but: str = "") -> dict[str, Any]:
    """Return a pydantic field for each option; with `unset`, `None` is the default and leaves it to the core."""
    hints, said = get_type_hints(kind), kind.descriptions()
    found = {}
    for option in fields(kind):
        hint = _SHAPES.get(hints[option.name], hints[option.name])
        about = Field(default=None if unset else option.default, description=said.get(option.name))
        found[_NAMES.get(option.name, option.name)] = (hint | None if unset else hint, about)
    return {name: definition for name, definition in found.items() if name != but}


if TYPE_CHECKING:
    _DecodingFields = BaseModel
    _RerankingFields = BaseModel
else:
    _DecodingFields = create_model("_DecodingFields", **_fields_of(Decoding, unset=True, but="logprobs"))
    _RerankingFields = create_model("_RerankingFields", **_fields_of(Reranking))


class OptionFields(BaseModel):
    """An adapter whose fields hold the options of one kind."""

    _kind: ClassVar[type[Options]]
    _whole: ClassVar[str]  # what all options as one value are called

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # type checkers do not see the fields

    @model_validator(mode="before")
    @classmethod
    def _take_options(cls, values: Any) -> Any:
        return cls._spread(values, None) if isinstance(values, Mapping) else values

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; `update` takes options under each of their names, and all of them as one value."""
        for name in update or ():
            if name not in (known := {*type(self).model_fields, *self._option_names()}):
                raise OptionError.unknown(name, known)
        changed = None if update is None else self._spread(update, self._own())
        return super().model_copy(update=changed, deep=deep)

    def _own(self) -> Options:
        """Return the options of this adapter as one value."""
        chosen = {option.name: getattr(self, _NAMES.get(option.name, option.name)) for option in fields(self._kind)}
        return self._kind().with_options(**chosen)

    @classmethod
    def _settled(cls, values: Mapping[str, Any], own: Options | None) -> Options:
        """Return the options that stand among `values`, put over `own` unless they are given as one value too."""
        single = {name: value for name, value in values.items() if name in cls._kind.names()}
        whole = values.get(cls._whole)
        return cls._kind.of(whole, single) if own is None or whole is not None else own.with_options(**single)

    @classmethod
    def _spread(cls, values: Mapping[str, Any], own: Options | None) -> dict[str, Any]:
        """Return `values` with the options among them checked, and under their fields' names."""
        settled, whole = cls._settled(values, own), values.get(cls._whole)
        given = {cls._kind.aliases.get(name, name): value for name, value in values.items()}
        spread = {}
        for name in (option.name for option in fields(settled)):
            field = _NAMES.get(name, name)
            if whole is not None or given.get(name) is not None:  # one value has a say about every option
                spread[field] = getattr(settled, name)
            elif name in given:
                spread[field] = cls.model_fields[field].default
        return {name: value for name, value in values.items() if name not in cls._option_names()} | spread

    @classmethod
    def _option_names(cls) -> set[str]:
        return {*cls._kind.names(), cls._whole}


class DecodingFields(OptionFields, _DecodingFields):
    """An adapter that generates: `temperature`, `max_tokens`, `stop` and all other options of `Decoding` are fields.

    `max_new_tokens` and `stop_sequences` are names of theirs too. What is `None` is left to the core.
    """

    _kind: ClassVar[type[Options]] = Decoding
    _whole: ClassVar[str] = "decoding"

    logprobs: bool | None = None
    """Report each token's log-probability in `response_metadata["logprobs"]`."""

    top_logprobs: int | None = None
    """Report this many alternatives of each token too."""

    @property
    def decoding(self) -> Decoding:
        """How tokens are chosen and when they end, as one value."""
        return cast(Decoding, self._own())

    def _own(self) -> Options:
        shown = {name: getattr(self, _NAMES.get(name, name)) for name in _SAME}
        return Decoding().with_options(**shown, logprobs=_alternatives(self.logprobs, self.top_logprobs))

    # OpenAI's users ask for log-probabilities by two names, and turn them off by `False`

    @classmethod
    def _settled(cls, values: Mapping[str, Any], own: Options | None) -> Decoding:
        same = {name: value for name, value in values.items() if name not in _PAIR}
        settled = cast(Decoding, super()._settled(same, own))
        if not _PAIR & values.keys():
            return settled
        count = _alternatives(values.get("logprobs"), values.get("top_logprobs", settled.logprobs))
        if values.get(cls._whole) is not None and settled.logprobs not in (None, count):
            raise OptionError(
                f"logprobs is given twice, as {count} and within decoding as {settled.logprobs}. Give it once."
            )
        return replace(settled, logprobs=count)

    @classmethod
    def _spread(cls, values: Mapping[str, Any], own: Options | None) -> dict[str, Any]:
        spread = super()._spread(values, own)
        if _PAIR & spread.keys():
            count = cls._settled(values, own).logprobs
            spread |= {"logprobs": None if count is None else True, "top_logprobs": count or None}
        return spread


class RerankingFields(OptionFields, _RerankingFields):
    """An adapter that reranks: `method`, `order` and all other options of `Reranking` are fields."""

    _kind: ClassVar[type[Options]] = Reranking
    _whole: ClassVar[str] = "reranking"

    @property
    def reranking(self) -> Reranking:
        """How documents are put in order, as one value."""
        return cast(Reranking, self._own())


def _alternatives(wanted: object, top: int | None) -> int | None:
    """Return how many alternatives to report beside each token's log-probability, `None` for no report at all."""
    check(wanted is None or isinstance(wanted, bool), "logprobs", wanted, "True or False; see top_logprobs")
    check(top is None or is_count(top, 0), "top_logprobs", top, "a whole number from 0 up, or None")
    return None if wanted is False or (wanted is None and top is None) else top or 0
