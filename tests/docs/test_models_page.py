"""The sizes on `docs/models.md`: grit-mini's are its config's and its files', the others' follow from their configs."""

from __future__ import annotations

import json
import re

from pages import DOCS, MINI, README, result, table

PAGE = (DOCS / "models.md").read_text(encoding="utf-8")
NAMES = ("grit-mini", "GritLM-7B", "GritLM-8x7B")
ROWS = {name: dict(zip(NAMES, cells, strict=True)) for name, *cells in table(PAGE, " | grit-mini")}


def numbers(row: str, model: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", ROWS[row][model].replace(", ", " "))]


def test_grit_mini_is_what_its_config_says() -> None:
    config = json.loads((MINI / "config.json").read_text())
    for row, keys in {
        "layers": ["num_hidden_layers"],
        "hidden size": ["hidden_size"],
        "MLP size": ["intermediate_size"],
        "heads, key-value heads, head size": ["num_attention_heads", "num_key_value_heads", "head_dim"],
        "vocabulary": ["vocab_size"],
        "window, tokens": ["max_position_embeddings"],
    }.items():
        assert numbers(row, "grit-mini") == [config[key] for key in keys]
    found = result("grit-mini-answers")["model"]
    assert parameters("grit-mini") == found["parameters"]
    assert ROWS["weights in float32"]["grit-mini"] == f"{found['bytes'] / 1e6:.0f} MB"
    assert ROWS["weights in bfloat16"]["grit-mini"] == f"{(MINI / 'model.safetensors').stat().st_size / 1e6:.0f} MB"


def parameters(model: str) -> int:
    """Return how many parameters a Mistral or Mixtral of this shape has, untied and without biases."""
    (layers,), (hidden,), (mlp,), (vocabulary,) = (
        numbers(row, model) for row in ("layers", "hidden size", "MLP size", "vocabulary")
    )
    heads, kv_heads, dim = numbers("heads, key-value heads, head size", model)
    experts = sum(numbers("architecture", model))
    attention = 2 * hidden * heads * dim + 2 * hidden * kv_heads * dim
    feed_forward = 3 * hidden * mlp * max(experts, 1) + hidden * experts  # the router
    return 2 * vocabulary * hidden + layers * (attention + feed_forward + 2 * hidden) + hidden


def test_parameters_and_bytes_follow_from_the_shape() -> None:
    for model in NAMES:
        count = parameters(model)
        shown = f"{count / 1e9:.2f} billion" if count < 1e10 else f"{count / 1e9:.1f} billion"
        assert ROWS["parameters"][model] == (f"{count / 1e6:.1f} million" if count < 1e9 else shown)
        for precision, size in (("bfloat16", 2), ("float32", 4)):
            weight = size * count
            shown = f"{weight / 1e6:.0f} MB" if weight < 1e9 else f"{weight / 1e9:.1f} GB"
            assert ROWS[f"weights in {precision}"][model] == shown
        (layers,), (_, kv_heads, dim) = numbers("layers", model), numbers("heads, key-value heads, head size", model)
        assert ROWS["keys and values a token, bfloat16"][model] == f"{2 * layers * kv_heads * dim * 2 / 1024:.0f} KiB"
    free = 24e9 - 2 * parameters("GritLM-7B")
    assert f"A GPU with 24 GB holds GritLM-7B in bfloat16 and leaves {free // 1e9:.0f} GB" in PAGE
    kib = ROWS["keys and values a token, bfloat16"]["GritLM-7B"]
    assert f"a document takes {kib} a token with GritLM-7B in bfloat16" in README.read_text(encoding="utf-8")
