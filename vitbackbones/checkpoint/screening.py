"""Going through a torch file before torch does, without making anything of what is in it.

``torch.load(weights_only=True)`` calls nothing but what is on its list. That keeps code out, but
some of the list takes whatever memory a number in the file asks for, and a stack of tuples deep
enough ends the process that hashes it. Refused here are

- calls of ``bytearray`` with a size, of tensor and storage classes, of codecs that lengthen, and
  attributes that would get something called without such an opcode;
- tuples, configs, lists and dicts that are small in the file and large or deep when they are gone
  through, or endless since they hold themselves;
- storages that the file holds less of than they claim, or nothing, which would leave in them
  whatever was in memory before;
- archives whose members are compressed or overlap, have one name twice or lie outside its folder.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

MAX_DEPTH = 100  # of containers in one another; torch needs four, training scripts a few more
MAX_SIZE = 100_000  # of what one tuple or config stands for, counting parts as often as they occur
MAX_TREE = 1_000_000  # of what all of a file stands for, unless it holds an eighth of that itself


class _Global(str):
    """The name of a class or function, as ``module.name``."""


@dataclass(slots=True, eq=False)
class _Item:
    """As much of a value as is to be judged."""

    value: Any = None  # a number, a string or the name of a class or function
    parts: list[_Item] = field(default_factory=list)  # of a container, or the arguments of a call
    is_tuple: bool = False
    depth: int = 0  # of tuples in one another
    size: int = 1


# Bytes of an element. What came later (float8) is saved as untyped.
_WIDTHS = {
    f'{name}Storage': width
    for width, names in {
        1: ('Untyped', 'Bool', 'Byte', 'Char', 'QInt8', 'QUInt8', 'QUInt4x2', 'QUInt2x4'),
        2: ('Half', 'BFloat16', 'Short'),
        4: ('Float', 'Int', 'QInt32'),
        8: ('Double', 'Long', 'ComplexFloat'),
        16: ('ComplexDouble',),
    }.items()
    for name in names
}

# What a file declares: key of a storage, its bytes.
_Declare = Callable[[str | int, int], object]

_CONSTANTS = frozenset(
    (
        *('NONE', 'NEWFALSE', 'NEWTRUE', 'BININT', 'BININT1', 'BININT2', 'BINFLOAT', 'LONG1'),
        *('BINUNICODE', 'SHORT_BINSTRING'),
    )
)
# Attributes of an object that torch would call in place of the methods of its class.
_SHADOWS = frozenset(('__setstate__', '__class__', '__dict__', 'set_'))
_CONTAINERS = frozenset(('EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET'))


def screen(path: Path) -> None:
    """Go through a zip archive or the older format of torch, whichever ``path`` begins as.

    Raises:
        pickle.UnpicklingError: the file holds more than weights.
        ValueError: it claims what is not so.
        Exception: of any other type, where it is damaged.
    """
    with path.open('rb') as file:
        if file.read(4) == b'PK\x03\x04':
            _screen_archive(path)
        else:
            # Unlike a file, memory that is mapped never returns (or reserves) more than there is.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _screen_older(content)


def _screen_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        root = members[0].filename.partition('/')[0] if members else ''
        sizes: dict[str, int] = {}
        for member in members:
            name = member.filename
            outside = name.partition('/')[0] != root or '..' in name.split('/')
            if outside or name != member.orig_filename or root in ('', '.'):
                raise ValueError(f'its member {member.orig_filename!a} lies outside')
            # torch looks for names without regard to case.
            if name.lower() in sizes:
                raise ValueError(f'it has two members of the name {name!a}')
            sizes[name.lower()] = member.file_size
        held, there = sum(sizes.values()), path.stat().st_size
        if held > there:  # torch never compresses
            raise ValueError(f'it has {there} bytes and says that it holds {held}')

        def declare(key: str | int, size: int) -> None:
            own = sizes.get(f'{root}/data/{key}'.lower())
            if own is None:
                raise EOFError(f'its storage {key!a} is missing')
            if size > own:
                raise ValueError(f'its storage {key!a} has {own} bytes, not {size}')

        _run(archive.read(f'{root}/data.pkl'), declare)


def _screen_older(content: mmap.mmap) -> None:
    declared: dict[str | int, int] = {}
    if _run(content, declared.setdefault).value != torch.serialization.MAGIC_NUMBER:
        return  # torch reads no further either
    for _ in ('protocol version', 'kind of machine', 'the content itself'):
        _run(content, declared.setdefault)
    keys = _run(content, declared.setdefault)
    listed = [item.value for item in keys.parts]
    if sorted(map(str, listed)) != sorted(map(str, declared)):
        raise ValueError('the storages it lists are not those it uses')
    # Each is preceded by its number of elements.
    needed, there = sum(declared.values()) + 8 * len(listed), len(content) - content.tell()
    if needed > there:
        raise EOFError(f'its storages need {needed} bytes, of which there are {there}')


def _run(content: Any, declare: _Declare) -> _Item:
    """Do what the opcodes of one pickle say, with items for values; the last of them.

    Knows the opcodes that torch does when it reads weights alone.

    Args:
        content: bytes, or what can be read like a file and is left behind the pickle.
    """
    stack: list[_Item] = []
    below: list[list[_Item]] = []  # the stacks under each mark
    memo: dict[int, _Item] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in _CONSTANTS:
            if argument in _SHADOWS:
                raise pickle.UnpicklingError(f'it gives something an attribute {argument}')
            stack.append(_Item(argument))
        elif name in _CONTAINERS:
            stack.append(_Item())
        elif name == 'GLOBAL':
            stack.append(_Item(_Global(argument.replace(' ', '.'))))
        elif name in ('BINPUT', 'LONG_BINPUT'):
            memo[argument] = stack[-1]
        elif name in ('BINGET', 'LONG_BINGET'):
            stack.append(memo[argument])
        elif name == 'MARK':
            below.append(stack)
            stack = []
        elif name in ('TUPLE', 'APPENDS', 'SETITEMS'):
            items, stack = stack, below.pop()
            if name == 'TUPLE':
                stack.append(_tuple(items))
            else:
                stack[-1].parts += items
        elif name in ('EMPTY_TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'):
            count = int(name[-1]) if name[-1].isdigit() else 0
            items = [stack.pop() for _ in range(count)][::-1]
            stack.append(_tuple(items))
        elif name in ('APPEND', 'SETITEM', 'BUILD'):
            items = [stack.pop() for _ in range(2 if name == 'SETITEM' else 1)]
            stack[-1].parts += items
        elif name in ('REDUCE', 'NEWOBJ'):
            args, function = stack.pop(), stack.pop()
            stack.append(_call(function, args))
        elif name == 'BINPERSID':
            declare(*_storage(stack.pop()))
            stack.append(_Item())
        elif name not in ('PROTO', 'STOP'):
            raise pickle.UnpicklingError(f'the opcode {name} is none of those that weights need')
    result = stack.pop()
    _check_tree(result)
    return result


def _check_tree(root: _Item) -> None:
    """Refuse what those who go through it part by part, as optimizers do, would not get done with.

    To be called at the end: lists and dicts are filled after others have been made of them.
    """
    begun = 0, 0
    known: dict[_Item, tuple[int, int]] = {}  # size and depth
    held = 0
    todo = [root]
    while todo:
        item = todo[-1]
        own, inner = len(item.parts), []
        for part in item.parts:
            if part.parts:
                inner.append(part)
            elif isinstance(part.value, str):  # bytes are made of them
                own += len(part.value)
        if inner and item not in known:
            known[item] = begun
            for part in inner:
                if part not in known:
                    todo.append(part)
                elif known[part] == begun:  # so is only what leads here
                    raise pickle.UnpicklingError('it holds a list or dict that holds itself')
            continue
        todo.pop()
        if known.get(item, begun) != begun:
            continue
        held += own
        size, depth = own, 1
        for part in inner:
            size += known[part][0]
            depth = max(depth, known[part][1] + 1)
        if depth > MAX_DEPTH:
            raise pickle.UnpicklingError(f'its lists and dicts are {depth} deep')
        known[item] = size, depth
    if known[root][0] > max(8 * held, MAX_TREE):
        raise pickle.UnpicklingError(f'its {held} parts stand for many times as many')


def _tuple(items: list[_Item]) -> _Item:
    depth = 1 + max((item.depth for item in items), default=0)
    size = 1 + sum(item.size for item in items)
    if depth > MAX_DEPTH or size > MAX_SIZE:
        raise ValueError(f'its tuples are {depth} deep, with {size} parts')
    return _Item(parts=items, is_tuple=True, depth=depth, size=size)


def _call(function: _Item, args: _Item) -> _Item:
    """The result of a call, unless it takes memory by a number in the file.

    Functions are told by the last part of their names: python 2 had other modules.
    """
    if not args.is_tuple:
        raise pickle.UnpicklingError('a call has no tuple of arguments')
    result = _Item(parts=args.parts)
    if not isinstance(function.value, _Global):
        return result  # torch refuses to call anything else
    module, _, name = function.value.rpartition('.')
    values = [item.value for item in args.parts]
    if name == '_rebuild_from_type_v2':  # calls its first argument with the third
        _call(args.parts[0], args.parts[2])
    if name == 'ConfigDict':  # copies all of them
        _check_size(args)
    if name == 'encode':  # how protocol 2 writes bytes
        result.value = b''
    if name in ('_rebuild_nested_tensor', '_rebuild_wrapper_subclass'):
        raise pickle.UnpicklingError(f'{name} makes tensors whose memory nobody has checked')
    if (
        (name == 'bytearray' and values and not isinstance(values[0], (str, bytes)))
        or (name == 'encode' and values[1:] not in (['latin1'], ['latin-1']))
        or (module.startswith('torch') and name.endswith(('Tensor', 'Storage')))
    ):
        raise pickle.UnpicklingError(
            f'a call of {function.value} takes as much memory as the file says'
        )
    return result


def _check_size(item: _Item) -> None:
    todo, size = [item], 0
    while todo:
        size += 1
        if size > MAX_SIZE:
            raise ValueError(f'it holds a config of more than {MAX_SIZE} parts')
        todo += todo.pop().parts


def _storage(pid: _Item) -> tuple[str | int, int]:
    """Key and bytes of a storage that a file refers to."""
    _, kind, key, _, numel, *_ = [item.value for item in pid.parts]
    found = isinstance(kind, _Global) and re.fullmatch(
        r'torch\.((storage|cuda)\.)?(\w+Storage)', kind
    )
    if not found or type(key) not in (str, int) or type(numel) is not int or numel < 0:
        raise ValueError(f'it refers to a storage as {(kind, key, numel)!a:.200}')
    width = _WIDTHS.get(found[3])
    if width is None:
        raise ValueError(f'there are no storages of the type {kind}')
    return key, numel * width
