"""What may stand in the place of a file and is none: pipes, sockets, folders, links, devices."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

Odd = Callable[[Path], None]


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{descriptor}/{path.name}")  # a socket's path has room for 107 bytes only
    os.close(descriptor)


def make_empty_folder(path: Path) -> None:
    path.mkdir()


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("somebody's only copy")


def make_link_to_a_folder(path: Path) -> None:
    path.symlink_to(outside(path), target_is_directory=True)


def make_link_to_a_file(path: Path) -> None:
    path.symlink_to(outside(path) / "notes.txt")


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def make_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


ODD: list[Odd] = [
    make_pipe,
    make_socket,
    make_empty_folder,
    make_folder,
    make_link_to_a_folder,
    make_link_to_a_file,
    make_dangling_link,
    make_link_to_itself,
]


def outside(path: Path) -> Path:
    """Make a folder that is not the store's, with a file as it might be called in a store, and return it."""
    folder = next(parent for parent in path.parents if parent.name == "kv").with_name("outside")
    if not folder.exists():
        folder.mkdir()
        for name in ("notes.txt", f"{'ab' * 20}-{'0' * 32}.safetensors", f"{'0' * 8}-1-{'0' * 32}-{'0' * 32}"):
            (folder / name).write_text("somebody's only copy")
            os.utime(folder / name, (0, 0))
    return folder


def is_untouched(folder: Path) -> bool:
    """Whether what `outside` made is all there."""
    texts = [path.read_text() for path in folder.iterdir()]
    return texts == ["somebody's only copy"] * 3


def put_in_place(path: Path, make: Odd) -> None:
    """Put something odd in the place of whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make(path)


def outcome(work: Callable[[], object]) -> BaseException | None:
    """Return what a call raises; one that waits for ever, as on a pipe, fails."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits"
    return raised[0] if raised else None
