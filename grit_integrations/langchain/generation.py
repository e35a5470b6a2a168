"""One generation as LangChain asks for it: an adapter's options with those of the call over them, checked.

What decides an answer beside its prompt is also what LangChain's cache of answers must go by, and what traces show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.language_models.base import LangSmithParams
from pydantic import BeforeValidator, StrictBool

from grit_integrations.errors import OptionError
from grit_integrations.langchain.documents import DocumentText, document_texts
from grit_integrations.langchain.errors import overflow_as_langchains
from grit_integrations.langchain.options import DecodingFields
from grit_integrations.langchain.quotes import described
from grit_integrations.langchain.source import PROVIDER, ModelSource
from grit_integrations.model import GritLM
from grit_integrations.option_values import check
from grit_integrations.options import Caching, Decoding, check_caching

if TYPE_CHECKING:
    from grit_integrations.engine.streaming import GenerationStream
    from grit_integrations.model import GenerationOptions
    from grit_integrations.prompts.formats import Messages

# What LangChain's constructors pass to every provider and what has no meaning for a model in this process.
_REMOTE_ONLY = frozenset({"api_key", "base_url", "default_headers", "max_retries", "request_timeout", "timeout"})


@dataclass(frozen=True, slots=True)
class GenerationCall:
    """What one call asks for, with every option settled."""

    grit: GritLM
    decoding: Decoding
    caching: Caching
    given: tuple[DocumentText, ...] = ()

    @property
    def documents(self) -> list[str]:
        """What the model answers from."""
        return [document.text for document in self.given]

    def stream(self, messages: Messages, known_documents: Sequence[str] = ()) -> GenerationStream:
        """Start generating; `known_documents` may stand verbatim in the messages."""
        with overflow_as_langchains():
            return self.grit.stream(messages, self.documents, **self._options(known_documents))

    async def astream(self, messages: Messages, known_documents: Sequence[str] = ()) -> GenerationStream:
        """Start generating without blocking the event loop."""
        with overflow_as_langchains():
            return await self.grit.astream(messages, self.documents, **self._options(known_documents))

    def _options(self, known_documents: Sequence[str]) -> GenerationOptions:
        return {"decoding": self.decoding, "caching": self.caching, "known_documents": known_documents}


def _known_mode(value: Any) -> Any:
    return value if value is None else check_caching(value)


class GritGenerator(DecodingFields, ModelSource):
    """What generates: an adapter with the options of decoding, and a caching mode."""

    caching: Annotated[Caching | None, BeforeValidator(_known_mode)] = None
    """What of a prompt is read once and kept, such as `"prefix"` or `"doc"`. Default: the model's own mode."""

    streaming: StrictBool | None = None
    """Whether `invoke` streams to attached callbacks. `stream` always does."""

    _ignored: ClassVar[frozenset[str]] = _REMOTE_ONLY

    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids that `text` has inside a prompt, by the model's own tokenizer; no weights are read."""
        custom = getattr(self, "custom_get_token_ids", None)
        return list(custom(text)) if custom is not None else self.grit.tokenize(text)

    def _call_of(self, stop: list[str] | None, options: Mapping[str, Any]) -> GenerationCall:
        """Settle the options of one call.

        Raises:
            OptionError: an unknown option, or a value outside its range; nothing has been done yet.
        """
        known = self._option_names() | {"model", "top_logprobs", "caching", "documents", "stream"}
        for name in options:
            if name not in known:
                raise OptionError.unknown(name, known)
        call = {name: value for name, value in options.items() if value is not None}
        grit = self._model_of(call.get("model", self.model))
        caching = call.get("caching", self.caching or grit.caching)
        check(isinstance(call.get("stream", False), bool), "stream", call.get("stream"), "True or False")
        decoding = self._settled(call, self.decoding).with_options(stop=stop)
        return GenerationCall(grit, decoding, check_caching(caching), document_texts(call.get("documents")))

    def _identity(self, call: GenerationCall) -> dict[str, Any]:
        """Return everything that decides an answer beside the prompt, without opening a file."""
        grit, decoding = call.grit, asdict(call.decoding)
        decoding["max_tokens"] = decoding.pop("max_new_tokens")
        decoding["stop_sequences"] = decoding.pop("stop")  # LangChain overwrites "stop" with the call's
        reading = {"caching": call.caching, "precision": _precision(grit), "documents": _digest(call)}
        reading["doc_blocks"] = grit.settings.doc_blocks.under(call.caching).name
        return {"model": grit.name, "revision": grit.revision, "load": grit.load_options.key(), **reading, **decoding}

    def _answer_key(self, stop: list[str] | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return `_identity` and the checkpoint's digest; the first time, this reads the checkpoint's small files."""
        call = self._call_of(stop, options)
        return {**self._identity(call), "fingerprint": call.grit.fingerprint}

    def _answers_are_cached(self) -> bool:
        cache: BaseCache | bool | None = getattr(self, "cache", None)
        return cache is not False and (isinstance(cache, BaseCache) or get_llm_cache() is not None)

    def _trace(
        self, kind: Literal["chat", "llm"], stop: list[str] | None, options: Mapping[str, Any]
    ) -> LangSmithParams:
        """Return LangSmith's standard parameters; those of the call win, and nothing is checked or opened."""
        model, whole = options.get("model") or self.model, options.get("decoding")
        own = {"temperature": self.temperature, "max_new_tokens": self.max_tokens, "stop": self.stop}
        shown = {**(asdict(whole) if isinstance(whole, Decoding) else own), **options}
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_name=model.name if isinstance(model, GritLM) else str(model),
            ls_model_type=kind,
            ls_temperature=shown["temperature"],
            ls_max_tokens=shown.get("max_tokens", shown["max_new_tokens"]),
        )
        stops = list(shown["stop"] or ()) if stop is None else stop
        return {**params, "ls_stop": stops} if stops else params


def _precision(grit: GritLM) -> str:
    """Return how precisely blocks are stored: what was rounded may lead to another answer."""
    return "native" if grit.kv_store is None else grit.kv_store.precision


def _digest(call: GenerationCall) -> str:
    """Return a name for documents and their order; without any, an empty one. A quote names its source too."""
    sources = described(call.given) if call.decoding.quoting else []
    joined = repr((call.documents, sources)).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(joined, digest_size=16).hexdigest() if call.documents else ""
