"""The life-cycle that all backbones share; the mathematics is in each network's own file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitbackbones.checkpoint.names import CheckpointNames
from vitbackbones.layers.door import Signature, fast_paths, unobserved_on_cpu
from vitbackbones.layers.heap import retain_heap
from vitbackbones.layers.layout import channels_first
from vitbackbones.layers.recompute import recompute
from vitbackbones.registry import MODELS

from . import options as shared
from .arch import Arch, parse_arch
from .listing import Layer, depth_of, in_stage, parts_up_to
from .options import Options

__all__ = ['Backbone', 'CheckpointNames', 'Layer', 'Options', 'in_stage', 'load_init_cfg']


class Backbone(BaseModule):
    """Base of all backbones: options, freezing, recomputation, weights, and the way of a pass.

    A subclass sets the class attributes, builds its layers in its constructor after calling
    ``super().__init__(arch, **options)`` and ends it with ``self.finish()``; :meth:`feature_maps`
    is what it computes. Its constructor names its own options, the signature the shared ones too.

    Args:
        arch: name of a published variant, or a dict of all fields of the variant's dataclass.
        options: those of :class:`~vitbackbones.backbones.options.Options`.

    Attributes:
        arch: the resolved :class:`Arch`.
        out_channels, out_strides: of each output map; strides are relative to the input.
        has_loaded: whether weights were loaded into it, from whatever file and by whatever loader.

    Raises:
        ValueError: unknown ``arch`` or a value outside its range; the message names the choices.
        TypeError: an option that the class does not have.
    """

    archs: ClassVar[Mapping[str, Arch]]
    arch_type: ClassVar[type[Arch]]
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    family: ClassVar[str] = ''  #: the network's name as its paper writes it
    checkpoint_names: CheckpointNames = CheckpointNames()
    attends: ClassVar[tuple[str, str] | None] = None  #: pattern of modules, name of their formula

    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]
    has_loaded: bool = False
    dense: ClassVar[bool] = True  #: whether the outputs are maps
    _signature = Signature(())  # of a network that never finished

    def __init_subclass__(cls) -> None:
        """Let the signature name the shared options where the constructor says ``**options``."""
        super().__init_subclass__()
        parent = next(base for base in cls.__mro__[1:] if issubclass(base, Backbone))
        cls.__signature__ = shared.full_signature(cls, parent, len(cls.strides))

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
        shared.refuse_unknown(type(self), unknown)
        name, stages = type(self).__name__, len(self.strides)
        super().__init__(init_cfg=shared.checked_init_cfg(name, init_cfg))
        self.arch = self.resolve_arch(arch)
        self.out_indices = shared.checked_out_indices(name, out_indices, stages)
        self.frozen_stages = shared.checked_frozen_stages(name, frozen_stages, stages)
        self.in_channels = shared.checked_in_channels(name, in_channels)
        self.drop_path_rate = shared.checked_drop_path_rate(name, drop_path_rate, self.arch)
        self.norm_eval, self.with_cp = norm_eval, with_cp
        self.num_stages = max(self.out_indices) + 1  # stages that are built
        self.out_strides = tuple(self.strides[i] for i in self.out_indices)

    @staticmethod
    def registered() -> dict[str, type[Backbone]]:
        """All that make maps and are registered, by the names of their classes, in their order."""
        found = [c for c in MODELS.module_dict.values() if issubclass(c, Backbone) and c.dense]
        return {cls.__name__: cls for cls in sorted(found, key=lambda cls: cls.__name__)}

    @classmethod
    def resolve_arch(cls, arch: str | Mapping[str, Any]) -> Arch:
        """The arch of that name, or of a dict of its fields; ValueError if there is none."""
        return parse_arch(cls.__name__, arch, cls.archs, cls.arch_type, len(cls.strides))

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

    def is_as_built(self) -> bool:
        """Whether its layers are those that it was built of, and nobody watches them."""
        return self._signature.holds(self)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> one (B, C, H', W') map per entry of ``out_indices``.

        Mathematics alone: the faster ways are in :mod:`vitbackbones.layers`, behind the door.
        """
        raise NotImplementedError(f'{type(self).__name__} must say what it computes')

    def layers(self) -> list[Layer]:
        """All of the network in layers: the stem, one layer per block, what follows the blocks.

        Layers are what layer-wise learning rates count, and what is worth wrapping one by one; the
        stages of their parts are what ``frozen_stages`` counts. Output norms, which the heads read
        at once, may stand in the last layer whatever their stage.
        """
        raise NotImplementedError(f'{type(self).__name__} must list its layers')

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
        return depth_of(param_name[len(prefix) :], self, layers), len(layers)

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
        needed = self.with_cp and torch.is_grad_enabled()
        return recompute(block, *args) if needed else block(*args)

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
        with fast_paths(unobserved_on_cpu(x) and self.is_as_built()):
            return tuple(map(channels_first, self.feature_maps(x)))

    def check_input(self, x: Tensor) -> None:
        """ValueError unless ``x`` is (B, in_channels, H, W) and large enough."""
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

    def _freeze(self) -> None:
        for part in parts_up_to(self.frozen_stages, self.layers()):
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                part.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; frozen parts, and with ``norm_eval`` every BatchNorm, stay in eval."""
        super().train(mode)
        if mode:
            self._freeze()
            for module in self.modules() if self.norm_eval else ():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Load ``init_cfg``'s file; without one the weights stay as the constructor drew them.

        Raises:
            CheckpointError: the file cannot be read or does not fit; no weight was changed then.
            ValueError: ``init_cfg`` was set to something else than the constructor takes.
        """
        load_init_cfg(self)

    def _load_from_state_dict(self, state: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        """Where all loaders pass, torch's and mmengine's, which skips tensors of another shape."""
        self.has_loaded |= any(
            prefix + name in state and state[prefix + name].shape == own.shape
            for name, own in self.named_parameters()
        )
        super()._load_from_state_dict(state, prefix, *args)


def load_init_cfg(network: BaseModule) -> None:
    """Load the file that the ``init_cfg`` of a backbone or of a classifier names, if any."""
    options = shared.checked_init_cfg(type(network).__name__, network.init_cfg)
    if options is not None:
        from vitbackbones.pretrained import load_pretrained  # which knows the backbones

        del options['type']
        load_pretrained(network, options.pop('checkpoint'), **options)
