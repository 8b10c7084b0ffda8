"""Detectron2's checkpointer, which here refuses what does not fit instead of warning."""

from __future__ import annotations

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn


class Checkpointer(DetectionCheckpointer):
    """Loads a whole detector or, where `backbone_alone` allows it, a file with nothing but the backbone.

    Raises, when loading:
        ValueError: tensors of other shapes than the model's, or tensors that the file lacks.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        backbone_alone: bool = False,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.backbone_alone = backbone_alone

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        if incompatible.incorrect_shapes:
            shown = [f"{n}: file {f}, model {m}" for n, f, m in incompatible.incorrect_shapes]
            raise ValueError(f"the checkpoint does not fit the model: {_first(shown)}")
        missing = set(incompatible.missing_keys)
        rest = {name for name in self.model.state_dict() if not name.startswith("backbone.")}
        if missing and not (self.backbone_alone and missing == rest):
            raise ValueError(f"the checkpoint lacks tensors of the model: {_first(sorted(missing))}")
        return incompatible


def _first(items: list[str], number: int = 4) -> str:
    more = f" and {len(items) - number} more" if len(items) > number else ""
    return "; ".join(items[:number]) + more
