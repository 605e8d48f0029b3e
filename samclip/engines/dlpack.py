"""DLPack capsules of memory on a GPU: those that other libraries take, and those that they give.

The layouts are those of `dlpack.h` 1.0 (`DLManagedTensor`, `DLManagedTensorVersioned`), the names
of capsules those of the Python specification of DLPack. numpy makes and takes capsules of the
host's memory by itself.

A consumer calls a capsule's deleter from any thread, with or without Python's lock, which ctypes
takes. What consumers call is never freed: they may hold arrays until the process ends.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from samclip.errors import InputError, brief

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType
VERSION = (1, 0)  # of the capsules made here
CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLDataTypeCode by numpy's kind
KINDS = {code: kind for kind, code in CODES.items()}
OLD, NEW = b"dltensor", b"dltensor_versioned"
USED = {OLD: b"used_dltensor", NEW: b"used_dltensor_versioned"}


class ExchangeError(InputError, BufferError):
    """An array cannot be handed to, or taken from, another library as it was asked for."""


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; NULL: C order
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


LAYOUTS: dict[bytes, type[_Managed] | type[_ManagedVersioned]] = {
    OLD: _Managed,
    NEW: _ManagedVersioned,
}


@dataclass(frozen=True)
class Placed:
    """An array's place in memory; `device` is DLPack's (type, number).

    `strides`: in elements; None is C order.
    """

    device: tuple[int, int]
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...] | None = None

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in C order without gaps."""
        if self.strides is None or not self.shape or 0 in self.shape:
            return True
        return self.row_pitch == math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def row_pitch(self) -> int | None:
        """The bytes from one entry of the first axis to the next; None where entries have gaps.

        An entry without gaps is in C order. The array has axes.
        """
        wanted = c_strides(self.shape)
        own = self.strides or wanted
        entry = zip(self.shape[1:], own[1:], wanted[1:], strict=True)
        if any(size != 1 and step != right for size, step, right in entry):
            return None
        step = wanted[0] if self.shape[0] == 1 else own[0]
        return step * self.dtype.itemsize if step >= wanted[0] else None


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of C order, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


# By the address of the managed struct: what must live until its deleter is called.
_lent: dict[int, tuple[Any, ...]] = {}


def make_capsule(placed: Placed, owner: object, max_version: tuple[int, int] | None) -> Any:
    """Return a capsule of an array in C order; `owner` lives until its consumer drops it.

    `max_version`: the newest version that the consumer reads. From 1.0 on the capsule is
    "dltensor_versioned", else "dltensor".
    """
    name = NEW if max_version is not None and max_version[0] >= 1 else OLD
    managed = LAYOUTS[name]()
    axes = ctypes.c_int64 * len(placed.shape)
    shape, strides = axes(*placed.shape), axes(*(placed.strides or c_strides(placed.shape)))
    dtype = placed.dtype
    managed.tensor = _Tensor(
        data=placed.address,
        device=_Device(*placed.device),
        ndim=len(placed.shape),
        dtype=_DataType(CODES[dtype.kind], 8 * dtype.itemsize, 1),
        shape=shape,
        strides=strides,
    )
    managed.deleter = _give_back
    if isinstance(managed, _ManagedVersioned):
        managed.major, managed.minor = VERSION
    address = ctypes.addressof(managed)
    _lent[address] = (managed, shape, strides, owner)
    try:
        return _new_capsule(address, name, ctypes.cast(_drop_unused, ctypes.c_void_p))
    except BaseException:
        del _lent[address]
        raise


class TakenCapsule:
    """A capsule that was taken from another library: `placed`, and its memory while this lives."""

    def __init__(self, capsule: Any) -> None:
        name = next((name for name in (NEW, OLD) if _is_valid(capsule, name)), None)
        if name is None:
            raise ExchangeError(
                f"__dlpack__ gave {brief(capsule)}, expected an unused capsule of DLPack. Update "
                "the library that the array comes from."
            )
        self._managed = LAYOUTS[name].from_address(_pointer(capsule, name))
        if isinstance(self._managed, _ManagedVersioned) and self._managed.major != VERSION[0]:
            raise ExchangeError(
                f"__dlpack__ gave version {self._managed.major} of DLPack, expected "
                f"{VERSION[0]}. Pass the array as one that has __cuda_array_interface__, or copy "
                "it to the host."
            )
        self.placed = _read(self._managed.tensor)
        _rename(capsule, USED[name])  # from here on the memory is given back here

    def __del__(self) -> None:
        managed = getattr(self, "_managed", None)
        if managed is not None and hasattr(self, "placed") and managed.deleter:
            managed.deleter(ctypes.addressof(managed))


def _read(tensor: _Tensor) -> Placed:
    code, bits, lanes = tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes
    if code not in KINDS or bits % 8 or lanes != 1:
        raise ExchangeError(
            f"the array's type, DLPack's code {code} with {bits} bits and {lanes} lanes, is none "
            "that numpy has. Convert it first."
        )
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
    return Placed(
        (tensor.device.kind, tensor.device.index),
        (tensor.data or 0) + tensor.byte_offset,
        shape,
        np.dtype(f"{KINDS[code]}{bits // 8}"),
        strides,
    )


def _pop_lent(address: int, held: dict[int, tuple[Any, ...]] = _lent) -> None:
    held.pop(address, None)


def _destroy(capsule: int) -> None:
    """Free the memory of a capsule that nobody took: its destructor."""
    for name in LAYOUTS:
        if _is_valid_at(capsule, name):
            _give_back(_pointer_at(capsule, name))


_give_back = _Deleter(_pop_lent)
_drop_unused = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_destroy)


def _function(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_NAME, _ANY = ctypes.c_char_p, ctypes.py_object
_new_capsule = _function("PyCapsule_New", _ANY, ctypes.c_void_p, _NAME, ctypes.c_void_p)
_is_valid = _function("PyCapsule_IsValid", ctypes.c_int, _ANY, _NAME)
_pointer = _function("PyCapsule_GetPointer", ctypes.c_void_p, _ANY, _NAME)
_rename = _function("PyCapsule_SetName", ctypes.c_int, _ANY, _NAME)
# A destructor must not make a new reference to the object that is being destroyed.
_is_valid_at = _function("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, _NAME)
_pointer_at = _function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, _NAME)
for _kept in (_give_back, _drop_unused, *USED.values(), OLD, NEW):  # capsules point at the names
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))
