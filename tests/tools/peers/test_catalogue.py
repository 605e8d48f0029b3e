"""The peers themselves, as far as can be seen without installing them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from samclip.errors import InputError
from tools.peers.catalogue import PEERS, WORKERS
from tools.peers.contenders import BUNDLE_WORKER, choose_peers

STANDALONE = sorted({*WORKERS.glob("*.py")} - {BUNDLE_WORKER})


def test_workers_are_there_and_names_differ() -> None:
    assert all(peer.worker in STANDALONE for peer in PEERS)
    assert len({peer.name for peer in PEERS}) == len(PEERS) == 6


@pytest.mark.parametrize("file", STANDALONE, ids=lambda file: file.stem)
def test_workers_need_no_more_than_python_to_be_imported(file: Path) -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    tops = {name.partition(".")[0] for name in names}
    assert tops <= sys.stdlib_module_names, tops


def test_peers_are_chosen_by_name() -> None:
    assert choose_peers(()) == PEERS
    assert [peer.name for peer in choose_peers(["naive-openvino", "torch-eager"])] == [
        "naive-openvino",
        "torch-eager",
    ]
    with pytest.raises(InputError, match="torch-eager, torch-compile"):
        choose_peers(["eager"])
