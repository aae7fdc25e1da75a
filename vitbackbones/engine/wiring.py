"""Whether neck, heads and RoI extractors fit the maps of the backbone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from .networks import Network, heads_of, unwrapped
from .trial import as_if_training, empty_maps, no_trace, read_by, takes_maps_alone, tensors_in

#: Side of the empty image that necks and heads are tried on: stride 128 still has 2 x 2 pixels.
SIDE = 256

#: How far declared strides may be from those of the maps: YOLACT's 7.97 are as right as 8.
TOLERANCE = 0.05

#: Height and width of an image in pixels.
Size = tuple[int, int]


class Misfit(NamedTuple):
    """Something that does not fit, at a place of the config."""

    place: str
    text: str


class Unread(NamedTuple):
    """Maps that nothing reads, and how many parameters are there for them alone."""

    source: str
    indices: tuple[int, ...]
    outputs: int
    strides: tuple[float, ...]
    idle: int


class Level(NamedTuple):
    """A map that heads read: (1, C, H, W)."""

    map: Tensor
    size: Size

    @property
    def channels(self) -> int:
        return self.map.shape[1]

    @property
    def stride(self) -> float:
        return self.size[1] / self.map.shape[3]


class Wiring(NamedTuple):
    """What a trial of a network found."""

    misfits: list[Misfit]
    unread: list[Unread]


def try_wiring(network: Network, image_size: Callable[[], Size | None]) -> Wiring:
    """Try neck and heads on an empty image: what runs has the right channels.

    A model may be made for images of one size (SSD, YOLACT). So what does not fit a plain image is
    tried again at the size of the training's own.

    Args:
        image_size: of a training image as the model gets it; asked for only if it is needed.
    """
    if any(isinstance(part, FullyShardedDataParallel) for part in network.owner.modules()):
        return Wiring([], [])  # one process holds no whole neck
    if not network.backbone.dense:
        return Wiring([], [])  # it makes no maps
    first = _Trial(network, (SIDE, SIDE))
    size = image_size() if first.misfits else None
    if size is None:
        return Wiring(first.misfits, first.unread)
    second = _Trial(network, size)
    places = {misfit.place for misfit in second.misfits}
    misfits = [misfit for misfit in first.misfits if misfit.place in places]
    if first.levels is None:  # then it saw no head
        known = {misfit.place for misfit in first.misfits}
        misfits += [misfit for misfit in second.misfits if misfit.place not in known]
    return Wiring(misfits, second.unread)


class _Trial:
    """One pass of empty maps through neck and heads of a network."""

    def __init__(self, network: Network, size: Size) -> None:
        self.network = network
        self.size = size
        self.levels: list[Level] | None = None  # None: the neck gives no list of maps, or nothing
        self.misfits: list[Misfit] = []
        self.unread: list[Unread] = []
        self.path, self.owner, self.backbone = network
        self.source = network.source
        self.neck = unwrapped(getattr(self.owner, 'neck', None))
        parts = [m for _, m in self._readers()]
        with no_trace(*parts, *([] if self.neck is None else [self.neck])):
            self._run()

    def _run(self) -> None:
        channels = list(self.backbone.out_channels)
        maps = self._maps(channels)
        outputs: Any = [leaf.clone() for leaf in maps]
        if self.neck is not None:
            if not takes_maps_alone(self.neck):
                return
            outputs, channels, maps = self._through_neck(channels, maps)
            self.source = f'{self.path}.neck ({type(self.neck).__name__})'
        if outputs is None:
            return
        if isinstance(outputs, Tensor):
            outputs = [outputs]
        if not all(isinstance(x, Tensor) and x.ndim in (2, 4) for x in outputs):
            return
        if any(x.ndim == 2 for x in outputs):  # a classifier's: one for each map
            self._find_unread(maps, outputs, [_try(part, outputs) for _, part in self._readers()])
            return
        self.levels = [Level(x, self.size) for x in outputs]
        results = {id(part): _try(part, outputs) for _, part in self._readers()}
        for place, head in heads_of(self.owner):
            self._check_head(f'{self.path}.{place}', head, results.get(id(head)) is not None)
        for place, extractor in _roi_extractors(self.owner):
            self._check_roi_extractor(f'{self.path}.{place}', extractor)
        if not self.misfits:
            self._find_unread(maps, outputs, list(results.values()))

    def _readers(self) -> Iterator[tuple[str, nn.Module]]:
        """What may read the maps: all parts of the owner that learn, but backbone and neck."""
        aside = (self.owner.backbone, getattr(self.owner, 'neck', None))
        for name, part in self.owner.named_children():
            part = unwrapped(part)
            if part in (*aside, *map(unwrapped, aside)):
                continue
            for reader in part if isinstance(part, nn.ModuleList) else [part]:
                if next(reader.parameters(), None) is not None:
                    yield name, reader

    def _maps(self, channels: Sequence[int]) -> list[Tensor]:
        parts = [self.backbone] if self.neck is None else [self.neck, self.backbone]
        like = next(param for part in parts for param in part.parameters())
        return empty_maps(like, channels, self.backbone.out_strides, self.size)

    # --------------------------------------------------------------------- the neck

    def _through_neck(self, channels: list[int], maps: list[Tensor]) -> tuple[Any, Any, Any]:
        """Outputs, channels and maps of the neck, by what it declares where the true do not fit."""
        neck = self.neck
        first = neck[0] if isinstance(neck, nn.Sequential) else neck
        declared = getattr(first, 'in_channels', None)
        outputs, error = _attempt(neck, maps)
        if error is None:
            return outputs, channels, maps
        if isinstance(declared, (list, tuple)) and list(declared) != channels:
            declared = list(declared)
            place = f'{self.path}.neck.in_channels'
            # With its own numbers it can be tried all the same; YOLOv3's lists the deepest first.
            for order, must in ((declared, channels), (declared[::-1], channels[::-1])):
                if order == channels or len(order) != len(channels):
                    continue
                other = self._maps(order)
                outputs, failed = _attempt(neck, other)
                if failed is None:
                    self._misfit(place, f'{place}={declared} must be {must}, {self._channels}')
                    return outputs, order, other
            if sorted(declared) != sorted(channels):
                self._misfit(place, f'{place}={declared} must be {channels}, {self._channels}')
                return None, channels, maps
        reason = str(error).partition('\n')[0]
        self._misfit(
            f'{self.path}.neck',
            f'{self.path}.neck ({type(neck).__name__}) does not take maps of {channels} channels, '
            f'the output of {self.source}: {type(error).__name__}: {reason}',
        )
        return None, channels, maps

    @property
    def _channels(self) -> str:
        return f'the channels of {self.source}'

    def _misfit(self, place: str, text: str) -> None:
        self.misfits.append(Misfit(place, text))

    # --------------------------------------------------------------------- the heads

    def _check_head(self, path: str, head: Any, runs: bool) -> None:
        assert self.levels is not None
        levels = self.levels
        index = getattr(head, 'in_index', None)  # mmseg's heads choose levels, mmdet's read all
        if index is not None:
            chosen = [index] if isinstance(index, int) else list(index)
            if any(not -len(levels) <= i < len(levels) for i in chosen):
                self._misfit(
                    f'{path}.in_index',
                    f'{path}.in_index={index} must name maps of {self.source}, which has '
                    f'{len(levels)}',
                )
                return
            levels = [levels[i] for i in chosen]
        if not runs:
            self._check_declared(path, head, [level.channels for level in levels])
        for key, strides in _declared_strides(head):
            self._check_strides(f'{path}.{key}', strides, levels)

    def _check_declared(self, path: str, head: Any, wanted: list[int]) -> None:
        """What a head that could not be tried, or failed, says of its channels."""
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
            place = f'{path}.in_channels'
            self._misfit(place, f'{place}={own} must be {must}, {self._channels}')

    def _check_roi_extractor(self, path: str, extractor: Any) -> None:
        assert self.levels is not None
        levels = self.levels[: len(extractor.featmap_strides)]
        self._check_strides(f'{path}.featmap_strides', extractor.featmap_strides, levels)
        wanted = {level.channels for level in levels}
        concatenates = getattr(extractor, 'aggregation', None) == 'concat'
        if not concatenates and {extractor.out_channels} != wanted:
            self._misfit(
                f'{path}.out_channels',
                f'{path}.out_channels={extractor.out_channels} must be {min(wanted)}, '
                f'{self._channels}',
            )

    def _check_strides(self, place: str, strides: Sequence[Any], levels: Sequence[Level]) -> None:
        if len(strides) == len(levels) and all(map(_is_stride_of, strides, levels)):
            return
        own = [s[0] if isinstance(s, (list, tuple)) and len(set(s)) == 1 else s for s in strides]
        right = ', '.join(f'{level.stride:g}' for level in levels)
        self._misfit(place, f'{place}={own} must be [{right}], the strides of {self.source}')

    # ------------------------------------------------------------- maps that nobody reads

    def _find_unread(
        self, maps: list[Tensor], outputs: Sequence[Tensor], results: list[Any]
    ) -> None:
        # What could not be tried, a RoI head or a transformer's decoder, may read everything.
        tried = bool(results) and all(result is not None for result in results)
        if self.neck is None and not tried:
            return
        used = read_by(tensors_in(results) if tried else outputs)
        below: set[int] = set()
        if self.neck is not None and self.levels is not None and tried:
            below = {id(param) for param in self.neck.parameters() if param.requires_grad}
        if not ({id(leaf) for leaf in maps} | below & read_by(outputs)) - used:
            return
        more = self._read_in_training(maps, tried)
        if more is None:
            return
        used |= more
        unread = [i for i, leaf in enumerate(maps) if id(leaf) not in used]
        if unread:
            strides = tuple(float(self.backbone.out_strides[i]) for i in unread)
            idle = _idle_parameters(self.backbone, unread) if len(unread) < len(maps) else 0
            self.unread.append(Unread(self.network.source, tuple(unread), len(maps), strides, idle))
        idle = len((below & read_by(outputs)) - used)
        if self.levels is not None and idle:
            dropped = [i for i, x in enumerate(outputs) if (below & read_by([x])) - used]
            strides = tuple(self.levels[i].stride for i in dropped)
            self.unread.append(Unread(self.source, tuple(dropped), len(outputs), strides, idle))

    def _read_in_training(self, maps: list[Tensor], tried: bool) -> set[int] | None:
        """What is read in the mode of training, as deep supervision is, by heads if ``tried``.

        None if it fails there: then it may read everything.
        """
        outputs: Any = [leaf.clone() for leaf in maps]
        if self.neck is not None:
            as_if_training(self.neck)
            outputs, error = _attempt(self.neck, maps)
            if error is not None:
                return None
            outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        if not tried:
            return read_by(tensors_in(outputs))
        results = []
        for _, part in self._readers():
            as_if_training(part)
            results.append(_try(part, outputs))
        return None if any(result is None for result in results) else read_by(tensors_in(results))


def _attempt(module: Any, maps: Sequence[Tensor]) -> tuple[Any, Exception | None]:
    """What ``module`` makes of ``maps``, or why it fails."""
    try:
        return module(tuple(leaf.clone() for leaf in maps)), None
    except Exception as error:  # a module of anyone's: it would fail in the first step as well
        return None, error


def _try(head: nn.Module, outputs: Sequence[Tensor]) -> Any:
    """What ``head`` makes of the levels; None if it fails, or needs more than them."""
    if not takes_maps_alone(head):
        return None
    try:
        return head(tuple(outputs))
    except Exception:  # a head of anyone's; what it declares is looked at instead
        return None


def _is_stride_of(own: Any, level: Level) -> bool:
    """Whether a declared stride, a number or a pair (x, y), is that of a map."""
    pair = own if isinstance(own, (list, tuple)) else (own, own)
    for stride, side, count in zip(pair, level.size[::-1], level.map.shape[:1:-1], strict=True):
        if abs(stride * count / side - 1) <= TOLERANCE:
            continue
        # At the size of real images, the last pixel of a map may stand for less than a stride.
        if side == SIDE or count < 2 or math.ceil(side / stride - 1e-6) != count:
            return False
    return True


def _declared_strides(head: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    """Of anchors, of points, and of the maps that Semantic FPN brings to one size."""
    for key, value in vars(head).items():
        if key.endswith('_generator') and hasattr(value, 'strides'):
            anchors = 'Anchor' in type(value).__name__
            yield ('anchor_generator.strides' if anchors else 'strides'), value.strides
    if hasattr(head, 'feature_strides'):
        yield 'feature_strides', head.feature_strides


def _roi_extractors(owner: Any) -> Iterator[tuple[str, Any]]:
    roi_head = unwrapped(getattr(owner, 'roi_head', None))
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractor = getattr(roi_head, name, None)
        if extractor is not None:  # one for each stage of a cascade
            several = isinstance(extractor, nn.ModuleList)
            yield from ((f'roi_head.{name}', x) for x in (extractor if several else [extractor]))


def _idle_parameters(backbone: Any, unread: Sequence[int]) -> int:
    """How many parameters of ``backbone`` only serve the ``unread`` of its maps."""
    like = next(backbone.parameters())
    side = 2 * max(backbone.strides)
    with no_trace(backbone):
        maps = backbone(like.new_zeros(1, backbone.in_channels, side, side))
        every = read_by(maps)
        read = read_by(x for i, x in enumerate(maps) if i not in unread)
    own = {id(param) for param in backbone.parameters() if param.requires_grad}
    return len(own & every - read)
