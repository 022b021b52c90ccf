"""``cytolith report`` as scripts call it."""

import pytest
from command_line import cytolith

pytest.importorskip("matplotlib", reason="the report needs matplotlib: pip install 'cytolith[report]'")
pytest.importorskip("jinja2", reason="the report needs jinja2: pip install 'cytolith[report]'")


def test_a_report_from_the_command_line(tmp_path):
    cytolith("sample", "cells", tmp_path / "sample", "--shape", "8,60,70")
    run = tmp_path / "run"
    cytolith("cells", tmp_path / "sample" / "planes", "-o", run, "--voxel-size", "6,1.62,1.62", "--workers", 1)
    (run / "report.html").unlink(missing_ok=True)
    assert str(run / "report.html") in cytolith("report", run, fresh=True).stdout
    page = (run / "report.html").read_bytes()
    other = tmp_path / "other.html"
    assert cytolith("report", run, "-o", other, "--quiet").stdout == ""
    assert other.read_bytes() == page
    assert "--overwrite" in cytolith("report", run, "-o", other, code=1).stderr
    cytolith("report", run, "-o", other, "--overwrite")
    assert "holds no run" in cytolith("report", tmp_path, code=1).stderr
    assert ".html" in cytolith("report", run, "-o", tmp_path / "x.png", code=1).stderr
