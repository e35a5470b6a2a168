"""What an index's KV cache holds, and what answers take from it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from command_line import good

QUESTION = "What does the heart do with the blood?"


def stats(store: Path) -> dict[str, object]:
    return dict(json.loads(good("cache", "stats", "--store", store, "--json")))


def ask(store: Path, *options: object) -> tuple[str, int, str]:
    """Return the answer, the prompt tokens that were read from the cache, and everything that was printed.

    Without reranking: what verdicts read would be in the cache, whatever was stored.
    """
    said = good("ask", QUESTION, "--store", store, "--free", "--rerank", 0, "--max-tokens", 4, *options)
    match = re.search(r"cache: ([\d,]+) of ([\d,]+) prompt tokens read", said)
    return said.split("cache:")[0].split("\nSources")[0].strip(), int(match[1]) if match else 0, said


def blocks(store: Path) -> list[Path]:
    return sorted((store / "kv" / "blocks").rglob("*.safetensors"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
