"""What the published networks computed from known weights: golden files, and their manifests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tests.reference import refdata

REFERENCE = Path(refdata.__file__).parent


def manifest(network: str, name: str) -> dict[str, Any]:
    """Names and shapes of the tensors, parameters and norms of a published network."""
    return refdata.load_json(REFERENCE / f'manifests/{network}/{name}.json')


def goldens(network: str, pattern: str = '*_det*.json') -> list[Path]:
    """The golden files of a network's dense backbones, or those of another pattern."""
    return sorted((REFERENCE / 'golden' / network).glob(pattern))


def assert_equal(outputs: Iterable[Tensor], published: Iterable[dict[str, Any]]) -> None:
    """Outputs are those that a golden file has digests of."""
    for output, want in zip(outputs, published, strict=True):
        ok, _, message = refdata.compare_digest(refdata.digest(output), want, rtol=1e-4)
        assert ok, message


def assert_maps_equal(net: nn.Module, golden: dict[str, Any]) -> None:
    """The maps that ``net`` makes of a golden file's input are those in it."""
    assert_equal(net(refdata.input_tensor(**golden['input'])), golden['outputs'])
