"""SuperViT at any scale and keep rate: what is computed, what it costs, what it may be used in."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.reference import refdata
from tests.small import SMALL
from vitbackbones.backbones import SuperViT, supervit
from vitbackbones.backbones.operating_point import OperatingPoint
from vitbackbones.errors import UserError
from vitbackbones.launch.checks import build_backbone
from vitbackbones.launch.loading import load_config

REFERENCE = Path(refdata.__file__).parent
GOLDEN = sorted((REFERENCE / 'golden/supervit').glob('*.json'))

# Deep enough for all three choices of tokens, and one more block behind the last.
ARCHS = {
    'plain': {
        'dim': 16,
        'depth': 11,
        'num_heads': 2,
        'mlp_ratio': 2,
        'qkv_bias': True,
        'norm_eps': 1e-6,
    },
    'stem': {**SMALL['SuperViT'], 'depth': 11},
}
POINTS = [
    {'keep_rate': 0.5},
    {'scale': 8 / 14},
    {'scale': 10 / 14, 'keep_rate': 0.7},
    {'scale': 0.3, 'keep_rate': 0.5},
]
every_point = pytest.mark.parametrize('point', POINTS, ids=str)
every_arch = pytest.mark.parametrize('arch', ARCHS)


def small(arch: str = 'plain', **options: Any) -> SuperViT:
    """A network in which tokens differ: with the usual small weights all scores are nearly one."""
    net = SuperViT(ARCHS[arch], **options)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim > 1 and not name.startswith('pyramid'):
                value.normal_(std=value[0].numel() ** -0.5 if value.ndim < 3 else 1)
    return net.eval()


def image(*size: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size)


def choices(net: SuperViT) -> list[Tensor]:
    """What the blocks choose from now on, a (B, 1 + k) tensor each time one does."""
    found: list[Tensor] = []

    def watch(module: nn.Module, args: Any, output: tuple[Tensor, Tensor | None]) -> None:
        if output[1] is not None:
            found.append(output[1])

    for block in net.blocks:
        block.register_forward_hook(watch)
    return found


def assert_all_close(got: tuple[Tensor, ...], want: tuple[Tensor, ...], **limits: float) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, **limits)


class Operators(TorchDispatchMode):
    """Counts the operators that run and keeps the largest result of each, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        if isinstance(result, Tensor):
            self.largest[name] = max(self.largest[name], result.numel())
        return result


# ------------------------------------------------------------------- setting the point


def test_a_point_can_be_given_as_a_dict_as_a_part_of_one_as_itself_or_not_at_all() -> None:
    assert small().operating_point == OperatingPoint(scale=1.0, keep_rate=1.0)
    net = small(operating_point={'keep_rate': 0.7})
    assert net.operating_point == OperatingPoint(scale=1.0, keep_rate=0.7)
    net.operating_point = {'scale': 0.5}
    assert net.operating_point == OperatingPoint(scale=0.5, keep_rate=1.0)
    net.operating_point = dict(scale=np.float32(0.5))
    assert net.operating_point == OperatingPoint(scale=0.5)
    own = net.operating_point
    net.operating_point = None
    assert net.operating_point == OperatingPoint()
    net.operating_point = own
    assert net.operating_point is own


@pytest.mark.parametrize(
    ('point', 'message'),
    [
        ({'keep_rate': 0}, r'operating_point: keep_rate=0 must be in \(0, 1\]'),
        ({'keep_rate': 1.01}, r'operating_point: keep_rate=1.01 must be in \(0, 1\]'),
        ({'scale': -0.5}, r'operating_point: scale=-0.5 must be in \(0, 1\]'),
        ({'scale': float('nan')}, r'operating_point: scale=nan must be in \(0, 1\]'),
        ({'scale': '1'}, r"operating_point: scale='1' must be in \(0, 1\]"),
        ({'keep_rate': True}, r'operating_point: keep_rate=True must be in \(0, 1\]'),
        ({'size': 128}, r"operating_point=\{'size': 128\} must be a dict of scale and keep_rate"),
        (0.5, r'operating_point=0.5 must be a dict of scale and keep_rate'),
    ],
    ids=str,
)
def test_wrong_points_are_refused_with_the_choices_and_leave_the_net_as_it_was(
    point: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small(operating_point=point)
    net = small(operating_point={'keep_rate': 0.5})
    with pytest.raises(ValueError, match=message):
        net.operating_point = point
    assert net.operating_point == OperatingPoint(keep_rate=0.5)


def test_a_point_cannot_be_changed_behind_the_checks() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().operating_point.keep_rate = 7


def test_a_share_of_less_than_one_token_is_refused_at_the_sizes_it_concerns() -> None:
    net = small(operating_point={'keep_rate': 0.1})
    net(image(48, 64))
    with pytest.raises(ValueError, match=r'of the 5 of 2 x 2 patches; .* be in \[1/5, 1\]'):
        net(image(32, 32))


@pytest.mark.parametrize('given', ['', 'operating_point=dict(scale=0.5), '], ids=['none', 'scale'])
def test_the_command_line_reaches_the_point(tmp_path: Path, given: str) -> None:
    config = tmp_path / 'net.py'
    backbone = f"dict(type='vitbackbones.SuperViT', {given}arch={ARCHS['plain']})"
    config.write_text(f"model = dict(type='mmdet.RetinaNet', backbone={backbone})\n")
    key = 'model.backbone.operating_point.keep_rate'
    cfg = load_config(str(config), {key: 0.7})
    net = ROOT_MODELS.build(cfg.model.backbone)
    assert net.operating_point == OperatingPoint(scale=0.5 if given else 1, keep_rate=0.7)
    with pytest.raises(UserError, match=r'keep_rate=7 must be in \(0, 1\]'):
        build_backbone(load_config(str(config), {key: 7}))


# ------------------------------------------------------------------ what is computed


@every_arch
def test_full_scale_and_rate_is_bit_for_bit_the_plain_network(arch: str) -> None:
    net = small(arch)
    x = image(50, 70, batch=2)
    tokens = net.embed(F.pad(x, (0, 10, 0, 14)))
    maps = {}
    for i, block in enumerate(net.blocks):
        tokens = tokens.add(block.attn(block.norm1(tokens))[0], alpha=block.residual_scale)
        tokens = tokens.add(block.mlp(block.norm2(tokens)), alpha=block.residual_scale)
        maps[i] = net.norm(tokens[:, 1:]).transpose(1, 2).unflatten(2, (4, 5))
    want = [net.pyramid[str(i)](maps[tap]) for i, tap in enumerate(net.taps)]
    for point in ({'scale': 0.5, 'keep_rate': 0.5}, {'scale': 1, 'keep_rate': 1}):
        net.operating_point = point
        got = net(x)
    for one, other, stride in zip(got, want, net.out_strides, strict=True):
        assert torch.equal(one, other[:, :, : -(-50 // stride), : -(-70 // stride)])


def test_full_scale_and_rate_spends_nothing_on_choosing_or_resizing() -> None:
    net = small(operating_point={'scale': 1, 'keep_rate': 1})
    x = image(128, 128)  # of a table's own size: no positions are resized either
    extra = {'topk', 'gather', 'scatter', '_softmax', 'upsample_bilinear2d'}
    with torch.no_grad():
        with Operators() as plain:
            net(x)
        net.operating_point = {'scale': 0.9, 'keep_rate': 0.9}
        with Operators() as reduced:
            net(x)
    assert not extra & set(plain.calls)
    assert extra <= set(reduced.calls)


@functools.lru_cache(maxsize=1)
def published(arch: str) -> SuperViT:
    """The dense network with the reference weights, at the tokens' own stride alone."""
    net = SuperViT(arch, out_indices=(2,), taps=(SuperViT.archs[arch].depth - 1,)).eval()
    manifest = refdata.load_json(REFERENCE / f'manifests/supervit/{arch}_cls.json')
    missing, _ = net.load_state_dict(refdata.build_state_dict(manifest), strict=False)
    assert not missing
    return net


@pytest.mark.parametrize('path', GOLDEN, ids=lambda path: path.stem)
def test_the_dense_network_keeps_the_published_tokens(path: Path) -> None:
    golden = refdata.load_json(path)
    net = copy.copy(published(path.name.partition('_cls')[0]))  # the same layers
    size, keep_rate = golden['call']['img_size'], golden['call']['keep_ratio']
    x = refdata.input_tensor(**golden['input'])
    net.operating_point = {'scale': size / x.shape[2], 'keep_rate': keep_rate}
    kept = []
    hooks = [b.register_forward_hook(lambda *args: kept.append(args[2][1])) for b in net.blocks]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    assert [k.tolist() for k in kept if k is not None] == golden['kept_positions']


def slow_token_maps(net: SuperViT, x: Tensor, keep_rate: float) -> dict[int, Tensor]:
    """The rule of dropping, for one image of whole patches, token by token.

    Attention matrices are formed in full, and the map is a dict of the last value of every token.
    """
    h, w = (side // 16 for side in x.shape[2:])
    values = dict(enumerate(net.embed(x)[0]))  # 0 is the class token
    alive = list(values)
    maps = {}
    for i, block in enumerate(net.blocks):
        tokens = torch.stack([values[t] for t in alive])  # (n, C)
        n, heads = len(alive), block.attn.num_heads
        q, k, v = block.attn.qkv(block.norm1(tokens)).view(n, 3, heads, -1).permute(1, 2, 0, 3)
        attention = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(dim=2)  # (heads, n, n)
        y = block.attn.proj((attention @ v).transpose(0, 1).flatten(1))
        values.update(zip(alive, tokens + block.residual_scale * y, strict=True))
        if i in (3, 6, 9) and keep_rate < 1:
            score = dict(zip(alive[1:], attention[:, 0, 1:].mean(dim=0).tolist(), strict=True))
            best = sorted(score, key=score.__getitem__, reverse=True)
            alive = [0, *best[: -int(-keep_rate * n // 1)]]
        for t in alive:
            values[t] = values[t] + block.residual_scale * block.mlp(block.norm2(values[t]))
        patches = torch.stack([net.norm(values[t]) for t in range(1, 1 + h * w)])  # (h * w, C)
        maps[i] = patches.t().unflatten(1, (h, w))
    return maps


@every_arch
@pytest.mark.parametrize('taps', [(10,), (2, 3, 6, 8)], ids=str)
@pytest.mark.parametrize('keep_rate', [0.9, 0.5, 0.2])
def test_dropped_tokens_stay_in_the_map_as_they_were_when_dropped(arch, taps, keep_rate) -> None:
    net = small(arch, taps=taps, operating_point={'keep_rate': keep_rate})
    x = image(80, 112, batch=2)
    with torch.no_grad():
        maps = [slow_token_maps(net, one[None], keep_rate) for one in x]
        want = tuple(
            net.pyramid[str(i)](torch.stack([m[tap] for m in maps]))
            for i, tap in enumerate(net.taps)
        )
        assert_all_close(net(x), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ('side', 'scale', 'computed'),
    [
        *((224, n / 14, 16 * n) for n in (8, 10, 12, 14)),
        (512, 8 / 14, 288),
        (500, 8 / 14, 288),
        (33, 0.5, 16),
        (40, 0.01, 16),
    ],
)
def test_a_scale_is_rounded_to_whole_patches(side: int, scale: float, computed: int) -> None:
    net = small(operating_point={'scale': scale}, out_indices=(2,), taps=(0,))
    sizes = []
    net.patch_embed.register_forward_hook(lambda _, args, __: sizes.append(args[0].shape[2:]))
    net(image(side, 64))
    assert sizes == [(computed, 16 * max(1, round(4 * scale)))]


@every_arch
@pytest.mark.parametrize('keep_rate', [1.0, 0.6])
@pytest.mark.parametrize('size', [(96, 160), (90, 150)], ids=str)
def test_the_padded_image_is_resized_before_and_the_tokens_after(arch, keep_rate, size) -> None:
    net = small(arch, operating_point={'scale': 0.8, 'keep_rate': keep_rate}, out_indices=(1, 2))
    x = image(*size, batch=2)
    got = net(x)
    padded = F.pad(x, (0, 160 - size[1], 0, 96 - size[0]))
    grid = tuple(round(0.8 * side / 16) for side in size)
    small_x = F.interpolate(
        padded, tuple(16 * n for n in grid), mode='bilinear', align_corners=True
    )
    # What a plain network makes of the small image, up to its pyramid.
    net.operating_point = {'keep_rate': keep_rate}
    maps = net._token_maps(small_x).values()
    assert all(y.shape[2:] == grid for y in maps)
    maps = [F.interpolate(y, (6, 10), mode='bilinear', align_corners=False) for y in maps]
    want = []
    for i, y, stride in zip('12', maps, (8, 16), strict=True):
        rows, columns = (-(-side // stride) for side in size)
        want.append(net.pyramid[i](y)[:, :, :rows, :columns])
    assert_all_close(got, tuple(want))


@every_point
@pytest.mark.parametrize('size', [(32, 32), (33, 47), (66, 130)], ids=str)
def test_strides_and_sizes_are_the_same_at_all_points(point: dict, size: tuple[int, int]) -> None:
    net = small(operating_point=point)
    for x, stride in zip(net(image(*size, batch=2)), (4, 8, 16, 32), strict=True):
        assert x.shape == (2, 16, *(-(-side // stride) for side in size))
        assert torch.isfinite(x).all()


@every_arch
@every_point
def test_every_image_of_a_batch_keeps_its_own_tokens(arch: str, point: dict) -> None:
    net = small(arch, operating_point=point)
    x = image(80, 96, batch=3)
    kept = choices(net)
    with torch.no_grad():
        together = net(x)
        if 'keep_rate' in point:
            assert len({tuple(sorted(row)) for row in kept[0].tolist()}) > 1
        for i in range(3):
            assert_all_close(tuple(y[i : i + 1] for y in together), net(x[i : i + 1]))


def test_tokens_that_a_block_does_not_keep_skip_its_mlp() -> None:
    net = small(operating_point={'keep_rate': 0.5}, taps=(3,))
    read = []
    for block in net.blocks:
        block.mlp.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    net(image(64, 64))
    assert read == [17, 17, 17, 1 + 9]  # ceil(17 / 2) patches and the class token


def test_one_set_of_weights_serves_all_points() -> None:
    plain = small()
    for point in POINTS:
        small(operating_point=point).load_state_dict(plain.state_dict())


# ----------------------------------------------------------------------------- costs


def test_gflops_fall_as_the_point_says() -> None:
    with torch.device('meta'):
        net = SuperViT('deit_s', out_indices=(2,), taps=(11,)).eval()
        x = torch.empty(1, 3, 512, 512)
    counts = []
    for point in ({}, {'keep_rate': 0.5}, {'scale': 8 / 14}):
        net.operating_point = point
        with FlopCounterMode(display=False) as counter:
            net(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == pytest.approx(63.5e9, rel=1e-3)  # 2 (12 N C^2 + 2 N^2 C) a block, and stem
    assert counts[1] <= 0.55 * counts[0]
    assert counts[2] <= 0.35 * counts[0]


def test_only_the_class_row_of_attention_is_formed() -> None:
    net = small(operating_point={'keep_rate': 0.5})
    with torch.no_grad(), Operators() as seen:
        net(image(256, 320))
    n, heads = 1 + 16 * 20, 2
    assert seen.largest['_softmax'] == heads * n
    assert seen.calls['_softmax'] == 3
    assert seen.largest['bmm'] == heads * n
    assert seen.calls['_scaled_dot_product_flash_attention_for_cpu'] == 11


# ----------------------------------------------------------------------------- training


def gradients(net: SuperViT) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters()}


@every_arch
@every_point
def test_every_parameter_gets_a_gradient_at_every_point(arch: str, point: dict) -> None:
    net = small(arch, operating_point=point, drop_path_rate=0.0).train()
    sum(y.square().sum() for y in net(image(64, 80, batch=2))).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    assert all(block.mlp.fc1.weight.grad.any() for block in net.blocks)
    used = [bool(table.grad.any()) for table in net.pos_embed_list.tables]
    assert used == [True, False, False, False]


def test_a_dropped_token_still_teaches_the_blocks_it_passed() -> None:
    net = small(operating_point={'keep_rate': 0.2}, taps=(10,), out_indices=(2,))
    kept = choices(net)
    x = image(64, 64).requires_grad_()
    (y,) = net(x)
    dropped = next(i for i in range(16) if i + 1 not in kept[0][0].tolist())
    row, column = divmod(dropped, 4)
    y[
        0, 0, row, column
    ].backward()  # the sum over all channels is fixed by the norm, but for rounding
    reached = [bool(block.attn.qkv.weight.grad.any()) for block in net.blocks]
    assert reached == [True] * 4 + [False] * 7
    assert x.grad[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16].any()


@every_point
def test_recomputing_picks_the_same_tokens_even_if_the_point_has_changed(
    point, monkeypatch
) -> None:
    kept: list[Tensor] = []
    select = supervit.select_tokens

    def watched(scores: Tensor, keep_rate: float) -> Tensor:
        kept.append(select(scores, keep_rate))
        return kept[-1]

    monkeypatch.setattr(supervit, 'select_tokens', watched)
    results = []
    x = image(80, 96, batch=2)
    for with_cp in (False, True):
        torch.manual_seed(1)
        net = small(with_cp=with_cp, drop_path_rate=0.3, operating_point=point).train()
        kept.clear()
        maps = net(x)
        first = kept.copy()
        assert len(first) == (3 if 'keep_rate' in point else 0)
        net.operating_point = {'scale': 0.9, 'keep_rate': 0.9}
        sum(y.square().sum() for y in maps).backward()
        again = kept[len(first) :][::-1]  # blocks are recomputed from the last to the first
        for one, other in zip(again, first if with_cp else [], strict=True):
            assert torch.equal(one, other)
        results.append((maps, gradients(net)))
    (maps, plain), (cp_maps, recomputed) = results
    assert all(torch.equal(a, b) for a, b in zip(maps, cp_maps, strict=True))
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value)


@pytest.mark.parametrize('arch', SuperViT.archs)
def test_bfloat16_stays_close_for_the_same_choice(arch: str, monkeypatch) -> None:
    point = {'scale': 0.8, 'keep_rate': 0.5}
    net = SuperViT(
        {**dataclasses.asdict(SuperViT.archs[arch]), 'depth': 5}, operating_point=point
    ).eval()
    kept = choices(net)
    x = image(96, 96, batch=2)
    with torch.no_grad():
        want = net(x)
        # Where scores are nearly equal, rounding may choose otherwise: that is not compared.
        monkeypatch.setattr(supervit, 'select_tokens', lambda scores, rate: kept[0])
        with torch.autocast('cpu', dtype=torch.bfloat16):
            got = net(x)
    for one, other in zip(got, want, strict=True):
        assert (one.float() - other).norm() / other.norm() < 3e-2


@every_arch
@every_point
def test_bfloat16_trains_at_every_point(arch: str, point: dict) -> None:
    net = small(arch, operating_point=point).train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = sum(y.float().square().mean() for y in net(image(64, 80, batch=2)))
    loss.backward()
    assert all(torch.isfinite(g).all() for g in gradients(net).values())


@pytest.mark.usefixtures('process_group')
def test_ddp_trains_at_changing_points_without_searching_for_unused_parameters() -> None:
    model = DistributedDataParallel(small(), find_unused_parameters=False)
    for point in (*POINTS, {}):  # an unused parameter would be noticed in the next pass
        model.module.operating_point = point
        model.zero_grad()
        sum(y.square().mean() for y in model(image(64, 80, batch=2))).backward()
        assert all(p.grad is not None for p in model.parameters())


# ------------------------------------------------------------------------------- export


def shallow() -> SuperViT:
    """Exporting takes its time for every block: four of them do everything there is to do."""
    point = {'scale': 0.8, 'keep_rate': 0.5}
    return SuperViT({**ARCHS['stem'], 'depth': 4}, operating_point=point).eval()


def test_an_exported_program_computes_the_same() -> None:
    net = shallow()
    program = torch.export.export(net, (image(64, 70, batch=2),)).module()
    x = image(64, 70, batch=2)
    with torch.no_grad():
        assert_all_close(program(x), net(x))


@pytest.mark.parametrize('dynamo', [True, False], ids=['export', 'trace'])
@pytest.mark.filterwarnings('ignore')  # of the exporters' own
def test_onnx_computes_the_same(dynamo: bool, tmp_path: Path) -> None:
    net = shallow()
    path = str(tmp_path / 'net.onnx')
    torch.onnx.export(net, (image(64, 70, batch=2),), path, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(path)
    x = image(64, 70, batch=2)
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert_all_close(tuple(map(torch.from_numpy, got)), net(x), rtol=1e-4, atol=1e-4)
