"""Command `samclip-bench board`: a signed record of a board to send in, and its check."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.board.measure import make_record, measure_board
from samclip.benchmarks.board.privacy import find_private
from samclip.benchmarks.board.record import BoardRecord
from samclip.benchmarks.board.show import record_tables
from samclip.benchmarks.board.signing import read_record, sign_record, unsigned
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.session import open_session, wide_console
from samclip.benchmarks.latency.contenders import Variant
from samclip.benchmarks.latency.rounds import Schedule
from samclip.benchmarks.latency.timed import TimedBackend
from samclip.benchmarks.report import check_writable, write_whole
from samclip.benchmarks.tables import show_table
from samclip.cli import options as shared
from samclip.cli.bundle import read_signing_key
from samclip.cli.exits import report_errors
from samclip.cli.given_paths import parse_path
from samclip.cli.terminal import err, say
from samclip.engines.machine.free_memory import available_memory
from samclip.errors import InputError
from samclip.runtime.bundles.signature import make_private_key, read_public_key

EXAMPLES = """
**Examples:**

- `samclip-bench board my-bundle --output orin-nano.json`

- `samclip-bench board my-bundle --backend tensorrt --precision fp16 --key my-key`

- `samclip-bench board --check orin-nano.json`
"""
PROGRAM = "samclip-bench board"
_CHECK, _WHAT = "Check a record", "What"

Bundle = Annotated[
    str | None,
    typer.Argument(
        metavar="[BUNDLE]", show_default="the shipped one", help="A bundle by folder or name."
    ),
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", parser=parse_path, metavar="FILE", help="The file to write."),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--key",
        parser=parse_path,
        metavar="FILE",
        show_default="one made for this file and thrown away",
        help="Your private key, Ed25519, to sign with: PEM, or the format of OpenSSH.",
    ),
]
Memory = Annotated[
    bool,
    typer.Option(
        "--memory/--no-memory",
        rich_help_panel=_WHAT,
        help="Measure fresh processes, one for each stage.",
    ),
]
Check = Annotated[
    Path | None,
    typer.Option(
        "--check",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_CHECK,
        show_default=False,
        help="Measure nothing: check the signature and the fields of a record, and show it.",
    ),
]
PublicKey = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_CHECK,
        show_default=False,
        help="With --check: the key that must have signed it.",
    ),
]


def board(
    *,
    bundle: Bundle = None,
    backend: shared.Backend = "auto",
    precision: shared.Precision = None,
    threads: shared.Threads = None,
    repeats: options.Repeats = 50,
    warm_up: options.WarmUp = 5,
    memory: Memory = True,
    output: Output = Path("board.json"),
    key: Key = None,
    check: Check = None,
    public_key: PublicKey = None,
    debug: shared.Debug = False,
) -> None:
    """Measure all that a bundle costs on this machine, as one signed file that can be sent in.

    Time of every stage, power and energy, memory, clocks and heat before, during and after,
    versions, power mode, plans and their verdicts. The file names no host, user, path or serial
    number. Photos are those that come with samclip, so that records can be compared.
    """
    if check is not None or public_key is not None:
        with report_errors(debug):
            _show(_read(check, public_key, bundle))
        return
    with open_session("board", None, threads, debug) as session:
        target = check_writable(output, b"{")
        signer = make_private_key() if key is None else read_signing_key(key)
        start, idle_memory = time.monotonic(), available_memory()
        photos, _ = options.PhotoOptions().choose()
        variant = Variant(bundle, backend, precision, threads)
        (contender,) = session.open_all([variant], TimedBackend)
        schedule = Schedule(cold=0, warm_up=warm_up, repeats=repeats)
        measured = measure_board(contender, photos, schedule, session.progress, memory=memory)
        record = make_record(
            contender,
            measured,
            schedule,
            len(photos),
            command=_command(variant, schedule, memory, own_key=key is not None),
            seconds=time.monotonic() - start,
            idle_memory=idle_memory,
            signature=unsigned(signer, own=key is not None),
        )
        record = find_private().clean_record(record)
        write_whole(target, sign_record(record, signer))
        _show(record)
        say(err, f"record: {target}. It is signed; check it with: {PROGRAM} --check {target}")


def _read(check: Path | None, public_key: Path | None, bundle: str | None) -> BoardRecord:
    if check is None:
        raise InputError("--public-key is for a record that is checked. Give it with --check FILE.")
    if bundle is not None:
        raise InputError(
            f"--check measures nothing, so it takes no bundle, and {bundle!r} was given. Leave out "
            "one of them."
        )
    return read_record(check, None if public_key is None else read_public_key(public_key))


def _command(variant: Variant, schedule: Schedule, memory: bool, *, own_key: bool) -> str:
    """Write the command that makes such a record again, without the sender's paths."""
    words = PROGRAM.split()
    if variant.bundle is not None:
        is_name = variant.bundle == Path(variant.bundle).name
        words.append(variant.bundle if is_name else "BUNDLE")
    words += ["--backend", variant.backend]
    if variant.precision is not None:
        words += ["--precision", variant.precision]
    if variant.threads is not None:
        words += ["--threads", str(variant.threads)]
    words += ["--repeats", str(schedule.repeats), "--warm-up", str(schedule.warm_up)]
    words += [] if memory else ["--no-memory"]
    return shlex.join([*words, *(["--key", "KEY"] if own_key else [])])


def _show(record: BoardRecord) -> None:
    for table in record_tables(record):
        wide_console().print(show_table(table))
