from pathlib import Path

import pytest

from samclip.disk.safe_names import MAX_NAME_BYTES, check_name
from samclip.errors import ConfigError, InputError

BAD = (
    *("", ".", "..", "../../../evil", "a/b", "/etc", "a\\b", "C:evil", "~", "~root", "-rf", ".x"),
    *("a\0b", "a\nb", "\x1b[2J", "a\u202eb", "\ud800", " a", "a ", "a.", "e\u0301"),
    *("CON", "nul.txt", "com1", "LPT9.log", "a*", "a?", "x" * (MAX_NAME_BYTES + 1)),
    *("ü" * (MAX_NAME_BYTES // 2 + 1), None, 5, b"a", Path("a"), ["a"]),
)
GOOD = ("tiny", "a-b_c.2", "vit b", "étude", "東京", "console", "com", "a..b", "x" * MAX_NAME_BYTES)


@pytest.mark.parametrize("name", BAD, ids=lambda name: ascii(name)[:20])
def test_names_that_leave_their_folder_are_refused(name: object) -> None:
    with pytest.raises(InputError, match=r"^the run's name ") as caught:
        check_name(name, "the run's name")
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", GOOD)
def test_ordinary_names_stay_as_they_are(name: str, tmp_path: Path) -> None:
    assert check_name(name, "the run's name") == name
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_error_is_the_callers() -> None:
    with pytest.raises(ConfigError):
        check_name("..", "name", ConfigError)
