"""Networks for inference alone."""

from .fuse import FusionReport, fuse

__all__ = ['FusionReport', 'fuse']
