"""One reranking from the caller's texts to their order: checked, judged by one of the methods, nothing lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from grit_integrations.errors import OptionError, RerankError
from grit_integrations.prompts.formats import as_list, check_characters, check_text
from grit_integrations.reranking import cosines, listwise, pointwise
from grit_integrations.reranking.ranking import in_order
from grit_integrations.results import Ranked

if TYPE_CHECKING:
    from grit_integrations.engine.session import Session
    from grit_integrations.options import Reranking


def rerank(
    session: Session,
    query: str,
    passages: Sequence[str],
    settings: Reranking,
    *,
    top_n: int | None = None,
    vectors: npt.ArrayLike | None = None,
    progress: bool | None = None,
) -> list[Ranked]:
    """Put passages in order, the best first, ties as they were given; arguments and errors are `GritLM.rerank`'s.

    Every complaint about the arguments comes before any work. Equal passages are judged once. Blank ones come last,
    with the method's lowest score.
    """
    texts = _checked(query, passages, top_n)
    first: dict[str, int] = {}  # of each text that is not blank, where it stands first
    for index, text in enumerate(texts):
        if text.strip():
            first.setdefault(text, index)
    given = _vectors_of(list(first.values()), len(texts), settings, vectors)
    found = _scores(session, query, list(first), settings, vectors=given, progress=progress) if first else []
    score_of = dict(zip(first, found, strict=True))
    judged = [index for index, text in enumerate(texts) if text in score_of]
    ranking = [Ranked(judged[each.index], each.score) for each in in_order([score_of[texts[at]] for at in judged])]
    ranking += [Ranked(index, lowest(settings)) for index, text in enumerate(texts) if text not in score_of]
    return ranking[:top_n]


def lowest(settings: Reranking) -> float:
    """Return the lowest score that a method gives.

    >>> from grit_integrations import Reranking
    >>> lowest(Reranking()), lowest(Reranking(score="logit")), lowest(Reranking(method="embedding"))
    (0.0, -inf, -1.0)
    """
    if settings.method == "embedding":
        return -1.0
    return -math.inf if settings.method == "pointwise" and settings.score == "logit" else 0.0


def _checked(query: str, passages: Sequence[str], top_n: int | None) -> list[str]:
    if top_n is not None and (not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1):
        raise OptionError(f"top_n={top_n!r} is not possible. Give a whole number from 1 up, or None for all.")
    check_text(query, "The query")
    given = as_list(passages, "passages")
    return [check_characters(passage, f"Passage {index}") for index, passage in enumerate(given)]


def _vectors_of(
    places: Sequence[int], count: int, settings: Reranking, passage_vectors: npt.ArrayLike | None
) -> npt.ArrayLike | None:
    """Return the vectors of the passages that are judged."""
    if passage_vectors is None:
        return None
    if not settings.compares_vectors:
        raise OptionError(
            f"passage_vectors were given with method={settings.method!r}, which reads the passages' text. Pass "
            "method='embedding' or cosine=..., or leave them out."
        )
    try:
        vectors = np.asarray(passage_vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise OptionError(f"passage_vectors are no array of numbers ({error}). Pass one vector a passage.") from None
    if len(np.atleast_1d(vectors)) != count:
        raise OptionError(
            f"passage_vectors have the shape {vectors.shape}; {count} passages need ({count}, dim). Pass one vector a "
            "passage, in the passages' order."
        )
    return np.atleast_1d(vectors)[list(places)]


def _scores(
    session: Session,
    query: str,
    passages: Sequence[str],
    settings: Reranking,
    *,
    vectors: npt.ArrayLike | None,
    progress: bool | None,
) -> list[float]:
    compared = partial(cosines.scores, session, query, passages, settings, vectors)
    if settings.method == "pointwise":
        added = compared if settings.cosine else None
        found = pointwise.scores(session, query, passages, settings, cosines=added, progress=progress)
    elif settings.method == "embedding":
        found = compared()
    else:
        found = _by_place(listwise.places(session, query, passages, settings))
    if not all(map(math.isfinite, found)):
        raise RerankError(
            f"{session.checkpoint.name}: a score is not a finite number in the model's precision, so nothing is put in "
            "order. Load it with dtype='float32'."
        )
    return found


def _by_place(places: Sequence[int]) -> list[float]:
    """Return the score of each passage, in (0, 1], from their order.

    >>> _by_place([2, 0, 1])
    [0.6666666666666666, 0.3333333333333333, 1.0]
    """
    scores = [0.0] * len(places)
    for place, index in enumerate(places):
        scores[index] = (len(places) - place) / len(places)
    return scores
