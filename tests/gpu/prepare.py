"""Here, before a GPU is borrowed: all that the machine lacks, packed so that a call can carry it.

    python tests/gpu/prepare.py --bundle BUNDLE

Downloads the wheels that are missing there, cuts ONNX Runtime's CUDA provider and TensorRT for RTX
down to the code of one architecture, checks that the bundle has FP16 and INT8, and prints the calls
in order with what each carries. Nothing is exported, here or there: `samclip-export` makes the
bundle beforehand.
"""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
for place in (FOLDER, ROOT):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

import borrowed_machine as machine  # noqa: E402
from fatbin import trim  # noqa: E402
from unpack import piece_name  # noqa: E402

from samclip.errors import SamclipError  # noqa: E402
from samclip.runtime.bundles.bundle import Bundle  # noqa: E402
from samclip.runtime.bundles.home import find_bundle  # noqa: E402

ASSETS = Path("samclip/assets/bundles")
NEEDED = ("fp16", "int8")
BACKENDS = ("cuda", "tensorrt-rtx")
# Not needed to run graphs: providers of other libraries, tools and converters.
LEFT_OUT = ("providers_tensorrt", "/transformers/", "/tools/", "/quantization/", "/datasets/")
FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9}]
PIECE_BYTES = 64 * 2**20  # what this preset looks back on: smaller pieces would pack worse
UNPACKING = 45  # seconds of a call
WHEELS, ORT, RTX, BUNDLE = "wheels", "onnxruntime", "tensorrt-rtx", "bundle"


class PreparationError(Exception):
    """Something that would waste the borrowed minutes; the message says what to do."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--bundle", required=True, help="a bundle with FP16 and INT8")
    add("--into", type=Path, default=Path(".gpu"), help="a folder in this checkout; default: .gpu")
    add("--architecture", type=int, default=machine.ARCHITECTURE, help="default: 90, for sm_90")
    options = parser.parse_args(arguments)
    try:
        prepare(options.bundle, options.into, options.architecture)
    except (PreparationError, SamclipError) as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1
    return 0


def prepare(name: str, into: Path, architecture: int) -> None:
    """Check the bundle, fill `into`, and print the calls; what is there already is kept."""
    bundle = check_bundle(name)
    into.mkdir(parents=True, exist_ok=True)
    ignore(into)
    shutil.rmtree(into / BUNDLE, ignore_errors=True)
    shutil.copytree(bundle.path, into / BUNDLE)
    if not any((into / WHEELS).glob("*.whl")):
        download(machine.SMALL_WHEELS, into / WHEELS)
    for folder, wanted in ((ORT, machine.ONNXRUNTIME), (RTX, machine.RTX)):
        if not any((into / folder).glob("*.tar.xz")):
            pack_wheels(wanted, into / folder, architecture)
    tree = tree_bytes() - size_of(ROOT / ASSETS)
    for text in calls(into, tree):
        print(text)


def check_bundle(name: str) -> Bundle:
    """Open and verify the bundle; PreparationError unless its encoder is in FP16 and INT8."""
    bundle = Bundle.open(find_bundle(name))
    bundle.verify()
    variants = bundle.manifest.graphs.encoder.variants
    here = {v.precision for v in variants if set(BACKENDS) & set(v.backends)}
    # INT8 may be for TensorRT alone: ONNX Runtime's CUDA provider only converts it
    missing = [one for one in NEEDED if not any(found.startswith(one) for found in here)]
    if missing:
        raise PreparationError(
            f"the encoder of {bundle.path} has {', '.join(sorted(here))} for GPUs, so "
            f"{' and '.join(missing)} would not be judged. Export it with samclip-export --fp16 "
            "--int8 --weights-dtype int8."
        )
    return bundle


def ignore(into: Path) -> None:
    """Have git ignore the folder, so that it travels only with the calls that name it."""
    where = into.resolve()
    if not where.is_relative_to(ROOT):
        raise PreparationError(f"{into} is outside the checkout {ROOT}, which alone can be carried")
    asked = subprocess.run(["git", "check-ignore", "-q", str(where)], cwd=ROOT, check=False)
    if asked.returncode == 0:
        return
    command = ["git", "rev-parse", "--git-path", "info/exclude"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    exclude = ROOT / said.stdout.strip()
    exclude.parent.mkdir(parents=True, exist_ok=True)
    with exclude.open("a") as file:
        file.write(f"/{where.relative_to(ROOT)}/\n")


def download(wanted: Sequence[str], into: Path) -> list[Path]:
    """Download wheels for the machine, by pip; raises PreparationError with what pip says."""
    into.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", machine.PYTHON, "--implementation", "cp"]
    for platform in machine.PLATFORMS:
        command += ["--platform", platform]
    done = subprocess.run(
        [*command, "-d", str(into), *wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PreparationError(f"pip download {' '.join(wanted)}: {done.stderr.strip()[-500:]}")
    return sorted(into.glob("*.whl"))


def pack_wheels(wanted: Sequence[str], into: Path, architecture: int) -> None:
    """Download wheels, trim their libraries, and pack them: large libraries in pieces.

    A library may need more than one call, and its pieces are packed at the same time.
    """
    work = into.with_name(f"{into.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    for wheel in download(wanted, work / WHEELS):
        with zipfile.ZipFile(wheel) as packed:
            names = [n for n in packed.namelist() if not any(part in n for part in LEFT_OUT)]
            packed.extractall(work / "site", names)
    files = sorted(path for path in (work / "site").rglob("*") if path.is_file())
    for path in files:
        if ".so" in path.name:
            kept, emptied = trim(path, {architecture})
            print(f"{path.name}: {kept / 1e6:.1f} MB of code stay, {emptied / 1e6:.1f} MB emptied")
    large = [path for path in files if path.stat().st_size > PIECE_BYTES]
    rest = [path for path in files if path not in large]
    pieces = [piece for path in large for piece in cut(path)]
    partial = work / "packed"
    partial.mkdir()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        started = [
            threads.submit(pack, group, work / "site", partial / f"{into.name}-{number}.tar.xz")
            for number, group in enumerate([rest, *([piece] for piece in pieces)], 1)
        ]
        for one in started:
            one.result()
    shutil.rmtree(into, ignore_errors=True)
    partial.rename(into)
    shutil.rmtree(work)


def cut(path: Path) -> Iterator[Path]:
    """Replace a file by pieces of it, which unpack.py joins."""
    count = -(-path.stat().st_size // PIECE_BYTES)
    with path.open("rb") as whole:
        for number in range(1, count + 1):
            piece = path.with_name(piece_name(path.name, number, count))
            piece.write_bytes(whole.read(PIECE_BYTES))
            yield piece
    path.unlink()


def pack(files: Sequence[Path], base: Path, archive: Path) -> None:
    """Pack files, with paths from `base`; raises PreparationError for more than a call carries."""
    with (
        lzma.open(archive, "wb", format=lzma.FORMAT_XZ, filters=FILTERS) as out,
        tarfile.open(fileobj=out, mode="w") as packed,
    ):
        for path in files:
            packed.add(path, path.relative_to(base), recursive=False)
    size = archive.stat().st_size
    print(f"{archive.name}: {size / 2**20:.1f} MiB")
    if size > machine.CALL_BYTES:
        raise PreparationError(f"{archive.name} has {size / 2**20:.0f} MiB; a call carries 64")


def tree_bytes() -> int:
    """Count what travels of the checkout with every call: all files that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name.decode() for name in said.split(b"\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def calls(into: Path, tree: int) -> list[str]:
    """Write the calls in their order: what each carries, how much that is, and its command."""
    site, at = machine.SITE, into.resolve().relative_to(ROOT)
    check = f"python3 tests/gpu/check_gpu.py --must-run --site {site} --bundle {site}/{BUNDLE}"
    there = f"test -e {site}/{BUNDLE} || {{ echo 'fresh machine: call 1 again'; exit 1; }}"
    parts = (
        ((WHEELS, BUNDLE), "", "libraries cuda-layer ceilings encoders"),
        ((ORT,), there, "ort-cuda gates-cuda"),
        ((RTX,), there, "tensorrt-rtx gates-tensorrt-rtx"),
    )
    lines = [
        f"Move {ASSETS} out of the checkout until the last call has returned (git puts it back: "
        f"git checkout {ASSETS}). The rest of the checkout has {tree / 2**20:.1f} MiB."
    ]
    number = 0
    for folders, first, names in parts:
        for loads, is_last in _loads(folders, into, tree):
            number += 1
            size = tree + sum(size for _, size in loads)
            paths = " ".join(f"{at}/{name}" for name, _ in loads)
            unpack = f"python3 tests/gpu/unpack.py {' '.join(_folders(loads, at))} --site {site}"
            seconds = machine.CALL_SECONDS - UNPACKING
            run = f"{check} --limit {seconds} --output $OUT/results --parts {names}"
            command = "; ".join(part for part in (first, f"{unpack} || exit") if part)
            if is_last:
                command = f"{command}; {run}"
            lines.append(
                f"\ncall {number}: {size / 2**20:.1f} of {machine.CALL_BYTES // 2**20} MiB, "
                f"at most {machine.CALL_SECONDS} s; carries {paths}\n{command}"
            )
            if size > machine.CALL_BYTES:
                raise PreparationError(
                    f"call {number} would carry {size / 2**20:.1f} MiB with {paths}: use a smaller "
                    "bundle, or commit less"
                )
    return lines


def _loads(
    folders: Sequence[str], into: Path, tree: int
) -> list[tuple[list[tuple[str, int]], bool]]:
    """Divide what folders hold into calls; whether each is the last of them.

    Bundles and wheels travel whole, archives one by one where they do not fit together.
    """
    items: list[tuple[str, int]] = []
    for folder in folders:
        archives = sorted((into / folder).glob("*.tar.xz"))
        if archives and tree + size_of(into / folder) > machine.CALL_BYTES:
            items += [(f"{folder}/{path.name}", path.stat().st_size) for path in archives]
        else:
            items.append((folder, size_of(into / folder)))
    found: list[list[tuple[str, int]]] = [[]]
    for item in items:
        if found[-1] and tree + sum(s for _, s in found[-1]) + item[1] > machine.CALL_BYTES:
            found.append([])
        found[-1].append(item)
    return [(load, load is found[-1]) for load in found]


def _folders(loads: Sequence[tuple[str, int]], at: Path) -> list[str]:
    """Return the folders of what is carried, for unpack.py."""
    return list(dict.fromkeys(f"{at}/{name.partition('/')[0]}" for name, _ in loads))


if __name__ == "__main__":
    sys.exit(main())
