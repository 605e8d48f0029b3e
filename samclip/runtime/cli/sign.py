"""`samclip sign`: say that a bundle is yours, by a key."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from samclip.runtime.bundles.manifest import SIGNATURE_NAME
from samclip.runtime.cli import options
from samclip.runtime.cli.consoles import out, say, write_json
from samclip.runtime.cli.failures import reported

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
        help="A private key, Ed25519: PEM, or OpenSSH's own form.",
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
    with reported(debug):
        from samclip.runtime.bundles.bundle import find_bundle, sign_bundle
        from samclip.runtime.bundles.keys import read_private_key

        signer = read_private_key(key, _asking(key))
        signed = sign_bundle(find_bundle(bundle), signer)
        fingerprint = signer.public.fingerprint
        if as_json:
            write_json({"path": str(signed), "file": SIGNATURE_NAME, "signer": fingerprint})
        else:
            say(out, f"signed {signed} with the key {fingerprint}: {SIGNATURE_NAME}")


def _asking(key: Path) -> Callable[[], str] | None:
    """Give what asks for the passphrase, if there is somebody to ask."""
    if sys.stdin is None or not sys.stdin.isatty():
        return None

    def ask() -> str:
        answer: str = typer.prompt(f"Passphrase of {key}", hide_input=True, err=True)
        return answer

    return ask
