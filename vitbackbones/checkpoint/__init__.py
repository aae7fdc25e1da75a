"""Reading weight files: safely, whatever they are wrapped in, all or nothing.

A file is read (:func:`read_checkpoint`), its state dict unwrapped (:func:`find_weights`), renamed
by the tables that a network declares (:class:`CheckpointNames`) and compared with what the network
needs (:func:`.matching.match_backbone`). No network is known here: what is needed of one is handed
in, as :class:`.matching.Target`, by :mod:`vitbackbones.pretrained`, which loads what fits.
"""

from .allowed import register_safe_globals
from .errors import CheckpointError
from .fetching import hash_in_name, is_address, local_file
from .meta import dataset_meta, trained_classes
from .model import require_exact_match
from .names import CheckpointNames
from .reading import find_weights, read_checkpoint
from .report import LoadReport

__all__ = [
    'CheckpointError',
    'CheckpointNames',
    'LoadReport',
    'dataset_meta',
    'find_weights',
    'hash_in_name',
    'is_address',
    'local_file',
    'read_checkpoint',
    'register_safe_globals',
    'require_exact_match',
    'trained_classes',
]
