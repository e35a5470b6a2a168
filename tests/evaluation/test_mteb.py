"""The model in mteb's own evaluation, on tasks that are built here: what is read how, and the scores it gets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from question_sets import DISTRACTORS, INSTRUCTION, PASSAGES, QUESTIONS

from grit_integrations import GritLM, OptionError
from grit_integrations.errors import DataError
from grit_integrations.evaluation.ranks import rank_scores

mteb = pytest.importorskip("mteb")

from datasets import Dataset  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import CrossEncoderProtocol, EncoderProtocol, ModelMeta  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from grit_integrations.evaluation.mteb import GritCrossEncoder, GritEncoder  # noqa: E402

ASKED = [(title, text) for title, text, answer in QUESTIONS if answer]
TEXTS = [*PASSAGES.values(), *DISTRACTORS]
GOLD = [list(PASSAGES).index(title) for title, _ in ASKED]
ABOUT = {
    "description": "Questions about a village.",
    "dataset": {"path": "local", "revision": "1"},
    "category": "t2t",
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
}


def split() -> RetrievalSplitData:
    ids = [f"d{index}" for index in range(len(TEXTS))]
    queries = [f"q{index}" for index in range(len(ASKED))]
    return RetrievalSplitData(
        queries=Dataset.from_list([{"id": key, "text": text} for key, (_, text) in zip(queries, ASKED, strict=True)]),
        corpus=Dataset.from_list(
            [{"id": key, "text": text, "title": ""} for key, text in zip(ids, TEXTS, strict=True)]
        ),
        relevant_docs={key: {ids[place]: 1} for key, place in zip(queries, GOLD, strict=True)},
        top_ranked=None,
    )


class VillageRetrieval(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="VillageRetrieval", type="Retrieval", main_score="ndcg_at_10", prompt={"query": INSTRUCTION}, **ABOUT
    )

    def load_data(self, num_proc: int | None = None, **options: Any) -> None:
        self.dataset = {"default": {"test": split()}}
        self.data_loaded = True


class VillageReranking(AbsTaskRetrieval):
    metadata = TaskMetadata(name="VillageReranking", type="Reranking", main_score="map_at_1000", **ABOUT)

    def load_data(self, num_proc: int | None = None, **options: Any) -> None:
        found = split()
        found["top_ranked"] = {key: list(found["corpus"]["id"]) for key in found["queries"]["id"]}
        self.dataset = {"default": {"test": found}}
        self.data_loaded = True


def score(model: object, task: AbsTaskRetrieval, cache: Any = None) -> dict[str, Any]:
    results = mteb.evaluate(model, task, cache=cache, show_progress_bar=False, encode_kwargs={"batch_size": 3})
    (figures,) = results.task_results[0].scores["test"]
    return dict(figures)


def batches(texts: list[str]) -> Iterator[dict[str, list[str]]]:
    for start in range(0, len(texts), 2):
        yield {"text": texts[start : start + 2]}


def encoded(encoder: GritEncoder, texts: list[str], kind: PromptType | None, **options: Any) -> np.ndarray:
    task = VillageRetrieval.metadata
    return encoder.encode(
        batches(texts), task_metadata=task, hf_split="test", hf_subset="default", prompt_type=kind, **options
    )


def test_both_fit_the_protocols(mini: GritLM) -> None:
    assert isinstance(GritEncoder(mini), EncoderProtocol)
    assert isinstance(GritCrossEncoder(mini), CrossEncoderProtocol)


def test_queries_are_instructed_and_documents_are_not(mini: GritLM) -> None:
    encoder, asked = GritEncoder(mini), [text for _, text in ASKED]
    close = {"atol": 1e-5}
    queries = encoded(encoder, asked, PromptType.query)
    assert np.allclose(queries, mini.embed_queries(asked, instruction=INSTRUCTION), **close)
    assert not np.allclose(queries, mini.embed_queries(asked), **close)
    assert np.allclose(encoded(encoder, TEXTS, PromptType.document), mini.embed_documents(TEXTS), **close)
    assert np.allclose(encoded(encoder, asked, None), queries, **close), "without documents, all sides are instructed"


def test_mtebs_score_of_retrieval_is_ours(mini: GritLM) -> None:
    queries = mini.embed_queries([text for _, text in ASKED], instruction=INSTRUCTION)
    ours = rank_scores(queries @ mini.embed_documents(TEXTS).T, [[place] for place in GOLD])
    found = score(GritEncoder(mini), VillageRetrieval())
    assert found["main_score"] == pytest.approx(ours.ndcg_10, abs=1e-4)
    assert found["recall_at_1"] == pytest.approx(ours.recall_1)
    assert found["main_score"] > 0.9


@pytest.mark.parametrize(
    "options",
    [{}, {"order": "passage-block", "cosine": 15.0}, {"method": "embedding", "instruction": INSTRUCTION}],
    ids=str,
)
def test_mtebs_score_of_reranking_is_ours(mini: GritLM, options: dict[str, Any]) -> None:
    places = []
    for (_, query), gold in zip(ASKED, GOLD, strict=True):
        task_prompt = {} if "instruction" in options else {"instruction": "Retrieve text based on user query."}
        ranking = mini.rerank(query, TEXTS, **{**options, **task_prompt})
        places.append([each.index for each in ranking].index(gold) + 1)
    found = score(GritCrossEncoder(mini, **options), VillageReranking())
    assert found["main_score"] == pytest.approx(np.mean([1 / place for place in places]), abs=1e-4)


def test_an_encoder_reranks_too(mini: GritLM) -> None:
    assert score(GritEncoder(mini), VillageReranking())["main_score"] > 0.9


def test_results_are_filed_by_weights_and_by_what_changes_a_vector(mini: GritLM, tmp_path: Path) -> None:
    plain = GritEncoder(mini)
    other = GritEncoder(mini.with_options(truncate_dim=8), instructions={"VillageRetrieval": "Find the village"})
    cache = mteb.ResultCache(tmp_path)
    for encoder in (plain, other):
        score(encoder, VillageRetrieval(), cache)
    assert plain.mteb_model_meta.revision == mini.fingerprint
    assert other.mteb_model_meta.embed_dim == 8
    files = list(tmp_path.rglob("VillageRetrieval.json"))
    assert len(files) == 2
    assert all(mini.fingerprint in str(path) for path in files)
    assert np.allclose(
        encoded(other, ["When?"], PromptType.query),
        mini.with_options(truncate_dim=8).embed_queries(["When?"], instruction="Find the village"),
        atol=1e-5,
    )


def test_mteb_loads_one_by_its_name(tiny_path: Path) -> None:
    for kind in (GritEncoder, GritCrossEncoder):
        meta = ModelMeta.create_empty(overwrites={"name": str(tiny_path), "loader": kind})
        assert meta.load_model(device="cpu").grit.source == str(tiny_path)


def test_a_blank_document_is_like_nothing(tiny: GritLM) -> None:
    encoder = GritEncoder(tiny)
    vectors = encoded(encoder, ["The mill.", "  ", "The bridge."], PromptType.document)
    assert not vectors[1].any()
    assert encoder.similarity(vectors[:1], vectors)[0].tolist() == pytest.approx(
        [1.0, 0.0, float(vectors[0] @ vectors[2])], abs=1e-5
    )
    assert encoder.similarity_pairwise(vectors, vectors).tolist() == pytest.approx([1.0, 0.0, 1.0], abs=1e-5)


def test_what_cannot_be_done_is_refused(tiny: GritLM) -> None:
    with pytest.raises(OptionError, match="precision='int8' is unknown here"):
        encoded(GritEncoder(tiny), ["The mill."], None, precision="int8")
    with pytest.raises(OptionError, match="device='cpu' was given beside a GritLM"):
        GritEncoder(tiny, device="cpu")
    with pytest.raises(OptionError, match="method='fast' is unknown"):
        GritCrossEncoder(tiny, method="fast")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="VillageRetrieval has image and no text"):
        GritEncoder(tiny).encode(
            [{"image": []}], task_metadata=VillageRetrieval.metadata, hf_split="test", hf_subset="default"
        )


def test_without_mteb_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['mteb'] = None\n"
        "from grit_integrations import GritLM\n"
        "from grit_integrations.evaluation.mteb import GritEncoder\n"
        "try:\n    GritEncoder('grit-mini')\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "MissingExtraError" in said
    assert "pip install 'grit_integrations[mteb]'" in said
