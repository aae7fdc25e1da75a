"""Folders as people have them, which are read rightly or refused, never wrongly in silence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitbackbones.errors import UserError
from vitbackbones.formats.folder import read_folder
from vitbackbones.formats.own_data import OwnData

SIDE = 40
VOC = (
    '<annotation><filename>{name}.jpg</filename><size><width>40</width><height>40</height></size>'
    '<object><name>{label}</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>30</ymax>'
    '</bndbox></object></annotation>'
)
ROW = '0 0.5 0.5 0.4 0.4\n'


def image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def text(path: Path, content: str, encoding: str = 'utf-8') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding=encoding)


def read(folder: Path) -> OwnData:
    return read_folder(folder, folder.parent / 'my_data', force=True)


def files(data: OwnData, splits: Sequence[str] = ('train', 'val')) -> list[str]:
    """The images of all splits, by their paths below the folder of the data."""
    found = []
    for split in splits:
        own = data.splits[split]
        rows = json.loads(own.annotations.read_text())['images']
        found += [str((own.images / row['file_name']).relative_to(data.folder)) for row in rows]
    return sorted(found)


def yolo(folder: Path, images: int = 4, encoding: str = 'utf-8') -> list[str]:
    for i in range(images):
        image(folder / f'images/train/{i}.jpg', i)
        text(folder / f'labels/train/{i}.txt', ROW, encoding)
    return [f'images/train/{i}.jpg' for i in range(images)]


def test_xml_files_of_one_name_in_several_folders(tmp_path: Path) -> None:
    folder = tmp_path / 'data'
    for i in range(3):
        for camera in ('a', 'b'):
            image(folder / f'JPEGImages/{camera}/{i}.jpg', i + 10 * (camera == 'a'))
            text(folder / f'Annotations/{camera}/{i}.xml', VOC.format(name=i, label='thing'))
    expected = [f'JPEGImages/{camera}/{i}.jpg' for camera in ('a', 'b') for i in range(3)]
    assert files(read(folder)) == expected
    (folder / 'Annotations/b').rename(folder / 'Annotations/c')  # nobody knows whose they are
    for i in range(3):
        (folder / f'JPEGImages/b/{i}.jpg').unlink()
    with pytest.raises(UserError, match=r'Annotations/a/0.xml and .*c/0.xml may both be of'):
        read(folder)


def test_labels_in_a_folder_beside_that_is_called_alike(tmp_path: Path) -> None:
    yolo(tmp_path / 'set')
    for i in range(3):
        image(tmp_path / f'set_more/images/{i}.jpg', 50 + i)
        text(tmp_path / f'set_more/labels/{i}.txt', ROW)
    lines = 'train: [images/train, ../set_more/images]\nnames: [yes, no]\n'
    text(tmp_path / 'set/data.yaml', lines)
    data = read(tmp_path / 'set')
    assert not any('without labels' in line for line in data.said)
    assert len(data.objects) == len(data.image_sizes)
    assert data.classes == ('yes', 'no')  # to YAML they are truth values


@pytest.mark.parametrize('entry', [r'images\train', r'C:\Users\me\data\images\train', 'list.txt'])
def test_paths_of_windows(tmp_path: Path, entry: str) -> None:
    folder = tmp_path / 'data'
    expected = yolo(folder)
    lines = [f'C:\\Users\\me\\data\\{name}\n'.replace('/', '\\') for name in expected]
    text(folder / 'list.txt', ''.join(lines), 'utf-8-sig')
    text(folder / 'data.yaml', f"train: '{entry}'\nnames: [thing]\n")
    assert files(read(folder)) == expected


def test_byte_order_marks(tmp_path: Path) -> None:
    folder = tmp_path / 'data'
    expected = yolo(folder, encoding='utf-8-sig')
    data = read(folder)
    assert files(data) == expected
    assert len(data.objects) == data.splits['train'].number
    voc = tmp_path / 'voc'
    for i in range(4):
        image(voc / f'JPEGImages/{i}.jpg', i)
        text(voc / f'Annotations/{i}.xml', VOC.format(name=i, label='thing'))
    text(voc / 'ImageSets/Main/train.txt', '0\n1\n', 'utf-8-sig')
    text(voc / 'ImageSets/Main/val.txt', '2\n3\n', 'utf-8-sig')
    data = read(voc)
    assert files(data, ['train']) == ['JPEGImages/0.jpg', 'JPEGImages/1.jpg']
    assert files(data, ['val']) == ['JPEGImages/2.jpg', 'JPEGImages/3.jpg']


def test_labels_that_two_images_share_are_counted(tmp_path: Path) -> None:
    yolo(tmp_path / 'data')
    image(tmp_path / 'data/images/train/0.png', 99)
    said = read(tmp_path / 'data').said
    assert any('labels that others have, too: 2' in line for line in said)


@pytest.mark.parametrize(
    ('names', 'splits'),
    [
        (('test_tubes', 'beakers'), ['train', 'val']),  # glassware
        (('train_station', 'harbour'), ['train', 'val']),
        (('blood_train', 'blood_val'), ['train', 'val']),
        (('train2017', 'test2017'), ['train', 'val', 'test']),
        (('train_images', 'testing'), ['train', 'val', 'test']),
        (('train_dataset', 'test_dataset'), ['train', 'val', 'test']),
        (('train_harbour', 'test_harbour'), ['train', 'val', 'test']),  # nothing else differs
        (('train_harbour', 'test_beach'), ['train', 'val']),
    ],
)
def test_folders_whose_names_begin_like_a_split(
    tmp_path: Path, names: tuple[str, str], splits: list[str]
) -> None:
    for place, name in enumerate(names):
        for i in range(5):
            image(tmp_path / f'data/{name}/{name}{i}.jpg', 10 * place + i)
            text(tmp_path / f'data/{name}/{name}{i}.xml', VOC.format(name=f'{name}{i}', label=name))
    data = read(tmp_path / 'data')
    assert list(data.splits) == splits
    by_name = 'test' in splits or 'blood_val' in names
    assert any('splits by the names of folders' in line for line in data.said) == by_name
    if by_name and 'val' in data.splits and 'test' not in splits:
        assert all(file.startswith(names[1]) for file in files(data, ['val']))


def test_masks_with_soft_edges_are_no_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        image(tmp_path / f'data/images/{i}.jpg', i)
        labels = np.zeros((SIDE, SIDE), np.uint8)
        labels[10:30, 10:30] = 255
        labels[8] = rng.permutation(np.arange(0, 240, 6, np.uint8))
        labels[9, 0] = 254
        (tmp_path / 'data/masks').mkdir(exist_ok=True)
        Image.fromarray(labels).save(tmp_path / f'data/masks/{i}.png')
    with pytest.raises(UserError, match=r'value 254, .* resized or compressed'):
        read(tmp_path / 'data')


def test_a_folder_that_somebody_else_has_written_stays(tmp_path: Path) -> None:
    yolo(tmp_path / 'data')
    text(tmp_path / 'my_data/photo.txt', 'mine')
    with pytest.raises(UserError, match='my_data is there and was not written by'):
        read(tmp_path / 'data')
    assert (tmp_path / 'my_data/photo.txt').read_text() == 'mine'
