"""merge.py, factorize.py and convert.py as a user runs them, on the small detector of the digits."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
from detectron2.config import LazyConfig, instantiate

import lors
from lors.checkpoints import Checkpointer, read, to_released, weights_of

ROOT = Path(__file__).parent.parent.parent
LORS, PLAIN = ("configs/digits/lors_digits.py", "configs/digits/adamixer_digits.py")

SOME = """
from detectron2.config import LazyCall, LazyConfig
from lors import Bank, LowRank

base = LazyConfig.load("{config}")
model, dataloader, train = base.model, base.dataloader, base.train
model.decoder.bank = LazyCall(Bank)(residual=LazyCall(LowRank)(rank=4), only=["ffn", "output"])
"""


def build(config: str) -> torch.nn.Module:
    return instantiate(LazyConfig.load(str(ROOT / config)).model).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A checkpoint of the LORS detector with random weights, none of them 0."""
    torch.manual_seed(1)
    model = build(LORS)
    for parameter in model.decoder.bank.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    path = tmp_path_factory.mktemp("trained") / "lors.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


def detect(config: str, weights: Path) -> torch.Tensor:
    model = build(config)
    Checkpointer(model).load(str(weights))
    with torch.no_grad():
        image = torch.arange(3 * 64 * 64).view(3, 64, 64) % 255
        return model([{"image": image.to(torch.uint8)}])[0]["instances"].scores


def test_merged_then_factorized_it_is_the_same_detector(run_tool, trained, tmp_path):
    expected = detect(LORS, trained)
    merged, again = tmp_path / "merged.safetensors", tmp_path / "again.pth"
    code, said = run_tool("merge", "--config-file", LORS, trained, merged)
    assert code == 0 and "parameters, merged from" in said
    torch.testing.assert_close(detect(PLAIN, merged), expected, rtol=1e-4, atol=1e-5)

    for config in (LORS, PLAIN):
        error, _ = run_tool("merge", "--config-file", config, merged, again)
        assert error.startswith("error: ") and "merged" in error and "bank" in error
    code, said = run_tool("factorize", "--config-file", LORS, merged, again)
    assert code == 0 and f"{again}: written" in said
    table = [line.split() for line in said.splitlines() if line.startswith("mixing.")]
    names = [f"mixing.{name}.weight" for name in ("channel", "spatial", "output")]
    assert [row[:2] for row in table] == [[name, str(stage)] for name in names for stage in range(4)]
    assert all(row[2] == "100.0" and float(row[3]) < 100 and float(row[4]) < 100 for row in table)
    torch.testing.assert_close(detect(LORS, again), expected, rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pth", "merged.safetensors"]


def test_overrides_reach_the_bank_that_is_factorized_into(run_tool, tmp_path):
    plain, out = tmp_path / "plain.pth", tmp_path / "lors.pth"
    torch.save({"model": build(PLAIN).state_dict()}, plain)
    rank = "model.decoder.bank.residual.output.rank=3"
    code, said = run_tool("factorize", "--config-file", LORS, plain, out, rank)
    assert code == 0
    state = read(str(out))["model"]
    assert state["decoder.bank.mixing.output.weight.A.0"].shape[1] == 3
    cfg = LazyConfig.apply_overrides(LazyConfig.load(str(ROOT / LORS)), [rank])
    Checkpointer(instantiate(cfg.model)).load(str(out))


def test_a_bank_of_some_weights_is_factorized_into(run_tool, tmp_path):
    (tmp_path / "some.py").write_text(SOME.format(config=ROOT / LORS))
    plain, out = tmp_path / "plain.pth", tmp_path / "lors.pth"
    torch.save({"model": build(PLAIN).state_dict()}, plain)
    assert run_tool("factorize", "--config-file", tmp_path / "some.py", plain, out)[0] == 0
    cfg = LazyConfig.load(str(tmp_path / "some.py"))
    Checkpointer(instantiate(cfg.model)).load(str(out))


def test_convert_says_whose_weights_they_are_and_gives_them_back(run_tool, trained, tmp_path, caplog):
    caplog.set_level("INFO")
    theirs, ours, back = (tmp_path / name for name in ("theirs.pth", "ours.safetensors", "back.pth"))
    # The digits' backbone has no name in the authors' program.
    weights = {n: t for n, t in weights_of(read(str(trained))).items() if not n.startswith("backbone.")}
    names = [f"digit {i}" for i in range(10)]
    torch.save({"state_dict": to_released(weights), "meta": {"CLASSES": names}}, theirs)
    assert run_tool("convert", theirs, ours)[0] == 0
    assert "LORS of its authors" in caplog.text and "not used: rpn_head.init_proposal_bboxes" in caplog.text
    converted = weights_of(read(str(ours)))
    assert set(converted) == set(weights) and all(torch.equal(t, weights[n]) for n, t in converted.items())
    assert read(str(ours))["about"]["names"] == names
    assert run_tool("convert", "--to", "released", ours, back)[0] == 0
    there, again = (read(str(path))["state_dict"] for path in (theirs, back))
    assert set(there) == set(again) and all(torch.equal(tensor, there[n]) for n, tensor in again.items())
    assert read(str(back))["meta"]["CLASSES"] == names

    one = torch.ones(1)
    torch.save({"conv1.weight": one, "layer1.0.conv1.weight": one, "fc.bias": one}, theirs)
    assert run_tool("convert", theirs, ours)[0] == 0
    assert "ResNet of torchvision or timm, 2 tensors; not used: fc.bias" in caplog.text


def test_convert_takes_the_moving_average(run_tool, trained, tmp_path):
    weights = read(str(trained))["model"]
    average = {name: w + 1 if w.is_floating_point() else w for name, w in weights.items()}
    torch.save({"model": weights, "ema": average}, tmp_path / "training.pth")
    assert run_tool("convert", tmp_path / "training.pth", tmp_path / "out.pth")[0] == 0
    converted = read(str(tmp_path / "out.pth"))["model"]
    assert all(torch.equal(w, average[name]) for name, w in converted.items())


class Code:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pkl", "empty.pth", "cut.pth", "text.pkl", "other.pth"])
def test_a_bad_file_is_one_line_and_nothing_is_written(name, run_tool, trained, tmp_path):
    path = tmp_path / name
    if name == "evil.pth":
        torch.save({"model": Code()}, path)
    elif name == "evil.pkl":
        path.write_bytes(pickle.dumps({"model": Code()}))
    elif name == "empty.pth":
        path.write_bytes(b"")
    elif name == "cut.pth":
        path.write_bytes(trained.read_bytes()[:5000])
    elif name == "text.pkl":
        path.write_text("no pickle")
    else:
        torch.save({"encoder.weight": torch.ones(1)}, path)
    for command in (
        ["convert", path, tmp_path / "out.pth"],
        ["merge", "--config-file", LORS, path, tmp_path / "out.pth"],
    ):
        error, said = run_tool(*command)
        assert "this ran" not in said
        assert str(error).startswith("error: ") and "\n" not in error and name in error
        if "evil" in name:
            assert "refused: it holds code, " in error and "print" in error
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_extensions_and_lors_twice_are_one_line(run_tool, trained, tmp_path):
    error, _ = run_tool("merge", "--config-file", LORS, trained, tmp_path / "out.zip")
    assert all(name in error for name in ("out.zip", ".pth", ".safetensors"))
    for tool, *config in (
        ("merge", "--config-file", LORS),
        ("factorize", "--config-file", LORS),
        ("convert",),
    ):
        error, _ = run_tool(tool, *config, trained, trained)
        assert error.startswith(f"error: {trained}: ") and ("CHECKPOINT" in error or "IN" in error)
    error, _ = run_tool("factorize", "--config-file", LORS, trained, tmp_path / "out.pth")
    assert error.startswith("error: ") and "\n" not in error and "tools/merge.py" in error
    error, _ = run_tool("factorize", "--config-file", PLAIN, trained, tmp_path / "out.pth")
    assert error.startswith(f"error: {PLAIN}: ") and "bank" in error
    assert not list(tmp_path.iterdir())


def test_the_merged_detector_has_the_plain_config_of_its_shape():
    with torch.device("meta"):
        merged = lors.merge(build("configs/lors_r50_1x.py"))
        plain = build("configs/adamixer_2x64_r50_1x.py")
    ours, theirs = ([(n, t.shape) for n, t in model.state_dict().items()] for model in (merged, plain))
    assert ours == theirs


def test_a_model_of_timm_becomes_a_backbone_to_start_from(run_tool, tmp_path, tiny_model):
    from lors.backbones.timm import Timm

    whole = timm.create_model("resnet10t")
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    code, _ = run_tool("convert", "--timm", "resnet10t", tmp_path / "whole.pth", tmp_path / "backbone.pth")
    assert code == 0
    error, _ = run_tool("convert", "--timm", "resnet10t", tmp_path / "whole.pth", tmp_path / "whole.pth")
    assert "is IN itself" in error
    model = tiny_model()
    model.backbone = Timm("resnet10t")
    before = model.state_dict()["queries.content"].clone()
    Checkpointer(model, about={"names": ["a"]}).load(str(tmp_path / "backbone.pth"))
    assert torch.equal(
        model.backbone.body.state_dict()["conv1.0.weight"], whole.state_dict()["conv1.0.weight"]
    )
    assert torch.equal(model.state_dict()["queries.content"], before)
