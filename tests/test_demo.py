"""The demo: what it changes in a config, and what it draws."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from vitbackbones.data import demo as demo_data
from vitbackbones.engine.preflight import PreflightHook
from vitbackbones.inference.drawing import ZOOM, contact_sheet
from vitbackbones.launch.device import adapt_to_device
from vitbackbones.launch.loading import load_config
from vitbackbones.launch.smallest import use_rates_for_random_weights, use_smallest_arch

ROOT = Path(__file__).parents[1]
DEFAULTS = sorted(
    p for task in ('detection', 'segmentation') for p in ROOT.glob(f'configs/{task}/*.py')
)
OTHERS = [
    ROOT / 'configs' / name
    for name in (
        'detection/gcvit/gcvit-large_dino-4scale_36e.py',
        'segmentation/sepvit/sepvit-tiny_semantic-fpn_80k.py',
        'segmentation/casvit/casvit-t_semantic-fpn_40k.py',
    )
]
every_config = pytest.mark.parametrize('config', [*DEFAULTS, *OTHERS], ids=lambda path: path.stem)


@pytest.fixture(scope='module', autouse=True)
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work where demo data are."""
    folder = tmp_path_factory.mktemp('demo')
    demo_data.generate(folder / demo_data.OUT, train=2, val=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def demo(config: Path, **options: Any) -> Config:
    cfg = load_config(str(config), options, demo=True)
    adapt_to_device(cfg)
    init_default_scope(cfg.default_scope)
    return cfg


def values(node: Any, key: str) -> Iterator[Any]:
    """Every value that ``key`` has, anywhere below ``node``."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        for value in node.values():
            yield from values(value, key)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from values(value, key)


# ----------------------------------------------------------------------------- the config


@pytest.mark.parametrize(
    'name',
    [
        'detection/supervit/supervit-deit_s_retinanet_sandwich-3x',
        'segmentation/supervit/supervit-deit_s_upernet_sandwich-160k',
    ],
)
def test_a_sandwich_stays_one(name: str) -> None:
    cfg = demo(ROOT / f'configs/{name}.py', **{'train_cfg.student_loss': 'task'})
    assert cfg.train_cfg.pop('max_iters') == cfg.train_cfg.pop('val_interval')
    cfg.train_cfg.pop('_scope_')  # of the inherited config
    assert cfg.train_cfg.pop('small_weight', 1.0) == (0.5 if 'retinanet' in name else 1.0)
    assert cfg.train_cfg == dict(
        type='vitbackbones.IterBasedPointsLoop', train_points='sandwich', student_loss='task'
    )


@every_config
def test_demo_starts_from_random_weights_and_learns_the_statistics(config: Path) -> None:
    model = demo(config).model
    assert not any((init or {}).get('type') == 'Pretrained' for init in values(model, 'init_cfg'))
    assert not any(values(model, 'norm_eval'))


def test_options_override_the_demo() -> None:
    shvit = ROOT / 'configs/detection/shvit_retinanet.py'
    cfg = demo(shvit, **{'model.backbone.norm_eval': True, 'train_cfg.max_iters': 7})
    assert cfg.model.backbone.norm_eval
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters == 7


@every_config
def test_everything_fits_the_smallest_arch(config: Path) -> None:
    cfg = demo(config)
    words = use_smallest_arch(cfg)
    assert words in ('SepViT lite', 'CASViT xs', 'SuperViT deit_s', 'GCViT xxtiny', 'SHViT s1')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = SimpleNamespace(optimizer=None)
    # It stops a run if channels or strides disagree anywhere.
    PreflightHook().before_train(
        SimpleNamespace(model=model, optim_wrapper=wrapper, logger=logging.getLogger())
    )


def test_demo_trains_all_layers_alike() -> None:
    cfg = demo(ROOT / 'configs/segmentation/supervit_upernet.py')
    assert 'LayerDecay' in cfg.optim_wrapper.constructor
    use_rates_for_random_weights(cfg)
    assert not cfg.optim_wrapper.keys() & {'constructor', 'paramwise_cfg'}


# --------------------------------------------------------------------------- the images


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """A grey image, 60 wide and 40 high."""
    Image.new('RGB', (60, 40), (100, 100, 100)).save(tmp_path / 'grey.png')
    return tmp_path / 'grey.png'


def on_sheet(sample: Any, meta: dict[str, Any], panels: int, tmp_path: Path) -> list[np.ndarray]:
    """The panels of a sheet with two such samples, as drawn of the first of them."""
    contact_sheet([sample, sample], meta, tmp_path / 'sheets/sheet.png')
    sheet = np.asarray(Image.open(tmp_path / 'sheets/sheet.png')).astype(int)
    assert sheet.shape[1] > 2 * panels * ZOOM * 60
    place = ((24 + np.arange(ZOOM * 40))[:, None], 8 + np.arange(ZOOM * 60))
    return [sheet[place[0], place[1] + i * (ZOOM * 60 + 8)] for i in range(panels)]


def test_sheet_of_a_segmentor_shows_image_truth_and_prediction(grey: Path, tmp_path: Path) -> None:
    from mmseg.structures import SegDataSample

    truth, found = torch.zeros(1, 40, 60), torch.ones(1, 40, 60)
    truth[:, :, 30:] = 255  # not labelled
    sample = SegDataSample(metainfo=dict(img_path=str(grey)))
    sample.gt_sem_seg = PixelData(data=truth.long())
    sample.pred_sem_seg = PixelData(data=found.long())
    meta = dict(classes=('a', 'b'), palette=[[200, 0, 0], [0, 0, 200]])
    image, left, right = on_sheet(sample, meta, 3, tmp_path)
    assert (image == 100).all()
    assert (left[:, :50] == [170, 30, 30]).all()  # 0.3 of the image, 0.7 of the colour
    assert (left[:, 70:] == 100).all()
    assert (right == [30, 30, 170]).all()


@pytest.mark.parametrize('masks', [False, True])
def test_sheet_of_a_detector_shows_truth_and_confident_detections(
    grey: Path, tmp_path: Path, masks: bool
) -> None:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    full = np.zeros((2, 40, 60), bool)
    full[0, 20:35, 5:25] = full[1, 20:35, 35:55] = True
    sample = DetDataSample(metainfo=dict(img_path=str(grey)))
    boxes = torch.tensor([[5.0, 20, 25, 35], [35, 20, 55, 35]])
    labels = torch.tensor([0, 1])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    scores = torch.tensor([0.9, 0.1])
    sample.pred_instances = InstanceData(bboxes=boxes, labels=labels, scores=scores)
    if masks:
        sample.gt_instances.masks = BitmapMasks(full, 40, 60)
        sample.pred_instances.masks = torch.as_tensor(full)
    truth, found = on_sheet(sample, dict(classes=('a', 'b')), 2, tmp_path)

    def drawn(panel: np.ndarray, x: int, y: int) -> bool:
        return bool((panel[ZOOM * y, ZOOM * x] != 100).any())

    edges = [(15, 20), (45, 20)]
    assert [drawn(truth, *edge) for edge in edges] == [True, True]
    assert [drawn(found, *edge) for edge in edges] == [True, False]
    insides = [(20, 32), (50, 32)]
    assert [drawn(truth, *inside) for inside in insides] == [masks, masks]
    assert [drawn(found, *inside) for inside in insides] == [masks, False]
