"""Embeddings equal the GritLM reference and a forward pass written out by hand."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint
from gritlm_package import load_reference
from reference_attention import hidden_states

from grit_integrations import ContextOverflowError, EmptyTextError, GritLM, OptionError, PromptError
from grit_integrations.engine.encoder import Encoder, bidirectional_view, pool
from grit_integrations.prompts.embedding import EncoderInput

INSTRUCTION = "Given a question, retrieve passages that answer it"
WORDS = ["the", "heart", "pumps", "blood", "through", "vessels", "while", "distant", "stars", "burn", "hydrogen"]


def text_of(tokens: int, grit: GritLM, seed: int = 0) -> str:
    """Return a text of exactly `tokens` tokens."""
    choice = np.random.default_rng(seed)
    text = "a" if tokens == 1 else " ".join(choice.choice(WORDS, tokens))
    ids = grit.tokenize(text)[:tokens]
    text = grit.checkpoint.tokenizer.decode(ids)
    assert grit.count_tokens(text) == tokens
    return text


@pytest.fixture(scope="module", params=["mistral", "mixtral"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[GritLM, Any, Path]:
    """Our model and the `gritlm` package's on the same random checkpoint."""
    kind = request.param
    extra = {"num_local_experts": 4} if kind == "mixtral" else {}
    path = write_checkpoint(tmp_path_factory.mktemp(kind) / kind, kind, seed=3, layers=3, **extra)
    return GritLM.from_pretrained(path), load_reference(path), path


def reference_prefix(instruction: str) -> str:
    return f"<|user|>\n{instruction}\n<|embed|>\n" if instruction else "<|embed|>\n"


@pytest.mark.parametrize("instruction", ["", INSTRUCTION])
def test_embeddings_equal_the_reference_alone_and_in_mixed_batches(
    pair: tuple[GritLM, Any, Path], instruction: str
) -> None:
    grit, reference, _ = pair
    lengths = [1, 2, 3, 7, 16, 33, 100, 257, 512, 1023, 2048]
    texts = [text_of(n, grit, seed=n) for n in lengths]
    prefix = reference_prefix(instruction)
    alone = np.concatenate([reference.encode([t], instruction=prefix, max_length=4096) for t in texts])
    together = reference.encode(texts, instruction=prefix, max_length=4096)
    ours = grit.embed_queries(texts, instruction=instruction)
    ours_alone = np.concatenate([grit.embed_queries([t], instruction=instruction) for t in texts])
    assert ours.dtype == np.float32 and ours.shape == (len(texts), grit.dim)
    for wanted in (alone, together):
        for found in (ours, ours_alone):
            np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "lasttoken", "cls"])
def test_every_pooling_equals_the_reference(pair: tuple[GritLM, Any, Path], pooling: Any) -> None:
    grit, reference, path = pair
    texts = [text_of(n, grit, seed=n) for n in (1, 5, 40)]
    ours = GritLM(path, pooling=pooling)
    reference.pooling_method = pooling
    try:
        wanted = reference.encode(texts, instruction=reference_prefix(INSTRUCTION), max_length=512)
    finally:
        reference.pooling_method = "mean"
    np.testing.assert_allclose(ours.embed_queries(texts, instruction=INSTRUCTION), wanted, atol=1e-5, rtol=0)
    assert ours.lm is grit.lm  # another pooling is another view of the same weights


def test_states_equal_a_hand_written_forward_pass(tmp_path: Path) -> None:
    grit = GritLM.from_pretrained(write_checkpoint(tmp_path / "m", seed=5, layers=4))
    ids = grit.checkpoint.tokenizer.encode_texts([text_of(60, grit)])[0]
    lm: Any = grit.lm
    with torch.inference_mode():
        both = bidirectional_view(lm.model)(input_ids=torch.tensor([ids]))[0][0]
        causal = lm.model(input_ids=torch.tensor([ids]))[0][0]
    assert torch.allclose(both, hidden_states(lm, ids, causal=False), atol=1e-4)
    assert torch.allclose(causal, hidden_states(lm, ids, causal=True), atol=1e-4)
    assert (both - causal).abs().max() > 0.1


def test_the_view_is_bidirectional_and_shares_every_parameter(tiny: GritLM) -> None:
    lm: Any = tiny.lm
    view = bidirectional_view(lm.model)
    ours, theirs = dict(view.named_parameters()), dict(lm.model.named_parameters())
    assert {n: p.data_ptr() for n, p in ours.items()} == {n: p.data_ptr() for n, p in theirs.items()}
    first, second = torch.tensor([[1, 500, 600]]), torch.tensor([[1, 500, 700]])
    with torch.inference_mode():
        changed = view(input_ids=first)[0][0, 0] - view(input_ids=second)[0][0, 0]
        unchanged = lm.model(input_ids=first)[0][0, 0] - lm.model(input_ids=second)[0][0, 0]
    assert changed.abs().max() > 0.01 and unchanged.abs().max() == 0


def test_embedding_never_disturbs_causal_passes(tiny: GritLM) -> None:
    """Flipping is_causal on the shared config corrupted 299 of 300 concurrent passes; the view corrupts none."""
    lm: Any = tiny.lm
    view = bidirectional_view(lm.model)
    ids = torch.arange(5, 69).unsqueeze(0)
    stop = threading.Event()

    def embed() -> None:
        with torch.inference_mode():
            while not stop.is_set():
                view(input_ids=ids)

    with torch.inference_mode():
        wanted = lm(input_ids=ids).logits
        thread = threading.Thread(target=embed)
        thread.start()
        try:
            equal = sum(torch.equal(lm(input_ids=ids).logits, wanted) for _ in range(200))
        finally:
            stop.set()
            thread.join()
    assert equal == 200


def test_padding_never_reaches_a_vector(tiny: GritLM) -> None:
    engine = tiny._loaded()
    items = [EncoderInput(range(5, 5 + n), header=2) for n in (3, 9, 40)]
    encoder = Encoder(engine.weights, pad_id=2)
    other = Encoder(engine.weights, pad_id=31000)
    assert torch.equal(encoder.forward(items, "mean"), other.forward(items, "mean"))


def test_pool_counts_only_the_sample() -> None:
    hidden = torch.tensor([[[9.0], [1.0], [2.0], [7.0]], [[9.0], [4.0], [0.0], [0.0]]])
    attended = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    sample = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 0]])
    assert pool(hidden, attended, sample, "mean").flatten().tolist() == pytest.approx([10 / 3, 4])
    assert pool(hidden, attended, sample, "weightedmean").flatten().tolist() == pytest.approx([26 / 6, 4])
    assert pool(hidden, attended, sample, "lasttoken").tolist() == [[7], [4]]
    assert pool(hidden, attended, sample, "cls").tolist() == [[9], [9]]
    assert pool(hidden.bfloat16(), attended, sample).dtype == torch.float32


def test_order_is_the_caller_s_and_duplicates_are_equal(tiny: GritLM) -> None:
    texts = [text_of(n, tiny, seed=i) for i, n in enumerate([50, 3, 700, 3, 50, 1])]
    texts.append(texts[0])
    vectors = tiny.embed_documents(texts)
    singly = np.concatenate([tiny.embed_documents([t]) for t in texts])
    np.testing.assert_allclose(vectors, singly, atol=1e-6)


def test_truncate_dim_and_normalize(tiny: GritLM, tiny_path: Path) -> None:
    texts = ["one text", "another, longer text"]
    raw = GritLM(tiny_path, normalize=False).embed_documents(texts)
    short = GritLM(tiny_path, truncate_dim=16)
    assert short.dim == 16
    expected = raw[:, :16] / np.linalg.norm(raw[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(short.embed_documents(texts), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(tiny.embed_documents(texts), axis=1), 1, atol=1e-6)


def test_an_empty_list_gives_an_empty_result_and_loads_nothing(tiny_path: Path) -> None:
    grit = GritLM(tiny_path)
    assert grit.embed_documents([]).shape == (0, 64)
    assert not grit.is_loaded


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        (["fine", ""], EmptyTextError, "Document 1 is empty"),
        (["fine", " \n\t"], EmptyTextError, "Document 1 is empty"),
        (["fine", 7], PromptError, "Document 1 is a int"),
        (["fine", None], PromptError, "Document 1 is a NoneType"),
        (["a\ud800b"], PromptError, "lone surrogate at position 1"),
        (["ab\x00"], PromptError, "NUL character at position 2"),
        ("one string", PromptError, "list of texts"),
        (["x" * 10_000_000], ContextOverflowError, "at least .* tokens"),
        (["word " * 5000], ContextOverflowError, "5,0.. tokens"),
    ],
)
def test_bad_texts_are_refused_before_work_starts(
    tiny: GritLM, monkeypatch: pytest.MonkeyPatch, texts: Any, error: type[Exception], words: str
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("work was started")

    monkeypatch.setattr(tiny._loaded().scheduler, "submit", never)
    with pytest.raises(error, match=words):
        tiny.embed_documents(texts)


def test_truncate_cuts_and_says_how_much(tiny: GritLM, caplog: pytest.LogCaptureFixture) -> None:
    long = " ".join(WORDS * 1000)
    vectors = tiny.embed_documents([long, "short"], truncate=True)
    room = tiny.window - 7
    assert "Document 0 was cut" in caplog.text and f"to {room} tokens" in caplog.text
    kept = tiny.checkpoint.tokenizer.decode(tiny.tokenize(long[:60000])[:room])
    np.testing.assert_allclose(vectors[0], tiny.embed_documents([kept])[0], atol=1e-6)


def test_unknown_options_are_named(tiny_path: Path) -> None:
    with pytest.raises(OptionError, match="pooling='max'"):
        GritLM(tiny_path, pooling="max")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="truncate_dim=0"):
        GritLM(tiny_path, truncate_dim=0)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("truncate_dim", [float("nan"), float("inf"), 1.5, True, "16", object()]),
        ("normalize", ["yes", 1, 0.0]),
        ("kv_store", ["kv-cache", 3, False]),
        ("cache_policy", ["all", 3, False]),
    ],
)
def test_settings_of_another_type_are_refused(tiny: GritLM, name: str, values: list[object]) -> None:
    for value in values:
        for make in (lambda **wrong: GritLM(tiny.source, **wrong), tiny.with_options):
            with pytest.raises(OptionError, match=f"{name}="):
                make(**{name: value})
