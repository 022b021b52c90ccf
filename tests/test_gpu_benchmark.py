"""The benchmark of the GPU runs, with the stand-in of CuPy: no timing is looked at."""

import pytest

gpu_benchmark = pytest.importorskip("benchmarks.gpu", reason="benchmarks are not installed with the package")


def test_every_table_is_printed(stand_in, capsys, monkeypatch):
    monkeypatch.setattr(gpu_benchmark, "RUNS", {"defaults": {}})
    gpu_benchmark.main(["--shape", "20,60,70", "--block", "16,50,60", "--repeats", "1", "--workers", "2"])
    printed = capsys.readouterr().out
    assert "tables equal byte for byte" in printed
    for stage in ("upload", "background_correction", "smoothing", "finding", "dense part, all lanes at work"):
        assert f"| {stage} |" in printed
    assert "| defaults | gpu |" in printed
    assert "| defaults | cpu |" in printed
    assert "reading alone s" in printed


def test_without_a_gpu_it_says_so(stand_in, capsys):
    stand_in.memory.clear()
    gpu_benchmark.main([])
    assert capsys.readouterr().out.startswith("Nothing is measured: CuPy finds no GPU")
