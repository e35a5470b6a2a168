"""`grit index`: interrupted and gone on with, and models that it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from checkpoints import write_checkpoint
from command_line import RUN, good, refusal

from grit_integrations import GritLM
from grit_integrations.ingest import PassageIndex

# A shell's background jobs, and what they start, ignore SIGINT; this one must heed it wherever the tests run.
HEED_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


def test_interrupt_stops_cleanly_and_the_next_run_goes_on(tmp_path: Path, tiny_path: Path, tiny: GritLM) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(600):
        (docs / f"{number}.txt").write_text("\n\n".join(f"Sentence {n} of {number}. " * 20 for n in range(12)))
    command = [sys.executable, "-c", HEED_INTERRUPTS + RUN, "index", str(docs)]
    command += ["--store", str(tmp_path / "s"), "--model", str(tiny_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        records = tmp_path / "s" / "records.sqlite"
        while not records.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Stopped." in said
    assert "Traceback" not in said
    for number in range(4, 600):
        (docs / f"{number}.txt").unlink()
    good("index", docs, "--store", tmp_path / "s")
    assert PassageIndex(tmp_path / "s", tiny).count() == len(PassageIndex(tmp_path / "s", tiny).vectors.get()["ids"])


def test_a_wrong_checkpoint_is_refused(store: Path, tmp_path: Path, docs: Path) -> None:
    broken = write_checkpoint(tmp_path / "broken")
    shard = sorted(broken.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "truncated" in refusal("index", docs, "--store", tmp_path / "new", "--model", broken)
    assert not (tmp_path / "new").exists()
