"""The command that builds the documentation site, strictly and offline.

    python -m tools.site             build it into build/site/html, and check it
    python -m tools.site --write     write docs/reference/json.md and its schemas first

Zensical's `--strict` refuses links to pages and headings that do not exist, and names that
mkdocstrings does not find. It says nothing about entries of the nav without a page, pages without
an entry, pictures, and what a page loads from another host: these are checked here.
Exit code 1: something of this was found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tools.site import json_page
from tools.site.html import find_faults
from tools.site.staging import ROOT, SiteError, stage

FOLDER = ROOT / "build" / "site"


def build() -> None:
    """Build the site and check it; raises SiteError."""
    stage(FOLDER)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(
        [*command, "--config-file", str(FOLDER / "mkdocs.yml")],
        cwd=FOLDER,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SiteError(
            f"zensical ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    if faults := list(find_faults(FOLDER / "html")):
        raise SiteError("\n".join(faults))


def main() -> int:
    """Build the site as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the generated pages first")
    if parser.parse_args().write:
        json_page.write()
    began = time.monotonic()
    try:
        build()
    except SiteError as error:
        sys.stderr.write(f"the site cannot be built:\n{error}\n")
        return 1
    pages = sum(1 for _ in (FOLDER / "html").rglob("*.html"))
    where = (FOLDER / "html").relative_to(ROOT)
    sys.stdout.write(f"{pages} pages in {where}, in {time.monotonic() - began:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
