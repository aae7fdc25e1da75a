"""GC ViT against the published network, timm, and plain restatements of its rules."""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from tests import parity, torchvision_stub
from tests.checkpoint_files import resized_table
from tests.reference import refdata
from tests.small import SMALL
from vitbackbones import load_pretrained
from vitbackbones.backbones.gcvit import ARCHS, Block, GCViT, SqueezeExcitation, conv_branch
from vitbackbones.layers import attention, position_bias
from vitbackbones.layers.attention import BIAS_CACHE_ENTRIES
from vitbackbones.layers.conv import residual_sequence
from vitbackbones.layers.door import fast_paths
from vitbackbones.layers.window import Windows

PRETRAINING_WINDOWS = (7, 7, 14, 7)
TABLE = '.relative_position_bias_table'
LARGE = 60_000_000  # parameters


def manifests() -> list[Any]:
    """Every published dense network: all variants, with dense and with pre-training windows."""
    return [
        pytest.param(path.stem, id=path.stem)
        for path in sorted((parity.REFERENCE / 'manifests/gcvit').glob('*_det*.json'))
    ]


def manifest(name: str) -> dict[str, Any]:
    return parity.manifest('gcvit', name)


def goldens() -> list[Any]:
    cases = []
    for path in parity.goldens('gcvit'):
        name = Path(refdata.load_json(path)['manifest']).stem
        large = manifest(name)['params'] > LARGE
        cases.append(pytest.param(path, id=path.stem, marks=[pytest.mark.large] if large else []))
    return cases


def build(manifest_name: str) -> GCViT:
    windows = manifest(manifest_name)['kwargs']['window_size']
    return GCViT(manifest_name.partition('_')[0], window_size=windows)


def build_on_meta(manifest_name: str) -> GCViT:
    with torch.device('meta'):
        return build(manifest_name)


def small(**options: Any) -> GCViT:
    return GCViT(SMALL['GCViT'], **options)


# ---------------------------------------------------------------------- the published network


@pytest.mark.parametrize('path', goldens())
@torch.no_grad()
def test_outputs_equal_the_published_ones(path: Path) -> None:
    golden = refdata.load_json(path)
    name = Path(golden['manifest']).stem
    loaded = 'tensors' if path.stem.endswith('_post') else 'tensors_at_load'
    net = build(name).eval()
    net.load_state_dict(refdata.build_state_dict(manifest(name), key=loaded))
    parity.assert_maps_equal(net, golden)


@pytest.mark.parametrize('path', [pytest.param(case.values[0], id=case.id) for case in goldens()])
def test_resized_tables_equal_the_published_ones(path: Path) -> None:
    golden = refdata.load_json(path)
    name = Path(golden['manifest']).stem
    loaded = 'tensors' if path.stem.endswith('_post') else 'tensors_at_load'
    rows = [row for row in manifest(name)[loaded] if row[0] in golden['tables']]
    tables = build_on_meta(name).adapt_state_dict(refdata.build_state_dict(rows))
    assert tables.keys() == golden['tables'].keys()
    for key, want in golden['tables'].items():
        ok, _, message = refdata.compare_digest(refdata.digest(tables[key]), want, rtol=1e-6)
        assert ok, f'{key}: {message}'


@pytest.mark.parametrize('name', manifests())
def test_parameters_have_the_published_names_and_shapes(name: str) -> None:
    published = {key: tuple(shape) for key, shape, dtype in manifest(name)['tensors']}
    net = build_on_meta(name)
    ours = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert ours == {k: v for k, v in published.items() if not k.endswith('_index')}
    assert sum(p.numel() for p in net.parameters()) == manifest(name)['params']


@pytest.mark.parametrize('name', manifests())
def test_norms_have_the_published_eps(name: str) -> None:
    modules = build_on_meta(name).named_modules()
    assert {k: m.eps for k, m in modules if isinstance(m, nn.LayerNorm)} == manifest(name)[
        'norm_eps'
    ]


@pytest.mark.parametrize('arch', ARCHS)
def test_drop_path_and_layer_scale_are_the_published_ones(arch: str) -> None:
    published = manifest(f'{arch}_det')['kwargs']
    assert ARCHS[arch].drop_path_rate == published['drop_path_rate']
    assert ARCHS[arch].layer_scale == published.get('layer_scale')


# --------------------------------------------------------------------------------------- timm


@pytest.mark.parametrize(
    ('arch', 'filled'),
    [
        ('xxtiny', True),
        # New layer scales nearly hide the blocks behind them; and timm's tiny variants have none.
        ('layer scale', True),
        *((arch, False) for arch in ('xxtiny', 'xtiny', 'tiny', 'small')),
        pytest.param('base', False, marks=pytest.mark.large),
    ],
)
@torch.no_grad()
def test_it_equals_timm_on_a_file_of_timm(arch: str, filled: bool, tmp_path: Path) -> None:
    with torchvision_stub.installed():
        import timm
    if arch == 'layer scale':
        common = {'depths': (2, 3, 2, 2), 'num_heads': (1, 2, 4, 8), 'layer_scale': 1e-5}
        theirs = timm.models.gcvit.GlobalContextVit(embed_dim=32, **common)
        ours = GCViT({'dim': 32, **common}, window_size=PRETRAINING_WINDOWS)
    else:
        theirs = timm.create_model(f'gcvit_{arch}')
        ours = GCViT(arch, window_size=PRETRAINING_WINDOWS)
    if filled:
        rows = [(name, value.shape, 'float32') for name, value in theirs.state_dict().items()]
        theirs.load_state_dict(refdata.build_state_dict(rows))
    torch.save(theirs.state_dict(), tmp_path / 'timm.pth')
    report = load_pretrained(ours, str(tmp_path / 'timm.pth'))
    assert report.description.startswith('timm GC ViT')
    for i in range(3):  # timm norms the last map alone, with the classifier's norm
        setattr(ours, f'norm{i}', nn.Identity())
    ours.norm3 = theirs.stages[3].norm
    x = refdata.input_tensor((1, 3, 224, 224))
    maps = theirs.eval().forward_intermediates(x, intermediates_only=True)
    for got, want in zip(ours.eval()(x), maps, strict=True):
        assert got.shape == want.shape
        assert (got - want).abs().max() / want.std() < 1e-4


# ------------------------------------------------------------------------ windows of other sizes


@pytest.mark.parametrize('load', [nn.Module.load_state_dict, load_state_dict])
def test_a_detector_of_other_windows_loads_with_resized_tables(load: Any) -> None:
    trained = nn.ModuleDict({'backbone': small(window_size=(3, 4, 5, 3)), 'head': nn.Linear(2, 2)})
    windows = (5, 4, 3, 6)
    net = nn.ModuleDict({'backbone': small(window_size=windows), 'head': nn.Linear(2, 2)})
    state = trained.state_dict()
    before = copy.copy(state)
    load(net, state, strict=True)
    for name, value in net.state_dict().items():
        want = before[name]
        if name.endswith(TABLE):
            want = resized_table(want, windows[int(name.split('.')[2])])
        torch.testing.assert_close(value, want)
    assert all(state[name] is value for name, value in before.items())


def test_tables_of_the_same_window_pass_untouched() -> None:
    net = small(window_size=(3, 4, 5, 3))
    state = {name: torch.randn_like(value) for name, value in net.state_dict().items()}
    adapted = net.adapt_state_dict(state)
    assert adapted.keys() == state.keys()
    assert all(adapted[name] is value for name, value in state.items())


def test_tables_of_other_heads_are_refused() -> None:
    other = GCViT({**SMALL['GCViT'], 'num_heads': (2, 2, 4, 8)}, window_size=(3, 4, 5, 3))
    with pytest.raises(
        RuntimeError, match=rf'size mismatch for levels\.0\.blocks\.0\.attn\{TABLE}'
    ):
        small(window_size=(5, 4, 5, 3)).load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    ('window_size', 'pools'),
    [
        ((24, 24, 24, 24), (3, 2, 1, 0)),
        ((7, 7, 14, 7), (3, 2, 0, 0)),
        ((7, 7, 15, 7), (3, 2, 1, 0)),
        ((1, 1, 1, 30), (3, 2, 0, 0)),
    ],
)
def test_pooling_of_the_global_query_depends_on_the_window_alone(
    window_size: tuple[int, ...], pools: tuple[int, ...]
) -> None:
    levels = small(window_size=window_size).levels
    counts = [
        sum(isinstance(m, nn.MaxPool2d) for m in level.q_global_gen.modules()) for level in levels
    ]
    assert tuple(counts) == pools


@pytest.mark.parametrize(
    'window_size', [(7, 7, 7), (7, 7, 0, 7), (7, 7, 7, 7, 7), (7, 7, 7.0, 7), 7, None], ids=str
)
def test_wrong_windows_are_refused(window_size: Any) -> None:
    message = re.escape(f'window_size={window_size} must be 4 positive numbers')
    with pytest.raises(ValueError, match=message):
        small(window_size=window_size)


@pytest.mark.parametrize('dim', [1, 2, 3])
def test_the_narrowest_networks_have_gates_that_follow_the_map(dim: int) -> None:
    gate = SqueezeExcitation(dim)
    x = torch.rand(2, dim, 4, 4) + 1
    one, other = gate(x) / x
    assert not torch.allclose(one, other)


def test_layer_scale_may_be_a_whole_number() -> None:
    net = GCViT({**SMALL['GCViT'], 'layer_scale': 1})
    assert net.levels[0].blocks[0].gamma1.dtype == torch.float32


# ------------------------------------------------------------------------------ masked padding


def block_without_padding(block: Block, x: Tensor, query: Tensor | None) -> Tensor:
    """The block with every window cut off at the edge of the map, one position after another."""
    ws, attn = block.attn.window_size, block.attn
    heads, d = attn.num_heads, x.shape[3] // attn.num_heads
    normed, attended = block.norm1(x), torch.empty_like(x)
    for image, top, left in itertools.product(
        range(x.shape[0]), range(0, x.shape[1], ws), range(0, x.shape[2], ws)
    ):
        window = normed[image, top : top + ws, left : left + ws]  # cut off, not padded
        positions = list(itertools.product(range(window.shape[0]), range(window.shape[1])))
        *q, k, v = attn.qkv(window).unflatten(2, (-1, heads, d)).unbind(2)
        for y, x_ in positions:
            for head in range(heads):
                own = query[image, head, y, x_] if query is not None else q[0][y, x_, head]
                logits = []
                for key_y, key_x in positions:
                    row = (y - key_y + ws - 1) * (2 * ws - 1) + x_ - key_x + ws - 1
                    bias = attn.relative_position_bias_table[row, head]
                    logits.append(own @ k[key_y, key_x, head] * d**-0.5 + bias)
                weights = torch.stack(logits).softmax(0)
                values = torch.stack([v[key_y, key_x, head] for key_y, key_x in positions])
                channels = slice(head * d, (head + 1) * d)
                attended[image, top + y, left + x_, channels] = weights @ values
    x = x + block.gamma1 * attn.proj(attended)
    return x + block.gamma2 * block.mlp(block.norm2(x))


def windows_of(x: Tensor, pad: bool = False) -> Windows:
    return Windows(x.shape[1], x.shape[2], 3, x.device, pad)


def run(block: Block, x: Tensor, query: Tensor | None, pad: bool = False) -> Tensor:
    """The block for a map (B, H, W, C), of which it gets the tokens."""
    return block(x.flatten(1, 2), query, windows_of(x, pad)).view(x.shape)


def random_block(global_query: bool, mask_padding: bool) -> Block:
    block = Block(8, 2, 3, 2, 1.0, 0.0, global_query=global_query, mask_padding=mask_padding)
    for p in block.parameters():
        nn.init.normal_(p, std=0.5)
    return block.eval()


@pytest.mark.parametrize('global_query', [False, True])
@pytest.mark.parametrize('size', [(4, 8), (2, 3), (6, 5), (3, 6)])
@torch.no_grad()
def test_masked_padding_equals_windows_cut_off_at_the_edge(
    global_query: bool, size: tuple[int, int]
) -> None:
    block = random_block(global_query, mask_padding=True)
    x = torch.randn(2, *size, 8)
    query = torch.randn(2, 2, 3, 3, 4)  # a level's query is there for its local blocks too
    want = block_without_padding(block, x, query if global_query else None)
    torch.testing.assert_close(run(block, x, query), want)


@pytest.mark.parametrize('global_query', [False, True])
@torch.no_grad()
def test_unmasked_padding_takes_part(global_query: bool) -> None:
    block = random_block(global_query, mask_padding=False)
    x, query = torch.randn(1, 4, 8, 8), torch.randn(1, 2, 3, 3, 4)
    want = block_without_padding(block, x, query if global_query else None)
    whole = run(block, x, query)
    torch.testing.assert_close(whole[:, :3, :6], want[:, :3, :6])  # windows inside the map
    assert (whole[:, 3:] - want[:, 3:]).abs().max() > 1e-2


@pytest.mark.parametrize('mask_padding', [False, True])
@torch.no_grad()
def test_bfloat16_stays_close_where_windows_hold_mostly_padding(mask_padding: bool) -> None:
    net = GCViT('xxtiny', mask_padding=mask_padding).eval()
    x = torch.randn(1, 3, 64, 100)
    want = net(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = net(x)
    for one, other in zip(got, want, strict=True):
        assert (one.float() - other).norm() / other.norm() < 3e-2


def test_the_mask_reaches_every_block() -> None:
    blocks = [m for m in small(mask_padding=True).modules() if isinstance(m, Block)]
    assert len(blocks) == sum(SMALL['GCViT']['depths'])
    assert all(block.attn.mask_padding for block in blocks)


@pytest.mark.parametrize('global_query', [False, True])
@pytest.mark.parametrize('size', [(4, 8), (2, 3), (6, 5)])
@torch.no_grad()
def test_one_key_for_all_padding_equals_padded_windows(
    global_query: bool, size: tuple[int, int]
) -> None:
    block = random_block(global_query, mask_padding=False)
    x, query = torch.randn(2, *size, 8), torch.randn(2, 2, 3, 3, 4)
    padded = run(block, x, query, pad=True)
    torch.testing.assert_close(run(block, x, query), padded)


# ----------------------------------------------------------------------------- cached biases


@pytest.mark.parametrize('size', [(3, 3), (3, 1), (2, 3), (1, 1), (2, 2)])
def test_biases_slid_equal_those_gathered(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 5, 5)
    want = torch.empty(2, *size, *size)
    for row, column, key_row, key_column in itertools.product(*map(range, size * 2)):
        bias = maps[:, row - key_row + 2, column - key_column + 2]
        want[:, row, column, key_row, key_column] = bias
    for biases in (position_bias.slid, position_bias.gathered):
        assert torch.equal(biases(maps, *size), want.flatten(3).flatten(1, 2))


def cached(block: Block) -> int:
    return len(attention._cache[block.attn.relative_position_bias_table])


@torch.no_grad()
def test_cached_biases_follow_every_change_of_their_table() -> None:
    block = random_block(False, mask_padding=False)
    x = torch.randn(1, 4, 8, 8)
    table = block.attn.relative_position_bias_table
    with fast_paths(True):
        before = run(block, x.clone(), None)
        table.data.add_(1 + torch.randn_like(table))  # as EMA hooks write: no version is counted
        changed = run(block, x.clone(), None)
    torch.testing.assert_close(changed, run(block, x, None))
    assert not torch.allclose(before, changed, atol=1e-3)


@torch.no_grad()
def test_cached_biases_are_bounded_and_dropped_where_they_are_not_used(monkeypatch) -> None:
    block = random_block(False, mask_padding=False)
    with fast_paths(True):
        for size in itertools.product(range(1, 8), range(1, 8)):
            x = torch.randn(1, *size, 8)
            run(block, x, None)
            assert 0 < cached(block) <= BIAS_CACHE_ENTRIES
    run(block, x, None)
    assert cached(block) == 0
    monkeypatch.setattr(attention, 'BIAS_CACHE_MAX_ELEMENTS', 0)
    with fast_paths(True):
        run(block, x, None)
    assert cached(block) == 0


# ------------------------------------------------------------------------------------ the parts


def test_a_level_of_local_blocks_alone_has_no_query_generator() -> None:
    net = GCViT({**SMALL['GCViT'], 'depths': (1, 2, 1, 2)}, window_size=(3, 3, 3, 3))
    assert [level.q_global_gen is None for level in net.levels] == [True, False, True, False]
    sum(m.sum() for m in net(torch.randn(1, 3, 40, 48))).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_the_last_level_does_not_downsample() -> None:
    for last in range(4):
        levels = small(out_indices=(last,)).levels
        assert [level.downsample is None for level in levels] == [False] * last + [True]


def test_a_downsampler_freezes_with_the_stage_that_reads_it() -> None:
    net = small(frozen_stages=1)
    trainable = {name for name, p in net.named_parameters() if p.requires_grad}
    assert not any(name.startswith(('patch_embed', 'norm0', 'levels.0.b')) for name in trainable)
    assert 'levels.0.downsample.reduction.weight' in trainable


def test_new_tables_are_drawn_with_a_small_deviation() -> None:
    tables = [p for name, p in GCViT('xxtiny').named_parameters() if name.endswith(TABLE)]
    assert len(tables) == 12
    for table in tables:
        assert table.std().item() == pytest.approx(0.02, rel=0.1)


# ------------------------------------------------------------------------- layers and weight decay


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_every_parameter_has_the_layer_that_forward_reaches_it_in(prefix: str) -> None:
    net = small()  # depths 2, 3, 2, 2: layers 1-2, 3-5, 6-7, 8-9
    first = (1, 3, 6, 8)
    want = {'patch_embed.': 0} | {f'norm{i}.': 10 for i in range(4)}
    for i, depth in enumerate((2, 3, 2, 2)):
        want[f'levels.{i}.q_global_gen.'] = first[i]
        want |= {f'levels.{i}.blocks.{j}.': first[i] + j for j in range(depth)}
        if i < 3:
            want[f'levels.{i}.downsample.'] = first[i + 1]
    for name, _ in net.named_parameters():
        layers = [layer for part, layer in want.items() if name.startswith(part)]
        assert [net.get_layer_depth(prefix + name, prefix)] == [(layer, 11) for layer in layers]


def test_layers_count_only_what_is_built() -> None:
    net = small(out_indices=(0, 1))
    depths = {net.get_layer_depth(name) for name, _ in net.named_parameters()}
    assert depths == {(layer, 7) for layer in range(7)}


def test_a_parameter_of_another_module_is_in_the_last_layer() -> None:
    assert small().get_layer_depth('neck.conv.weight', 'backbone.') == (10, 11)


def test_tables_and_layer_scales_do_not_decay() -> None:
    net = small()
    want = {
        f'levels.{i}.blocks.{j}.{part}'
        for i, depth in enumerate((2, 3, 2, 2))
        for j in range(depth)
        for part in ('attn' + TABLE, 'gamma1', 'gamma2')
    }
    assert net.no_weight_decay() == want
    assert want < dict(net.named_parameters()).keys()


@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize('batch', [1, 2])
@torch.no_grad()
def test_a_residual_convolution_leaves_its_input_alone(
    batch: int, memory_format: torch.memory_format
) -> None:
    branch = conv_branch(8)
    x = torch.randn(batch, 8, 5, 7).contiguous(memory_format=memory_format)
    before, want = x.clone(), x + branch(x)
    for allowed in (False, True):
        with fast_paths(allowed):
            torch.testing.assert_close(residual_sequence(x, branch), want)
        assert torch.equal(x, before)


@pytest.mark.parametrize('size', [(7, 3), (3, 4), (8, 2), (4, 8), (3, 3)])
def test_only_windows_side_by_side_change_the_order_of_pixels(size: tuple[int, int]) -> None:
    windows, x = windows_of(torch.empty(1, *size, 2)), torch.randn(1, size[0] * size[1], 2)
    assert torch.equal(windows.split(x), x) == (size[1] <= 3)
    assert torch.equal(windows.merge(windows.split(x)), x)
