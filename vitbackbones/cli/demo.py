"""Train, test and show a small detector or segmentor on generated images, on a CPU in minutes."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from vitbackbones.inference.drawing import CollectHook, contact_sheet
from vitbackbones.launch.built import as_built, build_runner
from vitbackbones.launch.checks import check_config
from vitbackbones.launch.loading import load_config
from vitbackbones.launch.smallest import use_rates_for_random_weights, use_smallest_arch
from vitbackbones.launch.training import add_import

CONFIG = 'vitbackbones::detection/sepvit_retinanet.py'
IMAGES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', nargs='?', default=CONFIG, help='a config of ours (%(default)s)')
    parser.add_argument('--work-dir', default='work_dirs/demo', help='(%(default)s)')
    parser.add_argument('--iterations', type=int, help='of training')


def run(args: argparse.Namespace) -> None:
    """Run the demo and print what it reached.

    Raises:
        UserError: the config cannot be used for it.
    """
    options: dict[str, Any] = {'log_level': 'WARNING', 'randomness': dict(seed=0)}
    if args.iterations is not None:
        options['train_cfg.max_iters'] = args.iterations
    cfg = load_config(args.config, options, demo=True)
    arch = use_smallest_arch(cfg)
    cfg.work_dir = args.work_dir
    use_rates_for_random_weights(cfg)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None  # tested once, below
    add_import(cfg)
    check_config(cfg, ('train', 'test'))
    runner = build_runner(as_built(cfg, ('train', 'test')), cfg, training=True)
    print(f'training {cfg.model.type} with {arch} for {cfg.train_cfg.max_iters} iterations')
    runner.register_hook(ProgressHook())
    runner.train()
    found = CollectHook(IMAGES)
    runner.register_hook(found)
    metrics = runner.test()
    sheet = Path(args.work_dir, 'predictions.png')
    contact_sheet(found.samples, runner.test_dataloader.dataset.metainfo, sheet)
    for name, value in metrics.items():
        print(f'{name:24} {value:.3f}')
    print(f'ground truth next to results: {sheet}')


class ProgressHook(Hook):
    """One line that says how far training is, what the loss is and how long it will take."""

    def before_train(self, runner: Runner) -> None:
        self.start = time.monotonic()
        self.loss = 0.0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        done, total = batch_idx + 1, runner.max_iters
        loss = float(outputs['loss'].detach())
        self.loss = loss if done == 1 else 0.95 * self.loss + 0.05 * loss
        if done % 20 and done != total:
            return
        left = (time.monotonic() - self.start) * (total - done) / done
        print(
            f'\riteration {done}/{total}  loss {self.loss:.3f}  {left / 60:.1f} min left ',
            end='\n' if done == total else '',
            flush=True,
        )
