"""Whole models as ONNX: the same results as the checkpoint's at any size, or there is no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from tests import whole_models as small
from tests.whole_models import DETECTORS, HEADS
from vitbackbones.benchmark.livened import FEW, MANY, enliven
from vitbackbones.cli.main import main
from vitbackbones.deploy import fuse, whole
from vitbackbones.deploy.card import Card
from vitbackbones.deploy.onnx_file import OnnxFile, by_openvino
from vitbackbones.deploy.pairing import Found, pair
from vitbackbones.deploy.pictures import pictures
from vitbackbones.deploy.reference import detections, label_maps
from vitbackbones.errors import UserError

SIZE = (160, 192)  # to trace with: more than the largest stride of the heads
OTHERS = ((97, 160), (211, 130))


def scenes(*shapes: tuple[int, int, int]) -> list[Tensor]:
    from mmengine.config import Config

    return pictures(Config(), [*shapes, (1, 8, 8)])[:-1]


class Exported:
    """A config, its model with weights that find something, and the file made of them."""

    def __init__(self, folder: Path, model: dict[str, Any]) -> None:
        self.config = small.write_config(model, folder / 'small.py')
        self.weights = folder / 'weights.pth'
        self.out = folder / 'small.onnx'
        self.model = small.build(self.config)
        self.found = enliven(self.model, scenes((1, *SIZE))[0])
        torch.save({'state_dict': self.model.state_dict()}, self.weights)

    def export(self, *words: Any) -> int:
        where = (self.config, self.weights, '--part', 'model', '--out', self.out)
        sizes = () if '--size' in words else ('--size', *SIZE)
        return main(['export', *map(str, (*where, *sizes, *words))])

    def session(self) -> Callable[[np.ndarray], list[Tensor]]:
        session = onnxruntime.InferenceSession(self.out)
        return lambda image: [torch.from_numpy(x) for x in session.run(None, {'image': image})]


@pytest.fixture
def exported(tmp_path: Path) -> Callable[[dict[str, Any]], Exported]:
    return lambda model: Exported(tmp_path, model)


def assert_finds_the_same(case: Exported, *shapes: tuple[int, int]) -> None:
    """The file and ``test_step``, but for boxes that rounding decides about: two of hundreds."""
    run = case.session()
    total = left = 0
    for image in scenes(*((1, *shape) for shape in shapes)):
        wanted, found = detections(case.model, image), Found(*run(image.numpy()))
        pairing = pair(found, wanted)
        total += len(wanted.boxes)
        left += len(pairing.rest) + len(pairing.other_rest)
        assert (found.scores[1:] <= found.scores[:-1]).all()
        if wanted.masks is not None and found.masks is not None and found.masks.dtype == torch.bool:
            differ = found.masks[pairing.first] != wanted.masks[pairing.second]
            assert differ.float().mean() <= 1e-4
    assert total >= 30
    assert left <= 2


@pytest.fixture(scope='module')
def retinanet(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    case = Exported(tmp_path_factory.mktemp('retinanet'), small.one_stage('SHViT'))
    assert FEW <= case.found <= MANY
    assert case.export() == 0
    return case


def test_retinanet_finds_the_same_at_other_sizes(retinanet: Exported) -> None:
    assert_finds_the_same(retinanet, *OTHERS)
    found = {path.name for path in retinanet.out.parent.iterdir()}
    assert found == {'small.py', 'weights.pth', 'small.onnx'}


def test_openvino_finds_the_same(retinanet: Exported) -> None:
    file, other = OnnxFile(retinanet.out), OnnxFile(retinanet.out, by_openvino(retinanet.out, 1))
    for shape in (SIZE, *OTHERS):
        image = scenes((1, *shape))[0][0].permute(1, 2, 0).numpy()
        results = [Found(*map(torch.from_numpy, f.run(image).values())) for f in (file, other)]
        assert len(results[0].boxes) >= 10
        pairing = pair(*results)  # within 1e-2 pixels
        assert len(pairing.rest) + len(pairing.other_rest) == 0


def test_what_openvino_cannot_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / 'no.onnx').write_bytes(b'nothing')
    with pytest.raises(UserError, match='OpenVINO cannot read'):
        by_openvino(tmp_path / 'no.onnx', 1)


# Backbones and heads, each once; RetinaNet with SHViT stands above.
SAMPLE = [
    ('FasterRCNN', 'CASViT', ()),
    ('MaskRCNN', 'SepViT', ()),
    ('CascadeMaskRCNN', 'GCViT', ('--masks', 'pasted')),
    ('MaskRCNN', 'SuperViT', ('--masks', 'pasted')),
]


@pytest.mark.parametrize(('kind', 'name', 'words'), SAMPLE, ids=lambda value: str(value))
def test_a_detector_finds_the_same_at_other_sizes(
    kind: str,
    name: str,
    words: tuple[str, ...],
    exported: Callable[[dict[str, Any]], Exported],
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = exported(DETECTORS[kind](name))
    assert FEW <= case.found <= MANY
    assert case.export(*words) == 0
    said = capsys.readouterr().out
    assert 'model for any size' in said
    assert 'stand in one result alone' in said
    assert_finds_the_same(case, *OTHERS)


REST = [
    (kind, name, ())
    for kind in DETECTORS
    for name in small.SMALL
    if (kind, name) not in {('RetinaNet', 'SHViT'), *(case[:2] for case in SAMPLE)}
]


@pytest.mark.export
@pytest.mark.parametrize(('kind', 'name', 'words'), REST, ids=lambda value: str(value))
def test_every_detector_finds_the_same_with_every_backbone(
    kind: str,
    name: str,
    words: tuple[str, ...],
    exported: Callable[[dict[str, Any]], Exported],
) -> None:
    case = exported(DETECTORS[kind](name))
    assert case.export(*words) == 0
    assert_finds_the_same(case, *OTHERS)


def test_the_file_holds_standard_operators_alone_and_a_card(retinanet: Exported) -> None:
    case = retinanet
    file = onnx.load(case.out)
    assert {node.domain for node in file.graph.node} == {''}
    assert not file.functions
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [('', 18)]
    assert file.ir_version <= 8
    ends = [(end.name, end.type.tensor_type.elem_type) for end in file.graph.output]
    kinds = onnx.TensorProto
    wanted = [('boxes', kinds.FLOAT), ('scores', kinds.FLOAT), ('labels', kinds.INT64)]
    assert ends == wanted
    (image,) = file.graph.input
    assert (image.name, image.type.tensor_type.elem_type) == ('image', kinds.UINT8)
    sides = [side.dim_value for side in image.type.tensor_type.shape.dim]
    assert sides == [1, 3, 0, 0]
    weights = sum(len(each.raw_data) for each in file.graph.initializer)
    assert case.out.stat().st_size < 1.5 * weights + 1e6
    card = Card.of_file(case.out)
    assert card.task == 'boxes'
    assert card.config == 'small'
    assert card.classes == ['class0', 'class1', 'class2']
    assert card.palette == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    assert (card.scale, card.keep_ratio) == ([320, 160], True)
    assert (card.mean, card.std) == (small.MEAN, small.STD)
    assert (card.divisor, card.size, card.dynamic) == (32, [160, 192], True)
    assert (card.layout, card.channels, card.dtype) == ('chw', 'rgb', 'uint8')
    assert (card.masks, card.mask_threshold, card.probabilities) == (None, None, False)
    assert card.precision == 'float32'
    assert card.weights is not None
    assert len(card.weights) == 64


def test_an_input_of_another_form_gives_the_same(
    exported: Callable[[dict[str, Any]], Exported],
) -> None:
    """The same scene as (1, H, W, 3) floats in B, G, R, for a model that takes B, G, R."""
    model = small.one_stage('CASViT')
    model['data_preprocessor']['bgr_to_rgb'] = False
    case = exported(model)
    words = ('--layout', 'hwc', '--channels', 'bgr', '--float', '--static', '--opset', 20)
    assert case.export(*words) == 0
    image = scenes((1, *SIZE))[0]
    given = np.ascontiguousarray(image.numpy()[:, ::-1].transpose(0, 2, 3, 1), np.float32)
    found, wanted = Found(*case.session()(given)), detections(case.model, image)
    assert len(pair(found, wanted).rest) + len(pair(found, wanted).other_rest) <= 1
    card = Card.of_file(case.out)
    assert (card.layout, card.channels, card.dtype, card.dynamic) == (
        'hwc',
        'bgr',
        'float32',
        False,
    )
    assert card.mean == small.MEAN[::-1]  # of R, G, B
    assert onnx.load(case.out).opset_import[0].version == 20
    (end,) = onnxruntime.InferenceSession(case.out).get_inputs()
    assert end.shape == [1, *SIZE, 3]


# ----------------------------------------------------------------------------- segmentors

SEGMENTORS = [
    ('UPerHead', 'CASViT', {}),
    ('FPNHead', 'SHViT', {}),
    ('FCNHead', 'SuperViT', {'num_convs': 1}),
    ('PSPHead', 'SHViT', {}),
    ('ASPPHead', 'SuperViT', {}),
    ('DepthwiseSeparableASPPHead', 'SHViT', {}),
    ('SegformerHead', 'SHViT', {}),
]


def assert_labels_the_same(case: Exported, *shapes: tuple[int, int, int]) -> None:
    run = case.session()
    for images in scenes(*shapes):
        (found,) = run(images.numpy())
        labels, scores = label_maps(case.model, images)
        assert found.dtype == torch.int64
        assert found.shape == labels.shape
        other = found != labels  # random weights: two classes may be as likely but for rounding
        assert other.sum() <= max(2, 1e-5 * labels.numel())
        chosen, best = (scores.gather(1, x[:, None])[:, 0] for x in (found, labels))
        assert bool(((best - chosen)[other] <= 1e-5 * scores.abs().max()).all())
        assert len(labels.unique()) > 1


@pytest.mark.parametrize(('kind', 'name', 'options'), SEGMENTORS, ids=[k for k, *_ in SEGMENTORS])
def test_a_segmentor_labels_the_same_at_other_sizes(
    kind: str,
    name: str,
    options: dict[str, Any],
    exported: Callable[[dict[str, Any]], Exported],
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = exported(small.segmentor(kind, name, padded=kind == 'SegformerHead', **options))
    assert case.export('--size', 130, 140) == 0
    assert 'pixels differ, by rounding' in capsys.readouterr().out
    assert_labels_the_same(case, (1, 97, 160), (3, 140, 101))
    assert Card.of_file(case.out).task == 'labels'


@pytest.mark.export
@pytest.mark.parametrize('name', small.SMALL)
@pytest.mark.parametrize('kind', HEADS)
def test_every_segmentor_labels_the_same_with_every_backbone(
    kind: str, name: str, exported: Callable[[dict[str, Any]], Exported]
) -> None:
    case = exported(small.segmentor(kind, name))
    assert case.export('--size', 130, 140) == 0
    assert_labels_the_same(case, (1, 97, 160), (3, 140, 101))


@pytest.mark.parametrize('channels', [None, 1], ids=['softmax', 'sigmoid'])
def test_probabilities_in_place_of_labels(
    channels: int | None, exported: Callable[[dict[str, Any]], Exported]
) -> None:
    options: dict[str, Any] = {}
    if channels == 1:
        options = {'num_classes': 2, 'out_channels': 1, 'threshold': 0.4}
    model = small.segmentor('FCNHead', 'SHViT', num_convs=0, concat_input=False)
    model['decode_head'].update(options)
    if channels == 1:
        for head in model['auxiliary_head']:
            head.update(num_classes=2)
        small_classes = 2
    else:
        small_classes = small.CLASSES
    model['decode_head'].update(num_classes=small_classes, channels=32)
    case = exported(model)
    if channels == 1:
        text = case.config.read_text().replace(", 'class2')", ')')
        case.config.write_text(text)
    assert case.export('--probabilities', '--static', '--size', 100, 150) == 0
    (images,) = scenes((1, 100, 150))
    (found,) = case.session()(images.numpy())
    labels, scores = label_maps(case.model, images)
    wanted = scores.softmax(1) if channels is None else scores
    assert found.shape == (1, channels or small.CLASSES, 100, 150)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    if channels == 1:
        assert ((found[:, 0] > 0.4).long() == labels).float().mean() > 0.9999
    assert Card.of_file(case.out).mask_threshold == (0.4 if channels == 1 else None)


# ---------------------------------------------------------------------------- no wrong file


def test_a_file_that_finds_something_else_is_not_kept(
    exported: Callable[[dict[str, Any]], Exported],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = exported(small.one_stage('SHViT'))
    case.out.write_text('of another day')

    def shifted(model: Any) -> Any:
        model = fuse(model)
        model.bbox_head.retina_reg.bias += 0.01  # a hundredth of an anchor's size, or a tenth
        return model

    monkeypatch.setattr(whole, 'fuse', shifted)
    assert case.export('--static', '--force') == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'which rounding does not explain' in error
    assert case.out.read_text() == 'of another day'


def test_weights_that_find_nothing_prove_nothing(
    exported: Callable[[dict[str, Any]], Exported], capsys: pytest.CaptureFixture[str]
) -> None:
    """N is 0 through the heads of boxes and masks, in the file too."""
    case = exported(small.mask_rcnn('SHViT'))
    with torch.no_grad():
        case.model.roi_head.bbox_head.fc_cls.bias[-1] += 100
    torch.save({'state_dict': case.model.state_dict()}, case.weights)
    assert case.export('--static') == 0
    assert 'nothing was found, which proves nothing of boxes' in capsys.readouterr().out
    found = case.session()(scenes((1, *SIZE))[0].numpy())
    assert [tuple(x.shape) for x in found] == [(0, 4), (0,), (0,), (0, 8, 8)]


# ------------------------------------------------------------------------------- bad input


def changed(model: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, key = path.split('.')
    node: Any = model
    for parent in parents:
        node = node[parent]
    node[key] = value
    return model


SOFT = dict(type='soft_nms', iou_threshold=0.5)
ATSS = dict(
    type='ATSSHead',
    num_classes=small.CLASSES,
    in_channels=16,
    feat_channels=16,
    stacked_convs=0,
    norm_cfg=None,
    anchor_generator=small.anchors([16, 32, 64, 128], scales=[4], ratios=[1.0]),
)


def rpn(name: str) -> dict[str, Any]:
    """A detector of proposals alone."""
    model = {**small.faster_rcnn(name), 'type': 'RPN'}
    del model['roi_head']
    return model


GENERIC = dict(
    type='GenericRoIExtractor',
    roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=0),
    out_channels=16,
    featmap_strides=[16, 32, 64],
)
DETECTOR_REFUSALS = [
    (small.one_stage, 'test_cfg.nms', SOFT, "model.test_cfg.nms is soft_nms, which --part model"),
    (small.one_stage, 'test_cfg.nms', dict(type='nms', iou_threshold=0.5, max_num=3),
     'model.test_cfg.nms.max_num=3: --part model knows no such option'),
    (small.one_stage, 'bbox_head.bbox_coder', dict(type='TBLRBBoxCoder'),
     'model.bbox_head.bbox_coder is TBLRBBoxCoder, which --part model cannot export, only Delta'),
    (small.one_stage, 'bbox_head', ATSS,
     'model.bbox_head is ATSSHead, which predicts 3 maps for each'),
    (small.one_stage, 'data_preprocessor', dict(type='ImgDataPreprocessor'),
     'model.data_preprocessor is ImgDataPreprocessor, which --part model does not know'),
    (rpn, 'train_cfg', None, 'model.bbox_head is RPNHead, which proposes, which --part'),
    (small.faster_rcnn, 'test_cfg.rcnn.nms', SOFT, 'model.test_cfg.rcnn.nms is soft_nms'),
    (small.faster_rcnn, 'roi_head.bbox_roi_extractor', GENERIC,
     'model.roi_head.bbox_roi_extractor is GenericRoIExtractor'),
    (small.mask_rcnn, 'roi_head.mask_head.upsample_cfg',
     dict(type='carafe', scale_factor=2, up_kernel=5, up_group=1, encoder_kernel=3,
          encoder_dilation=1, compressed_channels=4),
     'CARAFE'),
]  # fmt: skip


SEGMENTOR_REFUSALS = [
    ('test_cfg', dict(mode='slide', crop_size=(64, 64), stride=(32, 32)),
     "model.test_cfg.mode is 'slide', which counts windows by the size"),
    ('decode_head.type', 'EncHead', 'model.decode_head is EncHead, which --part model cannot'),
    ('data_preprocessor.test_cfg', dict(size=(64, 64)), 'test_cfg.size=(64, 64) pads images to'),
    ('decode_head.align_corners', True, 'align_corners=True can be exported with --static alone'),
]  # fmt: skip


def refused(model: dict[str, Any], folder: Path, *words: str) -> int:
    config = small.write_config(model, folder / 'small.py')
    out = str(folder / 'x.onnx')
    return main(['export', str(config), '--part', 'model', '--out', out, *words])


@pytest.mark.parametrize(('path', 'value', 'message'), SEGMENTOR_REFUSALS)
def test_what_of_a_segmentor_cannot_be_exported_is_named(
    path: str, value: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small.segmentor('FCNHead', 'SHViT')
    if value == 'EncHead':
        model['decode_head'].update(num_codes=4, in_channels=[32], in_index=[-1])
    assert refused(changed(model, path, value), tmp_path) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {'small.py'}


WORDS = [
    (small.one_stage, ['--dynamic'], '--part model takes any size without --dynamic; one alone by'),
    (small.one_stage, ['--masks', 'pasted'], '--masks pasted: RetinaNet has no masks'),
    (small.faster_rcnn, ['--masks', 'raw'], '--masks raw: this FasterRCNN has no masks'),
    (small.one_stage, ['--probabilities'], '--probabilities: RetinaNet is no segmentor'),
    (small.one_stage, ['--size', '128', '160'],
     '--size 128 160: both sides must be more than 128 for any size, the largest stride of'),
    (small.one_stage, ['--static', '--size', '60', '160'], 'both sides must be at least 64, the'),
    (small.one_stage, ['--opset', '17'], '--opset 17: choose from 18 to 23'),
    (small.one_stage, ['--part', 'backbone', '--static'], '--static goes with --part model alone'),
    (small.one_stage, ['--part', 'backbone', '--masks', 'raw'], '--masks goes with --part model'),
]  # fmt: skip


@pytest.mark.parametrize(('make', 'words', 'message'), WORDS)
def test_options_that_do_not_go_together_are_named(
    make: Callable[..., dict[str, Any]],
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused(make('SHViT'), tmp_path, *words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {'small.py'}


def test_a_network_that_follows_the_size_can_be_exported_for_one(
    exported: Callable[[dict[str, Any]], Exported], capsys: pytest.CaptureFixture[str]
) -> None:
    case = exported(small.one_stage('SuperViT', operating_point={'scale': 0.8}))
    assert case.export() == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'cannot be exported for any size; with --static, one --size can be' in error
    assert case.export('--static', '--size', 96, 128) == 0


def test_a_checkpoint_of_another_model_is_refused(
    exported: Callable[[dict[str, Any]], Exported], capsys: pytest.CaptureFixture[str]
) -> None:
    case = exported(small.one_stage('SHViT'))
    small.write_config(small.one_stage('CASViT'), case.config)
    assert case.export() == 2
    assert str(case.weights) in capsys.readouterr().err
    assert not case.out.exists()


@pytest.mark.parametrize(('make', 'path', 'value', 'message'), DETECTOR_REFUSALS)
def test_what_cannot_be_exported_is_named(
    make: Callable[..., dict[str, Any]],
    path: str,
    value: Any,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused(changed(make('SHViT'), path, value), tmp_path) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {'small.py'}
