"""The names that the pickles of checkpoints refer to, and what each stands for.

None is ever imported: a name is a tensor's, a container's, a value's that is passed over, or is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# Types of storages, by the names that torch gave them, and the types of their numbers.
STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}
DICTS = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict"}
DENSE = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
TYPED = "torch._utils._rebuild_tensor_v3"  # names its dtype, for storages without a type
PARAMETERS = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
}
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
OTHER_LAYOUTS = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_meta_tensor_no_storage": "without data (device meta)",
    "torch._utils._rebuild_wrapper_subclass": "of a subclass",
    "torch._utils._rebuild_device_tensor_from_numpy": "of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "of another device",
}
NAMESPACE = "argparse.Namespace"  # its attributes are read, as plain data
# Values that checkpoints carry along with their tensors. They are not made, only passed over.
PASSED_OVER = {
    *("builtins.set", "builtins.frozenset", "builtins.complex", "builtins.slice"),
    *("builtins.bytearray", "builtins.bytes", "builtins.list", "builtins.tuple", "builtins.range"),
    *("builtins.int", "builtins.float", "builtins.str", "builtins.bool", "builtins.object"),
    *("_codecs.encode", "collections.Counter", "collections.deque"),
    *("numpy.ndarray", "numpy.dtype", "torch.Size", "torch.device"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath"),
    *("pathlib.PureWindowsPath", "pathlib.Path", "pathlib._local.PosixPath"),
    *("datetime.datetime", "datetime.timedelta", "datetime.date", "uuid.UUID"),
    *("decimal.Decimal", "fractions.Fraction", "types.SimpleNamespace", "torch.Generator"),
    *("torch.per_tensor_affine", "torch.per_channel_affine", "torch.per_tensor_symmetric"),
    *("torch.per_channel_symmetric", "torch.per_channel_affine_float_qparams"),
    *("torch.serialization._get_layout", "torch.strided", "torch.torch_version.TorchVersion"),
}
TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
NUMPY_SCALARS = {
    *("bool_", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "str_", "bytes_", "intc", "longlong"),
}
RENAMED = {"__builtin__": "builtins", "torch.storage": "torch"}
KNOWN = (
    PASSED_OVER | DICTS | DENSE | PARAMETERS | TYPES | {*OTHER_LAYOUTS, TYPED, SUBCLASS, NAMESPACE}
)


class PickleError(Exception):
    """A pickle is damaged, or larger than those of checkpoints."""


class ForeignObjectError(PickleError):
    """A pickle refers to `name`, which is neither a tensor nor a harmless value."""

    def __init__(self, name: str) -> None:
        self.name = ascii(name[:100])[1:-1]
        super().__init__(f"it refers to {self.name}")


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to; it is never imported."""

    name: str


def find_global(module: Any, name: Any) -> Global:
    """Return a name that checkpoints refer to. Raises ForeignObjectError for any other."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("a name that is not text")
    module = RENAMED.get(module, module)
    full = f"{module}.{name}"
    known = (
        full in KNOWN
        or (module == "torch" and (name in STORAGES or _is_dtype(name)))
        or (module == "numpy" and name in NUMPY_SCALARS)
        or (module == "numpy.dtypes" and name.endswith("DType"))
    )
    if not known:
        raise ForeignObjectError(full)
    return Global(full)


def _is_dtype(name: str) -> bool:
    return isinstance(vars(torch).get(name), torch.dtype)
