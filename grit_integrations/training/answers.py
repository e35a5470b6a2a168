"""Measure how well a model answers from a passage: the sentence it would quote, and what it writes freely.

Usage: `python -m grit_integrations.training.answers DATA MODEL --set NAME`, where `DATA` is what
`grit_integrations.training.convert` wrote and `NAME` a generation set of questions on a passage.
"""

from __future__ import annotations

import argparse
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from grit_integrations.training.batches import PromptEncoder
from grit_integrations.training.convert import NO_ANSWER
from grit_integrations.training.data import Text
from grit_integrations.training.evaluate import CausalLM, embed, load_texts
from grit_integrations.training.initial import load_model
from grit_integrations.training.tokenizer import load_tokenizer

NEW_TOKENS = 24
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
Picker = Callable[[str, Sequence[str]], int]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the passage to answer it from, the right answer, and the whole turn as it is asked."""

    context: str
    question: str
    answer: str
    turn: str


def as_question(text: Text) -> Question:
    """Take a conversation that `prompts.rag_prompt` laid out apart."""
    turn, answer = text.turns[:2]
    context, question, _ = turn.rsplit("\n\n", 2)
    return Question(context, question, answer, turn)


def sentences(passage: str) -> list[str]:
    """Split a passage after full stops, question and exclamation marks."""
    return [sentence for sentence in _SENTENCE_END.split(passage) if sentence.strip()]


def quote_share(questions: Sequence[Question], pick: Picker) -> float:
    """Return how often the sentence that `pick` chooses contains the answer."""
    hits = 0
    for each in questions:
        parts = sentences(each.context)
        hits += normalise(each.answer) in normalise(parts[pick(each.question, parts)])
    return hits / len(questions)


def by_shared_words(question: str, parts: Sequence[str]) -> int:
    """Return the sentence that shares most words with the question; the first of equals."""
    asked = set(normalise(question).split())
    return max(range(len(parts)), key=lambda index: len(asked & set(normalise(parts[index]).split())))


def by_embedding(model: CausalLM, encoder: PromptEncoder) -> Picker:
    """Return a picker of the sentence whose vector is nearest to the question's."""

    def pick(question: str, parts: Sequence[str]) -> int:
        vectors = embed(model, encoder, [question, *parts])
        return int((vectors[1:] @ vectors[0]).argmax())

    return pick


@torch.no_grad()
def write_answer(model: CausalLM, encoder: PromptEncoder, turn: str) -> str:
    """Return what the model writes greedily after a user's turn."""
    prompt, _ = encoder.conversation(Text((turn, "")))
    prompt = prompt[:-1]  # without the end of the empty answer
    ids = torch.tensor([prompt], device=model.device)
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)[
        0, len(prompt) :
    ]
    return str(encoder.tokenizer.decode(written, skip_special_tokens=True))


def normalise(text: str) -> str:
    """Lower the case and drop punctuation, articles and extra space, as SQuAD's evaluation does."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(answer: str, gold: str) -> float:
    """Return the F1 of normalised words."""
    found, wanted = normalise(answer).split(), normalise(gold).split()
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


def main() -> None:
    """Print how a model quotes and answers."""
    parser = argparse.ArgumentParser(description="Measure a model on questions about a passage.")
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--set", default="squad-v1.1-dev-part")
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    model, encoder = load_model(str(options.model)), PromptEncoder(load_tokenizer(options.model))
    texts = load_texts(options.data / "evaluation" / "generation" / f"{options.set}.jsonl")
    questions = [each for each in map(as_question, texts) if each.answer != NO_ANSWER][: options.rows]
    pickers: dict[str, Picker] = {
        "the first sentence": lambda question, parts: 0,
        "the sentence with most of the question's words": by_shared_words,
        "the sentence nearest to the question (embedding)": by_embedding(model, encoder),
    }
    print(f"| {options.set} ({len(questions)} questions) | contains the answer |\n|---|---|")  # noqa: T201
    for name, pick in pickers.items():
        print(f"| {name} | {quote_share(questions, pick):.3f} |", flush=True)  # noqa: T201
    written = [write_answer(model, encoder, each.turn) for each in questions]
    pairs = [(answer, each.answer) for answer, each in zip(written, questions, strict=True)]
    exact = sum(normalise(answer) == normalise(gold) for answer, gold in pairs) / len(pairs)
    overlap = sum(token_f1(answer, gold) for answer, gold in pairs) / len(pairs)
    print(f"\nfree greedy answers: exact match {exact:.3f}, F1 {overlap:.3f}")  # noqa: T201
    for answer, gold in pairs[:3]:
        print(f"  wrote {answer!r}, wanted {gold!r}")  # noqa: T201


if __name__ == "__main__":
    main()
