"""SuperViT: the classifier against published numbers, the dense network against the classifier."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests import parity
from tests.reference import refdata
from tests.small import SMALL
from vitbackbones import create
from vitbackbones.backbones import SuperViT
from vitbackbones.backbones.supervit import SuperViTClassifier, select_tokens
from vitbackbones.classifiers import Classifier

GOLDEN = parity.goldens('supervit', '*.json')


def manifest(arch: str) -> dict:
    return parity.manifest('supervit', f'{arch}_cls')


@functools.lru_cache(maxsize=1)
def published(arch: str) -> Classifier:
    """With the reference weights; loading is strict, so every name is the published one."""
    classifier = create(f'supervit_{arch}', num_classes=1000).eval()
    classifier.backbone.load_state_dict(refdata.build_state_dict(manifest(arch)))
    return classifier


def at(net: SuperViTClassifier, size: int, keep_rate: float) -> SuperViTClassifier:
    net.size, net.keep_rate = size, keep_rate
    return net


def small(**options: object) -> SuperViT:
    return SuperViT(SMALL['SuperViT'], **options)


def image(*size: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, *size)


# ----------------------------------------------------------------------- the classifier


def test_the_golden_files_cover_all_operating_points() -> None:
    points = {tuple(refdata.load_json(p)['call'].values()) for p in GOLDEN}
    assert points == set(itertools.product((128, 160, 192, 224), (0.5, 0.7, 1.0)))
    assert len(GOLDEN) == 46


@pytest.mark.parametrize('path', GOLDEN, ids=lambda path: path.stem)
def test_logits_choices_and_tokens_equal_the_published_ones(path: Path) -> None:
    golden = refdata.load_json(path)
    classifier = published(path.name.partition('_cls')[0])
    net = classifier.backbone
    x = refdata.input_tensor(**golden['input'])
    size, keep_rate = golden['call']['img_size'], golden['call']['keep_ratio']
    with torch.no_grad():
        at(net, size, keep_rate)
        logits = classifier(x)
        tokens, selections = net.tokens(x, size, keep_rate)
    assert [kept.tolist() for kept in selections] == golden['kept_positions']
    assert len(selections) == len(golden['dropping_layers'])

    origin = torch.arange(1 + (size // 16) ** 2).repeat(len(x), 1)  # (B, N), class token 0
    for kept, want in zip(selections, golden['kept_patches'], strict=True):
        origin = origin.gather(1, kept)
        assert (origin[:, 1:] - 1).tolist() == want
    order = origin.argsort(dim=1)[..., None].expand_as(tokens)
    parity.assert_equal((logits, tokens, tokens.gather(1, order)), golden['outputs'])


@pytest.mark.parametrize('arch', SuperViT.archs)
def test_parameters_and_norm_eps_of_the_classifier_are_the_published_ones(arch: str) -> None:
    with torch.device('meta'):
        net = SuperViTClassifier(arch)
    want = manifest(arch)
    assert sum(p.numel() for p in net.parameters()) == want['params']
    norms = {n: m.eps for n, m in net.named_modules() if isinstance(m, nn.LayerNorm)}
    assert norms == {n: eps for n, eps in want['norm_eps'].items() if '.bn' not in n}
    batch_norms = {n: m.eps for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert batch_norms == {n: eps for n, eps in want['norm_eps'].items() if '.bn' in n}


def test_selection_keeps_the_class_token_first_and_the_best_by_falling_score() -> None:
    scores = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.9, 0.0, 0.5, 0.7]])
    assert select_tokens(scores, 0.5).tolist() == [[0, 2, 4, 3], [0, 1, 4, 3]]  # ceil(0.5 * 5)
    assert select_tokens(scores, 0.999).tolist() == [[0, 2, 4, 3, 1], [0, 1, 4, 3, 2]]


@pytest.mark.parametrize(
    ('size', 'keep_rate', 'message'),
    [(200, 1.0, r'size=200 must be one of \[128'), (128, 0.0, 'keep_rate=0.0 must be in')],
)
def test_the_classifier_refuses_other_operating_points(size, keep_rate, message) -> None:
    net = SuperViTClassifier(SMALL['SuperViT'], num_classes=3)
    with pytest.raises(ValueError, match=message):
        at(net, size, keep_rate)(image(32, 32))


@pytest.mark.parametrize(('size', 'keep_rate'), [(128, 1.0), (192, 0.5)])
def test_every_parameter_of_the_classifier_gets_a_gradient(size: int, keep_rate: float) -> None:
    net = SuperViTClassifier({**SMALL['SuperViT'], 'aux_weight': 0.25}, num_classes=3)
    at(net, size, keep_rate)(image(64, 64, batch=2))[0].sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


# -------------------------------------------------------------------- the dense network


@pytest.mark.parametrize('arch', SuperViT.archs)
def test_dense_tokens_at_a_trained_grid_are_those_of_the_classifier(arch: str) -> None:
    classifier = published(arch).backbone
    last = len(classifier.blocks) - 1
    dense = SuperViT(arch, taps=(last,), out_indices=(2,)).eval()
    missing, unexpected = dense.load_state_dict(classifier.state_dict(), strict=False)
    assert not missing
    assert {name.partition('.')[0] for name in unexpected} <= {'head', 'aux_head'}
    x = refdata.input_tensor((2, 3, 224, 224))
    with torch.no_grad():
        tokens, _ = classifier.tokens(x, 224, 1.0)
        (got,) = dense(x)
    torch.testing.assert_close(got, tokens[:, 1:].transpose(1, 2).reshape(2, -1, 14, 14))


def test_default_taps_are_the_ends_of_the_quarters() -> None:
    with torch.device('meta'):
        assert SuperViT('deit_s').taps == (2, 5, 8, 11)
        assert SuperViT('lvvit_s').taps == (3, 7, 11, 15)
        assert SuperViT('deit_s', out_indices=(1, 3)).taps == (5, 11)
    for depth in (1, 2, 3):
        net = SuperViT({**SMALL['SuperViT'], 'depth': depth})
        assert max(net.taps) == depth - 1
        assert len(net(image(32, 32))) == 4


def test_maps_are_the_normed_tokens_after_their_blocks() -> None:
    net = small(taps=(0, 3), out_indices=(2, 3)).eval()
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    first, second = net(image(48, 64))
    want = [net.norm(seen[i])[:, 1:].transpose(1, 2).reshape(1, -1, 3, 4) for i in (0, 3)]
    torch.testing.assert_close(first, want[0])
    torch.testing.assert_close(second, F.max_pool2d(want[1], 2, ceil_mode=True))


def test_blocks_after_the_last_tap_and_unlisted_levels_are_not_built() -> None:
    net = small(taps=(2,), out_indices=(0, 2))
    assert len(net.blocks) == 3
    assert list(net.pyramid) == ['0', '2']
    state = small().state_dict()
    unbuilt = {name for name in state if name.startswith(('blocks.3.', 'blocks.4.'))}
    assert set(state) - set(net.adapt_state_dict(state)) == unbuilt != set()


@pytest.mark.parametrize(
    'taps', [(), (1, 2), (0, 1, 2, 5), (-1,), (0, 1, 2, 3, 4), (0.0,), ('0',), 4], ids=str
)
def test_wrong_taps_are_refused_with_the_choices(taps: Any) -> None:
    with pytest.raises(ValueError, match=r'taps=.* must be one block, or one per .* 0\.\.4'):
        small(taps=taps)


def test_padding_is_zeros_at_the_right_and_bottom_and_cropped() -> None:
    net = small().eval()
    x = image(37, 50)
    padded = net(F.pad(x, (0, 14, 0, 11)))
    for got, want in zip(net(x), padded, strict=True):
        assert torch.equal(got, want[:, :, : got.shape[2], : got.shape[3]])


@pytest.mark.parametrize('size', [128, 160, 192, 224])
def test_a_trained_grid_takes_its_own_position_table(size: int) -> None:
    net = small()
    side = size // 16
    got = net.pos_embed_list(side, side)
    assert torch.equal(got, net.pos_embed_list.tables[(side - 8) // 2])


@pytest.mark.parametrize(
    ('grid', 'index'),
    # 82, 122 and 170 patches lie halfway between two tables.
    [((2, 3), 0), ((9, 9), 0), ((2, 41), 1), ((2, 61), 2), ((10, 17), 3), ((40, 30), 3)],
    ids=str,
)
def test_other_grids_take_the_nearest_table_resized(grid: tuple[int, int], index: int) -> None:
    net = small()
    table, side = net.pos_embed_list.tables[index], (8, 10, 12, 14)[index]
    with torch.no_grad():
        got = net.pos_embed_list(*grid)
        want = F.interpolate(
            table[0, 1:].t().reshape(1, -1, side, side), grid, mode='bicubic', align_corners=False
        )
    assert torch.equal(got[:, 0], table[:, 0])
    torch.testing.assert_close(got[0, 1:].t().reshape(want.shape), want)


@pytest.mark.parametrize('taps', [(0,), (4,), (0, 0, 1, 3)], ids=str)
def test_every_parameter_gets_a_gradient_whatever_is_tapped(taps: tuple[int, ...]) -> None:
    net = small(taps=taps, drop_path_rate=0.0)
    sum(x.sum() for x in net(image(33, 40, batch=2))).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_tables_that_a_pass_does_not_read_get_a_zero_gradient() -> None:
    net = small(drop_path_rate=0.0)
    sum(x.square().sum() for x in net(image(160, 160))).backward()
    used = [bool(table.grad.any()) for table in net.pos_embed_list.tables]
    assert used == [False, True, False, False]


def test_frozen_stages_freeze_the_class_token_and_the_tables_with_the_stem() -> None:
    for frozen, blocks in enumerate((0, 2, 3, 4, 5)):
        net = small(frozen_stages=frozen).train()
        trainable = {name for name, p in net.named_parameters() if p.requires_grad}
        tops = {name.partition('.')[0] for name in trainable}
        assert tops == ({'blocks', 'norm', 'pyramid'} if frozen < 4 else {'pyramid'})
        left = {int(name.split('.')[1]) for name in trainable if name.startswith('blocks.')}
        assert left == set(range(blocks, 5))


def test_residual_branches_are_scaled_as_the_variant_says() -> None:
    block = small(drop_path_rate=0.0).blocks[0]
    x = torch.randn(1, 7, 16)
    y = x + block.attn(block.norm1(x))[0] / 2
    torch.testing.assert_close(block(x)[0], y + block.mlp(block.norm2(y)) / 2)


def test_the_layer_of_a_parameter_is_that_of_its_block() -> None:
    net = small()  # the stem, 5 blocks, the final norm with the pyramid
    assert net.get_layer_depth('pos_embed_list.2') == net.get_layer_depth('cls_token') == (0, 7)
    assert net.get_layer_depth('blocks.3.attn.qkv.weight') == (4, 7)
    assert net.get_layer_depth('norm.weight') == net.get_layer_depth('pyramid.0.0.bias') == (6, 7)


def test_class_token_and_position_tables_do_not_decay() -> None:
    net = small()
    names = net.no_weight_decay()
    assert names == {'cls_token', *(f'pos_embed_list.{i}' for i in range(4))}


@pytest.mark.parametrize(
    ('field', 'message'),
    [({'num_heads': 3}, 'dim=16 must be a multiple of num_heads=3'), ({'depth': 0}, 'depth=0')],
    ids=['num_heads', 'depth'],
)
def test_wrong_arch_fields_are_refused(field: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SuperViT({**SMALL['SuperViT'], **field})
