"""Turn data in COCO's layout into the other formats that people have.

``python -m tests.own_data SOURCE FORMAT OUT``: SOURCE has ``annotations/instances_train.json``
and ``_val.json``, images in ``train/`` and ``val/``, and, for those of label maps, maps of indices
in ``labels/train/`` and ``labels/val/``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

SPLITS = ('train', 'val')
COLOURS = ((0, 0, 0), (220, 60, 40), (60, 120, 220), (70, 200, 90))


def load(source: Path, split: str) -> dict[str, Any]:
    return json.loads((source / 'annotations' / f'instances_{split}.json').read_text())


def objects_of(content: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """By the id of an image, its annotations."""
    found = defaultdict(list)
    for row in content['annotations']:
        found[row['image_id']].append(row)
    return found


def yolo(source: Path, out: Path, *, polygons: bool = False, described: bool = True) -> None:
    """``images/`` and ``labels/`` with both splits, and a data.yaml if ``described``."""
    for split in SPLITS:
        content = load(source, split)
        labels = {row['id']: place for place, row in enumerate(content['categories'])}
        by_image = objects_of(content)
        for image in content['images']:
            copy(source / split / image['file_name'], out / 'images' / split)
            width, height = image['width'], image['height']
            lines = []
            for row in by_image[image['id']]:
                x, y, w, h = row['bbox']
                values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
                if polygons:
                    (points,) = row['segmentation']
                    values = [v / (width, height)[i % 2] for i, v in enumerate(points)]
                lines.append(
                    ' '.join([str(labels[row['category_id']]), *map('{:.6f}'.format, values)])
                )
            write(out / 'labels' / split / f'{Path(image["file_name"]).stem}.txt', lines)
    names = [row['name'] for row in content['categories']]
    if described:
        splits = [f'{split}: images/{split}' for split in SPLITS]
        write(out / 'data.yaml', ['path: .', *splits, f'nc: {len(names)}', f'names: {names}'])


def voc(source: Path, out: Path, *, listed: bool = True) -> None:
    """``VOCdevkit/VOC2007``, with ImageSets if ``listed``; whole pixels, counted from 1."""
    root = out / 'VOCdevkit' / 'VOC2007'
    for split in SPLITS:
        content = load(source, split)
        names = {row['id']: row['name'] for row in content['categories']}
        by_image = objects_of(content)
        for image in content['images']:
            name = image['file_name']
            copy(source / split / name, root / 'JPEGImages')
            xml = ElementTree.Element('annotation')
            ElementTree.SubElement(xml, 'filename').text = name
            size = ElementTree.SubElement(xml, 'size')
            for key, value in (*((k, image[k]) for k in ('width', 'height')), ('depth', 3)):
                ElementTree.SubElement(size, key).text = str(value)
            for row in by_image[image['id']]:
                found = ElementTree.SubElement(xml, 'object')
                ElementTree.SubElement(found, 'name').text = names[row['category_id']]
                box = ElementTree.SubElement(found, 'bndbox')
                x, y, w, h = map(round, row['bbox'])
                corners = dict(xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
                for key, value in corners.items():
                    ElementTree.SubElement(box, key).text = str(value)
            path = root / 'Annotations' / f'{Path(name).stem}.xml'
            path.parent.mkdir(parents=True, exist_ok=True)
            ElementTree.ElementTree(xml).write(path)
        if listed:
            stems = [Path(image['file_name']).stem for image in content['images']]
            write(root / 'ImageSets' / 'Main' / f'{split}.txt', stems)


def coco(source: Path, out: Path) -> None:
    """One file for all images."""
    whole: dict[str, Any] = dict(images=[], annotations=[])
    for split in SPLITS:
        content = load(source, split)
        whole['categories'] = content['categories']
        first = len(whole['images'])
        ids = {row['id']: first + place for place, row in enumerate(content['images'], start=1)}
        whole['images'] += [{**row, 'id': ids[row['id']]} for row in content['images']]
        for row in content['annotations']:
            number = len(whole['annotations']) + 1
            whole['annotations'].append({**row, 'id': number, 'image_id': ids[row['image_id']]})
        for image in content['images']:
            copy(source / split / image['file_name'], out / 'images')
    write(out / 'annotations.json', [json.dumps(whole)])


def label_maps(source: Path, out: Path, kind: str) -> None:
    """``img_dir/`` and ``ann_dir/``, with maps of indices, of a palette, or of colours."""
    for split in SPLITS:
        for file in sorted((source / 'labels' / split).iterdir()):
            (image,) = (source / split).glob(f'{file.stem}.*')
            copy(image, out / 'img_dir' / split)
            with Image.open(file) as opened:
                labels = np.array(opened)
            to = out / 'ann_dir' / split / file.name
            to.parent.mkdir(parents=True, exist_ok=True)
            if kind == 'colours':
                Image.fromarray(np.array(COLOURS, np.uint8)[labels]).save(to)
                continue
            made = Image.fromarray(labels)
            if kind == 'palette':
                made.putpalette([channel for colour in COLOURS for channel in colour])
            made.save(to)
    if kind == 'colours':
        highest = max(
            int(np.array(Image.open(f)).max()) for f in (source / 'labels').rglob('*.png')
        )
        rows = [f'class{i},{r},{g},{b}' for i, (r, g, b) in enumerate(COLOURS[: highest + 1])]
        write(out / 'class_dict.csv', ['name,r,g,b', *rows])


FORMATS: dict[str, Callable[[Path, Path], None]] = {
    'yolo': yolo,
    'voc': voc,
    'coco': coco,
    'index': lambda source, out: label_maps(source, out, 'index'),
    'palette': lambda source, out: label_maps(source, out, 'palette'),
    'colours': lambda source, out: label_maps(source, out, 'colours'),
}


def copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)


def write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', type=Path)
    parser.add_argument('format', choices=FORMATS)
    parser.add_argument('out', type=Path)
    args = parser.parse_args()
    FORMATS[args.format](args.source, args.out)
