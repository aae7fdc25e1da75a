"""Write BCCD, as it is published, in COCO's format and the folders of blood_cells.py.

git clone https://github.com/Shenggan/BCCD_Dataset
python docs/examples/bccd_to_coco.py BCCD_Dataset/BCCD data/bccd
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

CLASSES = ('RBC', 'WBC', 'Platelets')
SPLITS = ('train', 'val')  # there is a test split besides, which the example leaves alone


def convert(source: Path, target: Path) -> None:
    """Copy images and write annotations of both splits.

    Args:
        source: the folder with Annotations, ImageSets and JPEGImages.
        target: gets train, val and annotations/instances_{train,val}.json.
    """
    for split in SPLITS:
        names = (source / 'ImageSets/Main' / f'{split}.txt').read_text().split()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, name in enumerate(names, 1):
            tree = ElementTree.parse(source / 'Annotations' / f'{name}.xml')
            size = {key: int(tree.findtext(f'size/{key}', '')) for key in ('width', 'height')}
            images.append(dict(id=number, file_name=f'{name}.jpg', **size))
            for thing in tree.iter('object'):
                box = [
                    int(thing.findtext(f'bndbox/{key}', ''))
                    for key in ('xmin', 'ymin', 'xmax', 'ymax')
                ]
                x, y = box[0] - 1, box[1] - 1  # VOC counts pixels from 1, and both ends belong
                width, height = box[2] - x, box[3] - y
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number,
                        category_id=CLASSES.index(thing.findtext('name', '')) + 1,
                        bbox=[x, y, width, height],
                        area=width * height,
                        iscrowd=0,
                    )
                )
            place = target / split / f'{name}.jpg'
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / 'JPEGImages' / f'{name}.jpg', place)
        categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
        content = dict(images=images, annotations=annotations, categories=categories)
        file = target / 'annotations' / f'instances_{split}.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        print(f'{file}: {len(images)} images, {len(annotations)} objects')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('source', type=Path, help='the folder BCCD of the published dataset')
    parser.add_argument('target', type=Path, help='data/bccd, where blood_cells.py looks')
    args = parser.parse_args()
    convert(args.source, args.target)
