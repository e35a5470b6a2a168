"""What a call may ask for: plain values, checked when they are made. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict, cast, get_args

from grit_integrations.errors import OptionError
from grit_integrations.option_sets import Options
from grit_integrations.option_values import check, is_between, is_count, is_number

# What of a prompt is read once and kept: nothing, everything up to a boundary, or documents and query by themselves.
Caching = Literal["off", "prefix", "doc", "query", "query-doc", "doc-query"]
CACHINGS: tuple[Caching, ...] = get_args(Caching)

# How blocks are stored: as the model computed them, or in less room and not exact.
Precision = Literal["native", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingMode:
    """What a caching mode does with a prompt; `docs/caching.md` draws each.

    Attributes:
        embedded: what stands in front of the prompt as blocks of its own, read bidirectionally, in this order.
        keeps: whether blocks are kept at all.
    """

    embedded: tuple[Literal["documents", "query"], ...] = ()
    keeps: bool = True

    @property
    def embeds_documents(self) -> bool:
        """Whether a document's block is that of its embedding pass."""
        return "documents" in self.embedded

    @property
    def embeds_query(self) -> bool:
        """Whether a question's block is that of its embedding pass."""
        return "query" in self.embedded

    @property
    def keeps_documents(self) -> bool:
        """Whether answers about other questions start from a document's block."""
        return self.keeps and (self.embeds_documents or not self.embedded)

    @property
    def embeds_in_place(self) -> bool:
        """Whether a document that stands word for word in a turn is read bidirectionally there."""
        return self.embedded == ("documents",)

    @property
    def indexable(self) -> bool:
        """Whether all blocks are made of documents alone, so that an index can hold them."""
        return not self.embeds_query


MODES: Mapping[Caching, CachingMode] = {
    "off": CachingMode(keeps=False),
    "prefix": CachingMode(),
    "doc": CachingMode(embedded=("documents",)),
    "query": CachingMode(embedded=("query",)),
    "query-doc": CachingMode(embedded=("query", "documents")),
    "doc-query": CachingMode(embedded=("documents", "query")),
}


def check_caching(caching: object) -> Caching:
    """Return `caching` if it is a mode.

    Raises:
        OptionError: there is no such mode.
    """
    for mode in CACHINGS:
        if mode == caching:
            return mode
    raise OptionError(f"caching={caching!r} is unknown. Use one of {', '.join(CACHINGS)}.")


# How a quote is found: token by token, or as the best of all spans.
QuoteMethod = Literal["tokens", "spans", "sentences"]
QUOTE_METHODS: tuple[QuoteMethod, ...] = get_args(QuoteMethod)

Order = Literal["query-first", "passage-first", "passage-block"]
ORDERS: tuple[Order, ...] = get_args(Order)

Method = Literal["pointwise", "listwise", "embedding"]
METHODS: tuple[Method, ...] = get_args(Method)
CANDIDATES = 20  # retrieved for a reranking if nobody says how many, as LangChain's searches for diversity do
Score = Literal["probability", "logit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoting(Options):
    """How an answer is held to the documents' own words. `docs/quoting.md` explains the methods.

    Attributes:
        method: `"tokens"` chooses token by token among those that continue a span, greedily or by sampling; `"spans"`
            scores every span of up to `longest` tokens and takes the best; `"sentences"` scores each picked sentence,
            or run of `neighbours` of them, as a whole.
        sentences: quote only from this many sentences of all documents, those nearest to the question by the model's
            own embeddings and shared words; 0 quotes from all of them.
        neighbours: how many neighbouring sentences are picked together; fewer where a paragraph has no more.
        longest: at most this many tokens in a scored span (`"spans"` only).
        length_penalty: a quote's score is its log-probability over its tokens to this power, from 0 to 10.
        echo: whether a quote may begin with a word of the question. A small model likes to point at what it was asked
            about; where nothing else is left, this is ignored.

    Raises:
        OptionError: a value outside its range.
    """

    method: QuoteMethod = "tokens"
    sentences: int = 0
    neighbours: int = 1
    longest: int = 24
    length_penalty: float = 0.3
    echo: bool = True

    def __post_init__(self) -> None:
        known = " or ".join(repr(method) for method in QUOTE_METHODS)
        check(self.method in QUOTE_METHODS, "method", self.method, known)
        check(is_count(self.sentences, 0), "sentences", self.sentences, "a whole number from 0 (all) up")
        check(is_count(self.neighbours, 1), "neighbours", self.neighbours, "a whole number from 1 up")
        check(is_count(self.longest, 1), "longest", self.longest, "a whole number from 1 up")
        penalty = self.length_penalty
        check(is_between(penalty, 0, 10), "length_penalty", penalty, "a number from 0 to 10")
        check(isinstance(self.echo, bool), "echo", self.echo, "True or False")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding(Options):
    """How tokens are chosen and when they end. Checked when it is made.

    `with_options` also knows `max_tokens` and `stop_sequences`, as other libraries call them.

    Attributes:
        max_new_tokens: at most this many tokens, at least 1.
        temperature: 0 is greedy; from 0.000001 to 1000, samples from logits divided by it.
        top_p: keep the smallest set of tokens whose probability reaches it, in (0, 1].
        top_k: keep the k likeliest tokens; 0 keeps all.
        seed: makes sampling repeatable; `None` draws a new one.
        repetition_penalty: above 1 makes tokens that already occurred (prompt included) less likely; 0.001 to 1000.
        stop: strings that end the text; they may span tokens and are not part of it.
        logprobs: report each token's log-probability and that of this many alternatives; `None` reports none.
        quote: hold the answer to one span of the documents, word for word; `True` means `Quoting()`.

    Raises:
        OptionError: a value outside its range, or options that contradict each other.
    """

    aliases: ClassVar[Mapping[str, str]] = {"max_tokens": "max_new_tokens", "stop_sequences": "stop"}

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    quote: bool | Quoting = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _strings(self.stop))
        for name in ("temperature", "top_p", "repetition_penalty"):  # 1 and 1.0 are one request, also as a cache key
            value = getattr(self, name)
            object.__setattr__(self, name, float(value) if is_number(value) else value)
        check(is_count(self.max_new_tokens, 1), "max_new_tokens", self.max_new_tokens, "a whole number from 1 up")
        heat = self.temperature
        usable = is_between(heat, 0, 0) or is_between(heat, 1e-6, 1000)  # dividing by less leaves nothing finite
        check(usable, "temperature", heat, "0 (greedy), or a number from 0.000001 to 1000")
        check(is_number(self.top_p) and 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        check(is_count(self.top_k, 0), "top_k", self.top_k, "a whole number from 0 (all) up")
        seed = self.seed
        check(seed is None or is_count(seed, 0, 2**64 - 1), "seed", seed, "a whole number from 0 to 2**64 - 1, or None")
        penalty = self.repetition_penalty
        check(is_between(penalty, 0.001, 1000), "repetition_penalty", penalty, "from 0.001 to 1000 (1 is none)")
        check(self.logprobs is None or is_count(self.logprobs, 0), "logprobs", self.logprobs, "0 or more, or None")
        quote: object = self.quote
        if isinstance(quote, Mapping):  # a Quoting's plain data, read back
            quote = Quoting().with_options(**quote)
        check(isinstance(quote, bool | Quoting), "quote", quote, "True, False or a Quoting")
        object.__setattr__(self, "quote", Quoting() if quote is True else quote)
        self._check_search()

    @property
    def quoting(self) -> Quoting | None:
        """How the answer is quoted; `None` if it is free."""
        return self.quote if isinstance(self.quote, Quoting) else None

    def _check_search(self) -> None:
        if self.quoting is None or self.quoting.method == "tokens":
            return
        idle = [name for name, value in (("temperature", 0), ("repetition_penalty", 1)) if getattr(self, name) != value]
        if idle:
            raise OptionError(
                f"{' and '.join(idle)} cannot change which quote is the best. Leave them out, or quote with "
                "method='tokens'."
            )


class RerankingOptions(TypedDict, total=False):
    """The keyword arguments of `Reranking`, all of them optional."""

    method: Method
    order: Order | None
    score: Score
    cosine: float
    passage_tokens: int | None
    window: int
    step: int
    instruction: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranking(Options):
    """How passages are put in order.

    Attributes:
        method: `"pointwise"` asks about each passage by itself whether it is relevant, one pass and no generation;
            `"listwise"` lets the model write an order, a window of passages at a time (RankGPT, arXiv 2304.09542);
            `"embedding"` compares vectors.
        order: what stands first in a pointwise prompt: `"query-first"`, the GritLM reference's words, is read once for
            all passages. `"passage-first"` and `"passage-block"` start from each passage's stored keys and values, as
            answers do with `caching="prefix"` and `"doc"`. By default the one that the checkpoint was trained for
            (`grit_config.json`), else `"query-first"`.
        score: of pointwise: `"probability"` is P(yes) among yes and no, in 0..1; `"logit"` is yes's raw logit, which
            the reference sorts by.
        cosine: of pointwise: the cosine of query and passage, times this, is added to the score, before it becomes a
            probability, from 0 to 1000. Vectors and verdicts err differently, so both together may order better than
            either; where no vectors are given, the passages are embedded for it.
        passage_tokens: a longer passage is truncated; by default each has as many tokens as fit into the window.
        window: passages in one listwise prompt.
        step: passages by which the window moves, from the last to the first.
        instruction: what the query is embedded under, for `"embedding"` and `cosine`; by default the model's own.

    Raises:
        OptionError: a value that is none of these, or out of range.
    """

    method: Method = "pointwise"
    order: Order | None = None
    score: Score = "probability"
    cosine: float = 0.0
    passage_tokens: int | None = None
    window: int = 20
    step: int = 10
    instruction: str | None = None

    @property
    def compares_vectors(self) -> bool:
        """Whether vectors have a part in the scores."""
        return self.method == "embedding" or self.cosine > 0

    def __post_init__(self) -> None:
        for name, known in (("method", METHODS), ("order", (None, *ORDERS)), ("score", get_args(Score))):
            if getattr(self, name) not in known:
                raise OptionError(
                    f"{name}={getattr(self, name)!r} is unknown. Use one of {', '.join(map(str, known))}."
                )
        if not is_between(self.cosine, 0, 1000) or (self.cosine and self.method != "pointwise"):
            raise OptionError(
                f"cosine={self.cosine!r} with method={self.method!r} is not possible. Give a number from 0 to 1000, "
                "with method='pointwise'."
            )
        if self.passage_tokens is not None and not is_count(self.passage_tokens, 1):
            raise OptionError(
                f"passage_tokens={self.passage_tokens!r} is not possible. Give a whole number from 1 up, or None for "
                "all."
            )
        if not is_count(self.window, 2) or not is_count(self.step, 1) or self.step >= self.window:
            raise OptionError(
                f"window={self.window!r} and step={self.step!r}: a window has at least 2 passages and moves by 1 or "
                "more, but by fewer than it has. RankGPT uses 20 and 10."
            )
        check(isinstance(self.instruction, str | None), "instruction", self.instruction, "a string, or None")


def check_top_n(top_n: object) -> int | None:
    """Return how many of the best are wanted; `None` is all of them.

    Raises:
        OptionError: neither `None` nor a whole number from 1 up.
    """
    if top_n is None or (isinstance(top_n, int) and is_count(top_n, 1)):
        return top_n
    raise OptionError(f"top_n={top_n!r} is not possible. Give a whole number from 1 up, or None for all.")


def check_prefer_cached(margin: object) -> float:
    """Return by how much a document may score less and still stand first because it is stored; 0 is not at all.

    Raises:
        OptionError: not a finite number from 0 up.
    """
    if isinstance(margin, int | float) and is_number(margin) and margin >= 0:
        return float(margin)
    raise OptionError(f"prefer_cached={margin!r} is not possible. It must be 0 (off) or more.")


def check_cosine(value: object, name: str) -> float:
    """Return `value` if it may be a cosine.

    Raises:
        OptionError: not a number from -1 to 1.
    """
    if is_between(value, -1, 1):
        return float(value)  # type: ignore[arg-type]
    raise OptionError(f"{name}={value!r} is not possible. It must be a cosine, a number from -1 to 1.")


def _strings(stop: object) -> tuple[str, ...]:
    """Return stop strings as a tuple. What can be read only once is refused, since a call is settled several times."""
    several = isinstance(stop, Iterable) and not isinstance(stop, str | Mapping | Iterator)
    found = tuple(stop) if several and isinstance(stop, Iterable) else (stop,)
    check(all(isinstance(each, str) and each for each in found), "stop", stop, "strings of at least one character")
    return cast("tuple[str, ...]", found)
