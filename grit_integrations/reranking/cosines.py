"""Passages compared with the query by vectors: what a bi-encoder retrieves by, without a pass over both together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from grit_integrations.engine.vectors import Embedding, embed
from grit_integrations.errors import OptionError

if TYPE_CHECKING:
    from grit_integrations.engine.session import Session
    from grit_integrations.options import Reranking


def scores(
    session: Session, query: str, passages: Sequence[str], settings: Reranking, passage_vectors: npt.ArrayLike | None
) -> list[float]:
    """Return the cosine of the query's vector and each passage's, in -1..1.

    Args:
        session: embeds the query, and the passages if they have no vectors yet.
        query: embedded under the settings' instruction.
        passages: those that do not fit into the window lose their end, with a warning.
        settings: the query's instruction, and the most tokens of a passage.
        passage_vectors: (passages, dim), such as a vector store holds of this model; of any length.

    Raises:
        OptionError: vectors of another shape, or with components that are not numbers.
        ContextOverflowError: the query does not fit into the window.
    """
    if not passages:
        return []
    given = None if passage_vectors is None else _checked(passage_vectors, len(passages))
    asked = embed(session, [query], Embedding(side="Query", instruction=settings.instruction), progress=False)[0]
    vectors = _embedded(session, passages, settings) if given is None else given
    if vectors.shape[1] != len(asked):
        raise OptionError(
            f"passage_vectors have {vectors.shape[1]:,} components and the query's vector has {len(asked):,}. "
            "Pass vectors that this model made with its present truncate_dim."
        )
    cosines = _unit(vectors) @ _unit(asked)  # (passages,) float64
    return [float(cosine) for cosine in np.clip(cosines, -1.0, 1.0)]


def _embedded(session: Session, passages: Sequence[str], settings: Reranking) -> npt.NDArray[np.float32]:
    limit = settings.passage_tokens
    if limit is not None:
        passages = [session.tokenizer.first_tokens(passage, limit) for passage in passages]
    return embed(session, passages, Embedding(side="Document", truncate=True), progress=False)


def _checked(vectors: npt.ArrayLike, count: int) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"passage_vectors are no array of numbers ({error}). Pass one vector a passage, all of one length."
        ) from None
    if array.ndim != 2 or len(array) != count:
        raise OptionError(
            f"passage_vectors have the shape {array.shape}; {count} passages need ({count}, dim). "
            "Pass one vector a passage, in the passages' order."
        )
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise OptionError(
            f"passage_vectors[{int(np.argmin(finite))}] has components that are not finite. Embed that passage anew."
        )
    return array


def _unit(vectors: npt.NDArray[np.float32] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return vectors of length 1, (..., dim); a vector of zeros, which points nowhere, stays as it is."""
    exact = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(exact, axis=-1, keepdims=True)
    unit: npt.NDArray[np.float64] = exact / np.where(norms > 0, norms, 1.0)
    return unit
