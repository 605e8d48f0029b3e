"""Vocabularies as files: safetensors, with the facts about them as JSON in its metadata.

The file of version 1 has the metadata `format`, `version`, `vocabulary` (JSON, see `Facts`) and
`sha256`, a digest of the facts and of all tensors, which finds damage. Its tensors are those that
`TENSORS` lists. Any reader of safetensors opens it. It is read here by the package's own reader
(`samclip.runtime.bundles.weights`), which every bundle is read with: no further package, and no
code in the file that could run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from samclip.disk.partial_files import result_file
from samclip.disk.user_files import open_user_file
from samclip.errors import ExportError, VocabularyError
from samclip.runtime.bundles.weights import TensorFileError, parse_tensors, serialise_weights
from samclip.version import __version__

FORMAT, VERSION = "samclip-vocabulary", "1"
MAX_BYTES = 2**29  # 50,000 names of 768 dimensions, with examples, take 460 MB
MAX_HEADER_BYTES = 2**26  # of the names, 10 million characters at most
WHAT = "the vocabulary"
ADVICE = "Give a file that Vocabulary.save wrote."
# The tensors by name: their type, and whether each file has them.
TENSORS: dict[str, tuple[type[np.generic], bool]] = {
    "embeddings": (np.float32, True),
    "first_rows": (np.int64, False),
    "seen": (np.bool_, False),
    "texts": (np.float32, False),
    "sums": (np.float32, False),
    "counts": (np.int64, False),
    "centre": (np.float32, False),
}
OF_EXAMPLES = ("texts", "sums", "counts", "centre")
Arrays = Mapping[str, NDArray[np.generic]]
Text = Annotated[str, msgspec.Meta(max_length=10_000_000)]
Digest = Annotated[str, msgspec.Meta(max_length=64)]


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file says of its vocabulary.

    `space`, `pictures`: digests of what embedded its texts and its examples, "" for none;
    `templates`: empty where unknown; `counts`, `weights`: of each name's examples, for people, as
    the tensors decide; `photos`: how many the examples are from; `samclip`: the version that wrote
    it.
    """

    names: tuple[Text, ...]
    templates: tuple[Text, ...] = ()
    logit_scale: float
    trained_head: bool
    space: Digest
    pictures: Digest = ""
    photos: int = 0
    counts: dict[Text, int] = {}
    weights: dict[Text, float] = {}
    samclip: Annotated[str, msgspec.Meta(max_length=64)] = __version__


def write_vocabulary(path: Path, facts: Facts, arrays: Arrays) -> None:
    """Write a vocabulary, whole or not at all; raises WriteError, VocabularyError for its size."""
    try:
        encoded = msgspec.json.encode(facts).decode()
    except UnicodeError as error:
        raise VocabularyError(
            f"this vocabulary cannot be written: a name is not Unicode text ({error}). Correct it."
        ) from error
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "vocabulary": encoded,
        "sha256": digest_of(encoded, arrays),
    }
    try:
        data = serialise_weights(arrays, metadata, MAX_HEADER_BYTES)
    except ExportError as error:
        raise VocabularyError(f"this vocabulary does not fit into a file: {error}") from error
    if len(data) > MAX_BYTES:
        raise VocabularyError(
            f"this vocabulary would take {len(data):,} bytes; a file has up to {MAX_BYTES:,}. "
            "Split it."
        )
    with result_file(path) as file:
        file.write(data)


def read_vocabulary(path: Path) -> tuple[Facts, dict[str, NDArray[np.generic]]]:
    """Read what `write_vocabulary` wrote: the facts, and the tensors by name, checked by type.

    Raises VocabularyError for any other file: a damaged or a foreign one, and one of a later
    version. What the numbers mean is not checked here.
    """
    with open_user_file(path, WHAT, VocabularyError, ADVICE) as (file, size):
        if size > MAX_BYTES:
            raise VocabularyError(
                f"{WHAT} {path} has {size:,} bytes; at most {MAX_BYTES:,} are read. {ADVICE}"
            )
        data = file.read(size)
    try:
        arrays, metadata = parse_tensors(data, MAX_HEADER_BYTES)
    except TensorFileError as fault:
        raise _refusal(path, f"as safetensors it is not valid: {fault}") from fault
    if metadata.get("format") != FORMAT:
        came = "no format" if "format" not in metadata else f"the format {metadata['format']!r:.60}"
        raise _refusal(path, f"its metadata has {came}, expected {FORMAT!r}")
    if metadata.get("version") != VERSION:
        raise VocabularyError(
            f"{WHAT} {path} has the format's version {metadata.get('version')!r:.20}; samclip "
            f"{__version__} reads version {VERSION!r}. Update samclip, or make the file again."
        )
    encoded = metadata.get("vocabulary", "")
    try:
        facts = msgspec.json.decode(encoded, type=Facts)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _refusal(path, f"its facts are malformed: {error}") from error
    for name, array in arrays.items():
        if name not in TENSORS or array.dtype != TENSORS[name][0]:
            raise _refusal(
                path, f"it has a tensor {name!r:.60} of {array.dtype}, expected {_list()}"
            )
    if lacking := [name for name, (_, needed) in TENSORS.items() if needed and name not in arrays]:
        raise _refusal(path, f"it has no tensor {lacking[0]!r}")
    if 0 < len(arrays.keys() & {*OF_EXAMPLES}) < len(OF_EXAMPLES):
        raise _refusal(path, f"of its examples it lacks some of {', '.join(OF_EXAMPLES)}")
    if metadata.get("sha256") != digest_of(encoded, arrays):
        raise _refusal(path, "its digest is not that of its contents, so it was damaged or edited")
    return facts, arrays


def _list() -> str:
    return ", ".join(f"{name} {np.dtype(kind)}" for name, (kind, _) in TENSORS.items())


def _refusal(path: Path, reason: str) -> VocabularyError:
    return VocabularyError(f"{path} is not a vocabulary file: {reason}. {ADVICE}")


def digest_of(facts: str, arrays: Arrays) -> str:
    """Return the SHA-256 of facts and of arrays by name, in hexadecimal."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
