"""study.py as a user runs it, stopped on the way, and the figures of its report."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog

from lors.complexity import parameters
from lors.data import register_split
from lors.errors import UserError
from lors.training.overrides import apply_overrides
from runs import ROOT, losses

STUDY = """
study = dict(
    title="Small",
    reference="LORS",
    config="configs/custom/tiny_cpu.py",
    seeds=[1],
    dataset=dict(
        train_json="{data}/train.json", train_images="{data}/train", val_fraction=0.25,
        test_json="{data}/test.json", test_images="{data}/test",
    ),
    overrides=["train.device=cpu", "train.log_period=1", "dataloader.train.mapper.augmentations=[]"],
    arms={arms},
)
"""
LORS = dict(overrides=["train.max_iter=12"])
PLAIN = dict(overrides=["train.max_iter=2", "model.decoder.bank=null"])
BROKEN = dict(overrides=["train.max_iter=2", "train.init_checkpoint=no"])


@pytest.fixture(scope="module")
def study(load_tool):
    return load_tool("study")


@pytest.fixture(scope="module")
def report(load_tool):
    return load_tool("study_report")


@pytest.fixture
def repository(tmp_path, data) -> Path:
    """With the same configs, and room for studies and output."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "train_net.py").symlink_to(ROOT / "train_net.py")
    return tmp_path


def write_study(repository: Path, data: Path, **arms) -> None:
    text = STUDY.format(data=data, arms=arms)
    (repository / "configs" / "studies" / "small.py").write_text(text)


def begin(repository: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tools" / "study.py"), "small", *more]
    return subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True)


def results(repository: Path) -> dict:
    return json.loads((repository / "docs" / "studies" / "small.json").read_text())["arms"]


def test_a_study_goes_on_where_it_stopped_and_looks_at_the_test_images_last(repository, data, long):
    if not long:
        pytest.skip("trains for a minute or two: make drills")
    write_study(repository, data, broken=BROKEN, LORS=LORS, plain=PLAIN)
    output = repository / "output" / "studies" / "small"
    folder = output / "LORS" / "1"
    process = begin(repository)
    while process.poll() is None and not ((folder / "metrics.json").exists() and len(losses(folder)) >= 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 1 and str(Path("small", "broken", "1")) in err
    assert list(folder.glob("model_*.pth"))
    assert not (output / "plain").exists()

    write_study(repository, data, LORS=LORS)
    assert begin(repository).wait() == 0
    assert list(losses(folder)) == list(range(12))
    starts = re.findall(r"Starting training from iteration (\d+)", (folder / "log.txt").read_text())
    assert starts[0] == "0" < starts[1]
    (first,) = results(repository)["LORS"]["runs"]
    assert first["resumed"] and set(first["val"]) == {"AP", "AP50"}
    dataset = dict(train_json=f"{data}/train.json", train_images=f"{data}/train", val_fraction=0.25)
    dataset.update(test_json="", test_images="", val_seed=0, crowds_as_objects=False)
    images = DatasetCatalog.get(register_split("test", dataset))
    found = json.loads((folder / "coco_instances_results.json").read_text())
    assert 0 < len(images) < len(json.loads((data / "train.json").read_text())["images"])
    assert {box["image_id"] for box in found} == {image["image_id"] for image in images}

    before = (folder / "metrics.json").stat().st_mtime_ns
    assert begin(repository, "--test").wait() == 0
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    (second,) = results(repository)["LORS"]["runs"]
    assert set(second.pop("test")) == {"AP", "AP50"} and second == first
    images = json.loads((data / "test.json").read_text())["images"]
    found = json.loads((folder / "test" / "coco_instances_results.json").read_text())
    assert {box["image_id"] for box in found} == {image["id"] for image in images}
    assert "test AP" in (repository / "docs" / "studies" / "small.md").read_text()
    assert (repository / "docs" / "studies" / "small.png").stat().st_size > 0


def decoder_sizes(study, name: str) -> dict[str, int]:
    given, sizes = study.load_study(name), {}
    for arm, node in given.arms.items():
        overrides = [*given.get("overrides", []), *node.get("overrides", []), "model.decoder.num_classes=10"]
        cfg = apply_overrides(LazyConfig.load(node.get("config", given.config)), overrides)
        assert cfg.model.criterion.stage_weights in (
            None,
            [0.1, 0.5] + (cfg.model.decoder.num_stages - 2) * [1],
        )
        sizes[arm] = parameters(instantiate(cfg.model.decoder))
    assert given.reference in sizes
    return sizes


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs" / "studies").glob("*.py")))
def test_the_arms_of_each_study_can_be_built_and_have_the_sizes_they_should(study, name, monkeypatch):
    monkeypatch.chdir(ROOT)
    sizes = decoder_sizes(study, name)
    if name in ("sharing_digits", "sharing_bccd"):
        assert sizes["narrow plain"] == pytest.approx(sizes["LORS"], rel=0.02)
    else:  # a narrow plain decoder is no smaller than what it is compared with
        for narrow in {"narrow plain", "narrow queries"} & {*sizes}:
            assert sizes["LORS"] <= sizes[narrow] <= 1.04 * sizes["LORS"]
    if "wide LORS" in sizes:
        assert sizes["wide LORS"] == pytest.approx(sizes["plain"], rel=0.02)
    if name.startswith("all") or name.endswith("long"):
        assert sizes["LORS"] <= sizes["plain"] / 3
    if name.startswith("recipe"):
        assert all(size <= sizes["plain"] / 2 for arm, size in sizes.items() if "plain" not in arm)


def test_a_run_without_validation_images_is_named(study, tmp_path):
    (tmp_path / "log.txt").write_text("trained\n")
    with pytest.raises(UserError, match=str(tmp_path)):
        study.outcome(tmp_path, 0)


def test_an_unknown_study_names_those_there_are(study, repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["study.py", "small"])
    with pytest.raises(SystemExit, match="small.py.*sharing_digits"):
        study.main()


def test_test_images_wait_until_all_runs_are_finished(study, repository, data, monkeypatch):
    write_study(repository, data, LORS=LORS)
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["study.py", "small", "--test"])
    with pytest.raises(SystemExit, match="without --test"):
        study.main()
    assert not list((repository / "output").rglob("log.txt"))


def test_a_result_of_other_settings_is_not_taken(study, tmp_path):
    run = study.Run("LORS", 1, tmp_path, "c.py", [], iterations=9, parameters=5, settings={"a": 1, "b": 2})
    assert run.result() == {}
    run.note(seconds=1.0)
    run.note(val={"AP": 2.0})
    assert run.result() == {"seconds": 1.0, "val": {"AP": 2.0}}
    assert run._replace(settings={"b": 2, "a": 1}).result() == run.result()
    with pytest.raises(ValueError, match="other settings"):
        run._replace(settings={"a": 1, "b": 3}).result()


def test_what_another_study_has_is_not_run_again(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "OUTPUT", tmp_path)

    def run(name: str, **settings: int) -> study.Run:
        folder = tmp_path / name / "LORS" / "1"
        of_train = {"train": {"seed": 1, "output_dir": str(folder)}, **settings}
        return study.Run("LORS", 1, folder, "c.py", [], iterations=9, parameters=5, settings=of_train)

    theirs = run("first", a=1)
    (theirs.folder / "test").mkdir(parents=True)
    (theirs.folder / "model_final.pth").write_text("weights")
    theirs.note(seconds=1.0)
    assert study.adopt(run("early", a=1)) is None
    theirs.note(val={"AP": 2.0}, test={"AP": 3.0})
    same, other = run("second", a=1), run("third", a=2)
    assert study.adopt(same) == theirs.folder / "study.json" and study.adopt(other) is None
    assert same.result() == {"seconds": 1.0, "val": {"AP": 2.0}, "test": {"AP": 3.0}}
    assert {file.name for file in same.folder.iterdir()} == {"model_final.pth", "study.json", "test"}
    assert not other.folder.exists() and not (tmp_path / "early").exists()


def test_what_is_published_of_another_study_is_not_run_again(study, repository, data, monkeypatch):
    monkeypatch.chdir(repository)
    write_study(repository, data, LORS=LORS, plain=PLAIN)
    given = study.load_study("small")
    val, test = study.data_overrides(given)
    theirs, untested = study.plan(given, val, test, Path("there"))
    found = dict(resumed=False, seconds=1.0, versions="1", val={"AP": 2.0, "AP50": 2.0})
    theirs.note(**found, test={"AP": 3.0, "AP50": 3.0})
    untested.note(**found)
    study.write_report(study.collect("first", given, [theirs, untested]))
    published = study.DOCS / "first.json"

    ours, unknown = study.plan(given, val, test, Path("here"))
    assert study.adopt_published(ours) == published and ours.result() == theirs.result()
    assert study.adopt_published(unknown) is None
    other_images, _ = study.plan(given, val, ["dataset.test_json=other"], Path("other_images"))
    given.seeds = [2]
    other_seed, _ = study.plan(given, val, test, Path("other_seed"))
    for other in (other_images, other_seed):
        assert study.adopt_published(other) is None and not other.folder.exists()


def test_an_arm_starts_from_the_weights_of_a_run_with_the_same_seed(study, repository, data, monkeypatch):
    monkeypatch.chdir(repository)
    write_study(repository, data, LORS=dict(start="first/wide, LORS", **LORS))
    given = study.load_study("small")
    given.seeds = [1, 2]
    runs = study.plan(given, *study.data_overrides(given), Path("out"))
    starts = [Path(run.settings["train"]["init_checkpoint"]) for run in runs]
    assert starts == [study.OUTPUT / "first" / "wide_LORS" / str(seed) / "model_final.pth" for seed in (1, 2)]


def test_a_run_that_a_killed_study_left_keeps_the_study_locked(study, tmp_path):
    lock = study.lock_study(tmp_path)
    with subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()]) as left:
        lock.close()
        with pytest.raises(ValueError, match="running"):
            study.lock_study(tmp_path)
        left.kill()
    study.lock_study(tmp_path).close()


def table_of(lines: list[str]) -> dict[str, list[str]]:
    """The cells of a Markdown table by the first of each row."""
    cells = ([cell.strip() for cell in line.split("|")] for line in lines if "|" in line)
    return {first: others for _, first, *others, _ in cells}


def arm(*runs: tuple[float, bool], test: float | None = None) -> dict:
    """As in a study's JSON, of runs with this AP on `val`, which is their seconds too, resumed or not."""
    of = [
        {"val": {"AP": AP, "AP50": 90.0}, "seconds": AP, "resumed": resumed, "versions": "torch 1"}
        for AP, resumed in runs
    ]
    for run in of if test is not None else ():
        run["test"] = {"AP": test, "AP50": 80.0}
    about = dict(config="c.py", overrides=["a=1"], start="first/LORS" if len(of) == 1 else "")
    return dict(**about, decoder_parameters=1234567, iterations=9, runs=of)


LORS_ARM = arm((60.0, False), (66.0, True))
ABOUT = dict(study="some", title="Some", reference="LORS", overrides=[])


def test_the_report_has_means_deviations_and_standard_errors(report, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DOCS", tmp_path)
    arms = {
        "LORS": LORS_ARM,
        "plain": arm((70.0, False), (71.0, False), (75.0, False)),
        "once": arm((62.0, True)),
    }
    report.write_report({**ABOUT, "arms": arms})
    assert json.loads((tmp_path / "some.json").read_text())["arms"] == arms
    lines = (tmp_path / "some.md").read_text().splitlines()
    assert sum("torch 1" in line for line in lines) == 1
    rows = table_of(lines)
    # Of 70, 71, 75: deviation 2.65; of 60, 66: 4.24; of the difference sqrt(2.65^2 / 3 + 4.24^2 / 2) = 3.37.
    # A run that was resumed has no time of its own.
    assert rows["LORS"] == ["1.23 M", "2", "63.0 ± 4.2", "90.0 ± 0.0", "", "1.0"]
    assert rows["plain"] == ["1.23 M", "3", "72.0 ± 2.6", "90.0 ± 0.0", "+9.0 ± 3.4", "1.2"]
    assert rows["once"] == ["1.23 M", "1", "62.0", "90.0", "-1.0", ""]
    assert [line for line in lines if "first/LORS" in line] == [
        "- once: `c.py a=1`, 9 iterations, from `first/LORS` with the same seed"
    ]


def test_several_studies_are_one_table_and_one_picture(report, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DOCS", tmp_path)
    report.write_report(
        {**ABOUT, "arms": {"LORS": LORS_ARM, "plain": arm((70.0, False), (71.0, False), test=50.0)}}
    )
    arms = {"plain": arm((62.0, True)), "more": LORS_ARM}
    report.write_report({**ABOUT, "study": "other", "arms": arms})
    monkeypatch.setattr(sys, "argv", ["study_report.py", "some", "other"])
    report.main()
    assert (tmp_path / "overview.png").stat().st_size > 0
    rows = table_of((tmp_path / "overview.md").read_text().splitlines())
    # The test images were looked at in the first alone, and there with plain alone.
    assert rows["decoder"] == ["parameters", "some, test AP", "other, val AP"]
    assert rows["LORS"] == ["1.23 M", "", ""]
    assert rows["plain"] == ["1.23 M", "50.0 ± 0.0", "62.0"]
    assert rows["more"] == ["1.23 M", "", "63.0 ± 4.2"]
