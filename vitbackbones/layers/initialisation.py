"""How layers start where a network is trained from random weights."""

from __future__ import annotations

from torch import nn


def init_transformer(module: nn.Module) -> None:
    """The initialisation of ViT and its descendants, for ``nn.Module.apply``.

    Linear layers: normal of deviation 0.02 truncated at two, zero bias; transposed convolutions,
    which without overlap are linear layers per pixel, likewise. Convolutions: normal of variance
    2 / fan_out, zero bias. Norms keep torch's ones and zeros.
    """
    if isinstance(module, (nn.Linear, nn.ConvTranspose2d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2 * module.groups / fan_out) ** 0.5)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def init_stem_bias(module: nn.Module) -> None:
    """Draw the bias of a stem's convolution, for ``nn.Module.apply``: normal of deviation 0.02.

    With a bias of zero, what pads a batch is a zero vector up to the first LayerNorm, which
    multiplies every gradient that gets there by ``1 / sqrt(eps)``.
    """
    if isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.trunc_normal_(module.bias, std=0.02)
