"""Fuzz one kind of file by coverage: `python tests/fuzz/by_coverage.py store -max_total_time=300`. Needs atheris."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
with atheris.instrument_imports(include=["grit_integrations"]):
    import fuzz_targets

TARGETS = {"checkpoint": fuzz_targets.checkpoint_case, "store": fuzz_targets.store_case}


def main() -> None:
    """Run libFuzzer on a target until its time is over; it stops at the first raw exception, hang or crash."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup([*sys.argv, "-timeout=60", "-rss_limit_mb=4096"], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
