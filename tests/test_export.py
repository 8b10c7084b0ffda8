"""Programs made of a detector give what the detector gives."""

import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_tiny_decoder
from detectron2.config import LazyConfig, instantiate
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.torch_version import TorchVersion

import lors
from lors.adamixer import AdaMixer, Neck
from lors.backbones import Swin
from lors.export import ANY_SIZE_TORCH, ONNX_TORCH, export

ROOT = Path(__file__).parent.parent
# The third is of whole strides.
SIZES = [(50, 70), (121, 45), (96, 64)]


@pytest.fixture(scope="module")
def model(tiny_model):
    torch.manual_seed(0)
    model = tiny_model(max_detections=12, fixed_statistics=False)
    # As if trained: nothing is 0 any more.
    for parameter in model.decoder.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Exports once: extension and image size -> the file."""
    folder, files = tmp_path_factory.mktemp("exported"), {}

    def get(extension, image_size):
        if extension == ".onnx":
            need_onnx()
        if image_size is None:
            need_torch(ANY_SIZE_TORCH)
        if (extension, image_size) not in files:
            file = files[extension, image_size] = folder / f"{len(files)}{extension}"
            # A model just built is in training mode.
            export(model.train(), file, image_size)
            assert model.training and model.backbone.training
            model.eval()
        return files[extension, image_size]

    return get


def need_torch(oldest):
    if TorchVersion(torch.__version__) < oldest:
        pytest.skip(f"needs torch {oldest}; that an older one is refused is tested")


def need_onnx():
    need_torch(ONNX_TORCH)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[export]'")


def load(file):
    """A function of an image (1, 3, H, W)."""
    if file.suffix == ".pt2":
        return torch.export.load(file).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda image: [torch.from_numpy(x) for x in session.run(None, {"image": image.numpy()})]


def photograph(size):
    """Random, but like an image: low frequencies, 0 to 255, and the channels differ."""
    coarse = torch.rand(1, 3, 6, 8) * torch.tensor([255.0, 180, 90]).view(-1, 1, 1)
    return nn.functional.interpolate(coarse, size=size, mode="bilinear")


def assert_same_detections(program, model, size):
    image = photograph(size)
    with torch.no_grad():
        wanted = model([{"image": image[0]}])[0]["instances"]
    boxes, scores, classes = program(image)
    assert boxes.shape == (12, 4) and boxes.dtype == scores.dtype == torch.float32
    assert classes.shape == scores.shape == (12,) and classes.dtype == torch.int64
    assert not boxes.requires_grad and (scores[:-1] >= scores[1:]).all()
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    assert len(wanted) == kept.sum() > 6
    # Pairs with nearly the same score may change places.
    scale = torch.tensor([size[1], size[0]] * 2)
    difference = torch.maximum(
        ((boxes[kept][:, None] - wanted.pred_boxes.tensor) / scale).abs().amax(dim=-1),
        (scores[kept][:, None] - wanted.scores).abs(),
    )
    difference[classes[kept][:, None] != wanted.pred_classes] = 1
    assert difference[linear_sum_assignment(difference)].max() < 1e-4


@pytest.mark.parametrize("extension", [".onnx", ".pt2"])
@pytest.mark.parametrize("size", SIZES[:1], ids=str)
def test_a_program_of_one_size_gives_the_models_detections(extension, size, exported, model):
    assert_same_detections(load(exported(extension, size)), model, size)


@pytest.mark.parametrize("extension", [".onnx", ".pt2"])
def test_one_dynamic_program_does_so_at_every_size(extension, exported, model):
    program = load(exported(extension, None))
    for size in SIZES:
        assert_same_detections(program, model, size)


def test_the_graph_is_plain_and_named(exported):
    import onnx

    graph = onnx.load(exported(".onnx", SIZES[0]))
    onnx.checker.check_model(graph)
    operators = {node.op_type for node in graph.graph.node}
    assert not operators & {"Loop", "Scan", "If", "SequenceEmpty"}
    assert {node.domain for node in graph.graph.node} == {""}
    assert [opset.version >= 17 for opset in graph.opset_import if opset.domain == ""] == [True]
    assert [value.name for value in graph.graph.input] == ["image"]
    assert [value.name for value in graph.graph.output] == ["boxes", "scores", "classes"]


def test_the_exported_model_is_merged_and_the_model_stays_as_it_was(model, exported):
    state = torch.export.load(exported(".pt2", SIZES[0])).state_dict
    names = {name for name in lors.merge(model).state_dict() if "num_batches_tracked" not in name}
    assert {name.removeprefix("model.") for name in state} >= names
    assert not any(part in name for name in state for part in (".A.", ".B.", ".E.", "shared"))
    assert not list(model.decoder.stages[0].mixing.channel.parameters()) and model.decoder.bank is not None
    assert all(parameter.requires_grad for parameter in model.decoder.parameters())


@pytest.mark.parametrize("name", ["program.tflite", "program"])
def test_an_unknown_extension_names_the_known_ones(name, model, tmp_path):
    with pytest.raises(ValueError, match=rf"{name}: .*\.onnx, \.pt2"):
        export(model, tmp_path / name, SIZES[0])


@pytest.mark.parametrize(
    "name, size, oldest", [("program.onnx", SIZES[0], ONNX_TORCH), ("program.pt2", None, ANY_SIZE_TORCH)]
)
def test_a_torch_that_is_too_old_is_refused(name, size, oldest, model, tmp_path, monkeypatch):
    if name.endswith(".onnx"):
        pytest.importorskip("onnxscript", reason="pip install -e '.[export]'")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(ValueError, match=re.escape(oldest) + r"\b.*2\.9\.1"):
        export(model, tmp_path / name, size)
    assert not list(tmp_path.iterdir())


def test_packages_that_are_missing_are_named(model, tmp_path, monkeypatch):
    # What Python keeps of a package that cannot be imported.
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"onnxscript.*pip install -e '\.\[export\]'"):
        export(model, tmp_path / "program.onnx", SIZES[0])


def test_what_fails_leaves_the_file_as_it_was(model, tmp_path):
    file = tmp_path / "program.pt2"
    file.write_text("the last one")
    with pytest.raises(ValueError, match="0 x 70"):
        export(model, file, (0, 70))
    assert [path.name for path in tmp_path.iterdir()] == ["program.pt2"]
    assert file.read_text() == "the last one"


def test_swin_needs_a_fixed_size(model, tmp_path):
    backbone = Swin(8, [1, 1, 1, 1], [1, 1, 1, 1])
    swin = AdaMixer(
        backbone=backbone,
        in_features=list(backbone.output_shape()),
        neck=Neck([8, 16, 32, 64], 8, num_groups=2),
        queries=model.queries,
        decoder=build_tiny_decoder(),
        criterion=model.criterion,
        pixel_mean=[120.0] * 3,
        pixel_std=[58.0] * 3,
    )
    with pytest.raises(ValueError, match="Swin"):
        export(swin, tmp_path / "program.pt2", None)
    assert not list(tmp_path.iterdir())


CONFIG = ["--config-file", str(ROOT / "configs/digits/adamixer_digits.py")]
SMALL = ["model.decoder.num_stages=1", "model.queries.num_queries=5", "model.max_detections=12"]
SMALL += ["train.device=cpu"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    cfg = LazyConfig.apply_overrides(LazyConfig.load(CONFIG[1]), list(SMALL))
    model = instantiate(cfg.model).eval()
    nn.init.normal_(model.decoder.stages[-1].regress[3].weight, std=0.05)
    file = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, file)
    return model, str(file)


@pytest.fixture(scope="module")
def command(load_tool):
    return load_tool("export").main


@pytest.mark.parametrize("sides", [["--height=60", "--width=90"], ["--dynamic"]], ids=" ".join)
def test_the_command(sides, weights, run_tool, tmp_path):
    if "--dynamic" in sides:
        need_torch(ANY_SIZE_TORCH)
    model, file = weights
    output = tmp_path / "made" / "digits.pt2"
    code, said = run_tool("export", *CONFIG, "--weights", file, output, *sides, *SMALL)
    assert code == 0 and str(output) in said and "RGB" in said
    assert_same_detections(load(output), model, (60, 90))


@pytest.mark.parametrize(
    "args, wanted",
    [
        (["program.engine", "--dynamic"], ["program.engine", ".onnx, .pt2"]),
        (["program.pt2", "--height=-3", "--width=9"], ["-3 x 9"]),
        (["program.pt2", "--height=9", "--width=0"], ["9 x 0"]),
        (["program.pt2", "--height=9"], ["--width", "--dynamic"]),
        (["program.pt2", "model.queries.num_querys=3"], ["model.queries.num_queries"]),
        (["program.pt2", "--weights=nowhere.pth"], ["nowhere.pth"]),
    ],
    ids=lambda value: value[-1],
)
def test_what_is_wrong_is_said_in_one_line(args, wanted, weights, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Python prints a text that a program exits with on stderr, and exits with 1.
    with pytest.raises(SystemExit) as stopped:
        command([*CONFIG, "--weights", weights[1], *args, *SMALL])
    message = stopped.value.code
    assert message.startswith("error: ") and "\n" not in message
    assert all(text in message for text in wanted)
    assert not list(tmp_path.iterdir())


def test_one_size_or_all_of_them(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        command([*CONFIG, "--weights", "x.pth", "program.pt2", "--dynamic", "--height=64"])
    assert stopped.value.code == 2 and "error: --dynamic" in capsys.readouterr().err
