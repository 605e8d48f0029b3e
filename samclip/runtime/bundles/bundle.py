"""A bundle: the directory of graphs, weights and texts that is all a device needs.

Opening a bundle checks its manifest, and that the directory holds exactly the files listed there,
all of them plain files. The bytes of a file are checked when they are read.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

from samclip.disk.paths import path_text, user_path
from samclip.engines.base import GraphKey, GraphSource
from samclip.engines.graphs.gate import check_source
from samclip.engines.steps import ExportBundle
from samclip.errors import (
    BackendUnavailableError,
    BundleNotFoundError,
    CapabilityError,
    IntegrityError,
    did_you_mean,
    error_context,
)
from samclip.runtime.bundles.aspects import find_canvases, graphs_for
from samclip.runtime.bundles.files import open_plain_file, read_verified, verify_file
from samclip.runtime.bundles.manifest import (
    MANIFEST_NAME,
    Graph,
    Manifest,
    Variant,
)
from samclip.runtime.bundles.manifest_file import decode_manifest, read_checked
from samclip.runtime.bundles.recovery import recover_bundle
from samclip.runtime.bundles.signature import (
    PrivateKey,
    PublicKey,
    chosen_public_key,
    write_signature,
)
from samclip.runtime.bundles.weights import parse_weights

MAX_NAMES_SHOWN = 20  # files that an error message lists


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory, links resolved, and its manifest.

    `only`: the canvases (h, w) that its user keeps to; None for all of the manifest's.
    """

    path: Path
    manifest: Manifest
    only: tuple[tuple[int, int], ...] | None = field(default=None, kw_only=True)

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """The (h, w) of the encoders' inputs that images are placed on, the first one first."""
        return self.manifest.canvases if self.only is None else self.only

    @property
    def graph_names(self) -> tuple[str, ...]:
        """The names of the graphs that images on these canvases need."""
        return graphs_for(self.manifest, self.canvases)

    def limited_to(self, aspects: str | Sequence[str] | None) -> Bundle:
        """Return the bundle for images of some aspect ratios, see `find_canvases`."""
        return (
            self if aspects is None else replace(self, only=find_canvases(self.manifest, aspects))
        )

    @classmethod
    def open(cls, path: str | PathLike[str], public_key: PublicKey | None = None) -> Bundle:
        """Open the bundle in the directory `path`, which may itself be a link.

        With `public_key`, or else the key that `$SAMCLIP_PUBLIC_KEY` names if it is set, the bundle
        must be signed with that key. So the variable holds for everything that opens a bundle.

        Raises BundleNotFoundError when there is no such directory; ManifestError, IntegrityError
        or UnsafePathError when its contents cannot be trusted; SignatureError when the bundle is
        not signed with the key; InputError when the variable names no key. The files' contents are
        not read yet: `read` and `verify` check them.
        """
        return cls._open(path, chosen_public_key(None) if public_key is None else public_key)

    @classmethod
    def open_unsigned(cls, path: str | PathLike[str]) -> Bundle:
        """Open a bundle of any signer or none, for its maker: to sign it, or just exported.

        Raises as `open` does.
        """
        return cls._open(path, None)

    @classmethod
    def _open(cls, path: str | PathLike[str], public_key: PublicKey | None) -> Bundle:
        root = _resolve(path)
        with error_context(str(root)):
            return cls(root, read_checked(root, public_key))

    def read(self, name: str) -> bytes:
        """Read a file that the manifest lists; the bytes returned are the bytes that were verified.

        Raises CapabilityError for a name that is not listed, IntegrityError or UnsafePathError
        when the file differs from what the manifest says.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            present = sorted(self.manifest.files)[:MAX_NAMES_SHOWN]
            raise CapabilityError(
                f"the bundle {self.manifest.name!r} has no file {name!r}"
                f"{did_you_mean(name, self.manifest.files)}, only {', '.join(present)}. "
                "Export it with what is missing."
            )
        with error_context(str(self.path)):
            return read_verified(self.path, name, entry)

    def verify(self) -> None:
        """Read every file and check its SHA-256; raises as `read` does, at the first bad file."""
        with error_context(str(self.path)):
            for name, entry in self.manifest.files.items():
                verify_file(self.path, name, entry)

    def source(
        self, graph: str, backend: str, precision: str | None = None, version: str | None = None
    ) -> GraphSource:
        """Read the first variant of a graph that is for `backend` (and, if given, in `precision`).

        `graph`: a name of `Manifest.all_graphs`; `version`: that of the backend's library. Raises
        CapabilityError when the bundle has no such graph, BackendUnavailableError when no variant
        fits, GraphError for a graph that no engine may see, and whatever `read` raises. Every use
        of a bundle's graphs goes through here: engines, plans, benchmarks.
        """
        return self.variant_source(graph, self._variant(graph, backend, precision, version))

    def variant_source(self, graph: str, variant: Variant) -> GraphSource:
        """Read one of the variants of a graph; raises as `source` does."""
        source = GraphSource(
            graph,
            self.read(variant.file),
            origin=str(self.path),
            precision=variant.precision,
            attention=variant.attention,
        )
        if variant.weights is not None:
            data = self.read(variant.weights)
            # From the bundle's root, because relpath asks for the working folder, which may be gone
            folder = posixpath.dirname(f"/{variant.file}")
            location = posixpath.relpath(f"/{variant.weights}", folder)
            known = self.manifest.files.get(variant.weights)  # a draft's files have no entries yet
            digests = {} if known is None else {location: known.sha256}
            with error_context(f"{self.path}: {variant.weights}"):
                weights = parse_weights(data)
            source = replace(source, weights=weights, files={location: data}, sha256=digests)
        with error_context(str(self.path)):
            return check_source(source)

    def graph_key(self, graph: str, variant: Variant) -> GraphKey:
        """Return the digests of one of the variants of a graph, by the manifest alone."""
        files = self.manifest.files
        return GraphKey(
            graph,
            files[variant.file].sha256,
            None if variant.weights is None else files[variant.weights].sha256,
            origin=str(self.path),
            precision=variant.precision,
            attention=variant.attention,
        )

    def _variant(
        self, name: str, backend: str, precision: str | None, version: str | None
    ) -> Variant:
        graph = self._graph(name)
        variant = graph.variant_for(backend, precision, version)
        if variant is not None:
            return variant
        wanted = f"{backend} in {precision}" if precision else backend
        if newer := graph.passed_over(backend, precision, version):
            _, need = newer[0]
            wanted += f" (version {version or 'unknown'}; from {need.version} on there is one)"
        present = "; ".join(f"{v.precision} for {', '.join(v.backends)}" for v in graph.variants)
        raise BackendUnavailableError(
            f"the graph {name!r} of the bundle {self.manifest.name!r} has no variant for {wanted}, "
            f"only: {present}. Choose one of those, or export the bundle for it."
        )

    def _graph(self, name: str) -> Graph:
        graph = self.manifest.graph(name)
        if graph is not None:
            return graph
        present = tuple(self.manifest.all_graphs)
        raise CapabilityError(
            f"the bundle {self.manifest.name!r} has no graph {name!r}"
            f"{did_you_mean(name, present)}, only {', '.join(present)}. "
            "Export it from a checkpoint that has this part."
        )


def sign_bundle(path: str | PathLike[str], key: PrivateKey) -> Path:
    """Verify every file of the bundle at `path`, then sign it; returns the bundle's directory.

    An existing signature is replaced. Raises BundleError as `Bundle.open` and `verify` do, and
    WriteError.
    """
    bundle = Bundle.open_unsigned(path)
    bundle.verify()
    with open_plain_file(bundle.path, MANIFEST_NAME) as (file, size):
        manifest = file.read(size)
    if decode_manifest(manifest) != bundle.manifest:
        raise IntegrityError(f"{bundle.path} changed while it was verified. Sign it again.")
    write_signature(bundle.path, key.sign(manifest))
    Bundle.open(bundle.path, key.public)
    return bundle.path


def _resolve(path: str | PathLike[str]) -> Path:
    """Return the directory `path`, links resolved; an interrupted overwrite is undone first."""
    text = path_text(path, "a bundle")
    try:
        given = user_path(text, "a bundle")
        recover_bundle(given.absolute())
        root = given.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:  # missing, a NUL, a loop of links
        raise BundleNotFoundError(
            f"there is no bundle at {text[:200]!r}: {error}. Give the path of a directory "
            f"with a {MANIFEST_NAME}, or export one.",
            steps=(ExportBundle(),),
        ) from error
    if not root.is_dir():
        raise BundleNotFoundError(
            f"{text!r} is a file. A bundle is a directory with a {MANIFEST_NAME}: give that."
        )
    return root
