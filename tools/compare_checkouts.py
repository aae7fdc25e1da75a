"""Time two checkouts of this repository against each other, pass by pass in turn.

A machine that others use is slower for seconds or minutes at a time. Two runs after one another see
different machines; here each checkout has a process of its own, both are kept waiting, and one pass
of the one follows one pass of the other, so that both see the same::

    git worktree add --detach /tmp/old main
    python tools/compare_checkouts.py /tmp/old . --nets shvit_s4 gcvit_tiny --modes eval train
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MODES = ('eval', 'train', 'fused', 'compiled')
DEFAULTS = ('sepvit_tiny', 'casvit_t', 'supervit_deit_s', 'gcvit_tiny', 'shvit_s4')

# What a process of either checkout runs: one pass for each line that it is sent.
WORKER = """
import sys, time
import torch
import vitbackbones
net, mode, threads, height, width, warm_up = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.manual_seed(0)
model = vitbackbones.create(net).train(mode == 'train')
image = torch.randn(1, 3, int(height), int(width))
if mode == 'fused':
    from vitbackbones.deploy import fuse
    model = fuse(model)
if mode == 'compiled':
    torch._inductor.config.freezing = True
    model = torch.compile(model)
def run():
    if mode == 'train':
        sum(y.mean() for y in model(image)).backward()
        model.zero_grad()
    else:
        with torch.no_grad():
            model(image)
for _ in range(int(warm_up)):
    run()
print('ready', flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    run()
    print(time.perf_counter() - start, flush=True)
"""


@contextmanager
def worker(checkout: Path, options: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A process of a checkout, ready to run passes."""
    process = subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', WORKER, *options],
        env={**os.environ, 'PYTHONPATH': str(checkout.resolve())},
        cwd=checkout,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        if 'ready\n' not in process.stdout:
            raise SystemExit(f'{checkout}: ended before its first pass')
        yield process
    finally:
        process.stdin.close()
        process.kill()
        process.wait()


def seconds(process: subprocess.Popen[str]) -> float:
    """What one pass takes."""
    assert process.stdin
    assert process.stdout
    process.stdin.write('\n')
    process.stdin.flush()
    return float(process.stdout.readline())


def compare(old: Path, new: Path, options: Sequence[str], rounds: int) -> tuple[float, float]:
    """The ratio of the medians, new over old, of one pair of processes, and that of the old."""
    with worker(old, options) as first, worker(new, options) as second:
        times: dict[str, list[float]] = {'old': [], 'new': []}
        for i in range(rounds):
            turn = [('old', first), ('new', second)]
            for name, process in turn if i % 2 == 0 else reversed(turn):
                times[name].append(seconds(process))
    before = statistics.median(times['old'])
    return statistics.median(times['new']) / before, before


def main() -> None:
    """One line for each network and mode: the median of all pairs, and each of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('old', type=Path)
    parser.add_argument('new', type=Path)
    parser.add_argument('--nets', nargs='+', default=DEFAULTS)
    parser.add_argument('--modes', nargs='+', choices=MODES, default=['eval'])
    parser.add_argument('--size', type=int, nargs=2, default=(512, 512), metavar=('H', 'W'))
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--pairs', type=int, default=3, help='of processes')
    args = parser.parse_args()
    for checkout in (args.old, args.new):
        if not (checkout / 'vitbackbones').is_dir():
            parser.error(f'{checkout} is no checkout of this repository')
    found = []
    for mode in args.modes:
        for net in args.nets:
            options = [net, mode, *map(str, (args.threads, *args.size)), '3']
            pairs = [compare(args.old, args.new, options, args.rounds) for _ in range(args.pairs)]
            found.append(statistics.median(ratio for ratio, _ in pairs))
            each = ' '.join(f'{ratio:.3f}' for ratio, _ in pairs)
            base = statistics.median(before for _, before in pairs)
            print(f'{net} {mode}: {found[-1]:.3f} ({each}) of {1000 * base:.1f} ms', flush=True)
    print(f'geometric mean {math.exp(statistics.mean(map(math.log, found))):.3f}')


if __name__ == '__main__':
    main()
