"""Layers that backbones share, and faster ways through them for CPUs.

:mod:`.door` says when those may be taken, :mod:`.fast`, :mod:`.conv` and :mod:`.attention` what
they are. No condition of speed stands in a network.
"""
