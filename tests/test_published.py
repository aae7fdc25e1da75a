"""The published weights of a variant, which are taken by that word."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vitbackbones
from tests.hub_server import Hub
from tests.small import SMALL
from tests.test_checkpoint import same, save, small, snapshot
from vitbackbones import CheckpointError, metafiles
from vitbackbones.backbones import CASViT, GCViT, SuperViT
from vitbackbones.classifiers import build_classifier
from vitbackbones.published import published_source

VARIANT = 'shvit_s1'


@pytest.fixture
def home(loopback_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch, and a hub without the published address of GC ViT xxtiny."""
    loopback_hub.files.clear()
    monkeypatch.setenv('HF_ENDPOINT', loopback_hub.address)
    monkeypatch.setenv('HF_HUB_DISABLE_XET', '1')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    return tmp_path / 'home'


def test_create_takes_the_published_weights(home: Path, loopback_hub: Hub, tmp_path: Path) -> None:
    given = vitbackbones.create('gcvit_xxtiny').state_dict()
    given = {name: value for name, value in given.items() if not name.startswith('norm')}
    path = save({'state_dict': given}, tmp_path / 'w.pth')
    loopback_hub.files['nvidia/GCViT', 'gcvit_1k_xxtiny.pth.tar'] = Path(path).read_bytes()
    net = vitbackbones.create('gcvit_xxtiny', pretrained=True)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in given.items())
    again = GCViT('xxtiny', init_cfg=dict(type='Pretrained', checkpoint='published'))
    again.init_weights()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in given.items())
    assert len([line for line in loopback_hub.asked if line.startswith('GET')]) == 1


@pytest.mark.parametrize('name', ['gcvit_xxtiny', 'shvit_s1'])
def test_create_takes_the_published_classifier(
    name: str, home: Path, loopback_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = vitbackbones.create(name, num_classes=1000).state_dict()
    path = save({'state_dict': given}, tmp_path / 'w.pth')
    address = f'{loopback_hub.address}/o/n/resolve/main/w.pth'
    loopback_hub.files['o/n', 'w.pth'] = Path(path).read_bytes()
    monkeypatch.setattr(
        metafiles, 'weights_of', lambda variant: [row('other', ''), row(variant, address)]
    )
    net = vitbackbones.create(name, num_classes=1000, pretrained=True)
    assert same(net, given)


def row(variant: str, address: str) -> metafiles.Weights:
    options = dict(page=None, sha256=None, licence='', purpose='')
    return metafiles.Weights(name=variant.replace('_', '-', 1), address=address, **options)


def test_the_classifier_of_gcvit_large_is_that_of_224_pixels() -> None:
    """Its dense network starts from the one of 384 pixels, and has windows of 24."""
    dense, _ = published_source('gcvit_large')
    classifier, _ = published_source('gcvit_large', classifier=True)
    assert dense.endswith('/gcvit_21k_large_384.pth.tar')
    assert classifier.endswith('/gcvit_1k_large.pth.tar')
    for name in vitbackbones.list_backbones():
        start, own = metafiles.start_of(name), metafiles.classifier_of(name)
        assert start == own or name == 'gcvit_large'


def test_without_them_weights_are_random(home: Path) -> None:
    assert not vitbackbones.create(VARIANT, pretrained=False).has_loaded
    assert not vitbackbones.create(VARIANT).has_loaded


def test_what_a_browser_has_to_fetch_is_found_where_the_message_says(home: Path) -> None:
    with pytest.raises(
        CheckpointError, match='with a browser: save the file of https://drive'
    ) as e:
        vitbackbones.create('casvit_xs', pretrained=True)
    place = Path(str(e.value).partition(' as ')[2].partition(', or ')[0])
    assert place.parent == home / 'hub/checkpoints'
    net = CASViT('xs', init_cfg=dict(type='Pretrained', checkpoint='published'))
    before = snapshot(net)
    with pytest.raises(CheckpointError, match='with a browser'):
        net.init_weights()
    assert same(net, before)
    place.parent.mkdir(parents=True)
    save({'model': {name: value + 1 for name, value in before.items()}}, place)
    assert vitbackbones.create('casvit_xs', pretrained=True).has_loaded


def test_what_was_never_published_is_said(home: Path) -> None:
    with pytest.raises(
        CheckpointError, match='no weights of sepvit_lite were ever published: give'
    ):
        vitbackbones.create('sepvit_lite', pretrained=True)
    with pytest.raises(CheckpointError, match=r'SepViT: .* a custom arch, nor for any other; give'):
        vitbackbones.load_pretrained(small('sepvit'), 'published')


def test_of_a_custom_arch_the_published_ones_are_named(home: Path) -> None:
    said = r'^SHViT: there are no .* custom arch, choose arch=.s1., .s2., .s3., .s4.; give a file'
    with pytest.raises(CheckpointError, match=said):
        vitbackbones.load_pretrained(small('shvit'), 'published')
    published = dict(type='Pretrained', checkpoint='published')
    said = r'^CASViT: there are no .* custom arch, choose arch=.xs., .s., .m., .t.; give a file'
    for options in (dict(pretrained='published'), dict(init_cfg=published)):
        with pytest.raises(CheckpointError, match=said):
            build_classifier(CASViT, SMALL['CASViT'], num_classes=3, **options)
    said = r'^SuperViT: there are no .* custom arch, choose arch='
    net = build_classifier(SuperViT, SMALL['SuperViT'], num_classes=3)
    with pytest.raises(CheckpointError, match=said):
        vitbackbones.load_pretrained(net, 'published')


def test_an_arch_with_the_values_of_a_published_one_is_it(home: Path) -> None:
    arch = dataclasses.asdict(CASViT.archs['xs'])
    with pytest.raises(CheckpointError, match='the published weights of casvit_xs have to be'):
        build_classifier(CASViT, arch, num_classes=3, pretrained='published')


def test_the_word_stands_for_them_whatever_lies_about(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    save(small('shvit').state_dict(), tmp_path / 'published')
    with pytest.raises(CheckpointError, match='no published weights'):
        vitbackbones.load_pretrained(small('shvit'), 'published')
    assert vitbackbones.load_pretrained(small('shvit'), './published').initialised == ()


@pytest.fixture
def listed(
    home: Path, loopback_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Metafiles that list one file, with the digest of another at first."""
    address = f'{loopback_hub.address}/o/n/resolve/main/s1.pth'
    index = tmp_path / 'model-index.yml'
    index.write_text('Import: [one.yml]')
    (tmp_path / 'one.yml').write_text(
        'Collections: [{Name: SHViT, Metadata: {Weights License: none}}]\n'
        'Models: [{Name: shvit-s1, In Collection: SHViT, Config: configs/_base_/x/shvit-s1.py,\n'
        f'  Metadata: {{Input Size: 224}}, Weights: "{address}", SHA-256: "{"0" * 64}"}}]\n'
    )
    monkeypatch.setattr(metafiles, 'INDEX', index)
    return tmp_path / 'one.yml'


def test_a_digest_of_the_table_is_checked(
    listed: Path, loopback_hub: Hub, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(save(vitbackbones.create(VARIANT).state_dict(), tmp_path / 'w.pth'))
    loopback_hub.files['o/n', 's1.pth'] = path.read_bytes()
    with pytest.raises(CheckpointError, match=f'instead of {"0" * 64}'):
        vitbackbones.create(VARIANT, pretrained=True)
    assert [*home.rglob('*.pth')] == []
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    corrected = listed.with_name('corrected.yml')
    corrected.write_text(listed.read_text().replace('0' * 64, digest))
    index = listed.with_name('other-index.yml')
    index.write_text('Import: [corrected.yml]')
    monkeypatch.setattr(metafiles, 'INDEX', index)
    assert vitbackbones.create(VARIANT, pretrained=True).has_loaded
