"""KTO with TRL's trainer: liked answers become likelier, and the model still embeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from recipes import Trained

from grit_integrations import GritLM
from grit_integrations.errors import ConfigError, DataError
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.evaluation.nats import response_nats
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.training.kto import KtoSettings, as_examples, parse_rated, train_kto
from grit_integrations.training.rows.row_files import RowFile
from grit_integrations.training.start.bpe_tokenizer import load_tokenizer
from grit_integrations.training.start.causal_lm import load_model

PLACES = ("Arnwick", "Bellmere", "Corvale", "Dunholt", "Hartfen", "Glenmoor")


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judged(path: Path) -> Path:
    """Rows that like answers in red and dislike answers in grey."""
    rows = [(f"What colour is the mill of {place}?", colour) for place in PLACES for colour in ("Red.", "Grey.")]
    return write(path, [{"prompt": prompt, "completion": c, "label": c == "Red."} for prompt, c in rows])


def test_liked_answers_become_likelier_and_the_model_still_embeds(trained: Trained, tmp_path: Path) -> None:
    settings = KtoSettings(learning_rate=2e-3, epochs=4, batch=4, cpu=True)
    out = train_kto(trained.result.model, judged(tmp_path / "rows.jsonl"), tmp_path / "out", settings)
    texts = {
        colour: [TextRow((f"What colour is the mill of {p}?", colour)) for p in PLACES] for colour in ("Red.", "Grey.")
    }
    gaps = []
    for path in (trained.result.model, out):
        model, encoder = load_model(path), PromptEncoder(load_tokenizer(path))
        nats = {colour: response_nats(model, encoder, rows) for colour, rows in texts.items()}
        gaps.append(nats["Grey."] - nats["Red."])
    assert gaps[1] > gaps[0] + 0.05
    before, after = (GritLM.from_pretrained(path) for path in (trained.result.model, out))
    query, passages = "mill of Arnwick", ["The mill of Arnwick stands by the hill.", "A chapel of Corvale is purple."]
    for grit in (before, after):
        scores = grit.embed_documents(passages) @ grit.embed_queries([query])[0]
        assert scores[0] > scores[1]
    assert not np.array_equal(before.embed_queries([query]), after.embed_queries([query]))
    log = json.loads((out / "kto.json").read_text())
    assert (log["settings"]["beta"], len([each for each in log["log"] if "loss" in each])) == (0.1, 12)
    for name in ("grit_config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (trained.result.model / name).read_bytes()


def test_examples_are_the_ids_of_our_own_prompts(trained: Trained, tmp_path: Path) -> None:
    encoder = PromptEncoder(load_tokenizer(trained.result.model))
    rows: list[dict[str, object]] = [
        {"prompt": ["Where?", "North.", "When?"], "completion": "Later.", "label": True},
        {"prompt": "Where?\n", "completion": "\nSouth.", "label": False},
        {"prompt": "Where? " * 90, "completion": "South.", "label": False},
    ]
    file = RowFile(write(tmp_path / "rows.jsonl", rows), parse_rated)
    examples = as_examples(file, encoder, window=60)
    assert [example["label"] for example in examples] == [True, False]  # the last does not fit
    for example, turns in zip(
        examples, (("Where?", "North.", "When?", "Later."), ("Where?\n", "\nSouth.")), strict=True
    ):
        assert example["prompt_ids"] + example["completion_ids"] == encoder.conversation(TextRow(turns))[0]
        assert example["completion_ids"] == [*encoder.texts([turns[-1]])[0], encoder.tokenizer.eos_token_id]
    with pytest.raises(DataError, match="label true and rows with label false"):
        as_examples(file, encoder, window=12)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "completion": "b"}, '"label"'),
        ({"prompt": "a", "completion": "b", "label": 1}, "true or false"),
        ({"prompt": ["a", "b"], "completion": "c", "label": True}, '"prompt" must be'),
        ({"prompt": "a", "completion": " ", "label": True}, "none blank"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=f"line 1: .*{words}"):
        RowFile(write(tmp_path / "rows.jsonl", [row]), parse_rated)


def test_settings_that_cannot_work_are_refused_first(trained: Trained, tmp_path: Path) -> None:
    rows = judged(tmp_path / "rows.jsonl")
    with pytest.raises(ConfigError, match="at least 2"):
        train_kto(trained.result.model, rows, tmp_path / "out", KtoSettings(batch=1))
    with pytest.raises(ConfigError, match="config"):
        train_kto(tmp_path / "nothing", rows, tmp_path / "out")
