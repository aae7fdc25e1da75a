"""Cost cards: what testing and training a config takes, each measured in a process of its own.

The process may use the memory that is free when it starts: a model that needs more fails alone, and
is named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper

import vitbackbones
from vitbackbones.benchmark.flops import count_flops
from vitbackbones.benchmark.memory import peak_memory, weight_memory
from vitbackbones.benchmark.timing import in_turn
from vitbackbones.errors import UserError
from vitbackbones.launch.loading import load_config

from .contestants import batch, build_whole

CONFIGS = Path(vitbackbones.__file__).parent / '.mim' / 'configs'
CHILD = 'from vitbackbones.cli.cost_cards import child; child()'


def shipped() -> list[str]:
    """Names of all configs that train a detector or segmentor."""
    paths = sorted(p.relative_to(CONFIGS) for p in CONFIGS.glob('*/**/*.py'))
    return [f'vitbackbones::{p.as_posix()}' for p in paths if '_base_' not in p.parts]


def measure(
    config: str, size: tuple[int, int], count: int, device: str, rounds: int
) -> dict[str, Any]:
    """Parameters, operations, seconds and bytes of predicting and of one training step.

    A step has its gradients and the state of the config's optimiser. GPUs train as configs say,
    CPUs without mixed precision unless a config has it.
    """
    cfg = load_config(config)
    model = build_whole(cfg).to(device)
    data = batch(cfg, model, *size, count)
    weights = weight_memory(model)

    def predict() -> None:
        with torch.no_grad():
            model.test_step(data)

    model.eval()
    predict()
    flops = count_flops(predict).total
    test = peak_memory(predict, device)
    seconds = [s for _, s in in_turn({'': predict}, rounds, device=device) if s is not None]
    model.train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    train = peak_memory(lambda: model.train_step(data, wrapper), device)
    return dict(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=flops / count,
        seconds=seconds,
        test_memory=weights + test,
        train_memory=weights + train,
    )


def cards(
    configs: Sequence[str], known: dict[str, Any], options: Mapping[str, Any]
) -> Iterator[str]:
    """Measure each config that is not in ``known`` yet, put it there, and yield its name.

    Args:
        options: the other arguments of :func:`measure`, and ``threads``.
    """
    for config in configs:
        if config not in known:
            known[config] = _in_a_process({'config': config, **options})
        yield config


def _in_a_process(options: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`measure` returns, or ``failed``: why there is nothing."""
    root = str(Path(vitbackbones.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
    command = [sys.executable, '-W', 'ignore', '-c', CHILD, json.dumps(options)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': path}
    )
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    if done.returncode < 0:
        return dict(failed=f'stopped by signal {-done.returncode}, as for want of memory')
    reason = (done.stderr.splitlines() or ['it said nothing'])[-1]
    return dict(failed=reason)


def child() -> None:
    """The process of one config: prints what was measured as its last line."""
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options.pop('threads'))
    limit = _limit_memory() if options['device'] == 'cpu' else None
    try:
        result = measure(**{**options, 'size': tuple(options['size'])})
    except UserError as error:
        result = dict(failed=str(error))
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or _is_want_of_memory(error)):
            raise
        there = '' if limit is None else f' than the {limit / 2**30:.1f} GiB that were free'
        result = dict(failed=f'needs more memory{there}')
    print()
    print(json.dumps(result))


def _limit_memory() -> int | None:
    """Keep this process within the memory that is free now; that in bytes, None if unknown."""
    try:
        import resource

        lines = Path('/proc/meminfo').read_text().splitlines()
    except (ImportError, OSError):  # no Linux
        return None
    free = next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable')) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (free, free))
    return free


def _is_want_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
