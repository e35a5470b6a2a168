"""The options that the adapters share: which model, and how it decodes; per instance and per call."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, Self

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.language_models.base import LangSmithParams
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)

from grit_integrations.errors import OptionError
from grit_integrations.langchain.documents import Passage, as_passages
from grit_integrations.langchain.quotes import described, quotes_metadata
from grit_integrations.loading.sources import default_device, default_source
from grit_integrations.model import GenerationOptions as CoreOptions
from grit_integrations.model import GritLM
from grit_integrations.options import OPTION_ALIASES, Caching, Decoding, Quoting, check_caching
from grit_integrations.results import Generation, GenerationChunk, TokenLogprob

PROVIDER = "grit"

# What LangChain's constructors pass to every provider and what has no meaning for a model in this process.
_REMOTE_ONLY = frozenset({"api_key", "base_url", "default_headers", "max_retries", "request_timeout", "timeout"})
_SAMPLING = ("temperature", "max_tokens", "top_p", "top_k", "seed", "repetition_penalty", "stop", "quote")
_CALL_OPTIONS = frozenset(
    {*(option.name for option in fields(Decoding)), *OPTION_ALIASES}
    | {"model", "top_logprobs", "caching", "documents", "stream"}
)


def _path_to_str(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _str_to_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _known_mode(value: Any) -> Any:
    if value is not None:
        check_caching(value)
    return value


ModelField = Annotated[
    GritLM | str,
    BeforeValidator(_path_to_str),
    PlainSerializer(lambda model: getattr(model, "source", model), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string"}),
]


@dataclass(frozen=True, slots=True)
class Request:
    """What one call asks for, with every option settled."""

    grit: GritLM
    decoding: Decoding
    caching: Caching
    passages: tuple[Passage, ...] = ()

    @property
    def documents(self) -> list[str]:
        """What the model answers from."""
        return [passage.text for passage in self.passages]

    def options(self, known_documents: Sequence[str] = ()) -> CoreOptions:
        """Return the core's options; `known_documents` may stand verbatim in the messages."""
        return {"decoding": self.decoding, "caching": self.caching, "known_documents": known_documents}


class ModelSource(BaseModel):
    """Which GritLM an adapter uses. Nothing is opened or loaded before the first use."""

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    model: ModelField = Field(default_factory=default_source)
    """A `GritLM`, or the directory, hub id or bundled name of one. Default: `GRIT_MODEL`, else `"grit-mini"`.

    Adapters that name the same checkpoint share its weights."""

    revision: str | None = None
    """Branch, tag or commit, when `model` names a hub repository."""

    device: str | None = Field(default_factory=default_device)
    """Such as `"cpu"` or `"cuda:1"`, when `model` is a name. Default: `GRIT_DEVICE`, else the best one here."""

    dtype: str = "auto"
    """Precision of the weights, when `model` is a name."""

    local_files_only: bool = False
    """Never ask the hub, when `model` is a name."""

    _load_fields: ClassVar[tuple[str, ...]] = ("revision", "device", "dtype", "local_files_only")

    _held: dict[tuple[object, ...], GritLM] = PrivateAttr(default_factory=dict)  # keeps named models' weights alive

    def model_post_init(self, context: Any, /) -> None:
        """Pass on to LangChain's own hook, which pydantic's private attributes would otherwise replace."""
        super().model_post_init(context)

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
        return self._find(self.model)

    def _find(self, model: object) -> GritLM:
        """Return `model` itself, or the one model of that name that this adapter holds."""
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
        return self._held.setdefault((name, *options.values()), GritLM(name, **options))


class GenerationOptions(ModelSource):
    """How an adapter decodes. `None` leaves an option at the core's default; options of a call win."""

    temperature: float | None = None
    """0 (the default) is greedy; above 0 samples."""

    max_tokens: int | None = Field(default=None, validation_alias=AliasChoices("max_tokens", "max_new_tokens"))
    """At most so many new tokens (alias `max_new_tokens`)."""

    top_p: float | None = None
    """Sample from the smallest set of tokens whose probability reaches it."""

    top_k: int | None = None
    """Sample from the k likeliest tokens."""

    seed: int | None = None
    """Makes sampling repeatable."""

    repetition_penalty: float | None = None
    """Above 1 makes tokens that already occurred less likely."""

    stop: Annotated[list[str], BeforeValidator(_str_to_list)] | None = Field(
        default=None, validation_alias=AliasChoices("stop", "stop_sequences")
    )
    """Strings that end the answer and are not part of it (alias `stop_sequences`); they may span tokens."""

    quote: bool | Quoting | None = None
    """Hold the answer to one span of the documents, word for word: `True`, or how. It comes with a citation."""

    logprobs: bool | None = None
    """Report each token's log-probability in `response_metadata["logprobs"]`."""

    top_logprobs: int | None = None
    """Report so many alternatives of each token too."""

    caching: Annotated[Caching | None, BeforeValidator(_known_mode)] = None
    """What of a prompt is read once and kept, such as `"prefix"` or `"doc"`. Default: the model's own mode."""

    streaming: bool | None = None
    """Whether `invoke` streams to attached callbacks. `stream` always does."""

    @model_validator(mode="before")
    @classmethod
    def _check_option_names(cls, values: Any) -> Any:
        """Refuse misspelt options; LangChain's base classes would ignore them silently."""
        if isinstance(values, Mapping):
            known = set(cls.model_fields).union(*map(_aliases, cls.model_fields.values()))
            _refuse_unknown(set(values) - _REMOTE_ONLY, known)
        return values

    @model_validator(mode="after")
    def _check_decoding(self) -> Self:
        self._request(None, {})
        return self

    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids that `text` has inside a prompt, by the model's own tokenizer; no weights are read."""
        custom = getattr(self, "custom_get_token_ids", None)
        return list(custom(text)) if custom is not None else self.grit.tokenize(text)

    def _request(self, stop: list[str] | None, options: Mapping[str, Any]) -> Request:
        """Settle the options of one call.

        Raises:
            OptionError: an unknown option, or a value outside its range; nothing has been done yet.
        """
        _refuse_unknown(set(options), _CALL_OPTIONS)
        call = {name: value for name, value in options.items() if name != "stream" and value is not None}
        grit = self._find(call.pop("model", self.model))
        caching, passages = call.pop("caching", self.caching), as_passages(call.pop("documents", None))
        if caching is not None:
            check_caching(caching)
        wanted, top = call.pop("logprobs", self.logprobs), call.pop("top_logprobs", self.top_logprobs)
        own = Decoding().with_options(**{name: getattr(self, name) for name in _SAMPLING})
        decoding = own.with_options(**call).with_options(stop=stop, logprobs=_alternatives(wanted, top))
        return Request(grit, decoding, caching or grit.caching, passages)

    def _identity(self, request: Request) -> dict[str, Any]:
        """Return everything that decides an answer beside the prompt, without opening a file."""
        grit, decoding = request.grit, asdict(request.decoding)
        decoding["max_tokens"] = decoding.pop("max_new_tokens")
        decoding["stop_sequences"] = decoding.pop("stop")  # LangChain overwrites "stop" with the call's
        reading = {"caching": request.caching, "precision": _precision(grit), "documents": _digest(request)}
        return {"model": grit.name, "revision": grit.revision, "load": grit.load_options.key(), **reading, **decoding}

    def _answer_key(self, stop: list[str] | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return `_identity` and the checkpoint's digest; the first time, this reads the checkpoint's small files."""
        request = self._request(stop, options)
        return {**self._identity(request), "fingerprint": request.grit.fingerprint}

    def _answers_are_cached(self) -> bool:
        cache: BaseCache | bool | None = getattr(self, "cache", None)
        return cache is not False and (isinstance(cache, BaseCache) or get_llm_cache() is not None)

    def _trace(
        self, kind: Literal["chat", "llm"], stop: list[str] | None, options: Mapping[str, Any]
    ) -> LangSmithParams:
        """Return LangSmith's standard parameters; those of the call win, and nothing is checked or opened."""
        model = options.get("model") or self.model
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_name=model.name if isinstance(model, GritLM) else str(model),
            ls_model_type=kind,
            ls_temperature=options.get("temperature", self.temperature),
            ls_max_tokens=options.get("max_tokens", options.get("max_new_tokens", self.max_tokens)),
        )
        stops = self.stop if stop is None else stop
        return {**params, "ls_stop": stops} if stops else params


def response_metadata(generation: Generation, request: Request) -> dict[str, Any]:
    """Return what LangChain shows beside a text; over a stream it must come exactly once to merge."""
    return {
        "model_name": request.grit.name,
        "model_provider": PROVIDER,
        "finish_reason": generation.finish_reason,
        "timings": asdict(generation.timings),  # seconds
        "cache": {**asdict(generation.cache), "declined": list(generation.cache.declined)},
        **quotes_metadata(generation.quotes, request.passages),
    }


def says_something(piece: GenerationChunk) -> bool:
    """Whether a piece of a stream adds anything: text that may become a stop string is held back."""
    return bool(piece.text or piece.logprobs or piece.generation)


def openai_logprobs(logprobs: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """Return log-probabilities in the shape that LangChain's users know from OpenAI; it merges over a stream."""
    if not logprobs:
        return {}
    content = [
        {
            "token": entry.token,
            "logprob": entry.logprob,
            "top_logprobs": [{"token": token, "logprob": value} for token, value in entry.alternatives],
        }
        for entry in logprobs
    ]
    return {"logprobs": {"content": content}}


def _alternatives(wanted: object, top: int | None) -> int | None:
    """Return how many alternatives to report beside each token's log-probability, `None` for no report at all."""
    if wanted is not None and not isinstance(wanted, bool):
        raise OptionError(f"logprobs={wanted!r} is not possible. It must be True or False; see top_logprobs.")
    return None if wanted is False or (wanted is None and top is None) else top or 0


def _precision(grit: GritLM) -> str:
    """Return how precisely blocks are stored: what was rounded may lead to another answer."""
    return "native" if grit.kv_store is None else grit.kv_store.precision


def _digest(request: Request) -> str:
    """Return a name for documents and their order; without any, an empty one. A quote names its source too."""
    sources = described(request.passages) if request.decoding.quoting else []
    joined = repr((request.documents, sources)).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(joined, digest_size=16).hexdigest() if request.documents else ""


def _refuse_unknown(names: Set[str], known: Set[str]) -> None:
    for name in sorted(names - known):
        raise OptionError.unknown(name, known)


def _aliases(field: Any) -> set[str]:
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias or field.alias]
    return {choice for choice in choices if isinstance(choice, str)}


def _default(field: Any) -> Any:
    return field.get_default(call_default_factory=True)
