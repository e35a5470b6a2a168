"""What an interruption or a kill leaves can be searched, and the next run makes up for it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from index_contents import contents

from grit_integrations import GritLM
from grit_integrations.ingest import PassageIndex, SqliteRecordManager, find_files, indexing_run, read_file


def test_interrupted_then_resumed(
    index: PassageIndex, docs: Path, tiny: GritLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        (docs / f"{number}.txt").write_text(
            "\n\n".join(f"Sentence {n} of file {number} is here." * 9 for n in range(20))
        )
    monkeypatch.setattr(indexing_run, "_FLUSH", 30)
    monkeypatch.setattr(indexing_run, "_BATCH", 16)
    calls = []
    embed = GritLM.embed_documents

    def interrupted(self: GritLM, texts: list[str], **options: object) -> object:
        calls.append(len(texts))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return embed(self, texts, **options)

    monkeypatch.setattr(GritLM, "embed_documents", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.index([docs])
    half = index.count()
    assert half > 0
    assert index.search("Sentence", k=1)  # what is there can be searched
    before = sum(calls[:4])
    calls[:] = [0] * 10
    report = index.index([docs])
    assert not index.records.interrupted
    assert sum(calls[10:]) == index.count() - before  # nothing is embedded twice
    assert len(report.added) + len(report.unchanged) == 10
    contents(index)


def test_killed_between_vectors_and_records(index: PassageIndex, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SqliteRecordManager, "update", dies)
        with pytest.raises(KeyboardInterrupt):
            index.index([docs / "heart.txt"])
    assert len(index.vectors.get()["ids"]) == 1  # written, not noted
    (docs / "heart.txt").write_text("Another text by now.")
    index.index([docs / "heart.txt"])
    assert contents(index)["heart.txt"] == {"Another text by now."}


def test_lost_vectors_are_made_again(index: PassageIndex, docs: Path) -> None:
    index.index([docs])
    lost = index.vectors.get(where={"title": "heart"})["ids"]
    index.collection.delete(ids=lost)
    report = index.index([docs])
    assert (len(report.added), len(report.unchanged), report.passages_added) == (1, 3, 1)
    assert len(contents(index)) == 4


KILLED = """
import sys, time
from pathlib import Path
from grit_integrations import GritLM
from grit_integrations.ingest import PassageIndex, indexing_run
indexing_run._FLUSH, indexing_run._BATCH = 20, 8
opened = PassageIndex(sys.argv[1], GritLM(sys.argv[2]), create=True)
opened.index([sys.argv[3]], on_progress=lambda step: (print(step.done, flush=True), time.sleep(0.01)))
"""


def test_killed_for_real(tmp_path: Path, tiny_path: Path, tiny: GritLM) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(8):
        (docs / f"{number}.txt").write_text("\n\n".join(f"Sentence {n} of {number}. " * 9 for n in range(12)))
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(tiny_path), str(docs)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(30):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    index = PassageIndex(tmp_path / "store", tiny)
    assert index.records.interrupted
    index.index([docs])
    files = find_files([docs]).files
    wanted = {file.name: {passage.page_content for passage in index.splitter.split(read_file(file))} for file in files}
    assert contents(index) == wanted
