"""What a config needs to run on the machine at hand."""

from __future__ import annotations

import os
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError, notice


def let_processes_meet(cfg: Config) -> None:
    """Start the communication of a run's processes, which the Runner would do later.

    Before the checks: a process that fails in one tells the others.

    Raises:
        UserError: the launcher needs GPUs, or did not start this process.
    """
    if cfg.get('launcher', 'none') == 'none':
        return
    if torch.cuda.is_available():
        env = cfg.get('env_cfg') or {}
        set_multi_processing(**(env.get('mp_cfg') or {}), distributed=True)
        if not torch.distributed.is_initialized():
            init_dist(cfg.launcher, **(env.get('dist_cfg') or {}))
        return
    # mmengine 0.10.7 starts none without GPUs.
    if cfg.launcher != 'pytorch':
        raise UserError(f'--launcher {cfg.launcher} needs GPUs; without them, use pytorch')
    if 'RANK' not in os.environ:
        raise UserError('--launcher pytorch is for processes that torchrun starts, as dist_*.sh do')
    notice('no GPU: processes talk through gloo')
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')


def adapt_to_device(cfg: Config) -> None:
    """Replace what needs a GPU, where there is none, and say so."""
    dist = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    gpu = torch.cuda.is_available()
    if (not gpu or dist.get('backend') == 'gloo') and _replace_norm(cfg.model, 'SyncBN', 'BN'):
        notice(f'{"gloo" if gpu else "no GPU"}: SyncBN becomes BN')
    if gpu:
        return
    wrapper = cfg.get('optim_wrapper') or ConfigDict()
    if type_name(wrapper) == 'AmpOptimWrapper':
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        wrapper.type = 'vitbackbones.CPUAmpOptimWrapper'
        notice('no GPU: AmpOptimWrapper becomes bfloat16 autocast without loss scaling')
    if cfg.get('launcher', 'none') != 'none':
        # mmengine's default names a GPU for each process.
        cfg.setdefault(
            'model_wrapper_cfg',
            ConfigDict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=cfg.get('find_unused_parameters', False),
            ),
        )


def _replace_norm(node: Any, old: str, new: str) -> int:
    """Replace a norm's type everywhere below ``node``; how many were replaced."""
    if isinstance(node, dict):
        count = sum(_replace_norm(value, old, new) for value in node.values())
        if node.get('type') == old:
            node['type'] = new
            count += 1
        return count
    return sum(_replace_norm(v, old, new) for v in node) if isinstance(node, (list, tuple)) else 0
