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
from grit_integrations.cli.cache_settings import read_settings
from grit_integrations.ingest import PassageIndex, find_files, read_file

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


def _command(docs: Path, store: Path, model: Path, *more: str) -> list[str]:
    options = ["--store", str(store), "--model", str(model), *more]
    return [sys.executable, "-c", HEED_INTERRUPTS + RUN, "index", str(docs), *options]


def _passages(store: Path, tiny: GritLM, docs: Path) -> None:
    """Check that an index has each passage of each file, once."""
    index = PassageIndex(store, tiny)
    got = index.vectors.get()
    wanted = [passage for file in find_files([docs]).files for passage in index.splitter.split(read_file(file))]
    assert sorted(got["documents"]) == sorted(passage.page_content for passage in wanted)
    assert sorted(got["ids"]) == sorted(index.records.list_keys())
    assert index.search("Sentence 3 of 2", k=1)


def test_interrupted_anywhere_again_and_again(tmp_path: Path, tiny_path: Path, tiny: GritLM) -> None:
    docs, store = tmp_path / "docs", tmp_path / "s"
    docs.mkdir()
    for number in range(8):
        (docs / f"{number}.txt").write_text("\n\n".join(f"Sentence {n} of {number}. " * 20 for n in range(12)))
    command = _command(docs, store, tiny_path, "--caching", "doc")
    for seconds in (2.5, 5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=120)
        assert process.returncode in (0, 130, -signal.SIGINT), said
        assert "Error" not in said
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _passages(store, tiny, docs)
    blocks = PassageIndex(store, tiny).count()
    assert good("cache", "verify", "--store", store) == f"Blocks: {blocks} intact\n"


def test_two_at_once_on_a_new_index(tmp_path: Path, tiny_path: Path, tiny: GritLM) -> None:
    docs, store = tmp_path / "docs", tmp_path / "s"
    docs.mkdir()
    for number in range(6):
        (docs / f"{number}.txt").write_text("\n\n".join(f"Sentence {n} of {number}. " * 20 for n in range(12)))
    runs = [
        subprocess.Popen(_command(docs, store, tiny_path, *more), stderr=subprocess.PIPE, text=True)
        for more in ((), ("--caching", "prefix"))
    ]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert 0 in [run.returncode for run in runs], said
    for run, message in zip(runs, said, strict=True):
        assert run.returncode == 0 or "Another process is writing" in message
        assert "Traceback" not in message
    _passages(store, tiny, docs)
    if runs[1].returncode:  # what was refused has changed nothing
        assert read_settings(store).caching == "off"


def test_larger_files_are_listed_and_an_option_raises_the_bound(docs: Path, tmp_path: Path, tiny_path: Path) -> None:
    (docs / "stars.txt").write_text("Stars shine by fusion. " * 100)
    options = ("--store", tmp_path / "s", "--model", tiny_path)
    said = good("index", docs, *options, "--max-file-size", "2kB")
    assert "1 added, 1 not readable" in said
    assert "at most 2.0 kB are read; --max-file-size" in " ".join(said.split())  # lines break where paths are long
    assert "1 added, 1 unchanged" in good("index", docs, *options)
    assert "is not a size" in refusal("index", docs, *options, "--max-file-size", "much")


def test_a_wrong_checkpoint_is_refused(store: Path, tmp_path: Path, docs: Path) -> None:
    broken = write_checkpoint(tmp_path / "broken")
    shard = sorted(broken.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "truncated" in refusal("index", docs, "--store", tmp_path / "new", "--model", broken)
    assert not (tmp_path / "new").exists()
