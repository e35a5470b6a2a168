"""What the KV cache did, as an event of LlamaIndex's instrumentation."""

from __future__ import annotations

from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher

from grit_integrations.results import Generation

_dispatcher = get_dispatcher(__name__)


class KVCacheEvent(BaseEvent):
    """What the KV cache did for one generation; it is sent once, when the generation has ended.

    Example:
        >>> from grit_integrations.llama_index import GritLLM, KVCacheEvent
        >>> from llama_index.core.instrumentation import get_dispatcher
        >>> from llama_index.core.instrumentation.event_handlers import BaseEventHandler
        >>> class Counter(BaseEventHandler):
        ...     def handle(self, event, **_):
        ...         if isinstance(event, KVCacheEvent):
        ...             print(event.mode, event.hits)
        >>> counter = Counter()
        >>> get_dispatcher().add_event_handler(counter)
        >>> answer = GritLLM("grit-mini", max_new_tokens=1, caching="off").complete("What pumps the blood?")
        off 0
        >>> get_dispatcher().event_handlers.remove(counter)
    """

    mode: str = Field(description="The caching mode.")
    hits: int = Field(description="Blocks that were read.")
    misses: int = Field(description="Blocks that were computed.")
    tokens_read: int = Field(description="Prompt tokens that were read instead of computed.")
    tokens_created: int = Field(description="Prompt tokens that were computed and kept.")
    bytes_read: int = Field(description="Bytes of the blocks that were read.")
    load_seconds: float = Field(description="Seconds spent on finding and reading blocks.")
    declined: list[str] = Field(description="Why blocks that were stored were computed all the same.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised events carry."""
        return "KVCacheEvent"


def announce(generation: Generation, span_id: str | None) -> None:
    """Send the event of a finished generation, which belongs to the span `span_id`."""
    report, usage = generation.cache, generation.usage
    event = KVCacheEvent(
        mode=report.mode,
        hits=report.hits,
        misses=report.misses,
        tokens_read=usage.cache_read_tokens,
        tokens_created=usage.cache_creation_tokens,
        bytes_read=report.bytes_read,
        load_seconds=generation.timings.load,
        declined=list(report.declined),
        span_id=span_id,
    )
    _dispatcher.event(event)
