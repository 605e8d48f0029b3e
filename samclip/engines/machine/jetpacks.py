"""JetPack releases: which one is installed, what each comes with, and what is known of it.

No file names the JetPack release itself. `/etc/nv_tegra_release` names Jetson Linux (L4T), and so
does the version of the package nvidia-l4t-core; the table that maps it to a JetPack is that of
NVIDIA's JetPack archive. The contents of each release are from its release notes:
https://developer.nvidia.com/embedded/jetpack-archive
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from samclip.engines.machine.kernel_files import MachineFiles

RELEASE_FILE = "/etc/nv_tegra_release"
PACKAGE_LIST = "/var/lib/dpkg/status"
CORE_PACKAGE, JETPACK_PACKAGE = "nvidia-l4t-core", "nvidia-jetpack"
# A release that is missing here, as 7.2.2, is named by the package nvidia-jetpack.
JETPACKS = {
    "34.1.0": "5.0 DP",
    "34.1.1": "5.0.1 DP",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "36.2.0": "6.0 DP",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
SERIES = {32: "4.x", 34: "5.x", 35: "5.x", 36: "6.x", 38: "7.x", 39: "7.x"}
OLDEST_TENSORRT = 10  # the first major version with strongly typed networks
RECOMMENDED = "7.2"
_RELEASE = re.compile(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)")
_NUMBERS = re.compile(r"\d+(?:\.\d+)+")


@dataclass(frozen=True)
class Release:
    """What the JetPacks whose versions begin with `prefix` come with, and what is known of them.

    `label`: these versions in words. `tensorrt`: with the number of its build where that is known.
    `known`: what plans of its TensorRT suffer from by public reports, "" for nothing.
    """

    prefix: str
    label: str
    linux: str
    boards: str
    tensorrt: str
    cuda: str
    python: str
    known: str = ""

    @property
    def builds_plans(self) -> bool:
        """Whether its TensorRT has strongly typed networks."""
        return int(self.tensorrt.partition(".")[0]) >= OLDEST_TENSORRT


_THOR_FUSION = "builds wrong FP16 plans on a Thor: it fuses queries, keys and values wrongly"
_VIT_HALF = "is reported to build wrong FP16 plans of vision transformers"
# The longest prefix counts, so the more special come first. docs/deploy/jetson.md has this table.
RELEASES = (
    Release("7.2", "7.2", "39.2", "Thor, Orin", "10.16", "13.2", "3.12"),
    Release("7.1", "7.1", "38.4", "Thor", "10.13.3.9", "13.0", "3.12", _THOR_FUSION),
    Release("7.0", "7.0", "38.2", "Thor", "10.13.3.9", "13.0", "3.12", _THOR_FUSION),
    Release("6.2", "6.2", "36.4.3 to 36.5", "Orin", "10.3.0.30", "12.6", "3.10", _VIT_HALF),
    Release("6.1", "6.1", "36.4.0", "Orin", "10.3.0.26", "12.6", "3.10", _VIT_HALF),
    Release("6.0", "6.0", "36.3", "Orin", "8.6", "12.2", "3.10"),
    Release("5.1", "5.1", "35.2 to 35.6", "Orin, Xavier", "8.5", "11.4", "3.8"),
    Release("5.0", "5.0", "34, 35.1", "Orin, Xavier", "8.4", "11.4", "3.8"),
)
PYTHONS = {"5": "3.8", "6": "3.10", "7": "3.12"}  # of Ubuntu 20.04, 22.04 and 24.04
# NVIDIA's TensorRT for Arm servers (SBSA), which an AGX Orin and a Thor may install in addition.
NEWER_TENSORRT, NEWER_SINCE = "11.4.1", "7.2.2"
# The packages of JetPack 6.2's TensorRT, whose plans a container can share with the host.
SHARED_RELEASE, SHARED_REPOSITORY = "6.2", "r36.4"
SHARED_VERSION = "10.3.0.30-1+cuda12.5"
SHARED_PACKAGES = (
    "libnvinfer10",
    "libnvinfer-lean10",
    "libnvinfer-plugin10",
    "libnvonnxparsers10",
    "python3-libnvinfer",
)


@dataclass(frozen=True)
class JetPack:
    """An installed Jetson Linux: `l4t` as "36.4.3", `version` of its JetPack as "6.2".

    `version` is a series, as "6.x", for a release that the table does not know; both are None where
    no file tells. `tensorrt` and `python` are the versions that it comes with, None when unknown.
    """

    l4t: str | None
    version: str | None
    tensorrt: str | None
    python: str | None

    @property
    def release(self) -> Release | None:
        """What is known of it; None for a release that the table does not know."""
        known = self.version or ""
        return next((one for one in RELEASES if known.startswith(one.prefix)), None)


def find_jetpack(files: MachineFiles, packages: dict[str, str]) -> JetPack:
    """Identify the JetPack by its files and its installed Debian packages."""
    l4t = parse_release(files.text(RELEASE_FILE)) or numbers_of(packages.get(CORE_PACKAGE, ""))
    version = JETPACKS.get(l4t or "") or numbers_of(packages.get(JETPACK_PACKAGE, ""))
    if version is None and l4t is not None:
        version = SERIES.get(int(l4t.partition(".")[0]))
    found = JetPack(l4t, version, None, PYTHONS.get((version or "").partition(".")[0]))
    release = found.release
    return found if release is None else JetPack(l4t, version, release.tensorrt, release.python)


def parse_release(text: str) -> str | None:
    """Read "# R36 (release), REVISION: 4.3, GCID: ..." as "36.4.3", None for any other text."""
    match = _RELEASE.search(text)
    if match is None:
        return None
    numbers = [match[1], *match[2].split("."), "0", "0"]
    return ".".join(numbers[:3])


def installed_packages(files: MachineFiles) -> dict[str, str]:
    """Return the installed Debian packages and their versions, from dpkg's list."""
    found: dict[str, str] = {}
    name, installed = "", False
    for line in files.text(PACKAGE_LIST).splitlines():
        heading, _, value = line.partition(": ")
        if heading == "Package":
            name, installed = value.strip(), False
        elif heading == "Status":  # a removed package may leave its entry behind
            installed = value.split()[-1:] == ["installed"]
        elif heading == "Version" and name and installed:
            found[name] = value.strip()
    return found


def numbers_of(text: str) -> str | None:
    """Return the leading numbers of a version: "36.4.3" of "36.4.3-20250107174145"."""
    match = _NUMBERS.match(text)
    return None if match is None else match[0]
