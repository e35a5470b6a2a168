"""An index as it is opened: with its model and no other; and what can be asked of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from index_contents import contents

from grit_integrations import CollectionMismatchError, GritLM, IngestError, OptionError
from grit_integrations.ingest import PassageIndex


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    return GritLM(write_checkpoint(tmp_path_factory.mktemp("other") / "other", seed=1))


def test_another_model_is_refused_before_any_work(index: PassageIndex, docs: Path, other: GritLM) -> None:
    index.index([docs])
    with pytest.raises(CollectionMismatchError) as refusal:
        PassageIndex(index.directory, other)
    assert index.model.fingerprint in str(refusal.value)
    assert other.fingerprint in str(refusal.value)
    assert not other.is_loaded


def test_a_copy_of_the_model_is_the_same_model(index: PassageIndex, tiny_path: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere"
    copied.symlink_to(tiny_path)
    PassageIndex(index.directory, GritLM(copied))


def test_another_handle_opens_another_index(index: PassageIndex, docs: Path, other: GritLM) -> None:
    index.index([docs])
    model = index.model
    handle = model.with_options(caching="doc")
    opened = index.with_model(handle)
    assert opened.model is handle
    assert index.model is model
    assert opened.search("The heart", k=1) == index.search("The heart", k=1)
    with pytest.raises(CollectionMismatchError):
        index.with_model(other)


def test_a_store_keeps_its_passage_size(tmp_path: Path, tiny: GritLM) -> None:
    PassageIndex(tmp_path / "store", tiny, create=True, passage_tokens=64)
    assert PassageIndex(tmp_path / "store", tiny).splitter.tokens == 64
    with pytest.raises(IngestError, match="up to 64 tokens, and 128"):
        PassageIndex(tmp_path / "store", tiny, passage_tokens=128)
    with pytest.raises(OptionError):
        PassageIndex(tmp_path / "other", tiny, create=True, passage_tokens=9999)
    assert not (tmp_path / "other").exists()


def test_a_relative_directory_is_where_it_was_when_it_was_named(
    tmp_path: Path, docs: Path, tiny: GritLM, other: GritLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    for name, model in (("one", tiny), ("two", other)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        opened.append(PassageIndex("store", model, create=True))
        opened[-1].index([docs / "heart.txt"] if name == "one" else [docs])
    assert [len(contents(index)) for index in opened] == [1, 4]
    named = PassageIndex(Path("store"), other)
    monkeypatch.chdir(tmp_path)
    assert named.count() == 5
    assert named.search("The heart", k=1)
    assert not (tmp_path / "store").exists()


def test_texts_of_all_files_or_of_some(index: PassageIndex, docs: Path) -> None:
    index.index([docs])
    assert sorted(index.texts()) == sorted(text for texts in contents(index).values() for text in texts)
    assert index.texts([str(docs / "heart.txt")]) == ["The heart pumps blood through the body."]
    assert index.texts([]) == []


WRITES = """
import resource, signal, sys
from grit_integrations import GritError, GritLM
from grit_integrations.ingest import PassageIndex
model = GritLM(sys.argv[2])
model.fingerprint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    PassageIndex(sys.argv[1], model, create=True).index([sys.argv[3]])
except GritError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("room", [2_000, 150_000])
def test_a_disk_that_takes_no_more(room: int, tmp_path: Path, tiny_path: Path, tiny: GritLM) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(8):
        (docs / f"{number}.txt").write_text("\n\n".join(f"Sentence {n} of {number}. " * 9 for n in range(30)))
    arguments = [sys.executable, "-c", WRITES, str(tmp_path / "store"), str(tiny_path), str(docs), str(room)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("IngestError The store at"), done.stdout + done.stderr
    index = PassageIndex(tmp_path / "store", tiny, create=True)
    index.index([docs])  # with room again
    assert len(contents(index)) == 8
    assert index.count() == 120


def test_an_index_on_a_read_only_file_system(index: PassageIndex, docs: Path, tiny_path: Path) -> None:
    index.index([docs])
    place = str(index.directory)
    if os.getuid() or subprocess.run(["mount", "--bind", place, place], capture_output=True, check=False).returncode:
        pytest.skip("no mount can be made here")
    reads = """
import sys
from grit_integrations import GritError, GritLM
from grit_integrations.ingest import PassageIndex
index = PassageIndex(sys.argv[1], GritLM(sys.argv[2]))
for work in (index.count, lambda: index.search("heart"), lambda: index.index([sys.argv[3]])):
    try:
        work()
    except GritError as error:
        print(error)
"""
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        arguments = [sys.executable, "-c", reads, place, str(tiny_path), str(docs)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["umount", "-l", place], check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said
    assert all("opy it to where you may write" in line for line in said), done.stdout


def test_damaged_files_of_an_index_are_an_ingest_error(index: PassageIndex, docs: Path, tiny: GritLM) -> None:
    index.index([docs])
    index.records.close()
    (index.directory / "records.sqlite").write_bytes(
        b"not a database, and long enough to be told from an empty file" * 99
    )
    for beside in index.directory.glob("records.sqlite-*"):
        beside.unlink()
    with pytest.raises(IngestError, match=r"cannot be used .*delete the store and index again"):
        PassageIndex(index.directory, tiny).count()
