"""What the console says is printed as it is."""

from cytolith.cli.console import Console


def test_brackets_are_no_markup(capsys):
    with Console() as console:
        console.notes(["no report: jinja2 not installed: pip install 'cytolith[report]'", "is [bold]a[0-9][/] it?"])
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Note: no report: jinja2 not installed: pip install 'cytolith[report]'.",
        "Note: is [bold]a[0-9][/] it?",
    ]
