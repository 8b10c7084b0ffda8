"""Pretrained backbones: the names that other programs give to the tensors of ResNet and Swin."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from lors.checkpoints.rules import Rule, to_ours
from lors.errors import UserError

RESNET = (
    Rule("backbone.conv1.weight", ["backbone.stem.conv1.weight"]),
    Rule("backbone.bn1.{rest}", ["backbone.stem.conv1.norm.{rest}"]),
    *(
        Rule(f"backbone.layer{k}.{{i}}.{theirs}", [f"backbone.res{k + 1}.{{i}}.{ours}"])
        for k in (1, 2, 3, 4)
        for theirs, ours in (
            ("conv{j}.weight", "conv{j}.weight"),
            ("bn{j}.{rest}", "conv{j}.norm.{rest}"),
            ("downsample.0.weight", "shortcut.weight"),
            ("downsample.1.{rest}", "shortcut.norm.{rest}"),
        )
    ),
)


def _square(tensor: Tensor) -> Tensor:
    return tensor.unflatten(0, (math.isqrt(len(tensor)), -1))


def _from_unfold(tensor: Tensor) -> tuple[Tensor]:
    """mmdetection's patch merging takes (channel, y, x), all others (x, y, channel)."""
    return (tensor.unflatten(-1, (-1, 2, 2)).movedim(-3, -1).transpose(-2, -3).flatten(-3).contiguous(),)


def _to_unfold(tensor: Tensor) -> Tensor:
    return tensor.unflatten(-1, (2, 2, -1)).transpose(-2, -3).movedim(-1, -3).flatten(-3).contiguous()


def _swin(
    patch: str, stages: str, attention: str, mlp: tuple[str, str], merging: str, unfold: bool = False
) -> tuple[Rule, ...]:
    """`merging` is where patches are merged before stage {after}, that is behind stage {before}."""
    relay = dict(split=_from_unfold, join=_to_unfold) if unfold else {}
    rules = [
        Rule(f"backbone.patch_embed.{patch}.{{leaf}}", ["backbone.features.0.0.{leaf}"]),
        Rule("backbone.patch_embed.norm.{leaf}", ["backbone.features.0.2.{leaf}"]),
        Rule("backbone.norm{i}.{leaf}", ["backbone.norms.{i}.{leaf}"]),
    ]
    for s in range(4):
        theirs, ours = f"backbone.{stages}.{s}.blocks.{{i}}.", f"backbone.features.{2 * s + 1}.{{i}}."
        rules += [
            Rule(f"{theirs}norm{{j}}.{{leaf}}", [f"{ours}norm{{j}}.{{leaf}}"]),
            Rule(
                f"{theirs}{attention}.relative_position_index",
                [f"{ours}attn.relative_position_index"],
                lambda tensor: (tensor.flatten(),),
                _square,
            ),
            Rule(f"{theirs}{attention}.{{rest}}", [f"{ours}attn.{{rest}}"]),
            Rule(f"{theirs}{mlp[0]}.{{leaf}}", [f"{ours}mlp.0.{{leaf}}"]),
            Rule(f"{theirs}{mlp[1]}.{{leaf}}", [f"{ours}mlp.3.{{leaf}}"]),
        ]
    for s in range(3):
        theirs = f"backbone.{stages}.{merging.format(before=s, after=s + 1)}.downsample"
        ours = f"backbone.features.{2 * s + 2}"
        rules += [
            Rule(f"{theirs}.reduction.weight", [f"{ours}.reduction.weight"], **relay),
            Rule(f"{theirs}.norm.{{leaf}}", [f"{ours}.norm.{{leaf}}"], **relay),
        ]
    return tuple(rules)


SWIN_MMDETECTION = _swin(
    "projection", "stages", "attn.w_msa", ("ffn.layers.0.0", "ffn.layers.1"), "{before}", unfold=True
)
_SWIN_ORIGINAL = _swin("proj", "layers", "attn", ("mlp.fc1", "mlp.fc2"), "{before}")
_SWIN_TIMM = _swin("proj", "layers", "attn", ("mlp.fc1", "mlp.fc2"), "{after}")
_OURS = (Rule("backbone.{rest}", ["backbone.{rest}"]),)

# A tensor that only this kind has, and its rules; the first that fits is taken.
KINDS = {
    "ResNet of torchvision or timm": ("layer1.0.conv1.weight", RESNET),
    "ResNet of Detectron2": ("stem.conv1.weight", _OURS),
    "Swin of torchvision": ("features.0.0.weight", _OURS),
    "Swin of its authors": ("layers.0.downsample.reduction.weight", _SWIN_ORIGINAL),
    "Swin of timm": ("layers.3.downsample.reduction.weight", _SWIN_TIMM),
    "Swin of mmdetection": ("patch_embed.projection.weight", SWIN_MMDETECTION),
}

# What classifies images, and what only depends on the size of a window.
_UNUSED = re.compile(r"(stem\.)?fc\..+|head\..+|norm\.(weight|bias)|.+\.attn_mask")


def from_backbone(state_dict: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], list[str]]:
    """An ImageNet backbone's state dict -> its kind, the weights for `lors.AdaMixer`, the names not used.

    Its names may begin with "backbone.", as in mmdetection; what then does not, such as a head, is not used.

    Raises:
        UserError: a backbone of no known kind, or a tensor that has no place.
    """
    prefix = "backbone." if any(name.startswith("backbone.") for name in state_dict) else ""
    own = {name[len(prefix) :]: tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    found = next(((kind, rules) for kind, (sign, rules) in KINDS.items() if sign in own), None)
    if found is None:
        signs = ", ".join(sign for sign, _ in KINDS.values())
        names = ", ".join(list(state_dict)[:3])
        raise UserError(
            f"no backbone: looked for {signs}, decoder.* and roi_head.* (tools/convert.py --timm NAME FILE "
            f"OUT brings timm's others); found {names}"
        )
    kind, rules = found
    used = {f"backbone.{name}": tensor for name, tensor in own.items() if not _UNUSED.fullmatch(name)}
    converted, unknown = to_ours(used, rules)
    if unknown:
        raise UserError(f"{kind}: no place for {', '.join(name[9:] for name in unknown[:5])}")
    return kind, converted, [name for name in state_dict if f"backbone.{name[len(prefix) :]}" not in used]
