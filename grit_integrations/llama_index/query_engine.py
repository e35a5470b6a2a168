"""GritQueryEngine: retrieval and answers through one GritLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Self, cast

from llama_index.core import Settings
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import QueryBundle

from grit_integrations.errors import OptionError
from grit_integrations.llama_index.arguments import callbacks, check_count, check_kind
from grit_integrations.llama_index.llm import GritLLM
from grit_integrations.llama_index.retriever import GritRetriever
from grit_integrations.llama_index.synthesizer import GritSynthesizer, default_llm
from grit_integrations.model import GritLM
from grit_integrations.options import Caching
from grit_integrations.prompts.formats import check_text


class GritQueryEngine(RetrieverQueryEngine):
    """A `RetrieverQueryEngine` that answers with a `GritSynthesizer`; nothing else differs.

    Questions raise `PromptError` before anything is retrieved if the model cannot read them, `EmptyTextError` if they
    are blank.

    Example:
        >>> from grit_integrations import GritLM
        >>> from grit_integrations.llama_index import GritEmbedding, GritQueryEngine
        >>> from llama_index.core import Document, VectorStoreIndex
        >>> grit = GritLM.bundled(caching="doc")
        >>> texts = ["The heart pumps blood.", "Stars shine by fusion."]
        >>> documents = [Document(text=text) for text in texts]
        >>> index = VectorStoreIndex.from_documents(documents, embed_model=GritEmbedding(grit))
        >>> engine = GritQueryEngine.from_index(index, grit, top_k=1, max_new_tokens=4)
        >>> engine.query("What pumps the blood?").source_nodes[0].text
        'The heart pumps blood.'
    """

    @classmethod
    def from_args(  # type: ignore[override]  # a response_mode and its templates would have no effect here
        cls,
        retriever: BaseRetriever,
        llm: LLM | None = None,
        response_synthesizer: BaseSynthesizer | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] | None = None,
        callback_manager: CallbackManager | None = None,
        *,
        streaming: bool = False,
        caching: Caching | None = None,
        query_instruction: str | None = None,
        output_cls: type[BaseModel] | None = None,
    ) -> Self:
        """Return an engine around `retriever`.

        Args:
            retriever: what finds the nodes; a `GritRetriever` makes the model expect them.
            llm: a `GritLLM`; by default that of `Settings`.
            response_synthesizer: instead of a `GritSynthesizer` made of the arguments below.
            node_postprocessors: what filters or reorders nodes.
            callback_manager: the framework's callbacks.
            streaming: give responses that stream.
            caching: another mode than the language model's.
            query_instruction: what questions were embedded under (for the `query` modes of caching); by default as the
                checkpoint says.
            output_cls: a pydantic class that answers are parsed into.

        Raises:
            OptionError: a language model that is no `GritLLM`, a mode that does not exist, or no retriever.
        """
        check_kind("retriever", retriever, BaseRetriever)
        check_kind("response_synthesizer", response_synthesizer, BaseSynthesizer, NoneType)
        check_kind("node_postprocessors", node_postprocessors, Sequence, NoneType)
        synthesizer = response_synthesizer or GritSynthesizer(
            llm, streaming=streaming, caching=caching, query_instruction=query_instruction, output_cls=output_cls
        )
        manager = Settings.callback_manager if callback_manager is None else callbacks(callback_manager)
        return cls(retriever, synthesizer, list(node_postprocessors or ()), manager)

    @classmethod
    def from_index(
        cls,
        index: BaseIndex[Any],
        model: GritLM | GritLLM | str | Path | None = None,
        *,
        top_k: int | None = None,
        caching: Caching | None = None,
        streaming: bool = False,
        prefer_cached: float = 0.0,
        query_instruction: str | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] | None = None,
        **options: Any,
    ) -> Self:
        """Return an engine that retrieves from `index` and answers with `model`.

        Args:
            index: any index; its own embedding model finds the nodes.
            model: a `GritLM`, a `GritLLM`, or a name; by default the `GritLLM` of `Settings`, else as `GritLLM` says.
            top_k: how many nodes are retrieved; `None` takes the index's default.
            caching: another mode than the model's.
            streaming: give responses that stream.
            prefer_cached: see `GritRetriever`.
            query_instruction: what questions were embedded under (for the `query` modes of caching); by default as the
                checkpoint says.
            node_postprocessors: what filters or reorders nodes.
            **options: those of `GritLLM`, such as `max_new_tokens`.

        Raises:
            OptionError: an option that does not exist, or a value outside its range.
        """
        check_kind("index", index, BaseIndex)
        check_count("top_k", top_k)
        llm = as_llm(model, caching=caching, **options)
        return cls.from_args(
            grit_retriever(index, llm, top_k=top_k, prefer_cached=prefer_cached),
            llm,
            streaming=streaming,
            caching=caching,
            query_instruction=query_instruction,
            node_postprocessors=node_postprocessors,
        )

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        check_text(query_bundle.query_str, "The question")  # the framework's retrievers fail on a blank one
        return super()._query(query_bundle)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        check_text(query_bundle.query_str, "The question")
        return await super()._aquery(query_bundle)


def as_llm(model: GritLM | GritLLM | str | Path | None, *, caching: Caching | None, **options: Any) -> GritLLM:
    """Return the `GritLLM` that `model` means. One that exists is returned as it is; options would change it.

    Raises:
        OptionError: options beside a `GritLLM`, or options that do not exist.
    """
    if model is None and not options and isinstance(Settings._llm, GritLLM):
        return cast("GritLLM", default_llm())
    if not isinstance(model, GritLLM):
        return GritLLM(model, caching=caching, **options)
    if options:
        raise OptionError(f"{', '.join(options)} was given beside a GritLLM that has its own. Give it to GritLLM(...).")
    return model


def grit_retriever(
    index: BaseIndex[Any], llm: GritLLM, *, top_k: int | None, prefer_cached: float = 0.0
) -> GritRetriever:
    """Return a retriever of `index` that tells the model of `llm` about its nodes."""
    found = index.as_retriever() if top_k is None else index.as_retriever(similarity_top_k=top_k)
    return GritRetriever(found, llm.grit, prefer_cached=prefer_cached)
