"""The plans that commands name: those on this machine, with their states, and a choice of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samclip.cli.advice import with_commands

if TYPE_CHECKING:
    from samclip.engines.plans.store import StoredPlan


def find_plans(bundle: str | None) -> list[tuple[StoredPlan, str]]:
    """Return the plans of the user's cache, and those next to `bundle`, each with its state."""
    from samclip.engines.plans.store import list_plans, search_folders
    from samclip.runtime.bundles.home import find_bundle

    origin = "" if bundle is None else str(find_bundle(bundle).resolve())
    return [(plan, _state(plan)) for plan in list_plans(search_folders(origin))]


def choose_plans(
    found: list[tuple[StoredPlan, str]], names: tuple[str, ...], outdated: bool, everything: bool
) -> list[tuple[StoredPlan, str]]:
    """Return the plans that were named; raises InputError for no choice and for an unknown name."""
    from samclip.errors import InputError

    if not (names or outdated or everything):
        raise InputError("say which plans to remove: names, --outdated, or --all.")
    for name in names:
        if not any(is_called(plan, name) for plan, _ in found):
            known = ", ".join(short_name(plan) for plan, _ in found) or "none"
            raise InputError(
                f"no plan is called {name!r}; there are: {known}. Give the beginning of a name."
            )
    return [
        (plan, state)
        for plan, state in found
        if everything
        or (outdated and state != "current")
        or any(is_called(plan, name) for name in names)
    ]


def is_called(plan: StoredPlan, name: str) -> bool:
    """Whether a plan's name begins with `name`, or has its parts in their order.

    `encoder.fp16` means `encoder.chunk.fp16.tensorrt-10.14...` too: a graph's lowering, which few
    know, stands between what people know.
    """
    if plan.path.name.startswith(name):
        return bool(name)
    parts = iter(short_name(plan).split("."))
    wanted = name.split(".")
    return plan.path.name.startswith(f"{wanted[0]}.") and all(part in parts for part in wanted)


def _state(plan: StoredPlan) -> str:
    """Return the plan's state, with the command that mends it."""
    from samclip.runtime.plans.state import plan_state

    state = plan_state(plan)
    return state if plan.fault is None else with_commands(state, plan.fault.steps)


def short_name(plan: StoredPlan) -> str:
    """Return a plan's name as `list` shows it."""
    return plan.path.name.removesuffix(".plan")
