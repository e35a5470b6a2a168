"""What LangChain's adapters and LlamaIndex's do alike: the order of retrieved documents, usage, options, complaints."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index_helpers import Fixed

from grit_integrations import Decoding, GritLM, KVCacheStore, OptionError, Quoting, Reranking
from grit_integrations.langchain import ChatGrit, GritReranker
from grit_integrations.langchain import GritLLM as LangChainLLM
from grit_integrations.langchain import GritRetriever as LangChainRetriever
from grit_integrations.llama_index import GritLLM as LlamaIndexLLM
from grit_integrations.llama_index import GritRerank
from grit_integrations.llama_index import GritRetriever as LlamaIndexRetriever

QUERY = "What pumps blood?"
# Blank, unreadable and too long ones too: they must neither fail nor move others.
TEXTS = [*(f"Document {n} tells how blood is pumped through the body." for n in range(5)), " ", "\0", "word " * 5000]

score = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.9, 0.86, 0.82, 0.5, float("nan")]))


class FixedDocuments(BaseRetriever):
    """Returns what it was given, as some other retriever would."""

    found: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return self.found


def langchain_order(grit: GritLM, found: list[tuple[str, float | None]], margin: float) -> list[str]:
    documents = [
        Document(text, id=str(place), metadata={} if value is None else {"relevance_score": value})
        for place, (text, value) in enumerate(found)
    ]
    retriever = LangChainRetriever(
        retriever=FixedDocuments(found=documents), model=grit, k=len(TEXTS), prefer_cached=margin
    )
    return [str(document.id) for document in retriever.invoke(QUERY)]


def llama_index_order(grit: GritLM, found: list[tuple[str, float | None]], margin: float) -> list[str]:
    nodes = [
        NodeWithScore(node=TextNode(text=text, id_=str(place)), score=value)
        for place, (text, value) in enumerate(found)
    ]
    return [node.node_id for node in LlamaIndexRetriever(Fixed(nodes), grit, prefer_cached=margin).retrieve(QUERY)]


@pytest.fixture(scope="module")
def half_stored(tiny: GritLM) -> GritLM:
    """A model that has read every second document."""
    grit = tiny.with_options(kv_store=KVCacheStore(None))
    grit.cache_documents(TEXTS[:5:2])
    return grit


@given(
    found=st.lists(st.tuples(st.sampled_from(TEXTS), score), max_size=6),
    ranked=st.booleans(),
    margin=st.sampled_from([0.0, 0.01, 0.05, 0.1, 1.0]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_retrievers_prefer_the_same_documents(
    half_stored: GritLM, found: list[tuple[str, float | None]], ranked: bool, margin: float
) -> None:
    if ranked:
        found = sorted(found, key=lambda pair: -(pair[1] or 0))
    order = langchain_order(half_stored, found, margin)
    assert order == llama_index_order(half_stored, found, margin)
    assert sorted(order) == [str(place) for place in range(len(found))]


def test_a_stored_document_passes_those_within_the_margin(half_stored: GritLM) -> None:
    found: list[tuple[str, float | None]] = [(TEXTS[1], 0.90), (TEXTS[3], 0.86), (TEXTS[2], 0.82)]
    for order in (langchain_order, llama_index_order):
        assert order(half_stored, found, 0.05) == ["0", "2", "1"]
        assert order(half_stored, found, 0.1) == ["2", "0", "1"]
        assert order(half_stored, found, 0.0) == ["0", "1", "2"]


# Usage


@pytest.mark.parametrize("streams", [False, True])
def test_both_report_the_same_usage(tiny: GritLM, streams: bool) -> None:
    def langchain() -> list[Any]:
        chat = ChatGrit(model=tiny.with_options(kv_store=KVCacheStore(None)), max_tokens=3)
        options: dict[str, Any] = {"documents": TEXTS[:3]}
        answers = [
            list(chat.stream(QUERY, **options))[-1] if streams else chat.invoke(QUERY, **options) for _ in range(2)
        ]
        found = [answer.usage_metadata or {} for answer in answers]
        return [(u["input_tokens"], u["output_tokens"], u["input_token_details"]["cache_read"]) for u in found]

    def llama_index() -> list[Any]:
        llm = LlamaIndexLLM(tiny.with_options(kv_store=KVCacheStore(None)), max_new_tokens=3)
        asked, options = [ChatMessage(role="user", content=QUERY)], {"documents": TEXTS[:3]}
        answers = [
            list(llm.stream_chat(asked, **options))[-1] if streams else llm.chat(asked, **options) for _ in range(2)
        ]
        found = [answer.raw["usage"] for answer in answers]
        return [
            (u["prompt_tokens"], u["completion_tokens"], u["prompt_tokens_details"]["cached_tokens"]) for u in found
        ]

    usages = langchain()
    assert usages == llama_index()
    (prompt, _, missed), (_, _, read) = usages
    assert missed == 0 < read < prompt


# Options

DECODINGS: dict[str, Any] = {
    "max_new_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "seed": 3,
    "repetition_penalty": 1.1,
    "stop": ("#",),
    "logprobs": 2,
    "quote": Quoting(neighbours=2),
}
RERANKINGS: dict[str, Any] = {
    "method": "listwise",
    "order": "passage-first",
    "score": "logit",
    "cosine": 0.5,
    "passage_tokens": 64,
    "window": 30,
    "step": 5,
    "instruction": "Find what is meant",
}


def langchains_words(name: str, value: Any) -> dict[str, Any]:
    return {"logprobs": True, "top_logprobs": value} if name == "logprobs" else {name: value}


@pytest.mark.parametrize("name", [option.name for option in fields(Decoding)])
def test_every_option_of_decoding_reaches_every_generator(name: str) -> None:
    value = DECODINGS[name]
    wanted = Decoding(**{name: value})
    single = langchains_words(name, value)
    for adapter in (ChatGrit, LangChainLLM):
        for made in (adapter(decoding=wanted), adapter(**single), adapter().model_copy(update={"decoding": wanted})):
            assert made.decoding == wanted
            assert made._call_of(None, {}).decoding == wanted
        assert adapter()._call_of(None, single).decoding == adapter()._call_of(None, {"decoding": wanted}).decoding
        assert adapter()._call_of(None, single).decoding == wanted
    for made in (LlamaIndexLLM(decoding=wanted), LlamaIndexLLM(**{name: value})):
        assert made.decoding == wanted
        assert LlamaIndexLLM.from_json(made.to_json()).decoding == wanted
    assert LlamaIndexLLM()._call_of({name: value}).decoding == wanted


@pytest.mark.parametrize("name", [option.name for option in fields(Reranking)])
def test_every_option_of_reranking_reaches_every_reranker(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(GritLM, "rerank", lambda *_, top_n, **options: asked.append(options) or [])
    wanted, nodes = Reranking(**{name: RERANKINGS[name]}), [NodeWithScore(node=TextNode(text="text"))]
    for options in ({name: RERANKINGS[name]}, {"reranking": wanted}):
        GritReranker(**options).rerank(["text"], QUERY)
        GritRerank("grit-mini", **options).postprocess_nodes(nodes, query_str=QUERY)
    assert [Reranking(**options) for options in asked] == [wanted] * 4


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"max_tokens": 0},
        {"stop": [""]},
        {"quote": "yes"},
        {"temprature": 1},
        {"caching": "docs"},
        {"decoding": 3},
        {"decoding": Decoding(top_k=3), "top_k": 4},
        {"max_tokens": 3, "max_new_tokens": 4},
    ],
)
def test_generators_complain_in_the_same_words(options: dict[str, Any]) -> None:
    def complaint(make: Any) -> str:
        with pytest.raises(OptionError) as caught:
            make(**options)
        return str(caught.value).partition("Options are")[0]

    assert complaint(ChatGrit) == complaint(LangChainLLM) == complaint(LlamaIndexLLM)


@pytest.mark.parametrize("options", [{"top_n": 0}, {"window": 5, "step": 5}, {"method": "pairwise"}, {"topn": 3}])
def test_rerankers_complain_in_the_same_words(options: dict[str, Any]) -> None:
    def complaint(make: Any) -> str:
        with pytest.raises(OptionError) as caught:
            make(**options)
        return str(caught.value).partition("Options are")[0]

    assert complaint(GritReranker) == complaint(GritRerank)
