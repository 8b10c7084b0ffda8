"""A detector as one program, tensors in and tensors out, that runs without this package."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.torch_version import TorchVersion

from lors.adamixer.detector import AdaMixer, best_pairs
from lors.backbones import Swin
from lors.errors import UserError
from lors.sharing import merge
from lors.training.files import replacing

OPSET = 18
# The oldest torch that each was tried with and that can.
ONNX_TORCH, ANY_SIZE_TORCH = "2.10", "2.14"
OUTPUTS = ("boxes", "scores", "classes")


def export(model: AdaMixer, path: str | os.PathLike, image_size: tuple[int, int] | None) -> None:
    """Writes the merged detector as a program for one image, in the format that the extension names.

    image (1, 3, H, W), float32 from 0 to 255, channels in the order of `model.pixel_mean` -> boxes xyxy in
    pixels (N, 4), scores (N,) and classes (N,), best first, N as in `best_pairs`. The image is resized as
    in evaluation; the program normalises and pads it. It gives the detections of `model`, except that boxes
    of no area, which can only lie outside the image, are not left out.

    Args:
        model: stays as it is; the program is for its device.
        path: `.onnx` for ONNX, `.pt2` for torch.export.
        image_size: H and W; None for a program that takes any that are more than the largest stride.

    Raises:
        UserError: another extension, no size, no fixed size for a backbone that needs one, or a torch
            that is too old: ONNX takes 2.10, any size 2.14; ONNX without the packages for it.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise UserError(f"{path}: the extension must be one of {', '.join(WRITERS)}")
    if path.suffix == ".onnx":
        _need("onnx", "onnxscript")
        _need_torch(ONNX_TORCH, "ONNX")
    with replacing(path) as unfinished:
        WRITERS[path.suffix](trace(model, image_size), unfinished)


def trace(model: AdaMixer, image_size: tuple[int, int] | None) -> ExportedProgram:
    """The merged detector in torch.export's form, as `export` describes it."""
    stride = max(model.decoder.strides)
    if image_size is None:
        if isinstance(model.backbone, Swin):
            raise UserError("the windows of a Swin backbone depend on the image: give a height and a width")
        _need_torch(ANY_SIZE_TORCH, "a program for images of any size")
        # Beyond one position on the coarsest level, no operation depends on the size.
        sides = {2: Dim("height", min=stride + 1), 3: Dim("width", min=stride + 1)}
        image_size, dynamic = (2 * stride, 3 * stride), {"image": sides}
    else:
        dynamic = None
    if min(image_size) < 1:
        raise UserError(f"image size {image_size[0]} x {image_size[1]}: height and width must be at least 1")
    image = torch.zeros(1, 3, *image_size, device=model.device)
    program = Program(merge(model)).eval().requires_grad_(False)
    # Without gradients, sampling is plain operations.
    with torch.no_grad():
        return torch.export.export(program, (image,), dynamic_shapes=dynamic)


class Program(nn.Module):
    """A detector for one image whose input and output are tensors."""

    def __init__(self, model: AdaMixer) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model = self.model
        height, width = image.shape[-2:]
        stride = max(model.decoder.strides)
        image = (image - model.pixel_mean) / model.pixel_std
        image = F.pad(image, (0, -width % stride, 0, -height % stride))
        predictions = model.predict(image, [(height, width)])
        (boxes,), (scores,), (classes,) = best_pairs(*predictions[-1], model.max_detections)
        limits = torch.tensor((width, height, width, height), dtype=boxes.dtype, device=boxes.device)
        return boxes.clamp(min=0).minimum(limits), scores, classes


def _write_onnx(program: ExportedProgram, path: Path) -> None:
    program = program.run_decompositions({torch.ops.aten.embedding_bag.padding_idx: _equal_bags})
    onnx = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=list(OUTPUTS),
        verbose=False,
    )
    # One file, whatever its size; save() may put weights beside it.
    path.write_bytes(onnx.model_proto.SerializeToString())


def _equal_bags(
    table: Tensor,
    row: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    weight: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    """aten.embedding_bag for bags of one size; ONNX's own form of it is a loop over single bags."""
    bags = len(offsets)
    rows = table.index_select(0, row).unflatten(0, (bags, -1))
    total = weight.view(bags, 1, -1) @ rows
    # The other three results serve the backward pass.
    return total.squeeze(1), offsets, offsets, offsets


WRITERS = {".onnx": _write_onnx, ".pt2": torch.export.save}


def _need_torch(oldest: str, what: str) -> None:
    if TorchVersion(torch.__version__) < oldest:
        raise UserError(f"{what} needs torch {oldest} or later; this is {torch.__version__}")


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {' and '.join(missing)}: pip install -e '.[export]'")
