"""Random chat models whose tokenizers have templates like those of well-known families."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import add_special_tokens, write_checkpoint
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Family:
    """A chat template, and the tokens that it needs.

    Attributes:
        template: in Jinja.
        tokens: special tokens beside BOS and EOS.
        end: what ends an answer.
        system: whether a system message has a turn of its own.
        strips: whether texts lose the white space around them.
        byte_level: whether the tokenizer is a byte-level BPE without BOS, else Mistral's.
    """

    template: str
    tokens: tuple[str, ...] = ()
    end: str = "</s>"
    system: bool = True
    strips: bool = False
    byte_level: bool = False


CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% set first = '' %}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ first if loop.first else '' }}{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]"
    "{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)
ALPACA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}### Instruction:\n{{ message['content'] }}\n\n"
    "{% else %}### Response:\n{{ message['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
FAMILIES = {
    "chatml": Family(CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "chatml in bytes": Family(CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", byte_level=True),
    "llama3": Family(LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>", strips=True),
    "gemma": Family(GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", strips=True),
    "mistral": Family(MISTRAL, system=False),
    "alpaca": Family(ALPACA),
}


def write_chat_model(directory: Path, family: Family, **keys: Any) -> Path:
    """Write a random Llama with a family's template, and a `grit_config.json` of `keys`."""
    write_checkpoint(directory, "llama", vocab_size=32008)
    if family.byte_level:
        _write_bytes(directory)
    add_special_tokens(directory, *family.tokens)
    (directory / "chat_template.jinja").write_text(family.template)
    (directory / "grit_config.json").write_text(json.dumps(keys))
    return directory


def _write_bytes(directory: Path) -> None:
    """Write a byte-level BPE that cuts text as Qwen's does, and has no BOS."""
    words = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["The heart pumps blood. Answer: yes Answer: no", "user assistant system embed helpful"] * 20
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.add_special_tokens(["</s>"])
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (directory / file).unlink()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(directory)
