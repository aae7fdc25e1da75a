"""Weight files as the authors of the networks and others wrap them, made from the manifests."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.reference import refdata
from vitbackbones.backbones.base import Backbone
from vitbackbones.registry import MODELS

REFERENCE = Path(__file__).parent / 'reference'
COMPAT = refdata.load_json(REFERENCE / 'compat.json')
FAMILIES = {
    cls.__name__.lower(): cls for cls in MODELS.module_dict.values() if issubclass(cls, Backbone)
}
State = dict[str, Tensor]


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
        return refdata.build_state_dict(self.manifest)


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
