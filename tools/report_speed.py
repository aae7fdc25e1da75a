"""Time and memory of `vitbackbones report` on generated predictions as many as COCO's val2017 has.

python tools/report_speed.py            # 5,000 images, 36,000 objects, 500,000 predictions
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset

CONFIG = Path(__file__).parents[1] / 'configs/detection/sepvit_retinanet.py'
WIDTH, HEIGHT = 640, 480


def main() -> None:
    """Generate, report, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--objects', type=int, default=36_000)
    parser.add_argument('--predictions', type=int, default=500_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, args.images, args.objects, args.predictions)
        command = [sys.executable, '-m', 'vitbackbones', 'report', str(CONFIG)]
        command += ['--predictions', str(folder / 'found.json'), '--out-dir', str(folder / 'out')]
        command += ['--worst', '0', '--cfg-options', 'test_dataloader.dataset.data_root=']
        command += [f'test_dataloader.dataset.ann_file={folder / "truths.json"}']
        command += [f'test_evaluator.ann_file={folder / "truths.json"}']
        command += [f'test_dataloader.dataset.data_prefix.img={folder}', f'work_dir={folder}']
        start = time.perf_counter()
        subprocess.run(command, check=True)
        wall = time.perf_counter() - start
        figures = json.loads((folder / 'out/report.json').read_text())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    counts = ', '.join(f'{figures[key]:,} {key}' for key in ('images', 'objects', 'predictions'))
    print(f'{counts}: AP {figures["average_precision"]["boxes"]["ap"]:.3f}')
    cpu = used.ru_utime + used.ru_stime
    print(f'{wall:.0f} s of wall time, {cpu:.0f} s of CPU, {used.ru_maxrss / 2**20:.2f} GiB')


def generate(folder: Path, images: int, objects: int, predictions: int) -> None:
    """Write truths.json and found.json: every second prediction is near an object of its image."""
    draw = np.random.default_rng(0)
    names = CocoDataset.METAINFO['classes']
    where, labels = (
        np.sort(draw.integers(0, images, objects)),
        draw.integers(0, len(names), objects),
    )
    boxes = _boxes(draw, objects)
    rows: list[dict[str, Any]] = [
        dict(id=i + 1, image_id=int(image), category_id=int(label), bbox=box, iscrowd=0)
        for i, (image, label, box) in enumerate(
            zip(where, labels, boxes.round(2).tolist(), strict=True)
        )
    ]
    for row in rows:
        row['area'] = row['bbox'][2] * row['bbox'][3]
    content = dict(
        images=[
            dict(id=i, file_name=f'{i}.jpg', width=WIDTH, height=HEIGHT) for i in range(images)
        ],
        categories=[dict(id=i, name=name) for i, name in enumerate(names)],
        annotations=rows,
    )
    (folder / 'truths.json').write_text(json.dumps(content))
    near = draw.random(predictions) < 0.5
    about = draw.integers(0, objects, predictions)
    moved = boxes[about] + draw.normal(0, 0.08, (predictions, 4)) * boxes[about][:, [2, 3, 2, 3]]
    found = np.where(near[:, None], moved, _boxes(draw, predictions)).clip(1, WIDTH)
    image = np.where(near, where[about], draw.integers(0, images, predictions))
    right = near & (draw.random(predictions) < 0.9)
    label = np.where(right, labels[about], draw.integers(0, len(names), predictions))
    score = np.where(near, draw.beta(2, 2, predictions), draw.beta(1, 6, predictions))
    columns = (image.tolist(), label.tolist(), found.round(2).tolist(), score.round(4).tolist())
    keys = ('image_id', 'category_id', 'bbox', 'score')
    results = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    (folder / 'found.json').write_text(json.dumps(results))


def _boxes(draw: np.random.Generator, count: int) -> np.ndarray:
    """Boxes (N, 4) of the sizes that COCO's have, inside the image."""
    sides = draw.lognormal(4, 0.9, (count, 2)).clip(4, [WIDTH, HEIGHT])
    return np.c_[draw.random((count, 2)) * ([WIDTH, HEIGHT] - sides), sides]


if __name__ == '__main__':
    main()
