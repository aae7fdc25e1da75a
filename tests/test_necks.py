"""The pyramid of SHViT's detectors: its numerics, its names and what it refuses."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor

from vitbackbones.necks import TransposedConvFPN

IN_CHANNELS = (3, 5, 4)
SIZES = {
    'halves': ((8, 12), (4, 6), (2, 3)),
    'rounded up': ((7, 5), (4, 3), (2, 2)),
    'rounded down': ((7, 9), (3, 4), (1, 2)),
}


def neck(num_trans_convs: int = 2, num_outs: int = 6, out_channels: int = 4) -> TransposedConvFPN:
    built = TransposedConvFPN(IN_CHANNELS, out_channels, num_outs, num_trans_convs)
    built.init_weights()
    return built


def maps(kind: str, batch: int = 2) -> list[Tensor]:
    return [
        torch.randn(batch, dim, *size) for dim, size in zip(IN_CHANNELS, SIZES[kind], strict=True)
    ]


# The same pyramid position by position, from the description of the layers.


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    k = weight.shape[2]
    height, width = x.shape[1:]
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    out = np.empty((len(weight), height, width))
    for i in range(height):
        for j in range(width):
            out[:, i, j] = (weight * x[None, :, i : i + k, j : j + k]).sum((1, 2, 3)) + bias
    return out


def upsample(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Each position becomes a 2 x 2 square, by a matrix per corner; weight is (in, out, 2, 2)."""
    out = np.empty((weight.shape[1], 2 * x.shape[1], 2 * x.shape[2]))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            out[:, i, j] = x[:, i // 2, j // 2] @ weight[:, :, i % 2, j % 2] + bias
    return out


def enlarge(x: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = np.arange(height) * x.shape[1] // height
    columns = np.arange(width) * x.shape[2] // width
    return x[:, rows][:, :, columns]


def pyramid(state: dict[str, Tensor], inputs: list[Tensor], finer: int, outs: int) -> list:
    parts = {name: value.double().numpy() for name, value in state.items()}

    def layer(function, name: str, x: np.ndarray) -> np.ndarray:
        return function(x, parts[f'{name}.weight'], parts[f'{name}.bias'])

    laterals = [
        layer(convolve, f'lateral_convs.{i}.conv', x.double().numpy()) for i, x in enumerate(inputs)
    ]
    for i in (1, 0):
        laterals[i] = laterals[i] + enlarge(laterals[i + 1], *laterals[i].shape[1:])
    outputs = [layer(convolve, f'fpn_convs.{i}.conv', x) for i, x in enumerate(laterals)]
    x = laterals[0]
    for i in range(finer):
        x = layer(upsample, f'extra_trans_convs.{i}', x)
        outputs.insert(0, layer(convolve, f'extra_fpn_convs.{i}.conv', x))
    while len(outputs) < outs:
        outputs.append(outputs[-1][:, ::2, ::2])
    return outputs


@pytest.mark.parametrize('kind', SIZES)
@pytest.mark.parametrize(('finer', 'outs'), [(0, 3), (1, 5), (2, 5), (3, 8)])
def test_outputs_equal_the_formula(kind: str, finer: int, outs: int) -> None:
    built, inputs = neck(finer, outs), maps(kind)
    for name, value in built.named_parameters():
        if name.endswith('bias'):
            torch.nn.init.normal_(value)
    got = built(inputs)
    assert len(got) == outs
    for b in range(2):
        want = pyramid(built.state_dict(), [x[b] for x in inputs], finer, outs)
        for mine, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(mine[b].detach().numpy(), theirs, rtol=0, atol=2e-5)


def test_parameters_have_the_published_names() -> None:
    layers = {name.rpartition('.')[0] for name in neck().state_dict()}
    assert layers == {
        *(f'lateral_convs.{i}.conv' for i in range(3)),
        *(f'fpn_convs.{i}.conv' for i in range(3)),
        *(f'extra_trans_convs.{i}' for i in range(2)),
        *(f'extra_fpn_convs.{i}.conv' for i in range(2)),
    }


# Of levels at 2 finer strides, at those of three maps, and at a coarser one.
@pytest.mark.parametrize(
    ('levels', 'maps_read', 'layers'),
    [
        ((0, 1, 2, 3, 4, 5), 3, 10),
        ((1, 2, 3), 3, 3 + 2 + 2),  # strides 8, 16 and 32 of 16, 32 and 64
        ((0,), 3, 3 + 2 + 1),
        ((3, 4), 2, 2 + 2),
        ((2, 5), 3, 3 + 2),  # pooled from what the last map gives
        ((5,), 1, 1 + 1),
    ],
)
def test_levels_are_chosen_and_nothing_is_built_for_others(
    levels: tuple[int, ...], maps_read: int, layers: int
) -> None:
    every, inputs = neck(), maps('rounded up')
    chosen = TransposedConvFPN(IN_CHANNELS, 4, 6, 2, out_levels=levels)
    names = chosen.state_dict().keys()
    assert len({name.rpartition('.')[0] for name in names}) == layers
    chosen.load_state_dict({name: every.state_dict()[name] for name in names})
    inputs = [x.requires_grad_() for x in inputs]
    want, got = every(inputs), chosen(inputs)
    assert len(got) == len(levels)
    assert all(torch.equal(x, want[i]) for x, i in zip(got, levels, strict=True))
    sum(x.square().sum() for x in got).backward()
    assert all(param.grad is not None for param in chosen.parameters())
    assert [x.grad is not None for x in inputs] == [False] * (3 - maps_read) + [True] * maps_read


@pytest.mark.parametrize('package', ['mmengine', 'vitbackbones', 'mmdet', 'mmseg'])
@pytest.mark.parametrize('name', ['TransposedConvFPN', 'vitbackbones.TransposedConvFPN'])
def test_configs_of_every_package_find_it(package: str, name: str) -> None:
    registry = import_module(f'{package}.registry').MODELS
    options = dict(in_channels=[3, 4], out_channels=2, num_outs=4, num_trans_convs=1)
    assert isinstance(registry.build(dict(type=name, **options)), TransposedConvFPN)
    assert options['in_channels'] == [3, 4]


@pytest.mark.parametrize('kind', SIZES)
def test_every_parameter_and_input_gets_a_gradient(kind: str) -> None:
    built, inputs = neck(), [x.requires_grad_() for x in maps(kind)]
    sum(y.square().sum() for y in built(inputs)).backward()
    for name, value in [
        *built.named_parameters(),
        *((f'map {i}', x) for i, x in enumerate(inputs)),
    ]:
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0, name


def test_convolutions_start_xavier_uniform_and_the_others_as_torch_draws_them() -> None:
    torch.manual_seed(0)
    before = TransposedConvFPN(IN_CHANNELS, 64, 5, 2)
    drawn = {name: value.clone() for name, value in before.named_parameters()}
    before.init_weights()
    for name, value in before.named_parameters():
        if name.startswith('extra_trans_convs'):
            assert torch.equal(value, drawn[name]), name
        elif name.endswith('bias'):
            assert not value.any(), name
        else:
            fan_in, fan_out = (value[0, 0].numel() * value.shape[i] for i in (1, 0))
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.9 * bound < value.abs().max() <= bound, name
            assert abs(value.std() / (bound / 3**0.5) - 1) < 0.15, name


def test_an_initialisation_of_the_config_takes_the_place_of_the_published_one() -> None:
    built = TransposedConvFPN((3,), 4, 1, init_cfg=dict(type='Constant', val=0.5, layer='Conv2d'))
    built.init_weights()
    assert (built.lateral_convs[0].conv.weight == 0.5).all()


def test_bfloat16_stays_near_float32() -> None:
    built, inputs = neck(out_channels=32), maps('rounded up')
    with torch.no_grad():
        want = built(inputs)
        got = built.bfloat16()([x.bfloat16() for x in inputs])
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - theirs).std() < 0.02 * theirs.std()


@pytest.mark.parametrize(
    ('finer', 'outs', 'strides'),
    [
        (0, 3, (16, 32, 64)),
        (1, 5, (8, 16, 32, 64, 128)),  # the published RetinaNet
        (2, 5, (4, 8, 16, 32, 64)),  # the published Mask R-CNN
    ],
)
def test_strides_are_those_of_the_maps(finer: int, outs: int, strides: tuple[int, ...]) -> None:
    image = 128
    inputs = [
        torch.randn(1, dim, image // s, image // s)
        for dim, s in zip(IN_CHANNELS, (16, 32, 64), strict=True)
    ]
    assert [image // y.shape[2] for y in neck(finer, outs)(inputs)] == list(strides)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(in_channels=()), r'in_channels=\(\) must list the channels of each map'),
        (dict(in_channels=256), r'in_channels=256 must list the channels of each map'),
        (dict(in_channels=(3, 0, 4)), r'in_channels=\(3, 0, 4\) must list'),
        (dict(out_channels=0), r'out_channels=0 must be at least 1'),
        (dict(num_trans_convs=-1), r'num_trans_convs=-1 must not be negative'),
        (dict(num_outs=4), r'num_outs=4 must be at least 5: 2 finer levels by num_trans_convs'),
        (dict(out_levels=()), r'out_levels=\(\) must name levels below num_outs=5'),
        (dict(out_levels=(3, 5)), r'out_levels=\(3, 5\) must name levels below num_outs=5'),
        (dict(out_levels=(-1,)), r'out_levels=\(-1,\) must name'),
        (dict(out_levels=[2, 1]), r'out_levels=\[2, 1\] must name .* in rising order'),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    good = dict(in_channels=IN_CHANNELS, out_channels=4, num_outs=5, num_trans_convs=2)
    with pytest.raises(ValueError, match=f'TransposedConvFPN: {message}'):
        TransposedConvFPN(**{**good, **options})


def test_another_number_of_maps_is_refused() -> None:
    with pytest.raises(ValueError, match=r'expected 3 maps, one per entry of .* got 2'):
        neck()(maps('halves')[:2])
