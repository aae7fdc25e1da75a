"""How long to train, how fast, and what watches over it."""

from __future__ import annotations

import math
from typing import Any

from vitbackbones.data.nodes import type_name
from vitbackbones.launch.smallest import RANDOM_RATE

from .draft import Draft, counted
from .pipelines import WEIGHTS
from .rates import shown
from .writing import plain

#: COCO's images and the epochs of its shortest recipe, from given and from random weights.
COCO_IMAGES = 118_287
EPOCHS = {True: 12, False: 36}

#: Of fewer images each is seen more often, but fewer images are seen in all.
POWER = 0.25
LEAST, MOST = 12, 300

#: What iterations are counted with where nobody asked for a length or a batch: the length must not
#: depend on the machine.
BATCH = 4

#: Averaged are weights over this part of the steps taken so far: what is random at first must be
#: forgotten sooner.
AVERAGED = {True: 10, False: 20}
FRACTIONS = {True: 'tenth', False: 'twentieth'}

#: Of AdamW. Higher ones, made for large batches, come down to it.
GIVEN_RATE = 2e-4

VALIDATIONS = 15
PATIENCE = 5

#: Validations, with their losses, may take this part of the time of all steps: an image is
#: computed forwards twice, which is two thirds of a step's work.
VALIDATION_SHARE, VALIDATION_WORK = 0.2, 2 / 3

#: What is added, with the reason.
ADDED: tuple[tuple[str, dict[str, Any], str], ...] = (
    (
        'ema',
        dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=1e-4, update_buffers=True),
        'Validated and saved is the average over the last {fraction} of the steps taken so far, '
        'which swings less.',
    ),
    (
        'validation_loss',
        dict(type='vitbackbones.ValidationLossHook'),
        'Rising losses of validation while those of training fall are overfitting.',
    ),
    (
        'early_stopping',
        dict(type='vitbackbones.EarlyStoppingHook', patience=PATIENCE),
        f'Stop after {PATIENCE} validations without a better metric, from its first above 0 on.',
    ),
    ('best', dict(type='vitbackbones.BestCheckpointHook'), ''),
)


def epochs_for(images: int, pretrained: bool) -> int:
    """Epochs by the number of images and by whether the backbone has learnt from others."""
    epochs = EPOCHS[pretrained] * (COCO_IMAGES / max(images, 1)) ** POWER
    return round(min(max(epochs, LEAST), MOST))


def validations_for(seen: int, validated: int) -> float:
    """How often to validate while so many images are trained on."""
    affordable = VALIDATION_SHARE * seen / (VALIDATION_WORK * max(validated, 1))
    return min(float(VALIDATIONS), max(1.0, affordable))


def set_schedule(
    draft: Draft,
    *,
    images: int,
    validated: int,
    pretrained: bool,
    epochs: int | None,
    batch: int,
    in_file: int,
    metric: str,
    ours: bool,
) -> None:
    """Set length, rates, validation, checkpoints, averaging and stopping.

    Args:
        images: that are trained on.
        validated: images of validation.
        pretrained: whether the backbone starts from weights that are given.
        epochs: those asked for; None to choose.
        batch: images in one, to count iterations.
        in_file: images in one on this machine.
        metric: by which a checkpoint is the best.
        ours: whether it is one of our configs; others with AdamW know what their heads can take.
    """
    weights = WEIGHTS[pretrained]
    chosen = epochs or epochs_for(images, pretrained)
    total = max(1, round(chosen * images / batch))
    by_epoch = 'max_iters' not in (draft.get('train_cfg') or {})
    why = f'Each of {images} images is seen {chosen} times, '
    if not by_epoch:
        why = f'So many batches of {batch} show each of {images} images {chosen} times, '
    why += 'as was asked for' if epochs else f'for weights are {weights} and images that many'
    why += '.'
    length = chosen if by_epoch else total
    interval = max(1, math.ceil(length / validations_for(chosen * images, validated)))
    validations = -(-length // interval)
    if validations > PATIENCE + 1:
        why = f'{why[:-1]}; it stops earlier where nothing improves.'
    old = draft.get('train_cfg.max_epochs' if by_epoch else 'train_cfg.max_iters') or length
    if by_epoch:
        draft.set('train_cfg.max_epochs', length, why)
    else:
        draft.set('train_cfg.max_iters', length, why)
    draft.set('train_cfg.val_interval', interval, counted(validations, 'validation') + '.')
    draft.drop('train_cfg.dynamic_intervals')
    draft.set(
        'default_hooks.checkpoint',
        dict(
            plain(draft.get('default_hooks.checkpoint') or dict(type='CheckpointHook')),
            interval=interval,
            max_keep_ckpts=2,
            save_best=metric,
        ),
        'Saved after each validation; the best is kept besides the last two.',
    )
    _set_rates(draft, pretrained, total, by_epoch, ours)
    _set_hooks(draft, pretrained, length / old, length)
    unit = 'epochs' if by_epoch else 'iterations'
    more = '' if epochs else ' --epochs sets another.'
    if not by_epoch and in_file != batch:
        times = round(length * in_file / images)
        more += f' In batches of {in_file}, for this machine, that is {times} times.'
    draft.said.append(f'length: {length} {unit}. {why}{more}')


def _set_rates(draft: Draft, pretrained: bool, total: int, by_epoch: bool, ours: bool) -> None:
    warm_up = min(500, max(100, total // 100), max(1, total // 4))
    draft.set(
        'param_scheduler',
        [
            dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warm_up),
            # Without an end: it follows the length, also one of --cfg-options.
            dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
            if by_epoch
            else dict(type='CosineAnnealingLR', by_epoch=False),
        ],
        'A short warm-up, then down to 0 at the end, whatever the length is set to.',
    )
    draft.unsay('schedule')
    rate = draft.get('optim_wrapper.optimizer.lr')
    if not isinstance(rate, float) or type_name(draft.get('optim_wrapper.optimizer')) != 'AdamW':
        return
    new = min(rate, GIVEN_RATE if pretrained else RANDOM_RATE)
    theirs = (draft.original.get('optim_wrapper') or {}).get('optimizer')
    if not pretrained and (ours or type_name(theirs) != 'AdamW'):
        new = RANDOM_RATE
    why = 'The rate it had is made for large batches.'
    if new > rate:
        why = 'From random weights layers learn faster than published rates let given ones.'
    if new != rate:
        draft.set('optim_wrapper.optimizer.lr', new, why)
        draft.unsay('optimizer')
        draft.said.append(f'optimizer: {shown(draft.get("optim_wrapper.optimizer"))}. {why}')
    if not pretrained and not draft.get('optim_wrapper.clip_grad'):
        why = 'From random weights, it keeps the first steps stable.'
        draft.set('optim_wrapper.clip_grad', dict(max_norm=1.0), why)


def _set_hooks(draft: Draft, pretrained: bool, ratio: float, length: int) -> None:
    """Average weights unless something does, let hooks keep their part of the length, and stop."""
    hooks = plain(draft.get('custom_hooks') or [])
    for hook in hooks:
        if hook.get('switch_epoch'):
            hook['switch_epoch'] = max(1, round(hook['switch_epoch'] * ratio))
        if hook.get('num_last_epochs'):
            hook['num_last_epochs'] = min(hook['num_last_epochs'], max(1, length // 10))
    if hooks != plain(draft.get('custom_hooks') or []):
        draft.set(
            'custom_hooks',
            hooks,
            'Hooks that act at an epoch do so at the same part of the training as before.',
        )
    named = {type_name(hook) for hook in hooks}
    for name, hook, why in ADDED:
        if type_name(hook) not in named and not draft.get(f'default_hooks.{name}'):
            own = dict(gamma=AVERAGED[pretrained]) if name == 'ema' else {}
            why = why.format(fraction=FRACTIONS[pretrained])
            draft.set(f'default_hooks.{name}', {**hook, **own}, why)
