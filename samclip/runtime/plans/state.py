"""The state of a plan, compared with its bundle as it is now and with the library that is here."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from samclip.engines.backend_names import TENSORRT, TENSORRT_RTX
from samclip.engines.plans.sidecar import BuiltGraph, Sidecar
from samclip.engines.plans.store import StoredPlan
from samclip.errors import BundleNotFoundError, SamclipError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Manifest, Variant

PACKAGES = {
    TENSORRT: ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    TENSORRT_RTX: ("tensorrt-rtx-cu13", "tensorrt-rtx"),
}


def plan_state(stored: StoredPlan) -> str:
    """Compare a plan with its bundle as it is now: "current", or what is wrong with the plan.

    Compares the digests in the manifest of the bundle that it was built from, and the version of
    the library that is installed. Imports no library and reads no plan.
    """
    if stored.sidecar is None:
        return f"damaged: {stored.fault}"
    built = stored.sidecar
    if not built.graph.origin:
        return _version_state(built)
    try:
        manifest = Bundle.open(built.graph.origin).manifest
    except BundleNotFoundError:
        return "bundle gone"
    except SamclipError as error:
        return f"bundle refused: {error}"
    if find_variant(manifest, built.serves) is None:
        return "stale: the bundle has changed"
    return _version_state(built)


def find_variant(manifest: Manifest, built: BuiltGraph) -> Variant | None:
    """Return the variant of a bundle whose bytes are those of `built`; None when it has none."""
    graph = manifest.graph(built.name)
    for variant in graph.variants if graph is not None else ():
        weights = None if variant.weights is None else manifest.files[variant.weights].sha256
        found = manifest.files[variant.file].sha256, weights
        if found == (built.onnx_sha256, built.weights_sha256):
            return variant
    return None


def _version_state(built: Sidecar) -> str:
    for package in PACKAGES[built.library]:
        try:
            here = version(package)
        except PackageNotFoundError:
            continue
        return "current" if here == built.library_version else f"foreign: {package} is {here}"
    return "current"  # pip does not know the library, as on a Jetson
