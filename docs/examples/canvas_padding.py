"""How much a larger canvas changes the maps of an image, with and without ``mask_padding``.

A detector's batch puts images on a common canvas, zeros at the right and below. This compares the
maps of an image by itself with the same part of its maps on a canvas: the norm of the difference as
a share of the norm, mean over two networks with random weights.

    PYTHONPATH=. python docs/examples/canvas_padding.py
"""

from __future__ import annotations

import torch

import vitbackbones

SIZES = (((224, 288), (288, 352)), ((320, 320), (384, 480)), ((192, 256), (256, 256)))


def difference(
    name: str, size: tuple[int, int], canvas: tuple[int, int], mask: bool
) -> list[float]:
    """Of each map, from stride 4 to stride 32."""
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        net = vitbackbones.create(name, mask_padding=mask).eval()
        net.init_weights()
        image = torch.randn(1, 3, *size)
        padded = torch.zeros(1, 3, *canvas)
        padded[..., : size[0], : size[1]] = image
        with torch.no_grad():
            pairs = zip(net(image), net(padded), strict=True)
            cut = [
                (alone, there[..., : alone.shape[2], : alone.shape[3]]) for alone, there in pairs
            ]
        found.append([float((there - alone).norm() / alone.norm()) for alone, there in cut])
    return torch.tensor(found).mean(0).tolist()


def main() -> None:
    print('| network | image | canvas | mask_padding | stride 4 | 8 | 16 | 32 |')
    print('|---|---|---|---|---:|---:|---:|---:|')
    for name in ('gcvit_xxtiny', 'sepvit_lite'):
        for size, canvas in SIZES:
            for mask in (False, True):
                cells = [f'{value:.3f}' for value in difference(name, size, canvas, mask)]
                places = ['{} x {}'.format(*size), '{} x {}'.format(*canvas)]
                print('|', ' | '.join([name, *places, str(mask), *cells]), '|')


if __name__ == '__main__':
    main()
