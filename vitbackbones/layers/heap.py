"""What a process on CPUs does with the memory that a pass frees."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys

#: Bytes of freed memory, at the end of the heap, that the process keeps for the next pass: what
#: one image of 800 x 1216 needs, and a training step at 512 x 512.
HEAP_BYTES = 256 << 20
#: Smaller blocks come from the heap: the most that glibc allows.
MMAP_THRESHOLD = 32 << 20

# mallopt(3)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def retain_heap() -> None:
    """Let the process keep memory that a pass frees for the next one, where it has glibc.

    glibc maps large blocks one by one and gives them back to the system when they are freed, as it
    does with what is free at the end of its heap. What the next pass needs is then mapped anew,
    page by page, for up to 29 % of its time. Whoever has set either limit in the environment keeps
    it.
    """
    _retain()


# Done while a compiler looks, and no part of the graph: what torch.compiler.assume_constant_result
# marks it with, which imports the compiler to do so, half a second before anybody compiles.
retain_heap._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _retain() -> None:
    if sys.platform != 'linux' or 'MALLOC_TRIM_THRESHOLD_' in os.environ:
        return
    tunables = os.environ.get('GLIBC_TUNABLES', '')
    if 'MALLOC_MMAP_THRESHOLD_' in os.environ or re.search('(trim|mmap)_threshold', tunables):
        return
    libc = ctypes.CDLL(None)
    # Other libraries give these numbers other meanings.
    if not hasattr(libc, 'gnu_get_libc_version') or not hasattr(libc, 'mallopt'):
        return
    # Either one alone would stop glibc from raising the other by itself.
    if libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD):  # 1 if it was accepted
        libc.mallopt(M_TRIM_THRESHOLD, HEAP_BYTES)
