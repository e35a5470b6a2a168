"""Memory that a training run on a CPU keeps instead of giving it back after every tensor."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc, malloc.h
_LARGEST_BLOCK = 32 << 20  # the most that glibc takes from its own heap


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory of up to 32 MiB a block, and return whether it will.

    By default large tensors are fresh pages from the kernel each time, which it fills with zeros first: of a step of
    grit-mini's training that took 40 percent. The setting stays for the rest of the process.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    settings = {_M_MMAP_THRESHOLD: _LARGEST_BLOCK, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 512 << 20}
    accepted = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(accepted)
