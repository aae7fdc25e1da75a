"""What training needs beyond mmengine."""

from .amp import CPUAmpOptimWrapper

__all__ = ['CPUAmpOptimWrapper']
