"""Weight files as the authors of the networks and others wrap them, made from the manifests."""

from __future__ import annotations

import argparse
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.reference import refdata
from vitbackbones.backbones.base import Backbone

REFERENCE = Path(__file__).parent / 'reference'
COMPAT = refdata.load_json(REFERENCE / 'compat.json')
FAMILIES = {name.lower(): cls for name, cls in Backbone.registered().items()}
State = dict[str, Tensor]

# Tensors of each manifest's file: loaded, dropped, initialised, and adapted among those loaded.
# Dropped are the classifiers' heads and norms, GC ViT's position indices, and SepViT's window
# tokens; of a detector also the two tensors of OUTSIDE.
COUNTS = {
    'casvit-xs-cls': (515, 9, 20, 0),
    'casvit-xs-cls-nodist': (515, 7, 20, 0),
    'casvit-xs-det': (535, 2, 0, 0),
    'casvit-s-cls': (755, 9, 20, 0),
    'casvit-s-cls-nodist': (755, 7, 20, 0),
    'casvit-s-det': (775, 2, 0, 0),
    'casvit-m-cls': (755, 9, 20, 0),
    'casvit-m-cls-nodist': (755, 7, 20, 0),
    'casvit-m-det': (775, 2, 0, 0),
    'casvit-t-cls': (755, 9, 20, 0),
    'casvit-t-cls-nodist': (755, 7, 20, 0),
    'casvit-t-det': (775, 2, 0, 0),
    'gcvit-xxtiny-cls': (222, 16, 8, 12),
    'gcvit-xxtiny-det': (230, 12, 0, 0),
    'gcvit-xxtiny-det-w7': (230, 12, 0, 0),
    'gcvit-xtiny-cls': (300, 22, 8, 18),
    'gcvit-xtiny-det': (308, 18, 0, 0),
    'gcvit-xtiny-det-w7': (308, 18, 0, 0),
    'gcvit-tiny-cls': (469, 35, 8, 31),
    'gcvit-tiny-det': (477, 31, 0, 0),
    'gcvit-tiny-det-w7': (477, 31, 0, 0),
    'gcvit-tiny2-cls': (599, 45, 8, 41),
    'gcvit-tiny2-det': (607, 41, 0, 0),
    'gcvit-tiny2-det-w7': (607, 41, 0, 0),
    'gcvit-small-cls': (531, 35, 8, 31),
    'gcvit-small-det': (539, 31, 0, 0),
    'gcvit-small-det-w7': (539, 31, 0, 0),
    'gcvit-small2-cls': (591, 39, 8, 35),
    'gcvit-small2-det': (599, 35, 0, 0),
    'gcvit-small2-det-w7': (599, 35, 0, 0),
    'gcvit-base-cls': (531, 35, 8, 31),
    'gcvit-base-det': (539, 31, 0, 0),
    'gcvit-base-det-w7': (539, 31, 0, 0),
    'gcvit-large-cls': (531, 35, 8, 31),
    'gcvit-large-det': (539, 31, 0, 0),
    'gcvit-large-det-w7': (539, 31, 0, 0),
    'sepvit-lite-cls': (180, 10, 28, 0),
    'sepvit-tiny-cls': (180, 10, 28, 0),
    'sepvit-tiny-det': (208, 4, 0, 0),
    'sepvit-small-cls': (292, 14, 44, 0),
    'sepvit-small-det': (336, 4, 0, 0),
    'sepvit-base-cls': (292, 14, 44, 0),
    'sepvit-base-det': (336, 4, 0, 0),
    'shvit-s1-cls': (464, 7, 0, 0),
    'shvit-s1-det': (464, 2, 0, 0),
    'shvit-s2-cls': (464, 7, 0, 0),
    'shvit-s2-det': (464, 2, 0, 0),
    'shvit-s3-cls': (514, 7, 0, 0),
    'shvit-s3-det': (514, 2, 0, 0),
    'shvit-s4-cls': (628, 7, 0, 0),
    'shvit-s4-det': (628, 2, 0, 0),
    'supervit-deit_s-cls': (153, 2, 8, 0),
    'supervit-lvvit_s-cls': (203, 4, 8, 0),
}


@dataclass(frozen=True)
class Published:
    """One manifest: a classifier (``cls``) or a dense backbone (``det``) of a family."""

    family: str
    arch: str
    kind: str
    suffix: str = ''  # what distinguishes files of the same variant: w7, nodist

    def __str__(self) -> str:
        return '-'.join(filter(None, (self.family, self.arch, self.kind, self.suffix)))

    @property
    def cls(self) -> type[Backbone]:
        return FAMILIES[self.family]

    @property
    def options(self) -> dict[str, Any]:
        return {'window_size': (7, 7, 14, 7)} if self.suffix == 'w7' else {}

    @property
    def manifest(self) -> dict[str, Any]:
        stem = '_'.join(filter(None, (self.arch, self.kind, self.suffix)))
        return refdata.load_json(REFERENCE / 'manifests' / self.family / f'{stem}.json')

    @property
    def compat(self) -> dict[str, list[str]] | None:
        """Which keys the authors' own dense network finds missing or unexpected in the file."""
        return COMPAT.get(f'{self.family}/{self.arch}_det')

    def zeros(self) -> State:
        """Names, shapes and types, hardly any bytes: for counting."""
        return {
            name: torch.zeros((), dtype=getattr(torch, dtype)).expand(shape)
            for name, shape, dtype in self.manifest['tensors']
        }

    def filled(self) -> State:
        """The reference weights, integer buffers (which tests must not overwrite) left out."""
        return {
            name: _fill(name, *shape)
            for name, shape, dtype in self.manifest['tensors']
            if not refdata.is_kept_buffer(name, dtype)
        }


@functools.lru_cache(maxsize=1000)  # the files of a variant have most tensors in common
def _fill(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(refdata.fill_tensor(name, shape))


def published() -> list[Published]:
    """Every manifest of the registered families."""
    cases = []
    for path in sorted(REFERENCE.glob('manifests/*/*.json')):
        arch, kind, suffix = re.fullmatch(r'(.+)_(cls|det)_?(.*)', path.stem).groups()
        if path.parent.name in FAMILIES:
            cases.append(Published(path.parent.name, arch, kind, suffix))
    return cases


def wrap(case: Published, state: State) -> dict[str, Any]:
    """The content of a file as the family's training code saves it."""
    epoch = {'epoch': 299, 'args': argparse.Namespace(lr=1e-3, model=case.arch, opt_betas=None)}
    optimizer = {'optimizer': {'state': {0: {'exp_avg': torch.ones(3)}}, 'param_groups': []}}
    if case.kind == 'det' and case.family in ('casvit', 'shvit'):
        return detector(state)
    if case.kind == 'det' and case.family == 'sepvit':
        return dict(state)
    if case.family == 'gcvit' or case.arch == 'lvvit_s':  # timm's CheckpointSaver
        averaged = {'state_dict_ema': state} if case.family == 'supervit' else {}
        metric = {'metric': np.float64(83.5), 'version': 2, 'arch': case.arch}
        return {**epoch, **metric, 'state_dict': state, **optimizer, **averaged}
    averaged = {} if case.family == 'sepvit' else {'model_ema': state}
    return {'model': state, **optimizer, **epoch, 'scaler': {'scale': 65536.0}, **averaged}


OUTSIDE = {
    'neck.lateral_convs.0.conv.weight': torch.ones(4, 4, 1, 1),
    'bbox_head.retina_cls.weight': torch.ones(4, 4, 3, 3),
}


def detector(state: State) -> dict[str, Any]:
    """A detector as MMDetection 2 saves it."""
    inside = {f'backbone.{name}': value for name, value in state.items()}
    meta = {'mmdet_version': '2.25.0', 'CLASSES': ('person',), 'time': 'Mon Jan  1 2024'}
    return {'meta': meta, 'state_dict': {**inside, **OUTSIDE}}


def save(content: Any, path: Path, **options: Any) -> str:
    torch.save(content, path, **options)
    return str(path)


def resized_table(table: Tensor, window_size: int) -> Tensor:
    """A table of position biases, (side * side, heads), for another window.

    By the definition: each head's table is an image; its pixels lie at the centres of equal
    cells, and a new one is the sum of the four nearest in either direction, weighed by Keys'
    cubic kernel with a = -0.75. Beyond the edge the pixels of the edge are repeated.
    """
    side, own_side = round(table.shape[0] ** 0.5), 2 * window_size - 1
    weights = np.zeros((own_side, side))
    for row in range(own_side):
        place = (row + 0.5) * side / own_side - 0.5
        for pixel in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            d = abs(place - pixel)
            near = 1.25 * d**3 - 2.25 * d**2 + 1
            far = -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
            weights[row, min(max(pixel, 0), side - 1)] += near if d <= 1 else far
    images = table.numpy().astype(np.float64).T.reshape(-1, side, side)
    return torch.from_numpy((weights @ images @ weights.T).reshape(-1, own_side**2).T).float()


# The same tensors under timm's names. The rules are those of reference/golden/NOTES.md, written in
# the other direction than the package's own tables.

_RESIDUAL = {'0': 'conv_dw', '2.fc.0': 'se.fc1', '2.fc.2': 'se.fc2', '3': 'conv_pw'}


def to_timm(family: str, state: State) -> State:
    rename = {'gcvit': _gcvit_to_timm, 'shvit': _shvit_to_timm}[family]
    renamed = {rename(name): value for name, value in state.items()}
    return {
        name: value[..., None, None] if '.se.fc' in name and value.ndim == 2 else value
        for name, value in renamed.items()
    }


def _shvit_to_timm(name: str) -> str:
    found = re.match(r'blocks(\d)\.(\d+)\.', name)
    if not found:
        return name
    stage, index = int(found[1]) - 1, int(found[2])
    rest = name[found.end() :]
    if stage == 0:
        return f'stages.0.blocks.{index}.{rest}'
    if index >= 3:
        return f'stages.{stage}.blocks.{index - 3}.{rest}'
    if index == 1:
        return f'stages.{stage}.downsample.2.{rest}'
    part, rest = rest.split('.', 1)
    return f'stages.{stage}.downsample.{int(part) + (3 if index == 2 else 0)}.{rest}'


def _gcvit_to_timm(name: str) -> str:
    for ours, theirs in _RESIDUAL.items():
        name = re.sub(
            rf'q_global_gen\.to_q_global\.(\d)\.conv\.{re.escape(ours)}\.',
            lambda m, theirs=theirs: f'global_block.blocks.conv{int(m[1]) + 1}.{theirs}.',
            name,
        )
        name = re.sub(
            rf'(conv_down|downsample)\.conv\.{re.escape(ours)}\.', rf'\1.conv_block.{theirs}.', name
        )
    name = re.sub(r'levels\.(\d)\.downsample', lambda m: f'levels.{int(m[1]) + 1}.downsample', name)
    for pattern, replacement in (
        (r'^patch_embed\.proj', 'stem.conv1'),
        (r'^patch_embed\.conv_down', 'stem.down'),
        (r'^levels', 'stages'),
        (r'\.relative_position_bias_table', '.rel_pos.relative_position_bias_table'),
        (r'\.gamma([12])$', r'.ls\1.gamma'),
        (r'^norm\.', 'stages.3.norm.'),
        (r'^head\.', 'head.fc.'),
    ):
        name = re.sub(pattern, replacement, name)
    return name
