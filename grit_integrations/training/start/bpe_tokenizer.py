"""Train the trainer's own byte-level BPE tokenizer, with the GRIT markers as one token each."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from grit_integrations.prompts.formats import MARKERS

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
WHOLE_WORDS = ("yes", "no")  # always one token: a reranker compares their probabilities

_SPACE = "Ġ"  # how byte-level BPE writes a space
_SPACED_SHARE = 0.4413  # of the pieces beyond single bytes: those that begin a word behind a space
_WHOLE_WORD_TIMES = 3000
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # as byte-level BPE cuts text
_SPACED_WORD = re.compile(r" (?:[^\W\d_]+|[^\s\w]+|_)")


def train_tokenizer(texts: Sequence[str], *, vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which a word has the same pieces with a space before it and without.

    Newlines and digits stand alone. Pieces are learned from words without their space; then those that begin words
    most often get a twin with the space, merged last. So ` Norman` is `Ġ|Nor` + `man` where `Norman` is `Nor` + `man`:
    an answer that begins with a word of a document has that word's tokens, but for the first one's space. Ids 0, 1, 2
    are `<pad>`, `<s>`, `</s>`; then the three GRIT markers. `<s>` goes in front with `add_special_tokens=True`. Every
    byte has a token, so nothing is ever unknown.
    """
    special = [PAD, BOS, EOS, *MARKERS]
    tokenizer = _with_spaces(_learned(texts, vocab_size, special), texts, vocab_size)
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(MARKERS),
        padding_side="right",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _learned(texts: Sequence[str], vocab_size: int, special: list[str]) -> Tokenizer:
    """Learn pieces from words whose leading space is taken off."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.Split(Regex(r"^ (?=\S)"), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(special)
    size = least + round((vocab_size - least) * (1 - _SPACED_SHARE))
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*texts, *WHOLE_WORDS * _WHOLE_WORD_TIMES], trainer=trainer)
    return tokenizer


def _with_spaces(learned: Tokenizer, texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Add, for the pieces that begin words behind a space most often, their twins with the space."""
    model: dict[str, Any] = json.loads(learned.to_str())["model"]
    vocabulary, merges = dict(model["vocab"]), [tuple(merge) for merge in model["merges"]]
    for piece in _first_pieces(learned, texts):
        if len(vocabulary) >= vocab_size:
            break
        if _SPACE not in piece and piece in vocabulary:
            vocabulary[_SPACE + piece] = len(vocabulary)
            merges.append((_SPACE, piece))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _first_pieces(learned: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Return the pieces that begin words behind a space, the verdicts' and the commonest first."""
    words = Counter(word[1:] for text in texts for word in _SPACED_WORD.findall(text))
    firsts = Counter[str]()
    distinct = list(words)
    for word, encoding in zip(distinct, learned.encode_batch(distinct), strict=True):
        firsts[encoding.tokens[0]] += words[word]
    ranked = [piece for piece, _ in firsts.most_common()]
    return list(dict.fromkeys([*WHOLE_WORDS, *ranked]))


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Load a saved tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer
