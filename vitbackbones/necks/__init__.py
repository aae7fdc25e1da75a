"""Necks that published recipes need and mmdet and mmseg do not have."""

from .transposed_fpn import TransposedConvFPN

__all__ = ['TransposedConvFPN']
