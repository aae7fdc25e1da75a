"""Files that are made to do harm: all of them are refused, and nothing in them happens."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from vitbackbones.checkpoint import CheckpointError, read_checkpoint
from vitbackbones.cli.arguments import add_config_arguments
from vitbackbones.cli.main import main
from vitbackbones.launch.loading import load_config

GIB = 1 << 30
MEMORY = 300 << 20  # bytes that reading all files together may take, beyond those of the start


# ------------------------------------------------------------------------------------- opcodes


def op(value: Any) -> bytes:
    """The opcodes that put a plain value on the stack, as torch writes them."""
    return pickle.dumps(value, 2)[2:-1]


def named(name: str) -> bytes:
    module, _, name = name.rpartition('.')
    return f'c{module}\n{name}\n'.encode()


def call(name: str, *args: bytes) -> bytes:
    return named(name) + b'(' + b''.join(args) + b'tR'


def mapping(*items: bytes) -> bytes:
    return b'}(' + b''.join(items) + b'u'


def storage(numel: int = 4, key: str = '0', kind: str = 'torch.FloatStorage') -> bytes:
    return b'(' + op('storage') + named(kind) + op(key) + op('cpu') + op(numel) + b'tQ'


def tensor(
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    stored: bytes | None = None,
) -> bytes:
    parts = (stored or storage(), op(offset), op(shape), op(stride), op(False))
    return call('torch._utils._rebuild_tensor_v2', *parts, call('collections.OrderedDict'))


def older_tensor() -> bytes:
    """Of torch < 1.6, whose storages say whether they are a view."""
    return tensor(stored=storage()[:-2] + b'NtQ')


WHOLE = mapping(op('a'), tensor())
OLDER = mapping(op('a'), older_tensor())


def pickled(body: bytes, protocol: int = 2) -> bytes:
    return b'\x80' + bytes([protocol]) + body + b'.'


def archive(
    body: bytes = WHOLE,
    *,
    members: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """The format of today's torch around the opcodes of a pickle."""
    file = io.BytesIO()
    content = {
        'w/data.pkl': pickled(body),
        'w/byteorder': b'little',
        'w/data/0': bytes(16),
        'w/version': b'3\n',
    }
    with zipfile.ZipFile(file, 'w', compression) as target:
        for name, data in (content | (members or {})).items():
            if data is not ABSENT:
                target.writestr(name, data)
    return file.getvalue()


ABSENT = b'<absent>'


def older(
    body: bytes = OLDER, *, keys: list[str] | None = None, data: bytes | None = None
) -> bytes:
    """The format of torch < 1.6 around the opcodes of a pickle."""
    head = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION)
    parts = [pickle.dumps(value, 2) for value in (*head, {'little_endian': True})]
    listed = pickle.dumps(['0'] if keys is None else keys, 2)
    stored = struct.pack('<q', 4) + bytes(16) if data is None else data
    return b''.join([*parts, pickled(body), listed, stored])


def alongside(value: bytes) -> bytes:
    """A state dict with tensors, and ``value`` among them."""
    return mapping(op('a'), tensor(), op('x'), value)


# -------------------------------------------------------------------------------------- files


def code(canary: str) -> Iterator[tuple[str, bytes]]:
    """Pickles that write ``canary`` where they are read without care, in all the ways there are."""
    command = f'touch {canary}'
    system = call('os.system', op(command))
    execute = call('builtins.exec', op(f'open({canary!r}, "w")'))
    yield 'reduce.pth', pickled(system)
    yield 'reduce-protocol-0.pth', f"cos\nsystem\n(S'{command}'\ntR.".encode()
    yield 'reduce-protocol-4.pth', pickle.dumps({'a': Runs(command)}, 4)
    yield 'reduce-protocol-5.pth', pickle.dumps(Runs(command), 5)
    yield 'stack-global.pth', pickled(op('os') + op('system') + b'\x93(' + op(command) + b'tR')
    yield 'stack-global-zip.pth', archive(op('os') + op('system') + b'\x93(' + op(command) + b'tR')
    yield 'inst.pth', archive(b'(' + op(command) + b'ios\nsystem\n')
    yield 'obj.pth', archive(b'(' + named('subprocess.Popen') + op(command) + b'o')
    yield 'newobj.pth', archive(named('subprocess.Popen') + op((command,)) + b'\x81')
    yield 'newobj-ex.pth', archive(named('subprocess.Popen') + op((command,)) + op({}) + b'\x92')
    for number, extension in enumerate((b'\x82\x01', b'\x83\x01\x00', b'\x84\x01\x00\x00\x00')):
        yield f'extension-{number}.pth', archive(extension + op((command,)) + b'R')
    loud = named('logging.handlers.SocketHandler') + b')\x81' + op({'host': 'x'}) + b'b'
    yield 'build.pth', archive(alongside(loud))
    yield 'build-setstate.pth', archive(alongside(build(named('os.system'), op(command))))
    yield 'exec.pth', archive(execute)
    yield 'exec-py2.pth', archive(call('__builtin__.eval', op(f'open({canary!r}, "w")')))
    yield 'getattr.pth', archive(call('builtins.getattr', named('os.path'), op('os')))
    yield 'import.pth', archive(call('builtins.__import__', op('antigravity')))
    yield 'dotted.pth', archive(call('torch.serialization.os.system', op(command)))
    yield 'torch-hub.pth', archive(call('torch.hub.load', op('x/y'), op('z')))
    yield 'torch-load.pth', archive(call('torch.load', op(canary)))
    yield 'numpy-load.pth', archive(call('numpy.load', op(canary), op(None), op(True)))
    yield 'in-state-dict.pth', archive(mapping(op('state_dict'), alongside(system)))
    yield (
        'in-state-dict-older.pth',
        older(
            mapping(op('a'), older_tensor(), op('x'), mapping(op('deep'), b'](' + system + b'e'))
        ),
    )
    yield 'in-key.pth', archive(mapping(system, tensor()))
    yield (
        'in-ordered-dict.pth',
        archive(call('collections.OrderedDict', b'](](' + op('a') + system + b'ee')),
    )
    yield (
        'in-tensor-arguments.pth',
        archive(mapping(op('a'), call('torch._utils._rebuild_tensor_v2', storage(), system))),
    )
    yield (
        'in-tensor-hooks.pth',
        archive(alongside(call('torch._utils._rebuild_parameter', tensor(), op(True), system))),
    )
    typed = call('torch._tensor._rebuild_from_type_v2', named('os.system'), named('torch.Tensor'))
    yield 'in-tensor-type.pth', archive(alongside(typed[:-2] + op((command,)) + op({}) + b'tR'))
    yield 'in-persistent-id.pth', archive(alongside(b'(' + op('storage') + system + b'tQ'))
    yield 'module-persistent-id.pth', archive(alongside(b'(' + op('module') + system + b'tQ'))
    yield 'text-persistent-id.pth', archive(alongside(f'P{command}\n'.encode()))
    yield 'in-sys-info.pth', older().replace(op({'little_endian': True}), system, 1)
    yield 'in-storage-keys.pth', older(keys=None, data=b'').replace(op(['0']), system)
    yield 'before-magic-number.pth', pickled(system) + older()
    yield 'tar.pth', packed({'pickle': pickled(system), 'storages': pickled(system)})
    yield 'tar-traversal.pth', packed({'../storages': pickled(system), 'pickle': b''})
    yield 'tar-as-pickle.pth', packed({'\udc80\x02': pickled(system)})
    script = {'w/constants.pkl': pickled(system), 'w/code/__torch__.py': b'x'}
    yield 'script.pth', archive(members=script)


def build(function: bytes, argument: bytes) -> bytes:
    """Have ``function`` called as ``__setstate__`` of an object, without any opcode of calls."""
    empty = named('argparse.Namespace') + b')\x81'
    return empty + mapping(op('__setstate__'), function) + b'b' + argument + b'b'


class Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def packed(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w', format=tarfile.GNU_FORMAT) as target:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    return file.getvalue()


def memory() -> Iterator[tuple[str, bytes]]:
    """Small files that take memory or the stack of the process, or wait for ever."""
    big = 40 * GIB
    for name, size in (('some', 4 * GIB), ('more', 1 << 45)):
        yield f'bytearray-{name}.pth', archive(alongside(call('builtins.bytearray', op(size))))
    yield 'bytearray-py2.pth', archive(alongside(call('__builtin__.bytearray', op(big))))
    yield (
        'bytearray-new.pth',
        archive(alongside(named('builtins.bytearray') + op((big,)) + b'\x81')),
    )
    typed = (named('builtins.bytearray'), named('torch.Tensor'), op((big,)), op({}))
    yield (
        'bytearray-typed.pth',
        archive(alongside(call('torch._tensor._rebuild_from_type_v2', *typed))),
    )
    unpacked = named('builtins.bytearray') + b'](' + op(big) + b'eR'
    yield 'bytearray-list.pth', archive(alongside(unpacked))
    numpy = call('numpy.core.multiarray.scalar', call('numpy.dtype', op('i8')), op(b'\0' * 8))
    yield 'bytearray-index.pth', archive(alongside(call('builtins.bytearray', numpy)))
    for kind in ('torch.Tensor', 'torch.FloatTensor', 'torch.storage.UntypedStorage'):
        yield f'{kind}.pth', archive(alongside(call(kind, op(1 << 45))))
    lengthened = op('x' * 64)
    for _ in range(40):
        lengthened = call('_codecs.encode', lengthened, op('hex'))
    yield 'codec.pth', archive(alongside(lengthened))
    yield 'bytearray-build.pth', archive(alongside(build(named('builtins.bytearray'), op(big))))
    setter = mapping(op('set_'), named('builtins.bytearray'))
    typed = (named('torch._utils._rebuild_tensor_v2'), named('torch.Tensor'))
    parts = b'(' + storage() + op(0) + op((4,)) + op((1,)) + op(False) + op({}) + b't'
    shadowed = call('torch._tensor._rebuild_from_type_v2', *typed, parts, setter)
    yield 'bytearray-set.pth', archive(alongside(shadowed + op((big,)) + b'b'))
    wrapper = (named('torch.Tensor'), named('torch.float32'), op((4,)), op((1,)), op(0))
    wrapper = (*wrapper, call('torch.serialization._get_layout', op('torch.strided')))
    wrapper = (*wrapper, call('torch.device', op('cpu')), op(False))
    yield (
        'wrapper.pth',
        archive(alongside(call('torch._utils._rebuild_wrapper_subclass', *wrapper))),
    )
    nested = (tensor(), *[alongside(op(1))] * 3)
    yield 'nested.pth', archive(alongside(call('torch._utils._rebuild_nested_tensor', *nested)))
    deep = op(())
    yield 'deep-key.pth', archive(mapping(op('a'), tensor(), deep + b'\x85' * 300_000, op(1)))
    yield (
        'deep-set.pth',
        archive(alongside(call('builtins.set', b'](' + deep + b'\x85' * 300_000 + b'e'))),
    )
    doubled = op(()) + b'q\x64' + b'h\x64\x86q\x64' * 60
    yield 'doubled-key.pth', archive(mapping(op('a'), tensor(), doubled, op(1)))
    for name, empty, double in (
        ('lists', b']', b'](h\x64h\x64e'),
        ('dicts', b'}', mapping(op('a')[:-2], b'h\x64', op('b')[:-2], b'h\x64')),
    ):
        levels = b'](' + empty + b'q\x64' + (double + b'q\x64') * 60 + b'e'
        yield f'doubled-{name}.pth', archive(alongside(levels))
        config = call('mmengine.config.config.ConfigDict', mapping(op('c'), levels))
        yield f'doubled-config-{name}.pth', archive(alongside(config))
        yield f'doubled-{name}-older.pth', older(mapping(op('a'), older_tensor(), op('x'), levels))
    yield 'filled-later.pth', archive(alongside(filled_later(40)))
    often = b'](' + op(bytes(100_000)) + b'q\x64' + b'h\x64' * 1000 + b'e'
    yield 'repeated-bytes.pth', archive(alongside(often))
    yield 'in-itself-list.pth', archive(alongside(b']q\x64h\x64a'))
    yield 'in-itself-dict.pth', archive(alongside(b'}q\x64' + op('b') + b'h\x64s'))
    yield 'in-itself-tuple.pth', archive(alongside(b']q\x64h\x64\x85a'))
    yield (
        'in-itself-attribute.pth',
        archive(
            alongside(
                call('collections.OrderedDict') + b'q\x64' + mapping(op('b'), b'h\x64') + b'b'
            )
        ),
    )
    yield 'deep-lists.pth', archive(alongside(b']' * 20_000 + b'a' * 19_999))
    yield 'deep-list.pth', archive(b']' * 20_000 + b'a' * 19_999)
    yield 'deep-marks.pth', archive(b'(' * 50_000)
    for name, opcode in (
        ('bytes', b'\x8e' + struct.pack('<Q', 1 << 44)),
        ('text', b'\x8d' + struct.pack('<Q', 1 << 44)),
        ('bytearray', b'\x96' + struct.pack('<Q', 1 << 44)),
        ('long', b'\x8b' + struct.pack('<i', (1 << 31) - 1)),
        ('string', b'X' + struct.pack('<I', (1 << 32) - 1)),
        ('frame', b'\x95' + struct.pack('<Q', 1 << 44)),
    ):
        yield f'length-{name}.pth', archive(mapping(op('a'), opcode))
        yield f'length-{name}-older.pth', older(mapping(op('a'), opcode))
        yield f'length-{name}-bare.pth', pickled(opcode)
    yield 'memo.pth', archive(alongside(op(1)[:1] + b'\x01r\xff\xff\xff\xffj\xff\xff\xff\x7f'))
    yield (
        'bomb.pth',
        archive(
            mapping(op('a'), tensor((1 << 27,), stored=storage(1 << 27))),
            members={'w/data/0': bytes(1 << 29)},
            compression=zipfile.ZIP_DEFLATED,
        ),
    )
    yield 'overlapping.pth', overlapping()
    yield 'repeated-number.pth', archive(mapping(op('a'), tensor((1 << 33,), (0,))))
    yield (
        'repeated-number-older.pth',
        older(mapping(op('a'), tensor((1 << 33,), (0,), stored=storage()[:-2] + b'NtQ'))),
    )
    average = mapping(op('a'), tensor((1 << 33,), (0,)))
    yield 'repeated-average.pth', archive(mapping(op('model'), WHOLE, op('model_ema'), average))
    wide = tensor((1 << 20, 4), (0, 1)) + b'q\x64'
    names = b''.join(op(f'{i}') + b'h\x64' for i in range(500))
    yield 'repeated-tensor.pth', archive(mapping(op('a'), wide, names))
    long_name = tarfile.TarInfo('long')
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, (8 << 30) - 1
    yield 'tar-length.pth', long_name.tobuf(tarfile.GNU_FORMAT)
    extended = tarfile.TarInfo('extended')
    extended.type = tarfile.XHDTYPE
    yield 'tar-recursion.pth', extended.tobuf(tarfile.USTAR_FORMAT) * 2000


def filled_later(levels: int) -> bytes:
    """Lists that are empty as long as tuples are made of them."""
    names = [b'h' + bytes([i]) for i in range(100, 101 + levels)]
    lists = [b']' + name.replace(b'h', b'q', 1) for name in names]
    pairs = [outer + inner + inner + b'\x86a' for outer, inner in pairwise(names)]
    return b'](' + b''.join(lists + pairs) + b'e'


def overlapping() -> bytes:
    """An archive in which 300 members are the same four MiB."""
    data = bytes(1 << 22)
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as target:
        states = [
            op(f'{i}') + tensor((1 << 20,), stored=storage(1 << 20, f'{i}')) for i in range(300)
        ]
        target.writestr('w/data.pkl', pickled(mapping(*states)))
        target.writestr('w/version', b'3\n')
        target.writestr('w/data/0', data)
        first = target.infolist()[-1]
        for i in range(1, 300):
            again = zipfile.ZipInfo(f'w/data/{i}')
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = len(data)
            target.filelist.append(again)
    return file.getvalue()


def lies() -> Iterator[tuple[str, bytes]]:
    """Files that claim to hold what they do not."""
    for name, numel in (('more', 5), ('much', 1 << 28), ('all', 1 << 60), ('negative', -4)):
        told = mapping(op('a'), tensor(stored=storage(numel)))
        yield f'storage-{name}.pth', archive(told)
        told = mapping(op('a'), tensor(stored=storage(numel)[:-2] + b'NtQ'))
        yield f'storage-{name}-older.pth', older(told)
    for kind in ('torch.DoubleStorage', 'torch.NoStorage', 'torch.float32', 'os.Storage'):
        yield f'{kind}.pth', archive(mapping(op('a'), tensor(stored=storage(4, kind=kind))))
    yield 'storage-key.pth', archive(mapping(op('a'), tensor(stored=storage(4, '../version'))))
    for name, shape, stride, offset in (
        ('shape', (5,), (1,), 0),
        ('stride', (4,), (2,), 0),
        ('negative-stride', (4,), (-1,), 3),
        ('offset', (4,), (1,), 1),
        ('negative-offset', (4,), (1,), -1),
        ('far-offset', (4,), (1,), (1 << 63) - 1),
        ('negative-shape', (-4,), (1,), 0),
        ('overflow', (1 << 40, 1 << 40), (1 << 40, 1), 0),
        ('strides', (2, 2), (1,), 0),
    ):
        yield f'{name}.pth', archive(mapping(op('a'), tensor(shape, stride, offset)))
    yield (
        'legacy-build.pth',
        archive(
            mapping(op('a'), named('torch.Tensor') + b')\x81(' + storage() + op(9) + b't' + b'b')
        ),
    )
    yield 'no-data.pth', archive(members={'w/data/0': ABSENT})
    yield 'no-pickle.pth', archive(members={'w/data.pkl': ABSENT})
    yield 'no-members.pth', b'PK\x05\x06' + bytes(18)
    yield 'twice.pth', twice('w/data/0')
    yield 'twice-pickle.pth', twice('w/data.pkl')
    yield 'twice-case.pth', archive(members={'w/DATA/0': bytes(16)})
    for name, member in (
        ('parent', '../canary'),
        ('inner-parent', 'w/../../canary'),
        ('absolute', '/tmp/canary'),
        ('drive', 'C:/canary'),
    ):
        yield f'{name}.pth', archive(members={member: b'x'})
    yield 'nul.pth', archive(members={'w/data/0?x': b'x'}).replace(b'0?x', b'0\0x')
    yield 'parent-root.pth', archive().replace(b'w/', b'./')
    yield 'byte-order.pth', archive(members={'w/byteorder': b'middle'})
    yield 'no-storages-older.pth', older(keys=[])
    yield 'other-storages-older.pth', older(keys=['1'])
    yield 'no-data-older.pth', older(data=b'')
    yield 'less-data-older.pth', older(data=struct.pack('<q', 4) + bytes(15))
    yield 'other-count-older.pth', older(data=struct.pack('<q', 5) + bytes(20))
    yield (
        'shadowed.pth',
        archive(call('collections.OrderedDict') + op({'items': 1, 'keys': 1, 'get': 1}) + b'b'),
    )


def twice(name: str) -> bytes:
    file = io.BytesIO(archive())
    with zipfile.ZipFile(file, 'a') as target, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        target.writestr(name, zipfile.ZipFile(file).read(name))
    return file.getvalue()


def cut() -> Iterator[tuple[str, bytes]]:
    """Beginnings of files that were whole."""
    for name, whole in (('zip', archive()), ('older', older()), ('safetensors', safetensors())):
        for share in (1, 25, 50, 75, 99):
            end = max(len(whole) * share // 100, 1)
            suffix = 'safetensors' if name == 'safetensors' else 'pth'
            yield f'cut-{name}-{share}.{suffix}', whole[:end]


def safetensors(header: Any = None, *, length: int | None = None, data: int = 16) -> bytes:
    if header is None:
        header = {'a': entry()}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + bytes(data)


def entry(
    start: int = 0, end: int = 16, shape: tuple[int, ...] = (4,), dtype: str = 'F32'
) -> dict[str, Any]:
    return {'dtype': dtype, 'shape': shape, 'data_offsets': [start, end]}


def safe() -> Iterator[tuple[str, bytes]]:
    """Safetensors files with lying headers."""
    row = json.dumps(entry())
    for name, content in {
        'length': safetensors(length=1 << 62),
        'length-negative': safetensors(length=(1 << 64) - 1),
        'length-huge': safetensors(length=99_000_000),
        'length-short': safetensors(length=20),
        'offsets-beyond': safetensors({'a': entry(0, 4000, (1000,))}),
        'offsets-negative': safetensors({'a': entry(-16, 0)}),
        'offsets-reversed': safetensors({'a': entry(16, 0)}),
        'offsets-huge': safetensors({'a': entry(0, (1 << 64) - 1, (1 << 62,))}),
        'overlap': safetensors({'a': entry(), 'b': entry()}),
        'gap': safetensors({'a': entry(), 'b': entry(32, 48)}, data=48),
        'rest': safetensors(data=32),
        'shape': safetensors({'a': entry(shape=(5,))}),
        'shape-overflow': safetensors({'a': entry(shape=(1 << 32, 1 << 32, 4))}),
        'shape-negative': safetensors({'a': entry(shape=(-2, -2))}),
        'dtype': safetensors({'a': entry(dtype='F31')}),
        'no-json': safetensors(b'{not json at all}'),
        'no-unicode': safetensors(b'{"\xff\xfe": 1}'),
        'deep-json': safetensors(b'{"a":' + b'[' * 100_000 + b'}'),
        'list': safetensors([1, 2]),
        'empty-header': safetensors({}, data=0),
        'same-name': safetensors(f'{{"a": {row}, "a": {row}}}'.encode()),
        'no-tensors': safetensors({'__metadata__': {'format': 'pt'}}, data=0),
        'metadata': safetensors({'__metadata__': {'x': {'y': 1}}, 'a': entry()}),
    }.items():
        yield f'{name}.safetensors', content


def others(canary: str) -> Iterator[tuple[str, bytes]]:
    """What is given by mistake, or by somebody else's design, where weights are wanted."""
    run = f'open({canary!r}, "w")\nmodel = dict(type="SHViT")\n'
    yield 'empty.pth', b''
    yield 'config.py', run.encode()
    yield 'config-as.pth', b'_base_ = []\n' + run.encode()
    yield 'config.json', b'{"model": {"type": "SHViT"}}'
    yield 'config.yaml', b'model: !!python/object/apply:os.system ["touch canary"]\n'
    yield 'image.png', b'\x89PNG\r\n\x1a\n' + bytes(600)
    yield 'image.jpg', b'\xff\xd8\xff\xe0\0\x10JFIF' + bytes(600)
    yield 'page.pth', b'\n<!DOCTYPE html><html><title>404 Not Found</title></html>'
    yield 'page-bom.safetensors', b'\xef\xbb\xbf<html></html>'
    yield 'pointer.pth', b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n'
    yield 'gzip.pth', b'\x1f\x8b\x08' + bytes(600)
    yield 'program.pth', b'\x7fELF\x02\x01\x01' + bytes(600)
    yield 'shell.pth', f'#!/bin/sh\ntouch {canary}\n'.encode()
    yield 'zeros.pth', bytes(4096)
    yield 'array.npy', b'\x93NUMPY\x01\0v\0' + bytes(600)
    yield 'only-numbers.pth', archive(mapping(op('a'), op(1)))
    yield 'only-list.pth', archive(b'](' + tensor() + b'e')


def write_all(folder: Path) -> list[str]:
    """Write all files into ``folder``; their names. What they would run writes 'canary' there."""
    canary = str(folder / 'canary')
    files = [*code(canary), *memory(), *lies(), *cut(), *safe(), *others(canary)]
    for name, content in files:
        (folder / name).write_bytes(content)
    return [name for name, _ in files]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('hostile')


@pytest.fixture(scope='module')
def names(folder: Path) -> list[str]:
    return write_all(folder)


def test_the_files_are_many_and_all_different(folder: Path, names: list[str]) -> None:
    assert len({(folder / name).read_bytes() for name in names}) == len(set(names)) >= 180


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('whole.pth', archive()),
        ('older.pth', older()),
        ('bytes.pth', archive(alongside(op([b'x', bytearray(b'y'), bytearray()])))),
        ('whole.safetensors', safetensors()),
        ('alongside.pth', archive(alongside(op({'epoch': (1, ('x', 2.0), [])})))),
        ('shared.pth', archive(alongside(b'](]q\x64' + b'](h\x64h\x64eq\x64' * 14 + b'e'))),
        ('many.pth', archive(alongside(op([0] * 1_100_000)))),
        ('deep.pth', archive(alongside(b']' * 90 + b'a' * 89))),
        # The length of its header begins like a pickle.
        ('pickle-like.safetensors', safetensors(json.dumps({'a': entry()}).encode().ljust(0x280))),
    ],
)
def test_what_the_files_are_made_of_can_be_read_where_nothing_is_wrong(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert torch.equal(read_checkpoint(tmp_path / name)['a'], torch.zeros(4))


@pytest.mark.parametrize(
    'name',
    [
        *('reduce-protocol-0', 'reduce-protocol-4', 'reduce', 'stack-global', 'inst', 'exec'),
        *('stack-global-zip', 'exec-py2', 'build-setstate', 'in-state-dict', 'in-ordered-dict'),
        *('in-state-dict-older', 'in-tensor-hooks', 'in-sys-info', 'in-persistent-id'),
    ],
)
@pytest.mark.filterwarnings('ignore')
def test_the_code_in_the_files_runs_where_they_are_trusted(name: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.pth'
    path.write_bytes(dict(code(str(tmp_path / 'canary')))[f'{name}.pth'])
    unsafe = pickle.loads if name.startswith(('reduce', 'stack-global.')) else None
    with contextlib.suppress(Exception):
        unsafe(path.read_bytes()) if unsafe else torch.load(path, weights_only=False)
    assert (tmp_path / 'canary').exists()


# Prints what becomes of each file, under a limit to what they may take beyond what there is.
READER = """
import pathlib, resource, sys, warnings
from vitbackbones.checkpoint import CheckpointError, read_checkpoint
from vitbackbones.cli.arguments import add_config_arguments
from vitbackbones.launch.loading import load_config
warnings.simplefilter('ignore')
folder, allowance, *names = sys.argv[1:]
size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(allowance),) * 2)
for name in names:
    path = pathlib.Path(folder, name)
    try:
        read_checkpoint(path)
        said = 'was read'
    except CheckpointError as error:
        said = 'refused' if str(error).startswith(f'{path} ') else f'not named: {error}'
    except BaseException as error:
        said = repr(error)
    print(name, said, sep=': ', flush=True)
"""


@pytest.fixture(scope='module')
def answers(folder: Path, names: list[str]) -> dict[str, str]:
    """Of one process that reads all files; one that ends it leaves the others without an answer."""
    words = [sys.executable, '-c', READER, str(folder), str(MEMORY), *names]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr[-3000:]
    return dict(line.split(': ', 1) for line in result.stdout.splitlines())


def test_every_file_is_refused_by_name_within_bounded_memory(
    names: list[str], answers: dict[str, str]
) -> None:
    assert answers == dict.fromkeys(names, 'refused')


def test_nothing_in_the_files_is_executed_or_written(
    folder: Path, names: list[str], answers: dict[str, str]
) -> None:
    assert len(answers) == len(names)
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert not (folder.parent / 'canary').exists()


@pytest.mark.parametrize(
    'name', ['in-state-dict.pth', 'bomb.pth', 'storage-more-older.pth', 'overlap.safetensors']
)
def test_commands_say_in_one_line_what_is_wrong_with_the_file(
    name: str, folder: Path, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert name in names
    path, config = str(folder / name), 'vitbackbones::detection/shvit_retinanet.py'
    for command in (
        ['convert', path, str(tmp_path / 'out.safetensors')],
        ['test', config, path, '--work-dir', str(tmp_path / 'work')],
    ):
        assert main(command) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert said[-1].startswith(f'vitbackbones {command[0]}: {path} ')
    assert list(tmp_path.iterdir()) == []
    assert not (folder / 'canary').exists()


@pytest.mark.parametrize('kind', ['pipe', 'folder', 'device', 'loop'])
def test_what_is_no_file_is_refused_without_waiting_for_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / 'weights.pth'
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    else:
        path.symlink_to({'device': '/dev/zero', 'loop': path}[kind])
    with pytest.raises(CheckpointError, match=rf'{re.escape(str(path))} cannot be opened .*; give'):
        read_checkpoint(path)


# ------------------------------------------------------------------------------------- configs


CODE = '__import__("os").system("touch canary")'


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('3', 3),
        ('1e-4', 1e-4),
        ('true', True),
        ('None', None),
        ('[1,(2,x)]', [1, (2, 'x')]),
        ('1,2', [1, 2]),
        ('SGD', 'SGD'),
        ('1+1', '1+1'),
        ('{1:2}', '{1:2}'),
        ('lambda:0', 'lambda:0'),
        ('{{fileDirname}}', '{{fileDirname}}'),
        ('$HOME', '$HOME'),
        (CODE, CODE.replace(' ', '')),  # mmengine takes blanks out of all values
        (f'[{CODE}]', [CODE.replace(' ', '')]),
        (f'({CODE},1)', (CODE.replace(' ', ''), 1)),
    ],
)
def test_values_of_options_are_literals_and_never_evaluated(
    text: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    args = parser.parse_args(['config.py', '--cfg-options', f'model.note={text}'])
    assert args.cfg_options == {'model.note': value}
    Path('config.py').write_text('model = dict(type="SHViT")\n')
    assert load_config('config.py', args.cfg_options).model.note == value
    assert not Path('canary').exists()


def test_options_that_are_nested_too_deep_are_the_users_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['config.py', '--cfg-options', 'model.x=' + '[' * 3000 + ']' * 3000])
    assert 'error: --cfg-options: ' in capsys.readouterr().err


def test_looking_at_a_config_as_the_guide_says_does_not_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('config.py').write_text(f'{CODE}\ncustom_imports = dict(imports=["antigravity"])\n')
    (block,) = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/security.md').read_text(), re.S)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(block.replace('CONFIG.py', 'config.py'), {})
    assert 'line 1: runs' in said.getvalue()
    assert 'custom_imports' in said.getvalue()
    assert not Path('canary').exists()
