"""The reranking stream: whether a passage answers a query, or in which order a few passages do, as conversations."""

from __future__ import annotations

import random
from collections.abc import Sequence

from grit_integrations.training.data import Pair, Text
from grit_integrations.training.generative import GenerativeObjective

LONGEST = 600  # characters of a query or passage, as in the reference's `scripts/AbsTaskRetrieval.py`
MOST_PASSAGES = 5  # in a list
POINTWISE = (
    "Given a query and a passage, judge whether the passage is relevant to the query or not.\n\n"
    "Query: {query}\nPassage: {passage}\n\n"
    "Answer with yes if the passage is relevant to the query, and no otherwise."
)
ANSWER = "Answer:"  # what the reference's prompt puts into the assistant's mouth
LISTWISE = (
    "I will provide you with {count} passages, each indicated by number identifier []. Rank the passages based on "
    "their relevance to query: {query}.\n\n{passages}\n\nSearch Query: {query}.\n"
    "Rank the {count} passages above based on their relevance to the search query. The passages should be listed in "
    "descending order using identifiers. The most relevant passages should be listed first. The output format should "
    "be [] > [], e.g., [1] > [2]. Only response the ranking results, do not say any word or explain."
)


class RerankingObjective(GenerativeObjective):
    """Cross-entropy of verdicts, or of rankings, on rows of the embedding stream's format."""

    def texts(self) -> Sequence[Text]:
        """Return the next batch's conversations, of all processes, and move on."""
        rng, kind = self.stream.rng("sample"), self.context.config.reranking_kind
        pairs: Sequence[Pair] = next(self.stream)
        if kind == "listwise":
            return [as_ranking(pair, rng) for pair in pairs]
        return [text for pair in pairs for text in as_verdicts(pair, rng)]

    @property
    def longest(self) -> int:
        """The model's window: a cut would take the instruction, and characters are bounded already."""
        return self.context.window


def as_verdicts(pair: Pair, rng: random.Random) -> list[Text]:
    """Return a conversation that says yes to one positive and, if there are negatives, one that says no to one."""
    chosen = [(rng.choice(pair.positives), "yes")]
    if pair.negatives:
        chosen.append((rng.choice(pair.negatives), "no"))
    return [
        Text(
            (POINTWISE.format(query=pair.query[:LONGEST], passage=passage[:LONGEST]), f" {verdict}"),
            opening=ANSWER,
        )
        for passage, verdict in chosen
    ]


def as_ranking(pair: Pair, rng: random.Random) -> Text:
    """Return a conversation that ranks a shuffled list: a positive first, then negatives in the row's order."""
    ranked = [rng.choice(pair.positives), *pair.negatives[: MOST_PASSAGES - 1]]
    shown = rng.sample(range(len(ranked)), len(ranked))  # shown[i] is the rank of passage [i + 1]
    passages = "\n".join(f"[{place}] {ranked[rank][:LONGEST]}" for place, rank in enumerate(shown, start=1))
    order = " > ".join(f"[{shown.index(rank) + 1}]" for rank in range(len(ranked)))
    prompt = LISTWISE.format(count=len(ranked), query=pair.query[:LONGEST], passages=passages)
    return Text((prompt, order))
