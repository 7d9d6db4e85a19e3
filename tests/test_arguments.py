"""Mistakes on the command lines of tools are told in one line."""

import pytest

from sap_detr.arguments import ArgumentParser, positive_int


@pytest.mark.parametrize(
    "argv", [[], ["--count", "0"], ["--count", "1.5"], ["--count", "x", "--y"]]
)
def test_mistakes_are_one_line(argv, capsys):
    parser = ArgumentParser("tool.py", "What it does:\n\n    an example")
    parser.add_argument("--count", type=positive_int, required=True)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(argv)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "--count" in error
    assert "\n    an example\n" in parser.format_help()
