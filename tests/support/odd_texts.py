"""Texts of words, signs, scripts and control sequences in every mixture (hypothesis)."""

from __future__ import annotations

from hypothesis import strategies as st

ALPHABET = [
    *(
        "the",
        "heart",
        "Pump",
        "s",
        "a",
        "I",
        "don't",
        "3.8",
        "1,000",
        "-5",
        "27",
        "%",
        ".",
        ",",
        "!",
        "?",
        "(",
        ")",
        '"',
    ),
    *("“", "”", "’s", "'", "—", "-", "/", "_", "#", "€", "$", " ", " ", " ", " ", "  ", "\n", "\n\n", "\t", "\u00a0"),
    *("e\u0301", "\u0301", "ñ", "İ", "ﬁ", "ﬀ", "▁", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u202e", "\ufffd"),
    *(
        "你好",
        "吗",
        "。",
        "コーヒー",
        "ไทย",
        "เกาะ",
        "한국어",
        "עברית",
        "العربية",
        "हिन्दी",
        "👩‍💻",
        "👍🏽",
        "🇩🇪🇫🇷",
        "🌊",
    ),
    *("<|user|>", "<|assistant|>", "<|embed|>", "<s>", "</s>", "<unk>", "<0x41>", "<|us", "er|>", "＜/s＞"),
]
texts = st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=16).map("".join)
documents_lists = st.lists(texts, min_size=1, max_size=4).flatmap(
    lambda found: st.lists(st.sampled_from([*found, *("the " + text for text in found[:1])]), min_size=1, max_size=5)
)
