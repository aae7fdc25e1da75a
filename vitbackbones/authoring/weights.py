"""The weights that a new backbone starts from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from vitbackbones.checkpoint import CheckpointError, is_address, local_file
from vitbackbones.errors import UserError
from vitbackbones.metafiles import start_of
from vitbackbones.pretrained import create
from vitbackbones.published import PUBLISHED, published_source, source_of

from .ours import Network, published_options

SECONDS = 10  # of silence, until a host counts as not there


class Start(NamedTuple):
    """A backbone's config, weights included.

    Attributes:
        options: with ``init_cfg`` if there are weights.
        reason: where they come from, or why they are random; what to do about it.
    """

    options: dict[str, Any]
    reason: str

    @property
    def is_random(self) -> bool:
        return 'init_cfg' not in self.options


def choose_weights(network: Network, weights: str, in_channels: int = 3) -> Start:
    """Options of ``network`` with weights.

    Args:
        weights: 'auto' for the published ones, if they can be had, 'published' for these or an
            error, 'none', a file, an address, or a name on the Hugging Face hub.
        in_channels: of the images; published weights know three.

    Raises:
        UserError: there is no such file.
        CheckpointError: what was given cannot be had or read, or is of another network.
    """
    options = published_options(network)
    options.pop('init_cfg', None)
    fixed = options.pop('norm_eval', None)
    if in_channels != 3:
        options['in_channels'] = in_channels
    source: str | None = None
    if weights == 'none':
        reason = 'Random weights, as asked for.'
    elif weights == 'auto' and in_channels != 3:
        reason = f'Random weights: published ones are for 3 channels, not {in_channels}.'
    elif weights == 'auto':
        source, reason = _published_if_there(network)
    else:
        source = _fetched(network, weights, options)
        reason = f'{"Published weights" if weights == PUBLISHED else "Weights"}: {source}.'
    if source is not None:
        options['init_cfg'] = dict(type='Pretrained', checkpoint=source)
        if fixed is not None:
            options['norm_eval'] = fixed
    return Start(options, reason)


def _fetched(network: Network, weights: str, options: Mapping[str, Any]) -> str:
    """The file or address that ``weights`` names, which is there and fits."""
    source, _ = source_of(weights, lambda: network.name)
    if weights != PUBLISHED and not is_address(weights):
        source = os.path.abspath(weights)
        if not os.path.isfile(source):
            raise UserError(
                f'--weights {weights}: there is no such file; or auto, none, published, a URL, '
                'hf://owner/name/FILE'
            )
    try:
        local_file(source)
    except CheckpointError as error:
        raise CheckpointError(
            f'--weights {weights} cannot be downloaded ({error.__cause__ or error}): fetch it '
            'by other means, then --weights FILE'
        ) from error
    own = {key: value for key, value in options.items() if key not in ('type', 'arch')}
    try:
        create(network.name, source, **own)
    except CheckpointError as error:
        raise CheckpointError(' '.join(str(error).split())) from error
    return source


def _published_if_there(network: Network) -> tuple[str | None, str]:
    """The published weights if they can be had, and what is said of them."""
    start = start_of(network.name)
    if start is None:
        return None, (
            'Random weights: none were ever published. Those of your own: --weights FILE.'
        )
    try:
        source, _ = published_source(network.name)
        local_file(source, seconds=SECONDS)
    except CheckpointError:
        if start.address:
            return None, (
                f'Random weights: {start.address} could not be fetched. Fetch it by other means, '
                'then --weights FILE.'
            )
        return None, (
            'Random weights: the published ones must be fetched with a browser, from '
            f'{start.page}; then --weights FILE.'
        )
    return source, f'Published weights: {source}.'
