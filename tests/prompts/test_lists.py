"""Lists of texts at every door of `GritLM`: an iterator is read once and whole, and what is no list is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from grit_integrations import Decoding, GritLM, KVCacheStore, OptionError, PromptError

TEXTS = ["The heart pumps blood through the body.", "Stars shine by the fusion of hydrogen."]
ONE = Decoding(max_new_tokens=1)

DOORS: dict[str, Callable[[GritLM, Any], Any]] = {
    "embed_queries": lambda grit, texts: grit.embed_queries(texts).tolist(),
    "embed_documents": lambda grit, texts: grit.embed_documents(texts).tolist(),
    "rerank": lambda grit, texts: grit.rerank("What pumps blood?", texts),
    "documents": lambda grit, texts: grit.generate("Why?", texts, decoding=ONE).usage.prompt_tokens,
    "prompt": lambda grit, texts: len(grit.prompt("Why?", texts)),
    "count_message_tokens": lambda grit, texts: grit.count_message_tokens("Why?", texts),
    "known_documents": lambda grit, texts: grit.prompt("".join(TEXTS), known_documents=texts).plan.blocks,
    "remember_documents": lambda grit, texts: (grit.remember_documents(texts), grit._loaded().recent.texts()[:2]),
    "cache_documents": lambda grit, texts: (grit.cache_documents(texts), grit.stored(TEXTS))[1],
    "stored": lambda grit, texts: grit.stored(texts),
    "prefetch": lambda grit, texts: (grit.cache_documents(TEXTS), grit.prefetch(texts))[1],
}
every_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)


@pytest.fixture
def fresh(tiny: GritLM) -> GritLM:
    return tiny.with_options(kv_store=KVCacheStore(None))


@every_door
@pytest.mark.parametrize("once", [iter, lambda texts: map(str, texts), lambda texts: (text for text in texts), tuple])
def test_what_can_be_read_once_is_read_whole(
    tiny: GritLM, door: Callable[[GritLM, Any], Any], once: Callable[[list[str]], Iterable[str]]
) -> None:
    found, wanted = (door(tiny.with_options(kv_store=KVCacheStore(None)), given) for given in (once(TEXTS), TEXTS))
    if isinstance(wanted, list) and isinstance(wanted[0], list):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    else:
        assert found == wanted


def test_prefetched_documents_come_from_an_iterator_too(fresh: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[int] = []
    cache = type(fresh._session().cache)
    monkeypatch.setattr(cache, "prefetch", lambda _, plan: tokens.append(len(plan)))
    fresh.prefetch(TEXTS)
    fresh.prefetch(iter(TEXTS))
    assert tokens[0] == tokens[1] > 10


@every_door
@pytest.mark.parametrize("given", ["one text", b"text", {"a": "text"}, 3, None, object()], ids=lambda g: str(g)[:7])
def test_what_is_no_list_is_refused(fresh: GritLM, door: Callable[[GritLM, Any], Any], given: Any) -> None:
    with pytest.raises(PromptError, match="where a list of"):
        door(fresh, given)


@pytest.mark.parametrize("given", [b"text", 3, None, object()], ids=lambda given: str(given)[:7])
def test_messages_that_are_no_list_are_refused(fresh: GritLM, given: Any) -> None:
    with pytest.raises(PromptError, match="a list of messages"):
        fresh.generate(given, decoding=ONE)


@pytest.mark.parametrize("given", [["ab", "cd"], [(0, 1)], [(0,), (1,)], [(0, 1.5)] * 2, [(0, 999)] * 2, [3, 4]])
def test_parts_to_quote_that_do_not_fit_are_refused(fresh: GritLM, given: Any) -> None:
    quote = Decoding(max_new_tokens=2, quote=True)
    with pytest.raises(OptionError, match="quotable="):
        fresh.generate("Why?", TEXTS, quotable=given, decoding=quote)
    for wrong in (3, "ab", {"a": 1}):
        with pytest.raises(PromptError, match="list of quotable parts"):
            fresh.generate("Why?", TEXTS, quotable=wrong, decoding=quote)  # type: ignore[arg-type]
