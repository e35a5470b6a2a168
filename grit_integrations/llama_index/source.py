"""Which GritLM an adapter works with, and the arguments that made it as plain fields."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Self

from llama_index.core import Settings
from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr, ValidationError
from llama_index.core.schema import BaseComponent

from grit_integrations.errors import OptionError
from grit_integrations.llama_index.arguments import callbacks, check_kind, check_limiter
from grit_integrations.loading.sources import BUNDLED_NAME, default_device, default_source
from grit_integrations.model import GritLM


class GritComponent(BaseComponent):
    """A LlamaIndex component that works through a `GritLM`.

    The fields say which model it is and what decides its results, so that `to_dict` is complete and the same
    everywhere; where the model runs (device, attention kernel) is not in it. They are frozen: the model has them too.
    The `GritLM` itself is never serialised: a copy made by `from_dict` or pickle opens the checkpoint at first use,
    and shares the weights that its process already holds.
    """

    model_name: str = Field(default=BUNDLED_NAME, frozen=True, description="Directory, hub id, or 'grit-mini'.")
    revision: str | None = Field(default=None, frozen=True, description="Branch, tag or commit of a hub repository.")
    gguf_file: str | None = Field(default=None, frozen=True, description="The weights, if they are a GGUF file.")
    adapter: str | None = Field(default=None, frozen=True, description="Directory or hub id of a PEFT adapter.")
    dtype: str = Field(default="auto", frozen=True, description="Compute precision.")
    quantization_config: dict[str, Any] | None = Field(
        default=None, frozen=True, description="How the weights are quantised."
    )
    embedding_head: str | None = Field(default=None, frozen=True, description="Safetensors file with a projection.")
    pooling: str | None = Field(
        default=None, frozen=True, description="How token states become a vector; None asks the checkpoint."
    )
    normalize: bool = Field(default=True, frozen=True, description="Whether vectors have unit length.")
    truncate_dim: int | None = Field(default=None, frozen=True, description="Leading dimensions kept of each vector.")
    doc_blocks: dict[str, Any] | None = Field(
        default=None, frozen=True, description="How documents are read in 'doc' mode; None is the default."
    )

    _model: GritLM = PrivateAttr()

    def __init__(self, grit: GritLM, **fields: Any) -> None:
        fields["callback_manager"] = callbacks(fields.get("callback_manager"))
        check_limiter(fields.get("rate_limiter"))
        try:
            super().__init__(**model_fields_of(grit), **fields)
        except ValidationError as error:
            raise OptionError.of_pydantic(error.errors(include_url=False)[0]) from None
        self._model = grit

    @property
    def grit(self) -> GritLM:
        """The model behind this component; adapters that were given one object share it."""
        return self._model

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return the component that `to_dict` described; `kwargs` go over it, such as `model=` or `device=`."""
        return super().from_dict({name: value for name, value in data.items() if name != "fingerprint"}, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # The framework's own version deletes what cannot be pickled from the live object: give it a copy.
        state: dict[str, Any] = BaseComponent.__getstate__(self.model_copy())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The framework's own version calls __init__ with the fields, which loses the model's device. What could not be
        # pickled, such as a callback manager with open files, becomes the default again.
        fields = {
            name: info.get_default(call_default_factory=True)
            for name, info in type(self).model_fields.items()
            if name not in state["__dict__"]
        }
        state["__dict__"] = {**fields, **state["__dict__"]}
        BaseModel.__setstate__(self, state)


def as_grit(model: GritLM | str | Path | None, options: Mapping[str, Any], known: type[object]) -> GritLM:
    """Return the `GritLM` that an adapter's arguments mean: the one given, or the process's one of a name.

    The environment's `GRIT_MODEL` and `GRIT_DEVICE` stand in for what is not given. A name's model is loaded at first
    use; adapters made for each request find its weights and its KV cache again, until `unload_all()`.

    Raises:
        OptionError: what names no model, an option that neither the adapter nor `GritLM` has, or one that contradicts
            the `GritLM` given.
    """
    options = dict(options)
    _refuse_unknown(options, known)
    name = options.pop("model_name", None)
    check_kind("model", model, GritLM, str, Path, NoneType)
    check_kind("model_name", name, str, NoneType)
    if "" in (model, name):
        raise OptionError(
            "The model's name is empty. Give a directory, a hub id, 'grit-mini', or None for the default."
        )
    if isinstance(model, GritLM):
        _refuse_contradiction(model, {**options, **({} if name is None else {"model_name": name})})
        return model
    if None not in (model, name) and str(model) != name:
        raise OptionError(f"model={str(model)!r} and model_name={name!r} name two models. Give one of them.")
    if options.get("device") is None:
        options["device"] = default_device()
    return GritLM.named(model or name or default_source(), **options)


def that_of_settings(options: Mapping[str, Any]) -> GritLM | None:
    """Return the model of the `GritLLM` in `Settings`, unless there is none or options ask for another."""
    llm = Settings._llm  # asking for Settings.llm would make one of OpenAI's
    return llm.grit if not options and isinstance(llm, GritComponent) else None


def model_fields_of(grit: GritLM) -> dict[str, Any]:
    """Return the arguments of `grit` that decide its results, as the plain fields of a component."""
    options = grit.load_options
    config = options.quantization_config
    return {
        "model_name": grit.source,
        "revision": grit.revision,
        "gguf_file": grit.files.gguf_file,
        "adapter": grit.files.adapter,
        "dtype": options.dtype,
        "quantization_config": config.to_dict() if hasattr(config, "to_dict") else config,
        "embedding_head": None if options.embedding_head is None else str(options.embedding_head),
        "pooling": grit.settings.pooling,
        "normalize": grit.settings.normalize,
        "truncate_dim": grit.settings.truncate_dim,
        "doc_blocks": grit.settings.doc_blocks.to_dict() if grit.settings.doc_blocks.name else None,
    }


def _refuse_unknown(options: Mapping[str, Any], known: type[object]) -> None:
    names = {*inspect.signature(known.__init__).parameters, *inspect.signature(GritLM.__init__).parameters}
    names |= {"model_name", *getattr(known, "option_names", tuple)()}
    names -= {"self", "source", "options"}
    for name in options:
        if name not in names:
            raise OptionError.unknown(name, names)


def _refuse_contradiction(grit: GritLM, options: Mapping[str, Any]) -> None:
    found = model_fields_of(grit)
    for name, value in options.items():
        plain = value.to_dict() if hasattr(value, "to_dict") else str(value) if isinstance(value, Path) else value
        if name not in found or found[name] != plain:
            raise OptionError(
                f"{name}={value!r} was given beside a GritLM that has its own. Give it to GritLM(...), or give a name "
                "instead of the object."
            )
