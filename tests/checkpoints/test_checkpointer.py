"""A checkpoint fits the model, or the tensor that does not is named."""

from __future__ import annotations

import pytest
import torch
from conftest import build_tiny_bank

from lors.checkpoints import Checkpointer
from lors.sharing import Bank, LowRank


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
        Checkpointer(tiny_model(), backbone_alone=True).load(path)
    assert gone[0] in str(raised.value) and f"{len(gone) - 4} more" in str(raised.value)


def test_a_backbone_alone_is_taken_only_where_that_is_asked(tiny_model, tmp_path):
    tensors = {n: t for n, t in tiny_model().state_dict().items() if n.startswith("backbone.")}
    path = save(tensors, tmp_path)
    with pytest.raises(ValueError, match="lacks tensors of the model: .*decoder"):
        Checkpointer(tiny_model()).load(path)
    model = tiny_model()
    rest = {n: t.clone() for n, t in model.state_dict().items() if n not in tensors}
    Checkpointer(model, backbone_alone=True).load(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name] if name in tensors else rest[name])


def test_a_file_with_nothing_of_the_model_is_refused(tiny_model, tmp_path):
    path = save({"encoder.weight": torch.ones(3)}, tmp_path)
    for allowed in (False, True):
        with pytest.raises(ValueError, match=r"weights.pth: no backbone: looked for .*found encoder.weight"):
            Checkpointer(tiny_model(), backbone_alone=allowed).load(path)


def one_line(model, path: str) -> str:
    with pytest.raises(ValueError) as raised:
        Checkpointer(model, backbone_alone=True).load(path)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_a_plain_checkpoint_is_none_of_lors(tiny_model, tmp_path):
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    message = one_line(model, save(tiny_model(None).state_dict(), tmp_path))
    assert "decoder.stages.0.mixing" in message and "factorize" in message
    assert not model.decoder.stages[0].mixing.channel._parameters
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
    assert "decoder.stages.0.mixing.channel" in one_line(tiny_model(some), path)


def test_a_download_that_fails_is_named(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    address = "http://localhost:1/weights.pth"
    with pytest.raises(OSError, match=f"{address} cannot be downloaded: .*refused"):
        Checkpointer(tiny_model()).load(address)
