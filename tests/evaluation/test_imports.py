"""An evaluation loads no trainer: neither this package's nor the libraries that training needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grit_integrations.evaluation

FOLDER = Path(grit_integrations.evaluation.__file__).parent
MEASURE = """
import sys
from grit_integrations import GritLM
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.evaluation.run import evaluate
from grit_integrations.evaluation.scope import EvaluationOptions
from grit_integrations.evaluation.sets import EvaluationSets
sets = EvaluationSets(texts={"text": (TextRow(("The mill grinds wheat.",)),)})
parts = evaluate(GritLM.bundled(), sets, EvaluationOptions(parts=("perplexity", "triples")), progress=False)
assert [part.part for part in parts] == ["perplexity", "triples"]
print(*sys.modules)
"""
TRAINERS = ("grit_integrations.training", "accelerate", "peft", "matplotlib", "trl")


def modules_after(code: str) -> list[str]:
    """Return the trainers' modules that a process has loaded behind `code`."""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return [name for name in output.split() if name.startswith(TRAINERS)]


def test_no_module_loads_a_trainer() -> None:
    names = sorted(f"grit_integrations.evaluation.{file.stem}" for file in FOLDER.glob("[a-z]*.py"))
    assert "grit_integrations.evaluation.run" in names
    assert modules_after(f"import sys, {', '.join(names)}\nprint(*sys.modules)") == []


def test_measuring_loads_none_either() -> None:
    loaded = modules_after(MEASURE)  # transformers may take accelerate for itself
    assert [name for name in loaded if name.startswith("grit_integrations")] == []
