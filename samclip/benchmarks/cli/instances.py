"""`samclip-bench accuracy instances`: how well masks fit."""

from __future__ import annotations

from samclip.benchmarks.accuracy.instances import PROTOCOL, evaluate_instances
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.session import Setup, open_session
from samclip.benchmarks.data.coco import read_coco
from samclip.benchmarks.data.sample import spread
from samclip.benchmarks.report import Data
from samclip.runtime.cli import options as shared

EXAMPLES = """
**Examples:**

- `samclip-bench accuracy instances path/to/coco --bundle my-bundle`

- `samclip-bench accuracy instances path/to/coco --bundle my-bundle --against mobile_sam --json
  instances.json`
"""


def instances(
    folder: options.CocoFolder,
    bundle: shared.Bundle = None,
    against: options.Against = None,
    limit: options.Limit = None,
    json: options.Json = None,
    backend: shared.Backend = "auto",
    precision: shared.Precision = None,
    threads: shared.Threads = None,
    debug: shared.Debug = False,
) -> None:
    """Measure the mIoU of box prompts and point prompts against the true masks.

    Over all objects and over those of more than 1,024 pixels; crowds are left out.
    """
    setup = Setup(bundle, backend, precision, threads, json)
    with open_session("accuracy instances", setup, debug) as session:
        coco = read_coco(folder)
        photos = spread(coco.photos, limit)
        candidates = [session.open_bundle()]
        if against is not None:
            candidates.append(session.open(against, "against"))
        rows = evaluate_instances(candidates, photos, session.track)
        data = Data.of(folder, "COCO", photos, coco.photos, coco.left_out)
        session.finish(data, PROTOCOL, rows)
