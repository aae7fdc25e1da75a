"""LayerNorm over the channels of maps."""

from __future__ import annotations

from torch import Tensor, nn

from .layout import to_map, to_rows


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W), same shape, returned in channels-last memory."""

    def forward(self, x: Tensor) -> Tensor:
        return to_map(super().forward(to_rows(x)), *x.shape[2:])
