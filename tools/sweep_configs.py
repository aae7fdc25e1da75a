"""Another backbone in one config of every method of mmdet and mmseg: what works, and why not.

    python tools/sweep_configs.py --backbone sepvit_lite --package mmdet --out work_dirs/sweep.jsonl
    python tools/sweep_configs.py --table docs/any-detector.md work_dirs/*.jsonl

Each config has a process of its own. What has a line in the file of results is not done again,
so that a sweep goes on where it stopped.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sweep_trial  # beside this file, like the page
from sweep_table import page

import vitbackbones
from vitbackbones import files

PACKAGES = ('mmdet', 'mmseg')
RESULT, PRINTED = 'result.json', 'printed.txt'

#: What became of a config, best first; the last one is a fault of this package.
STATUSES = ('works', 'warning', 'refused', 'framework', 'failed')

Result = dict[str, Any]


# ---------------------------------------------------------------------------- which configs


def chosen(package: str, sample: int | None = None) -> list[str]:
    """One config of every method, as ``package::folder/name.py``.

    Of each folder it is the first by name whose model has a backbone, or simply the first.

    Args:
        sample: so many of them, spread evenly over the folders.
    """
    root = Path(importlib.import_module(package).__path__[0], '.mim/configs')
    folders = [sorted(folder.glob('*.py')) for folder in sorted(root.iterdir())]
    methods = [files for files in folders if files and files[0].parent.name != '_base_']
    found = map(first_with_backbone, spread(methods, sample))
    return [f'{package}::{path.relative_to(root).as_posix()}' for path in found]


def first_with_backbone(configs: Sequence[Path]) -> Path:
    from vitbackbones.authoring.draft import inherited
    from vitbackbones.errors import UserError

    for path in configs:
        try:
            model = inherited([str(path)]).get('model')
        except UserError:  # of a package that is not installed, or in another dialect
            continue
        if isinstance(model, dict) and 'backbone' in model:
            return path
    return configs[0]


def spread(items: list[Any], number: int | None) -> list[Any]:
    """``number`` of the items at equal distances; all if it is None or too large."""
    if number is None or number >= len(items):
        return items
    return [items[i * len(items) // number] for i in range(number)]


# ---------------------------------------------------------------------------------- results


def read_results(path: Path) -> dict[tuple[str, str], Result]:
    """By backbone and config; of two for one the later counts.

    A line that is cut short, since the machine stopped while it was written, is none.
    """
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            result = json.loads(line)
        except ValueError:
            continue
        found[result['backbone'], result['config']] = result
    return found


def append(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_short = path.exists() and not path.read_bytes().endswith(b'\n')
    with path.open('a') as file:
        file.write('\n' * cut_short + json.dumps(result) + '\n')


# ------------------------------------------------------------------------------------ trials


def run_trial(config: str, backbone: str | None, seconds: int) -> Result:
    """What became of a config in a process of its own; without ``backbone`` as it is.

    Args:
        seconds: of one core, at most. Of a clock it may be some times as many: cores are shared.
    """
    with TemporaryDirectory(prefix='sweep') as folder:
        # Forked, it need not import the frameworks, which takes longer than most trials.
        process = get_context('fork').Process(
            target=in_process, args=(folder, config, backbone, seconds)
        )
        process.start()
        process.join(8 * seconds)
        if process.is_alive():
            process.kill()
            process.join()
        result, printed = Path(folder, RESULT), Path(folder, PRINTED)
        if result.exists():
            return json.loads(result.read_text())
        if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
            reason = f'not done after {seconds} s of one core, or not enough memory'
            return dict(status='failed', reason=reason)
        words = printed.read_text().split('\n') if printed.exists() else []
        tail = next((line for line in reversed(words) if line.strip()), 'nothing was said')
        return dict(status='failed', reason=f'ended with status {process.exitcode}: {tail}')


def in_process(folder: str, config: str, backbone: str | None, seconds: int) -> None:
    """Let a trial write and print into a folder, and end it when its time is over."""
    os.chdir(folder)
    printed = os.open(PRINTED, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(printed, stream)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    files.write(Path(RESULT), json.dumps(sweep_trial.trial(config, backbone)))


def judged(swapped: Result, original: Result | None) -> Result:
    """The result of a config, where it did not work next to that of the original.

    A failure is the framework's own if the original fails with the same words.
    """
    result = dict(swapped)
    if original is not None and original['status'] not in ('works', 'warning'):
        result['original'] = original['reason']
        if result['status'] == 'failed' and original['reason'] == result['reason']:
            result['status'] = 'framework'
    return result


def sweep_one(config: str, backbone: str, seconds: int) -> Result:
    start = time.monotonic()
    swapped = run_trial(config, backbone, seconds)
    works = swapped['status'] in ('works', 'warning')
    original = None if works else run_trial(config, None, seconds)
    return dict(
        backbone=backbone,
        config=config,
        **judged(swapped, original),
        seconds=round(time.monotonic() - start, 1),
        commit=commit(),
    )


def commit() -> str:
    """Of the package, which may be another checkout's than this file."""
    folder = Path(vitbackbones.__file__).parent
    command = ['git', '-C', str(folder), 'describe', '--always', '--dirty', '--exclude=*']
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or 'unknown'


def sweep(
    configs: Sequence[str],
    backbone: str,
    out: Path,
    *,
    again: Sequence[str] = (),
    jobs: int = 1,
    seconds: int = 120,
) -> Iterator[Result]:
    """Try what has no result yet, or one of a status in ``again``, and write each down."""
    known = read_results(out)
    todo = [
        config
        for config in configs
        if (backbone, config) not in known or known[backbone, config]['status'] in again
    ]
    for result in results_of(todo, backbone, seconds, jobs):
        append(out, result)
        yield result


def results_of(configs: Sequence[str], backbone: str, seconds: int, jobs: int) -> Iterator[Result]:
    """One after the other, or several at a time, as they are done."""
    if jobs == 1:
        yield from (sweep_one(config, backbone, seconds) for config in configs)
        return
    with ProcessPoolExecutor(jobs, get_context('fork')) as pool:
        trials = [pool.submit(sweep_one, config, backbone, seconds) for config in configs]
        yield from (trial.result() for trial in as_completed(trials))


# --------------------------------------------------------------------------------- commands


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('results', nargs='*', type=Path, help='files of results, for --table')
    parser.add_argument('--backbone', default='sepvit_lite')
    parser.add_argument('--package', choices=(*PACKAGES, 'all'), default='all')
    parser.add_argument('--sample', type=int, help='so many configs of each package')
    parser.add_argument('--only', nargs='+', metavar='FOLDER', help='of these methods alone')
    parser.add_argument('--jobs', type=int, default=1)
    parser.add_argument(
        '--timeout', type=int, default=120, help='seconds of one core, for one config'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/sweep.jsonl'))
    parser.add_argument('--again', nargs='+', choices=STATUSES, default=[], metavar='STATUS')
    parser.add_argument('--table', type=Path, help='write the page of the results given')
    args = parser.parse_args(argv)
    if args.table:
        args.table.write_text(page(collect(args.results)))
        return 0
    packages = PACKAGES if args.package == 'all' else (args.package,)
    configs = [config for package in packages for config in chosen(package, args.sample)]
    if args.only:
        configs = [config for config in configs if split(config)[1] in args.only]
    for package in PACKAGES:
        importlib.import_module(f'{package}.models')  # once, see run_trial
    for result in sweep(
        configs,
        args.backbone,
        args.out,
        again=args.again,
        jobs=args.jobs,
        seconds=args.timeout,
    ):
        print(f'{result["status"]:9} {result["config"]}: {result.get("reason", "")}', flush=True)
    results = read_results(args.out)
    counts = [results[args.backbone, config]['status'] for config in configs]
    print(', '.join(f'{counts.count(status)} {status}' for status in STATUSES))
    return 0


def split(config: str) -> tuple[str, str, str]:
    """Package, folder and name of ``package::folder/name.py``."""
    package, _, path = config.partition('::')
    folder, _, name = path.partition('/')
    return package, folder, name


def collect(paths: Iterable[Path]) -> list[Result]:
    found: dict[tuple[str, str], Result] = {}
    for path in paths:
        found.update(read_results(path))
    return [*found.values()]


if __name__ == '__main__':
    raise SystemExit(main())
