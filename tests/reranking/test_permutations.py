"""Orders as text: whatever a model says becomes a permutation; windows reach every passage."""

from __future__ import annotations

import random
import re

import pytest
from checkpoints import mistral_tokenizer_json
from hypothesis import example, given, settings
from hypothesis import strategies as st
from passages import write_order
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from grit_integrations import GritLM, OptionError
from grit_integrations.prompts.tokenizer import PromptTokenizer
from grit_integrations.reranking.order_constraint import OrderConstraint, Permutation
from grit_integrations.reranking.permutations import listing, read_order, windows

END = 2

outputs = st.one_of(
    st.text(),
    st.text(alphabet="[]0123456789 >-,.\n"),
    st.lists(
        st.sampled_from(["[1]", "[2]", "[ 3 ]", "[12]", " > ", "[0]", "[-1]", "[", "]", "7", "\u00b2", "[\u0661]"])
    ).map("".join),
)


@settings(max_examples=2000, deadline=None)
@given(text=outputs, count=st.integers(0, 30))
@example(text="[" + "9" * 5000 + "]", count=3)
def test_whatever_a_model_says_is_a_permutation(text: str, count: int) -> None:
    assert sorted(read_order(text, count)) == list(range(count))


@settings(max_examples=300, deadline=None)
@given(order=st.integers(1, 40).flatmap(lambda count: st.permutations(range(count))))
def test_a_whole_order_comes_back_as_it_was_written(order: list[int]) -> None:
    assert read_order(write_order(order), len(order)) == order


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("[2] > [1] > [3]", [1, 0, 2]),
        ("[2]>[1]>[3]", [1, 0, 2]),
        ("Here you go:\n[3] > [3] > [1].", [2, 0, 1]),
        ("[2]", [1, 0, 2]),
        ("[ 2 ] > [01]", [1, 0, 2]),
        ("", [0, 1, 2]),
        ("I cannot rank these 3 passages.", [0, 1, 2]),
        ("2 > 1 > 3", [0, 1, 2]),
        ("[1] and [2] of 3", [0, 1, 2]),
        ("[0] > [4] > [-2] > [2.5] > [3]", [2, 0, 1]),
        ("[99999999999999999999] > [3]", [2, 0, 1]),
        ("[\u0663] > [\u00b2] > [\uff12] > [3]", [2, 0, 1]),  # digits, but no identifiers of ours
        ("[[2]] > []", [1, 0, 2]),
        ("[\n2\n]", [1, 0, 2]),
    ],
)
def test_orders_are_read(text: str, order: list[int]) -> None:
    assert read_order(text, 3) == order


sizes = st.integers(2, 25).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size - 1)))


@settings(max_examples=500, deadline=None)
@given(count=st.integers(0, 120), sizes=sizes, seed=st.integers(0, 999))
def test_windows_bring_the_best_to_the_front(count: int, sizes: tuple[int, int], seed: int) -> None:
    size, step = sizes
    worth = random.Random(seed).sample(range(count), count)
    seen: set[int] = set()
    starts = []
    for start, stop in windows(count, size=size, step=step):
        assert 0 < stop - start <= size
        assert count == 1 or stop - start > 1
        seen |= set(range(start, stop))
        starts.append(start)
        worth[start:stop] = sorted(worth[start:stop], reverse=True)
    assert seen == set(range(count)) and starts == sorted(set(starts), reverse=True)
    best = size - step  # so many survive each window
    assert worth[:best] == sorted(range(count), reverse=True)[:best]


# Tokenizers: the Mistral vocabulary, grit-mini's, one that splits as Llama 3's and Qwen's do, one that merges anything.

LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(*, merges_across: bool) -> PromptTokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pattern = r"\n" if merges_across else LLAMA_SPLIT
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), split])
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    texts = [write_order(rng.sample(range(25), 25)) for _ in range(200)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"))


@pytest.fixture(scope="module", params=["mistral", "grit-mini", "llama 3", "merges anything"])
def tokenizer(request: pytest.FixtureRequest) -> PromptTokenizer:
    if request.param == "mistral":
        backend = Tokenizer.from_str(mistral_tokenizer_json())
        return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>"))
    if request.param == "grit-mini":
        return GritLM("grit-mini").checkpoint.tokenizer
    return byte_level(merges_across=request.param == "merges anything")


def said(tokenizer: PromptTokenizer, count: int, choose: random.Random, end: int) -> tuple[list[int], str]:
    """Follow a constraint with a model that knows nothing."""
    permutation = listing(tokenizer, count)
    constraint = OrderConstraint(permutation, {end, end + 1})
    ids: list[int] = []
    while not ids or ids[-1] != end:
        allowed = constraint.allowed(permutation.longest - len(ids))
        assert allowed == sorted(set(allowed)) and len(ids) < permutation.longest
        ids.append(choose.choice(allowed))
        constraint.advance(ids[-1])
    letter = tokenizer.encode_texts(["a"])[0]
    return ids[:-1], tokenizer.decode([*letter, *ids[:-1]])[1:]


@pytest.mark.parametrize("count", [2, 3, 9, 10, 11, 23])
def test_only_orders_can_be_said(tokenizer: PromptTokenizer, count: int) -> None:
    for seed in range(20):
        _, text = said(tokenizer, count, random.Random(seed), end=10**6)
        assert re.fullmatch(r"\[\d+\]( > \[\d+\])*", text)
        order = read_order(text, count)
        assert write_order(order) == text and sorted(order) == list(range(count))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_order_can_be_said(tokenizer: PromptTokenizer, count: int) -> None:
    found = {said(tokenizer, count, random.Random(seed), end=10**6)[1] for seed in range(40 * count * count)}
    assert len(found) == {2: 2, 3: 6, 5: 120}[count]


def test_orders_are_spelled_as_in_training(tokenizer: PromptTokenizer, request: pytest.FixtureRequest) -> None:
    if "merges anything" in request.node.name:
        pytest.skip("its identifiers are spelled one by one, a whole order otherwise")
    for seed in range(20):
        ids, text = said(tokenizer, 12, random.Random(seed), end=10**6)
        assert [ids] == tokenizer.encode_texts([text])


def test_a_tokenizer_that_knows_no_brackets_is_refused() -> None:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "\n": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    with pytest.raises(OptionError, match="pointwise"):
        listing(PromptTokenizer(fast), 3)


def test_items_that_begin_alike_are_told_apart() -> None:
    permutation = Permutation(((5,), (6, 7), (6, 8, 9)), ((5,), (6, 7), (6, 8, 9)))
    constraint = OrderConstraint(permutation, [END])
    for token, allowed in ((6, [5, 6]), (8, [7, 8]), (9, [9]), (6, [5, 6]), (7, [7]), (5, [5]), (END, [END])):
        assert constraint.allowed(99) == allowed
        constraint.advance(token)
    assert permutation.longest == 7
    with pytest.raises(OptionError, match="apart"):
        Permutation(((5,), (5, 6)), ((5,), (5, 6)))
