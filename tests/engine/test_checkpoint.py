"""Results on disk: whole and of this run, or done again."""

import numpy as np
import pytest

from cytolith.engine.checkpoint import Checkpoints, run_digest
from cytolith.errors import CytolithError, OutputError

TABLE = {"z": np.array([0.5, 2.25]), "size": np.array([7, 9]), "truncated": np.array([False, True])}


@pytest.fixture
def checkpoints(tmp_path):
    folder = tmp_path / "blocks"
    folder.mkdir()
    return Checkpoints(folder, run_digest({"input": "a", "steps": [1, 2]}))


def test_a_digest_tells_runs_apart_and_not_the_order_of_what_they_are():
    one = {"input": "a", "config": {"x": 1, "y": 2}}
    assert run_digest(one) == run_digest({"config": {"y": 2, "x": 1}, "input": "a"})
    assert run_digest(one) != run_digest({**one, "input": "b"})
    assert run_digest(one) != run_digest({**one, "config": {"x": 1, "y": 2.5}})


def test_a_result_comes_back_as_it_was(checkpoints):
    checkpoints.save(12, TABLE, {"seconds": 1.5})
    record = checkpoints.load(12)
    assert record.arrays.keys() == TABLE.keys()
    for name, array in TABLE.items():
        assert record.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(record.arrays[name], array)
    assert record.info["seconds"] == 1.5
    found, complaints = checkpoints.finished(range(20))
    assert list(found) == [12]
    assert found[12]["seconds"] == 1.5
    assert complaints == []


def test_results_of_another_run_or_block_are_none(checkpoints):
    checkpoints.save(3, TABLE, {})
    other = Checkpoints(checkpoints.folder, run_digest({"input": "b"}))
    with pytest.raises(CytolithError, match=r"0000003\.block: is not the result of block 3 of this run"):
        other.load(3)
    checkpoints.path(3).rename(checkpoints.path(4))
    with pytest.raises(CytolithError, match=r"0000004\.block: is not the result of block 4 of this run"):
        checkpoints.load(4)


@pytest.mark.parametrize("harm", ["cut", "emptied", "edited", "replaced", "renamed"])
def test_a_file_that_is_no_result_is_named_removed_and_its_block_done_again(checkpoints, harm):
    for index in (1, 2):
        checkpoints.save(index, TABLE, {})
    path = checkpoints.path(1)
    content = path.read_bytes()
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "emptied":
        path.write_bytes(b"")
    elif harm == "edited":
        place = content.index(np.array([7]).tobytes())
        path.write_bytes(content[:place] + b"\x08" + content[place + 1 :])
    elif harm == "replaced":
        path.write_bytes(b"hello, this is a text file, and a long one at that" * 9)
    else:
        path.write_bytes(checkpoints.path(2).read_bytes())
    found, complaints = checkpoints.finished([1, 2])
    assert list(found) == [2]
    assert len(complaints) == 1
    assert str(path) in complaints[0]
    assert complaints[0].endswith("; its block is done again")
    assert "\n" not in complaints[0]
    assert not path.exists()
    assert checkpoints.finished([1, 2])[1] == []


def test_blocks_that_are_not_asked_for_are_left_alone(checkpoints):
    for index in (1, 2):
        checkpoints.save(index, TABLE, {})
    checkpoints.path(2).write_bytes(b"")
    found, complaints = checkpoints.finished([1])
    assert list(found) == [1]
    assert complaints == []
    assert checkpoints.path(2).exists()


def test_a_result_that_cannot_be_written_is_named(checkpoints):
    checkpoints.folder.rmdir()
    with pytest.raises(OutputError, match=r"0000001\.block: cannot be written"):
        checkpoints.save(1, TABLE, {})


def test_all_results_can_be_removed(checkpoints):
    checkpoints.save(1, TABLE, {})
    checkpoints.remove()
    assert not checkpoints.folder.exists()
    checkpoints.remove()
