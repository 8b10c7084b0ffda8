"""What a command says when it ends early."""

import pytest

from lors.training.errors import one_line_errors


@one_line_errors()
def fail(error):
    raise error


@pytest.mark.parametrize(
    "error, text",
    [
        (ValueError("two\n  lines"), "error: two lines"),
        (KeyError("No object named 'x'"), "error: No object named 'x'"),
        (AssertionError(), "error: AssertionError"),
        (ModuleNotFoundError("needs x"), "error: needs x"),
    ],
    ids=repr,
)
def test_an_error_is_one_line(error, text):
    # Python prints a text that a program exits with on stderr, and exits with 1.
    with pytest.raises(SystemExit) as stopped:
        fail(error)
    assert stopped.value.code == text


def test_a_bug_keeps_its_traceback():
    with pytest.raises(TypeError):
        fail(TypeError("a bug"))


def test_only_a_missing_file_of_a_dataset_names_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    for path, named in ((tmp_path / "data" / "train.json", True), (tmp_path / "weights.pth", False)):
        with pytest.raises(SystemExit) as stopped, one_line_errors():
            open(path)
        assert str(path) in stopped.value.code
        assert ("DETECTRON2_DATASETS" in stopped.value.code) == named
