"""Another backbone in any config of mmdet or mmseg.

What heads read stays what it was: channels and strides after the neck, or without one the strides
of the maps. Everything else follows from that, each rule in a module of its own.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS

from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError
from vitbackbones.tasks import Task, task_of

from . import maps as choosing
from .channels import Rewiring, positions_read
from .draft import Draft
from .maps import Choice, listed
from .measuring import Map, Measured, MeasuringError, measure, measure_neck, words
from .methods import check_method
from .ours import Network, Recipe, network, recipe
from .owners import owner_of
from .pixels import set_pixels
from .rates import set_rates
from .weights import Start, choose_weights


def swap(draft: Draft, backbone: str, weights: str = 'auto') -> Start:
    """Put a backbone of ours in the place of the one that a config has, and all that follows.

    Args:
        backbone: a name that :func:`~vitbackbones.create` knows.
        weights: as :func:`~vitbackbones.authoring.weights.choose_weights` takes it.

    Returns:
        What the new backbone starts from.

    Raises:
        UserError: there is no such backbone, or the config has none whose place it could take.
        CheckpointError: ``weights`` cannot be read, or are of another network.
    """
    new = network(backbone)
    check_method(draft)
    place = owner_of(draft)
    scope = draft.get(f'{place}._scope_') or draft.get('model._scope_')
    scope = scope or draft.get('default_scope') or 'mmdet'
    owner = draft.get(place)
    # mmdet's re-identification has the head of a classifier.
    task = task_of(owner)
    task = Task.DETECTION if task is Task.CLASSIFICATION else task
    published = recipe(new, task, in_two_stages='roi_head' in owner)
    start = choose_weights(new, weights, owner['backbone'].get('in_channels', 3))

    old = _measured(draft, place, scope)
    _wire(draft, place, scope, old, new, start, published)
    for key in _places_above(place):
        _drop_weights_of_others(draft, key)
    if draft.get('load_from'):
        draft.said.append(f'load_from: {draft.get("load_from")} is of another model: dropped')
        draft.set('load_from', None, 'That was another model.')
    set_rates(draft, published, new.cls.family, from_random=start.is_random)
    set_pixels(draft, place)
    draft.said.append(f'weights: {start.reason}')
    return start


def _measured(draft: Draft, place: str, scope: str) -> Measured:
    """What the old backbone and neck give; guessed where they cannot be built here.

    Raises:
        UserError: nor can it be guessed.
    """
    owner = draft.get(place)
    kind = owner['backbone'].get('type')
    if kind is None:
        raise UserError(
            f'config {draft.bases[0]}: {place}.backbone has no type: another framework builds it '
            f'(model.type={draft.get("model.type")!r})'
        )
    try:
        return measure(owner, scope)
    except MeasuringError as error:
        reason = error
    for reader in (owner.get('neck'), owner.get('decode_head'), owner.get('panoptic_head')):
        first = reader[0] if isinstance(reader, (list, tuple)) and reader else reader
        channels = first.get('in_channels') if isinstance(first, Mapping) else None
        if not isinstance(channels, (list, tuple)) or len(channels) not in (3, 4):
            continue
        rising = sorted(channels)
        maps = tuple(Map(c, 2.0 ** (6 - len(rising) + i)) for i, c in enumerate(rising))
        draft.said.append(
            f'guessed: {kind} cannot be built here ({reason}); by in_channels={list(channels)} it '
            f'gives {words(maps)}'
        )
        levels, read = None, tuple(range(len(maps)))
        if reader is owner.get('neck'):
            levels, read = measure_neck(owner['neck'], scope, maps, 256)
        return Measured(256, maps, levels, read)
    raise UserError(
        f'config {draft.bases[0]}: what {place}.backbone ({kind}) gives cannot be told: {reason}'
    )


def _wire(
    draft: Draft,
    place: str,
    scope: str,
    old: Measured,
    new: Network,
    start: Start,
    published: Recipe,
) -> None:
    """The backbone and what reads its maps."""
    owner = draft.get(place)
    kind, neck = owner['backbone'].get('type'), owner.get('neck')
    after = f'; after the neck {words(old.levels)}' if old.levels else ''
    draft.said.append(f'old: {kind} {words(old.maps)}{after}')
    if old.trouble:
        draft.said.append(f'neck: what it gives could not be tried here: {old.trouble}')
    maps, levels, read = old.maps, old.levels, old.read
    if levels is not None and choosing.is_pyramid_of_tokens(maps, levels):
        why = f'{neck.get("type")} made a pyramid of the tokens of a plain ViT.'
        draft.said.append(f'neck: {why} It goes: {new.cls.family} has one')
        draft.set(f'{place}.neck', None, why)
        maps, levels, neck = levels, None, None
    if neck is None:
        read = positions_read(owner, len(maps))
    elif not _may_leave_out(neck, scope, old):
        read = tuple(range(len(maps)))
    choice = choosing.choose(new.stages, maps, read)
    first = neck[0] if isinstance(neck, (list, tuple)) else neck
    instead = choosing.in_place_of_fpn(first, new.stages, _levels_of(first, scope, old))
    if instead is not None:
        stages, pyramid = instead
        choice = Choice(stages, tuple(new.stages[i] for i in stages), choice.positions)

    _set_backbone(draft, place, new, start, published, choice)
    output = [new.stages[i] for i in choice.stages]
    if instead is not None:
        own = [new.stages[i].stride for i in stages]
        why = f'A pyramid makes the levels of {type_name(first)} of strides {listed(own)}.'
        draft.said.append(f'neck: {why}')
        draft.set(f'{place}.neck' + ('.0' if first is not neck else ''), pyramid, why)
    else:
        _rewire(draft, place, maps, choice)
        if choice.pyramid is not None:
            if owner.get('neck') is None:
                _require_neck_option(draft, owner, scope, new)
            why = f'{choice.reason[0].upper()}{choice.reason[1:]}.'
            _put_before(draft, f'{place}.neck', choice.pyramid, why)
        if choice.reason:
            draft.said.append(f'maps: {choice.reason}')
    now = None
    if not old.trouble:
        now = _check(draft, place, scope, old.side, output, levels, by_depth=choice.by_depth)
    after = f'; after the neck {words(now)}' if now else ''
    draft.said.append(f'new: {new.words} {words(output)}{after}')


def _require_neck_option(draft: Draft, owner: Any, scope: str, new: Network) -> None:
    """That there is a place for a pyramid between backbone and heads.

    Raises:
        UserError: the model takes no neck.
    """
    with ROOT_MODELS.switch_scope_and_registry(scope) as registry:
        cls = registry.get(owner['type'])
    options = inspect.signature(cls).parameters if inspect.isclass(cls) else {}
    free = any(option.kind is option.VAR_KEYWORD for option in options.values())
    if options and not free and 'neck' not in options:
        raise UserError(
            f'config {draft.bases[0]}: {new.cls.family} needs a pyramid for what heads read, and '
            f'{owner["type"]} takes no neck: choose a backbone with maps of these strides'
        )


def _set_backbone(
    draft: Draft, place: str, new: Network, start: Start, published: Recipe, choice: Choice
) -> None:
    options = dict(start.options)
    if choice.stages != tuple(range(len(new.stages))):
        options['out_indices'] = choice.stages
    if 'taps' in published.backbone:  # of a plain ViT: all maps from its last block
        arch: Any = new.cls.resolve_arch(new.arch)
        options['taps'] = (arch.depth - 1,)
    if draft.get(f'{place}.backbone.frozen_stages', -1) >= 0:
        draft.said.append('frozen: the old backbone had frozen stages; of the new one all learn')
    draft.set(f'{place}.backbone', options, start.reason)


def _rewire(draft: Draft, place: str, maps: Sequence[Map], choice: Choice) -> None:
    """Neck, or heads if there is none, take the new maps.

    Raises:
        UserError: nothing in them speaks of the old ones, and they are not all alike.
    """
    owner = draft.get(place)
    wiring = Rewiring(draft, place, maps, choice.maps, choice.positions)
    what = 'its heads'
    if owner.get('neck') is not None:
        wiring.neck()
        what = f'{place}.neck'
    elif 'roi_head' not in owner:  # the parts of one go by the channels of each other
        wiring.heads()
    if wiring.recognised:
        if wiring.changed:
            draft.said.append(f'channels: {", ".join(wiring.changed)}')
        return
    widths = {maps[i].channels for i in choice.positions}
    if len(widths) > 1:
        raise UserError(
            f'config {draft.bases[0]}: nothing in {what} speaks of the maps of the old backbone, '
            f'{words(maps)}: what to change for others cannot be told'
        )
    mapper = dict(
        type='mmdet.ChannelMapper',
        in_channels=[m.channels for m in choice.maps],
        out_channels=widths.pop(),
        kernel_size=1,
        num_outs=len(choice.maps),
    )
    why = f'Heads keep the {mapper["out_channels"]} channels that they were made for.'
    _put_before(draft, f'{place}.neck', mapper, why)
    draft.said.append(f'neck: {why}')


def _put_before(draft: Draft, place: str, neck: dict[str, Any], why: str) -> None:
    """A neck in front of the one that may be there."""
    own = draft.get(place)
    rest = [] if own is None else list(own) if isinstance(own, (list, tuple)) else [own]
    draft.set(place, [neck, *rest] if rest else neck, why)


def _check(
    draft: Draft,
    place: str,
    scope: str,
    side: int,
    output: Sequence[Map],
    levels: Sequence[Map] | None,
    *,
    by_depth: bool,
) -> tuple[Map, ...] | None:
    """What the neck that is to be written gives; heads follow where it hands on what it gets.

    Raises:
        UserError: it does not run, or its levels are at other strides than before.
    """
    neck = draft.get(f'{place}.neck')
    if neck is None:
        return None
    try:
        now, _ = measure_neck(neck, scope, output, side)
    except MeasuringError as error:
        raise UserError(
            f'config {draft.bases[0]}: {place}.neck does not take the maps {words(output)}: {error}'
        ) from error
    if levels is None or now is None or tuple(now) == tuple(levels):
        return now
    if not by_depth and [m.stride for m in now] != [m.stride for m in levels]:
        raise UserError(
            f'config {draft.bases[0]}: {place}.neck would give {words(now)} where heads expect '
            f'{words(levels)}'
        )
    wiring = Rewiring(draft, place, levels, now, {i: i for i in range(len(now))})
    wiring.heads()
    if wiring.changed:
        draft.said.append(f'channels: {", ".join(wiring.changed)}')
    return now


def _may_leave_out(neck: Any, scope: str, old: Measured) -> bool:
    """Whether maps that a neck does not read need not be there: it gives the same without them."""
    rest = [old.maps[i] for i in old.read]
    if rest != list(old.maps[-len(rest) :]):
        return False
    without = copy.deepcopy(neck)
    first = without[0] if isinstance(without, (list, tuple)) else without
    channels = first.get('in_channels')
    if isinstance(channels, (list, tuple)) and len(rest) < len(old.maps):
        if list(channels) != [m.channels for m in old.maps]:
            return False
        first['in_channels'], first['start_level'] = [m.channels for m in rest], 0
    try:
        return measure_neck(without, scope, rest, old.side)[0] == old.levels
    except MeasuringError:  # it looks at their sizes, as NAS-FCOS's
        return False


def _levels_of(first: Any, scope: str, old: Measured) -> tuple[Map, ...] | None:
    """What the first of several necks gives."""
    if first is None:
        return None
    try:
        return measure_neck(first, scope, old.maps, old.side)[0]
    except MeasuringError:  # in which case it is left to what reads it
        return None


def _places_above(place: str) -> list[str]:
    keys = place.split('.')
    return ['.'.join(keys[: i + 1]) for i in range(len(keys))]


def _drop_weights_of_others(draft: Draft, place: str) -> None:
    node = draft.get(place)
    if not isinstance(node, Mapping):
        return
    if node.get('pretrained') is not None:
        draft.said.append(f'pretrained: {place}.pretrained={node["pretrained"]} is of the old')
        draft.set(f'{place}.pretrained', None)
    init = node.get('init_cfg')
    if isinstance(init, Mapping) and init.get('type') == 'Pretrained':
        draft.said.append(f'pretrained: {place}.init_cfg={init.get("checkpoint")} is of the old')
        draft.set(f'{place}.init_cfg', None)
