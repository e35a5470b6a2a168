"""What a chat model says to general instructions, as rows of the generative stream: training then keeps that it chats.

Usage: `python -m grit_integrations.training.prepare.replies RECIPE INSTRUCTIONS [--count N]`. The model that `RECIPE`
starts from has a chat template; `INSTRUCTIONS` is a file of `{"instruction": ...}`, in some of which `{topic}` stands
for a term of the glossaries among the recipe's pairs. Its generative folder gets `replies.jsonl` with
`{"text": [instruction, reply]}`: what the model said under its own template, to be said under GRIT's.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grit_integrations.errors import DataError
from grit_integrations.evaluation.json_lines import read_json_lines
from grit_integrations.evaluation.row_kinds import parse_pair
from grit_integrations.progress import progress_bar
from grit_integrations.training.config import load_config
from grit_integrations.training.rows.row_files import RowFile, row_files
from grit_integrations.training.setup import choose_precision
from grit_integrations.training.start.causal_lm import checkpoint_folder

COUNT = 600
TOKENS = 128  # of a reply; what is longer ends with its last whole sentence
ROWS = 32  # written at once
TEMPERATURE, TOP_P = 0.3, 0.9  # warmer, a small model writes nonsense
TOPIC = "{topic}"


def instructions(path: Path, topics: Sequence[str], *, count: int, seed: int) -> list[str]:
    """Return `count` distinct instructions: those without a topic once, the others with one term after another.

    Raises:
        DataError: a row without an instruction; no topics where one is wanted.
    """
    rng = random.Random(seed)  # noqa: S311  # sampling, not secrets
    fixed: list[str] = []
    open_ended: list[str] = []
    for number, row in read_json_lines(path):
        if not (isinstance(row, dict) and isinstance(row.get("instruction"), str) and row["instruction"].strip()):
            raise DataError(f'{path} line {number}: "instruction" must be text that is not blank.')
        (open_ended if TOPIC in row["instruction"] else fixed).append(row["instruction"])
    if open_ended and not topics:
        raise DataError(f"{path} asks about {TOPIC}, and the data has no glossary--*.jsonl with terms. Add one.")
    terms = rng.sample(topics, min(len(topics), max(0, count - len(fixed)))) if open_ended else []
    return [*fixed, *(rng.choice(open_ended).replace(TOPIC, term) for term in terms)][:count]


def glossary_terms(pairs: Path) -> list[str]:
    """Return the terms that the glossaries in a folder of pairs explain."""
    files = (RowFile(path, parse_pair) for path in row_files(pairs) if path.name.startswith("glossary--"))
    return sorted({file[index].query for file in files for index in range(len(file))})


def replies(model: Any, tokenizer: Any, asked: Sequence[str], *, seed: int) -> Iterator[tuple[str, str]]:
    """Yield each instruction with what the model samples under its chat template; a reply of no sentence is left out.

    Args:
        model: a transformers causal LM.
        tokenizer: its tokenizer, with a chat template.
        asked: the instructions.
        seed: of the sampling.
    """
    torch.manual_seed(seed)
    tokenizer.padding_side = "left"
    for start in progress_bar(range(0, len(asked), ROWS), desc="Replies", unit="batch", shown=None):
        block = asked[start : start + ROWS]
        turns = [[{"role": "user", "content": text}] for text in block]
        inputs = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            written = model.generate(
                **inputs, max_new_tokens=TOKENS, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P
            )
        texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for instruction, text in zip(block, texts, strict=True):
            if whole := whole_sentences(text):
                yield instruction, whole


def whole_sentences(text: str) -> str:
    """Return a text up to the end of its last sentence or line; empty if it has none.

    >>> whole_sentences("Bread is baked. It smells"), whole_sentences("and then")
    ('Bread is baked.', '')
    """
    end = max(text.rfind(mark) for mark in (". ", ".\n", "! ", "? ", "```\n"))
    complete = text.rstrip().endswith((".", "!", "?", "```"))
    return text.strip() if complete else text[: end + 1].strip()


def main() -> None:
    """Write the replies from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("instructions", type=Path)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = load_config(options.recipe)
    data, model = Path(config.data.data), checkpoint_folder(config.model)
    topics = glossary_terms(data / config.data.embedding)
    asked = instructions(options.instructions, topics, count=options.count, seed=options.seed)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    dtype = choose_precision(config.precision, torch.device("cpu"))
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True)
    rows = [{"text": pair} for pair in replies(lm, tokenizer, asked, seed=options.seed)]
    target = data / config.data.generative / "replies.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} replies in {target}")  # noqa: T201


if __name__ == "__main__":
    main()
