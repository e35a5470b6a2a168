"""Texts to vectors for one session: tokenised here, encoded by the worker, cut and normalised here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grit_integrations.engine.calls import wait
from grit_integrations.engine.encode_job import EncodeJob
from grit_integrations.errors import GritError
from grit_integrations.options import MODES
from grit_integrations.progress import progress_bar
from grit_integrations.prompts.embedding import embedding_inputs

if TYPE_CHECKING:
    from grit_integrations.engine.encode_job import Keep
    from grit_integrations.engine.session import Session
    from grit_integrations.prompts.embedding import EncoderInput
    from grit_integrations.prompts.prompt_format import EmbeddingSide
    from grit_integrations.results import Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """How the texts of one call are embedded.

    Attributes:
        side: which of both the texts are; also said in messages.
        instruction: what queries are for; `None` takes the model's own, `""` none.
        truncate: cut texts that do not fit into the window, with a warning.
        keep_blocks: keep keys and values as the session's caching mode says.
    """

    side: EmbeddingSide
    instruction: str | None = None
    truncate: bool = False
    keep_blocks: bool = True


def embed(session: Session, texts: Sequence[str], how: Embedding, *, progress: bool | None = None) -> Vectors:
    """Return (len(texts), dim) float32; raises as `GritLM.embed_queries` says."""
    inputs = _inputs(session, texts, how)
    if not inputs:
        return _none(session)
    engine, keep = session.engine, _keeper(session, inputs, how)
    with progress_bar(total=len(inputs), desc="Embedding", unit="text", shown=progress) as bar:
        job = EncodeJob(engine.encoder, inputs, session.pooling, on_progress=bar.update, keep=keep)
        return _finished(session, wait(engine.scheduler.submit(job).future))


async def aembed(session: Session, texts: Sequence[str], how: Embedding) -> Vectors:
    """Embed without blocking the event loop; cancelling the task stops the work."""
    inputs = await asyncio.to_thread(_inputs, session, texts, how)
    if not inputs:
        return _none(session)
    engine = await asyncio.to_thread(lambda: session.engine)
    job = EncodeJob(engine.encoder, inputs, session.pooling, keep=_keeper(session, inputs, how))
    return _finished(session, await asyncio.wrap_future(engine.scheduler.submit(job).future))


@dataclass(frozen=True, slots=True)
class Unkept:
    """A session's embeddings of texts that nobody will ask about: no keys and values are kept."""

    session: Session

    def embed_queries(self, texts: Sequence[str], *, instruction: str | None = None) -> Vectors:
        """Return (texts, dim) float32."""
        how = Embedding(side="Query", instruction=instruction, keep_blocks=False)
        return embed(self.session, texts, how, progress=False)

    def embed_documents(self, texts: Sequence[str], *, truncate: bool = False) -> Vectors:
        """Return (texts, dim) float32."""
        how = Embedding(side="Document", truncate=truncate, keep_blocks=False)
        return embed(self.session, texts, how, progress=False)


def _inputs(session: Session, texts: Sequence[str], how: Embedding) -> list[EncoderInput]:
    prepare = partial(embedding_inputs, instruction=how.instruction, truncate=how.truncate)
    return prepare(session.tokenizer, session.window, texts, how.side)


def _none(session: Session) -> Vectors:
    return np.zeros((0, session.dim), dtype=np.float32)


def _keeper(session: Session, inputs: Sequence[EncoderInput], how: Embedding) -> Keep | None:
    """Return what keeps the blocks of an embedding pass, if answers in the session's mode can start from them."""
    settings, document = session.settings, how.side == "Document"
    own = how.instruction in (None, session.tokenizer.format.document_instruction)  # under which prompts have them
    wanted = settings.embedding_keeps and own if document else MODES[settings.caching].embeds_query
    if not (wanted and how.keep_blocks):
        return None
    session.tokenizer.format.check_blocks()
    doc_blocks = settings.doc_blocks.under(settings.caching)
    return session.cache.keeper(inputs, settings.caching, document=document, doc_blocks=doc_blocks)


def _finished(session: Session, vectors: Tensor) -> Vectors:
    """Cut and normalise pooled states, (n, dim) float32."""
    if not bool(torch.isfinite(vectors).all()):
        raise GritError(
            "The model gave an embedding that is not finite in its precision. Load it with dtype='float32'."
        )
    vectors = vectors[:, : session.settings.truncate_dim]
    if session.settings.normalize:
        vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return np.ascontiguousarray(vectors.numpy())
