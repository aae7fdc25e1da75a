"""The life-cycle that all backbones share; the mathematics is in each network's own file."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from vitbackbones import checkpoint as weights
from vitbackbones.layers.memory import keep_freed_memory
from vitbackbones.registry import MODELS

#: What ``init_cfg`` may hold beside the file.
_LOADING_OPTIONS = tuple(inspect.signature(weights.load_pretrained).parameters)[2:]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arch:
    """What a published checkpoint fixes. Tuple fields hold one entry per stage."""

    drop_path_rate: float = 0.1

    def __post_init__(self) -> None:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lengths = {name: len(value) for name, value in fields.items() if isinstance(value, tuple)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f'one entry per stage is needed, got {lengths}')


class Backbone(BaseModule):
    """Base of all backbones: options, freezing, checkpointing, weights.

    A subclass sets the class attributes, builds its layers in its constructor after calling
    ``super().__init__`` and ends it with ``self.finish()``.

    Args:
        arch: name of a published variant, or a dict of all fields of the variant's dataclass.
        in_channels: channels of the input image.
        out_indices: stages to output, 0-based and strictly increasing; None stands for all.
            Stages after the last of them are not built.
        frozen_stages: -1 freezes nothing, 0 the stem, i the stem and stages 1..i. Frozen parts
            need no gradient and stay in eval mode.
        norm_eval: keep every BatchNorm on its running statistics while training.
        with_cp: save memory by recomputing blocks in the backward pass (non-reentrant
            checkpointing; BatchNorm statistics are updated once, not twice).
        drop_path_rate: stochastic depth of the last block, rising linearly from 0;
            None takes the published dense value of ``arch``.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH_OR_URL)``, with options of
            :func:`~vitbackbones.load_pretrained` if needed, or None.

    Attributes:
        arch: the resolved :class:`Arch`.
        out_channels: channels of each output map.
        out_strides: stride of each output map relative to the input.
        has_loaded: whether weights were loaded into it, from whatever file and by whatever loader.

    Raises:
        ValueError: unknown ``arch`` or a value outside its range; the message names the choices.
    """

    archs: ClassVar[Mapping[str, Arch]]
    arch_type: ClassVar[type[Arch]]
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    #: Published name -> ours, as (pattern, replacement) tried in order; None drops a key that a
    #: backbone has no use for. Names that match nothing are already ours.
    official_keys: ClassVar[tuple[tuple[str, str | None], ...]] = ()
    #: The same for the names that timm gives the network, where timm has it.
    timm_keys: ClassVar[tuple[tuple[str, str | None], ...]] = ()
    #: Patterns of our names that a published classifier lacks; they keep their initial values.
    absent_from_classifier: ClassVar[tuple[str, ...]] = ()
    #: The network's name as its paper writes it.
    family: ClassVar[str] = ''
    #: Our name of the first convolution's weight, which adapts to ``in_channels``.
    stem_weight: str = ''
    #: Licence of the published weights where it forbids commercial use.
    weights_licence: ClassVar[str | None] = None

    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]
    has_loaded: bool = False

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=self._check_init_cfg(init_cfg))
        self.arch = self._resolve_arch(arch)
        name, stages = type(self).__name__, len(self.strides)
        indices = whole_numbers(range(stages) if out_indices is None else out_indices)
        if not indices or any(i not in range(stages) for i in indices):
            raise ValueError(
                f'{name}: out_indices={out_indices} must name stages out of {tuple(range(stages))}'
            )
        if any(a >= b for a, b in itertools.pairwise(indices)):
            raise ValueError(f'{name}: out_indices={out_indices} must be strictly increasing')
        if not _is_whole(frozen_stages) or frozen_stages not in range(-1, stages + 1):
            raise ValueError(
                f'{name}: frozen_stages={frozen_stages!r} must be -1 (nothing), 0 (the stem) or a '
                f'number of stages up to {stages}'
            )
        if not _is_whole(in_channels) or in_channels < 1:
            raise ValueError(f'{name}: in_channels={in_channels!r} must be at least 1, and whole')
        rate = self.arch.drop_path_rate if drop_path_rate is None else drop_path_rate
        if not (_is_finite(rate) and 0 <= rate < 1):
            raise ValueError(f'{name}: drop_path_rate={rate!r} must be in [0, 1)')

        self.in_channels = in_channels
        self.out_indices = indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.drop_path_rate = rate
        self.num_stages = max(indices) + 1  # stages that are built
        self.out_strides = tuple(self.strides[i] for i in indices)

    @staticmethod
    def registered() -> dict[str, type[Backbone]]:
        """All backbones that are registered, by the names of their classes, in their order."""
        classes = {cls.__name__: cls for cls in MODELS.module_dict.values()}
        return {name: cls for name, cls in sorted(classes.items()) if issubclass(cls, Backbone)}

    @classmethod
    def _resolve_arch(cls, arch: str | Mapping[str, Any]) -> Arch:
        if isinstance(arch, str) and arch in cls.archs:
            return cls.archs[arch]
        if not isinstance(arch, Mapping):
            choices = ', '.join(map(repr, cls.archs))
            raise ValueError(
                f'{cls.__name__}: unknown arch {arch!r}, choose from {choices}, or give a dict'
            )
        fields = {f.name: f.default for f in dataclasses.fields(cls.arch_type)}
        stages = len(cls.strides)
        arch = {key: _as_tuple(value) for key, value in arch.items()}
        unknown = [key for key in arch if key not in fields]
        missing = [k for k, v in fields.items() if v is dataclasses.MISSING and k not in arch]
        if unknown or missing:
            raise ValueError(
                f'{cls.__name__}: an arch given as a dict has the keys {", ".join(fields)}; '
                f'unknown: {unknown}, missing: {missing}'
            )
        for field in dataclasses.fields(cls.arch_type):
            value = arch.get(field.name, field.default)
            per_stage = str(field.type).startswith('tuple')
            if per_stage and not (isinstance(value, tuple) and len(value) == stages):
                raise ValueError(
                    f'{cls.__name__}: {field.name}={value} must have one entry per stage, {stages}'
                )
            if not all(_fits(number, str(field.type)) for number in _flat(value)):
                raise ValueError(
                    f'{cls.__name__}: {field.name}={value!r} must be '
                    + ('at least 1, and whole' if 'int' in str(field.type) else 'finite')
                )
        try:
            return cls.arch_type(**arch)
        except ValueError as error:
            raise ValueError(f'{cls.__name__}: arch={arch}: {error}') from None

    @classmethod
    def _check_init_cfg(cls, init_cfg: Any) -> dict[str, Any] | None:
        if init_cfg is None:
            return None
        source = init_cfg.get('checkpoint') if isinstance(init_cfg, Mapping) else None
        if (
            not isinstance(source, (str, os.PathLike))
            or not os.fspath(source)
            or init_cfg.get('type') != 'Pretrained'
            or set(init_cfg) - {'type', 'checkpoint', *_LOADING_OPTIONS}
        ):
            raise ValueError(
                f"{cls.__name__}: init_cfg must be None or dict(type='Pretrained', "
                f'checkpoint=PATH_OR_URL), with {", ".join(_LOADING_OPTIONS)} if needed; '
                f'got {init_cfg}'
            )
        return dict(init_cfg)

    # ---------------------------------------------------------------- for subclasses

    def finish(self) -> None:
        """Last line of every constructor: freeze before anything wraps the parameters."""
        self.train()

    def stage_modules(self) -> list[list[nn.Module]]:
        """The parts that ``frozen_stages`` speaks of: the stem, then one list per built stage."""
        raise NotImplementedError(f'{type(self).__name__} must list its stem and stages')

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The layer of a parameter, 0 being the stem, and the number of layers.

        For layer-wise learning rates, in the form that mmpretrain's optimizer constructor reads.
        """
        raise NotImplementedError(f'{type(self).__name__} must number its layers')

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay would harm."""
        return set()

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a file holds, under our names, changed to fit this network; ``state`` stays."""
        return state

    def drop_path_rates(self, depths: Sequence[int]) -> list[list[float]]:
        """Linear rule of stochastic depth: 0 for the first block, the full rate for the last."""
        total = sum(depths)
        rates = iter([self.drop_path_rate * i / max(total - 1, 1) for i in range(total)])
        return [[next(rates) for _ in range(depth)] for depth in depths]

    def check_input(self, x: Tensor) -> None:
        """First line of every ``forward``: see to the memory of a pass on a CPU, and check ``x``.

        Raises:
            ValueError: unless ``x`` is (B, in_channels, H, W) and large enough.
        """
        if x.is_cpu:
            keep_freed_memory()
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'{type(self).__name__}: expected an input of shape '
                f'(B, {self.in_channels}, H, W), got {tuple(x.shape)}'
            )
        smallest = max(self.out_strides)
        if min(x.shape[2:]) < smallest:
            raise ValueError(
                f'{type(self).__name__}: both sides of the input must be at least {smallest}, the '
                f'largest output stride; got {tuple(x.shape)}'
            )

    def run(self, block: nn.Module, *args: Any) -> Any:
        """``block(*args)``, recomputed in the backward pass when ``with_cp`` is set."""
        if not (self.with_cp and torch.is_grad_enabled()):
            return block(*args)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _keep_statistics(block)

        return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)

    # ------------------------------------------------------------------- life-cycle

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def _frozen_modules(self) -> Iterable[nn.Module]:
        return [m for part in self.stage_modules()[: self.frozen_stages + 1] for m in part]

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; frozen parts, and with ``norm_eval`` every BatchNorm, stay in eval."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def init_weights(self) -> None:
        """Load ``init_cfg``'s file; without one the weights stay as the constructor drew them.

        Raises:
            CheckpointError: the file cannot be read or does not fit; no weight was changed then.
            ValueError: ``init_cfg`` was set to something else than the constructor takes.
        """
        options = self._check_init_cfg(self.init_cfg)  # again: it is an attribute to be set
        if options is not None:
            del options['type']
            weights.load_pretrained(self, options.pop('checkpoint'), **options)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any
    ) -> None:
        """Where all loaders pass, torch's and mmengine's, which skips tensors of another shape."""
        self.has_loaded |= any(
            prefix + name in state_dict and state_dict[prefix + name].shape == own.shape
            for name, own in self.named_parameters()
        )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, (list, tuple)) else value


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _fits(value: Any, kind: str) -> bool:
    """Whether ``value`` may be in a field of an arch that is annotated with ``kind``."""
    if value is None and 'None' in kind:
        return True
    if 'int' in kind:
        return _is_whole(value) and value >= 1
    return 'float' not in kind or _is_finite(value)


def whole_numbers(values: Any) -> tuple[int, ...] | None:
    """``values`` as a tuple, or None if they are anything but several whole numbers."""
    values = tuple(values) if isinstance(values, Iterable) else (None,)
    return values if all(map(_is_whole, values)) else None


@contextmanager
def _keep_statistics(module: nn.Module) -> Iterator[None]:
    """Let training-mode BatchNorms normalise by the batch without updating their statistics."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    saved = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def init_transformer(module: nn.Module) -> None:
    """The initialisation of ViT and its descendants, for ``nn.Module.apply``.

    Linear layers: normal of deviation 0.02 truncated at two, zero bias. Convolutions: normal of
    variance 2 / fan_out, zero bias. Norms keep torch's ones and zeros.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2 * module.groups / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
