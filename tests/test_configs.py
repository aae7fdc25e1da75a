"""Every config that is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitbackbones.cli.config import build_backbone, load_config

ROOT = Path(__file__).parents[1]
LEAVES = sorted(
    path
    for kind in ('detection', 'segmentation')
    for path in (ROOT / 'configs' / kind).glob('**/*.py')
    if '_base_' not in path.parts
)


def test_there_are_configs() -> None:
    assert {'sepvit_retinanet', 'sepvit_upernet'} <= {path.stem for path in LEAVES}


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_neck_heads_and_strides_agree_with_the_backbone(path: Path) -> None:
    model = load_config(str(path)).model
    net = build_backbone(load_config(str(path)))
    assert net is not None
    if 'neck' in model:
        assert model.neck.in_channels == list(net.out_channels)
        strides = model.bbox_head.anchor_generator.strides
        assert strides[: len(net.out_strides)] == list(net.out_strides)
    else:
        head, auxiliary = model.decode_head, model.auxiliary_head
        assert head.in_channels == [net.out_channels[i] for i in head.in_index]
        assert auxiliary.in_channels == net.out_channels[auxiliary.in_index]


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_the_published_values_are_ours(path: Path) -> None:
    cfg = load_config(str(path))
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == {
        'sepvit_retinanet': ('AdamW', 1e-4, 1e-3),
        'sepvit_upernet': ('AdamW', 6e-5, 0.01),
    }[path.stem]
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16
