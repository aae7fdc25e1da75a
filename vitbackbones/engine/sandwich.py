"""Training one set of weights for many operating points: the sandwich rule of SuperViT.

Paper: Lin et al., "Super Vision Transformer", arXiv 2205.11397 (section 3). An operating point is
an image scale and a token keeping rate. How they are trained is a matter of the training loop,
where a config also says how long; the rest of it stays as it is::

    train_cfg = dict(type='vitbackbones.EpochBasedPointsLoop', train_points='sandwich')

One iteration is one optimiser step, however many points it trains. Deliberate choices:

- The gradient is the sum over the passes, as published. To AdamW the factor makes no difference;
  ``clip_grad`` acts once, on the sum, so that its threshold should grow with the passes.
- A published student learns from its teacher's class probabilities, ``student_loss='logits'``.
  Dense heads lack them: there it learns from the task, from its teacher's feature maps, or from
  both. The task alone was the best (docs/operating_points.md).
- BatchNorms of neck and head normalise each pass by itself and have one set of running statistics,
  which every pass through them updates: evaluation uses the average over the points.
- Points are drawn from the run's seed and the iteration's number: alike in all processes, and
  after resuming.
- Outside of a training pass the backbone is at its own operating point: validation during
  training, for one, measures that.
"""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor
from torch.nn import functional as F

from vitbackbones.registry import LOOPS, register

from . import mmengine_compat as compat

# As published: 128, 160, 192 and 224 of 224 pixels, and the keeping rates of training.
SCALES = (8 / 14, 10 / 14, 12 / 14, 1.0)
KEEP_RATES = (0.5, 0.7, 1.0)

TRAIN_POINTS = ('fixed', 'random', 'sandwich')
STUDENT_LOSSES = ('task', 'distill', 'both', 'logits')
TEACHERS = ('same_scale', 'full')


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass; ``name`` is the prefix of its losses in the log."""

    name: str
    scale: float
    keep_rate: float
    student: bool = False  # of the pass before it
    weight: float = 1.0  # of its losses


def sandwich_passes(
    draw: random.Random,
    scales: Sequence[float],
    keep_rates: Sequence[float],
    small_weight: float = 1.0,
) -> list[Pass]:
    """The published rule: at the full and at a smaller scale, all tokens and then fewer of them.

    The largest scale and rate are always trained, the others are drawn. Where there is nothing
    smaller to draw, its passes are left out. ``small_weight``, published as 1, is that of the
    passes at the smaller scale.
    """
    *smaller, full = sorted(set(scales))
    *fewer, every = sorted(set(keep_rates))
    sizes = {'full': (full, 1.0)}
    if smaller:
        sizes['small'] = (draw.choice(smaller), small_weight)
    passes = []
    for name, (scale, weight) in sizes.items():
        passes.append(Pass(name, scale, every, weight=weight))
        if fewer:
            rate = draw.choice(fewer)
            passes.append(Pass(f'{name}_pruned', scale, rate, student=True, weight=weight))
    return passes


def sandwich_step(
    model: BaseModel,
    data: Any,
    optim_wrapper: OptimWrapper,
    passes: Sequence[Pass],
    student_loss: str = 'task',
    distill_weight: float = 1.0,
    teacher: str = 'same_scale',
) -> dict[str, Tensor]:
    """One iteration: a backward pass right after each forward pass, then one optimiser step.

    The data are preprocessed once. Only one pass's graph exists at a time; of a teacher nothing
    but the values of its feature maps stays. DDP averages gradients in the last pass, and waits for
    those of the heads there: under DDP it runs them even if they learn nothing.

    Args:
        model: whose backbone has operating points, wrapped or not.
        data: a batch of the data loader.
        passes: each student right after its teacher, see :func:`sandwich_passes`.
        student_loss, teacher: see :class:`PointsLoop`.
        distill_weight: factor of :func:`map_error` or :func:`class_error`.

    Returns:
        What to log: the weighted ``loss`` of all passes, and the losses of each under its name.
    """
    module = model.module if is_model_wrapper(model) else model
    backbone = module.backbone
    data = module.data_preprocessor(data, True)
    iteration = optim_wrapper.inner_count
    logs: dict[str, Tensor] = {}
    maps: list[Tensor] = []
    taught: list[Tensor] = []
    error = class_error if student_loss == 'logits' else map_error
    hook = backbone.register_forward_hook(lambda module, args, output: maps.extend(output))
    try:
        for p in passes:
            last = p is passes[-1]
            task = not p.student or student_loss in ('task', 'both')
            distill = p.student and student_loss != 'task'
            # mmengine counts backward passes. For its accumulation over iterations, those of one
            # iteration are one.
            compat.set_inner_count(optim_wrapper, iteration)
            with at_point(backbone, p.scale, p.keep_rate), _no_sync(model, unless=last):
                with optim_wrapper.optim_context(model):
                    if task or (last and is_model_wrapper(model)):
                        loss, log = module.parse_losses(_losses(model, data))
                    else:
                        loss, log = 0.0, {}
                        backbone(data['inputs'])
                if not task:
                    loss, log = 0 * torch.as_tensor(loss).nan_to_num(), {}
                if distill:
                    log['loss_distill'] = distill_weight * error(maps, taught)
                    loss = log['loss'] = loss + log['loss_distill']
                if teacher == 'same_scale' or p is passes[0]:
                    has_student = not p.student and student_loss != 'task'
                    taught = [x.detach() for x in maps] if has_student else []
                maps.clear()
                loss = p.weight * loss
                if last:
                    optim_wrapper.update_params(loss)
                else:
                    optim_wrapper.backward(optim_wrapper.scale_loss(loss))
            logs |= {f'{p.name}.{key}': value.detach() for key, value in log.items()}
    finally:
        hook.remove()
    total = torch.stack([p.weight * logs[f'{p.name}.loss'] for p in passes]).sum()
    return {'loss': total, **logs}


def map_error(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Squared error of (B, C, H, W) maps in units of the teacher's variance, averaged.

    The variance is one map's of one image: maps of any range weigh the same, and a batch gives
    the same spread over several processes as in one.
    """
    errors = []
    for x, y in zip(student, teacher, strict=True):
        x, y = x.float().flatten(1), y.float().flatten(1)  # (B, C * H * W)
        errors.append((x - y).square().mean(1) / y.var(1).clamp_min(1e-6))
    return torch.stack(errors).mean()


def class_error(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Kullback-Leibler divergence of class probabilities from the teacher's, mean over images.

    Both are logits (B, num_classes).
    """
    (x,), (y,) = student, teacher
    x, y = x.float().log_softmax(1), y.float().log_softmax(1)
    return F.kl_div(x, y, reduction='batchmean', log_target=True)


@contextmanager
def at_point(backbone: Any, scale: float, keep_rate: float) -> Iterator[None]:
    """Let ``backbone`` work at another operating point than its own."""
    own = backbone.operating_point
    backbone.operating_point = dict(scale=scale, keep_rate=keep_rate)
    try:
        yield
    finally:
        backbone.operating_point = own


def _no_sync(model: BaseModel, unless: bool) -> AbstractContextManager[None]:
    """Keep DDP from averaging gradients over the processes."""
    return nullcontext() if unless or not hasattr(model, 'no_sync') else model.no_sync()


def _losses(model: Any, data: Any) -> Any:
    """What the model, wrapped or not, has for losses of a batch that has been preprocessed."""
    if isinstance(data, Mapping):
        return model(**data, mode='loss')
    return model(*data, mode='loss')


def _iterations(loop: Any) -> int:
    """How many a loop has made; the mixin does not know which loop of mmengine's it is of."""
    return loop.iter


class PointsLoop:
    """What :class:`EpochBasedPointsLoop` and :class:`IterBasedPointsLoop` add to mmengine's loops.

    A sandwich calls the model's parts itself: what an mmengine option does to ``train_step`` (the
    runner's ``compile``, DDP's ``detect_anomalous_params``) does not reach it. How many tokens a
    point leaves depends on the image, so that one of too few is found when it comes.

    Args:
        train_points: 'fixed' trains the backbone's own operating point, 'random' one point per
            iteration out of all pairs of ``scales`` and ``keep_rates``, 'sandwich' four of them,
            see :func:`sandwich_passes`.
        scales: to be trained, in (0, 1].
        keep_rates: to be trained, in (0, 1].
        student_loss: what a pass with fewer tokens learns from: 'task' from the annotations,
            'distill' from the feature maps of the pass with all of them, 'both' from the two,
            'logits' from its class probabilities, where the backbone is a whole classifier.
        teacher: which pass with all of them that is: 'same_scale' the one right before, as
            published for DeiT-S, 'full' the one at the largest scale, as published for LV-ViT-S.
        distill_weight: factor of the distillation loss, see :func:`map_error` and
            :func:`class_error`.
        small_weight: of the losses of a sandwich's passes at the smaller scale. Below 1, accuracy
            moves from the reduced scales to the largest one.
        loop: the arguments of mmengine's loop.

    Raises:
        ValueError: a value outside its choices, or a backbone without operating points.
    """

    runner: Runner

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        *,
        train_points: str = 'sandwich',
        scales: Sequence[float] = SCALES,
        keep_rates: Sequence[float] = KEEP_RATES,
        student_loss: str = 'task',
        teacher: str = 'same_scale',
        distill_weight: float = 1.0,
        small_weight: float = 1.0,
        **loop: Any,
    ) -> None:
        self.train_points = train_points
        self.scales = scales
        self.keep_rates = keep_rates
        self.student_loss = student_loss
        self.teacher = teacher
        self.distill_weight = distill_weight
        self.small_weight = small_weight
        module = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.backbone = getattr(module, 'backbone', module)
        self._check()  # before workers are started
        inherited = list(inspect.signature(super().__init__).parameters)[2:]
        for option in loop:
            if option not in inherited:
                own = [key for key in vars(self) if key != 'backbone']
                choices = ', '.join([*own, *inherited])
                raise ValueError(
                    f'{type(self).__name__} has no option {option!r}, choose from {choices}'
                )
        super().__init__(runner, dataloader, **loop)  # type: ignore[call-arg]

    def _check(self) -> None:
        name = type(self).__name__
        choices_of = {
            'train_points': TRAIN_POINTS,
            'student_loss': STUDENT_LOSSES,
            'teacher': TEACHERS,
        }
        for option, choices in choices_of.items():
            value = getattr(self, option)
            if value not in choices:
                raise ValueError(f'{name}: {option}={value!r} must be one of {choices}')
        for option in ('distill_weight', 'small_weight'):
            if not getattr(self, option) > 0:
                raise ValueError(f'{name}: {option}={getattr(self, option)} must be positive')
        if self.train_points == 'fixed':
            return
        if not hasattr(self.backbone, 'operating_point'):
            raise ValueError(
                f'{name}: train_points={self.train_points!r} needs a backbone with operating '
                f'points, which SuperViT is; got {type(self.backbone).__name__}'
            )
        if self.student_loss == 'logits' and not hasattr(self.backbone, 'num_classes'):
            raise ValueError(
                f"{name}: student_loss='logits' needs a backbone that is a whole classifier, which "
                f'SuperViTClassifier is; got {type(self.backbone).__name__}'
            )
        frozen = not any(p.requires_grad for p in self.backbone.parameters())
        if frozen and self.train_points == 'sandwich' and self.student_loss != 'task':
            raise ValueError(
                f'{name}: student_loss={self.student_loss!r} trains nothing but the backbone, '
                "which is frozen; use 'task'"
            )
        for option in ('scales', 'keep_rates'):
            values = getattr(self, option)
            if not isinstance(values, (list, tuple)) or not values:
                raise ValueError(f'{name}: {option}={values!r} must list values in (0, 1]')
        for scale, keep_rate in itertools.product(self.scales, self.keep_rates):
            try:
                with at_point(self.backbone, scale, keep_rate):
                    pass
            except ValueError as error:
                raise ValueError(f'{name}: scales or keep_rates: {error}') from None

    def train_step(self, data_batch: Any) -> dict[str, Tensor]:
        """Train on one batch with one optimiser step; returns what to log."""
        model, optim_wrapper = self.runner.model, self.runner.optim_wrapper
        draw = random.Random(f'{self.runner.seed} {_iterations(self)}')
        if self.train_points == 'sandwich':
            passes = sandwich_passes(draw, self.scales, self.keep_rates, self.small_weight)
            return sandwich_step(
                model,
                data_batch,
                optim_wrapper,
                passes,
                self.student_loss,
                self.distill_weight,
                self.teacher,
            )
        point: AbstractContextManager[None] = nullcontext()
        if self.train_points == 'random':
            point = at_point(self.backbone, draw.choice(self.scales), draw.choice(self.keep_rates))
        with point:
            return model.train_step(data_batch, optim_wrapper=optim_wrapper)

    def train_iter(self, batch_idx: int, data_batch: Any) -> None:
        """What mmengine's loops do in an iteration, around our :meth:`train_step`."""
        call_hook = self.runner.call_hook
        call_hook('before_train_iter', batch_idx=batch_idx, data_batch=data_batch)
        outputs = self.train_step(data_batch)
        call_hook('after_train_iter', batch_idx=batch_idx, data_batch=data_batch, outputs=outputs)
        compat.set_iteration(self, _iterations(self) + 1)


@register(LOOPS)
class EpochBasedPointsLoop(PointsLoop, EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop`` with the options of :class:`PointsLoop`."""

    def run_iter(self, idx: int, data_batch: Any) -> None:
        self.train_iter(idx, data_batch)


@register(LOOPS)
class IterBasedPointsLoop(PointsLoop, IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop`` with the options of :class:`PointsLoop`."""

    def run_iter(self, data_batch: Any) -> None:
        self.train_iter(_iterations(self), data_batch)
