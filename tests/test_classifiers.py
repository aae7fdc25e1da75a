"""Classifiers: from their weights to detectors, and the published ones from their files."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from tests import parity
from tests.checkpoint_files import (
    FAMILIES,
    OUTSIDE,
    Published,
    State,
    published,
    save,
    to_timm,
    wrap,
)
from tests.reference import refdata
from tests.small import SMALL
from vitbackbones import CheckpointError, create, load_pretrained
from vitbackbones.backbones.base import Backbone
from vitbackbones.checkpoint import LoadReport
from vitbackbones.classifiers import Classifier, build_classifier

every_family = pytest.mark.parametrize('family', sorted(FAMILIES))


def small(family: str, **options: Any) -> Backbone:
    cls = FAMILIES[family]
    return cls(SMALL[cls.__name__], **options)


def with_last_output(family: str) -> Backbone:
    return small(family, out_indices=(len(FAMILIES[family].strides) - 1,))


def under(prefix: str, state: State) -> State:
    return {f'{prefix}.{name}': value for name, value in state.items()}


# --------------------------------------------------------------- from classifier to detector

# What a network has beside what it has with its last output alone.
FURTHER = {
    'casvit': {f'norm{i}' for i in (0, 2, 4)},
    'gcvit': {f'norm{i}' for i in (0, 1, 2)},
    'sepvit': set(),
    'shvit': set(),
    'supervit': {'pyramid'},
}
HEAD = {'head.fc.weight': torch.ones(3, 8), 'head.fc.bias': torch.ones(3)}


@every_family
def test_every_parameter_of_a_network_with_its_last_output_gets_a_gradient(family: str) -> None:
    net = with_last_output(family)
    net(torch.randn(2, 3, 64, 96))[-1].square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('prefix', ['', 'backbone', 'student.backbone'])
@every_family
def test_a_network_with_all_outputs_starts_from_one_with_its_last(
    family: str, prefix: str, tmp_path: Path
) -> None:
    trained, net = with_last_output(family), small(family)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = trained.state_dict()
    if prefix:
        parent = prefix.rpartition('backbone')[0]
        state = under(prefix, state) | {f'{parent}{name}': value for name, value in HEAD.items()}
    path = save({'state_dict': state}, tmp_path / 'classifier.pth')
    report = load_pretrained(net, path, prefix=prefix or None)

    now, want = net.state_dict(), trained.state_dict()
    assert {*report.loaded} == {*want}
    assert {*report.loaded, *report.initialised} == {*now}
    for name, value in now.items():
        assert torch.equal(value, want[name] if name in want else before[name]), name
    assert {name.partition('.')[0] for name in report.initialised} == FURTHER[family]
    assert all(name in str(report) for name in FURTHER[family] - {'pyramid'})
    assert len(report.dropped) == (len(HEAD) if prefix else 0)
    assert 'detector' not in report.description
    assert report.description.endswith('classifier') == bool(prefix or FURTHER[family])


@every_family
def test_stages_that_are_not_built_are_dropped_from_a_classifier(
    family: str, tmp_path: Path
) -> None:
    trained, net = with_last_output(family), small(family, out_indices=(0, 1))
    path = save(under('backbone', trained.state_dict()) | HEAD, tmp_path / 'classifier.pth')
    report = load_pretrained(net, path)
    want = trained.state_dict()
    for name, value in net.state_dict().items():
        assert name in report.initialised or torch.equal(value, want[name]), name
    assert {*report.loaded} == {*want} & {*net.state_dict()}
    assert {name.partition('.')[0] for name in report.initialised} <= FURTHER[family]


@pytest.fixture
def few_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else a refused file would fit takes seconds to find, and is not asked here."""
    monkeypatch.setattr(Backbone, 'registered', staticmethod(dict))


def refused(net: Backbone, state: State, path: Path, **options: Any) -> str:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_pretrained(net, save(state, path), **options)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    return str(error.value)


@pytest.mark.usefixtures('few_networks')
def test_a_detector_with_one_output_may_lack_nothing(tmp_path: Path) -> None:
    state = under('backbone', with_last_output('casvit').state_dict()) | OUTSIDE
    message = refused(small('casvit'), state, tmp_path / 'detector.pth')
    assert 'Missing in the file: 12 (norm0.weight' in message


@pytest.mark.usefixtures('few_networks')
@pytest.mark.parametrize(
    ('family', 'lost', 'said'),
    [
        ('casvit', 'norm6.bias', 'Missing in the file: 13 '),
        ('gcvit', 'levels.3.blocks.0.mlp.fc2.', 'Missing in the file: 8 (levels.3.'),
    ],
)
def test_of_the_network_with_its_last_output_nothing_may_be_missing(
    family: str, lost: str, said: str, tmp_path: Path
) -> None:
    state = under('backbone', with_last_output(family).state_dict())
    left = {key: value for key, value in state.items() if not key.startswith(f'backbone.{lost}')}
    assert len(left) < len(state)
    assert said in refused(small(family), left | HEAD, tmp_path / 'cut.pth')


def test_a_classifier_of_another_variant_is_refused_by_name(tmp_path: Path) -> None:
    cls = FAMILIES['gcvit']
    with torch.device('meta'):
        shapes = cls('xtiny', out_indices=(3,)).state_dict()
    state = {name: torch.zeros((), dtype=v.dtype).expand(v.shape) for name, v in shapes.items()}
    message = refused(cls('xxtiny'), under('backbone', state) | HEAD, tmp_path / 'other.pth')
    assert "The file fits arch='xtiny': set that" in message


# ------------------------------------------------------------------------- the published ones

PUBLISHED = [case for case in published() if case.kind == 'cls']
# With a second head, and with the auxiliary one.
KINDS = [*((family, {}) for family in sorted(FAMILIES)), ('casvit', {'dist_head': True})]
every_kind = pytest.mark.parametrize(
    ('family', 'options'), KINDS, ids=['-'.join([family, *options]) for family, options in KINDS]
)


def by_size(case: Published) -> Any:
    marks = [pytest.mark.large] if case.manifest['params'] > 40e6 else []
    return pytest.param(case, id=str(case), marks=marks)


def built(family: str, classes: int = 5, **options: Any) -> Classifier:
    cls = FAMILIES[family]
    arch = SMALL[cls.__name__] | ({'aux_weight': 0.25} if family == 'supervit' else {})
    return build_classifier(cls, arch, num_classes=classes, **options)


def snapshot(net: nn.Module) -> State:
    return {name: value.clone() for name, value in net.state_dict().items()}


def golden_files(case: Published) -> list[dict[str, Any]]:
    suffix = f'_{case.suffix}' if case.suffix else ''
    paths = parity.goldens(case.family, f'{case.arch}_cls_*_b1{suffix}.json')
    return [refdata.load_json(path) for path in paths]


def test_the_golden_files_are_of_the_published_classifiers() -> None:
    cases = [case for case in PUBLISHED if case.family != 'supervit']
    assert sum(len(golden_files(case)) for case in cases) == 25


def assert_all_is_used(report: LoadReport, net: Classifier, state: State) -> None:
    """Nothing is initialised or changed, and nothing dropped but what follows from the windows."""
    assert {*report.loaded} == {*net.state_dict()}
    assert (report.initialised, report.adapted) == ((), {})
    assert {name.rpartition('.')[2] for name in report.dropped} <= {'relative_position_index'}
    assert len(report.loaded) + len(report.dropped) == len(state)


@pytest.mark.parametrize('case', [by_size(case) for case in PUBLISHED if case.family != 'supervit'])
def test_logits_of_a_published_file_equal_the_published_ones(
    case: Published, tmp_path: Path, reports: list[LoadReport]
) -> None:
    state = case.zeros() | case.filled()
    path = save(wrap(case, state), tmp_path / 'published.pth')
    net = create(f'{case.family}_{case.arch}', path, num_classes=1000).eval()
    (report,) = reports
    assert_all_is_used(report, net, state)
    assert report.description == f'official {case.cls.family} {case.arch} classifier'
    assert sum(p.numel() for p in net.parameters()) == case.manifest['params']
    goldens = golden_files(case)
    assert goldens
    with torch.no_grad():
        for golden in goldens:
            x = refdata.input_tensor(**golden['input'])
            parity.assert_equal([net(x)], golden['outputs'])


SHAPES = [
    *((case, 'official') for case in PUBLISHED if by_size(case).marks or case.family == 'supervit'),
    *(
        (case, 'timm')
        for case in PUBLISHED
        if case.family in ('gcvit', 'shvit') and not case.suffix  # timm has no files of others
    ),
]


@pytest.mark.filterwarnings('ignore:.* copying from a non-meta parameter')
@pytest.mark.parametrize(('case', 'dialect'), SHAPES, ids=str)
def test_every_tensor_of_a_published_classifier_is_used(
    case: Published, dialect: str, tmp_path: Path, reports: list[LoadReport]
) -> None:
    """Names and shapes alone: neither the file nor the network has values."""
    state = case.zeros() if dialect == 'official' else to_timm(case.family, case.zeros())
    path = save(wrap(case, state), tmp_path / 'published.pth')
    with torch.device('meta'):
        net = create(f'{case.family}_{case.arch}', path, num_classes=1000)
    (report,) = reports
    assert_all_is_used(report, net, state)
    assert report.description == f'{dialect} {case.cls.family} {case.arch} classifier'


@every_kind
def test_every_parameter_of_a_classifier_gets_a_gradient(family: str, options: Any) -> None:
    net = built(family, **options)
    logits = net(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 5)
    F.cross_entropy(logits, torch.tensor([0, 3])).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@every_kind
def test_weights_of_our_own_classifiers_come_back_and_fit_the_dense_network(
    family: str, options: Any, tmp_path: Path
) -> None:
    net = built(family, **options)
    path = save({'state_dict': net.state_dict()}, tmp_path / 'own.pth')
    other = built(family, init_cfg=dict(type='Pretrained', checkpoint=path))
    assert other.state_dict().keys() == net.state_dict().keys()  # the second head as well
    other.init_weights()
    want = net.state_dict()
    assert all(torch.equal(value, want[name]) for name, value in other.state_dict().items())

    dense = small(family)
    report = load_pretrained(dense, path)
    values = dense.state_dict()
    assert {*report.loaded, *report.initialised} == {*values}
    kept = {name.removeprefix('backbone.') for name in want} - {*report.dropped}
    assert {*report.loaded} == {name for name in kept if not name.startswith('head.')}
    for name in {*report.loaded} - {*report.adapted}:  # tables of other windows
        assert torch.equal(values[name], want[f'backbone.{name}']), name
    assert report.description.endswith('classifier')


def test_without_a_file_cas_vit_has_one_head_unless_two_are_asked_for(tmp_path: Path) -> None:
    one, two = built('casvit'), built('casvit', dist_head=True)
    assert set(two.state_dict()) - set(one.state_dict()) == {
        'head.dist_head.weight',
        'head.dist_head.bias',
    }
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (y,) = two.eval().backbone(x)
        heads = [layer(y.mean((2, 3))) for layer in (two.head.head, two.head.dist_head)]
        torch.testing.assert_close(two(x), sum(heads) / 2)
    path = save(two.state_dict(), tmp_path / 'two.pth')
    assert 'two.pth has a second head, and the classifier' in not_loaded(one, path)
    other = not_loaded(two, save(one.state_dict(), tmp_path / 'one.pth'))
    assert 'one.pth has no second head, and the classifier' in other


def not_loaded(net: nn.Module, path: str) -> str:
    """The message; and nothing may have changed."""
    before = snapshot(net)
    with pytest.raises(CheckpointError) as error:
        load_pretrained(net, path)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    return str(error.value)


LAST_LAYERS = {
    'casvit': ['head.head', 'head.dist_head'],
    'gcvit': ['head.fc'],
    'sepvit': ['head.fc'],
    'shvit': ['head.head.linear'],
    'supervit': ['backbone.head', 'backbone.aux_head'],
}


@pytest.mark.parametrize(('family', 'options'), KINDS[1:])
def test_other_classes_take_all_but_the_last_layers_and_say_so(
    family: str, options: Any, tmp_path: Path
) -> None:
    net = built(family, classes=7, **options)
    path = save(net.state_dict(), tmp_path / 'seven.pth')
    other = built(family, init_cfg=dict(type='Pretrained', checkpoint=path))
    before = snapshot(other)
    report = load_pretrained(other, path)
    new = {f'{name}.{kind}' for name in LAST_LAYERS[family] for kind in ('weight', 'bias')}
    assert {*report.initialised} == new
    assert '5 classes instead of 7' in str(report)
    assert LAST_LAYERS[family][0].rpartition('.')[2] in str(report)
    want = net.state_dict()
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name] if name in new else want[name]), name


@pytest.mark.usefixtures('few_networks')
@pytest.mark.parametrize('family', ['casvit', 'sepvit', 'supervit'])
@pytest.mark.parametrize('whole', [False, True])
def test_the_file_of_a_dense_network_holds_no_classifier(
    family: str, whole: bool, tmp_path: Path
) -> None:
    dense = small(family).state_dict()
    net = built(family)
    state = under('backbone', dense) | OUTSIDE if whole else dense
    path = save(state, tmp_path / 'dense.pth')
    message = not_loaded(net, path)
    assert '\n' not in message
    assert 'holds no classifier' in message
    if family == 'casvit':
        assert 'load_pretrained(classifier.backbone, FILE)' in message
        load_pretrained(net.backbone, path)
    else:
        assert f'dense network of {net.dense.family} (custom arch), another one' in message


def test_the_classifier_of_another_variant_is_refused_by_name(tmp_path: Path) -> None:
    given = Published('shvit', 's2', 'cls')
    path = save(wrap(given, given.zeros()), tmp_path / 's2.pth')
    message = not_loaded(create('shvit_s1', num_classes=10), path)
    assert "The file fits arch='s2': set that" in message


def test_a_head_that_does_not_fit_is_named(tmp_path: Path) -> None:
    net = built('shvit')
    state = snapshot(net)
    del state['head.head.bn.bias']
    state['head.head.linear.weight'] = torch.ones(5, 7)
    message = not_loaded(net, save(state, tmp_path / 'head.pth'))
    assert 'Missing in the file: 1 (head.head.bn.bias)' in message
    assert 'Of another shape: 1 (head.head.linear.weight (5, 7) for (5, 32))' in message


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(num_classes=3, out_indices=(1, 2)), r'num_classes=3 makes .* out_indices=\(1, 2\)'),
        (dict(num_classes=0), 'num_classes=0 must be at least 1'),
        (dict(num_classes=2.5), 'num_classes=2.5 must be at least 1, and whole'),
        (dict(num_classes=True), 'num_classes=True must be'),
        (dict(num_classes=3, init_cfg={}), 'init_cfg must be None or dict'),
    ],
    ids=str,
)
def test_slips_are_answered_with_the_choices(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        create('gcvit_xxtiny', **options)
    with pytest.raises(TypeError, match="SHViT has no option 'dist_head', choose from"):
        create('shvit_s1', num_classes=3, dist_head=True)


# --------------------------------------------------------------------------------- SepViT


@pytest.mark.parametrize('size', [(32, 32), (96, 224), (250, 333)])
def test_the_trunk_of_sepvit_s_classifier_takes_any_size_as_fast(size: tuple[int, int]) -> None:
    net = small('sepvit', trunk='classifier').eval()
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        fast = net(x)
    for stride, y, other in zip(net.strides, fast, net(x), strict=True):
        assert y.shape[2:] == tuple(-(-side // stride) for side in size)
        torch.testing.assert_close(y, other, rtol=1e-4, atol=1e-5)


def test_the_classifier_s_windows_have_tokens_where_224_pixels_have_several() -> None:
    with torch.device('meta'):
        net = FAMILIES['sepvit']('tiny', trunk='classifier')
    tokens = {n: tuple(p.shape) for n, p in net.named_parameters() if n.endswith('win_token')}
    assert tokens == {
        'blocks.0.0.win_token': (1, 64, 1, 96),
        'blocks.1.0.win_token': (1, 16, 1, 192),
        'blocks.1.1.win_token': (1, 4, 1, 192),
        **{f'blocks.2.{j}.win_token': (1, 4, 1, 384) for j in (0, 2, 4)},
    }
    exchanging = {n.rpartition('.attn')[0] for n, _ in net.named_modules() if n.endswith('PSA_qk')}
    assert exchanging == {name.removesuffix('.win_token') for name in tokens}


# ------------------------------------------------------------------------- two processes

STEPS, BATCH = 2, 4


def train(rank: int, ranks: int, port: int, folder: Path) -> None:
    """Some steps of every classifier on equal global batches; the weights it ends with."""
    torch.set_num_threads(1)
    if ranks > 1:
        address = f'tcp://127.0.0.1:{port}'
        torch.distributed.init_process_group(
            'gloo', init_method=address, rank=rank, world_size=ranks
        )
    for place, (family, options) in enumerate(KINDS):
        torch.manual_seed(place)
        # No image may look at another: BatchNorm stays at its statistics.
        net = built(family, norm_eval=True, drop_path_rate=0.0, **options)
        for module in net.head.modules():
            module.eval()
        model = DistributedDataParallel(net) if ranks > 1 else net
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        images = torch.randn(STEPS, BATCH, 3, 64, 64)
        labels = torch.randint(5, (STEPS, BATCH))
        for x, label in zip(images, labels, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rank::ranks]), label[rank::ranks]).backward()
            optimizer.step()
        torch.save(net.state_dict(), folder / f'{place}_{ranks}_{rank}.pth')
        del model
    if ranks > 1:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('ddp')
    for ranks in (1, 2):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        multiprocessing.start_processes(
            train, (ranks, port, folder), nprocs=ranks, start_method='fork'
        )
    return folder


@pytest.mark.parametrize('place', range(len(KINDS)), ids=[str(kind) for kind in KINDS])
def test_two_processes_train_a_classifier_as_one(place: int, trained: Path) -> None:
    alone, first, second = (
        torch.load(trained / f'{place}_{run}.pth') for run in ('1_0', '2_0', '2_1')
    )
    torch.manual_seed(place)
    start = built(KINDS[place][0], **KINDS[place][1]).state_dict()
    assert any((alone[name] - start[name]).abs().max() > 1e-3 for name in start)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-4)
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize('has', [True, False])
def test_a_second_head_too_many_or_too_few_is_named(has: bool, tmp_path: Path) -> None:
    given, net = (create('casvit_xs', num_classes=3, dist_head=head) for head in (has, not has))
    torch.save(given.state_dict(), tmp_path / 'given.pth')
    with pytest.raises(CheckpointError, match=f'dist_head={has} where it is built'):
        load_pretrained(net, tmp_path / 'given.pth')
