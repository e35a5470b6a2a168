"""One folder with the files of both streams, in the shapes of the GritLM reference's toy data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grit_integrations.cli import app

THINGS = ("mill", "forge", "chapel", "dairy", "bakery", "windmill", "brewery", "workshop", "lighthouse", "glasshouse")
RECIPE = """
output = "run"
precision = "float32"
threads = 1
steps = 30
embedding_tokens = 300
generative_tokens = 400
evaluate_every = 100
[model]
vocab_size = 300
hidden_size = 32
layers = 2
heads = 2
kv_heads = 1
head_dim = 16
mlp_size = 64
context = 256
start = "random"
[optimiser]
warmup_steps = 3
body_rate = 3e-3
[data]
data = "toy"
negatives = 1
query_tokens = 40
passage_tokens = 40
text_tokens = 120
"""


def rows(instructed: bool) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Queries with one positive and seven negatives, and texts; with instructions or plain."""

    def text(words: str) -> str | list[str]:
        return ["Represent this text:", words] if instructed else words

    pairs: list[dict[str, object]] = []
    texts: list[dict[str, object]] = []
    for at, thing in enumerate(THINGS):
        others = [f"A {THINGS[(at + n) % 10]} is to be seen." for n in range(1, 8)]
        pairs.append(
            {
                "query": text(f"The {thing} stands on a hill."),
                "pos": [text(f"There is a {thing}.")],
                "neg": [*map(text, others)],
            }
        )
        asked, answer = f"Write about a {thing}.", f"The {thing} is old. It was built of stone."
        texts.append({"text": [asked, answer] if instructed else f"{asked} {answer}"})
    return pairs, texts


@pytest.mark.parametrize("instructed", [False, True])
def test_both_losses_fall(tmp_path: Path, instructed: bool) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "recipe.toml").write_text(RECIPE)
    for name, found in zip(("embedding", "generative"), rows(instructed), strict=True):
        path = tmp_path / "toy" / f"toy_data_{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    done = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.toml")])
    assert done.exit_code == 0, done.output
    assert "Finished after step 30" in done.output
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if "seconds" in line]
    for stream in ("embedding", "generative"):
        first, last = (sum(step[stream] for step in part) / 5 for part in (steps[:5], steps[-5:]))
        assert last < 0.9 * first, stream


def test_a_folder_without_a_stream_says_which(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "toy" / "only.jsonl").write_text('{"text": "plain"}\n')
    done = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.toml")])
    assert done.exit_code == 1
    assert "no file of pairs" in done.output
