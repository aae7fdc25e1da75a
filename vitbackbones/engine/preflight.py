"""What can be wrong with a training run before its first step, said before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle

from vitbackbones.backbones.base import Backbone
from vitbackbones.checkpoint.published import PUBLISHED
from vitbackbones.checkpoint.reading import examples
from vitbackbones.data.loading import annotation_problems
from vitbackbones.registry import HOOKS, register

#: From this rate on SGD is taken for what mmdet's schedules leave behind (0.02 and 0.01, made for
#: ResNets); no published recipe of our networks uses SGD at all.
SGD_RATE = 0.01

#: Side of the empty picture that a neck is tried on: a level of stride 128 still has 2 x 2 pixels.
SIDE = 256


class PreflightError(ValueError):
    """A model or optimizer that would train wrongly, or not at all.

    Attributes:
        problems: one sentence each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__('\n  - '.join(['training cannot start:', *problems]))


@register(HOOKS)
class PreflightHook(Hook):
    """Checks a training run with one of our backbones; costs nothing after its first step.

    Before the first iteration it stops with a list of all that does not fit: channels of neck and
    heads, strides of anchors and of RoI extractors, SGD at a rate made for ResNets, annotations in
    COCO's format that cannot be trained on. It warns of a
    backbone that starts from random weights, and after the first step of each optimizer of
    parameters that got no gradient. Backbones of others are left alone, their gradients aside.

    ::

        custom_hooks = [dict(type='vitbackbones.PreflightHook')]  # the prefix imports it
    """

    def __init__(self) -> None:
        self._done: list[RemovableHandle] = []

    def before_train(self, runner: Runner) -> None:
        """Check model and optimizer; weights are loaded by now.

        Raises:
            PreflightError: something does not fit.
        """
        networks, optimizers = _networks(runner.model), _optimizers(runner)
        problems = [problem for network in networks for problem in _misfits(network)]
        problems += [p for optimizer in optimizers for p in _rates(optimizer, networks)]
        loader = getattr(runner, 'train_dataloader', None)  # a loop of anyone's may do without
        problems += annotation_problems(getattr(loader, 'dataset', None))
        if problems:
            raise PreflightError(list(dict.fromkeys(problems)))
        for network in networks:
            if not network.backbone.has_loaded:
                runner.logger.warning(_random_start(network))
        for optimizer in optimizers:
            self._watch(runner, optimizer)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Take the watch off optimizers that had their first step; they cannot while they step."""
        while self._done:
            self._done.pop().remove()

    def _watch(self, runner: Runner, optimizer: Optimizer) -> None:
        """Name the parameters without gradient when ``optimizer`` makes its first step.

        By then the gradients that are to accumulate have done so, and the processes of a
        distributed run have exchanged theirs.
        """
        names = {id(param): name for name, param in _unwrapped(runner.model).named_parameters()}

        def check(optimizer: Optimizer, *args: Any) -> None:
            if not names:
                return  # several steps in one iteration
            params = [param for group in optimizer.param_groups for param in group['params']]
            idle = [names.get(id(p), '?') for p in params if p.requires_grad and p.grad is None]
            if idle:
                runner.logger.warning(
                    f'{len(idle)} of {len(params)} parameters got no gradient in the first step: '
                    f'{examples(idle, 20)}. They do not learn: no loss depends on them'
                )
            names.clear()
            self._done.append(handle)

        handle = optimizer.register_step_pre_hook(check)


# ------------------------------------------------------------------------- what there is


class _Network(NamedTuple):
    """A part of the model with one of our backbones: a detector, a segmentor, a student."""

    path: str  # in the config
    owner: Any
    backbone: Backbone


def _networks(model: nn.Module) -> list[_Network]:
    """What is to be trained, through wrappers of any depth."""
    found = []
    for name, owner in model.named_modules():
        backbone = _unwrapped(getattr(owner, 'backbone', None))
        if not isinstance(backbone, Backbone):
            continue
        if any(param.requires_grad for param in owner.parameters()):  # no frozen teacher
            parts = [part for part in name.split('.') if part not in ('', 'module')]
            found.append(_Network('.'.join(['model', *parts]), owner, backbone))
    return found


def _optimizers(runner: Runner) -> list[Optimizer]:
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    # Other frameworks put objects of their own in the place of torch's.
    return [w.optimizer for w in wrappers if isinstance(w.optimizer, Optimizer)]


def _unwrapped(module: Any) -> Any:
    return module.module if is_model_wrapper(module) else module


# --------------------------------------------------------------------------- what must fit


class _Level(NamedTuple):
    """A map that heads read."""

    channels: int
    stride: float


def _misfits(network: _Network) -> Iterator[str]:
    """Where neck, heads and RoI extractors disagree with the backbone."""
    path, owner, backbone = network
    source = f'{path}.backbone ({type(backbone).__name__})'
    channels, strides = list(backbone.out_channels), list(backbone.out_strides)
    levels: list[_Level] | None = list(map(_Level, channels, strides))
    neck = _unwrapped(getattr(owner, 'neck', None))
    if neck is not None:
        first = neck[0] if isinstance(neck, nn.Sequential) else neck
        declared = getattr(first, 'in_channels', channels)
        if isinstance(declared, (list, tuple)) and list(declared) != channels:
            yield (
                f'{path}.neck.in_channels={list(declared)} must be {channels}, the channels of '
                f'{source}'
            )
            if len(declared) != len(channels):
                return
            channels = list(declared)  # with these it can be tried all the same
        try:
            levels = _levels(neck, channels, strides)
        except Exception as error:  # a neck of anyone's: it would fail in the first step as well
            reason = str(error).partition('\n')[0]
            yield (
                f'{path}.neck ({type(neck).__name__}) does not take maps of {channels} channels, '
                f'the output of {source}: {type(error).__name__}: {reason}'
            )
            return
        source = f'{path}.neck ({type(neck).__name__})'
    if levels is None:
        return
    for place, head in _heads(owner):
        yield from _head_misfits(f'{path}.{place}', head, levels, source)
    for place, extractor in _roi_extractors(owner):
        yield from _roi_misfits(f'{path}.{place}', extractor, levels, source)


@torch.no_grad()
def _levels(
    neck: nn.Module, channels: Sequence[int], strides: Sequence[int]
) -> list[_Level] | None:
    """What ``neck`` makes of empty maps, whatever its kind; None if that is not a list of maps.

    In eval mode no statistics change, no random numbers are drawn, and no processes communicate.
    """
    like = next(neck.parameters(), torch.empty(0))
    maps = [
        like.new_zeros(1, c, SIDE // stride, SIDE // stride)  # (1, C, H, W)
        for c, stride in zip(channels, strides, strict=True)
    ]
    modes = [(module, module.training) for module in neck.modules()]
    neck.eval()
    try:
        outputs = neck(maps)
    finally:
        for module, mode in modes:
            module.training = mode
    if isinstance(outputs, Tensor):
        outputs = [outputs]
    if not all(isinstance(x, Tensor) and x.ndim == 4 for x in outputs):
        return None
    return [_Level(x.shape[1], SIDE / x.shape[3]) for x in outputs]


def _heads(owner: Any) -> Iterator[tuple[str, Any]]:
    """What reads the levels themselves, by its place; RoI heads read what extractors cut out."""
    for name in ('bbox_head', 'rpn_head', 'decode_head', 'auxiliary_head'):
        head = _unwrapped(getattr(owner, name, None))
        if isinstance(head, nn.ModuleList):
            yield from ((f'{name}[{i}]', part) for i, part in enumerate(head))
        elif head is not None:
            yield name, head


def _head_misfits(path: str, head: Any, levels: Sequence[_Level], source: str) -> Iterator[str]:
    index = getattr(head, 'in_index', None)  # mmseg's heads choose levels, mmdet's read them all
    if index is not None:
        chosen = [index] if isinstance(index, int) else list(index)
        if any(not -len(levels) <= i < len(levels) for i in chosen):
            yield f'{path}.in_index={index} must name maps of {source}, which has {len(levels)}'
            return
        levels = [levels[i] for i in chosen]
    wanted = [level.channels for level in levels]
    own = getattr(head, 'in_channels', None)  # heads of queries do not say
    must: Any = wanted
    if getattr(head, 'input_transform', None) == 'resize_concat':
        fits = own == sum(wanted)  # all that is left of what the config says
    elif isinstance(own, (list, tuple)):
        fits = list(own) == wanted
    else:
        fits = own is None or {own} == set(wanted)
        must = wanted[0] if len(set(wanted)) == 1 else wanted
    if not fits:
        yield f'{path}.in_channels={own} must be {must}, the channels of {source}'
    for key, strides in _declared_strides(head):
        yield from _stride_misfits(f'{path}.{key}', strides, levels, source)


def _declared_strides(head: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    """Of anchors, of points, and of the maps that Semantic FPN brings to one size."""
    for key, value in vars(head).items():
        if key.endswith('_generator') and hasattr(value, 'strides'):
            anchors = 'Anchor' in type(value).__name__
            yield ('anchor_generator.strides' if anchors else 'strides'), value.strides
    if hasattr(head, 'feature_strides'):
        yield 'feature_strides', head.feature_strides


def _roi_extractors(owner: Any) -> Iterator[tuple[str, Any]]:
    roi_head = _unwrapped(getattr(owner, 'roi_head', None))
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractor = getattr(roi_head, name, None)
        if extractor is not None:  # one for each stage of a cascade
            several = isinstance(extractor, nn.ModuleList)
            yield from ((f'roi_head.{name}', x) for x in (extractor if several else [extractor]))


def _roi_misfits(path: str, extractor: Any, levels: Sequence[_Level], source: str) -> Iterator[str]:
    count = len(extractor.featmap_strides)
    yield from _stride_misfits(
        f'{path}.featmap_strides', extractor.featmap_strides, levels[:count], source
    )
    wanted = {level.channels for level in levels[:count]}
    concatenates = getattr(extractor, 'aggregation', None) == 'concat'
    if not concatenates and {extractor.out_channels} != wanted:
        yield (
            f'{path}.out_channels={extractor.out_channels} must be {min(wanted)}, the channels of '
            f'{source}'
        )


def _stride_misfits(
    what: str, strides: Sequence[Any], levels: Sequence[_Level], source: str
) -> Iterator[str]:
    own = [s[0] if isinstance(s, (list, tuple)) and len(set(s)) == 1 else s for s in strides]
    wanted = [level.stride for level in levels]
    if own != wanted:
        right = ', '.join(f'{stride:g}' for stride in wanted)
        yield f'{what}={own} must be [{right}], the strides of {source}'


def _rates(optimizer: Optimizer, networks: Sequence[_Network]) -> Iterator[str]:
    if not isinstance(optimizer, SGD):
        return
    for path, _, backbone in networks:
        own = set(map(id, backbone.parameters()))
        # Schedules have set `lr` to its first value; what they start from is kept beside it.
        rate = max(
            (
                float(group.get('initial_lr', group['lr']))
                for group in optimizer.param_groups
                if any(id(param) in own and param.requires_grad for param in group['params'])
            ),
            default=0.0,
        )
        if rate >= SGD_RATE:
            yield (
                f'optim_wrapper.optimizer is SGD with lr={rate:g}, a rate for ResNets; for '
                f'{path}.backbone ({type(backbone).__name__}), a transformer, it must be AdamW, as '
                "in dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05), or SGD below "
                f'{SGD_RATE:g}'
            )


def _random_start(network: _Network) -> str:
    """One line: what starts from random weights, and where published ones are."""
    path, _, backbone = network
    variants = PUBLISHED.get(type(backbone).__name__)
    arch = next((name for name, arch in backbone.archs.items() if arch == backbone.arch), None)
    name = f'{backbone.family} {arch or "of a custom arch"}'
    if variants is None:
        where = 'no place of published ones is known'
    elif not variants:
        where = 'none were ever published'
    elif arch is not None and arch in variants:
        where = f'the published ones are at {variants[arch]}'
    else:
        where = f'there are published ones for arch {", ".join(variants)}'
    fixed = backbone.norm_eval and any(isinstance(m, _BatchNorm) for m in backbone.modules())
    return (
        f'{path}.backbone: {name} starts from random weights; {where}. To start from a file, set '
        "init_cfg=dict(type='Pretrained', checkpoint=FILE)"
        + ('; without one, norm_eval=False lets BatchNorm learn its statistics' if fixed else '')
    )
