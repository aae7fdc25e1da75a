"""What is drawn of maps, attention and predictions, against what the weights say."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import mmcv.transforms  # noqa: F401 (registers what pipelines are made of)
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tests import whole_models
from tests.small import SMALL
from vitbackbones.backbones.base import Backbone
from vitbackbones.backbones.operating_point import OperatingPoint
from vitbackbones.backbones.supervit import SuperViTClassifier
from vitbackbones.cli.main import main
from vitbackbones.explaining.attention import attention
from vitbackbones.explaining.features import energy, principal_components
from vitbackbones.explaining.gradcam import Target, activation_map, activation_maps, regions
from vitbackbones.explaining.pictures import View
from vitbackbones.explaining.placing import Place, traced
from vitbackbones.explaining.stages import recording, stages_of
from vitbackbones.explaining.tokens import kept_tokens

ALL = (1, 2, 3, 4)
OPTIONS: dict[str, dict[str, Any]] = {'GCViT': dict(window_size=(5, 5, 4, 3))}


def network(name: str, **options: Any) -> Any:
    """A small one with weights that are far from what constructors draw."""
    torch.manual_seed(0)
    cls = Backbone.registered()[name]
    net = cls(**{'arch': SMALL[name], **OPTIONS.get(name, {}), **options}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3 / max(1, parameter[0].numel()) ** 0.5)
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    return net


# --------------------------------------------- attention, once more from inputs of the blocks


def windows_of(x: Tensor, size: int, filling: Tensor) -> Tensor:
    """(H, W, C) -> (rows, columns, size * size, C), what is missing being ``filling`` (C,)."""
    height, width, _ = x.shape
    rows, columns = -(-height // size), -(-width // size)
    whole = filling.expand(rows * size, columns * size, -1).clone()
    whole[:height, :width] = x
    cut = whole.view(rows, size, columns, size, -1).transpose(1, 2)
    return cut.reshape(rows, columns, size * size, -1)


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(..., T, C) -> (..., heads, T, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def weights_of(q: Tensor, k: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias, -1)


def back(got: Tensor, height: int, width: int) -> Tensor:
    """(rows, columns, heads, size * size) -> (heads, H, W)."""
    size = round(got.shape[-1] ** 0.5)
    rows, columns, heads, _ = got.shape
    whole = got.permute(2, 0, 1, 3).unflatten(3, (size, size)).transpose(2, 3)
    return whole.reshape(heads, rows * size, columns * size)[:, :height, :width]


def inside_of(rows: int, columns: int, size: int, height: int, width: int) -> Tensor:
    """(rows, columns, size * size): which positions are of the map, 1 or 0."""
    there = torch.ones(height, width, 1)
    return windows_of(there, size, torch.zeros(1))[..., 0].view(rows, columns, -1)


def of_gcvit(attn: Any, args: Any, shape: tuple[int, int]) -> dict[str, Tensor]:
    x, query, _ = args
    height, width = shape
    size, heads = attn.window_size, attn.num_heads
    parts = windows_of(x[0].view(height, width, -1), size, torch.zeros(x.shape[2]))
    qkv = F.linear(parts, attn.qkv.weight, attn.qkv.bias)
    *q, k, _ = (heads_of(part, heads) for part in qkv.chunk(3 if query is None else 2, -1))
    index = [
        (yq - yk + size - 1) * (2 * size - 1) + (xq - xk + size - 1)
        for yq in range(size)
        for xq in range(size)
        for yk in range(size)
        for xk in range(size)
    ]
    bias = attn.relative_position_bias_table[index].view(size**2, size**2, heads).permute(2, 0, 1)
    queries = q[0] if query is None else query[0].flatten(1, 2)
    weights = weights_of(queries, k, bias)  # (rows, columns, heads, queries, keys)
    there = inside_of(*weights.shape[:2], size, height, width)[:, :, None, :, None]
    got = (weights * there).sum(-2) / there.sum(-2) * size**2
    return {'local' if query is None else 'global': back(got, height, width)}


def of_sepvit(attn: Any, args: Any, shape: tuple[int, int]) -> dict[str, Tensor]:
    x, windows = args
    height, width = shape
    rows, columns = windows.grid
    size = next(s for s in (3, 4) if (-(-height // s), -(-width // s)) == (rows, columns))
    padding = x[0, height * width]  # a normed zero, which is the windows' own token too
    pixels = windows_of(x[0, : height * width].view(height, width, -1), size, padding)
    tokens = torch.cat([padding.expand(rows, columns, 1, -1), pixels], 2)
    qkv = F.linear(tokens, attn.DSA_qkv.weight, attn.DSA_qkv.bias)
    q, k, v = (heads_of(part, attn.num_heads) for part in qkv.chunk(3, -1))
    weights = weights_of(q, k)
    there = inside_of(rows, columns, size, height, width)[:, :, None, :, None]
    got = (weights[..., 1:, 1:] * there).sum(-2) / there.sum(-2) * (size**2 + 1)
    mixed = (weights @ v).transpose(-2, -3).flatten(-2) + tokens
    own = F.gelu(attn.win_tokens_norm(mixed[:, :, 0].flatten(0, 1)))  # (Nw, C)
    q, k = (heads_of(part, attn.num_heads) for part in attn.PSA_qk(own).chunk(2, -1))
    between = weights_of(q, k).mean(-2) * len(own)  # (heads, Nw)
    spread = between.T.view(rows, columns, -1, 1).expand(-1, -1, -1, size**2)
    return {'inside': back(got, height, width), 'between': back(spread, height, width)}


def of_shvit(attn: Any, args: Any, shape: tuple[int, int]) -> dict[str, Tensor]:
    (x,) = args
    attended = attn.pre_norm(x[:, : attn.split[0]])
    qkv = attn.qkv.bn(attn.qkv.c(attended))[0].flatten(1).T
    got = weights_of(qkv[:, :16], qkv[:, 16:32]).mean(0) * len(qkv)
    return {'attention': got.view(1, *shape)}


def of_supervit(attn: Any, args: Any, shape: tuple[int, int]) -> dict[str, Tensor]:
    q, k, _ = (heads_of(part, attn.num_heads) for part in attn.qkv(args[0][0]).chunk(3, -1))
    got = weights_of(q, k)[:, 0, 1:] * k.shape[1]
    return {'class': got.view(-1, *shape)}


def of_casvit(attn: Any, args: Any, shape: tuple[int, int]) -> dict[str, Tensor]:
    q, k, _ = attn.qkv(args[0]).chunk(3, 1)
    found = {}
    for of, x, (spatial, channel) in (('query', q, attn.oper_q), ('key', k, attn.oper_k)):
        depthwise, norm, _, pointwise, _ = spatial.block
        gate = torch.sigmoid(pointwise(F.relu(norm(depthwise(x)))))
        means = (x * gate).mean((2, 3))[0]
        found[f'places_{of}'] = gate[0]
        found[f'channels_{of}'] = torch.sigmoid(channel.block[1].weight[:, :, 0, 0] @ means)
    return found


# The modules that attend, by the ends of their names, and the same by other means.
BY_HAND = {
    'CASViT': ('.attn', of_casvit),
    'GCViT': ('.attn', of_gcvit),
    'SHViT': ('.mixer.m', of_shvit),
    'SepViT': ('.attn', of_sepvit),
    'SuperViT': ('.attn', of_supervit),
}


@pytest.mark.parametrize('size', [(128, 128), (75, 110), (97, 70)])
@pytest.mark.parametrize('name', BY_HAND)
@torch.no_grad()
def test_attention_equals_what_the_weights_say(name: str, size: tuple[int, int]) -> None:
    net = network(name)
    x = torch.randn(1, 3, *size)
    got = attention(net, x, ALL)
    ending, by_hand = BY_HAND[name]
    want: list[tuple[str, Tensor]] = []
    for module_name, module in net.named_modules():
        if module_name.endswith(ending):
            module.register_forward_hook(
                lambda module, args, _: want.extend(
                    by_hand(module, args, got[len(want)].values.shape[1:]).items()
                )
            )
    net(x)
    assert [part.kind for part in got] == [kind for kind, _ in want]
    for part, (_, values) in zip(got, want, strict=True):
        assert values.std() > 1e-4  # there is something to be equal to
        torch.testing.assert_close(part.values, values, atol=1e-5, rtol=1e-5)


def test_blocks_are_numbered_in_their_stages() -> None:
    got = attention(network('GCViT'), torch.randn(1, 3, 64, 64), (2, 4))
    assert [(part.stage, part.block, part.kind) for part in got] == [
        *((2, 1, 'local'), (2, 2, 'global'), (2, 3, 'local')),
        *((4, 1, 'local'), (4, 2, 'global')),
    ]


def test_attention_without_windows_between_which_there_is_any() -> None:
    got = attention(network('SepViT', trunk='classifier'), torch.randn(1, 3, 64, 64), (4,))
    assert {part.kind for part in got} <= {'inside', 'between'}
    got = attention(network('SepViT', mask_padding=True), torch.randn(1, 3, 75, 110), ALL)
    assert {part.kind for part in got} == {'inside', 'between'}


# ------------------------------------------------------------------------- what is left behind


@pytest.mark.parametrize('name', BY_HAND)
def test_a_network_is_what_it_was_after_being_explained(name: str) -> None:
    net = network(name)
    if name == 'SuperViT':
        net.operating_point = dict(keep_rate=0.7)
    x = torch.randn(1, 3, 75, 110)
    with torch.no_grad():
        before = net(x)
    kept = [weakref.ref(part.values) for part in attention(net, x, ALL)]
    for in_trunk in (False, True):
        with torch.enable_grad(), recording(net, stages_of(net), in_trunk=in_trunk) as seen:
            y = net(x)[-1]
        target = Target(1, '', [y.sum()])
        found = activation_maps(target, seen.maps)
        assert sorted(found) == stages_of(net)
        kept += map(weakref.ref, [y, *seen.maps.values(), *found.values()])
    if name == 'SuperViT':
        kept += map(weakref.ref, kept_tokens(net, x, OperatingPoint(keep_rate=0.5)).values())
    del seen, y, target, found
    gc.collect()
    assert {ref() for ref in kept} == {None}
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.is_as_built()
    with torch.no_grad():
        assert all(map(torch.equal, before, net(x)))


def test_a_network_is_what_it_was_after_an_image_that_fails() -> None:
    net = network('SuperViT', operating_point=dict(scale=0.5))
    with pytest.raises(ValueError, match='at least 32'):
        attention(net, torch.randn(1, 3, 20, 20), ALL)
    with pytest.raises(ValueError, match='less than one token'):
        kept_tokens(net, torch.randn(1, 3, 64, 64), OperatingPoint(keep_rate=0.01))
    assert net.operating_point == OperatingPoint(scale=0.5)
    assert net.is_as_built()


# ------------------------------------------------------------------------------------ features


def test_colours_are_the_directions_in_which_a_map_differs_most() -> None:
    generator = torch.Generator().manual_seed(0)
    planes = torch.rand(3, 20, 30, generator=generator)
    directions, _ = torch.linalg.qr(torch.randn(8, 3, generator=generator))
    directions *= directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    strengths = torch.tensor([9.0, 3.0, 1.0])
    x = torch.einsum('cd,d,dhw->chw', directions, strengths, planes) + 5
    colours = principal_components(x)
    assert colours.shape == (20, 30, 3)
    assert (colours.min(), colours.max()) == (0, 1)
    for i in range(3):
        seen = torch.corrcoef(torch.stack([colours[..., i].flatten(), planes[i].flatten()]))
        assert seen[0, 1] > 0.97
    assert torch.equal(principal_components(x), colours)


def test_a_map_without_differences_has_no_colours() -> None:
    assert not principal_components(torch.ones(5, 4, 4)).any()
    assert principal_components(torch.rand(2, 4, 4))[..., :2].any()


def test_energy_is_the_length_of_each_position() -> None:
    x = torch.tensor([[[3.0, 0.0]], [[4.0, 2.0]]])
    assert torch.equal(energy(x), torch.tensor([[5.0, 2.0]]))


def test_maps_of_stages_are_those_that_heads_read() -> None:
    net = network('GCViT', out_indices=(1, 3))
    x = torch.randn(1, 3, 75, 110)
    with torch.no_grad(), recording(net, ALL) as seen:
        outputs = net(x)
    assert {stage: tuple(y.shape[2:]) for stage, y in seen.maps.items()} == {
        1: (19, 28),
        2: (10, 14),
        3: (5, 7),
        4: (3, 4),
    }
    assert torch.equal(seen.maps[2], outputs[0])
    assert torch.equal(seen.maps[4], outputs[1])
    assert stages_of(network('SuperViT', out_indices=(1, 2))) == [2, 3]


# ------------------------------------------------------------------------------------ Grad-CAM


def test_an_activation_map_is_the_papers_by_hand() -> None:
    features = torch.tensor([[[1.0, 2.0]], [[4.0, -1.0]]])
    gradient = torch.tensor([[[1.0, 3.0]], [[-1.0, 0.0]]])  # weights 2 and -1/2
    pooled = activation_map(features, gradient, pooled=True)
    assert torch.equal(pooled, torch.tensor([[0.0, 4.5]]))
    own = activation_map(features, gradient, pooled=False)
    assert torch.equal(own, torch.tensor([[0.0, 6.0]]))


def test_a_class_is_explained_by_the_pixels_where_it_is() -> None:
    logits = torch.arange(12.0).view(3, 2, 2).requires_grad_()
    labels = torch.tensor([[0, 2], [2, 0]])
    targets = regions(logits, labels, ['a', 'b', 'c'])
    assert [(t.number, t.name) for t in targets] == [(0, 'a'), (2, 'c')]
    assert [t.values[0].item() for t in targets] == [1.5, 9.5]
    one = regions(logits[:1], torch.tensor([[0, 1], [1, 0]]), ['ground', 'road'])
    assert [(t.number, t.name, t.values[0].item()) for t in one] == [(1, 'road', 1.5)]


def test_the_only_class_of_a_segmentor_is_explained_where_it_is_sure() -> None:
    torch.manual_seed(0)
    features = torch.rand(1, 4, 3, 5, requires_grad=True)
    logits = F.conv2d(features, torch.full((1, 4, 1, 1), 1e4))  # mmseg gives their sigmoid
    (target,) = regions(logits.sigmoid()[0], torch.ones(3, 5, dtype=torch.long), ['no', 'yes'])
    seen = activation_maps(target, {1: features})[1]
    assert torch.allclose(seen, features[0].sum(0) / features[0].sum(0).max(), atol=1e-5)


def test_a_stage_that_a_head_does_not_read_explains_nothing() -> None:
    net = network('CASViT')
    with torch.enable_grad(), recording(net, (1, 2), in_trunk=False) as seen:
        outputs = net(torch.randn(1, 3, 64, 64))
    found = activation_maps(Target(0, '', [outputs[0].sum()]), seen.maps)
    assert found[1].max() == 1
    assert not found[2].any()


def scored(kind: str, logits: Tensor) -> Tensor:
    """What heads of mmdet and mmseg make of logits (N, K): of each row the score of the class 1."""
    scores = {
        'softmax': lambda: torch.softmax(logits, -1),
        'sigmoid': lambda: logits.sigmoid(),
        'of two': lambda: logits.sigmoid() * logits.sigmoid().flip(0),
        'of masks': lambda: torch.bmm(logits.softmax(-1)[None], logits.sigmoid().T[None])[0],
    }[kind]()
    return scores.clamp(max=1)[:, 1]


@pytest.mark.parametrize('kind', ['softmax', 'sigmoid', 'of two', 'of masks'])
def test_scores_that_are_full_are_explained(kind: str) -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 6, 3, 3, requires_grad=True)
    gate = torch.softmax(features.mean((2, 3)), -1)  # attention of the head's, before its layer
    weights = torch.randn(3, 6)
    weights[1] = 3 * features.detach()[0, :, 1, 1]
    logits = F.linear((features * gate[..., None, None]).flatten(2)[0].T, weights) * 9
    shown = {}
    for strength in (1e-3, 1e4):
        score = scored(kind, logits * strength)[4]  # in the middle
        target = Target(1, '', [score], (0, 0, 9, 9), score=True)
        shown[strength] = activation_maps(target, {1: features})[1]
        (after,) = torch.autograd.grad(score, [features], retain_graph=True)
    assert shown[1e4].max() == 1  # although there is no gradient of the score itself
    assert not after.any() or kind == 'of masks'
    if kind in ('softmax', 'sigmoid'):  # one logit, whatever the score is
        assert torch.allclose(shown[1e-3], shown[1e4], atol=1e-5)
        (own,) = torch.autograd.grad(logits[4, 1], [features], retain_graph=True)
        want = activation_map(features.detach()[0], own[0], pooled=False)
        assert torch.allclose(shown[1e4], want / want.max(), atol=1e-5)


def test_the_brightest_place_is_one_that_is_shown() -> None:
    values = torch.rand(1, 2, 4, 6)
    values[..., 4:] = 50  # padding
    values.requires_grad_()
    target = Target(1, '', [values.square().sum()], (0, 0, 9, 9))
    seen = activation_maps(target, {2: values}, lambda stage, seen: seen[:, : 2 * stage])[2]
    assert seen.min() >= 0
    assert seen[:, :4].max() == 1
    assert seen.max() == 1
    assert seen[:, :4].min() > 0  # not all of it is dark beside what nobody sees


def test_other_weights_have_other_explanations() -> None:
    """Sanity Checks for Saliency Maps (Adebayo et al. 2018), on a network of random weights."""
    net = network('SepViT')
    x = torch.randn(1, 3, 96, 96)

    def explained() -> Tensor:
        with torch.enable_grad(), recording(net, (3,), in_trunk=True) as seen:
            (y,) = net(x)[-1].mean((2, 3))
        ranks = activation_maps(Target(0, '', [y[0]], (0, 0, 9, 9)), seen.maps)[3].flatten()
        return ranks.argsort().argsort().double()

    before = explained()
    assert torch.equal(before, explained())
    with torch.no_grad():
        for parameter in net.blocks[3].parameters():
            parameter.copy_(torch.randn_like(parameter) * parameter.std().nan_to_num(1))
    assert torch.corrcoef(torch.stack([before, explained()]))[0, 1] < 0.8


# -------------------------------------------------------------------------------------- tokens


@torch.no_grad()
def test_kept_tokens_are_those_with_the_class_tokens_attention() -> None:
    net = network('SuperViT', arch={**SMALL['SuperViT'], 'depth': 8})
    x = torch.randn(1, 3, 100, 130)  # 7 x 9 patches
    kept = kept_tokens(net, x, OperatingPoint(keep_rate=0.5))
    assert {block: (tuple(y.shape), int(y.sum())) for block, y in kept.items()} == {
        3: ((7, 9), 32),
        6: ((7, 9), 17),
    }
    assert not (kept[6] & ~kept[3]).any()  # dropped for good
    (own,) = (a for a in attention(net, x, ALL) if (a.stage, a.block) == (2, 2))  # block 3
    scores = own.values.mean(0)
    assert scores[kept[3]].min() >= scores[~kept[3]].max()
    smaller = kept_tokens(net, x, OperatingPoint(scale=0.5, keep_rate=0.5))
    assert smaller[3].shape == (3, 4)
    assert net.operating_point == OperatingPoint()


@torch.no_grad()
def test_a_classifier_keeps_the_tokens_that_it_goes_on_with() -> None:
    torch.manual_seed(0)
    net = SuperViTClassifier({**SMALL['SuperViT'], 'depth': 8}, num_classes=3).eval()
    x = torch.randn(1, 3, 100, 130)
    point = OperatingPoint(scale=8 / 14, keep_rate=0.5)
    kept = kept_tokens(net, x, point)
    assert {block: (*y.shape, int(y.sum())) for block, y in kept.items()} == {
        3: (8, 8, 33),
        6: (8, 8, 17),
    }
    _, selections = net.tokens(x, 128, 0.5)
    assert set(selections[0][0, 1:].tolist()) == set(
        (kept[3].flatten().nonzero() + 1)[:, 0].tolist()
    )
    assert net.size == 224
    assert {part.values.shape[1:] for part in attention(net, x, ALL)} == {(14, 14)}


# ------------------------------------------------------------- where an image is in the input


@TRANSFORMS.register_module()
class PadAround:
    """Lets an image stand somewhere in a larger one, as no step of mmdet does in tests."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        results['img'] = np.pad(results['img'], ((20, 10), (30, 0), (0, 0)), constant_values=114)
        results['img_shape'] = results['img'].shape[:2]
        return results


@TRANSFORMS.register_module()
class Darken:
    """Changes pixels by more than a factor."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        results['img'] = (results['img'].astype(float) ** 2 / 255).astype(np.uint8)
        return results


RESIZE = dict(type='mmdet.Resize', scale=(260, 180), keep_ratio=True)
ALL_OF_IT = (0, 0, 130, 90)
# Steps, and what they show of an image of 130 x 90 pixels, where.
PLACES: dict[str, tuple[list[dict[str, Any]], Any]] = {
    'resized': ([RESIZE], (ALL_OF_IT, (0, 0, 260, 180))),
    'padded': ([RESIZE, dict(type='mmdet.Pad', size=(320, 300))], (ALL_OF_IT, (0, 0, 260, 180))),
    'grey padding': (
        [RESIZE, dict(type='mmdet.Pad', size_divisor=64, pad_val=dict(img=(127, 127, 127)))],
        (ALL_OF_IT, (0, 0, 260, 180)),
    ),
    'padded at the left': ([RESIZE, dict(type='PadAround')], (ALL_OF_IT, (30, 20, 290, 200))),
    'to multiples': (
        [RESIZE, dict(type='mmseg.ResizeToMultiple', size_divisor=32)],
        (ALL_OF_IT, (0, 0, 288, 192)),
    ),
    'cropped': (
        [RESIZE, dict(type='CenterCrop', crop_size=(100, 120))],
        ((40, 15, 90, 75), (0, 0, 100, 120)),
    ),
    'normalized': (
        [RESIZE, dict(type='Normalize', mean=[120, 110, 100], std=[58, 57, 56])],
        (ALL_OF_IT, (0, 0, 260, 180)),
    ),
    'turned': ([RESIZE, dict(type='mmdet.RandomFlip', prob=1.0)], None),
    'darkened': ([RESIZE, dict(type='Darken')], None),
}


@pytest.mark.parametrize('case', PLACES)
def test_pipelines_say_where_an_image_goes(case: str) -> None:
    steps, want = PLACES[case]
    ends = dict(type='mmdet.PackDetInputs', meta_keys=())
    got = traced(Compose([dict(type='LoadImageFromFile'), *steps, ends]), (130, 90))
    if want is None:
        assert got is None
        return
    assert got is not None
    assert got.seen == pytest.approx(want[0], abs=0.5)
    assert got.at == pytest.approx(want[1])


def test_what_is_drawn_lies_where_it_is_in_the_image() -> None:
    image = Image.new('RGB', (130, 90))
    place = Place((0, 0, 130, 90), (32, 16, 162, 106))
    view = View.of(image, place, (128, 192))  # cells of 16 pixels
    values = np.zeros((8, 12))
    values[3, 4] = 1  # pixels 64 to 80 and 48 to 64 of the input
    assert view.covered(values).shape == (6, 9)
    assert view.covered(values)[2, 2] == 1
    rows, columns = view.stretched(values, smooth=False).nonzero()
    assert (columns.min() / 2, (columns.max() + 1) / 2) == (32, 48)  # drawn twice as large
    assert (rows.min() / 2, (rows.max() + 1) / 2) == (32, 48)
    assert place.in_input((32, 32, 48, 48)) == [64, 48, 80, 64]
    part = View.of(image, Place((40, 20, 90, 70), (0, 0, 100, 100)), (112, 112))
    assert part.image.size == (100, 100)
    boxed = np.asarray(part.boxed(part.image, (60, 40, 80, 60)))
    rows, columns = boxed.any(2).nonzero()
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (41, 79, 41, 79)


# --------------------------------------------------------------------------------- the command


def save_model(model: dict[str, Any], folder: Path, name: str) -> None:
    config = whole_models.write_config(model, folder / f'{name}.py')
    built = whole_models.build(config)
    if name == 'retina':
        built.bbox_head.retina_cls.bias.data.fill_(-0.5)
    meta = dict(dataset_meta=dict(classes=('red', 'green', 'blue')))
    torch.save(dict(state_dict=built.state_dict(), meta=meta), folder / f'{name}.pth')


TURNED = "dict(type='RandomFlip', prob=1.0)"


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models of random weights and two images."""
    folder = tmp_path_factory.mktemp('explaining')
    retina = whole_models.one_stage('SepViT', out_indices=(1, 2, 3))
    retina['test_cfg'].update(max_per_img=3, score_thr=0.3)
    save_model(retina, folder, 'retina')
    shy = whole_models.one_stage('SHViT')
    shy['bbox_head']['num_classes'] = 3
    save_model(shy, folder, 'shy')
    cascade = whole_models.cascade_mask_rcnn('CASViT')
    cascade['test_cfg']['rcnn'].update(max_per_img=2)
    save_model(cascade, folder, 'cascade')
    upernet = whole_models.segmentor('UPerHead', 'GCViT')
    upernet['test_cfg'] = dict(mode='slide', crop_size=(64, 64), stride=(32, 32))
    save_model(upernet, folder, 'upernet')
    supervit = whole_models.segmentor('FCNHead', 'SuperViT')
    supervit['backbone']['arch']['depth'] = 5
    save_model(supervit, folder, 'supervit')
    generator = np.random.default_rng(0)
    for name, steps in (('padded', "dict(type='Pad', size=(288, 320))"), ('turned', TURNED)):
        (folder / f'{name}.py').write_text(
            "_base_ = 'retina.py'\n"
            'steps = [*_base_.test_dataloader.dataset.pipeline]\n'
            f'steps.insert(-1, {steps})\n'
            'test_dataloader = dict(dataset=dict(pipeline=steps))\n'
        )
        (folder / f'{name}.pth').write_bytes((folder / 'retina.pth').read_bytes())
    for name, size in (('a', (90, 130)), ('b', (60, 50))):
        pixels = generator.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{name}.png')
    (folder / 'broken.png').write_bytes(b'no image')
    return folder


@pytest.fixture
def explain(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command; the names of what it wrote."""
    monkeypatch.chdir(place)

    def run(model: str, *words: str, status: int = 0) -> set[str]:
        command = ['explain', f'{model}.py', f'{model}.pth', *words]
        assert main([*command, '--out-dir', str(tmp_path / 'out'), '--device', 'cpu']) == status
        return {path.name for path in (tmp_path / 'out').glob('*')}

    return run


def test_features_of_every_stage_are_drawn(explain: Any, tmp_path: Path) -> None:
    names = explain('retina', 'a.png', 'b.png', '--what', 'features', '--arrays')
    stems = {f'{image}_features_{stage}' for image in 'ab' for stage in ALL}
    assert names == {f'{stem}{end}' for stem in stems for end in ('.png', '.npy')}
    # 90 x 130 become 160 x 231, which the model pads to 160 x 256: padding is left out.
    assert np.load(tmp_path / 'out/a_features_2.npy').shape == (16, 20, 29)
    with Image.open(tmp_path / 'out/a_features_2.png') as drawing:
        assert drawing.width > 3 * 2 * 130  # image, colours and energy, enlarged


def test_padding_of_the_pipeline_is_left_out_too(
    explain: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain('padded', 'a.png', '--what', 'features', '--arrays', '--stage', '2')
    assert np.load(tmp_path / 'out/a_features_2.npy').shape == (16, 20, 29)
    assert 'nobody can tell' not in capsys.readouterr().err
    explain('turned', 'a.png', '--what', 'features', '--arrays', '--stage', '2')
    assert 'nobody can tell' in capsys.readouterr().err


def test_each_detection_is_explained_in_every_stage(explain: Any, tmp_path: Path) -> None:
    names = explain('retina', 'a.png', '--what', 'gradcam', '--box', '--arrays')
    stems = {f'a_gradcam_{stage}_{number}' for stage in ALL for number in (1, 2, 3)}
    assert names == {f'{stem}{end}' for stem in stems for end in ('.png', '.npy', '_box.npy')}
    values = [np.load(path) for path in sorted((tmp_path / 'out').glob('*_[123].npy'))]
    assert all(value.min() >= 0 and value.max() <= 1 for value in values)
    assert max(value.max() for value in values) == 1


def test_blocks_that_are_computed_twice_change_no_explanation(explain: Any, tmp_path: Path) -> None:
    words = ('a.png', '--what', 'gradcam', '--stage', '2', '3', '--arrays')
    found = []
    for twice in (False, True):
        explain('retina', *words, '--cfg-options', f'model.backbone.with_cp={twice}')
        arrays = {path.name: np.load(path) for path in (tmp_path / 'out').glob('*.npy')}
        found.append(arrays)
    once, twice = found
    assert len(once) == 6
    assert all(np.array_equal(once[name], twice[name]) for name in once)


def test_what_is_no_longer_found_is_no_longer_there(explain: Any, tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/a_gradcam_2_mine.png').write_bytes(b'')
    explain('retina', 'a.png', '--what', 'gradcam', '--stage', '2', '3', '--arrays')
    words = ('a.png', '--what', 'gradcam', '--stage', '3', '--cfg-options')
    names = explain('retina', *words, 'model.test_cfg.max_per_img=1')
    others = {f'a_gradcam_2_{i}{end}' for i in (1, 2, 3) for end in ('.png', '.npy')}
    others.add('a_gradcam_2_mine.png')
    assert names == others | {'a_gradcam_3_1.png'}
    assert explain('retina', *words, 'model.test_cfg.score_thr=2.0', status=1) == others


def test_detections_of_two_and_more_stages_are_explained(explain: Any, tmp_path: Path) -> None:
    names = explain('cascade', 'b.png', '--what', 'gradcam', '--stage', '3', '--box', '--arrays')
    assert {name for name in names if name.endswith('.png')} == {
        'b_gradcam_3_1.png',
        'b_gradcam_3_2.png',
    }
    assert all(np.load(tmp_path / 'out' / n).max() == 1 for n in names if n.endswith('.npy'))


@pytest.mark.parametrize('model', ['retina', 'cascade'])
def test_detections_that_a_model_is_sure_of_are_explained(
    explain: Any, place: Path, tmp_path: Path, model: str
) -> None:
    content = torch.load(place / f'{model}.pth', weights_only=True)
    for name, weights in content['state_dict'].items():
        if 'retina_cls' in name or 'fc_cls' in name:
            weights *= 1e6  # scores are 0 or 1
    torch.save(content, place / f'sure_{model}.pth')
    (place / f'sure_{model}.py').write_text(f"_base_ = '{model}.py'\n")
    explain(f'sure_{model}', 'a.png', '--what', 'gradcam', '--stage', '3', '--arrays')
    maps = [np.load(path) for path in (tmp_path / 'out').glob('*.npy')]
    assert maps
    assert all(values.max() == 1 for values in maps)


def test_names_in_other_scripts_are_drawn(
    explain: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torch.load(place / 'retina.pth', weights_only=True)
    content['meta']['dataset_meta']['classes'] = ('\u7ec6\u80de', '\u0444', 'c')
    torch.save(content, place / 'named.pth')
    (place / 'named.py').write_text("_base_ = 'retina.py'\n")
    titles: list[str] = []

    def seen(panels: Any) -> bytes:
        titles.extend(title for title, _ in panels)
        return b''

    monkeypatch.setattr('vitbackbones.explaining.running.side_by_side', seen)
    explain('named', 'a.png', '--what', 'gradcam', '--stage', '3')
    names = {title.split(': ')[1].rpartition(' ')[0] for title in titles[::2]}
    assert names
    assert names <= {'class 0', '\u0444', 'c'}


def test_each_class_of_a_segmentor_is_explained(
    explain: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = explain('upernet', 'a.png', '--what', 'gradcam', '--stage', '2', '4', '--arrays')
    classes = {int(name.split('_')[3].split('.')[0]) for name in names}
    assert classes
    assert classes <= {0, 1, 2}
    assert names == {
        f'a_gradcam_{stage}_{label}{end}'
        for stage in (2, 4)
        for label in classes
        for end in ('.png', '.npy')
    }
    assert 'explained at once' in capsys.readouterr().err


def test_local_and_global_attention_stand_side_by_side(explain: Any, tmp_path: Path) -> None:
    names = explain('upernet', 'a.png', '--what', 'attention', '--stage', '1', '--arrays')
    assert {name for name in names if name.endswith('.png')} == {'a_attention_1_1.png'}
    assert {name for name in names if name.endswith('.npy')} == {
        'a_attention_1_1_local.npy',
        'a_attention_1_1_global.npy',
    }


def test_gates_of_places_and_channels_are_drawn(explain: Any, tmp_path: Path) -> None:
    names = explain('cascade', 'b.png', '--what', 'attention', '--stage', '4', '--arrays')
    kinds = {name.split('_4_1_')[1] for name in names if '_4_1_' in name}
    of = ('places_query', 'channels_query', 'places_key', 'channels_key')
    assert kinds == {f'{kind}.npy' for kind in of}


def test_tokens_are_drawn_for_each_operating_point_that_drops_some(
    explain: Any, tmp_path: Path
) -> None:
    names = explain('supervit', 'a.png', '--what', 'tokens', '--stage', '3', '--arrays')
    pngs = {name for name in names if name.endswith('.png')}
    assert pngs == {f'a_tokens_3_{number}.png' for number in range(1, 9)}
    first = np.load(tmp_path / 'out/a_tokens_3_1.npy')  # scale 1, keep rate 0.7
    assert first.dtype == bool
    assert first.sum() == np.ceil(0.7 * (first.size + 1))


# Of bad input: the words of a command, and what is said of it.
REFUSED = {
    'stage': (
        ('retina', '--what', 'features', '--stage', '5'),
        '--stage 5: the stages with a map are 1, 2, 3, 4',
    ),
    'no attention there': (
        ('shy', '--what', 'attention', '--stage', '1'),
        '--stage 1: the stages that attend are 2, 3',
    ),
    'tokens': (
        ('retina', '--what', 'tokens'),
        '--what tokens: SepViT has none; choose from features, gradcam, attention',
    ),
    'block': (
        ('supervit', '--what', 'tokens', '--stage', '1'),
        '--stage 1: the blocks that drop tokens are 3',
    ),
    'box': (('upernet', '--what', 'gradcam', '--box'), '--box is for --what gradcam of a detector'),
    'backbone': (
        ('retina', '--what', 'features', '--cfg-options', 'model.backbone.type=ResNet'),
        'model.backbone',
    ),
    'what': (('retina', '--what', 'thoughts'), '--what thoughts: unknown, choose from features'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_bad_requests_are_refused_in_one_sentence(
    explain: Any, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    (model, *words), message = REFUSED[case]
    assert explain(model, 'a.png', *words, status=2) == set()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'vitbackbones explain: {message}')


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(
    explain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ('broken.png', 'nowhere.png', 'b.png', '--what', 'features', '--stage', '4')
    assert explain('retina', *words, status=1) == {'b_features_4.png'}
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith('broken.png: reading fails: ') for line in lines)
    assert 'nowhere.png: there is no such image' in lines


def test_an_image_without_detections_says_so(
    explain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ('--cfg-options', 'model.test_cfg.score_thr=2.0')
    assert explain('retina', 'a.png', '--what', 'gradcam', *words, status=1) == set()
    said = capsys.readouterr().err
    assert 'a.png: the model finds nothing with a score of 0.3 or more, which --threshold' in said
    assert explain('retina', 'a.png', '--what', 'gradcam', '--threshold', '1', status=1) == set()
    assert 'a.png: the model finds nothing with a score of 1 or more' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('model', 'words', 'said'),
    [
        ('retina', ('features', '--threshold', '0.1'), '--threshold is for --what gradcam'),
        ('retina', ('gradcam', '--threshold', '3'), '--threshold 3 must be a score from 0 to 1'),
    ],
)
def test_a_threshold_is_a_score_of_what_has_some(
    explain: Any, capsys: pytest.CaptureFixture[str], model: str, words: Any, said: str
) -> None:
    assert explain(model, 'a.png', '--what', *words, status=2) == set()
    assert said in capsys.readouterr().err


def test_drawings_that_cannot_be_written_end_it_in_one_sentence(
    explain: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'out').write_text('mine')
    explain('retina', 'b.png', '--what', 'features', '--stage', '4', status=2)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith('vitbackbones ')]
    assert line.endswith('out/b_features_4.png cannot be written: File exists')
    assert (tmp_path / 'out').read_text() == 'mine'


def test_images_of_one_name_are_refused(explain: Any, place: Path) -> None:
    (place / 'sub').mkdir(exist_ok=True)
    (place / 'sub/a.png').write_bytes((place / 'a.png').read_bytes())
    assert explain('retina', 'a.png', 'sub/a.png', '--what', 'features', status=2) == set()
