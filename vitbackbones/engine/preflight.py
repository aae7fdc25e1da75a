"""What can be wrong with a training run before its first step, said before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from vitbackbones.checkpoint.meta import trained_classes
from vitbackbones.checkpoint.reading import preview
from vitbackbones.data.loading import annotation_problems, classes_of, order_problem
from vitbackbones.metafiles import published_weights
from vitbackbones.registry import HOOKS, register

from .anchors import unmatched_objects
from .last_batch import lonely_images
from .lost_options import former_keys, lost_options
from .networks import Network, networks_of, optimizers_of, unwrapped
from .pixels import other_pixels
from .samples import training_samples
from .schedule_checks import (
    floor_problems,
    sgd_problems,
    sgd_warnings,
    unit_problems,
    warm_up_warnings,
)
from .wiring import Size, Unread, try_wiring

#: Images that are looked at for the objects in them, at most.
SAMPLES = 100


class PreflightError(ValueError):
    """A model, an optimizer or data that would train or be tested wrongly, or not at all.

    Attributes:
        problems: one sentence each.
    """

    def __init__(self, problems: Sequence[str], what: str = 'training') -> None:
        self.problems = tuple(problems)
        super().__init__('\n  - '.join([f'{what} cannot start:', *problems]))


@register(HOOKS)
class PreflightHook(Hook):
    """Checks a training run with one of our backbones; costs nothing after its first step.

    Before the first iteration it stops with a list of all that does not fit: channels of neck and
    heads, strides of anchors and of RoI extractors, learning rates, maps that nobody reads where
    that stops DistributedDataParallel, options that were set where nothing reads them, annotations
    in COCO's format that cannot be trained on. It warns of what will train, but not well: a
    backbone that starts from random weights, pixels that its weights do not know, objects that no
    anchor matches, SGD, maps that nobody reads; and after the first step of each optimizer of
    parameters that got no gradient. Before a test it stops at classes in another order than that of
    the checkpoint. Backbones of others are left alone, their gradients aside.

    ::

        custom_hooks = [dict(type='vitbackbones.PreflightHook')]  # the prefix imports it
    """

    def __init__(self) -> None:
        self._done: list[RemovableHandle] = []
        self._classes: Sequence[str] | None = None  # of the checkpoint that was loaded

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self._classes = trained_classes(checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Check model, optimizer, schedule and data; weights are loaded by now.

        Raises:
            PreflightError: something does not fit.
        """
        networks, optimizers = networks_of(runner.model), optimizers_of(runner)
        # A loop of anyone's may do without.
        dataset = getattr(getattr(runner, 'train_dataloader', None), 'dataset', None)
        problems, warnings = _of_networks(runner, networks, dataset)
        for optimizer in optimizers:
            problems += sgd_problems(optimizer, networks)
            warnings += sgd_warnings(optimizer, networks)
        problems += lonely_images(runner.model, getattr(runner, 'train_dataloader', None))
        if networks:
            schedulers = getattr(runner, 'param_schedulers', None)
            problems += floor_problems(schedulers)
            loop = getattr(runner, 'train_loop', None)
            if isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
                problems += unit_problems(schedulers, not isinstance(loop, IterBasedTrainLoop))
                warnings += warm_up_warnings(schedulers, loop.max_epochs, loop.max_iters)
            cfg = getattr(runner, 'cfg', None) or Config()
            lost, perhaps = lost_options(cfg)
            problems += lost
            warnings += [*perhaps, *former_keys(cfg)]
        tested = getattr(getattr(runner, 'val_dataloader', None), 'dataset', None)
        problems += annotation_problems(dataset)
        problems += annotation_problems(tested, _evaluators(runner, 'val'))
        ours = classes_of(dataset)
        problems += order_problem(ours, self._classes, whose='the checkpoint')
        problems += order_problem(classes_of(tested), ours, whose='the training data')
        if problems:
            raise PreflightError(list(dict.fromkeys(problems)))
        if is_main_process():  # the others would say the same
            for network in networks:
                warnings += unmatched_objects(network, training_samples(dataset, SAMPLES))
            for line in dict.fromkeys(warnings):
                runner.logger.warning(line)
        for optimizer in optimizers:
            self._watch(runner, optimizer)

    def before_test(self, runner: Runner) -> None:
        """Check that labels stand for the classes that were trained; weights are loaded by now.

        Raises:
            PreflightError: they do not.
        """
        dataset = getattr(getattr(runner, 'test_dataloader', None), 'dataset', None)
        problems = [
            *annotation_problems(dataset, _evaluators(runner, 'test')),
            *order_problem(classes_of(dataset), self._classes, whose='the checkpoint'),
        ]
        if problems:
            raise PreflightError(problems, 'the test')

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Take the watch off optimizers that had their first step; they cannot while they step."""
        while self._done:
            self._done.pop().remove()

    def _watch(self, runner: Runner, optimizer: Optimizer) -> None:
        """Name the parameters without gradient when ``optimizer`` makes its first step.

        By then the gradients that are to accumulate have done so, and the processes of a
        distributed run have exchanged theirs.
        """
        names = {id(param): name for name, param in unwrapped(runner.model).named_parameters()}

        def check(optimizer: Optimizer, *args: Any) -> None:
            if not names:
                return  # several steps in one iteration
            params = [param for group in optimizer.param_groups for param in group['params']]
            idle = [names.get(id(p), '?') for p in params if p.requires_grad and p.grad is None]
            if idle:
                runner.logger.warning(
                    f'{len(idle)} of {len(params)} parameters got no gradient in the first step: '
                    f'{preview(idle, 20)}. They do not learn: no loss depends on them'
                )
            names.clear()
            self._done.append(handle)

        handle = optimizer.register_step_pre_hook(check)


def _evaluators(runner: Runner, split: str) -> list[Any]:
    """The configs of a split's metrics, those inside an evaluator too."""
    cfg = getattr(runner, 'cfg', None) or {}
    return list(_metrics(cfg.get(f'{split}_evaluator')))


def _metrics(part: Any) -> Iterator[Any]:
    if isinstance(part, dict) and 'metrics' in part:
        yield from _metrics(part['metrics'])
    elif isinstance(part, (list, tuple)):
        for inner in part:
            yield from _metrics(inner)
    else:
        yield part


# ---------------------------------------------------------------------------- the networks


def _of_networks(
    runner: Runner, networks: Sequence[Network], dataset: Any
) -> tuple[list[str], list[str]]:
    """What stops training, and what is only said, of each network by itself."""
    problems: list[str] = []
    warnings: list[str] = []
    cfg = getattr(runner, 'cfg', None) or {}
    for network in networks:
        wiring = try_wiring(network, partial(_image_size, network, dataset))
        problems += [misfit.text for misfit in wiring.misfits]
        for unread in wiring.unread:
            if unread.idle and _needs_every_gradient(runner.model):
                problems.append(_unread_text(unread, parallel=True))
            else:
                warnings.append(_unread_text(unread, parallel=False))
        if not network.backbone.has_loaded:
            warnings.append(_random_start(network))
        elif not (cfg.get('load_from') or cfg.get('resume')):
            lines = list(other_pixels(network, runner.model))
            # What is no more raw bytes has been normalised in the pipeline.
            warnings += [] if lines and _are_floating(dataset) else lines
    return problems, warnings


def _image_size(network: Network, dataset: Any) -> Size | None:
    """Height and width of a training image as the model gets it; None if it cannot be told."""
    for sample in training_samples(dataset, 1):
        image = sample.get('inputs')
        preprocessor = getattr(network.owner, 'data_preprocessor', None)
        if isinstance(image, Tensor) and image.ndim == 3:
            divisor = getattr(preprocessor, 'pad_size_divisor', None) or 1
            height, width = (-(-side // divisor) * divisor for side in image.shape[1:])
            return height, width
    return None


def _are_floating(dataset: Any) -> bool:
    """Whether the pipeline hands on numbers in the place of bytes."""
    images = (sample.get('inputs') for sample in training_samples(dataset, 1))
    return any(isinstance(image, Tensor) and image.is_floating_point() for image in images)


def _needs_every_gradient(model: nn.Module) -> bool:
    """Whether processes wait for the gradient of every parameter, and stop if one never comes."""
    return any(
        isinstance(part, DistributedDataParallel)
        and not (part.find_unused_parameters or part.static_graph)
        for part in model.modules()
    )


def _unread_text(unread: Unread, *, parallel: bool) -> str:
    maps = ', '.join(
        f'{i} (stride {stride:g})' for i, stride in zip(unread.indices, unread.strides, strict=True)
    )
    plural = 's' if len(unread.indices) > 1 else ''
    text = f'nothing reads map{plural} {maps} of the {unread.outputs} of {unread.source}'
    if unread.idle:
        text += f', so that {unread.idle} parameters get no gradient'
    if parallel:
        return (
            f'{text}: DistributedDataParallel would stop in the second iteration; output only what '
            'is read, by out_indices or num_outs, or set find_unused_parameters=True'
        )
    return f'{text}; output only what is read, by out_indices or num_outs'


def _random_start(network: Network) -> str:
    """One line: what starts from random weights, and where published ones are."""
    path, _, backbone = network
    variants = published_weights(type(backbone).__name__)
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
