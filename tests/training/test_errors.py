"""What a command says when it ends early."""

import pytest
from detectron2.engine.hooks import PeriodicCheckpointer
from torch import nn

from lors import LowRank
from lors.adamixer import Decoder
from lors.checkpoints import Checkpointer
from lors.errors import UserError
from lors.training.errors import config_errors, one_line_errors


@one_line_errors()
def fail(error):
    raise error


def test_what_a_user_can_mend_is_one_line():
    # Python prints a text that a program exits with on stderr, and exits with 1.
    with pytest.raises(SystemExit) as stopped:
        fail(UserError("two\n  lines"))
    assert stopped.value.code == "error: two lines"


@pytest.mark.parametrize(
    "error", [TypeError("a"), KeyError("foo"), ValueError("b"), AssertionError()], ids=repr
)
def test_anything_else_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        fail(error)


def test_only_a_missing_file_of_a_dataset_names_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    for path, named in ((tmp_path / "data" / "train.json", True), (tmp_path / "weights.pth", False)):
        with pytest.raises(SystemExit) as stopped, one_line_errors():
            open(path)
        assert str(path) in stopped.value.code
        assert ("DETECTRON2_DATASETS" in stopped.value.code) == named


def test_what_libraries_refuse_is_the_config():
    with pytest.raises(UserError, match="the config cannot be used: feature_dim=7"), config_errors():
        Decoder(feature_dim=7, groups=2)
    with pytest.raises(UserError, match="the config cannot be used: TypeError"), config_errors():
        nn.Linear("a", 3)
    with (
        pytest.raises(UserError, match="the config cannot be used: model.decoder.bank: rank=0"),
        config_errors(),
    ):
        LowRank(rank=0)
    with pytest.raises(UserError, match="max_to_keep > 0"), config_errors():
        PeriodicCheckpointer(Checkpointer(nn.Linear(1, 1)), 1, max_to_keep=0)


class Stage(nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        {}["foo"]


def test_a_stage_of_ones_own_keeps_its_traceback():
    with pytest.raises(KeyError, match="foo"), config_errors():
        Decoder(stage=Stage)
