"""Answer questions from a store: retrieve, quote or write, then name the sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console

from grit_integrations.cli.caching import model_cache, read_settings
from grit_integrations.cli.models import is_bundled
from grit_integrations.cli.output import WrappedStream, print_reuse, print_sources
from grit_integrations.cli.quotes import QUOTES_NOTE, QUOTING, print_quote
from grit_integrations.errors import ContextOverflowError, IngestError
from grit_integrations.ingest.passage_index import QUERY_INSTRUCTION, Hit, PassageIndex
from grit_integrations.options import CANDIDATES, MODES, Caching, Decoding
from grit_integrations.prompts.formats import Message
from grit_integrations.results import Generation

_MARKERS = 16  # tokens, at most, around the instruction of an embedded query


@contextmanager
def open_answerer(
    out: Console,
    store: PassageIndex,
    *,
    k: int,
    rerank: int | None,
    quote: bool | None,
    max_tokens: int,
    caching: Caching | None,
) -> Iterator[Answerer]:
    """Open the index's KV cache for answers, in the index's mode unless another is asked for, and close it at the end.

    Raises:
        IngestError: the store is empty.
    """
    wanted = caching or read_settings(store.directory).caching
    with model_cache(store, wanted) as (opened, _):
        yield Answerer(out, opened, k=k, rerank=rerank, quote=quote, max_tokens=max_tokens)


class Answerer:
    """Answers questions on the console and remembers the conversation.

    Args:
        out: where answers are printed.
        store: what they are from; the caching mode is its model's.
        k: passages to answer from.
        rerank: passages to retrieve, of which the model picks the best `k`; 0 retrieves `k` and judges none. By default
            20 for grit-mini, else 0: a large model's verdicts take time on a CPU.
        quote: answer with sentences of the passages, not with the model's own text; by default for grit-mini only.
        max_tokens: the longest answer.

    Raises:
        IngestError: the store is empty.
    """

    def __init__(
        self, out: Console, store: PassageIndex, *, k: int, rerank: int | None, quote: bool | None, max_tokens: int
    ) -> None:
        if not store.count():
            raise IngestError(f"The store at {store.directory} is empty. Fill it with: grit index PATH...")
        self.out = out
        self.store = store
        self.k = k
        self.bundled = is_bundled(store.model)
        self.rerank = (CANDIDATES if self.bundled else 0) if rerank is None else rerank
        self.quote = self.bundled if quote is None else quote
        self.decoding = Decoding(max_new_tokens=max_tokens, quote=QUOTING if self.quote else False)
        self.history: list[Message] = []

    def answer(self, question: str) -> None:
        """Print the answer, as it comes if the model writes it, then its sources."""
        hits = self._retrieve(question)
        used, messages = self._fitting(question, hits)
        generation = self._quote(messages, used) if self.quote else self._write(messages, used)
        if len(used) < len(hits):
            left = len(hits) - len(used)
            self.out.print(f"[dim]{left} of {len(hits)} passages did not fit into the model's window.[/]")
        print_reuse(self.out, generation)
        self.history += [Message("user", question), Message("assistant", generation.text)]
        self.out.print()
        print_sources(self.out, used, judged=bool(self.rerank))

    def _retrieve(self, question: str) -> list[Hit]:
        hits = self.store.search(question, k=max(self.k, self.rerank))
        if not self.rerank:
            return hits
        ranking = self.store.model.rerank(question, _texts(hits), top_n=self.k)
        return [replace(hits[each.index], score=each.score) for each in ranking]

    def _quote(self, messages: Sequence[Message], hits: Sequence[Hit]) -> Generation:
        """Print the sentences of the passages that answer best."""
        passages = _texts(hits)
        generation = self.store.model.generate(
            messages, passages, decoding=self.decoding, query_instruction=QUERY_INSTRUCTION
        )
        for quote in generation.quotes:
            print_quote(self.out, quote)
        if self.bundled:
            self.out.print(f"[dim]{QUOTES_NOTE}[/]")
        return generation

    def _write(self, messages: Sequence[Message], hits: Sequence[Hit]) -> Generation:
        """Stream the model's own text."""
        stream = self.store.model.stream(
            messages, _texts(hits), decoding=self.decoding, query_instruction=QUERY_INSTRUCTION
        )
        shown, generation = WrappedStream(self.out), None
        with stream:
            for chunk in stream:
                shown.add(chunk.text)
                generation = chunk.generation
        shown.end()
        assert generation is not None  # the last chunk has it
        return generation

    def _fitting(self, question: str, hits: Sequence[Hit]) -> tuple[list[Hit], list[Message]]:
        """Drop the oldest turns, then the farthest passages, until the prompt fits."""
        grit = self.store.model
        room = grit.window - self.decoding.max_new_tokens
        if MODES[grit.caching].embeds_query:  # the instruction is part of the prompt then, and not counted below
            room -= grit.count_tokens(QUERY_INSTRUCTION) + _MARKERS
        least = 1 if self.quote else 0  # passages: without any there is nothing to quote
        history, used = list(self.history), list(hits)
        while True:
            messages = [*history, Message("user", question)]
            needed = grit.count_message_tokens(messages, _texts(used))
            if needed <= room:
                return used, messages
            if history:
                del history[:2]
            elif len(used) > least:
                used.pop()
            else:
                asked = "The question and one passage have" if used else "The question alone has"
                raise ContextOverflowError(
                    f"{asked} {needed:,} tokens; {room:,} fit beside --max-tokens {self.decoding.max_new_tokens}. "
                    "Shorten it or ask for fewer tokens."
                )


def _texts(hits: Sequence[Hit]) -> list[str]:
    return [hit.document.page_content for hit in hits]
