"""A service that answers photos from a folder, and that systemd restarts when its engine hangs.

    python examples/service.py --bundle /opt/samclip/models/street/current \
        --inbox /var/lib/samclip/street/inbox --outbox /var/lib/samclip/street/outbox

Each photo in the inbox is segmented at its centre and, where names are given, classified. The photo
moves to the outbox when its answer, a JSON file of its name, is there. Write a photo under a name
that begins with a dot and rename it last, so that half of one is never read.

It is an example of a loop that reports to systemd (`deploy/systemd/samclip@.service`). Readiness is
reported after a first answer. The watchdog is fed by the loop itself, only after an answer, and
while there are no photos after an answer to a picture of noise: so an engine that hangs is not
hidden by a thread that does not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import samclip

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}
LOOK_SECONDS = 0.2  # between two looks into an empty inbox
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


class Systemd:
    """Reports to systemd as sd_notify(3) describes it; without $NOTIFY_SOCKET does nothing.

    `interval`: seconds within which the watchdog is to be fed, half of its limit; None without one.
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL that begins the name of an abstract socket
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        limit = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        is_meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval = limit / 2 if limit and is_meant else None

    def report(self, state: str) -> None:
        """Send one state, as "READY=1"; raises OSError when systemd does not listen."""
        if self._address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.connect(self._address)
                channel.send(state.encode())


def answer(model: Any, image: Any, names: list[str]) -> dict[str, Any]:
    """Return the answers to one image as plain values; raises samclip.SamclipError."""
    scene = model.encode(image)
    height, width = scene.image.shape[:2]
    masks = scene.segment(points=[(width / 2, height / 2)])
    found = {"masks": masks.to_dict()}
    if names:
        found["classify"] = scene.classify(names).to_dict()
    return found


def next_photo(inbox: Path) -> Path | None:
    """Return the first photo by name; None when there is none."""
    photos = (p for p in inbox.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    return min(photos, default=None)


def answer_photo(model: Any, photo: Path, outbox: Path, names: list[str]) -> None:
    """Write the answer to a photo, or why it has none, then move the photo out of the inbox.

    A failing engine raises: the service ends, and systemd starts it again.
    """
    try:
        found = answer(model, photo, names)
    except samclip.ImageError as error:  # the photo's fault
        found = {"error": str(error)}
    partial = outbox / f".{photo.name}.json"
    partial.write_text(json.dumps(found), "utf-8")
    partial.replace(outbox / f"{photo.name}.json")
    photo.replace(outbox / photo.name)


def serve(
    model: Any,
    inbox: Path,
    outbox: Path,
    names: list[str],
    systemd: Systemd,
    is_over: Callable[[], bool],
) -> None:
    """Answer photos until `is_over`, and feed the watchdog after answers alone."""
    answer(model, NOISE, names)
    systemd.report("READY=1")
    fed = time.monotonic()
    while not is_over():
        photo = next_photo(inbox)
        if photo is not None:
            answer_photo(model, photo, outbox, names)
        elif systemd.interval is not None and time.monotonic() - fed >= systemd.interval:
            answer(model, NOISE, names)
        else:
            time.sleep(LOOK_SECONDS)
            continue
        systemd.report("WATCHDOG=1")
        fed = time.monotonic()
    systemd.report("STOPPING=1")


def main() -> None:
    """Load the bundle and serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True, help="a bundle; DIR/current of a deployment")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--inbox", type=Path, required=True)
    parser.add_argument("--outbox", type=Path, required=True)
    parser.add_argument("--names", default="", help="names to choose from, separated by commas")
    given = parser.parse_args()
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    names = [name.strip() for name in given.names.split(",") if name.strip()]
    for folder in (given.inbox, given.outbox):
        folder.mkdir(parents=True, exist_ok=True)
    with samclip.load(given.bundle, given.backend) as model:
        serve(model, given.inbox, given.outbox, names, Systemd(), lambda: bool(stopped))


if __name__ == "__main__":
    main()
