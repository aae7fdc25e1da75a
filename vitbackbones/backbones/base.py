"""The life-cycle that all backbones share; the mathematics is in each network's own file."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, TypedDict

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from vitbackbones import checkpoint as weights
from vitbackbones.layers.door import Signature, fast_paths, unobserved_cpu_inference
from vitbackbones.layers.heap import retain_heap
from vitbackbones.layers.layout import channels_first
from vitbackbones.registry import MODELS

from .arch import Arch, int_tuple, is_finite, is_whole, parse_arch

#: What ``init_cfg`` may hold beside the file.
_LOADING_OPTIONS = tuple(inspect.signature(weights.load_pretrained).parameters)[2:]

#: What a layer is made of: modules, and parameters that belong to no module but the network.
Part = nn.Module | nn.Parameter
#: Parts of one layer, each with its stage: 0 is the stem, None is never frozen.
Layer = list[tuple[int | None, Part]]


class Options(TypedDict, total=False):
    """The options that all backbones have; :class:`Backbone` says what they do."""

    in_channels: int
    out_indices: Sequence[int] | None
    frozen_stages: int
    norm_eval: bool
    with_cp: bool
    drop_path_rate: float | None
    init_cfg: Mapping[str, Any] | None


class Backbone(BaseModule):
    """Base of all backbones: options, freezing, checkpointing, weights, and the way of a pass.

    A subclass sets the class attributes, builds its layers in its constructor after calling
    ``super().__init__(arch, **options)`` and ends it with ``self.finish()``; :meth:`feature_maps`
    is what it computes. Its constructor names the options that are its own; the signature of the
    class has these and the shared ones.

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
        TypeError: an option that the class does not have.
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
    _signature = Signature(())  # of a network that never finished, or was saved by an older release

    def __init_subclass__(cls) -> None:
        """Let the signature name the shared options where the constructor says ``**options``."""
        super().__init_subclass__()
        _, *own = inspect.signature(cls.__init__).parameters.values()
        named = {p.name: p for p in own if p.kind is not p.VAR_KEYWORD}
        if len(named) < len(own):
            parent = next(base for base in cls.__mro__[1:] if issubclass(base, Backbone))
            for p in inspect.signature(parent).parameters.values():
                if p.kind is p.KEYWORD_ONLY and p.name not in named:
                    every = tuple(range(len(cls.strides)))  # what None stands for
                    whole = p.name == 'out_indices' and p.default is None
                    named[p.name] = p.replace(default=every) if whole else p
        cls.__signature__ = inspect.Signature([*named.values()])

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
        **unknown: Any,
    ) -> None:
        if unknown:
            raise TypeError(
                f'{type(self).__name__} has no option {next(iter(unknown))!r}, choose from '
                f'{", ".join(inspect.signature(type(self)).parameters)}'
            )
        super().__init__(init_cfg=self._check_init_cfg(init_cfg))
        self.arch = self.resolve_arch(arch)
        name, stages = type(self).__name__, len(self.strides)
        indices = int_tuple(range(stages) if out_indices is None else out_indices)
        if not indices or any(i not in range(stages) for i in indices):
            raise ValueError(
                f'{name}: out_indices={out_indices} must name stages out of {tuple(range(stages))}'
            )
        if any(a >= b for a, b in itertools.pairwise(indices)):
            raise ValueError(f'{name}: out_indices={out_indices} must be strictly increasing')
        if not is_whole(frozen_stages) or frozen_stages not in range(-1, stages + 1):
            raise ValueError(
                f'{name}: frozen_stages={frozen_stages!r} must be -1 (nothing), 0 (the stem) or a '
                f'number of stages up to {stages}'
            )
        if not is_whole(in_channels) or in_channels < 1:
            raise ValueError(f'{name}: in_channels={in_channels!r} must be at least 1, and whole')
        rate = self.arch.drop_path_rate if drop_path_rate is None else drop_path_rate
        if not (is_finite(rate) and 0 <= rate < 1):
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
    def resolve_arch(cls, arch: str | Mapping[str, Any]) -> Arch:
        """The arch of that name, or of a dict of its fields; ValueError if there is none."""
        return parse_arch(cls.__name__, arch, cls.archs, cls.arch_type, len(cls.strides))

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
        if '_signature' not in vars(self):  # a subclass may alter what it inherits, then finish too
            self.sign()

    def sign(self) -> None:
        """Let what the network is now be what it was built as, for the fast ways through it.

        For rewrites like :func:`~vitbackbones.deploy.fuse` that use this package's layers as the
        network's own code does.
        """
        self._signature = Signature.of(self)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> one (B, C, H', W') map per entry of ``out_indices``.

        Mathematics alone: where it can be computed faster, the functions of
        :mod:`vitbackbones.layers` know, and ask nobody but the door that ``forward`` has opened.
        """
        raise NotImplementedError(f'{type(self).__name__} must say what it computes')

    def layers(self) -> list[Layer]:
        """All of the network in layers: the stem, one layer per block, what follows the blocks.

        Layers are what layer-wise learning rates count, and what is worth wrapping one by one; the
        stages of their parts are what ``frozen_stages`` counts. Output norms, which the heads read
        at once, may stand in the last layer whatever their stage.
        """
        raise NotImplementedError(f'{type(self).__name__} must list its layers')

    def stage_modules(self) -> list[list[nn.Module]]:
        """The modules that ``frozen_stages`` speaks of: those of the stem, then of each stage."""
        return [[p for p in parts if isinstance(p, nn.Module)] for parts in self._stage_parts()]

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The layer of a parameter, 0 being the stem, and the number of layers.

        For layer-wise learning rates, in the form that mmpretrain's optimizer constructor reads.

        Args:
            param_name: with ``prefix``; whatever else is in a model comes with the last layer.

        Raises:
            ValueError: the network has no such parameter.
        """
        layers = self.layers()
        if not param_name.startswith(prefix):
            return len(layers) - 1, len(layers)
        depths = {id(part): depth for depth, layer in enumerate(layers) for _, part in layer}
        part: Any = self
        for name in param_name[len(prefix) :].split('.'):
            part = getattr(part, name, None)
            if id(part) in depths:
                return depths[id(part)], len(layers)
        raise ValueError(f'{type(self).__name__} has no parameter {param_name[len(prefix) :]!r}')

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

    def run(self, block: nn.Module, *args: Any) -> Any:
        """``block(*args)``, recomputed in the backward pass when ``with_cp`` is set."""
        if not (self.with_cp and torch.is_grad_enabled()):
            return block(*args)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _keep_statistics(block)

        return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)

    # ----------------------------------------------------------------------- a pass

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> one (B, C, H', W') map per entry of ``out_indices``.

        Raises:
            ValueError: unless ``x`` is (B, in_channels, H, W) and large enough.
        """
        self.check_input(x)
        if x.is_cpu:
            retain_heap()
        if torch.compiler.is_compiling():  # which cannot look through the door, and need not
            return tuple(map(channels_first, self.feature_maps(x)))
        with fast_paths(unobserved_cpu_inference(x) and self._signature.holds(self)):
            return tuple(map(channels_first, self.feature_maps(x)))

    def check_input(self, x: Tensor) -> None:
        """Whether ``x`` may be computed.

        Raises:
            ValueError: unless ``x`` is (B, in_channels, H, W) and large enough.
        """
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

    # ------------------------------------------------------------------- life-cycle

    def _stage_parts(self) -> list[list[Part]]:
        stages: list[list[Part]] = [[] for _ in range(len(self.strides) + 1)]
        for stage, part in itertools.chain(*self.layers()):
            if stage is not None:
                stages[stage].append(part)
        return stages

    def _freeze(self) -> None:
        for part in itertools.chain(*self._stage_parts()[: self.frozen_stages + 1]):
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                part.eval()

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


def in_stage(stage: int | None, *parts: Part | None) -> Layer:
    """Parts of a stage as a layer, without those that are None."""
    return [(stage, part) for part in parts if part is not None]


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
