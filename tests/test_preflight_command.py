"""``vitbackbones train`` checks people's own configs, and names what another backbone left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from PIL import Image

from tests.models import backbone, mask_rcnn, retinanet, upernet
from vitbackbones.cli.main import main
from vitbackbones.errors import UserError
from vitbackbones.launch.checks import build_backbone, check_config
from vitbackbones.launch.training import add_hooks

OURS = [f'vitbackbones.{name}Hook' for name in ('Preflight', 'Durable', 'NonFinite', 'ZeroLoss')]


def hooks(model: dict[str, Any], *own: dict[str, Any]) -> list[str]:
    cfg = Config(dict(model=model, custom_hooks=list(own)))
    add_hooks(cfg)
    return [hook.type for hook in cfg.custom_hooks]


def test_every_config_with_one_of_our_backbones_is_checked() -> None:
    assert hooks(retinanet()) == OURS
    assert hooks(dict(type='mmdet.SemiBaseDetector', detector=retinanet())) == OURS
    assert hooks(retinanet(), dict(type='EMAHook')) == ['EMAHook', *OURS]
    assert hooks(retinanet(), dict(type='PreflightHook')) == ['PreflightHook', *OURS[1:]]


def test_configs_of_other_backbones_are_not() -> None:
    assert hooks(dict(backbone=dict(type='mmdet.ResNet', depth=18))) == OURS[1:]


def detector(place: Path) -> Path:
    """A config as people write it: a detector of mmdet's with its schedule and our backbone."""
    Image.new('RGB', (64, 64)).save(place / 'a.png')
    annotations = dict(
        images=[dict(id=1, file_name='a.png', width=64, height=64)],
        categories=[dict(id=1, name='red'), dict(id=2, name='blue')],
        annotations=[
            dict(id=i, image_id=1, category_id=i, bbox=[4, 4, 40, 40], area=1600, iscrowd=0)
            for i in (1, 2)
        ],
    )
    (place / 'a.json').write_text(json.dumps(annotations))
    model = mask_rcnn()
    model['type'] = 'mmdet.FasterRCNN'
    for key in ('mask_roi_extractor', 'mask_head'):
        del model['roi_head'][key]
    model['backbone'] = backbone('SHViT')
    model['neck'].update(in_channels=[16, 24, 32], num_outs=5)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64)),
        dict(type='PackDetInputs'),
    ]
    dataset = dict(
        type='CocoDataset',
        data_root=str(place),
        ann_file='a.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('red', 'blue')),
        pipeline=pipeline,
    )
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=model,
            train_dataloader=dict(
                batch_size=1, dataset=dataset, sampler=dict(type='DefaultSampler')
            ),
            train_cfg=dict(by_epoch=False, max_iters=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9)),
            param_scheduler=[dict(type='CosineAnnealingLR', eta_min=0.05, T_max=9)],
        )
    )
    path = place / 'mine.py'
    cfg.dump(str(path))
    return path


def test_a_config_of_ones_own_is_stopped_with_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['train', str(detector(tmp_path))]) == 2
    said = capsys.readouterr().err
    strides = '[4, 8, 16, 32, 64] must be [16, 32, 64, 128, 256], the strides of model.neck (FPN)'
    assert 'vitbackbones train: training cannot start:\n  - ' in said
    assert f'  - model.rpn_head.anchor_generator.strides={strides}\n' in said
    assert '  - model.roi_head.bbox_roi_extractor.featmap_strides=[4, 8, 16, 32] must be' in said
    assert '  - optim_wrapper.optimizer is SGD with lr=0.02' in said
    assert '  - param_scheduler: CosineAnnealingLR has eta_min=0.05' in said


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (
            dict(pretrained='open-mmlab://resnet50_v1c'),
            "model.pretrained='open-mmlab://resnet50_v1c' is left from another backbone: set "
            'model.pretrained=None; weights of SepViT come from model.backbone.init_cfg=',
        ),
        (
            dict(backbone=backbone(pretrained='r50.pth')),
            "model.backbone.pretrained='r50.pth' is left from another backbone: leave it out; ",
        ),
        (
            dict(
                backbone=backbone(
                    init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')
                )
            ),
            "model.backbone.init_cfg.checkpoint='torchvision://resnet50' names weights of another "
            'backbone in a model zoo; weights of SepViT come from ',
        ),
        (
            dict(
                backbone=backbone(
                    init_cfg=dict(type='Pretrained', checkpoint='s3://bucket/sepvit.pth')
                )
            ),
            "model.backbone.init_cfg.checkpoint='s3://bucket/sepvit.pth' cannot be read, only "
            'paths, http(s) addresses and hf://owner/name/FILE can; weights of SepViT come from ',
        ),
    ],
    ids=['model', 'backbone', 'init_cfg', 'store'],
)
def test_weights_left_from_another_backbone_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        build_backbone(Config(dict(model={**upernet(), **change})))
    assert str(caught.value).startswith(said)
    assert 'random ones from init_cfg=None' in str(caught.value)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (
            dict(pretrained='torchvision://resnet50'),
            r'^model\.detector\.pretrained=.* is left from',
        ),
        (dict(backbone=backbone(drop_path=0.1)), "^SepViT has no option 'drop_path', choose from"),
    ],
    ids=['weights', 'option'],
)
def test_a_network_inside_a_semi_supervised_one_is_checked_too(
    change: dict[str, Any], said: str
) -> None:
    model = dict(type='SemiBaseDetector', detector={**upernet(), **change})
    with pytest.raises(UserError, match=said):
        check_config(Config(dict(model=model)), ())


def test_no_weights_are_right() -> None:
    assert build_backbone(Config(dict(model=dict(upernet(), pretrained=None)))) is not None
