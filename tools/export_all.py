"""Every config of ours as one ONNX file: which are written, which are not and why.

    python tools/export_all.py work_dirs/export.jsonl [CONFIG ...] [--size H W]
    python tools/export_all.py work_dirs/export.jsonl --table

Weights are random, with last layers that were scaled and shifted until there is something to be
found. Each config has a process of its own; what has a line in the file of results is not done
again, so that it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]

Result = dict[str, Any]


def configs() -> list[str]:
    """All that may be trained, those of the five backbones' default variants first."""
    found = [p for kind in ('detection', 'segmentation') for p in ROOT.glob(f'configs/{kind}/*.py')]
    more = [
        p for kind in ('detection', 'segmentation') for p in ROOT.glob(f'configs/{kind}/*/*.py')
    ]
    more = [path for path in more if path.parent.name != '_base_']
    return [str(path.relative_to(ROOT)) for path in (*sorted(found), *sorted(more))]


def export(config: str, size: tuple[int, int]) -> Result:
    """Export one config, in this process."""
    import torch
    from mmengine.registry import MODELS, init_default_scope

    from vitbackbones.benchmark.livened import enliven, vary_norms
    from vitbackbones.deploy.exporting import export_whole
    from vitbackbones.deploy.onnx import ExportError
    from vitbackbones.deploy.pictures import pictures
    from vitbackbones.deploy.whole import Wanted
    from vitbackbones.errors import UserError
    from vitbackbones.launch.loading import load_config

    torch.set_num_threads(1)
    start = time.monotonic()
    cfg = load_config(str(ROOT / config))
    init_default_scope(cfg.default_scope)
    for part in (cfg.model, cfg.model.backbone):
        part.pop('init_cfg', None)
    result: Result = {'config': config, 'size': size}
    wanted = Wanted(size=size)
    with TemporaryDirectory() as folder:
        weights, out = Path(folder, 'weights.pth'), Path(folder, 'model.onnx')
        try:
            torch.manual_seed(0)
            model = vary_norms(
                MODELS.build(copy.deepcopy(cfg.model))
            )  # DINO changes what it is given
            if not hasattr(model, 'encoder'):  # of DINO, which is refused
                enliven(model, pictures(cfg, [(1, *size), (1, 8, 8)])[0])
            torch.save({'state_dict': model.state_dict()}, weights)
            del model
            outcome = export_whole(cfg, str(weights), out, wanted, name=config)
        except (UserError, ExportError) as error:
            result['stopped'] = ' '.join(str(error).split())
        else:
            result.update(vars(outcome), megabytes=out.stat().st_size / 1e6)
    result['seconds'] = time.monotonic() - start
    return result


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    lines = [
        '| config | file (MB) | boxes | coordinates differ by (px) | scores by | in one alone '
        '| pixels that differ |',
        '|---|---:|---:|---:|---:|---:|---:|',
    ]
    for row in {result['config']: result for result in results}.values():  # the last of each
        name = row['config'].removeprefix('configs/')
        if reason := row.get('stopped', row.get('failed')):
            lines.append(f'| `{name}` | not written: {reason} | | | | | |')
            continue
        found = [
            f'{row["boxes"]}',
            f'{row["pixels"]:.1e}',
            f'{row["score"]:.1e}',
            f'{row["unpaired"]}',
        ]
        ties = f'{row["ties"]} of {row["places"]:.1e}' if row['places'] else ''
        cells = found if row['is_detector'] else [''] * 4
        lines.append(f'| `{name}` | {row["megabytes"]:.0f} | {" | ".join(cells)} | {ties} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('results', type=Path, help='a line of JSON for each config')
    parser.add_argument('configs', nargs='*', help='(all)')
    parser.add_argument('--size', nargs=2, type=int, default=(512, 512))
    parser.add_argument('--table', action='store_true', help='print what there is as Markdown')
    parser.add_argument('--one', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(export(args.configs[0], tuple(args.size))))
        return
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    results = [json.loads(line) for line in lines]
    if args.table:
        print(table(results))
        return
    done = {
        result['config']
        for result in results
        if 'failed' not in result and result['size'] == list(args.size)
    }
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for config in args.configs or configs():
        if config in done:
            continue
        size = [str(side) for side in args.size]
        command = [sys.executable, __file__, str(args.results), config, '--one', '--size', *size]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            result = {
                'config': config,
                'size': list(args.size),
                'failed': (made.stderr.strip().splitlines() or [f'status {made.returncode}'])[-1],
            }
        else:
            result = json.loads(made.stdout.splitlines()[-1])
        with args.results.open('a') as file:
            file.write(json.dumps(result) + '\n')
        print(f'{config}: {result.get("stopped", result.get("failed", "exported"))}', flush=True)


if __name__ == '__main__':
    main()
