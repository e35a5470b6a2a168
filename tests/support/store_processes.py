"""Runs `store_child` in processes of its own, and tells what it left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHILD = Path(__file__).with_name("store_child.py")


def run_child(role: str, *arguments: object) -> str:
    command = [sys.executable, str(CHILD), role, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def block_files(path: Path) -> list[Path]:
    return sorted((path / "blocks").rglob("*.safetensors"))
