"""Train SuperViT for one operating point and for many, equally long, and test all points.

    python docs/examples/compare_points.py retinanet plain distill task task_half
    python docs/examples/compare_points.py upernet plain task --iterations 500 --channels 32

Every method starts from the same weights, sees the same generated images and makes the same
number of optimizer steps. `plain` trains (1, 1) alone; the students of a sandwich learn from the
`task`, from their teacher's maps (`distill`) or from `both`; `task_half` gives the passes at the
smaller scale half the weight. What is finished is kept in
work_dirs/compare_points/TASK-CHANNELS-ITERATIONS, with a table over all methods that are there, and
an interrupted training goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from vitbackbones.benchmark.metrics import METRICS, expected_metrics
from vitbackbones.benchmark.points import point_name, read_points
from vitbackbones.benchmark.tradeoff import evaluate
from vitbackbones.data.demo import OUT, generate
from vitbackbones.launch.demo import fit_schedule
from vitbackbones.launch.device import adapt_to_device
from vitbackbones.launch.loading import load_config

METHODS = {
    'plain': dict(train_points='fixed'),
    'task': dict(train_points='sandwich', student_loss='task'),
    'task_half': dict(train_points='sandwich', student_loss='task', small_weight=0.5),
    'distill': dict(train_points='sandwich', student_loss='distill'),
    'both': dict(train_points='sandwich', student_loss='both'),
}
DIM = 96


def config(args: argparse.Namespace, method: str, folder: Path) -> Config:
    """A narrow SuperViT, neck and head, on the demo's images."""
    kind = 'segmentation' if args.task == 'upernet' else 'detection'
    cfg = load_config(f'vitbackbones::{kind}/supervit_{args.task}.py', demo=True)
    arch = dict(dim=DIM, depth=12, num_heads=3, mlp_ratio=4, qkv_bias=True, norm_eps=1e-6)
    cfg.model.backbone.update(arch=arch, drop_path_rate=0.0, init_cfg=None)
    width = args.channels
    if kind == 'segmentation':
        cfg.model.decode_head.update(in_channels=[DIM] * 4, channels=width)
        cfg.model.auxiliary_head.update(in_channels=DIM, channels=width)
    else:
        cfg.model.neck.update(in_channels=[DIM] * 3, out_channels=width)
        cfg.model.bbox_head.update(in_channels=width, feat_channels=width, stacked_convs=2)
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 8
    passes = 1 if method == 'plain' else 4
    cfg.optim_wrapper = ConfigDict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
        clip_grad=dict(max_norm=1.0 * passes),  # it sees the sum over the passes
    )
    cfg.train_cfg = ConfigDict(
        type='vitbackbones.IterBasedPointsLoop', max_iters=args.iterations, **METHODS[method]
    )
    fit_schedule(cfg)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.default_hooks.checkpoint.update(interval=200)
    cfg.randomness = dict(seed=0)
    cfg.log_level = 'WARNING'
    cfg.experiment_name = f'{folder.name}-{method}'
    cfg.work_dir = str(folder / method)
    cfg.resume = True
    adapt_to_device(cfg)
    return cfg


def run(args: argparse.Namespace, method: str, folder: Path) -> None:
    cfg = config(args, method, folder)
    (metric,) = expected_metrics(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    figures = {}
    for point in read_points(None):
        found = evaluate(runner, point)
        value = next((v for key, v in found.items() if key.split('/')[-1] == metric), 0.0)
        figures[point_name(point)] = float(value) * METRICS[metric][1]
    (folder / f'{method}.json').write_text(json.dumps(figures, indent=1) + '\n')


def write_table(folder: Path) -> None:
    files = [folder / f'{method}.json' for method in METHODS]
    results = {file.stem: json.loads(file.read_text()) for file in files if file.exists()}
    lines = ['| scale, keep rate | ' + ' | '.join(results) + ' |', '|---|' + '---:|' * len(results)]
    for point in next(iter(results.values())):
        row = ' | '.join(f'{figures[point]:.1f}' for figures in results.values())
        lines.append(f'| {point} | {row} |')
    (folder / 'table.md').write_text('\n'.join(lines) + '\n')
    print((folder / 'table.md').read_text(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('task', choices=('retinanet', 'upernet'))
    parser.add_argument('methods', nargs='+', choices=METHODS)
    parser.add_argument('--iterations', type=int, default=1000)
    parser.add_argument('--channels', type=int, default=64, help='of neck and heads (%(default)s)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    # Its own place: other commands generate fewer images in `data/demo`.
    place = Path('work_dirs/compare_points')
    place.mkdir(parents=True, exist_ok=True)
    os.chdir(place)
    generate(OUT, train=2000, val=200)
    folder = Path(f'{args.task}-{args.channels}-{args.iterations}')
    folder.mkdir(exist_ok=True)
    for method in args.methods:
        if not (folder / f'{method}.json').exists():
            run(args, method, folder)
        write_table(folder)


if __name__ == '__main__':
    main()
