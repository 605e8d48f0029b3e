import pytest

from samclip.export.cli_options import with_engine


@pytest.mark.parametrize(
    ("args", "read"),
    [
        (["--engine"], ["--engine", "tensorrt"]),
        (["--engine", "--fp16"], ["--engine", "tensorrt", "--fp16"]),
        (["--engine", "tensorrt-rtx", "--fp16"], ["--engine", "tensorrt-rtx", "--fp16"]),
        (["--fp16"], ["--fp16"]),
        ([], []),
    ],
)
def test_a_bare_engine_is_tensorrt(args: list[str], read: list[str]) -> None:
    assert with_engine(args) == read
