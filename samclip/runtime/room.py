"""Bounds on what one answer may take, checked before it is computed."""

from __future__ import annotations

from samclip.engines.machine.host import can_map
from samclip.errors import DeviceMemoryError

UNCHECKED = 2**26  # bytes that are asked for without looking
RESERVE = 2**26  # bytes that stay free


def require_memory(needs: int, what: str, reserve: int = RESERVE) -> None:
    """Raise DeviceMemoryError unless this machine, or container, has `needs` bytes free.

    `what`: a noun phrase in the plural; `reserve`: bytes that stay free for what is computed
    meanwhile. Systems give out more memory than they have, and then end
    the process without a message. Passes where the system does not report what is free.
    """
    if needs < UNCHECKED:
        return
    from samclip.engines.machine.free_memory import available_memory  # noqa: PLC0415 - seldom needed

    free = available_memory()
    if free is not None and needs > free - reserve:
        raise DeviceMemoryError(
            f"{what} would take {needs / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free. Ask for "
            "fewer at once, use a smaller image, or end other programs; what is loaded still works."
        )


def has_room(needs: int) -> bool:
    """Whether this machine, or container, has `needs` bytes free, and lets this process take them.

    For what is only faster with more memory.
    """
    from samclip.engines.machine.free_memory import available_memory  # noqa: PLC0415 - seldom needed

    free = available_memory()
    return (free is None or needs <= free) and can_map(needs)
