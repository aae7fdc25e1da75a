"""What training needs beyond mmengine.

Hooks and loops are imported when a config names them: mmengine's own, which they build on, import
OpenCV, and ``import vitbackbones`` is to need nothing but torch and mmengine.
"""

from .amp import CPUAmpOptimWrapper
from .layer_decay import LayerDecayOptimWrapperConstructor
from .lovasz import GuardedLovaszLoss
from .weight_decay import NoWeightDecayOptimWrapperConstructor

__all__ = [
    'CPUAmpOptimWrapper',
    'GuardedLovaszLoss',
    'LayerDecayOptimWrapperConstructor',
    'NoWeightDecayOptimWrapperConstructor',
]
