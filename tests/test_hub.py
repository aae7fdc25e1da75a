"""Weights by names of the Hugging Face hub, with its client and without."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save as to_safetensors

import vitbackbones
from tests.hub_server import COMMIT, Hub
from tests.test_checkpoint import RunsCode, run_convert, same, save, small, snapshot
from vitbackbones.authoring.ours import network
from vitbackbones.authoring.weights import choose_weights
from vitbackbones.checkpoint import CheckpointError, local_file, read_checkpoint
from vitbackbones.checkpoint.hub import hub_file
from vitbackbones.errors import UserError
from vitbackbones.launch.checks import check_config
from vitbackbones.launch.training import starting_point

REPO = 'someone/shvit.tiny'
NAME = f'hf-hub:{REPO}'
FILE = 'model.safetensors'
CONTENT = to_safetensors({'a': torch.ones(1000)})


@pytest.fixture
def bare_hub(loopback_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with one file, and nothing in torch's cache, without the hub's own client."""
    vars(loopback_hub).update(
        {**vars(Hub(address=loopback_hub.address)), 'files': {(REPO, FILE): CONTENT}}
    )
    monkeypatch.setenv('HF_ENDPOINT', loopback_hub.address)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    return loopback_hub


@pytest.fixture
def client_hub(bare_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The same with the client, whose cache is empty."""
    monkeypatch.delitem(sys.modules, 'huggingface_hub')
    monkeypatch.setenv('HF_HUB_DISABLE_XET', '1')
    monkeypatch.setenv('HF_HUB_DISABLE_TELEMETRY', '1')
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'home'))
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # of what breaks off it tries more
    return bare_hub


@pytest.fixture(params=['bare', 'client'])
def hub(request: pytest.FixtureRequest) -> Hub:
    return request.getfixturevalue(f'{request.param}_hub')


def kept(tmp_path: Path) -> list[str]:
    """Names of the files in the caches that hold something; the client's notes are not counted."""
    home = tmp_path / 'home'
    notes = ('CACHEDIR.TAG', 'refs', '.locks', '.no_exist')
    paths = [path for path in home.rglob('*') if path.is_file()]
    return [path.name for path in paths if not {*notes} & {*path.relative_to(home).parts}]


def downloads(hub: Hub) -> list[str]:
    return [line for line in hub.asked if line.startswith('GET ') and '/resolve/' in line]


# ------------------------------------------------------------------------------ what is named


@pytest.mark.parametrize(
    ('name', 'place'),
    [
        ('hf-hub:o/n.in1k', 'o/n.in1k/resolve/main/model.safetensors'),
        ('hf-hub:o/n@v1', 'o/n/resolve/v1/model.safetensors'),
        ('hf-hub:o/n@refs/pr/1', 'o/n/resolve/refs%2Fpr%2F1/model.safetensors'),
        ('hf://o/n/w.pth', 'o/n/resolve/main/w.pth'),
        ('hf://o/n@refs%2Fpr%2F1/w.pth', 'o/n/resolve/refs%2Fpr%2F1/w.pth'),
        ('hf://o/n@v1/sub/w (1).pth', 'o/n/resolve/v1/sub/w%20%281%29.pth'),
        ('https://huggingface.co/o/n/resolve/main/w.pth', 'o/n/resolve/main/w.pth'),
        # as a browser has them
        ('https://huggingface.co/o/n/blob/v1/sub/w.pth', 'o/n/resolve/v1/sub/w.pth'),
        ('https://huggingface.co/o/n/resolve/main/w.pth?download=true', 'o/n/resolve/main/w.pth'),
        ('https://huggingface.co/o/n/raw/main/w.pth#L1', 'o/n/resolve/main/w.pth'),
        ('http://www.hf.co/o/n/blob/refs%2Fpr%2F1/w.pth', 'o/n/resolve/refs%2Fpr%2F1/w.pth'),
        ('hf://o/n/blob/main/w.pth', 'o/n/resolve/main/w.pth'),
        ('hf://o/n/resolve/v1/sub/w.pth?download=true', 'o/n/resolve/v1/sub/w.pth'),
        ('hf://o/n@v1/w.pth?download=true', 'o/n/resolve/v1/w.pth'),
    ],
)
@pytest.mark.parametrize('endpoint', ['https://hub.example', 'http://127.0.0.1:1/mirror/', ''])
def test_names_are_expanded_to_addresses_of_the_endpoint(
    name: str, place: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HF_ENDPOINT', endpoint)
    named = hub_file(name)
    assert named is not None
    start = endpoint.rstrip('/') or 'https://huggingface.co'
    assert named.address == f'{start}/{place}'


@pytest.mark.parametrize(
    'source', ['w.pth', 'hf/w.pth', 'https://example.org/o/n/resolve/main/w.pth', 'C:w.pth']
)
def test_what_is_elsewhere_is_no_name_of_the_hub(source: str) -> None:
    assert hub_file(source) is None


@pytest.mark.parametrize(
    'name',
    [
        'hf://',
        'hf://o/n',
        'hf://o/n/',
        'hf://o/n@v1',
        'hf://o/../x/w',
        'hf://o/n/../../w',
        'hf://o/n//w',
        'hf://o/n@/w',
        'hf://ö/n/w',
        'hf-hub:',
        'hf-hub:n',
        'hf-hub:o/n/w.pth',
    ],
)
def test_names_that_cannot_be_are_answered_with_their_forms(name: str, bare_hub: Hub) -> None:
    net = small('shvit')
    before = snapshot(net)
    with pytest.raises(CheckpointError, match=r'names no file on the hub; write hf://owner/name/'):
        vitbackbones.load_pretrained(net, name)
    assert same(net, before)
    assert bare_hub.asked == []


@pytest.mark.parametrize('kind', ['datasets', 'spaces'])
def test_repositories_of_another_kind_are_named(kind: str, bare_hub: Hub) -> None:
    with pytest.raises(CheckpointError, match=f'of a repository of {kind} on the hub, and files'):
        vitbackbones.load_pretrained(small('shvit'), f'hf://{kind}/o/n/w.pth')
    assert bare_hub.asked == []


@pytest.mark.parametrize('rest', ['', '/', '/tree/main', '/tree/main/sub', '?library=timm'])
def test_the_page_of_a_repository_is_answered_with_what_names_a_file(
    rest: str, bare_hub: Hub
) -> None:
    for host in ('https://huggingface.co', 'https://hf.co', bare_hub.address):
        with pytest.raises(
            CheckpointError, match=r'is a page .* write hf://o/n/FILE, or'
        ) as caught:
            read_checkpoint(f'{host}/o/n{rest}')
        assert '\n' not in str(caught.value)
    assert bare_hub.asked == []


# ------------------------------------------------------------------------------- what is kept


def test_a_file_is_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    for _ in range(2):
        assert read_checkpoint(NAME)['a'].sum() == 1000
    assert downloads(hub) == [f'GET /{REPO}/resolve/main/{FILE}']
    assert len(kept(tmp_path)) in (1, 2)  # with the client, a name and what it stands for


@pytest.mark.parametrize('rest', ['blob/main', 'resolve/main', 'raw/main'])
def test_an_address_that_a_browser_shows_is_the_file(rest: str, hub: Hub) -> None:
    hub.files[REPO, 'w.safetensors'] = CONTENT
    place = f'{REPO}/{rest}/w.safetensors'
    for host in ('https://huggingface.co/', f'{hub.address}/', 'hf://'):
        assert read_checkpoint(f'{host}{place}?download=true')['a'].sum() == 1000
    assert downloads(hub) == [f'GET /{REPO}/resolve/main/w.safetensors']


def test_files_and_revisions_are_told_apart(hub: Hub) -> None:
    hub.files[REPO, 'sub/w.safetensors'] = to_safetensors({'a': torch.zeros(1)})
    assert read_checkpoint(f'hf://{REPO}/sub/w.safetensors')['a'] == 0
    assert read_checkpoint(f'hf://{REPO}/{FILE}')['a'].sum() == 1000
    assert read_checkpoint(f'hf://{REPO}@v1/{FILE}')['a'].sum() == 1000
    assert read_checkpoint(f'{NAME}@{COMMIT}')['a'].sum() == 1000
    assert any('/resolve/v1/' in line for line in hub.asked)


def test_the_cache_of_the_client_is_used(client_hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    given = hf_hub_download(REPO, FILE, endpoint=client_hub.address)
    client_hub.asked.clear()
    assert local_file(NAME) == given
    assert downloads(client_hub) == []
    assert not (tmp_path / 'home/hub').exists()  # torch's


OTHER = to_safetensors({'a': torch.full((1000,), 2.0)})


@pytest.fixture
def moved_hub(client_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub whose file was kept before the client came, and has become another since."""
    with monkeypatch.context() as without:
        without.setitem(sys.modules, 'huggingface_hub', None)
        for name in (NAME, f'{NAME}@{COMMIT}'):
            assert read_checkpoint(name)['a'].sum() == 1000
    client_hub.files[REPO, FILE] = OTHER
    client_hub.asked.clear()
    return client_hub


def test_a_branch_is_followed_once_the_client_is_there(moved_hub: Hub) -> None:
    assert read_checkpoint(NAME)['a'].sum() == 2000
    assert downloads(moved_hub) == [f'GET /{REPO}/resolve/main/{FILE}']


def test_what_cannot_have_become_another_is_not_asked_for_again(moved_hub: Hub) -> None:
    assert read_checkpoint(f'{NAME}@{COMMIT}')['a'].sum() == 1000
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert read_checkpoint(NAME, sha256=digest)['a'].sum() == 1000
    assert moved_hub.asked == []


def test_what_was_kept_before_the_client_came_is_read_where_the_hub_is_away(moved_hub: Hub) -> None:
    moved_hub.status = 503
    assert read_checkpoint(NAME)['a'].sum() == 1000
    moved_hub.status = None
    moved_hub.gated.add(REPO)
    with pytest.raises(CheckpointError, match='is gated'):  # the hub is there, and says no
        read_checkpoint(NAME)


def test_of_a_file_with_another_digest_what_other_revisions_have_stays(
    client_hub: Hub, tmp_path: Path
) -> None:
    read_checkpoint(NAME)
    (revision,) = tmp_path.rglob('snapshots/*')
    other = revision.rename(revision.with_name('0' * 40))
    with pytest.raises(CheckpointError, match='SHA-256'):
        read_checkpoint(NAME, sha256='0' * 64)
    assert (other / FILE).read_bytes() == CONTENT
    assert not (revision / FILE).exists()


def test_the_token_of_the_client_opens_private_repositories(
    client_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_hub.private[REPO] = 'hf_secret'
    monkeypatch.setenv('HF_TOKEN', 'hf_other')
    with pytest.raises(CheckpointError, match=r'private; correct the name, or .*hf auth login'):
        read_checkpoint(NAME)
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    assert read_checkpoint(NAME)['a'].sum() == 1000


def test_what_was_fetched_before_is_read_without_a_network(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_checkpoint(NAME)
    hub.status = 503
    assert read_checkpoint(NAME)['a'].sum() == 1000


# --------------------------------------------------------------------- what cannot be had


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('hf-hub:someone/else', 'has no someone/else, or it is private; correct the name'),
        (f'{NAME}@v2', f'{REPO} has no revision v2; correct it, or leave it out for main'),
        (f'hf://{REPO}/w.pth', f'has no file w.pth at revision main; name one .* hf://{REPO}/FILE'),
        ('hf-hub:someone/gated', 'someone/gated is gated; ask for access at http'),
    ],
)
def test_names_that_the_hub_does_not_have_say_what_to_do(
    name: str, said: str, hub: Hub, tmp_path: Path
) -> None:
    hub.files['someone/gated', FILE] = CONTENT
    hub.gated.add('someone/gated')
    net = small('shvit', init_cfg=dict(type='Pretrained', checkpoint=name))
    before = snapshot(net)
    with pytest.raises(CheckpointError, match=rf'^{name} is not to be had: .*{said}') as caught:
        net.init_weights()
    assert '\n' not in str(caught.value)
    assert same(net, before)
    assert kept(tmp_path) == []


@pytest.mark.parametrize('break_at', [0, 100, len(CONTENT) - 1])
def test_half_a_file_is_not_kept(break_at: int, hub: Hub, tmp_path: Path) -> None:
    hub.sent = break_at
    with pytest.raises(CheckpointError, match=rf'^{NAME} cannot be downloaded .*the local path'):
        read_checkpoint(NAME)
    assert kept(tmp_path) == []
    hub.sent = None
    assert read_checkpoint(NAME)['a'].sum() == 1000


def test_a_file_of_another_digest_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(CheckpointError, match=f'SHA-256 is {digest} instead of {"0" * 64}'):
        read_checkpoint(NAME, sha256='0' * 64)
    assert kept(tmp_path) == []
    assert read_checkpoint(NAME, sha256=digest)


def test_a_file_of_another_digest_that_was_there_stays(hub: Hub) -> None:
    read_checkpoint(NAME)
    with pytest.raises(CheckpointError, match='SHA-256'):
        read_checkpoint(NAME, sha256='0' * 64)
    hub.asked.clear()
    assert read_checkpoint(NAME)
    assert downloads(hub) == []


def test_a_hub_that_is_broken_or_away_says_how_to_go_on(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('time.sleep', lambda seconds: pytest.fail('it waits to try again'))
    hub.status = 503
    with pytest.raises(CheckpointError, match=r'answers with HTTP status 503\); fetch it by other'):
        read_checkpoint(NAME)
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    with pytest.raises(CheckpointError, match=r'refused\); fetch it by other') as caught:
        read_checkpoint(NAME)
    assert '\n' not in str(caught.value)
    assert kept(tmp_path) == []


def test_an_endpoint_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HF_ENDPOINT', 'hub')
    with pytest.raises(CheckpointError, match='HF_ENDPOINT=hub is no address of a hub; set it to'):
        read_checkpoint(NAME)


def test_hostile_files_are_refused_as_those_of_a_path(hub: Hub, tmp_path: Path) -> None:
    path = save(RunsCode(tmp_path / 'ran'), tmp_path / 'w.pth')
    hub.files[REPO, 'w.pth'] = Path(path).read_bytes()
    with pytest.raises(CheckpointError, match=rf'hf://{REPO}/w.pth .* can run code'):
        read_checkpoint(f'hf://{REPO}/w.pth')
    assert not (tmp_path / 'ran').exists()


def test_a_file_that_is_deleted_as_the_message_says_is_fetched_again(hub: Hub) -> None:
    hub.files[REPO, FILE] = b'<html>'
    with pytest.raises(CheckpointError, match='web page') as caught:
        read_checkpoint(NAME)
    os.unlink(str(caught.value).partition('kept as ')[2].partition(';')[0])
    hub.files[REPO, FILE] = CONTENT
    assert read_checkpoint(NAME)['a'].sum() == 1000


# ------------------------------------------------------------------------- where they are given


@pytest.fixture
def weights(hub: Hub) -> dict[str, torch.Tensor]:
    """Weights of a small network, which the hub has as ``model.safetensors`` and ``start.pth``."""
    state = small('shvit').state_dict()
    hub.files[REPO, FILE] = to_safetensors(state)
    return state


def test_backbones_take_names(weights: dict[str, torch.Tensor]) -> None:
    net = small('shvit', init_cfg=dict(type='Pretrained', checkpoint=NAME))
    net.init_weights()
    assert same(net, weights)
    net = small('shvit')
    report = vitbackbones.load_pretrained(net, f'hf://{REPO}@v1/{FILE}')
    assert same(net, weights)
    assert str(report).endswith(f'from hf://{REPO}@v1/{FILE}')


def test_create_takes_names(bare_hub: Hub) -> None:
    bare_hub.files[REPO, FILE] = to_safetensors(vitbackbones.create('shvit_s1').state_dict())
    net = vitbackbones.create('shvit_s1', pretrained=NAME)
    assert net.has_loaded


def test_convert_takes_names(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    run_convert(NAME, tmp_path / 'out.pth')
    read = read_checkpoint(tmp_path / 'out.pth')['state_dict']
    assert all(torch.equal(read[name], value) for name, value in weights.items())


def test_training_starts_from_names(bare_hub: Hub, tmp_path: Path) -> None:
    path = save({'state_dict': {'a': torch.ones(1)}}, tmp_path / 'start.pth')
    bare_hub.files[REPO, 'start.pth'] = Path(path).read_bytes()
    cfg = Config(dict(load_from=f'hf://{REPO}/start.pth'))
    assert starting_point(cfg, None)['state_dict']['a'] == 1
    assert torch.load(cfg.load_from, weights_only=True)['state_dict']['a'] == 1
    with pytest.raises(UserError, match=rf'^{NAME}: mmengine starts .* convert {NAME} start.pth'):
        starting_point(Config(dict(load_from=NAME)), None)


@pytest.mark.parametrize('name', [NAME, f'hf://{REPO}/{FILE}'])
def test_configs_with_names_are_checked_without_asking_the_hub(name: str, bare_hub: Hub) -> None:
    backbone = dict(type='SHViT', arch='s1', init_cfg=dict(type='Pretrained', checkpoint=name))
    check_config(Config(dict(model=dict(type='RetinaNet', backbone=backbone))), ())
    assert bare_hub.asked == []


def test_new_configs_take_names(bare_hub: Hub) -> None:
    bare_hub.files[REPO, FILE] = to_safetensors(vitbackbones.create('shvit_s1').state_dict())
    start = choose_weights(network('shvit_s1'), NAME)
    assert start.options['init_cfg'] == dict(type='Pretrained', checkpoint=NAME)
    with pytest.raises(CheckpointError, match=r'^--weights hf-hub:a/b cannot be .* has no a/b'):
        choose_weights(network('shvit_s1'), 'hf-hub:a/b')
