"""Tune from a volume to a configuration: what is scored is what a run finds, and nothing is computed twice."""

import json
import sys

import numpy as np
import pytest

from cytolith import detect_cells
from cytolith.axes import full_region
from cytolith.cells.build import build_config, read_toml
from cytolith.cells.config import DogFilter, MaximaDetection, ShapeDetection
from cytolith.cells.pipeline import prepare
from cytolith.errors import ConfigError, MemoryBudgetError, OutputError
from cytolith.io.tables import read_table
from cytolith.io.volume import open_volume
from cytolith.quantities import Length, Threshold, format_region, parse_region
from cytolith.score.match import match
from cytolith.testing.phantoms import cells_phantom
from cytolith.tune.chain import Chain, ImageCache, grey_level
from cytolith.tune.choose import START
from cytolith.tune.regions import inside, largest_inside
from cytolith.tune.run import tune_cells
from cytolith.tune.search import Scorer
from cytolith.tune.space import LADDERS, make_space, start_threshold, with_threshold

SIZE = (6.0, 1.62, 1.62)
START_HIGH = {"maxima_detection": {"threshold": "25 mad"}}


@pytest.fixture(scope="module")
def sample():
    image, truth = cells_phantom((26, 150, 170), seed=3)
    points = np.stack([truth[axis] for axis in "zyx"], 1).astype(np.float64)
    return image, points


def chain_of(volume, space, regions=None):
    prepared = prepare(volume, space.start, workers=1, memory=2**62)
    return Chain(prepared, regions or [full_region(volume.shape)], space.halo(), 2**28)


def positions(table):
    return np.stack([table[axis] for axis in "zyx"], 1)


def test_what_is_scored_is_what_a_run_finds(sample):
    image, truth = sample
    volume = open_volume(image, voxel_size=SIZE)
    region = (slice(4, 22), slice(30, 140), slice(0, 120))
    cells = truth[inside(truth, [region])]
    space = make_space(build_config(), SIZE)
    scorer = Scorer(chain_of(volume, space, [region]), space, cells, 8.0, SIZE)
    for choice in ({}, {"smoothing_plane": 2.0}, {"dog": 1.0, "background": 0.79}, {"window_plane": 2.0}):
        scored = scorer.score(space.start_choice | choice)
        for at in (START - 12, START, START + 9):
            config = with_threshold(scored.config, scored.thresholds[at], scorer.start.thresholds[START])
            found = positions(detect_cells(volume, config=config))
            found = found[inside(found, [region])]
            result = match(found, cells, 8.0, SIZE)
            numbers = scored.counts.numbers(np.ones(scorer.parts.count, bool), at)
            assert numbers == (result.true_positives, result.false_positives, len(cells)), (choice, at)
            assert result.true_positives > 10


def test_a_threshold_computes_nothing_and_a_step_only_what_comes_after_it(sample):
    image, truth = sample
    volume = open_volume(image, voxel_size=SIZE)
    space = make_space(build_config(), SIZE)
    chain = chain_of(volume, space)
    scorer = Scorer(chain, space, truth, 8.0, SIZE)
    once = {"background_correction": 1, "smoothing": 1, "dog_filter": 0}
    assert {name: chain.runs[name] for name in once} == once
    scorer.score(space.start_choice | {"window_z": 2.0})  # maxima only; every threshold is in the counts
    assert {name: chain.runs[name] for name in once} == once
    scorer.score(space.start_choice | {"smoothing_plane": 0.5})
    assert chain.runs["background_correction"] == 1
    assert chain.runs["smoothing"] == 2
    scorer.score(space.start_choice | {"smoothing_plane": 0.5, "dog": 1.0})
    assert (chain.runs["smoothing"], chain.runs["dog_filter"]) == (2, 1)
    scorer.score(space.start_choice | {"background": 2.0})
    assert (chain.runs["background_correction"], chain.runs["smoothing"]) == (2, 3)


def test_the_cache_keeps_within_its_bytes_and_drops_the_least_used():
    cache, made = ImageCache(250), []

    def image(name):
        return lambda: (made.append(name), np.zeros(100, np.uint8))[1]

    for name in "ababcab":
        cache.get(name, image(name))
        assert cache.held <= 250
    assert made == ["a", "b", "c", "a", "b"]
    cache.get("large", lambda: np.zeros(1000, np.uint8))  # one is always kept: it is at work
    assert cache.held == 1000


def test_tuning_finds_a_threshold_that_was_far_off(sample, tmp_path):
    image, truth = sample
    path = tmp_path / "großes Hirn.npy"
    np.save(path, image)
    told = []
    report = tune_cells(
        path, truth, tmp_path / "out", config=build_config(("", START_HIGH)), voxel_size=SIZE, trials=12,
        listener=told.append,
    )  # fmt: skip
    tuned = report.tuned
    assert tuned.changed
    assert tuned.held_out.f1 > tuned.start_held_out.f1 + 0.1
    assert tuned.held_out.annotations == len(truth) == report.cells  # each cell is held out once
    assert [trial.number for trial in told] == list(range(12))
    document, keys = read_toml(tmp_path / "out" / "config.toml")
    assert keys["input"] == str(path)
    assert keys["voxel_size"] == list(SIZE)
    config = build_config(("", document))
    assert config == tuned.config
    found = positions(detect_cells(open_volume(path, voxel_size=SIZE), config=config))
    assert match(found, truth, 8.0, SIZE).f1 == pytest.approx(tuned.fitted.f1, abs=1e-12)
    record = json.loads((tmp_path / "out" / "tune.json").read_text(encoding="utf-8"))
    assert record["held_out"]["tuned"]["f1"] == pytest.approx(tuned.held_out.f1, abs=1e-6)
    trials, _ = read_table(tmp_path / "out" / "trials.csv")
    assert len(trials["trial"]) == 12
    assert set(LADDERS) < set(trials)
    with pytest.raises(OutputError, match="--overwrite"):
        tune_cells(path, truth, tmp_path / "out", voxel_size=SIZE, trials=1)


def test_a_seed_gives_the_same_and_the_start_is_the_first_trial(sample):
    image, truth = sample
    reports = [tune_cells(image, truth, voxel_size=SIZE, trials=9, seed=5) for _ in range(2)]
    one, two = (report.tuned for report in reports)
    assert one.trials == two.trials
    assert one.config == two.config
    assert one.trials[0].choice == make_space(build_config(), SIZE).start_choice
    assert one.fitted.f1 >= one.start_fitted.f1
    other = tune_cells(image, truth, voxel_size=SIZE, trials=9, seed=6).tuned
    assert other.trials != one.trials


def test_few_cells_keep_the_parameters_as_they_are(sample):
    image, truth = sample
    report = tune_cells(image, truth[:12], config=build_config(("", START_HIGH)), voxel_size=SIZE, trials=50)
    assert not report.tuned.changed
    assert "12 annotated cells are too few" in report.tuned.reason
    assert report.tuned.config.maxima_detection.threshold == Threshold(25, "mad")
    assert len(report.tuned.trials) == 1  # steps are not looked at either


def test_an_interrupt_keeps_the_best_so_far(sample, tmp_path):
    image, truth = sample

    def stop(trial):
        if trial.number == 4:
            raise KeyboardInterrupt

    config = build_config(("", START_HIGH))
    report = tune_cells(image, truth, tmp_path / "c.toml", config=config, voxel_size=SIZE, trials=500, listener=stop)
    assert report.tuned.interrupted
    assert report.tuned.changed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.json", "c.toml", "c.trials.csv"]
    assert json.loads((tmp_path / "c.json").read_text())["interrupted"]


def test_cells_outside_the_region_do_not_count(sample):
    image, truth = sample
    region = "0:26,0:75,:"
    near = truth[inside(truth, [parse_region(region, image.shape)])]
    reports = [
        tune_cells(image, points, regions=[region], voxel_size=SIZE, trials=1, config=build_config(("", START_HIGH)))
        for points in (truth, near)
    ]
    assert reports[0].tuned.fitted == reports[1].tuned.fitted
    assert reports[0].outside == len(truth) - len(near) > 0
    # without the region the unmarked half is full of false alarms
    whole = tune_cells(image, near, voxel_size=SIZE, trials=1)
    assert whole.tuned.start_fitted.false_alarms > 2 * reports[1].tuned.start_fitted.false_alarms


def test_mistakes_are_named(sample, tmp_path, monkeypatch):
    image, truth = sample
    with pytest.raises(ConfigError, match="no annotated cells"):
        tune_cells(image, np.empty((0, 3)), voxel_size=SIZE)
    with pytest.raises(ConfigError, match="order z, y, x"):
        tune_cells(image, truth + 1000, voxel_size=SIZE)
    with pytest.raises(ConfigError, match="--voxel-size"):
        tune_cells(image, truth)
    with pytest.raises(ConfigError, match="overlap"):
        tune_cells(image, truth, voxel_size=SIZE, regions=["0:9,:,:", "8:12,:,:"])
    with pytest.raises(ConfigError, match="did you mean 'background'"):
        tune_cells(image, truth, voxel_size=SIZE, only=["backgroud"])
    with pytest.raises(ConfigError, match="maxima_detection"):
        tune_cells(image, truth, voxel_size=SIZE, config=build_config(("", {"maxima_detection": "none"})))
    with pytest.raises(MemoryBudgetError, match="the largest that fits is --region"):
        tune_cells(image, truth, voxel_size=SIZE, memory=360 * 2**20)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        tune_cells(image, truth, tmp_path / "file" / "out", voxel_size=SIZE, trials=1)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"cytolith\[tune\]"):
        tune_cells(image, truth, voxel_size=SIZE, trials=3)


def test_every_choice_of_the_space_is_a_configuration():
    for size in (SIZE, None):
        space = make_space(build_config(), size)
        assert space.config(space.start_choice) == space.start
        for name, ladder in LADDERS.items():
            for factor in ladder:
                config = space.config(space.start_choice | {name: factor})
                if size is not None:  # whole voxels may be the same for two factors
                    assert (config == space.start) == (factor == space.start_choice[name])
        reach, most = space.halo(), {name: max(ladder) for name, ladder in LADDERS.items()}
        assert all(n >= m for n, m in zip(reach, make_space(space.config(most), size, []).halo(), strict=True))
    assert make_space(build_config(), SIZE, ["threshold"]).names == ()
    plain = build_config(("", {"smoothing": "none", "background_correction": "none"}))
    space = make_space(plain, SIZE)
    assert "background" not in space.names
    assert space.config(space.start_choice | {"smoothing_plane": 1.0}).smoothing is not None
    bare = space.config(space.start_choice)
    assert bare.smoothing is None
    assert bare.dog_filter == DogFilter()


def test_thresholds_move_together():
    config = build_config(("", {"maxima_detection": {"threshold": "6 mad"}, "shape_detection": {"threshold": "4 mad"}}))
    start, level = start_threshold(config, 10.0)
    assert (start, level) == (Threshold(6, "mad"), 60)
    higher = with_threshold(config, Threshold(12, "mad"), start)
    assert higher.shape_detection.threshold == Threshold(4, "mad")  # cells end where they did
    lower = with_threshold(config, Threshold(3, "mad"), start)
    assert lower.shape_detection.threshold == Threshold(2, "mad")
    classic = build_config().model_copy(
        update={
            "maxima_detection": MaximaDetection(threshold=Threshold(0)),
            "shape_detection": ShapeDetection(threshold=Threshold(700)),
        }
    )
    start, level = start_threshold(classic, 10.0)
    assert (start, level) == (Threshold(700), 700)
    moved = with_threshold(classic, Threshold(300), start)
    assert moved.shape_detection.threshold.value < 300
    assert grey_level(Threshold(0.1), 1.0, np.dtype(np.float32)) == float(np.float32(0.1))


def test_regions():
    shape = (30, 200, 100)
    region = parse_region(" 2:10, :50,20: ", shape)
    assert region == (slice(2, 10), slice(0, 50), slice(20, 100))
    assert parse_region(format_region(region), shape) == region
    for text in ("1:2,3:4", "5:5,:,:", "0:31,:,:", "a:b,:,:", "-3:4,:,:"):
        with pytest.raises(ConfigError, match="--region"):
            parse_region(text, shape)
    fits = largest_inside(full_region(shape), (2, 5, 5), shape, 30_000)
    assert fits is not None
    assert largest_inside(full_region(shape), (40, 400, 400), shape, 1000) is None
    assert inside(np.array([[1.4, 0, 20], [1.5, 0, 20], [9.49, 49, 99.4]]), [region]).tolist() == [False, True, True]


def test_voxels_instead_of_micrometres(sample):
    image, truth = sample
    report = tune_cells(image, truth, tolerance=Length(5), trials=6, config=build_config(("", START_HIGH)))
    assert report.tuned.changed
