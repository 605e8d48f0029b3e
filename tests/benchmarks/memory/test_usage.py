from __future__ import annotations

from samclip.benchmarks.measurements import MemoryUse
from samclip.benchmarks.memory.usage import make_memory_rows, memory_tables
from samclip.benchmarks.tables import show_table

MIB = 2**20


def use(model: str, stage: str, *peaks: int, **more: int) -> MemoryUse:
    return MemoryUse(model=model, stage=stage, peaks=tuple(p * MIB for p in peaks), **more)


def test_rows_have_the_highest_of_all_processes_and_ratios_to_the_first_model() -> None:
    rows = make_memory_rows(
        [use("a", "load", 90, 100, disk=7), use("b", "load", 150, device_memory=3)]
    )
    found = {(row.model, row.measure): row for row in rows}
    assert found["a", "peak resident set"].value == 100 * MIB
    assert found["a", "peak resident set"].low == 90 * MIB
    assert found["a", "read from disk"].value == 7
    assert found["b", "device memory"].value == 3
    ratio = found["b / a", "peak resident set"]
    assert (ratio.value, ratio.low, ratio.high) == (1.5, 1.5, 150 / 90)


def test_tables_say_what_each_stage_adds() -> None:
    (laid_out,) = memory_tables([use("a", "load", 100), use("a", "encode", 150)])
    table = show_table(laid_out)
    assert list(table.columns[1].cells) == ["100.0", "150.0"]
    assert list(table.columns[2].cells) == ["+100.0", "+50.0"]
    assert list(table.columns[3].cells) == ["-", "-"]
