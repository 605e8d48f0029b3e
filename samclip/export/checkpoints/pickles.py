"""Pickles read as descriptions: tensors, containers and plain values, and no code at all.

torch's files keep tensors apart from the pickle that describes them. `read_pickle` interprets that
pickle itself, one opcode after the other: what a pickle would call becomes a description of a
tensor (`StoredTensor`), a value that is left aside (`Opaque`), or an error that names it. So
nothing is imported or called, nothing is made that is larger than the pickle, and what harmless
metadata a checkpoint has, such as a NumPy number, does not stand in the way of its tensors.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from samclip.export.checkpoints.pickle_names import (
    DENSE,
    DICTS,
    NAMESPACE,
    OTHER_LAYOUTS,
    PARAMETERS,
    STORAGES,
    SUBCLASS,
    TYPED,
    TYPES,
    Global,
    PickleError,
    find_global,
)

MAX_STEPS = 1_000_000  # some 25 describe a tensor
MAX_AXES = 16


@dataclass(frozen=True, eq=False)
class Opaque:
    """A value of a known, harmless kind that is not read."""

    kind: str


@dataclass(frozen=True, eq=False)
class Arguments:
    """The attributes of an argparse.Namespace, by name."""

    values: dict[str, Any]


@dataclass(frozen=True)
class Storage:
    """Numbers next to the pickle: their `key`, how many there are, and their dtype's name."""

    key: str
    count: int
    dtype: str


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor's place in its storage: in numbers, as torch counts; `layout` "" is dense.

    A tensor of another layout has no storage here, and cannot be read.
    """

    dtype: str = ""
    storage: Storage | None = None
    offset: int = 0
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    layout: str = ""


@dataclass(frozen=True)
class Pickled:
    """What a pickle describes, and all storages that it refers to, by their keys.

    `passed_over`: the names of what made the values that are not read.
    """

    content: Any
    storages: dict[str, Storage]
    passed_over: frozenset[str] = frozenset()


class _Mark:
    """What the opcode MARK leaves on the stack."""


def read_pickle(file: BinaryIO) -> Pickled:
    """Interpret the pickle at the file's position, and leave the file behind it.

    Its content is dictionaries, lists, tuples, plain values, `StoredTensor`, `Arguments`, `Opaque`.
    Raises ForeignObjectError for a name that is not known, PickleError for a pickle that is damaged
    or takes more than a million steps.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.spend(1)
            if opcode.name == "STOP":
                return Pickled(machine.pop(), machine.storages, frozenset(machine.passed_over))
            machine.step(opcode.name, argument)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise PickleError(f"{type(error).__name__}: {error}") from error
    raise PickleError("it has no end")


class _Machine:
    """The stack and the memory of a pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._left = MAX_STEPS
        self.storages: dict[str, Storage] = {}
        self.passed_over: set[str] = set()

    def spend(self, steps: int) -> None:
        """Count steps. Raises PickleError when there were too many."""
        self._left -= steps
        if self._left < 0:
            raise PickleError(f"it takes more than {MAX_STEPS:,} steps")

    def pop(self) -> Any:
        """Return the last value."""
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a mark where a value is expected")
        return value

    def step(self, name: str, argument: Any) -> None:
        """Run one opcode."""
        if name in VALUES:
            self._stack.append(argument)
        elif name in CONSTANTS:
            self._stack.append(CONSTANTS[name]())
        elif name in {"PUT", "BINPUT", "LONG_BINPUT"}:
            self._memo[argument] = self._stack[-1]
        elif name in {"GET", "BINGET", "LONG_BINGET"}:
            self._stack.append(self._memo[argument])
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in OPCODES:
            OPCODES[name](self, argument)
        elif name not in {"PROTO", "FRAME"}:
            raise ValueError(f"the opcode {name} is not one of checkpoints")

    def _marked(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        place = len(self._stack) - 1
        while not isinstance(self._stack[place], _Mark):
            place -= 1
            if place < 0:
                raise ValueError("a mark is missing")
        values = self._stack[place + 1 :]
        del self._stack[place:]
        return values

    def _drop(self, _: Any) -> None:
        self._marked()

    def _take(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def _make_tuple(self, count: int | None) -> None:
        self._stack.append(tuple(self._marked()) if count is None else self._take(count))

    def _make_dict(self, _: Any) -> None:
        self._stack.append(_pairs(self._marked()))

    def _make_list(self, _: Any) -> None:
        self._stack.append(self._marked())

    def _make_set(self, _: Any) -> None:
        self._marked()
        self._stack.append(Opaque("set"))

    def _add(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Opaque):
            raise TypeError(f"{type(target).__name__} takes no items")

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            target.update(_pairs(values))
        elif not isinstance(target, Opaque):
            raise TypeError(f"{type(target).__name__} takes no items by key")

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(find_global(module, name))

    def _stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        self._stack.append(find_global(module, name))

    def _reduce(self, _: Any) -> None:
        function, arguments = self._take(2)
        self._stack.append(self._call(function, arguments))

    def _new(self, count: int) -> None:
        kind, arguments, *_ = self._take(count)
        self._stack.append(self._call(kind, arguments))

    def _instance(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        values = self._marked()
        self._stack.append(self._call(find_global(module, name), tuple(values)))

    def _object(self, _: Any) -> None:
        kind, *values = self._marked()
        self._stack.append(self._call(kind, tuple(values)))

    def _call(self, function: Any, arguments: Any) -> Any:
        """Return the description of what `function`, a `Global`, would make of the arguments."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("a call of what is not a function")
        if function.name in DICTS:
            items = arguments[0] if arguments and isinstance(arguments[0], list) else []
            self.spend(len(items))
            return _pairs([each for key, value in items for each in (key, value)])
        if function.name == SUBCLASS:
            return _plain_subclass(*arguments[:3])
        described = _described(function.name, arguments)
        if isinstance(described, Opaque | Arguments):
            self.passed_over.add(function.name)
        return described

    def _build(self, _: Any) -> None:
        """Keep the attributes of `Arguments`; pass over others, as a state_dict's versions."""
        attributes, target = self.pop(), self._stack[-1]
        if not isinstance(target, (Opaque, Arguments, dict, StoredTensor)):
            raise TypeError(f"{type(target).__name__} takes no attributes")
        if isinstance(target, Arguments):
            target.values.update(attributes if isinstance(attributes, dict) else {})

    def _persistent(self, _: Any) -> None:
        storage = _storage(self.pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError("two storages of one key")
        self._stack.append(storage)


CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Opaque("set"),
    "MARK": _Mark,
}
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    "POP": lambda machine, _: machine._stack.pop(),
    "POP_MARK": _Machine._drop,
    "DUP": lambda machine, _: machine._stack.append(machine._stack[-1]),
    "TUPLE": lambda machine, _: machine._make_tuple(None),
    "TUPLE1": lambda machine, _: machine._make_tuple(1),
    "TUPLE2": lambda machine, _: machine._make_tuple(2),
    "TUPLE3": lambda machine, _: machine._make_tuple(3),
    "DICT": _Machine._make_dict,
    "LIST": _Machine._make_list,
    "FROZENSET": _Machine._make_set,
    "APPEND": lambda machine, _: machine._add([machine.pop()]),
    "APPENDS": lambda machine, _: machine._add(machine._marked()),
    "ADDITEMS": lambda machine, _: machine._add(machine._marked()),
    "SETITEM": lambda machine, _: machine._set(list(machine._take(2))),
    "SETITEMS": lambda machine, _: machine._set(machine._marked()),
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": lambda machine, _: machine._new(2),
    "NEWOBJ_EX": lambda machine, _: machine._new(3),
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}


def _pairs(values: list[Any]) -> dict[Any, Any]:
    """Return a dictionary of keys and values in turn; keys of other kinds are kept apart."""
    if len(values) % 2:
        raise ValueError("a key without a value")
    plain = (str, int, float, bytes)
    keys = (key if isinstance(key, plain) else Opaque("key") for key in values[::2])
    return dict(zip(keys, values[1::2], strict=True))


def _described(name: str, arguments: tuple[Any, ...]) -> StoredTensor | Arguments | Opaque:
    """Return the description of a tensor, or of a value that is passed over."""
    if name in DENSE:
        return _dense(*arguments[:4])
    if name == TYPED:
        storage, offset, size, stride, _, _, dtype, *_ = arguments
        return _dense(storage, offset, size, stride, dtype)
    if name in PARAMETERS:
        return _tensor(arguments[0])
    if name in OTHER_LAYOUTS:
        return StoredTensor(layout=OTHER_LAYOUTS[name])
    if name == NAMESPACE:
        return Arguments({})
    return Opaque(name)


def _plain_subclass(function: Any, kind: Any, arguments: Any) -> StoredTensor:
    """Return the tensor inside a parameter or buffer; other subclasses follow other rules."""
    if not isinstance(kind, Global) or kind.name not in TYPES:
        return StoredTensor(layout="of a subclass")
    return _tensor(_described(function.name, arguments))


def _tensor(value: Any) -> StoredTensor:
    if not isinstance(value, StoredTensor):
        raise TypeError("a tensor is missing")
    return value


def _dense(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise TypeError("a tensor without size or stride")
    if len(size) > MAX_AXES or not all(
        type(each) is int and 0 <= each < 2**62 for each in (offset, *size, *stride)
    ):
        raise ValueError("a tensor's size, stride or offset is not a number that it can be")
    name = storage.dtype if dtype is None else str(dtype.name).rpartition(".")[2]
    return StoredTensor(name, storage, offset, size, stride)


def _storage(identity: Any) -> Storage:
    """Return the storage of a persistent identity, as torch.save writes it."""
    kind, storage_type, key, _, count, *rest = identity
    name = storage_type.name.rpartition(".")[2]
    if kind != "storage" or (rest and rest[0] is not None) or not isinstance(key, str):
        raise ValueError("a reference that is not a storage's")
    if type(count) is not int or not 0 <= count < 2**62:
        raise ValueError("a storage's size is not a number that it can be")
    return Storage(key, count, STORAGES[name])
