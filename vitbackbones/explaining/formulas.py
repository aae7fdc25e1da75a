"""How much attention each position gets, computed from what the projections of a block were given.

A formula gets one image's inputs and yields kinds of attention with their values: (heads, P) for P
positions of a map, row by row, or (C,) for its channels. 1 is what a key would get of attention
that is spread evenly over all keys of a query; it is averaged over the queries that are pixels.
What a gate lets pass is in [0, 1] instead. N windows have T positions of d channels a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitbackbones.layers.position_bias import PositionBias

#: Elements of attention matrices that are made at a time.
ELEMENTS = 1 << 24

Found = Iterator[tuple[str, Tensor]]


class Formula(NamedTuple):
    """The parts of a block, by name, whose inputs ``values`` needs besides the block's own."""

    parts: tuple[str, ...]
    values: Callable[[Any, Mapping[str, Tensor], tuple[Any, ...]], Found]


def received(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, heads, Q, d), (N, heads, K, d) -> (N, heads, K): attention, averaged over the queries."""
    n, heads, queries, d = q.shape
    step = max(1, ELEMENTS // (heads * queries * k.shape[2]))
    several = []
    for some in range(0, n, step):
        part = slice(some, some + step)
        logits = q[part] * d**-0.5 @ k[part].mT
        several.append((logits if bias is None else logits + bias).softmax(-1).mean(2))
    return torch.cat(several)


def biased_windows(attn: Any, inputs: Mapping[str, Tensor], args: tuple[Any, ...]) -> Found:
    """GC ViT: in windows with a position bias, by each pixel's own query or the global one."""
    _, query, windows = args
    heads, size = attn.num_heads, attn.window_size
    qkv = attn.qkv(inputs['qkv'])  # (1, R, 2 C or 3 C), where some windows are cut with one more
    zeros = qkv[:, sum(windows.lengths) :]  # which stands for padding
    several, start = [], 0
    for n, wh, ww in windows.shapes:
        count = wh * ww
        own = qkv[:, start : start + n * count].reshape(n, count, -1, heads, attn.head_dim)
        start += n * count
        *queries, k, _ = own.permute(2, 0, 3, 1, 4)  # (N, heads, T, d) each
        padded = zeros.shape[1] > 0 and count < size**2
        if padded:
            key = zeros.reshape(1, 1, -1, heads, attn.head_dim)[:, :, -2].transpose(1, 2)
            k = torch.cat([k, key.expand(n, -1, -1, -1)], 2)
        if query is None:
            (q,) = queries
        else:
            q = query[:, :, :wh, :ww].flatten(2, 3).expand(n, -1, -1, -1)
        bias = PositionBias(size, wh, ww, padded)(attn.relative_position_bias_table)
        keys = count if attn.mask_padding else size**2
        several.append(received(q, k, bias)[..., :count].mT.flatten(0, 1) * keys)
    merged = windows.merge(torch.cat(several)[None])[0].T  # (heads, P)
    yield ('local' if query is None else 'global'), merged


def separable(attn: Any, inputs: Mapping[str, Tensor], args: tuple[Any, ...]) -> Found:
    """SepViT: inside each window (equation 1), and between windows by their tokens (2)."""
    _, windows = args
    heads = attn.num_heads
    several = []
    lengths = [group.count * group.length for group in windows.groups]
    parts = attn.DSA_qkv(inputs['DSA_qkv']).split(lengths, 1)
    for part, group in zip(parts, windows.groups, strict=True):
        qkv = part.reshape(group.count, group.length, 3, heads, -1)
        q, k, _ = qkv.permute(2, 0, 3, 1, 4)  # (N, heads, T, d) each
        others = group.padding_at + (group.padding > 0)  # in front of the pixels
        bias = q.new_zeros(group.length)
        if group.padding:  # for whose tokens one stands
            bias[group.padding_at] = math.log(group.padding)
        keys = group.length + max(group.padding - 1, 0)
        several.append(received(q[:, :, others:], k, bias).mT.flatten(0, 1) * keys)
    pixels = windows.by_position(torch.cat(several)[None])  # (1, heads, Nw, ws * ws)
    yield 'inside', windows.merge(pixels)[0].T
    if attn.exchanges:
        qk = attn.PSA_qk(inputs['PSA_qk'])  # (1, Nw, 2 C)
        q, k = qk.unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = received(q, k)[..., None] * k.shape[2]  # (1, heads, Nw, 1)
        yield 'between', windows.merge(weights.expand_as(pixels))[0].T


def single_head(attn: Any, inputs: Mapping[str, Tensor], args: tuple[Any, ...]) -> Found:
    """SHViT: one head over all positions, on a part of the channels."""
    qkv = attn.qkv(inputs['qkv']).flatten(2).mT  # (1, P, 16 + 16 + attended channels)
    width = (qkv.shape[2] - attn.split[0]) // 2
    q, k = qkv[:, None, :, : 2 * width].split(width, 3)
    count = k.shape[2]
    step = max(1, ELEMENTS // count)
    total = sum(received(part, k) * part.shape[2] for part in q.split(step, 2))
    yield 'attention', total[0]


def class_token(attn: Any, inputs: Mapping[str, Tensor], args: tuple[Any, ...]) -> Found:
    """SuperViT: what the class token pays to each patch, by which others drop out."""
    qkv = attn.qkv(inputs['qkv'])  # (1, N, 3 C)
    q, k, _ = qkv.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    yield 'class', received(q[:, :, :1], k)[0, :, 1:] * k.shape[2]


def gates(attn: Any, inputs: Mapping[str, Tensor], args: tuple[Any, ...]) -> Found:
    """CAS-ViT: what the gates of query and key let pass, of places and of channels."""
    for of, name in (('query', 'oper_q'), ('key', 'oper_k')):
        spatial, channel = getattr(attn, name)
        yield f'places_{of}', spatial.block(inputs[f'{name}.0'])[0].flatten(1)
        yield f'channels_{of}', channel.block(inputs[f'{name}.1']).flatten()


#: The names that networks declare.
FORMULAS = {
    'biased_windows': Formula(('qkv',), biased_windows),
    'separable': Formula(('DSA_qkv', 'PSA_qk'), separable),
    'single_head': Formula(('qkv',), single_head),
    'class_token': Formula(('qkv',), class_token),
    'gates': Formula(('oper_q.0', 'oper_q.1', 'oper_k.0', 'oper_k.1'), gates),
}
