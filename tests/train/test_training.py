"""Filters: trained, scored where they were not fitted, saved without code, applied to tables."""

import json
import zipfile

import numpy as np
import pytest
from command_line import call

from cytolith.cells.classifier import Classifier, load_classifier, save_classifier
from cytolith.cells.pipeline import detect_cells
from cytolith.errors import ConfigError
from cytolith.io.volume import open_volume
from cytolith.score.match import match
from cytolith.score.regions import parse_box
from cytolith.testing.phantoms import cells_phantom
from cytolith.train.training import train_classifier

SIZE = (6, 1.62, 1.62)


def sample(seed):
    """Cells, and specks that pass the threshold and no annotation holds: they are sharper than cells."""
    volume, truth = cells_phantom((30, 150, 150), seed=seed)
    rng = np.random.default_rng(seed)
    image = volume.astype(np.float64)
    z, y, x = np.mgrid[-2:3, -3:4, -3:4]
    blob = 6000 * np.exp(-((z / 0.4) ** 2 + (y / 0.9) ** 2 + (x / 0.9) ** 2) / 2)
    for _ in range(80):
        a, b, c = rng.integers(2, 27), rng.integers(3, 146), rng.integers(3, 146)
        image[a - 2 : a + 3, b - 3 : b + 4, c - 3 : c + 4] += blob
    points = np.stack([truth[axis] for axis in "zyx"], 1)
    return np.clip(image.round(), 0, 65535).astype(np.uint16), points


@pytest.fixture(scope="module")
def trained():
    image, points = sample(1)
    return train_classifier(open_volume(image, voxel_size=SIZE), points)


def f1(table, points):
    return match(np.stack([table[axis] for axis in "zyx"], 1), points, 8.0, SIZE).f1


def test_a_filter_is_better_than_none_on_what_it_has_not_seen(trained, tmp_path):
    assert trained.held_out.f1 > trained.default.f1 + 0.03
    path = tmp_path / "filter.skops"
    save_classifier(trained.classifier, path)
    image, points = sample(2)
    table = detect_cells(image, voxel_size=SIZE, classifier=path)
    assert f1(table, points) > f1(detect_cells(image, voxel_size=SIZE), points) + 0.03
    assert list(table)[-2:] == ["probability", "truncated"]
    assert ((table["probability"] >= 0.4) & (table["probability"] <= 1)).all()
    again = detect_cells(image, voxel_size=SIZE, classifier=trained.classifier, block=(11, 60, 150), workers=2)
    for name, column in table.items():
        np.testing.assert_array_equal(column, again[name])
    none, _ = trained.classifier.kept({name: column[:0] for name, column in table.items()})
    assert len(none["probability"]) == 0


def test_training_is_repeatable_and_knows_its_regions(trained):
    image, points = sample(1)
    volume = open_volume(image, voxel_size=SIZE)
    table = detect_cells(image, voxel_size=SIZE, config=trained.classifier.config)
    left = train_classifier(volume, points, regions=[parse_box(":,:,0:75")])
    right_hidden = points[points[:, 2] < 74.5]
    same = train_classifier(volume, right_hidden, without=[parse_box(":,:,75:")])
    assert left.cells == same.cells == len(right_hidden)
    np.testing.assert_array_equal(left.classifier.probability(table), same.classifier.probability(table))
    assert (left.classifier.probability(table) != trained.classifier.probability(table)).any()


def test_what_cannot_be_trained_on_is_said_in_a_line(trained):
    image, points = sample(1)
    with pytest.raises(ConfigError, match="12 annotated cells in the regions: a filter needs 50"):
        train_classifier(open_volume(image, voxel_size=SIZE), points[:12])
    with pytest.raises(ConfigError, match="voxel size is unknown"):
        train_classifier(open_volume(image), points)
    with pytest.raises(ConfigError, match="nothing to tell apart"):
        train_classifier(open_volume(image, voxel_size=SIZE), np.full((60, 3), 2.0))
    with pytest.raises(ConfigError, match="needs the columns peak_to_noise"):
        trained.classifier.probability(detect_cells(image, voxel_size=SIZE))


class _Foreign:
    pass


def test_only_the_types_of_a_filter_are_loaded(trained, tmp_path):
    import skops.io

    path = tmp_path / "foreign.skops"
    path.write_bytes(skops.io.dumps({"format": 1, "models": [_Foreign()]}))
    with pytest.raises(ConfigError, match="has no use for; not loaded"):
        load_classifier(path)
    path.write_bytes(b"PK no archive")
    with pytest.raises(ConfigError, match="is no file of cytolith train"):
        load_classifier(path)
    path.write_bytes(skops.io.dumps({"some": "thing"}))
    with pytest.raises(ConfigError, match="is no file of cytolith train"):
        load_classifier(path)
    with pytest.raises(ConfigError, match="No such file or directory; write one with cytolith train"):
        load_classifier(tmp_path / "absent.skops")
    save_classifier(trained.classifier, path)
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".pkl", ".pickle"))]
    loaded = load_classifier(path)
    assert loaded.config == trained.classifier.config
    assert isinstance(loaded, Classifier)


def test_train_and_use_on_the_command_line(tmp_path):
    image, points = sample(3)
    np.save(tmp_path / "brain.npy", image)
    np.savetxt(tmp_path / "truth.csv", points, delimiter=",", header="z,y,x", comments="")
    brain, flags = tmp_path / "brain.npy", ("--voxel-size", "6,1.62,1.62")
    made = call("train", brain, tmp_path / "truth.csv", "-o", tmp_path / "a.skops", *flags, fresh=True)
    assert made.returncode == 0, made.stderr
    assert "filter, held out" in made.stdout
    refused = call("train", brain, tmp_path / "truth.csv", "-o", tmp_path / "a.skops", *flags)
    assert (refused.returncode, "exists" in refused.stderr) == (1, True)
    out = tmp_path / "out"
    extras = ("--labels", "--export", "cellfinder,clearmap", "--no-report", "-q")
    done = call("cells", brain, "-o", out, *flags, "--classifier", tmp_path / "a.skops", *extras)
    assert done.returncode == 0, done.stderr
    lines = (out / "cells.csv").read_text().splitlines()
    assert lines[0].endswith("probability,truncated")
    record = json.loads((out / "run.json").read_text())
    assert record["cells"] == len(lines) - 1 < record["candidates"]
    assert (out / "cells.xml").exists()
    again = call("cells", "--config", out / "config.toml", "-o", tmp_path / "again", "--no-report", "-q")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "cells.csv").read_bytes() == (out / "cells.csv").read_bytes()
    assert len(np.load(out / "cells.npy")) == len(lines) - 1
    import zarr

    labels = zarr.open(out / "labels.zarr", mode="r")
    assert np.unique(labels["0"][:] if isinstance(labels, zarr.Group) else labels[:]).max() == len(lines) - 1
    assert not (out / "report.html").exists()
    assert call("cells", brain, "-o", out, *flags, "-q", "--resume").returncode != 0
