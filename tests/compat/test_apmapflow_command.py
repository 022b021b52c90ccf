"""``apm_process_image_stack``: flags, names, exit codes, and stacks that are killed half-way or too large."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from cytolith.compat import apmapflow_run
from cytolith.compat.apmapflow import calculate_offset_map, main, process_image, read_map
from cytolith.compat.apmapflow_run import StackOptions, process_stack
from cytolith.engine.events import BlockDone
from cytolith.errors import OutputError
from cytolith.io.lock import FolderLock

SHAPE = (14, 22, 31)  # z, y, x


@pytest.fixture(scope="module")
def rock():
    """A gap between two wavy walls, closed here and there, and voxels strewn around it."""
    rng = np.random.default_rng(5)
    Z, Y, X = SHAPE
    low = Y / 3 + ndimage.gaussian_filter(rng.normal(size=(Z, X)), 2) * 12
    gap = 2 + ndimage.gaussian_filter(rng.normal(size=(Z, X)), 1.5) * 8
    y = np.arange(Y)[None, :, None]
    mask = (y >= low[:, None]) & (y < (low + gap)[:, None])
    return mask | (rng.random(SHAPE) < 0.01)


@pytest.fixture
def stack(rock, tmp_path):
    tifffile.imwrite(tmp_path / "rock.v2.tif", rock.astype(np.uint8) * 255, photometric="minisblack")
    return tmp_path / "rock.v2.tif"


def call(*arguments):
    return main([str(argument) for argument in arguments])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def expected_offsets(image):
    return np.round(calculate_offset_map(image), 6)


@pytest.mark.parametrize("count", [None, 0, 1, 3, -2])
@pytest.mark.parametrize("invert", [False, True])
def test_files_and_what_is_in_them(rock, stack, tmp_path, count, invert):
    out = tmp_path / "new" / "out"
    flags = [*(["-i"] if invert else []), *([] if count is None else ["-n", count])]
    assert call(stack, "-o", out, *flags) == 0
    image = (rock ^ invert).T
    if count:
        image = process_image(image, count)
        assert (tifffile.imread(out / "rock.v2-processed.tif") == 255 * image.T.astype(int)).all()
    stacks = ["rock.v2-processed.tif"] if count else []
    assert names(out) == ["rock.v2-aperture-map.txt", "rock.v2-offset-map.txt", *stacks]
    np.testing.assert_array_equal(read_map(out / "rock.v2-aperture-map.txt"), image.sum(1).T)
    np.testing.assert_allclose(read_map(out / "rock.v2-offset-map.txt"), expected_offsets(image), atol=1e-6)


def test_names_and_switches(stack, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(stack, "-n1", "--aper-map-name", tmp_path / "far" / "a.txt", "--no-offset-map", "--gen-cluster-img",
                "--img-stack-name", "s.tif") == 0  # fmt: skip
    assert names(tmp_path) == ["far", "rock.v2.tif", "s-clusters.tif", "s.tif"]
    assert names(tmp_path / "far") == ["a.txt"]
    assert call(stack, "-o", "b", "--no-aper-map", "--offset-map-name", "o.txt", "-n", "2", "--no-img-stack") == 0
    assert names(tmp_path / "b") == ["o.txt"]
    assert call(stack, "-o", "c", "--no-aper-map", "--no-offset-map", "-n", "2") == 0
    assert names(tmp_path / "c") == ["rock.v2-processed.tif"]
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_verbose_tells_what_is_done(stack, tmp_path, capsys):
    assert call(stack, "-v", "-o", tmp_path / "out", "-n", "1") == 0
    said = capsys.readouterr().err
    assert "fracture voxels in" in said
    assert "clusters: 100 %" in said
    assert str(tmp_path / "out" / "rock.v2-offset-map.txt") in said
    package = logging.getLogger("cytolith")
    assert not any(isinstance(handler, logging.StreamHandler) for handler in package.handlers)


def test_existing_files_are_kept_unless_forced(stack, tmp_path, capsys):
    (tmp_path / "rock.v2-offset-map.txt").write_text("mine")
    assert call(stack, "-o", tmp_path) == 1
    assert "rock.v2-offset-map.txt exists already: -f (--force) replaces" in capsys.readouterr().err
    assert (tmp_path / "rock.v2-offset-map.txt").read_text() == "mine"
    assert names(tmp_path) == ["rock.v2-offset-map.txt", "rock.v2.tif"]
    assert call(stack, "-o", tmp_path, "-f") == 0
    assert (tmp_path / "rock.v2-offset-map.txt").read_text() != "mine"


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--no-aper-map", "--no-offset-map"], 2, "leave out one of the --no- flags, or add -n"),
        (["--no-aper-map", "--no-offset-map", "--no-img-stack", "-n", "1"], 2, "or add --gen-cluster-img"),
        (["-n", "many"], 2, "invalid int value: 'many'"),
        (["--frobnicate"], 2, "unrecognized arguments"),
        (["-n", "1", "--img-stack-name", "s.jpg"], 2, "the stack is a TIFF file; give it the ending .tif"),
        (["--aper-map-name", "rock.v2.tif"], 1, "is the input"),
    ],
)
def test_mistakes_are_one_line(stack, tmp_path, capsys, flags, code, text):
    assert call(stack, "-o", tmp_path, *flags) == code
    said = capsys.readouterr().err
    assert text in said
    assert "Traceback" not in said
    assert names(tmp_path) == ["rock.v2.tif"]


@pytest.mark.parametrize(
    ("flags", "text", "left"),
    [
        (["--gen-cluster-img"], "--gen-cluster-img: clusters are looked for", ["aperture", "offset"]),
        (["--img-stack-name", "s.jpg"], "s.jpg: not written, as there is no -n", ["aperture", "offset"]),
        (["--aper-map-name", "a.txt", "--no-aper-map"], "a.txt: not written, as --no-aper-map", ["offset"]),
    ],
)
def test_flags_that_make_no_difference_are_named(stack, tmp_path, capsys, flags, text, left):
    assert call(stack, "-o", tmp_path / "out", *flags) == 0
    assert text in capsys.readouterr().err
    assert names(tmp_path / "out") == [f"rock.v2-{name}-map.txt" for name in left]


def test_choices_that_the_command_does_not_have(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "ij.tif", np.zeros((4, 2, 6, 7), np.uint8), imagej=True, metadata={"axes": "ZCYX"})
    assert call(tmp_path / "ij.tif", "-o", tmp_path) == 1
    assert "this command has no such choice, cytolith fracture has" in capsys.readouterr().err


def test_a_stack_that_fails_is_not_in_the_way_of_others(rock, stack, tmp_path, capsys):
    """Runs of a folder full of stacks have the current folder in common."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for z, plane in enumerate(rock.astype(np.uint8)):
        tifffile.imwrite(folder / f"p{z:03}.tif", plane, compression="zlib")
    with tifffile.TiffFile(folder / "p008.tif") as tif:
        begin = tif.pages[0].dataoffsets[0]
    data = bytearray((folder / "p008.tif").read_bytes())
    data[begin : begin + 8] = b"\0" * 8
    (folder / "p008.tif").write_bytes(data)
    out = tmp_path / "out"
    out.mkdir()
    assert call(folder, "-o", out, "-n", "1") == 1
    with FolderLock(out):  # nor is what others do there
        assert call(stack, "-o", out, "-n", "1") == 0
    assert [name for name in names(out) if name.startswith("rock")] == [
        f"rock.v2-{name}" for name in ("aperture-map.txt", "offset-map.txt", "processed.tif")
    ]
    with FolderLock(out, ".cytolith-rock.v2.lock"):
        assert call(stack, "-o", out, "-n", "2", "-f") == 1
    assert "another run" in capsys.readouterr().err


def test_two_runs_that_name_one_file(stack, tmp_path):
    """The one that ends first has written it; the other says so, and leaves it alone."""
    other = tmp_path / "other.tif"
    other.write_bytes(stack.read_bytes())
    options = StackOptions(no_offset_map=True, aper_map_name="m.txt")
    begun = []

    def run_the_other(event):
        if isinstance(event, BlockDone) and not begun:
            begun.append(process_stack(other, tmp_path / "out", options))

    with pytest.raises(OutputError, match=r"m\.txt exists already"):
        process_stack(stack, tmp_path / "out", options, run_the_other)
    assert begun
    assert [name for name in names(tmp_path / "out") if not name.startswith(".")] == ["m.txt"]


def test_interrupted_when_all_is_in_place(stack, tmp_path, monkeypatch, capsys):
    from cytolith.fracture import outputs

    remove, out = outputs.remove, tmp_path / "out"

    def interrupt(path):
        if (out / "rock.v2-aperture-map.txt").exists():
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(outputs, "remove", interrupt)
    assert call(stack, "-o", out, "-n", "1") == 130
    assert "the results are in place in" in capsys.readouterr().err


def test_input_that_cannot_be_read(tmp_path, capsys):
    assert call(tmp_path / "none.tif") == 1
    (tmp_path / "text.tif").write_text("no image")
    assert call(tmp_path / "text.tif", "-o", tmp_path) == 1
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((5, 6, 7, 3), np.uint8), photometric="rgb")
    assert call(tmp_path / "rgb.tif", "-o", tmp_path) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("apm_process_image_stack: ") for line in lines] == [True] * 3
    assert "does not exist" in lines[0]
    assert "split it into gray planes" in lines[2]
    assert names(tmp_path) == ["rgb.tif", "text.tif"]


def test_help(capsys):
    assert call("-h") == 0
    text = capsys.readouterr().out
    for flag in (
        "-f", "-v", "-o", "-n", "-i", "--offset-map-name", "--aper-map-name", "--img-stack-name", "--gen-cluster-img",
        "--no-aper-map", "--no-offset-map", "--no-img-stack",
    ):  # fmt: skip
        assert flag in text


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool"])
def test_white_stored_as_0(rock, tmp_path, dtype):
    """8 bits and 1 bit were inverted, so what is stored as 0 is fracture; 16 bits were not."""
    stored = rock if dtype == "bool" else rock.astype(dtype) * np.iinfo(dtype).max
    if dtype == "uint16":
        stored[::2] = rock[::2]  # 1 is as little 0 as 65,535
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    stored_is_fracture = dtype == "uint16"
    for flags, image in (([], rock == stored_is_fracture), (["-i"], rock != stored_is_fracture)):
        assert call(tmp_path / "a.tif", "-o", tmp_path, "-f", "--no-offset-map", *flags) == 0
        np.testing.assert_array_equal(read_map(tmp_path / "a-aperture-map.txt"), image.sum(1))


def test_grey_and_empty_stacks_are_noticed(tmp_path, capsys):
    grey = np.random.default_rng(0).integers(1, 200, SHAPE).astype(np.uint8)
    tifffile.imwrite(tmp_path / "grey.tif", grey)
    assert call(tmp_path / "grey.tif", "-o", tmp_path, "--no-offset-map") == 0
    tifffile.imwrite(tmp_path / "none.tif", np.zeros(SHAPE, np.uint8))
    assert call(tmp_path / "none.tif", "-o", tmp_path, "-n", "1") == 0
    tifffile.imwrite(tmp_path / "one.tif", np.ones(SHAPE, np.uint8))
    assert call(tmp_path / "one.tif", "-o", tmp_path, "-n", "3") == 0
    assert call(tmp_path / "one.tif", "-o", tmp_path, "-n", "-1", "-f", "--no-offset-map") == 0
    lines = capsys.readouterr().err.splitlines()
    assert "looks like a grey stack" in lines[0]
    assert "no voxel is fracture" in lines[1]
    assert "holds only 1: all were kept" in lines[2]
    assert "none is left" in lines[3]
    assert np.isnan(read_map(tmp_path / "none-offset-map.txt")).all()
    assert (read_map(tmp_path / "one-aperture-map.txt") == 0).all()
    assert (read_map(tmp_path / "one-offset-map.txt") == 1).all()


def test_maps_too_large_to_triangulate_are_patched_otherwise(rock, stack, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(apmapflow_run, "PATCHING_BYTES", 1 << 50)
    assert call(stack, "-o", tmp_path / "out", "-n", "1") == 0
    assert "patched as cytolith fracture does" in capsys.readouterr().err
    found = read_map(tmp_path / "out" / "rock.v2-offset-map.txt")
    exact = calculate_offset_map(process_image(rock.T, 1))
    assert np.isfinite(found).all()
    assert (abs(found - exact) < 1e-6).mean() > 0.8
    assert abs(found - exact).max() < 5
    assert names(tmp_path / "out") == [
        f"rock.v2-{name}" for name in ("aperture-map.txt", "offset-map.txt", "processed.tif")
    ]


def test_an_interrupted_run_goes_on(stack, tmp_path, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    assert call(stack, "-o", tmp_path / "whole", "-n", "1", "--gen-cluster-img") == 0
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(apmapflow_run, "settle_map", interrupt)
        assert call(stack, "-o", out, "-n", "1", "--gen-cluster-img") == 130
    assert "interrupted; what is finished is kept in" in capsys.readouterr().err
    assert not any(path.is_file() and not path.name.startswith(".") for path in out.iterdir())
    assert call(stack, "-o", out, "-n", "1", "--gen-cluster-img") == 0
    assert "went on with the unfinished run" in capsys.readouterr().err
    assert names(out) == names(tmp_path / "whole")
    for name in names(out):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(apmapflow_run, "settle_map", interrupt)
        assert call(stack, "-o", out, "-n", "1", "-f") == 130
    capsys.readouterr()
    assert call(stack, "-o", out, "-n", "-1", "-f") == 0  # other clusters are another run, which takes its place
    assert "went on" not in capsys.readouterr().err


def test_a_damaged_plane_is_named(rock, tmp_path, capsys):
    (tmp_path / "planes").mkdir()
    for z, plane in enumerate(rock.astype(np.uint8)):
        tifffile.imwrite(tmp_path / "planes" / f"p{z:03}.tif", plane, compression="zlib")
    path = tmp_path / "planes" / "p005.tif"
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        begin = tif.pages[0].dataoffsets[0]
    data[begin : begin + 8] = b"\0" * 8
    path.write_bytes(data)
    assert call(tmp_path / "planes", "-o", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "p005.tif" in said
    assert "Traceback" not in said


def test_as_a_program(stack, tmp_path):
    command = [sys.executable, "-m", "cytolith.compat.apmapflow"]
    done = subprocess.run([*command, str(stack), "-n", "1"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(names(tmp_path)) == 4
    again = subprocess.run([*command, str(stack)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("apm_process_image_stack: rock.v2-aperture-map.txt exists already"), again.stderr
    assert os.linesep not in again.stderr.strip()
