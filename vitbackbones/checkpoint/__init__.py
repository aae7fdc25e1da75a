"""Reading published weights: safely, whatever they are wrapped in, all or nothing.

A file is read (:func:`read_checkpoint`), its state dict unwrapped (:func:`find_weights`), renamed
by the backbone's own tables, compared with what the network needs, and loaded only if all of it
fits (:func:`load_pretrained`, and :func:`load_whole` for a detector or segmentor around it). What
differs between families is data and one method of the backbone: ``official_keys``, ``timm_keys``,
``absent_from_classifier``, ``stem_weight``, ``weights_licence`` and ``adapt_state_dict``.
"""

from .loading import LoadReport, load_pretrained
from .meta import dataset_meta, trained_classes
from .reading import (
    CheckpointError,
    find_weights,
    hash_in_name,
    local_file,
    read_checkpoint,
    register_safe_globals,
)
from .whole import check_fits, load_whole, starting_weights

__all__ = [
    'CheckpointError',
    'LoadReport',
    'check_fits',
    'dataset_meta',
    'find_weights',
    'hash_in_name',
    'load_pretrained',
    'load_whole',
    'local_file',
    'read_checkpoint',
    'register_safe_globals',
    'starting_weights',
    'trained_classes',
]
