"""The rules by which a config is fitted to one's own data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from vitbackbones.authoring.anchors import SHARE, fit_anchors, generators, unmatched
from vitbackbones.authoring.balance import balance
from vitbackbones.authoring.classes import set_classes
from vitbackbones.authoring.draft import Draft
from vitbackbones.authoring.fitting import fit
from vitbackbones.authoring.heads import HEADS, check_task, config_of, task_of
from vitbackbones.authoring.machine import Machine, batch_for, this_machine, workers_for
from vitbackbones.authoring.new import new_config
from vitbackbones.authoring.pipelines import has_one_size, rescale
from vitbackbones.authoring.scale import choose_scale
from vitbackbones.authoring.schedule import epochs_for
from vitbackbones.authoring.thickness import MAPS, thickness
from vitbackbones.authoring.writing import plain, write_draft
from vitbackbones.errors import UserError
from vitbackbones.formats.own_data import OwnData, Split, Task
from vitbackbones.launch.loading import config_path

CPU = Machine('cpu', 16.0, 2)
CHANNELS = {'sepvit': [96, 192, 384, 768], 'casvit': [96, 128, 256, 512]}


def own(tmp_path: Path, task: Task, *, images: int = 40, side: float = 60.0) -> OwnData:
    """Data of images of 640 x 480, each with five objects that are as wide as high."""
    folder = tmp_path / 'data'
    objects, pixels = np.zeros((0, 3)), np.zeros(0, np.int64)
    if task == 'labels':
        (folder / 'maps').mkdir(parents=True)
        labels = np.zeros((48, 64), np.uint8)
        labels[:, 20:30], labels[:, 40:42] = 1, 2  # ten and two pixels thick
        for name in ('a', 'b'):
            Image.fromarray(labels).save(folder / f'maps/{name}.png')
        pixels = np.bincount(labels.ravel()) * 2
    else:
        objects = np.array([(side, side, i) for i in range(images) for _ in range(5)])
    places = {
        'boxes': lambda split: folder / f'{split}.json',
        'masks': lambda split: folder / f'{split}.json',
        'labels': lambda split: folder / 'maps',
    }
    return OwnData(
        folder=folder,
        form='made for a test',
        task=task,
        classes=('one', 'two', 'three'),
        palette=((0, 0, 0), (255, 0, 0), (0, 255, 0)),
        splits={
            split: Split(folder / split, places[task](split), images) for split in ('train', 'val')
        },
        image_sizes=np.tile([[640, 480]], (images, 1)),
        objects=objects,
        pixels=pixels,
    )


def fitted(tmp_path: Path, base: str, data: OwnData, **options: Any) -> Draft:
    draft = Draft([base])
    ours = base.startswith('vitbackbones::')
    options = {'pretrained': False, **options}
    fit(draft, data, CPU, ours=ours, name=base, **options)
    return draft


# ---------------------------------------------------------------------------------------- sizes


def sizes(width: int, height: int) -> np.ndarray:
    return np.tile([[width, height]], (9, 1))


@pytest.mark.parametrize(
    ('image', 'side', 'expected'),
    [
        ((640, 480), 60, (640, 480)),  # as it is
        ((500, 375), 60, (500, 375)),  # whatever it is divisible by
        ((480, 640), 60, (640, 480)),  # whichever way it lies
        ((4000, 3000), 600, (1067, 800)),  # down to what recipes are made for
        ((256, 256), 16, (512, 512)),  # up, for small objects
        ((256, 256), 2, (512, 512)),  # but no further than twice
        ((4000, 3000), 60, (2133, 1600)),
    ],
)
def test_scale_follows_images_and_objects(
    image: tuple[int, int], side: float, expected: tuple[int, int]
) -> None:
    scale = choose_scale(sizes(*image), np.full(20, side))
    assert scale.size == expected
    assert str(image[0]) in scale.why
    assert not scale.bounded


def test_a_bound_is_never_exceeded() -> None:
    scale = choose_scale(sizes(640, 480), np.full(20, 60.0), largest=(300, 220))
    assert scale.bounded
    assert scale.size[0] <= 300
    assert scale.size[1] <= 220
    assert choose_scale(sizes(640, 480), np.full(20, 60.0), largest=(999, 999)).size == (640, 480)


def test_thickness_is_that_of_strips(tmp_path: Path) -> None:
    data = own(tmp_path, 'labels')
    maps = sorted((data.folder / 'maps').glob('*.png'))
    found = thickness(maps, np.array([True, True, True, False]))
    assert found[1:3] == pytest.approx([10, 2])
    assert np.isnan(found[3])


def test_sizes_in_a_pipeline_are_multiplied_together() -> None:
    draft = Draft(['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'])
    old = plain(draft.config.train_dataloader.dataset.pipeline)
    new = rescale(old, 0.5)
    found = {step['type']: step for step in new}
    assert found['CachedMosaic']['img_scale'] == (320, 320)
    assert found['RandomResize']['scale'] == (640, 640)
    assert found['RandomResize']['ratio_range'] == (0.5, 2.0)
    assert found['RandomCrop']['crop_size'] == (320, 320)
    assert found['Pad'] == dict(type='Pad', size=(320, 320), pad_val=dict(img=(114, 114, 114)))
    assert rescale(old, 1.0) == old


@pytest.mark.parametrize('factor', [486 / 640, 500 / 640, 0.3])
@pytest.mark.parametrize('bound', [None, (500, 500)])
def test_images_are_no_larger_than_what_they_are_padded_to(
    factor: float, bound: tuple[int, int] | None
) -> None:
    draft = Draft(['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'])
    steps = rescale(plain(draft.config.val_dataloader.dataset.pipeline), factor, bound)
    found = {step['type']: step for step in steps}
    assert found['Pad']['size'][0] % 32 == 0
    assert found['Resize']['scale'] == found['Pad']['size']


def test_crops_of_a_free_size_are_multiplied_as_the_rest() -> None:
    draft = Draft(['mmdet::detr/detr_r50_8xb2-150e_coco.py'])
    new = rescale(plain(draft.config.train_dataloader.dataset.pipeline), 0.15)
    crops = [step for step, _ in steps_in(new) if step.get('type') == 'RandomCrop']
    assert [step['crop_size'] for step in crops] == [(58, 90)]


def test_with_a_bound_crops_show_what_is_tested(tmp_path: Path) -> None:
    base = 'mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py'
    draft = fitted(tmp_path, base, own(tmp_path, 'labels'), max_scale=(128, 96))
    train, val = (
        next(
            s
            for s, _ in steps_in(plain(draft.config[f'{split}_dataloader'].dataset))
            if 'scale' in s
        )
        for split in ('train', 'val')
    )
    assert train['scale'] == val['scale']
    assert train['ratio_range'] == (0.5, 2.0)


@pytest.mark.parametrize('name', ['ssd/ssd300_coco.py', 'yolact/yolact_r50_1xb8-55e_coco.py'])
def test_methods_of_one_size_keep_it(tmp_path: Path, name: str) -> None:
    draft = Draft([f'mmdet::{name}'])
    assert has_one_size(draft)
    task: Task = 'masks' if 'yolact' in name else 'boxes'
    data = own(tmp_path, task)
    fit(draft, data, CPU, ours=False, pretrained=False, name=name, max_scale=(320, 240))
    new, old = (cfg.val_dataloader.dataset.pipeline for cfg in (draft.config, draft.original))
    assert [step.get('scale') for step in new] == [step.get('scale') for step in old]
    assert any('sizes stay' in line for line in draft.said)
    assert any('--max-scale has no say' in line for line in draft.said)


@pytest.mark.parametrize(
    'name',
    [
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',  # one scale, long and short
        'detr/detr_r50_8xb2-150e_coco.py',  # a choice of scales, some cropped and resized again
        'yolox/yolox_tiny_8xb8-300e_coco.py',  # mosaics, and batches of random sizes
        'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',  # up to twice as large, then cropped
    ],
)
def test_with_a_bound_no_config_makes_larger_images(tmp_path: Path, name: str) -> None:
    data = own(tmp_path, 'boxes')
    draft = fitted(tmp_path, f'mmdet::{name}', data, max_scale=(384, 288))
    for split in ('train', 'val'):
        dataset = plain(draft.config[f'{split}_dataloader'].dataset)
        for step, cropped in steps_in(dataset):
            if step.get('type') in ('Resize', 'RandomChoiceResize') and not cropped:
                scales = step.get('scales') or [step['scale']]
                assert all(max(scale) <= 384 and min(scale) <= 288 for scale in scales)
            for key in ('img_scale', 'crop_size', 'size'):
                assert max(step.get(key) or (0,)) <= 384
    assert 'max-scale allows no more' in next(s for s in draft.said if s.startswith('scale'))


def steps_in(node: Any) -> Iterator[tuple[dict[str, Any], bool]]:
    """All steps in a dataset, and whether a crop follows them in their own pipeline."""
    if isinstance(node, dict):
        for value in node.values():
            yield from steps_in(value)
    elif isinstance(node, list):
        for i, step in enumerate(node):
            if isinstance(step, dict):
                yield step, any('Crop' in str(later) for later in node[i + 1 :])
            yield from steps_in(step)


# -------------------------------------------------------------------------------------- anchors


def shares(draft: Draft, objects: np.ndarray, images: np.ndarray) -> list[float]:
    boxes = torch.from_numpy(np.concatenate([objects * 0 + 50, objects + 50], 1)).float()
    return [
        unmatched(generator, boxes, torch.from_numpy(images).float())
        for _, generator in generators(draft.config.model)
    ]


@pytest.mark.parametrize('config', ['sepvit_retinanet', 'sepvit_mask_rcnn'])
@pytest.mark.parametrize(
    'shape', [(16.0, 16.0), (14.0, 20.0), (300.0, 500.0), (20.0, 120.0)], ids=str
)
def test_anchors_match_the_objects(config: str, shape: tuple[float, float]) -> None:
    draft = Draft([f'vitbackbones::detection/{config}.py'])
    rng = np.random.default_rng(1)
    objects = np.array([shape]) * rng.uniform(0.8, 1.25, (300, 1))
    images = np.full_like(objects, 640)
    fit_anchors(draft, objects, images)
    assert all(share <= 2 * SHARE for share in shares(draft, objects, images))


def test_anchors_that_fit_stay() -> None:
    draft = Draft(['vitbackbones::detection/sepvit_retinanet.py'])
    sides = np.random.default_rng(0).uniform(40, 300, (500, 1))
    fit_anchors(draft, np.hstack([sides, sides]), np.full((500, 2), 800))
    assert plain(draft.config.model) == plain(draft.original.model)
    assert draft.said == []


# -------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ('base', 'heads'),
    [
        ('vitbackbones::detection/sepvit_cascade_mask_rcnn.py', 4),
        ('mmdet::ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py', 3),
        ('mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', 2),
        ('mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', 1),
        ('mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py', 1),
        ('vitbackbones::segmentation/sepvit_upernet.py', 2),
    ],
)
def test_all_heads_get_the_classes(base: str, heads: int) -> None:
    draft = Draft([base])
    set_classes(draft, 3)
    found = [
        part[key]
        for part in nodes(draft.config.model)
        for key in ('num_classes', 'num_things_classes')
        if key in part and part['type'] != 'RPNHead'
    ]
    assert found == [3] * heads
    for part in nodes(draft.config.model):
        if 'class_weight' in part:
            assert list(part['class_weight']) == [1.0] * 3 + [0.1]


def nodes(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [node, *(each for value in node.values() for each in nodes(value))]
    return [each for value in node for each in nodes(value)] if isinstance(node, list) else []


# ------------------------------------------------------------------------------ length and batch


def test_few_images_are_seen_more_often_but_less_in_all() -> None:
    for pretrained in (True, False):
        numbers = [100, 1000, 10_000, 100_000]
        epochs = [epochs_for(number, pretrained) for number in numbers]
        assert epochs == sorted(epochs, reverse=True)
        seen = [number * each for number, each in zip(numbers, epochs, strict=True)]
        assert seen == sorted(seen)
    assert epochs_for(1000, False) > 2 * epochs_for(1000, True)
    assert epochs_for(118_287, True) == 12


def test_a_batch_is_what_fits() -> None:
    large = 1333 * 800
    batches = [batch_for(Machine('cuda', gb, 8), large, 1000) for gb in (4, 16, 24, 80, 1000)]
    assert batches == sorted(batches)
    assert batches[0] == 1
    assert batches[-1] == 16
    assert batch_for(Machine('cpu', 1000, 8), large, 1000) == 4
    assert batch_for(Machine('cuda', 1000, 8), large, 3) == 2  # there are no more
    assert workers_for(Machine('cpu', 8, 1), 4) == 1


@pytest.mark.parametrize(
    ('device', 'memory', 'named'),
    [('tpu', None, 'tpu'), ('cpu', 0.0, '--memory 0'), ('cuda', None, '--memory 16')],
)
def test_a_machine_that_cannot_be_told_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, device: str, memory: float | None, named: str
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match=named):
        this_machine(device, memory)


# ---------------------------------------------------------------------------------- a whole config


@pytest.mark.parametrize('head', HEADS)
def test_every_head_is_there_for_every_family(head: str) -> None:
    for family in ('sepvit', 'casvit', 'supervit', 'gcvit', 'shvit'):
        assert config_path(config_of(head, family)).is_file()
    assert task_of(Draft([config_of(head, 'gcvit')]).config, head) == HEADS[head]


@pytest.mark.parametrize(
    ('task', 'base'),
    [
        ('boxes', 'vitbackbones::detection/sepvit_mask_rcnn.py'),
        ('boxes', 'vitbackbones::segmentation/sepvit_upernet.py'),
        ('masks', 'vitbackbones::segmentation/sepvit_upernet.py'),
        ('labels', 'vitbackbones::detection/sepvit_retinanet.py'),
        ('masks', 'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'),
    ],
)
def test_data_of_another_task_is_refused(tmp_path: Path, task: Task, base: str) -> None:
    with pytest.raises(UserError, match='learns from'):
        check_task(own(tmp_path, task), Draft([base]).config, base)


@pytest.mark.parametrize(
    ('base', 'what'),
    [
        ('mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py', 'proposals'),
        (
            'mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py',
            'vid',
        ),
        (
            'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
            'without',
        ),
        ('mmdet::glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py', 'words'),
        ('mmdet::reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20.py', 'cut-outs'),
    ],
)
def test_methods_that_learn_from_more_are_refused(base: str, what: str) -> None:
    with pytest.raises(UserError, match=f'learns from .*{what}.*--data cannot bring'):
        task_of(Draft([base]).config, base)


def test_what_predicts_no_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='predicts no classes'):
        fitted(tmp_path, 'mmdet::rpn/rpn_r50_fpn_1x_coco.py', own(tmp_path, 'boxes'))


def test_windows_that_slide_overlap_as_before(tmp_path: Path) -> None:
    base = 'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py'
    draft = fitted(tmp_path, base, own(tmp_path, 'labels'))
    old, new = (cfg.model.test_cfg for cfg in (draft.original, draft.config))
    assert new.crop_size[0] < old.crop_size[0]
    for before, after in zip(old.stride, new.stride, strict=True):
        assert after / new.crop_size[0] == pytest.approx(before / old.crop_size[0], abs=0.02)


def test_label_maps_are_trained_in_batches_of_crops(tmp_path: Path) -> None:
    data = own(tmp_path, 'labels')
    large = OwnData(**{**vars(data), 'image_sizes': np.tile([[2000, 1500]], (40, 1))})
    draft = Draft(['vitbackbones::segmentation/sepvit_upernet.py'])
    fit(draft, large, Machine('cpu', 12.0, 2), ours=True, pretrained=False, name='it')
    assert batch_of(draft) == 4  # of crops of 512, which fit


def test_heads_learn_in_batches_of_one(tmp_path: Path) -> None:
    data = own(tmp_path, 'labels')
    draft = Draft(['vitbackbones::segmentation/sepvit_upernet.py'])
    fit(draft, data, Machine('cpu', 3.0, 2), ours=True, pretrained=False, name='it')
    assert batch_of(draft) == 1
    init_default_scope('mmseg')
    for head in (draft.config.model.decode_head, draft.config.model.auxiliary_head):
        built = MODELS.build(head)
        maps = [torch.rand(1, c, 64 // 2**i, 64 // 2**i) for i, c in enumerate((96, 192, 384, 768))]
        with torch.no_grad():
            assert built.train()(maps).isfinite().all()


def test_rare_classes_count_as_others(tmp_path: Path) -> None:
    base = 'vitbackbones::segmentation/sepvit_upernet.py'
    draft = fitted(tmp_path, base, own(tmp_path, 'labels'))  # of 64 columns 2
    pixels, classes = draft.config.model.decode_head.loss_decode
    assert pixels == draft.original.model.decode_head.loss_decode
    assert classes.type == 'vitbackbones.GuardedLovaszLoss'


@pytest.mark.parametrize('pixels', [[70, 20, 10], [4] * 25, [97, 3, *[100] * 19]])
def test_classes_that_are_not_rare_or_too_many_change_no_loss(pixels: list[int]) -> None:
    draft = Draft(['vitbackbones::segmentation/sepvit_upernet.py'])
    balance(draft, np.array(pixels))
    assert draft.config.model == draft.original.model


def test_an_optimizer_without_decay_is_said_as_it_is(tmp_path: Path) -> None:
    base = tmp_path / 'base.py'
    base.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
        "optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3))\n"
    )
    draft = fitted(tmp_path, str(base), own(tmp_path, 'boxes'))
    (line,) = [line for line in draft.said if line.startswith('optimizer: ')]
    assert line.startswith('optimizer: AdamW lr=0.0003. ')


def test_a_class_in_one_of_many_maps_is_seen(tmp_path: Path) -> None:
    labels = np.zeros((8, 64), np.uint8)
    maps = [tmp_path / f'{i:03}.png' for i in range(2 * MAPS)]
    for path in maps:
        Image.fromarray(labels).save(path)
    labels[:, 20:26] = 1
    Image.fromarray(labels).save(maps[1])  # of those that are not among the sample
    assert thickness(maps, np.array([True, True]))[1] == pytest.approx(6)


@pytest.mark.parametrize('learnt', [0, 1, 2])
def test_a_batch_without_learnt_pixels_has_no_loss(learnt: int) -> None:
    loss = MODELS.build(dict(type='vitbackbones.GuardedLovaszLoss'))
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    label = torch.full((1, 8, 8), 255)
    label.flatten()[:learnt] = 1
    value = loss(logits, label, ignore_index=255)
    value.backward()
    assert (value.item() == 0) == (learnt < 2)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize('variant', ['shvit_s1', 'casvit_xs', 'sepvit_base'])
def test_groups_of_channels_are_wide(variant: str, tmp_path: Path) -> None:
    base = f'vitbackbones::segmentation/{variant.partition("_")[0]}_upernet.py'
    written = new_config(base, variant, tmp_path / 'new.py', weights='none')
    draft = Draft([str(written.path)])
    fit(draft, own(tmp_path, 'labels'), CPU, ours=True, pretrained=False, name='it')
    for head in (draft.config.model.decode_head, draft.config.model.auxiliary_head):
        assert head.norm_cfg.type == 'GN'
        assert head.channels % head.norm_cfg.num_groups == 0
        assert head.channels // head.norm_cfg.num_groups >= 16
    assert 'norms: ' in '\n'.join(draft.said)


@pytest.mark.parametrize('epochs', [1, 7, 17, 22, 29, 176])
def test_there_are_never_more_validations_than_promised(tmp_path: Path, epochs: int) -> None:
    base = 'vitbackbones::detection/sepvit_retinanet.py'
    data = own(tmp_path, 'boxes', images=2000)
    data.splits['val'] = Split(data.folder / 'val', data.folder / 'val.json', 10)  # type: ignore[index]
    cfg = fitted(tmp_path, base, data, epochs=epochs).config.train_cfg
    assert -(-epochs // cfg.val_interval) <= 15


def test_boxes_of_masks_are_enough_for_a_box_detector(tmp_path: Path) -> None:
    base = 'vitbackbones::detection/sepvit_retinanet.py'
    draft = fitted(tmp_path, base, own(tmp_path, 'masks'))
    assert 'with_mask' not in repr(plain(draft.config.train_dataloader))
    assert draft.config.val_evaluator.metric == 'bbox'


@pytest.mark.parametrize(
    ('task', 'base'),
    [
        ('boxes', 'vitbackbones::detection/sepvit_retinanet.py'),
        ('masks', 'vitbackbones::detection/casvit_mask_rcnn.py'),
        ('labels', 'vitbackbones::segmentation/casvit_upernet.py'),
        ('boxes', 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'),
        ('boxes', 'mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py'),  # it repeats, and joins two
        ('labels', 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
    ],
)
def test_what_is_written_names_only_the_users_data(tmp_path: Path, task: Task, base: str) -> None:
    data = own(tmp_path, task)
    path = tmp_path / 'my.py'
    write_draft(fitted(tmp_path, base, data), path)
    assert path.read_text().count(str(data.folder)) == 1  # said once
    cfg = Config.fromfile(path)
    metric = {'boxes': 'coco/bbox_mAP', 'masks': 'coco/segm_mAP', 'labels': 'mIoU'}[task]
    assert cfg.default_hooks.checkpoint.save_best == metric
    for split in ('train', 'val', 'test'):
        whole = plain(cfg[f'{split}_dataloader'].dataset)
        inner = whole['dataset'] if whole['type'] == 'MultiImageMixDataset' else whole
        assert inner['type'] == ('BaseSegDataset' if task == 'labels' else 'CocoDataset')
        assert inner['data_root'] == str(data.folder)
        assert inner['metainfo']['classes'] == data.classes
        assert inner['pipeline']
    assert ('MultiImageMixDataset' in repr(plain(cfg.train_dataloader))) == ('yolox' in base)


def test_a_test_split_is_used_as_such(tmp_path: Path) -> None:
    data = own(tmp_path, 'boxes')
    splits = {**data.splits, 'test': Split(data.folder / 't', data.folder / 'test.json', 3)}
    data = OwnData(**{**vars(data), 'splits': splits})
    draft = fitted(tmp_path, 'vitbackbones::detection/sepvit_retinanet.py', data)
    assert draft.config.test_dataloader.dataset.ann_file == 'test.json'
    assert draft.config.test_evaluator.ann_file.endswith('/data/test.json')
    assert draft.config.val_evaluator.ann_file.endswith('/data/val.json')


def batch_of(draft: Draft) -> int:
    return draft.config.train_dataloader.batch_size


def test_only_batch_and_workers_depend_on_the_machine(tmp_path: Path) -> None:
    data = own(tmp_path, 'boxes')
    drafts = []
    for machine in (CPU, Machine('cuda', 80.0, 64)):
        draft = Draft(['vitbackbones::detection/sepvit_retinanet.py'])
        fit(draft, data, machine, ours=True, pretrained=False, name='it')
        assert draft.config.auto_scale_lr.pop('base_batch_size') == batch_of(draft)
        for split in ('train', 'val', 'test'):
            for key in ('batch_size', 'num_workers'):
                draft.config[f'{split}_dataloader'].pop(key)
        drafts.append({key: plain(value) for key, value in draft.config.items()})
    assert drafts[0] == drafts[1]


def test_the_length_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    base = 'vitbackbones::detection/sepvit_retinanet.py'
    draft = fitted(tmp_path, base, own(tmp_path, 'boxes'), epochs=7)
    assert draft.config.train_cfg.max_epochs == 7
    base = 'vitbackbones::segmentation/sepvit_upernet.py'
    data = own(tmp_path, 'labels')
    draft = fitted(tmp_path, base, data, epochs=7)
    assert draft.config.train_cfg.max_iters == 7 * 40 / batch_of(draft)
    draft = fitted(tmp_path, base, data, epochs=7, batch_size=2)
    assert draft.config.train_cfg.max_iters == 7 * 40 / 2


def test_a_file_says_its_batch_also_where_that_is_inherited(tmp_path: Path) -> None:
    base = 'vitbackbones::detection/sepvit_retinanet.py'
    usual = Draft([base]).config.train_dataloader.batch_size
    path = tmp_path / 'my.py'
    draft = fitted(tmp_path, base, own(tmp_path, 'boxes'), batch_size=usual)
    write_draft(draft, path)
    assert f'batch_size={usual},' in path.read_text()


def test_what_starts_from_weights_is_averaged_longer_and_varied_less(tmp_path: Path) -> None:
    base = 'vitbackbones::detection/sepvit_retinanet.py'
    data = own(tmp_path, 'boxes', images=2000)
    random, given = (fitted(tmp_path, base, data, pretrained=known) for known in (False, True))
    assert random.config.default_hooks.ema.gamma > given.config.default_hooks.ema.gamma
    steps = [repr(plain(draft.config.train_dataloader)) for draft in (random, given)]
    assert ['HSV' in step for step in steps] == [True, False]


@pytest.mark.parametrize(
    ('base', 'given', 'rate'),
    [
        ('vitbackbones::detection/sepvit_retinanet.py', False, 3e-4),
        ('vitbackbones::detection/sepvit_retinanet.py', True, 1e-4),
        ('mmdet::detr/detr_r50_8xb2-150e_coco.py', False, 1e-4),  # as its decoder can learn
        ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', False, 3e-4),  # of 4e-3, for 256 images
        ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', True, 2e-4),
    ],
)
def test_rates_are_those_of_small_batches(
    tmp_path: Path, base: str, given: bool, rate: float
) -> None:
    draft = Draft([base])
    ours = base.startswith('vitbackbones')
    fit(draft, own(tmp_path, 'boxes'), CPU, ours=ours, pretrained=given, name=base)
    assert draft.config.optim_wrapper.optimizer.lr == rate
    assert bool(draft.get('optim_wrapper.clip_grad')) == (not given or 'detr' in base)
    warm_up, fall = draft.config.param_scheduler
    assert warm_up['end'] < 500
    assert 'end' not in fall  # it follows a length that is set later
