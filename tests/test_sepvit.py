"""SepViT against the numbers of the published dense network, and what is its own."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import parity
from tests.reference import refdata
from tests.small import SMALL
from vitbackbones.backbones import SepViT
from vitbackbones.backbones.sepvit import Block
from vitbackbones.layers import fast
from vitbackbones.layers.door import fast_paths
from vitbackbones.layers.window import TokenWindows, invert, window_groups

GOLDEN = parity.goldens('sepvit')
UNUSED = ('norm.', 'head.')  # the classifier that the published dense network carries along


def manifest(arch: str) -> dict:
    return parity.manifest('sepvit', f'{arch}_det')


@functools.lru_cache(maxsize=1)
def published(arch: str) -> SepViT:
    """The network with the reference weights; loading is strict, so every name is the published."""
    state = refdata.build_state_dict(manifest(arch))
    net = SepViT(arch).eval()
    net.load_state_dict({k: v for k, v in state.items() if not k.startswith(UNUSED)})
    return net


def small(**options: object) -> SepViT:
    return SepViT(SMALL['SepViT'], **options)


def test_all_dense_golden_files_are_there() -> None:
    assert len(GOLDEN) == 6


@pytest.mark.parametrize('path', GOLDEN, ids=lambda path: path.stem)
@torch.no_grad()
def test_maps_equal_the_published_ones(path: Path) -> None:
    parity.assert_maps_equal(published(path.name.partition('_')[0]), refdata.load_json(path))


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base'])
def test_parameters_and_norm_eps_are_the_published_ones(arch: str) -> None:
    with torch.device('meta'):
        net = SepViT(arch)
    want = manifest(arch)
    unused = sum(torch.Size(s).numel() for n, s, _ in want['tensors'] if n.startswith(UNUSED))
    assert sum(p.numel() for p in net.parameters()) == want['params'] - unused
    norms = {n: m.eps for n, m in net.named_modules() if isinstance(m, nn.LayerNorm)}
    assert norms == {name: eps for name, eps in want['norm_eps'].items() if name != 'norm'}


def test_the_lite_classifier_s_trunk_has_the_published_shapes() -> None:
    """No dense lite was published: what its classifier shares is compared instead."""
    rows = parity.manifest('sepvit', 'lite_cls')['tensors']
    with torch.device('meta'):
        state = SepViT('lite').state_dict()
    for name, shape, _ in rows:
        if not name.startswith(UNUSED) and not name.endswith('win_tokens'):
            assert list(state[name].shape) == shape, name


def test_learnable_tokens_serve_any_number_of_windows() -> None:
    net = small(window_token='learnable').eval()
    tokens = [p for n, p in net.named_parameters() if n.endswith('win_token')]
    assert [tuple(p.shape) for p in tokens] == [(8,), (16,), (16,), (24,), (24,), (32,)]
    net(torch.randn(1, 3, 32, 50)), net(torch.randn(1, 3, 160, 65))


def test_learnable_tokens_start_at_the_published_zeros_and_matter_once_learned() -> None:
    zero, learnable = small().eval(), small(window_token='learnable').eval()
    missing, unexpected = learnable.load_state_dict(zero.state_dict(), strict=False)
    assert all(name.endswith('win_token') for name in missing)
    assert unexpected == []
    x = torch.randn(1, 3, 64, 96)
    for one, other in zip(zero(x), learnable(x), strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        learnable.blocks[0][0].win_token.normal_()
    assert not torch.allclose(zero(x)[0], learnable(x)[0], atol=1e-3)


def test_window_token_names_its_choices() -> None:
    with pytest.raises(ValueError, match="unknown window_token 'one', choose from 'zero', 'learn"):
        small(window_token='one')


def test_an_arch_lists_one_window_per_block() -> None:
    with pytest.raises(ValueError, match='one size per block'):
        SepViT({**SMALL['SepViT'], 'window_sizes': ((3,), (3,), (3, 4), (3,))})
    with pytest.raises(ValueError, match=r'window_sizes=\(3, 3, 3, 3\) must list one size per'):
        SepViT({**SMALL['SepViT'], 'window_sizes': (3, 3, 3, 3)})
    with pytest.raises(ValueError, match='one entry per stage'):
        SepViT({**SMALL['SepViT'], 'dims': (8, 16, 24)})
    with pytest.raises(ValueError, match='must be multiples of num_heads'):
        SepViT({**SMALL['SepViT'], 'num_heads': (3, 2, 3, 4)})


# ------------------------------------------------------------------------------ padding


WINDOW = 4


def block(own_token: str = 'padding') -> Block:
    torch.manual_seed(3)
    result = Block(8, 2, 2, 0.0, own_token, num_windows=4)
    for p in result.parameters():
        nn.init.normal_(p, std=0.3)
    return result.eval()


def run(
    layer: Block, x: torch.Tensor, mask_padding: bool = False, pad: bool = False
) -> torch.Tensor:
    """A block for a map (B, H, W, C), of which it gets the tokens."""
    place = (*x.shape[1:3], WINDOW, layer.attn.num_heads, x.device)
    windows = TokenWindows(*place, own=layer.own_token, mask_padding=mask_padding, pad=pad)
    return layer(x.flatten(1, 2), windows).view(x.shape)


def attend_plainly(layer: Block, x: torch.Tensor) -> torch.Tensor:
    """The attention branch over the positions that exist, one head, window and position at a time.

    ``x`` is one map, (H, W, C). Nothing is padded: windows at the border are simply smaller.
    """
    ws, attn = WINDOW, layer.attn
    height, width, dim = x.shape
    d = dim // attn.num_heads
    token = layer.norm1(torch.zeros(dim))
    windows = {
        (i, j): layer.norm1(x[i : i + ws, j : j + ws])
        for i in range(0, height, ws)
        for j in range(0, width, ws)
    }
    mixed, tokens = {}, []
    for place, pixels in windows.items():
        sequence = torch.cat([token[None], pixels.flatten(0, 1)])  # (T, C)
        q, k, v = attn.DSA_qkv(sequence).unflatten(1, (3, attn.num_heads, d)).permute(1, 2, 0, 3)
        y = ((q @ k.mT) * d**-0.5).softmax(-1) @ v  # (heads, T, d)
        sequence = sequence + y.transpose(0, 1).flatten(1)
        tokens.append(sequence[0])
        mixed[place] = sequence[1:].unflatten(0, pixels.shape[:2])
    t = nn.functional.gelu(attn.win_tokens_norm(torch.stack(tokens)))  # (Nw, C)
    q, k = attn.PSA_qk(t).unflatten(1, (2, attn.num_heads, d)).permute(1, 2, 0, 3)
    logits = (q @ k.mT) * d**-0.5  # (heads, Nw, Nw)
    out = torch.zeros_like(x)
    for n, (place, pixels) in enumerate(mixed.items()):
        for row in range(pixels.shape[0]):
            for col in range(pixels.shape[1]):
                there = [
                    m
                    for m, other in enumerate(mixed.values())
                    if row < other.shape[0] and col < other.shape[1]
                ]
                values = [list(mixed.values())[m][row, col].view(-1, d) for m in there]
                weights = logits[:, n, there].softmax(-1)  # (heads, windows that have the position)
                y = torch.einsum('hm,mhd->hd', weights, torch.stack(values)).flatten()
                out[place[0] + row, place[1] + col] = pixels[row, col] + y
    return attn.proj(out)


@pytest.mark.parametrize('size', [(5, 7), (8, 4), (3, 9)])
@torch.no_grad()
def test_masked_padding_equals_attention_over_the_positions_that_exist(size) -> None:
    layer = block()
    x = torch.randn(2, *size, 8)
    want = torch.stack([attend_plainly(layer, one) for one in x]) + x
    want = want + layer.mlp(layer.norm2(want))
    torch.testing.assert_close(run(layer, x, mask_padding=True), want, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_takes_part_as_published_unless_masked() -> None:
    x = torch.randn(1, 5, 7, 8)
    assert not torch.allclose(run(block(), x, mask_padding=True), run(block(), x), atol=1e-3)
    whole = torch.randn(1, 8, 12, 8)
    assert torch.equal(run(block(), whole, mask_padding=True), run(block(), whole))


@pytest.mark.parametrize('own_token', ['padding', 'shared', 'each', 'none'])
@pytest.mark.parametrize('size', [(5, 7), (8, 4), (3, 9)])
@torch.no_grad()
def test_one_token_for_all_padding_equals_padded_windows(size, own_token: str) -> None:
    x, layer = torch.randn(2, *size, 8), block(own_token)
    torch.testing.assert_close(run(layer, x), run(layer, x, pad=True), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_windows_of_the_classifier_have_their_own_tokens_in_row_major_order() -> None:
    layer, x = block('each'), torch.randn(1, 5, 7, 8)  # 2 x 2 windows, three of them cut off
    before = run(layer, x)
    layer.attn.exchanges = False  # then a window's token reaches its own pixels alone
    alone = run(layer, x)
    assert not torch.allclose(before, alone, atol=1e-3)
    for number, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        layer = block('each')
        layer.attn.exchanges = False
        layer.win_token[:, number] = layer.win_token[:, number].flip(-1)
        changed = (run(layer, x) - alone).abs().amax((0, 3)) > 1e-4
        want = torch.zeros_like(changed)
        want[row : row + 4, column : column + 4] = True
        assert torch.equal(changed, want)


@pytest.mark.parametrize('chunk', [1, 24, 40, 1536])
@torch.no_grad()
def test_windows_in_chunks_equal_all_at_once(chunk: int, monkeypatch) -> None:
    layer, x = block(), torch.randn(2, 10, 11, 8)
    whole = run(layer, x)
    monkeypatch.setattr(fast, 'WINDOW_CHUNK', chunk)
    with fast_paths(True):
        torch.testing.assert_close(run(layer, x.clone()), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('pad', 'shapes'), [(False, [(1, 3, 3), (1, 3, 2), (1, 1, 3), (1, 1, 2)]), (True, [(4, 3, 3)])]
)
def test_windows_hold_every_pixel_once(pad: bool, shapes: list[tuple[int, int, int]]) -> None:
    groups = window_groups(4, 5, 3, torch.device('cpu'), pad)
    assert [tuple(group.shape) for group in groups] == shapes
    assert groups[0][0].tolist() == [[0, 1, 2], [5, 6, 7], [10, 11, 12]]
    order = torch.cat([group.flatten() for group in groups])
    assert torch.equal(order[invert(order, 20)], torch.arange(20))
    assert set(order[order >= 20].tolist()) == ({20} if pad else set())
