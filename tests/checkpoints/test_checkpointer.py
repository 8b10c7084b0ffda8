"""A checkpoint fits the model, or the tensor that does not is named."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from conftest import build_tiny_bank, build_tiny_decoder
from detectron2.engine import AMPTrainer, SimpleTrainer

from lors import merge
from lors.checkpoints import Checkpointer, convert, read, weights_of, write
from lors.checkpoints.about import about_of
from lors.errors import UserError
from lors.sharing import Bank, LowRank
from lors.training.hooks import MovingAverage

ABOUT = {"names": ["one", "two", "three"], "ids": [1, 2, 3]}
HEAD = "decoder.stages.1.classify.3"


def save(tensors: dict[str, torch.Tensor], folder) -> str:
    path = str(folder / "weights.pth")
    torch.save({"model": tensors}, path)
    return path


def test_a_round_trip_gives_the_same_detector(tiny_model, random_image, tmp_path):
    model, other, image = tiny_model().eval(), tiny_model().eval(), random_image()
    Checkpointer(model, str(tmp_path)).save("model", iteration=7)
    with torch.no_grad():
        before = model([image])[0]["instances"]
        assert not torch.equal(before.scores, other([image])[0]["instances"].scores)
        kept = Checkpointer(other).load(str(tmp_path / "model.pth"))
        after = other([image])[0]["instances"]
    assert kept["iteration"] == 7
    assert torch.equal(before.scores, after.scores)
    assert torch.equal(before.pred_boxes.tensor, after.pred_boxes.tensor)
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in model.state_dict().items())


def test_the_average_is_what_is_loaded_and_the_weights_are_what_training_resumes(tiny_model, tmp_path):
    model, last = tiny_model(), tiny_model()
    averaged = MovingAverage(tiny_model(), decay=0.9).averaged
    Checkpointer(model, str(tmp_path), ema=averaged).save("model_final")
    expected = (averaged.module.state_dict(), model.state_dict())
    again = MovingAverage(last, decay=0.9).averaged
    Checkpointer(last, str(tmp_path)).load(str(tmp_path / "model_final.pth"), checkpointables=[])
    assert all(torch.equal(tensor, expected[0][name]) for name, tensor in last.state_dict().items())
    Checkpointer(last, str(tmp_path), ema=again).resume_or_load("", resume=True)
    assert all(torch.equal(tensor, expected[1][name]) for name, tensor in last.state_dict().items())
    assert all(torch.equal(tensor, expected[0][name]) for name, tensor in again.module.state_dict().items())


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tiny_model, tmp_path):
    path = save(tiny_model(num_classes=4).state_dict(), tmp_path)
    with pytest.raises(ValueError) as raised:
        Checkpointer(tiny_model(num_classes=3)).load(path)
    message = str(raised.value)
    assert "decoder.stages.0.classify.3.weight" in message
    assert "4, 16" in message and "3, 16" in message
    assert message.index("4, 16") < message.index("3, 16") and "file" in message and "model" in message


def test_missing_tensors_are_named_and_counted(tiny_model, tmp_path):
    tensors = tiny_model().state_dict()
    gone = sorted(name for name in tensors if name.startswith("decoder.stages.1."))
    path = save({name: tensor for name, tensor in tensors.items() if name not in gone}, tmp_path)
    with pytest.raises(ValueError) as raised:
        Checkpointer(tiny_model(), about=ABOUT).load(path)
    assert gone[0] in str(raised.value) and f"{len(gone) - 4} more" in str(raised.value)


def test_a_backbone_alone_is_taken_only_where_that_is_asked(tiny_model, tmp_path):
    tensors = {n: t for n, t in tiny_model().state_dict().items() if n.startswith("backbone.")}
    path = save(tensors, tmp_path)
    with pytest.raises(ValueError, match="lacks tensors of the model: .*decoder"):
        Checkpointer(tiny_model()).load(path)
    model = tiny_model()
    rest = {n: t.clone() for n, t in model.state_dict().items() if n not in tensors}
    Checkpointer(model, about=ABOUT).load(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name] if name in tensors else rest[name])


def test_a_file_with_nothing_of_the_model_is_refused(tiny_model, tmp_path):
    path = save({"encoder.weight": torch.ones(3)}, tmp_path)
    for allowed in (False, True):
        with pytest.raises(ValueError, match=r"weights.pth: no backbone: looked for .*found encoder.weight"):
            Checkpointer(tiny_model(), about=ABOUT if allowed else None).load(path)


def one_line(model, path: str) -> str:
    with pytest.raises(ValueError) as raised:
        Checkpointer(model, about=ABOUT).load(path)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_a_plain_checkpoint_is_none_of_lors(tiny_model, tmp_path):
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    message = one_line(model, save(tiny_model(None).state_dict(), tmp_path))
    assert "train.factorize=true" in message
    assert not list(model.decoder.stages[0].mixing.channel.parameters())
    # Nothing of the file is in the layers that pull.
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items() if ".bank." in n)


def test_a_lors_checkpoint_is_none_of_a_plain_model(tiny_model, tmp_path):
    path = save(tiny_model().state_dict(), tmp_path)
    message = one_line(tiny_model(None), path)
    assert "share weights" in message and "tools/merge.py" in message


def test_a_checkpoint_of_another_bank_is_refused(tiny_model, tmp_path):
    path = save(tiny_model().state_dict(), tmp_path)
    assert "bank.mixing.channel.weight.A.1" in one_line(tiny_model(build_tiny_bank(groups=(1, 1))), path)
    some = Bank({"output": LowRank(2, init="released")})
    message = one_line(tiny_model(some), path)
    assert "decoder.bank.mixing.channel" in message and "mixing.output" not in message


def test_a_download_that_fails_is_named(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    address = "http://localhost:1/weights.pth"
    with pytest.raises(OSError, match=f"{address} cannot be downloaded: .*refused"):
        Checkpointer(tiny_model()).load(address)


# Fine-tuning


def trained(model, folder, names=ABOUT["names"], name="weights.pth"):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    write(str(folder / name), {"model": model.state_dict(), "about": {"names": names, "ids": [1, 2, 3]}})
    return str(folder / name)


def start(path, model, names, **more):
    """The model's state before and after it has started from a file."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Checkpointer(model, about={"names": names, "ids": list(range(len(names)))}, **more).load(path)
    return before, model.state_dict()


@pytest.mark.parametrize("extension", ["pth", "safetensors"])
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    "names", [["three", "four", "one"], ["two"], ["four", "five", "six", "seven"]], ids=str
)
def test_rows_of_classes_with_the_same_name_are_kept(names, merged, extension, tiny_model, tmp_path, caplog):
    caplog.set_level("INFO")
    theirs = tiny_model()
    path = trained(merge(theirs) if merged else theirs, tmp_path, name=f"weights.{extension}")
    given = weights_of(read(path))
    before, after = start(path, tiny_model(None if merged else "lors", num_classes=len(names)), names)
    for name, tensor in after.items():
        if not name.endswith(("classify.3.weight", "classify.3.bias")):
            assert torch.equal(tensor, given[name]), name
        else:
            for i, one in enumerate(names):
                place = ABOUT["names"].index(one) if one in ABOUT["names"] else None
                assert torch.equal(tensor[i], before[name][i] if place is None else given[name][place])
    (line,) = [record.message for record in caplog.records if record.message.startswith("Classes")]
    kept, new = line.partition(" New")[::2]
    assert all((name in new) == (name not in ABOUT["names"]) for name in names)
    assert all((name in kept) == (name in ABOUT["names"]) for name in names)


def test_a_start_of_another_shape_is_refused_by_name(tiny_model, tmp_path):
    path, model = trained(tiny_model(), tmp_path), tiny_model(num_classes=2)
    model.decoder = build_tiny_decoder(num_classes=2, query_dim=32)
    with pytest.raises(UserError, match=r"decoder\.stages\.0\..+: file .+, model "):
        start(path, model, ["two", "four"])


def test_the_same_classes_in_the_same_order_are_loaded_whole(tiny_model, tmp_path, caplog):
    caplog.set_level("INFO")
    path = trained(tiny_model(), tmp_path)
    _, after = start(path, tiny_model(), ABOUT["names"])
    assert torch.equal(after[f"{HEAD}.weight"], weights_of(read(path))[f"{HEAD}.weight"])
    assert "Classes" not in caplog.text


def test_a_file_that_names_no_classes(tiny_model, tmp_path, caplog):
    caplog.set_level("INFO")
    path = save(tiny_model().state_dict(), tmp_path)
    given = weights_of(read(path))
    _, after = start(path, tiny_model(), ["a", "b", "c"])
    assert torch.equal(after[f"{HEAD}.weight"], given[f"{HEAD}.weight"])
    before, after = start(path, tiny_model(num_classes=2), ["a", "b"])
    assert torch.equal(after[f"{HEAD}.weight"], before[f"{HEAD}.weight"])
    assert "not named" in caplog.text and "New, not yet trained: a; b" in caplog.text


def test_other_classes_are_none_to_resume_from(tiny_model, tmp_path):
    Checkpointer(tiny_model(), str(tmp_path), about=ABOUT).save("model_0000001")
    other = {"names": ["one", "three", "two"], "ids": [1, 2, 3]}
    with pytest.raises(
        UserError, match="--resume: the checkpoint's classes are one; two; three, .*one; three; two"
    ):
        Checkpointer(tiny_model(), str(tmp_path), about=other).resume_or_load("")
    Checkpointer(tiny_model(), str(tmp_path), about=ABOUT).resume_or_load("")
    Checkpointer(tiny_model(), str(tmp_path)).save("model_0000002")  # which names no classes
    with pytest.raises(UserError, match="--resume: .* not named, .* a; b"):
        about = {"names": ["a", "b"], "ids": [1, 2]}
        Checkpointer(tiny_model(num_classes=2), str(tmp_path), about=about).resume_or_load("")


def test_a_plain_detector_starts_one_that_shares(tiny_model, tmp_path):
    model = tiny_model()
    path = trained(merge(model), tmp_path, ["three", "two", "one"])
    recipe = LowRank(2), ["channel", "output"]
    lors = tiny_model(Bank(*recipe))
    given = weights_of(read(path))
    _, after = start(path, lors, ["one", "four", "three"], factorizes=True)
    assert torch.equal(after[f"{HEAD}.weight"][[0, 2]], given[f"{HEAD}.weight"][[2, 0]])
    shared = merge(lors).state_dict()["decoder.stages.0.mixing.output.weight"]
    name = "decoder.stages.0.mixing.output.weight"
    assert (shared - given[name]).norm() < 0.9 * given[name].norm()
    with pytest.raises(UserError, match="train.factorize=true"):
        start(path, tiny_model(Bank(*recipe)), ["one"] * 3)


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "model.", "_orig_mod.", "module._orig_mod.", "ema_", "ema_model.module."),
        *("student.", "net.module."),
    ],
)
def test_names_that_wrappers_gave(prefix, tiny_model, tmp_path):
    model = tiny_model()
    path = save({prefix + name: tensor for name, tensor in model.state_dict().items()}, tmp_path)
    other = tiny_model()
    Checkpointer(other).load(path)
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in model.state_dict().items())


def test_a_prefix_of_names_that_stay_unknown_is_named():
    with pytest.raises(UserError, match="found net.a.b, net.c; all names begin with 'net.'"):
        convert({"net.a.b": torch.ones(1), "net.c": torch.ones(1)})


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "weights", "net"])
def test_where_programs_put_the_weights(key, tmp_path):
    torch.save({key: {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "weights.pth")
    assert list(weights_of(read(str(tmp_path / "weights.pth")))) == ["a"]


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_of_arrays_is_read(protocol, tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"a": array}}, protocol))
    np.testing.assert_array_equal(read(str(tmp_path / "a.pkl"))["model"]["a"], array)


def test_the_case_of_an_extension_does_not_matter(tmp_path):
    write(str(tmp_path / "a.safetensors"), {"model": {"a": torch.ones(2)}})
    assert list(read(str((tmp_path / "a.safetensors").rename(tmp_path / "A.SafeTensors")))) == ["a"]


@pytest.mark.parametrize("extension", ["pth", "pkl", "safetensors"])
@pytest.mark.parametrize("begins", ["<!DOCTYPE html><p>404", "version https://git-lfs"])
def test_a_file_that_is_none_is_shown(begins, extension, tmp_path):
    (tmp_path / f"a.{extension}").write_text(f"{begins}\n" * 9)
    with pytest.raises(UserError, match=f"a.{extension}: .*{begins}") as raised:
        read(str(tmp_path / f"a.{extension}"))
    assert "Error" not in str(raised.value)


def test_nothing_to_resume_is_said(tiny_model, tmp_path, caplog):
    caplog.set_level("INFO")
    Checkpointer(tiny_model(), str(tmp_path), about=ABOUT).resume_or_load("")
    assert f"no checkpoint in {tmp_path}" in caplog.text


def test_a_compiled_part_and_averages_beside_the_weights(tiny_model, tmp_path):
    model, other = tiny_model(), tiny_model()
    tensors = {n.replace("decoder.", "decoder._orig_mod."): t for n, t in model.state_dict().items()}
    averages = {f"ema_{n.replace('.', '_')}": t + 1.0 for n, t in model.state_dict().items()}
    Checkpointer(other).load(save({**tensors, **averages}, tmp_path))
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in model.state_dict().items())


def test_what_files_of_others_say_of_their_classes(tiny_model):
    names = tuple(f"c{i}" for i in range(3))
    weights = tiny_model().state_dict()
    assert about_of({"meta": {"CLASSES": names}}, "", weights)["names"] == list(names)
    assert about_of({"meta": {"dataset_meta": {"classes": names}}}, "", weights)["names"] == list(names)
    assert about_of({"meta": {"epoch": 1}}, "", weights) == {"number": 3}
    about = about_of({}, "LORS of its authors", tiny_model(num_classes=80).state_dict())
    assert about["names"][:2] == ["person", "bicycle"] and about["ids"][-1] == 90


def test_written_files_hold_no_more_than_their_tensors(tmp_path):
    part, other = torch.zeros(1000, 1000)[:1, :2], tmp_path / "other"
    other.touch()
    for extension in ("pth", "safetensors"):
        path = tmp_path / f"a.{extension}"
        write(str(path), {"model": {"a": part}, "about": ABOUT})
        assert path.stat().st_size < 10_000
        assert path.stat().st_mode == other.stat().st_mode
        assert read(str(path))["about"] == ABOUT


def test_weights_that_are_not_finite_are_named(tiny_model, tmp_path, caplog):
    weights = tiny_model().state_dict()
    weights[f"{HEAD}.bias"][0] = float("nan")
    Checkpointer(tiny_model()).load(save(weights, tmp_path))
    assert f"{HEAD}.bias" in caplog.text


def test_mixed_precision_may_begin_with_a_resumed_training(tiny_model, tmp_path):
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters())
    plain, mixed = (
        SimpleTrainer(model, [], optimizer),
        AMPTrainer(model, [], optimizer, precision=torch.bfloat16),
    )
    plain.iter = 5
    Checkpointer(model, str(tmp_path), about=ABOUT, trainer=plain).save("model_0000005", iteration=5)
    Checkpointer(model, str(tmp_path), about=ABOUT, trainer=mixed).resume_or_load("")
    assert mixed.iter == 5
