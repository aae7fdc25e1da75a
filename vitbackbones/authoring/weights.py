"""The weights that a new backbone starts from."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from vitbackbones.checkpoint import CheckpointError, is_address, local_file
from vitbackbones.errors import UserError
from vitbackbones.metafiles import published_weights
from vitbackbones.pretrained import create

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
        weights: 'auto' for the published ones, if they can be had, 'none', a file or an address.
        in_channels: of the images; published weights know three.

    Raises:
        UserError: there is no such file.
        CheckpointError: a file or address was given that cannot be read, or is of another network.
    """
    options = published_options(network)
    published = options.pop('init_cfg', None)
    fixed = options.pop('norm_eval', None)
    if in_channels != 3:
        options['in_channels'] = in_channels
    chosen: dict[str, Any] | None = None
    if weights not in ('auto', 'none'):
        source = weights if is_address(weights) else os.path.abspath(weights)
        if not is_address(weights) and not os.path.isfile(weights):
            raise UserError(f'--weights {weights}: there is no such file; or auto, none, a URL')
        own = {key: value for key, value in options.items() if key not in ('type', 'arch')}
        try:
            local_file(source)
        except CheckpointError as error:
            raise CheckpointError(
                f'--weights {weights} cannot be downloaded ({error.__cause__ or error}): fetch it '
                'by other means, then --weights FILE'
            ) from error
        try:
            create(network.name, source, **own)  # that it fits
        except CheckpointError as error:
            raise CheckpointError(' '.join(str(error).split())) from error
        chosen, reason = dict(type='Pretrained', checkpoint=source), f'Weights: {source}.'
    elif weights == 'none':
        reason = 'Random weights, as asked for.'
    elif in_channels != 3:
        reason = f'Random weights: published ones are for 3 channels, not {in_channels}.'
    elif published is None:
        address = (published_weights(network.cls.__name__) or {}).get(network.arch)
        reason = (
            f'Random weights: the published ones must be fetched with a browser, from {address}; '
            'then --weights FILE.'
            if address
            else 'Random weights: none were ever published. Those of your own: --weights FILE.'
        )
    else:
        address = published['checkpoint']
        try:
            local_file(address, seconds=SECONDS)
            chosen, reason = dict(published), f'Published weights: {address}.'
        except CheckpointError:
            reason = (
                f'Random weights: {address} could not be fetched. Fetch it by other means, then '
                '--weights FILE.'
            )
    if chosen is not None:
        options['init_cfg'] = chosen
        if fixed is not None:
            options['norm_eval'] = fixed
    return Start(options, reason)
