"""Who fails what: the conformance suite of `grit_integrations.testing` on our rerankers and on their peers.

    python benchmarks/reranker_conformance.py [--model grit-mini] [--only NAME]

All of them have the same model, so that a failure is the reranker's. A small model writes poor answers: a peer that
parses them fails cases here which it may pass with a large one, and the messages in the JSON say which. A second table
takes the model out: what becomes of an order when a scripted model says this or that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from common import RESULTS, environment, save
from langchain_core.documents import BaseDocumentCompressor
from llama_index.core.postprocessor.types import BaseNodePostprocessor

from grit_integrations import GritLM
from grit_integrations.reranking.permutations import read_order
from grit_integrations.testing import LangChainRerankerSuite, LlamaIndexRerankerSuite, RerankerSuite, run_conformance

Make = Callable[[int], Any]  # from top_n
NUMBERED = list(enumerate("abc", start=1))


def langchain_rerankers(grit: GritLM) -> dict[str, tuple[bool, Make]]:
    """Return document compressors, each with whether it scores passages independently and how it is made."""
    from langchain_classic.retrievers.document_compressors import (
        CrossEncoderReranker,
        LLMListwiseRerank,
    )

    from grit_integrations.langchain import ChatGrit, GritReranker

    chat = ChatGrit(model=grit, max_tokens=48)
    return {
        "GritReranker, pointwise": (True, lambda top_n: GritReranker(model=grit, top_n=top_n)),
        "GritReranker, listwise": (False, lambda top_n: GritReranker(model=grit, top_n=top_n, method="listwise")),
        "GritReranker, embedding": (True, lambda top_n: GritReranker(model=grit, top_n=top_n, method="embedding")),
        "langchain-classic CrossEncoderReranker": (
            True,
            lambda top_n: CrossEncoderReranker(model=GritReranker(model=grit).as_cross_encoder(), top_n=top_n),
        ),
        "langchain-classic LLMListwiseRerank": (False, lambda top_n: LLMListwiseRerank.from_llm(chat, top_n=top_n)),
    }


def llama_index_rerankers(grit: GritLM) -> dict[str, tuple[bool, Make]]:
    """Return node postprocessors in the same way."""
    from llama_index.core.postprocessor import LLMRerank
    from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank

    from grit_integrations.llama_index import GritLLM, GritRerank

    llm = GritLLM(grit, max_new_tokens=48)
    return {
        "GritRerank, pointwise": (True, lambda top_n: GritRerank(grit, top_n=top_n)),
        "GritRerank, listwise": (False, lambda top_n: GritRerank(grit, top_n=top_n, method="listwise")),
        "GritRerank, embedding": (True, lambda top_n: GritRerank(grit, top_n=top_n, method="embedding")),
        "LlamaIndex RankGPTRerank": (False, lambda top_n: RankGPTRerank(top_n=top_n, llm=llm)),
        "LlamaIndex LLMRerank": (False, lambda top_n: LLMRerank(llm=llm, top_n=top_n)),
    }


# What a model may say of three passages, and the order that is right.
SAID = {
    "[2] > [1] > [3]": [2, 1, 3],
    "[2]": [2, 1, 3],
    "[3] > [3] > [1]": [3, 1, 2],
    "[3] > [7] > [0]": [3, 1, 2],
    "": [1, 2, 3],
    "I cannot rank these 3 passages.": [1, 2, 3],
    "Of the 3 passages, [2] is the best.": [2, 1, 3],
    "The 2nd passage is from 1789; I rank [3] > [1] > [2].": [3, 1, 2],
}


def rankgpt_order(said: str) -> list[int] | str:
    """Return the order that RankGPTRerank makes of what a scripted model says, or its error."""
    from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
    from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank
    from llama_index.core.schema import NodeWithScore, TextNode

    class Scripted(CustomLLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata()

        def complete(self, prompt: str, formatted: bool = False, **options: Any) -> CompletionResponse:
            return CompletionResponse(text=said)

        def stream_complete(self, prompt: str, formatted: bool = False, **options: Any) -> Any:
            raise NotImplementedError

    nodes = [NodeWithScore(node=TextNode(text=f"Passage {letter}.", id_=str(n)), score=0.5) for n, letter in NUMBERED]
    try:
        found = RankGPTRerank(top_n=3, llm=Scripted()).postprocess_nodes(nodes, query_str="Which?")
    except Exception as error:  # what a chain would see
        return f"{type(error).__name__}: {error}"
    return [int(node.node_id) for node in found]


def parsed() -> dict[str, dict[str, Any]]:
    """Return the orders that are made of each text, the right one among them."""
    return {
        said: {
            "right": right,
            "ours": [place + 1 for place in read_order(said, 3)],
            "RankGPTRerank": rankgpt_order(said),
        }
        for said, right in SAID.items()
    }


def langchain_suite(scores_alone: bool, make: Make) -> RerankerSuite[Any]:
    """Return the suite of a document compressor."""

    class Suite(LangChainRerankerSuite):
        independent = scores_alone

        def compressor(self, top_n: int) -> BaseDocumentCompressor:
            return make(top_n)

    return Suite()


def llama_index_suite(scores_alone: bool, make: Make) -> RerankerSuite[Any]:
    """Return the suite of a node postprocessor."""

    class Suite(LlamaIndexRerankerSuite):
        independent = scores_alone

        def postprocessor(self, top_n: int) -> BaseNodePostprocessor:
            return make(top_n)

    return Suite()


def run(model: str, only: str) -> dict[str, Any]:
    """Run every reranker whose name has `only` in it through the suite."""
    grit = GritLM.from_pretrained(model)
    suites = {name: (langchain_suite, *how) for name, how in langchain_rerankers(grit).items()}
    suites |= {name: (llama_index_suite, *how) for name, how in llama_index_rerankers(grit).items()}
    found: dict[str, Any] = {}
    for name, (suite, scores_alone, make) in suites.items():
        if only.lower() not in name.lower():
            continue
        start = time.perf_counter()
        try:
            make(3)
        except Exception as error:  # a peer that cannot work with this model at all
            found[name] = {"unavailable": f"{type(error).__name__}: {error}"}
        else:
            results = run_conformance(suite(scores_alone, make))
            found[name] = {
                "cases": {result.case: {"outcome": result.outcome, "message": result.message} for result in results},
                "seconds": round(time.perf_counter() - start, 1),
            }
        print(f"{name}: {summary(found[name])}", flush=True)
    return {"model": model, "rerankers": found, "parsed": parsed(), "environment": environment()}


def of_outcome(reranker: dict[str, Any], outcome: str) -> list[str]:
    """Return the cases of a reranker that ended so."""
    return [case for case, result in reranker.get("cases", {}).items() if result["outcome"] == outcome]


def summary(reranker: dict[str, Any]) -> str:
    """Return one line on a reranker."""
    if "unavailable" in reranker:
        return f"cannot be made: {reranker['unavailable'].splitlines()[0][:90]}"
    passed, failed = (len(of_outcome(reranker, outcome)) for outcome in ("passed", "failed"))
    return f"{passed} passed, {failed} failed, {reranker['seconds']} s"


def report(result: dict[str, Any]) -> None:
    """Print who fails what."""
    print(f"\nModel: {result['model']}; {result['environment']}")
    print("| reranker | passed | failed | what fails |")
    print("|---|---|---|---|")
    for name, reranker in result["rerankers"].items():
        if "unavailable" in reranker:
            print(f"| {name} | | | {summary(reranker)} |")
            continue
        failed = of_outcome(reranker, "failed")
        print(f"| {name} | {len(of_outcome(reranker, 'passed'))} | {len(failed)} | {'; '.join(failed) or '–'} |")
    print("\n| the model says | right | ours | RankGPTRerank |")
    print("|---|---|---|---|")
    for said, orders in result["parsed"].items():
        print(f"| {said!r} | {orders['right']} | {orders['ours']} | {orders['RankGPTRerank']} |")


def plot(result: dict[str, Any]) -> None:
    """Draw rerankers against cases."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap

    run_ones = {name: reranker for name, reranker in result["rerankers"].items() if "cases" in reranker}
    cases = list(next(iter(run_ones.values()))["cases"])
    kinds = {"failed": 0, "skipped": 1, "passed": 2}
    grid = [[kinds[reranker["cases"][case]["outcome"]] for case in cases] for reranker in run_ones.values()]
    figure, axes = plt.subplots(figsize=(10, 1.9 + 0.3 * len(grid)))
    axes.imshow(grid, cmap=ListedColormap(["#dc2626", "#e5e7eb", "#16a34a"]), vmin=0, vmax=2, aspect="auto")
    axes.set_xticks(range(len(cases)), cases, rotation=40, ha="right", fontsize=7)
    axes.set_yticks(range(len(grid)), list(run_ones), fontsize=7)
    axes.set_xticks([at - 0.5 for at in range(1, len(cases))], minor=True)
    axes.set_yticks([at - 0.5 for at in range(1, len(grid))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.set_title(f"green: passed, red: failed, grey: does not apply ({result['model']})", fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "reranker_conformance.png", dpi=150)


def main() -> None:
    """Run, print, save, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="grit-mini")
    parser.add_argument("--only", default="", help="a part of the rerankers' names; nothing is saved then")
    options = parser.parse_args()
    result = run(options.model, options.only)
    report(result)
    if not options.only:
        print(save("reranker_conformance", result))
        plot(result)


if __name__ == "__main__":
    main()
