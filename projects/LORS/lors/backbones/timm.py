"""Any model of timm that gives feature maps, as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.modeling import Backbone
from torch import Tensor

from lors.errors import UserError

try:
    import timm
    from timm.layers import Format
except ModuleNotFoundError as error:
    raise UserError("this backbone needs timm: pip install -e '.[timm]'") from error


class Timm(Backbone):
    """A timm model without its head; with random weights: `lors.checkpoints.timm` has the others.

    Args:
        name: of a model that takes `features_only`, see `timm.list_models`.
        strides: of the outputs, which are the last of each of these strides.
        out_features: names for them.
        frozen: keep its weights as they are, and have no backward pass through it.
        options: for the model, such as drop_path_rate, or img_size where it has a fixed one.

    Raises:
        UserError: no such model, or it has no output of a stride.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] = (4, 8, 16, 32),
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        frozen: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        places = _places(name, strides, **options)
        self.body = timm.create_model(name, features_only=True, out_indices=places, **options)
        self.body.requires_grad_(not frozen)
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(out_features, self.body.feature_info.channels()))
        self._out_feature_strides = dict(zip(out_features, strides))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> for each output (B, channels, H / stride, W / stride)."""
        maps = self.body(x)
        if getattr(self.body, "output_fmt", Format.NCHW) == Format.NHWC:
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        return dict(zip(self._out_features, maps))


def _places(name: str, strides: Sequence[int], **options: Any) -> tuple[int, ...]:
    try:
        found = timm.create_model(name, features_only=True, **options).feature_info
    except RuntimeError as error:
        raise UserError(f"timm has no model {name!r} with feature maps: {error}") from error
    last = dict(zip(found.reduction(), found.out_indices))
    if missing := [stride for stride in strides if stride not in last]:
        raise UserError(f"{name} has no output of stride {missing[0]}, only of {', '.join(map(str, last))}")
    return tuple(last[stride] for stride in strides)
