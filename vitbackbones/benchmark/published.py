"""Counted multiply-adds next to published ones, and SepViT's blocks next to Swin's and Twins'.

Nothing is computed: the networks run on torch's meta device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import vitbackbones
from vitbackbones.errors import UserError
from vitbackbones.metafiles import INDEX, Entry, read_index, task_of

from .flops import count_flops

# Stages of SepViT-T, Swin-T and a Twins-SVT of their widths, with two blocks each: one exchange
# within windows and one between them.
DIMS = (96, 192, 384, 768)
NUM_HEADS = (3, 6, 12, 24)
SIDE = 224


def compare_archs() -> Iterator[list[str]]:
    """Rows of every published variant at the size of its published figure.

    Name, size, multiply-adds in G counted and published, and their ratio.
    """
    seen = set()
    for entry in read_index(INDEX)[1]:
        if task_of(entry) != '_base_':
            continue
        side, published = entry['Metadata']['Input Size'], entry['Metadata'].get('FLOPs')
        if (key := (entry['Config'], side, published)) in seen:
            continue  # other weights
        seen.add(key)
        counted = _multiply_adds(entry)
        yield [
            entry['Name'],
            f'{side} x {side}',
            f'{counted:.3g}',
            f'{published / 1e9:.3g}' if published else '-',
            f'{counted * 1e9 / published:.3f}' if published else '-',
        ]


def _multiply_adds(entry: Entry) -> float:
    side = entry['Metadata']['Input Size']
    name = entry['Config'].split('/')[-1].removesuffix('.py').replace('-', '_', 1)
    options: dict[str, Any] = {}
    if name.startswith('gcvit'):  # the classifier's: whole in stage 4, quarters in stage 3 ...
        options['window_size'] = (side // 32, side // 32, side // 16, side // 32)
    with torch.device('meta'):
        net = vitbackbones.create(name, **options).eval()
        image = torch.empty(1, 3, side, side)
    return count_flops(lambda: net(image)).total / 2e9


def compare_blocks() -> Iterator[list[str]]:
    """Rows of the stages: the last block of SepViT's, and both blocks of the others, with ratios.

    Raises:
        UserError: mmdet or mmsegmentation cannot be imported.
    """
    try:
        from mmdet.models.backbones import SwinTransformer
        from mmseg.models.backbones import SVT
    except ImportError as error:
        raise UserError(f'Swin is taken from mmdet and Twins from mmseg: {error}') from error
    sepvit = _modules(vitbackbones.create('sepvit_tiny'))
    swin = _modules(SwinTransformer(embed_dims=DIMS[0], depths=(2,) * 4, num_heads=NUM_HEADS))
    twins = _modules(
        SVT(
            embed_dims=DIMS,
            num_heads=NUM_HEADS,
            mlp_ratios=(4,) * 4,
            depths=(2,) * 4,
            sr_ratios=(8, 4, 2, 1),
            windiow_sizes=(7,) * 4,
        )
    )
    for i, depth in enumerate((1, 2, 6, 2)):
        ours = sepvit[f'blocks.{i}.{depth - 1}']
        pair = swin[f'stages.{i}'] - swin.get(f'stages.{i}.downsample', 0)
        other = twins[f'layers.{i}.0'] + twins[f'layers.{i}.1']
        yield [
            str(i + 1),
            f'{ours:.3f}',
            *(f'{pair:.3f}', f'{ours / pair:.2f}'),
            *(f'{other:.3f}', f'{ours / other:.2f}'),
        ]


def _modules(net: nn.Module) -> dict[str, float]:
    net = net.to('meta')
    net.train(False)
    image = torch.empty(1, 3, SIDE, SIDE, device='meta')
    return {name: flops / 2e9 for name, flops in count_flops(lambda: net(image)).modules.items()}
