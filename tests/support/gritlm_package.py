"""The `gritlm` package's own model, which ours is compared with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch


def load_reference(path: Path, **options: Any) -> Any:
    """Load the `gritlm` package's model; it insists on remote code, so `auto_map` is taken out of a copy first."""
    import gritlm

    copy = Path(shutil.copytree(path, path.parent / f"{path.name}-reference-{len(options)}"))
    config = json.loads((copy / "config.json").read_text())
    config.pop("auto_map", None)
    (copy / "config.json").write_text(json.dumps(config))
    return gritlm.GritLM(str(copy), dtype=torch.float32, sliding_window=None, attn_implementation="sdpa", **options)
