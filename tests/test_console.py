"""What is printed: names from outside do not reach the terminal as they are."""

import pytest

from asdjax import console


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("fan, 10 ± 2 %, Größe", "fan, 10 ± 2 %, Größe"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("a\udcffb", "a\\udcffb"),
        ("a\u202eb\x9b", "a\\u202eb\\x9b"),
    ],
)
def test_printable(text, printed, capsys):
    assert console.printable(text) == printed
    console.say(text)
    assert capsys.readouterr().err == printed + "\n"
