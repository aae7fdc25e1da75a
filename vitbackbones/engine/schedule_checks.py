"""Whether the learning rates of optimizers and schedules suit a transformer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch.optim import SGD, Optimizer

from .networks import Network

#: From this rate on SGD is taken for what mmdet's schedules leave behind (0.02 and 0.01, made for
#: ResNets); no published recipe of our networks uses SGD at all.
SGD_RATE = 0.01

_ADAMW = "dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05)"


def sgd_problems(optimizer: Optimizer, networks: Sequence[Network]) -> Iterator[str]:
    """SGD at a rate that is made for ResNets."""
    for network, rate in _sgd_rates(optimizer, networks):
        if rate >= SGD_RATE:
            yield (
                f'optim_wrapper.optimizer is SGD with lr={rate:g}, a rate for ResNets; for '
                f'{network.source}, a transformer, it must be AdamW, as in {_ADAMW}, or SGD below '
                f'{SGD_RATE:g}'
            )


def sgd_warnings(optimizer: Optimizer, networks: Sequence[Network]) -> Iterator[str]:
    """SGD at any lower rate: it may train, but no transformer was ever published with it."""
    for network, rate in _sgd_rates(optimizer, networks):
        if 0 < rate < SGD_RATE:
            yield (
                f'optim_wrapper.optimizer is SGD with lr={rate:g}; {network.source} is a '
                f'transformer, which learns slowly from SGD: all published recipes have AdamW, as '
                f'in {_ADAMW}'
            )


def floor_problems(schedulers: Any) -> Iterator[str]:
    """Schedules whose lowest rate is not below the optimizer's: the rate would rise, or stay.

    One that another one follows may rise, as the first half of a cycle does.

    Args:
        schedulers: mmengine's, as the Runner holds them: a list, or one list per optimizer.
    """
    of_rates = [s for s in _flat(schedulers) if getattr(s, 'param_name', None) == 'lr']
    for scheduler in of_rates:
        floor = getattr(scheduler, 'eta_min', None)
        ratio = getattr(scheduler, 'eta_min_ratio', None)
        if not (floor or ratio) or any(_follows(other, scheduler) for other in of_rates):
            continue
        rate = max(
            (
                float(base)
                for base, group in zip(
                    scheduler.base_values, scheduler.optimizer.param_groups, strict=True
                )
                if any(param.requires_grad for param in group['params'])
            ),
            default=0.0,
        )
        before = (s for s in of_rates if _follows(scheduler, s))
        if floor and floor < max((getattr(s, 'eta_min', None) or 0 for s in before), default=0):
            continue  # it falls from where the one before has brought the rate
        name = type(scheduler).__name__
        if ratio is not None and ratio >= 1:
            yield (
                f'param_scheduler: {name} has eta_min_ratio={ratio:g}, so the learning rate never '
                'falls; it must be below 1'
            )
        elif floor and 0 < rate <= floor:
            yield (
                f'param_scheduler: {name} has eta_min={floor:g}, which is not below '
                f'optim_wrapper.optimizer.lr={rate:g}: the rate would '
                f'{"rise" if floor > rate else "never fall"}; set eta_min=0'
            )


def unit_problems(schedulers: Any, by_epoch: bool) -> Iterator[str]:
    """Schedules that count epochs where training counts iterations: their rates never change.

    Args:
        schedulers: see :func:`floor_problems`. Those that follow a validation are stepped by it.
        by_epoch: whether the training loop counts epochs.
    """
    for scheduler in _flat(schedulers):
        follows_validation = getattr(scheduler, 'need_val_args', False)
        if getattr(scheduler, 'by_epoch', False) and not (by_epoch or follows_validation):
            yield (
                f'param_scheduler: {type(scheduler).__name__} counts epochs, and train_cfg counts '
                'iterations, so that rates would stay what they are in the first one: set '
                'by_epoch=False, and begin and end in iterations'
            )


def warm_up_warnings(schedulers: Any, epochs: int, iterations: int) -> Iterator[str]:
    """Rates that still rise when training ends.

    Args:
        schedulers: see :func:`floor_problems`.
        epochs: the length of training.
        iterations: the same in steps.
    """
    for scheduler in _flat(schedulers):
        first, last = (getattr(scheduler, f'{end}_factor', 0) for end in ('start', 'end'))
        by_epoch = getattr(scheduler, 'by_epoch', False)
        length = epochs if by_epoch else iterations
        if first < last and scheduler.end > length:
            unit = 'epochs' if by_epoch else 'iterations'
            yield (
                f'param_scheduler: {type(scheduler).__name__} warms up until {scheduler.end} '
                f'{unit}, and training has {length}: the learning rate is never reached'
            )


def _follows(later: Any, earlier: Any) -> bool:
    """Whether one schedule begins when the other has ended; epochs and iterations differ."""
    return (
        later.optimizer is earlier.optimizer
        and later.by_epoch == earlier.by_epoch
        and later.begin >= earlier.end
    )


def _flat(schedulers: Any) -> Iterable[Any]:
    if isinstance(schedulers, Mapping):
        return [scheduler for part in schedulers.values() for scheduler in _flat(part)]
    return schedulers if isinstance(schedulers, (list, tuple)) else []


def _sgd_rates(
    optimizer: Optimizer, networks: Sequence[Network]
) -> Iterator[tuple[Network, float]]:
    """The highest rate of each backbone, if ``optimizer`` is SGD."""
    if not isinstance(optimizer, SGD):
        return
    for network in networks:
        own = set(map(id, network.backbone.parameters()))
        # Schedules have set `lr` to its first value; what they start from is kept next to it.
        rates = (
            float(group.get('initial_lr', group['lr']))
            for group in optimizer.param_groups
            if any(id(param) in own and param.requires_grad for param in group['params'])
        )
        yield network, max(rates, default=0.0)
