"""Every option with a value that it cannot have is refused by name before any work, at every door.

The options are those that the dataclasses and the adapters' own fields have: a new one is tried without any edit here.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField
from langchain_core.vectorstores import InMemoryVectorStore

from grit_integrations import Decoding, GritLM, OptionError, Quoting, Reranking
from grit_integrations.langchain import (
    ChatGrit,
    GritEmbeddings,
    GritLLM,
    GritRAGMiddleware,
    GritReranker,
    GritRetriever,
)

NOWHERE = "no-such/model"  # whatever worked would fail otherwise
NAN, INFINITE, HUGE = float("nan"), float("inf"), 10**400

WRONG: dict[Any, list[Any]] = {
    int: [NAN, INFINITE, -1, 1.5, True, "1", [1], b"1", object()],
    float: [NAN, INFINITE, -INFINITE, HUGE, -HUGE, True, "0.5", [0.5], object()],
    bool: [1, 0.0, "yes", [True], NAN],
    str: [3, NAN, True, b"x", ["x"]],
    Literal: [3, NAN, True, "no such", b"x"],
    tuple: [[""], [3], b"x", iter(["x"]), {"x": 1}, NAN, True],
    Quoting: ["yes", 1, NAN, [True]],
}
NARROWER: dict[str, list[Any]] = {  # what the type would allow
    "max_new_tokens": [0],
    "temperature": [-0.1, 1e308, 5e-324, 1e-40],
    "top_p": [-0.1, 0, 1.1, 1e308],
    "seed": [2**64, 10**30],
    "repetition_penalty": [-1.0, 0, 1e308, 1e-40],
    "length_penalty": [-0.1, 1e308, 10**30],
    "cosine": [-0.1, 1e308, 10**30],
    "k": [0, 10**30, 2**63],
    "fetch_k": [0, 10**30, 2**63],
    "prefer_cached": [-0.1],
    "truncate_dim": [0],
    "top_n": [0],
}


def kinds(hint: Any) -> Iterator[Any]:
    """Yield what a hint is made of, as `WRONG` knows it."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        for part in get_args(hint):
            yield from kinds(part)
    elif hint is not type(None):
        yield origin or hint


def cases(owner: Any, hints: dict[str, Any]) -> list[Any]:
    found = []
    for name, hint in hints.items():
        known = list(kinds(hint))
        wrong = WRONG[Quoting if Quoting in known else known[0]]  # a kind that is not here is to be added
        found += [pytest.param(owner, name, value, id=f"{name}={str(value)[:20]}") for value in wrong]
        found += [pytest.param(owner, name, value, id=f"{name}={str(value)[:20]}") for value in NARROWER.get(name, ())]
    return found


def options_of(kind: Any) -> dict[str, Any]:
    """Return the type of each option, under each of its names."""
    hints = get_type_hints(kind)
    return {name: hints[kind.aliases.get(name, name)] for name in kind.names()}


DECODING = {name: hint for name, hint in options_of(Decoding).items() if name != "logprobs"}
DECODING |= {"logprobs": bool | None, "top_logprobs": int | None}  # as LangChain's users know them


def named(name: str, kind: Any = Decoding) -> str:
    return rf"\b({name}|{kind.aliases.get(name, name)})\b"


def refused(name: str, use: Callable[[], Any]) -> None:
    with pytest.raises(OptionError, match=named(name)):
        use()


@pytest.mark.parametrize(("adapter", "name", "value"), [*cases(ChatGrit, DECODING), *cases(GritLLM, DECODING)])
def test_options_of_decoding(adapter: Any, name: str, value: Any) -> None:
    wrong, good = {name: value}, adapter(model=NOWHERE)
    refused(name, lambda: adapter(model=NOWHERE, **wrong))
    refused(name, lambda: good.model_copy(update=wrong))
    refused(name, lambda: good.invoke("Hello", **wrong))
    refused(name, lambda: next(good.stream("Hello", **wrong)))
    refused(name, lambda: good.bind(**wrong).invoke("Hello"))
    refused(name, lambda: good.batch(["Hello", "Hey"], **wrong))
    if name in adapter.model_fields:
        chain = good.configurable_fields(**{name: ConfigurableField(id="option")})
        refused(name, lambda: chain.with_config(configurable={"option": value}).invoke("Hello"))


@pytest.mark.parametrize(("adapter", "name", "value"), cases(ChatGrit, options_of(Quoting)))
def test_options_of_quoting(adapter: Any, name: str, value: Any) -> None:
    refused(name, lambda: adapter(model=NOWHERE, quote={name: value}))
    refused(name, lambda: adapter(model=NOWHERE).invoke("Hello", quote={name: value}))


@pytest.mark.parametrize(("adapter", "name", "value"), cases(GritReranker, options_of(Reranking)))
def test_options_of_reranking(adapter: Any, name: str, value: Any) -> None:
    refused(name, lambda: adapter(model=NOWHERE, **{name: value}))
    refused(name, lambda: adapter(model=NOWHERE).model_copy(update={name: value}))


def own_fields(adapter: Any, *bases: Any) -> dict[str, Any]:
    """Return the fields that are this package's, of plain types, and not those of `Decoding` or `Reranking`."""
    options = {*Decoding.names(), *Reranking.names(), "logprobs", "top_logprobs"}
    theirs = {name for base in bases for name in base.model_fields} | options
    hints = {name: hint for name, hint in get_type_hints(adapter).items() if name in adapter.model_fields}
    plain = {name: hint for name, hint in hints.items() if name not in theirs and name != "model"}
    return {name: hint for name, hint in plain.items() if all(kind in WRONG for kind in kinds(hint))}


FIELDS = [
    *cases(ChatGrit, own_fields(ChatGrit, BaseChatModel)),
    *cases(GritLLM, own_fields(GritLLM, BaseLLM)),
    *cases(GritEmbeddings, own_fields(GritEmbeddings)),
    *cases(GritReranker, own_fields(GritReranker, BaseDocumentCompressor)),
    *cases(GritRetriever, own_fields(GritRetriever, BaseRetriever)),
]


@pytest.mark.parametrize(("adapter", "name", "value"), FIELDS)
def test_the_adapters_own_fields(adapter: Any, name: str, value: Any) -> None:
    if name == "score_threshold" and isinstance(value, float) and value == value and abs(value) != INFINITE:
        return  # a logit may be anything
    store = {"vectorstore": InMemoryVectorStore(GritEmbeddings(model=NOWHERE))} if adapter is GritRetriever else {}
    reranker = {"reranker": GritReranker()} if name == "fetch_k" else {}
    source = {} if store else {"model": NOWHERE}
    refused(name, lambda: adapter(**store, **reranker, **source, **{name: value}))


def test_every_field_was_found() -> None:
    tried = {(case.values[0].__name__, case.values[1]) for case in FIELDS}
    for adapter, names in (
        ("ChatGrit", ("caching", "streaming", "device", "dtype", "revision", "local_files_only")),
        ("GritEmbeddings", ("query_instruction", "truncate", "show_progress", "pooling", "normalize", "truncate_dim")),
        ("GritReranker", ("top_n", "score_threshold")),
        ("GritRetriever", ("k", "fetch_k", "prefer_cached")),
    ):
        assert {(adapter, name) for name in names} <= tried


# What is no option


@pytest.mark.parametrize("adapter", [ChatGrit, GritLLM])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("caching", ["", 0, False, (), {}, "docs", NAN]),
        ("stream", [1, "yes", NAN]),
        ("documents", [0, "text", NAN, iter(()), {"a": 1}, [3], [None]]),
        ("model", [3, NAN, True, b"x", []]),
        ("temprature", [1]),
    ],
)
def test_what_else_a_call_takes(adapter: Any, name: str, values: list[Any]) -> None:
    good = adapter(model=NOWHERE)
    for value in values:
        with pytest.raises(OptionError, match=f"(?i){name.rstrip('s')}"):
            good.invoke("Hello", **{name: value})


@pytest.mark.parametrize("adapter", [ChatGrit, GritLLM, GritEmbeddings, GritReranker])
def test_no_adapter_takes_an_unknown_option_or_no_model(adapter: Any) -> None:
    refused("no_such", lambda: adapter(no_such=1))
    for wrong in (3, NAN, b"x", [], {}):
        refused("model", lambda wrong=wrong: adapter(model=wrong))
    if hasattr(adapter, "_kind"):
        refused("no_such", lambda: adapter().model_copy(update={"no_such": 1}))


def test_what_is_no_list_of_documents(tiny: GritLM) -> None:
    retriever, embeddings = GritRetriever.from_documents([], model=tiny), GritEmbeddings(model=tiny)
    encoder = GritReranker(model=tiny).as_cross_encoder()
    for wrong in (3, NAN, "text", None):
        with pytest.raises(ValueError, match="documents is a"):
            retriever.add_documents(wrong)
        with pytest.raises(ValueError, match="documents is a"):
            GritReranker(model=tiny).rerank(wrong, "What?")
        with pytest.raises(ValueError, match="list of texts is wanted"):
            embeddings.embed_documents(wrong)
        with pytest.raises(ValueError, match="text_pairs is a"):
            encoder.score(wrong)
    for wrong in (3, "text", None):
        with pytest.raises(OptionError, match="Document 0 is a"):
            retriever.add_documents([wrong])
        with pytest.raises(ValueError, match="Pair 0 is"):
            encoder.score([wrong])
    for wrong in ([3], [""], [None]):
        with pytest.raises(OptionError, match="Id 0 is"):
            retriever.add_documents([Document("text")], ids=wrong)
    assert retriever.vectorstore.store == {}


def test_pairs_and_texts_that_can_be_read_only_once_are_read(tiny: GritLM) -> None:
    pairs = [("What pumps blood?", "The heart."), ("What shines?", "Stars.")]
    encoder, embeddings = GritReranker(model=tiny).as_cross_encoder(), GritEmbeddings(model=tiny)
    assert encoder.score(iter(pairs)) == encoder.score(pairs)
    texts = ["The heart.", "Stars."]
    assert embeddings.embed_documents(each for each in texts) == embeddings.embed_documents(texts)


@pytest.mark.parametrize("k", [0, -1, NAN, True, "3", 1.5, 10**30, None])
def test_how_many_documents_a_call_or_an_agent_wants(tiny: GritLM, k: Any) -> None:
    retriever = GritRetriever.from_documents([Document("The heart.")], model=tiny)
    if k is None:
        assert len(retriever.invoke("What?", k=k)) == 1
        return
    refused("k", lambda: retriever.invoke("What?", k=k))
    refused("k", lambda: GritRAGMiddleware(retriever, k=k))


def test_what_middleware_cannot_use_is_refused_when_it_is_made(tiny: GritLM) -> None:
    retriever = GritRetriever.from_documents([], model=tiny)
    for wrong in (3, None, "retriever", retriever.vectorstore):
        with pytest.raises(OptionError, match="retriever is a"):
            GritRAGMiddleware(wrong)
    refused("filtr", lambda: GritRAGMiddleware(retriever, filtr=1))
