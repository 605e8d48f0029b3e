"""The bundle commands: `samclip info` shows a bundle, `samclip sign` signs one with a key."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samclip.cli import options
from samclip.cli.exits import report_errors
from samclip.cli.terminal import err, out, say, warn_untrained_head, write_json

if TYPE_CHECKING:
    from samclip.runtime.bundles.bundle import Bundle
    from samclip.runtime.bundles.signature import PrivateKey

INFO_EXAMPLES = """
**Examples:**

- `samclip info`

- `samclip info my-bundle/`

- `samclip info my-bundle/ --verify`

- `samclip info my-bundle/ --verify --public-key maker.pub`

- `samclip info my-bundle/ --json`
"""

Verify = Annotated[
    bool,
    typer.Option("--verify", help="Read every file and compare its size and SHA-256."),
]
PublicKey = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="FILE",
        envvar="SAMCLIP_PUBLIC_KEY",
        show_default=False,
        help="Refuse the bundle unless it is signed with this key: PEM, or a .pub file of OpenSSH.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the manifest and what was found as JSON.")
]


def info(
    bundle: options.BundleArgument = None,
    verify: Verify = False,
    public_key: PublicKey = None,
    wide: options.Wide = False,
    as_json: AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Show what a bundle holds: model, graphs, files, where it comes from, parity and gates.

    Exit code 1 when --verify finds a file that is not as it was exported, or --public-key a bundle
    that this key has not signed.
    """
    with report_errors(debug):
        from samclip.runtime.bundles.bundle import Bundle
        from samclip.runtime.bundles.home import find_bundle
        from samclip.runtime.bundles.signature import chosen_public_key

        key = chosen_public_key(public_key)
        opened = Bundle.open(find_bundle(bundle), key)
        if verify:
            opened.verify()
        signer = None if key is None else key.fingerprint
        if as_json:
            write_json(bundle_record(opened, verify, signer), indent=2)
        else:
            print_bundle(opened, verify, signer, wide)


def bundle_record(bundle: Bundle, verified: bool, signer: str | None) -> dict[str, object]:
    """Return the manifest as plain values, with the bundle's path and its size in bytes.

    `signer`: fingerprint of the key that was asked for and has signed the bundle.
    """
    import msgspec

    from samclip.cli.machine_report import examine_auto
    from samclip.runtime.bundles.signature import is_signed

    return {
        "path": str(bundle.path),
        "bytes": sum(entry.size for entry in bundle.manifest.files.values()),
        "verified": verified,
        "signed": is_signed(bundle.path),
        "signer": signer,
        "auto": examine_auto(bundle),
        "manifest": msgspec.to_builtins(bundle.manifest),
    }


def print_bundle(bundle: Bundle, verified: bool, signer: str | None, wide: bool) -> None:
    """Print the bundle for people, one table per subject."""
    from samclip.cli import tables
    from samclip.cli.doctor import print_auto
    from samclip.cli.machine_report import examine_auto
    from samclip.runtime.bundles.signature import is_signed

    manifest = bundle.manifest
    if manifest.head is not None and not manifest.head.trained:
        warn_untrained_head()
    say(out, f"{manifest.name}  {bundle.path}", style="bold")
    for table, less in (
        (tables.summary_table(manifest), ()),
        (tables.graphs_table(manifest, wide), ("opset", "attention", "backends")),
        (tables.tensors_table(manifest, wide), ()),
        (tables.files_table(manifest), ()),
        (tables.provenance_table(manifest), ()),
        (tables.parity_table(manifest, wide), ("variants x photos",)),
        (tables.rounding_table(manifest, wide), ("measure", "weights")),
        (tables.gates_table(manifest), ("photos", "samples")),
        (tables.exceptions_table(manifest), ()),
    ):
        if table.row_count:
            tables.print_table(tables.fit_words(table, less, wide=wide), wide)
    origin = manifest.provenance
    say(out, f"exported with samclip {origin.samclip}, torch {origin.torch}, onnx {origin.onnx}")
    if not wide and len(manifest.canvases) > 1:
        say(
            out,
            "the graphs above are those of the first shape, and errors the worst of all shapes; "
            "--wide lists each shape",
        )
    if origin.notes:
        say(out, f"notes: {origin.notes}")
    print_auto(examine_auto(bundle))
    if signer is not None:
        say(err, f"signed with the key {signer}")
    elif is_signed(bundle.path):
        say(err, "signed, by whom was not checked: give --public-key")
    if verified:
        say(err, f"verified: all {len(manifest.files)} files are as they were exported")


SIGN_EXAMPLES = """
**Examples:**

- `ssh-keygen -t ed25519 -f my-key`

- `samclip sign my-bundle/ --key my-key`

- `samclip info my-bundle/ --public-key my-key.pub`
"""

SignedBundleArgument = Annotated[
    str, typer.Argument(metavar="BUNDLE", show_default=False, help="A folder, or a bundle's name.")
]
Key = Annotated[
    Path,
    typer.Option(
        "--key",
        metavar="FILE",
        show_default=False,
        help="A private key, Ed25519: PEM, or the format of OpenSSH.",
    ),
]
SignAsJson = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


def sign(
    bundle: SignedBundleArgument,
    key: Key,
    as_json: SignAsJson = False,
    debug: options.Debug = False,
) -> None:
    """Sign a bundle: every file is verified, then manifest.sig is written into it.

    Devices refuse bundles of other makers with samclip.load(..., public_key=FILE), or with the
    environment variable SAMCLIP_PUBLIC_KEY.
    """
    with report_errors(debug):
        from samclip.runtime.bundles.bundle import sign_bundle
        from samclip.runtime.bundles.home import find_bundle
        from samclip.runtime.bundles.manifest import SIGNATURE_NAME

        signer = read_signing_key(key)
        signed = sign_bundle(find_bundle(bundle), signer)
        fingerprint = signer.public.fingerprint
        if as_json:
            write_json({"path": str(signed), "file": SIGNATURE_NAME, "signer": fingerprint})
        else:
            say(out, f"signed {signed} with the key {fingerprint}: {SIGNATURE_NAME}")


def read_signing_key(path: Path) -> PrivateKey:
    """Read a private key; asks for its passphrase where somebody can answer.

    Raises as `read_private_key` does.
    """
    from samclip.runtime.bundles.signature import read_private_key

    def ask_passphrase() -> str:
        answer: str = typer.prompt(f"Passphrase of {path}", hide_input=True, err=True)
        return answer

    can_ask = sys.stdin is not None and sys.stdin.isatty()
    return read_private_key(path, ask_passphrase if can_ask else None)
