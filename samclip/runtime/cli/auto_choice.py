"""Which backend "auto" takes for a bundle here, and why not faster ones: for info and doctor."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from samclip.runtime.cli.consoles import out, say

if TYPE_CHECKING:
    from samclip.runtime.bundles.bundle import Bundle


def auto_record(bundle: Bundle) -> dict[str, Any]:
    """Give the choice as plain values; `backend` is None when none works, and `error` says why."""
    from samclip.errors import BackendUnavailableError
    from samclip.runtime.choice import choose_for

    try:
        choice = choose_for(bundle)
    except BackendUnavailableError as error:
        return {"backend": None, "passed_over": [], "error": str(error)}
    passed = [asdict(one) for one in choice.passed_over]
    return {"backend": choice.backend.name, "passed_over": passed, "error": None}


def show_auto(record: dict[str, Any]) -> None:
    """Say it to a person, a line per backend."""
    if record["backend"] is None:
        say(out, f"backend auto: none. {record['error']}")
        return
    say(out, f"backend auto: {record['backend']}")
    for passed in record["passed_over"]:
        advice = f" To do: {passed['remedy'].rstrip('. ')}." if passed["remedy"] else ""
        say(out, f"  not {passed['name']}: {passed['reason'].rstrip('. ')}.{advice}")
