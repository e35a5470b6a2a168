"""Our parts among the framework's other ones: engines around engines, retrievers around retrievers, every index."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import (
    Document,
    DocumentSummaryIndex,
    KeywordTableIndex,
    KnowledgeGraphIndex,
    PropertyGraphIndex,
    Settings,
    SimpleKeywordTableIndex,
    StorageContext,
    SummaryIndex,
    TreeIndex,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.evaluation import RelevancyEvaluator, RetrieverEvaluator, SemanticSimilarityEvaluator
from llama_index.core.indices.query.query_transform import HyDEQueryTransform, StepDecomposeQueryTransform
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceWindowNodeParser, get_leaf_nodes
from llama_index.core.postprocessor import (
    LongContextReorder,
    MetadataReplacementPostProcessor,
    SimilarityPostprocessor,
)
from llama_index.core.query_engine import (
    CitationQueryEngine,
    MultiStepQueryEngine,
    RetryQueryEngine,
    RouterQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.retrievers import AutoMergingRetriever, QueryFusionRetriever, RecursiveRetriever
from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.selectors import EmbeddingSingleSelector
from llama_index.core.tools import QueryEngineTool

from grit_integrations import Decoding, GritLM, OptionError, Quoting
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

TEXTS = [
    "The heart pumps blood through the arteries and back through the veins.",
    "Stars shine because hydrogen fuses into helium in their cores.",
    "The Moon drifts away from Earth by 3.8 centimeters per year.",
    "A railway crosses the plain from north to south.",
]
QUESTION = "Why do stars shine?"
EARLIER = [NodeWithScore(node=TextNode(text=TEXTS[1]), score=0.5)]


@pytest.fixture(autouse=True)
def _installed(clean_settings: None, tiny: GritLM) -> None:
    install(tiny, max_new_tokens=4)


def documents() -> list[Document]:
    return [Document(text=text, metadata={"page": page}, id_=str(page)) for page, text in enumerate(TEXTS)]


@pytest.fixture
def index() -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(documents())


# Engines around ours

ENGINES: dict[str, Callable[[GritQueryEngine], Any]] = {
    "multi-step": lambda inner: MultiStepQueryEngine(inner, StepDecomposeQueryTransform(), index_summary="All of it"),
    "transform": lambda inner: TransformQueryEngine(inner, HyDEQueryTransform()),
    "retry": lambda inner: RetryQueryEngine(inner, evaluator=RelevancyEvaluator(), max_retries=1),
    "citation": lambda inner: CitationQueryEngine(retriever=inner.retriever, response_synthesizer=GritSynthesizer()),
}


@pytest.mark.parametrize("around", ENGINES.values(), ids=ENGINES)
async def test_engines_around_ours(index: VectorStoreIndex, around: Callable[[GritQueryEngine], Any]) -> None:
    engine = around(GritQueryEngine.from_index(index, top_k=2))
    assert str(engine.query(QUESTION)).strip()
    assert str(await engine.aquery(QUESTION)).strip()


@pytest.mark.usefixtures("mini")
async def test_a_router_chooses_by_our_vectors(clean_settings: None) -> None:
    install("grit-mini", max_new_tokens=4)
    sky, kitchen = (
        QueryEngineTool.from_defaults(
            GritQueryEngine.from_index(VectorStoreIndex.from_documents([Document(text=text)])), name, about
        )
        for text, name, about in (
            (TEXTS[2], "sky", "Answers questions about the Moon, planets and stars."),
            ("Bread is baked at 230 degrees.", "kitchen", "Answers questions about cooking and baking."),
        )
    )
    selector = EmbeddingSingleSelector.from_defaults(Settings.embed_model)
    router = RouterQueryEngine.from_defaults([kitchen, sky], selector=selector)
    for response in (router.query("How far is the Moon?"), await router.aquery("How far is the Moon?")):
        assert [node.text for node in response.source_nodes] == [TEXTS[2]]


# Retrievers around retrievers


class Unmade(BaseRetriever):
    """Like the framework's retriever of property graphs, it never ran its base's constructor."""

    def __init__(self) -> None:
        pass

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return list(EARLIER)


def _fused(index: VectorStoreIndex) -> BaseRetriever:
    return QueryFusionRetriever([index.as_retriever(), GritRetriever(index)], num_queries=1, use_async=False)


def _merging(index: VectorStoreIndex) -> BaseRetriever:
    parser = HierarchicalNodeParser.from_defaults(chunk_sizes=[128, 64], chunk_overlap=0)
    nodes = parser.get_nodes_from_documents([Document(text=" ".join(TEXTS * 4))])
    context = StorageContext.from_defaults()
    context.docstore.add_documents(nodes)
    leaves = VectorStoreIndex(get_leaf_nodes(nodes), storage_context=context)
    return AutoMergingRetriever(GritRetriever(leaves.as_retriever(similarity_top_k=4)), context)


def _objects(index: VectorStoreIndex) -> BaseRetriever:
    pointer = IndexNode(text="All about the sky", index_id="sky", obj=index.as_retriever())
    return VectorStoreIndex(nodes=[], objects=[pointer]).as_retriever()


RETRIEVERS: dict[str, Callable[[VectorStoreIndex], BaseRetriever]] = {
    "fusion": _fused,
    "merging": _merging,
    "objects": _objects,
    "recursive": lambda index: RecursiveRetriever("r", retriever_dict={"r": index.as_retriever()}),
    "unmade": lambda _: Unmade(),
}


@pytest.mark.parametrize("make", RETRIEVERS.values(), ids=RETRIEVERS)
async def test_retrievers_around_retrievers(
    index: VectorStoreIndex, make: Callable[[VectorStoreIndex], BaseRetriever]
) -> None:
    inner = make(index)
    retriever = GritRetriever(inner)
    wanted = [node.node.get_content() for node in inner.retrieve(QUESTION)]
    assert wanted
    assert [node.node.get_content() for node in retriever.retrieve(QUESTION)] == wanted
    assert [node.node.get_content() for node in await retriever.aretrieve(QUESTION)] == wanted
    assert str(GritQueryEngine.from_args(retriever).query(QUESTION)).strip()


INDEXES = [SummaryIndex, TreeIndex, KeywordTableIndex, SimpleKeywordTableIndex, DocumentSummaryIndex]


@pytest.mark.parametrize("kind", [*INDEXES, PropertyGraphIndex, KnowledgeGraphIndex])
def test_every_index_answers(kind: Any) -> None:
    engine = GritQueryEngine.from_index(kind.from_documents(documents()))
    response, again = engine.query(QUESTION), asyncio.run(engine.aquery(QUESTION))
    texts = [node.node.get_content() for node in response.source_nodes]
    assert [node.node.get_content() for node in again.source_nodes] == texts
    assert str(again) == str(response)
    if kind in (SummaryIndex, DocumentSummaryIndex):
        assert set(texts) <= set(TEXTS)
        assert texts


# Postprocessors


def test_quotes_are_of_what_a_postprocessor_put_into_the_node() -> None:
    parser = SentenceWindowNodeParser.from_defaults(window_size=1)
    index = VectorStoreIndex(parser.get_nodes_from_documents([Document(text=" ".join(TEXTS))]))
    windows = MetadataReplacementPostProcessor("window").postprocess_nodes(index.as_retriever().retrieve(QUESTION))
    (quote,) = GritSynthesizer().synthesize(QUESTION, windows, quote=True).metadata["quotes"]
    (quoted,) = {found.node.get_content() for found in windows if found.node_id == quote["node_id"]}
    assert quoted[quote["start"] : quote["end"]] == quote["text"]


def test_postprocessors_before_and_behind_the_reranker(tiny: GritLM, index: VectorStoreIndex) -> None:
    steps: list[Any] = [LongContextReorder(), GritRerank(tiny), SimilarityPostprocessor(similarity_cutoff=0.0)]
    engine = GritQueryEngine.from_index(index, top_k=4, node_postprocessors=steps)
    scores = [node.score or 0 for node in engine.query(QUESTION).source_nodes]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 4
    with pytest.raises(OptionError, match="query_bundle='text'"):
        GritRerank(tiny).postprocess_nodes(EARLIER, "text")  # type: ignore[arg-type]


# What changes, and what is kept


def test_an_index_follows_its_documents(tmp_path: Any) -> None:
    index = VectorStoreIndex.from_documents(documents())
    index.insert(Document(text="Iron rusts.", id_="iron"))
    index.delete_ref_doc("0", delete_from_docstore=True)
    index.update_ref_doc(Document(text="A verb agrees with its subject.", id_="1"))
    assert index.refresh_ref_docs([*documents()[2:], Document(text="Iron melts.", id_="iron")]) == [False, False, True]
    wanted = {"A verb agrees with its subject.", "Iron melts.", *TEXTS[2:]}
    found = index.as_retriever(similarity_top_k=9).retrieve(QUESTION)
    assert {node.text for node in found} == wanted
    index.storage_context.persist(str(tmp_path))
    again: Any = load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path)))
    same = again.as_retriever(similarity_top_k=9).retrieve(QUESTION)
    assert [(node.text, node.score) for node in same] == [(node.text, node.score) for node in found]


async def test_evaluators_take_our_parts(index: VectorStoreIndex) -> None:
    (node,) = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
    evaluator = RetrieverEvaluator.from_metric_names(["hit_rate", "mrr"], retriever=GritRetriever(index))
    result = await evaluator.aevaluate(QUESTION, [node.node_id])
    assert result.metric_vals_dict == {"hit_rate": 1.0, "mrr": 1.0}
    same = SemanticSimilarityEvaluator().evaluate(response="By fusion.", reference="By fusion.")
    assert same.score == pytest.approx(1, abs=1e-5)


# What tracers see


async def test_every_event_is_json(tiny: GritLM, index: VectorStoreIndex, recorded: Callable[[], list[Any]]) -> None:
    llm = GritLLM(tiny, max_new_tokens=2)
    GritQueryEngine.from_index(index, llm, node_postprocessors=[GritRerank(tiny)]).query(QUESTION)
    GritSynthesizer(llm).synthesize(QUESTION, EARLIER, quote=Quoting(method="spans"))
    llm.complete(QUESTION, documents=llm.prepare(QUESTION, documents=TEXTS), decoding=Decoding(max_new_tokens=1))
    await GritChatEngine.from_index(index, llm).achat(QUESTION)
    _ = [piece async for piece in await llm.astream_complete(QUESTION, documents=TEXTS, quote=True)]
    await GritEmbedding(tiny).aget_text_embedding_batch(TEXTS)
    for event in recorded():
        assert json.loads(event.model_dump_json())
    kinds = {type(event).__name__ for event in recorded()}
    assert kinds >= {"KVCacheEvent", "ReRankEndEvent", "EmbeddingEndEvent", "LLMCompletionEndEvent", "QueryEndEvent"}
