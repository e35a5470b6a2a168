"""Which GritLM an adapter works with: one that the caller has, or a name that the whole process shares."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictStr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from grit_integrations.errors import OptionError
from grit_integrations.loading.sources import default_device, default_source
from grit_integrations.model import GritLM

PROVIDER = "grit"


def _path_to_str(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


ModelField = Annotated[
    GritLM | StrictStr,
    BeforeValidator(_path_to_str),
    PlainSerializer(lambda model: getattr(model, "source", model), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string"}),
]


class ModelSource(BaseModel):
    """Which GritLM an adapter uses. Nothing is opened or loaded before the first use.

    Raises:
        OptionError: an option that does not exist (the message gives the nearest known one), or an impossible value.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    model: ModelField = Field(default_factory=default_source)
    """A `GritLM`, or the directory, hub id or bundled name of one. Default: `GRIT_MODEL`, else `"grit-mini"`.

    A name stands for one model of the process: adapters made for each request find its loaded weights and its KV cache
    again, until `grit_integrations.unload_all()`."""

    revision: StrictStr | None = None
    """Branch, tag or commit, when `model` names a hub repository."""

    device: StrictStr | None = Field(default_factory=default_device)
    """Such as `"cpu"` or `"cuda:1"`, when `model` is a name. Default: `GRIT_DEVICE`, else the best one here."""

    dtype: StrictStr = "auto"
    """Precision of the weights, when `model` is a name."""

    local_files_only: StrictBool = False
    """Never ask the hub, when `model` is a name."""

    _load_fields: ClassVar[tuple[str, ...]] = ("revision", "device", "dtype", "local_files_only")
    _ignored: ClassVar[frozenset[str]] = frozenset()  # what LangChain passes to everyone and has no meaning here

    def __init__(self, **values: Any) -> None:
        known = self._constructor_names()
        for name in values:
            if name not in known and name not in self._ignored:
                raise OptionError.unknown(name, known)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise OptionError.of_pydantic(error.errors(include_url=False)[0]) from None

    @model_validator(mode="after")
    def _check_load_options(self) -> Self:
        """Refuse options that would be ignored because the model brings its own."""
        if isinstance(self.model, str):
            return self
        fields = type(self).model_fields
        idle = [name for name in self._load_fields if getattr(self, name) != _default(fields[name])]
        if idle:
            raise OptionError(
                f"{', '.join(idle)} cannot change a model that already exists. Give them to GritLM, or give the "
                "model's name instead of the object."
            )
        return self

    @property
    def grit(self) -> GritLM:
        """The `GritLM` behind this adapter; it loads at first use."""
        return self._model_of(self.model)

    def _model_of(self, model: object) -> GritLM:
        """Return `model` itself, or the process's one model of that name."""
        if isinstance(model, GritLM):
            return model
        name = _path_to_str(model)
        if not isinstance(name, str):
            raise OptionError(f"model={model!r} is not possible. It must be a GritLM or the name of one.")
        if isinstance(self.model, GritLM) and name == self.model.source:
            return self.model
        options = {field: getattr(self, field) for field in self._load_fields}
        if name != self.model:
            options["revision"] = None  # belongs to the model that was configured
        return GritLM.named(name, **options)

    @classmethod
    def _constructor_names(cls) -> set[str]:
        aliases = {alias for field in cls.model_fields.values() for alias in _aliases(field)}
        return {*cls.model_fields, *aliases, *cls._option_names()}

    @classmethod
    def _option_names(cls) -> set[str]:
        return set()  # other names of fields, and of several at once


def _aliases(field: Any) -> Iterable[str]:
    alias = field.validation_alias or field.alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return (choice for choice in choices if isinstance(choice, str))


def _default(field: Any) -> Any:
    return field.get_default(call_default_factory=True)
