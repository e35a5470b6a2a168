"""An evaluation loads no trainer: neither this package's nor the libraries that training needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grit_integrations.evaluation

FOLDER = Path(grit_integrations.evaluation.__file__).parent
TRAINERS = ("grit_integrations.training", "accelerate", "peft", "zstandard", "matplotlib", "trl")


def test_no_module_loads_a_trainer() -> None:
    names = sorted(f"grit_integrations.evaluation.{file.stem}" for file in FOLDER.glob("[a-z]*.py"))
    assert "grit_integrations.evaluation.run" in names
    code = f"import sys, {', '.join(names)}\nprint(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert [name for name in output if name.startswith(TRAINERS)] == []
