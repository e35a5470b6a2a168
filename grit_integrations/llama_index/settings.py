"""One call that points LlamaIndex's global settings at one GritLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core import Settings

from grit_integrations.llama_index.embeddings import GritEmbedding
from grit_integrations.llama_index.llm import GritLLM
from grit_integrations.llama_index.source import as_grit
from grit_integrations.model import GritLM


def install(
    model: GritLM | str | Path | None = None,
    *,
    settings: Any = Settings,
    query_instruction: str | None = None,
    text_instruction: str | None = None,
    truncate: bool = False,
    **options: Any,
) -> GritLM:
    """Make one GritLM the language model, the embedding model and the tokenizer of LlamaIndex, and return it.

    Call it before anything else of LlamaIndex is built: splitters take the tokenizer when they are made. The framework
    keeps one tokenizer for the whole process, whichever `settings` are given. Nothing is loaded before first use.

    Args:
        model: a `GritLM`, or a name; by default the environment's `GRIT_MODEL`, else `"grit-mini"`.
        settings: what is set; by default the framework's global `Settings`.
        query_instruction: what queries are for; by default what the checkpoint says, of which GritLM says nothing.
        text_instruction: the same for documents; leave it empty for retrieval.
        truncate: cut texts that do not fit into the model's window instead of raising.
        **options: those of `GritLLM`, such as `max_new_tokens`, `temperature` or `system_prompt`.

    Raises:
        OptionError: an option that does not exist, or a value outside its range.

    Example:
        >>> from grit_integrations.llama_index import install
        >>> from llama_index.core import Document, VectorStoreIndex
        >>> grit = install("grit-mini", max_new_tokens=16)
        >>> index = VectorStoreIndex.from_documents([Document(text="The heart pumps blood.")])
        >>> len(index.as_query_engine().query("What pumps the blood?").source_nodes)
        1
    """
    grit = as_grit(model, {}, GritLLM)
    llm = GritLLM(grit, **options)
    embed_model = GritEmbedding(
        grit, query_instruction=query_instruction, text_instruction=text_instruction, truncate=truncate
    )
    settings.tokenizer = grit.tokenize
    settings.llm = llm
    settings.embed_model = embed_model
    # Helpers that were made for another model keep its window and tokenizer: let the framework make them anew.
    for helper in ("prompt_helper", "chat_prompt_helper"):  # the second came after llama-index-core 0.14.5
        if hasattr(type(settings), helper):
            setattr(settings, helper, None)
    return grit
