"""A sentence encoder and a chat model with random weights, in the layouts of the two stock models."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from checkpoints import write_checkpoint
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WINDOW = 24  # tokens of a text that the encoder reads
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def write_encoder(directory: Path) -> Path:
    """Write a BERT of two layers that spells words letter by letter, as sentence-transformers keeps one."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *letters, *(f"##{each}" for each in letters)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(directory)
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": WINDOW}))
    return directory


def write_chat(directory: Path) -> Path:
    """Write a random Llama with a chat template of its own."""
    write_checkpoint(directory, "llama")
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory
