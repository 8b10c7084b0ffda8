"""A file is replaced whole or not at all."""

import pytest

from lors.training.files import replacing


def test_the_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "made" / "file.json"
    for text in ("one", "two"):
        with replacing(path) as unfinished:
            assert unfinished.suffix == ".json"
            unfinished.write_text(text)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("whole")
    with pytest.raises(RuntimeError), replacing(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]
