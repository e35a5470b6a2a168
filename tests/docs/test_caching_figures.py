"""What `docs/caching.md` says of sizes and break-even speeds is computed from configs and from the benchmark."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re

import pytest
import torch
from pages import DOCS, MINI, ROOT, constant, prose, result, table

from grit_integrations import CachePolicy, KVCacheStore
from grit_integrations.kv.blocks import KVBlock
from grit_integrations.prompts.verbatim import RecentDocuments

PAGE = (DOCS / "caching.md").read_text(encoding="utf-8")
PROSE = prose(DOCS / "caching.md")
BLOCK = 192  # tokens
ID = 4  # bytes of a token's id
NUMBER = {"float32": 4, "bfloat16": 2}
SIZES = table(PAGE, "model | layers")


def native(shape: str, precision: str) -> int:
    """Return the bytes of a token's keys and values."""
    layers, heads, dim = map(int, shape.split(", "))
    return 2 * layers * heads * dim * NUMBER[precision]


def int8(shape: str) -> float:
    """Return the same in int8: a number a value and channel, a factor a value, and factors of the channels a block."""
    layers, heads, dim = map(int, shape.split(", "))
    return layers * heads * (2 * dim + 4) + 4 * layers * heads * dim / BLOCK


def shape_of(model: str) -> str:
    return next(shape for name, shape, *_ in SIZES if name == model)


def test_a_token_s_bytes_are_those_of_the_shape() -> None:
    for _, shape, precision, shown, shown_int8 in SIZES:
        assert shown == f"{native(shape, precision):,}"
        assert shown_int8 == f"{int8(shape):,.0f}"


def test_the_shapes_are_those_of_the_configs() -> None:
    config = json.loads((MINI / "config.json").read_text())
    wanted = ", ".join(str(config[key]) for key in ("num_hidden_layers", "num_key_value_heads", "head_dim"))
    assert shape_of("grit-mini") == wanted
    words = re.search(r"hidden (\d+), (\d+) layers, (\d+) heads, (\d+) kv heads", result("embedding")["model"])
    assert words is not None
    hidden, layers, heads, kv_heads = map(int, words.groups())
    assert shape_of("230M benchmark shape") == f"{layers}, {kv_heads}, {hidden // heads}"
    seven = table((DOCS / "models.md").read_text(encoding="utf-8"), " | grit-mini | GritLM-7B")
    known = {name: dict(zip(("mini", "7B", "8x7B"), cells, strict=True)) for name, *cells in seven}
    for model in ("7B", "8x7B"):
        _, kv_heads_of, dim = known["heads, key-value heads, head size"][model].split(", ")
        assert shape_of(f"GritLM-{model}") == f"{known['layers'][model]}, {kv_heads_of}, {dim}"


@pytest.mark.parametrize("model", ["grit-mini", "GritLM-7B"])
def test_a_real_block_is_as_large_as_the_page_says(model: str) -> None:
    shape, precision = next((shape, precision) for name, shape, precision, *_ in SIZES if name == model)
    layers, heads, dim = map(int, shape.split(", "))
    states = torch.zeros(layers, heads, BLOCK, dim, dtype=getattr(torch, precision))
    block = KVBlock(keys=states, values=states, token_ids=tuple(range(BLOCK)), position=0, dtype=states.dtype)
    assert block.nbytes == BLOCK * (native(shape, precision) + ID)
    assert block.quantised().nbytes == pytest.approx(BLOCK * (int8(shape) + ID))


def test_what_fits_is_what_the_bytes_leave_room_for() -> None:
    models = {"grit-mini": "grit-mini", "230M": "230M benchmark shape", "7B and 8x7B": "GritLM-7B"}
    rows = table(PAGE, " | 1 GB")
    assert len(rows) == 5
    for label, *cells in rows:
        name, precision = label.split(", ")
        shape = shape_of(models[name])
        each = ID + (int8(shape) if precision == "int8" else native(shape, precision))
        for size, cell in zip((1e9, 1e10, 1e11), cells, strict=True):
            tokens, passages = cell.rstrip(")").split(" (")
            assert passages == f"{int(size / each / BLOCK):,}", label
            assert tokens == rounded(size / each), label


def rounded(tokens: float) -> str:
    if tokens < 1e6:
        return f"{tokens / 1e3:.1f} thousand" if tokens < 1e4 else f"{tokens / 1e3:.0f} thousand"
    return f"{tokens / 1e6:.1f} million" if tokens < 1e8 else f"{tokens / 1e6:.0f} million"


def test_break_even_is_bytes_times_prefill() -> None:
    models = {"230M": "230M benchmark shape", "grit-mini": "grit-mini", "7B": "GritLM-7B"}
    rows = table(PAGE, "machine and model")
    model, precision = "", ""
    for label, prefill, *shown in rows:
        if not label.startswith("the same"):
            model = next(models[word] for word in re.findall(r"[\w-]+", label) if word in models)
            precision = next((name for name in NUMBER if name in label), precision)
        shape, speed = shape_of(model), int(prefill.replace(",", ""))
        speeds = [speed * native(shape, precision), speed * int8(shape)]
        unit, scale = ("GB/s", 1e9) if speeds[0] >= 1e9 else ("MB/s", 1e6)
        digits = [0 if value / scale >= 10 else 1 for value in speeds]
        assert shown == [f"{value / scale:.{n}f} {unit}" for value, n in zip(speeds, digits, strict=True)], label


def test_prefill_speeds_are_measured_or_marked() -> None:
    rows = {label: prefill for label, prefill, *_ in table(PAGE, "machine and model")}
    (off,) = (
        row
        for row in result("caching")["rows"]
        if (row["arm"], row.get("document"), row.get("question"), row.get("new")) == ("off", 4000, 32, 16)
    )
    notebook = json.loads((ROOT / "examples" / "03_document_caching.ipynb").read_text(encoding="utf-8"))
    printed = "".join("".join(out.get("text", "")) for cell in notebook["cells"] for out in cell.get("outputs", ()))
    answer = re.search(r"prompt +(\d+), read +0, first token +(\d+) ms", printed)
    assert answer is not None
    tokens, milliseconds = map(int, answer.groups())
    measured = {
        "at 4,000 tokens": f"{4000 / off['ttft']['median']:.0f}",
        "at the embedding speed": f"{result('embedding')['tokens_per_second']['grit_integrations']:.0f}",
        f"{tokens:,} tokens *(one answer of notebook 03)*": f"{round(tokens / milliseconds * 1000, -1):,.0f}",
    }
    for label, prefill in rows.items():
        known = [speed for words, speed in measured.items() if words in label]
        assert known == [prefill] or re.search(r"\*\((estimate|implied).*\)\*", label), label
    assert sum(any(words in label for words in measured) for label in rows) == len(measured)


def test_load_speeds_are_the_benchmark_s() -> None:
    rows = {
        row["arm"]: row["bytes"] / row["load"] / 1e9
        for row in result("caching")["rows"]
        if (row.get("document"), row.get("question"), row.get("new")) == (4000, 32, 16) and row.get("load")
    }
    disk, page_cache = rows["prefix, hit on disk, page cache dropped"], rows["prefix, hit on disk"]
    assert f"{disk:.1f} GB/s from disk and {page_cache:.1f} GB/s from the page cache" in PROSE


def test_defaults_and_constants_are_those_of_the_code() -> None:
    defaults = {
        name: parameter.default
        for made in (KVCacheStore.__init__,)
        for name, parameter in inspect.signature(made).parameters.items()
    }
    defaults |= {field.name: field.default for field in dataclasses.fields(CachePolicy)}
    options = re.search(r"store = KVCacheStore\((.*?)\n\)\npolicy = CachePolicy\((.*?)\n\)", PAGE, re.DOTALL)
    assert options is not None
    shown = dict(re.findall(r"^    (\w+)=(.+?),  #", "".join(options.groups()), re.MULTILINE))
    assert {name: repr(defaults[name]).replace("'", '"') for name in shown} == shown
    assert f"blocks of {constant('kv', '_MEASURABLE')} tokens or more" in PROSE
    assert f"at least {constant('prompts', '_LEAST')} characters" in PROSE
    assert f"the last {inspect.signature(RecentDocuments).parameters['limit'].default} texts" in PROSE
    assert f"{defaults['ram_bytes'].removesuffix('MB')} MB of main memory" in PROSE
    mini, seven = shape_of("grit-mini"), shape_of("GritLM-7B")
    smaller = [native(seven, "bfloat16") / int8(seven), native(mini, "float32") / int8(mini)]
    assert [round(factor) for factor in smaller] == [2, 4] and '"int8": 2 to 4 times smaller' in PAGE
