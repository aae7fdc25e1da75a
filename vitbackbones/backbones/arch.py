"""What a published checkpoint fixes of a network: data, and the checks of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arch:
    """What a published checkpoint fixes. Tuple fields hold one entry per stage."""

    drop_path_rate: float = 0.1

    def __post_init__(self) -> None:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lengths = {name: len(value) for name, value in fields.items() if isinstance(value, tuple)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f'one entry per stage is needed, got {lengths}')


def parse_arch(
    name: str,
    arch: str | Mapping[str, Any],
    archs: Mapping[str, Arch],
    arch_type: type[Arch],
    stages: int,
) -> Arch:
    """The arch of that name, or of a dict of its fields.

    Args:
        name: of the network, for messages.
        archs, arch_type, stages: what the network's class says.

    Raises:
        ValueError: an unknown name or field, a field that is missing or a value outside its
            range.
    """
    if isinstance(arch, str) and arch in archs:
        return archs[arch]
    if not isinstance(arch, Mapping):
        choices = ', '.join(map(repr, archs))
        raise ValueError(f'{name}: unknown arch {arch!r}, choose from {choices}, or give a dict')
    fields = {f.name: f.default for f in dataclasses.fields(arch_type)}
    arch = {key: _as_tuple(value) for key, value in arch.items()}
    unknown = [key for key in arch if key not in fields]
    missing = [k for k, v in fields.items() if v is dataclasses.MISSING and k not in arch]
    if unknown or missing:
        raise ValueError(
            f'{name}: an arch given as a dict has the keys {", ".join(fields)}; '
            f'unknown: {unknown}, missing: {missing}'
        )
    for field in dataclasses.fields(arch_type):
        value = arch.get(field.name, field.default)
        per_stage = str(field.type).startswith('tuple')
        if per_stage and not (isinstance(value, tuple) and len(value) == stages):
            raise ValueError(
                f'{name}: {field.name}={value} must have one entry per stage, {stages}'
            )
        if not all(_fits(number, str(field.type)) for number in _flat(value)):
            raise ValueError(
                f'{name}: {field.name}={value!r} must be '
                + ('at least 1, and whole' if 'int' in str(field.type) else 'finite')
            )
    try:
        return arch_type(**arch)
    except ValueError as error:
        raise ValueError(f'{name}: arch={arch}: {error}') from None


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, (list, tuple)) else value


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def is_whole(value: Any) -> bool:
    return isinstance(value, Integral)


def is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _fits(value: Any, kind: str) -> bool:
    """Whether ``value`` may be in a field of an arch that is annotated with ``kind``."""
    if value is None and 'None' in kind:
        return True
    if 'int' in kind:
        return is_whole(value) and value >= 1
    return 'float' not in kind or is_finite(value)


def int_tuple(values: Any) -> tuple[int, ...] | None:
    """``values`` as a tuple, or None if they are anything but several whole numbers."""
    values = tuple(values) if isinstance(values, Iterable) else (None,)
    return values if all(map(is_whole, values)) else None
