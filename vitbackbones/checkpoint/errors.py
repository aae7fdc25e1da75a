"""What a weight file that cannot be had, read or used is answered with."""

from __future__ import annotations


class CheckpointError(RuntimeError):
    """A file that cannot be read safely or does not fit the network."""
