"""Answer questions from an index: retrieve, quote or write, then name the sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console

from grit_integrations.cli.answer_output import print_quote, print_reuse, print_sources
from grit_integrations.cli.cache_settings import read_settings
from grit_integrations.cli.command_options import AnswerOptions
from grit_integrations.cli.index_cache import model_cache
from grit_integrations.cli.model_choice import QUOTES_NOTE, QUOTING, is_bundled, open_index
from grit_integrations.cli.wrapped_text import WrappedStream
from grit_integrations.errors import ContextOverflowError, IngestError
from grit_integrations.ingest import Hit, PassageIndex
from grit_integrations.options import CANDIDATES, Decoding, check_caching
from grit_integrations.prompts.formats import Message
from grit_integrations.prompts.requests import Prompt
from grit_integrations.results import Generation


@contextmanager
def open_conversation(out: Console, options: AnswerOptions) -> Iterator[Conversation]:
    """Open an index and its KV cache for answers, and close the cache at the end.

    Answers are cached in the index's mode unless another is asked for.

    Raises:
        IngestError: there is no index, or it is empty.
        CollectionMismatchError: another model than the one that is asked for made it.
    """
    index = open_index(options.store, options.model, options.device)
    caching = check_caching(options.caching or read_settings(index.directory).caching)
    with model_cache(index, caching) as (opened, _):
        yield Conversation(out, opened, options)


class Conversation:
    """Answers questions on the console and remembers what was said.

    Args:
        out: where answers are printed.
        index: what they are from; the caching mode is its model's.
        options: how they are found and written. By default grit-mini reranks and quotes and other models do neither:
            a large model's verdicts take time on a CPU, and it writes well.

    Raises:
        IngestError: the index is empty.
    """

    def __init__(self, out: Console, index: PassageIndex, options: AnswerOptions) -> None:
        if not index.count():
            raise IngestError(f"The store at {index.directory} is empty. Fill it with: grit index PATH...")
        self.out = out
        self.index = index
        self.k = options.k
        self.bundled = is_bundled(index.model)
        self.rerank = (CANDIDATES if self.bundled else 0) if options.rerank is None else options.rerank
        self.quote = self.bundled if options.quote is None else options.quote
        self.decoding = Decoding(max_new_tokens=options.max_tokens, quote=QUOTING if self.quote else False)
        self.history: list[Message] = []

    def answer(self, question: str) -> None:
        """Print the answer, as it comes if the model writes it, then its sources."""
        hits = self._retrieve(question)
        used, prompt = self._fitting(question, hits)
        generation = self._quote(prompt) if self.quote else self._write(prompt)
        if len(used) < len(hits):
            left = len(hits) - len(used)
            self.out.print(f"[dim]{left} of {len(hits)} passages did not fit into the model's window.[/]")
        print_reuse(self.out, generation)
        self.history += [Message("user", question), Message("assistant", generation.text)]
        self.out.print()
        print_sources(self.out, used, judged=bool(self.rerank))

    def _retrieve(self, question: str) -> list[Hit]:
        hits = self.index.search(question, k=max(self.k, self.rerank))
        if not self.rerank:
            return hits
        ranking = self.index.model.rerank(question, _texts(hits), top_n=self.k)
        return [replace(hits[each.index], score=each.score) for each in ranking]

    def _quote(self, prompt: Prompt) -> Generation:
        """Print the sentences of the passages that answer best."""
        generation = self.index.model.generate(prompt, decoding=self.decoding)
        for quote in generation.quotes:
            print_quote(self.out, quote)
        if self.bundled:
            self.out.print(f"[dim]{QUOTES_NOTE}[/]")
        return generation

    def _write(self, prompt: Prompt) -> Generation:
        """Stream the model's own text."""
        stream = self.index.model.stream(prompt, decoding=self.decoding)
        shown, generation = WrappedStream(self.out), None
        with stream:
            for chunk in stream:
                shown.add(chunk.text)
                generation = chunk.generation
        shown.end()
        assert generation is not None  # the last chunk has it
        return generation

    def _fitting(self, question: str, hits: Sequence[Hit]) -> tuple[list[Hit], Prompt]:
        """Drop the oldest turns, then the farthest passages, until the prompt fits."""
        grit, room = self.index.model, self.index.model.window - self.decoding.max_new_tokens
        least = 1 if self.quote else 0  # passages: without any there is nothing to quote
        history, used = list(self.history), list(hits)
        while True:
            messages = [*history, Message("user", question)]
            prompt = grit.prompt(messages, _texts(used), query_instruction=self.index.query_instruction)
            if not prompt.missing(self.decoding.max_new_tokens):
                return used, prompt
            if history:
                del history[:2]
            elif len(used) > least:
                used.pop()
            else:
                asked = "The question and one passage have" if used else "The question alone has"
                raise ContextOverflowError(
                    f"{asked} {len(prompt):,} tokens; {room:,} fit beside --max-tokens "
                    f"{self.decoding.max_new_tokens}. Shorten it or ask for fewer tokens."
                )


def _texts(hits: Sequence[Hit]) -> list[str]:
    return [hit.document.page_content for hit in hits]
