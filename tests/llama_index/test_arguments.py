"""Wrong arguments at every constructor and call: refused by name, before anything reaches the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from endpoints import call, every_endpoint
from llama_index.core import Document, Settings, SummaryIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import ImageNode, TextNode
from llama_index_helpers import Fixed, nodes_of

from grit_integrations import Decoding, EmptyTextError, GritLM, OptionError, PromptError, Reranking
from grit_integrations.llama_index import (
    GritChatEngine,
    GritEmbedding,
    GritLLM,
    GritQueryEngine,
    GritRerank,
    GritRetriever,
    GritSynthesizer,
    install,
)

Prompts = list[tuple[list[int], Decoding]]

# No option of any kind can be one of these.
WRONG = [float("nan"), float("inf"), float("-inf"), -1, -0.5, object(), [object()]]
every_wrong = pytest.mark.parametrize("value", WRONG, ids=lambda value: str(value)[:7])
every_decoding = pytest.mark.parametrize("name", Decoding.names())
every_reranking = pytest.mark.parametrize("name", [option.name for option in fields(Reranking)])


@pytest.fixture
def index(tiny: GritLM) -> SummaryIndex:
    return SummaryIndex([TextNode(text="The heart pumps blood.")])


@every_wrong
@every_decoding
async def test_wrong_options_of_decoding(
    tiny: GritLM, index: SummaryIndex, prompts: Prompts, name: str, value: Any
) -> None:
    option = {name: value}
    llm = GritLLM(tiny)
    doors: list[Callable[[], Any]] = [
        lambda: GritLLM(tiny, **option),
        lambda: GritLLM("grit-mini", decoding=option),
        lambda: llm.model_copy(update=option),
        lambda: GritLLM.from_dict({**llm.to_dict(), **option}),
        lambda: llm.complete("Hello", **option),
        lambda: llm.stream_complete("Hello", decoding=option),
        lambda: llm.prepare("Hello", **option),
        lambda: GritQueryEngine.from_index(index, tiny, **option),
        lambda: GritChatEngine.from_index(index, tiny, **option),
        lambda: GritSynthesizer(llm).synthesize("Hello", nodes_of("text"), **option),
        lambda: install(tiny, **option),
    ]
    for door in doors:
        with pytest.raises(OptionError, match=Decoding.aliases.get(name, name)):
            door()
    with pytest.raises(OptionError, match=Decoding.aliases.get(name, name)):
        await llm.achat([], **option)
    assert prompts == []


@every_wrong
@every_reranking
def test_wrong_options_of_reranking(tiny: GritLM, name: str, value: Any) -> None:
    option = {name: value}
    rerank = GritRerank(tiny)
    doors: list[Callable[[], Any]] = [
        lambda: GritRerank(tiny, **option),
        lambda: GritRerank("grit-mini", reranking=option),
        lambda: rerank.model_copy(update=option),
        lambda: GritRerank.from_dict({**rerank.to_dict(), **option}),
    ]
    for door in doors:
        with pytest.raises(OptionError, match=name):
            door()


@pytest.mark.parametrize("value", [*WRONG, ""], ids=lambda value: str(value)[:7])
@pytest.mark.parametrize("adapter", [GritLLM, GritEmbedding, GritRerank, lambda model: GritRetriever(Fixed([]), model)])
def test_what_names_no_model(adapter: Any, value: Any) -> None:
    with pytest.raises(OptionError, match="model"):
        adapter(value)
    with pytest.raises(OptionError, match="model"):
        install(value)


@every_wrong
@pytest.mark.parametrize(
    ("adapter", "names"),
    [
        (GritLLM, "callback_manager rate_limiter output_parser pydantic_program_mode system_prompt caching revision"),
        (GritEmbedding, "callback_manager rate_limiter num_workers embeddings_cache embed_batch_size"),
        (GritEmbedding, "query_instruction text_instruction pooling truncate_dim normalize kv_store cache_policy"),
        (GritRerank, "callback_manager top_n"),
        (lambda model, **options: GritRetriever(Fixed([]), model, **options), "callback_manager prefer_cached"),
        (lambda model, **options: GritSynthesizer(GritLLM(model), **options), "query_instruction fallback caching"),
        (lambda model, **options: GritSynthesizer(GritLLM(model), **options), "prompt_helper output_cls streaming"),
        (lambda model, **options: GritSynthesizer(GritLLM(model), **options), "empty_response callback_manager"),
        (lambda model, **options: GritQueryEngine.from_args(Fixed([]), GritLLM(model), **options), "callback_manager"),
        (lambda model, **options: GritQueryEngine.from_args(Fixed([]), GritLLM(model), **options), "streaming"),
        (lambda model, **options: GritChatEngine.from_defaults(Fixed([]), GritLLM(model), **options), "memory caching"),
    ],
)
def test_wrong_arguments_of_constructors(adapter: Any, names: str, value: Any) -> None:
    for name in names.split():
        with pytest.raises(OptionError, match=name):
            adapter("grit-mini", **{name: value})


@pytest.mark.parametrize("value", [*WRONG, 0, True, "3"], ids=lambda value: str(value)[:7])
@pytest.mark.parametrize("engine", [GritQueryEngine, GritChatEngine])
def test_wrong_arguments_of_engines(tiny: GritLM, index: SummaryIndex, engine: Any, value: Any) -> None:
    with pytest.raises(OptionError, match="top_k="):
        engine.from_index(index, tiny, top_k=value)
    with pytest.raises(OptionError, match="index="):
        engine.from_index(value, tiny)
    with pytest.raises(OptionError, match="retriever="):
        GritRetriever(value, tiny)
    with pytest.raises(OptionError, match="retriever="):
        (engine.from_args if engine is GritQueryEngine else engine.from_defaults)(value, GritLLM(tiny))


@every_endpoint
@pytest.mark.parametrize("value", [0, False, b"text", {"a": "b"}, 3, object()], ids=lambda value: str(value)[:7])
async def test_wrong_arguments_of_calls(tiny: GritLM, prompts: Prompts, endpoint: str, value: Any) -> None:
    llm = GritLLM(tiny)
    with pytest.raises(PromptError, match="list of documents"):
        await call(llm, endpoint, documents=value)
    with pytest.raises(OptionError, match="caching="):
        await call(llm, endpoint, caching=value)
    with pytest.raises(PromptError, match="instruction"):
        await call(llm, endpoint, query_instruction=value)
    assert prompts == []


def test_documents_may_be_read_once(tiny: GritLM) -> None:
    llm, texts = GritLLM(tiny, max_new_tokens=2), ["The heart pumps blood.", "Stars shine by fusion."]
    wanted = llm.complete("Why?", documents=texts).text
    assert llm.complete("Why?", documents=map(str, texts)).text == wanted
    assert llm.complete("Why?", documents=(text for text in texts)).text == wanted
    synthesizer = GritSynthesizer(llm)
    assert synthesizer.get_response("Why?", (text for text in texts)) == wanted  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="list of texts"):
        synthesizer.get_response("Why?", "one text")
    with pytest.raises(PromptError, match="Document 1 is a int"):
        synthesizer.get_response("Why?", ["text", 3])  # type: ignore[list-item]


# What cannot be read


@pytest.mark.parametrize("text", ["", " \n", "a\x00b", "a\ud800b"])
async def test_questions_are_read_before_anything_is_retrieved(
    tiny: GritLM, encoded: list[int], prompts: Prompts, text: str
) -> None:
    index = SummaryIndex([TextNode(text="The heart pumps blood.")])
    query, chat = GritQueryEngine.from_index(index, tiny), GritChatEngine.from_index(index, tiny)
    for ask in (query.query, chat.chat, chat.stream_chat):
        with pytest.raises(PromptError, match=r"The (question|message)"):
            ask(text)
    for aask in (query.aquery, chat.achat, chat.astream_chat):
        with pytest.raises(PromptError, match=r"The (question|message)"):
            await aask(text)
    assert (encoded, prompts, chat.chat_history) == ([], [], [])


@pytest.mark.parametrize("bad", [TextNode(text="", id_="bad"), ImageNode(image="eA==", id_="bad"), Document(id_="bad")])
async def test_a_node_without_text_is_named_before_work(tiny: GritLM, encoded: list[int], bad: Any) -> None:
    nodes = [*(TextNode(text=f"text {n}") for n in range(8)), bad]
    embedding = GritEmbedding(tiny, embed_batch_size=2)
    for run in (embedding, lambda given: IngestionPipeline(transformations=[embedding]).run(nodes=given)):
        with pytest.raises(EmptyTextError, match="Node bad is empty"):
            run(nodes)
    with pytest.raises(EmptyTextError, match="Node bad is empty"):
        await embedding.acall(nodes)
    assert encoded == []
    assert len(embedding(nodes[:-1])) == len(await embedding.acall(nodes[:-1])) == 8


def test_settings_stay_as_they_were(clean_settings: None, tiny: GritLM) -> None:
    with pytest.raises(OptionError):
        install(tiny, temperature=-1)
    assert Settings._llm is Settings._embed_model is None
