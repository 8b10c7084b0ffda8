"""The authors' programs, AdaMixer and LORS on mmdetection, name and lay out the same tensors differently."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_STAGE = "roi_head.bbox_head.{i}"
_PLAIN = f"{_STAGE}.sampling_n_mixing.adaptive_mixing"
_LORS = "roi_head.adaptive_mixing"
_BANK = "decoder.bank"
_FIRST_BOXES = "rpn_head.init_proposal_bboxes.weight"

# (released, ours) of the tensors that only change their name; one that ends in "." is a prefix.
_NAMES = (
    ("backbone.conv1.", "backbone.stem.conv1."),
    ("backbone.bn1.", "backbone.stem.conv1.norm."),
    *(
        (f"backbone.layer{k}.{{i}}.{released}", f"backbone.res{k + 1}.{{i}}.{ours}")
        for k in (1, 2, 3, 4)
        for released, ours in (
            ("conv{j}.", "conv{j}."),
            ("bn{j}.", "conv{j}.norm."),
            ("downsample.0.", "shortcut."),
            ("downsample.1.", "shortcut.norm."),
        )
    ),
    ("neck.lateral_convs.{i}.conv.", "neck.lateral.{i}."),
    ("neck.gn_out.", "neck.norm."),
    ("rpn_head.init_content_features.weight", "queries.content"),
    *(
        (f"{_STAGE}.{released}", f"decoder.stages.{{i}}.{ours}")
        for released, ours in (
            ("iof_tau", "iof_tau"),
            ("attention.attn.", "attention."),
            ("attention_norm.", "attention_norm."),
            ("ffn.layers.0.0.", "ffn.0."),
            ("ffn.layers.1.", "ffn.2."),
            ("ffn_norm.", "ffn_norm."),
            ("cls_fcs.{j}.", "classify.{j}."),
            ("fc_cls.", "classify.3."),
            ("reg_fcs.{j}.", "regress.{j}."),
            ("fc_reg.", "regress.3."),
            ("sampling_n_mixing.sampling_offset_generator.0.", "offsets."),
            ("sampling.sampling_offset_generator.0.", "offsets."),
            ("sampling_n_mixing.norm.", "mixing_norm."),
        )
    ),
    (f"{_PLAIN}.out_proj.weight", f"{_BANK}.output.weight.{{i}}"),
    (f"{_PLAIN}.out_proj.bias", f"{_BANK}.output.bias.{{i}}"),
    (f"{_LORS}.out_norm.{{i}}.", "decoder.stages.{i}.mixing_norm."),
    (f"{_LORS}.base_out_proj.weight", f"{_BANK}.output.shared_weight"),
    (f"{_LORS}.out_weight_bias.{{i}}", f"{_BANK}.output.bias.{{i}}"),
)


class _Layout:
    """g, C, P_in, P_out, which no key states but the shapes imply, and the tensors that depend on them.

    The authors keep M_c and M_s in one tensor and M_s as P_out x P_in; ours keeps them apart and M_s, as the
    paper writes it, as P_in x P_out. So the factors of M_s change places: S = B E A becomes A^T E^T B^T.
    """

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        def shape(ending: str) -> torch.Size:
            for name, tensor in state_dict.items():
                if name.endswith(ending):
                    return tensor.shape
            raise ValueError(f"not a state dict of the authors' AdaMixer or LORS: no key ends in {ending}")

        features = shape("neck.gn_out.weight")[0]
        samples = shape("sampling_offset_generator.0.bias")[0] // 3
        lors = any(name.startswith(_LORS) for name in state_dict)
        self.points_out = shape("base_out_proj.weight" if lors else "mixing.out_proj.weight")[1] // features
        generated = shape("common_parameter_generator.bias" if lors else ".parameter_generator.0.bias")[0]
        # generated = g (C^2 + P_in P_out), samples = g P_in and C = features / g
        self.groups = features**2 // (generated - samples * self.points_out)
        self.channels, self.points_in = features // self.groups, samples // self.groups
        self.rank = shape("ml_parameters.0")[-1] if lors else 0
        self.rules = (
            (f"{_PLAIN}.parameter_generator.0.{{leaf}}", "{part}.{leaf}.{i}", self.generator),
            (
                f"{_LORS}.common_parameter_generator.{{leaf}}",
                "{part}.shared.{leaf}",
                self.generator,
            ),
            (
                f"{_LORS}.private_parameter_generator.{{i}}.{{leaf}}",
                "{part}.E.{i}.{leaf}",
                self.private,
            ),
            (f"{_LORS}.ml_parameters.{{i}}", "channel.B.{i}", self.factor),
            (f"{_LORS}.mr_parameters.{{i}}", "channel.A.{i}", self.factor),
            (f"{_LORS}.sl_parameters.{{i}}", "spatial.A.{i}", self.swapped_factor),
            (f"{_LORS}.sr_parameters.{{i}}", "spatial.B.{i}", self.swapped_factor),
            (f"{_LORS}.out_weight_add_A.{{i}}", "output.A.{i}", self.one_group),
            (f"{_LORS}.out_weight_add_B.{{i}}", "output.B.{i}", self.one_group),
        )

    def generator(self, tensor: Tensor) -> dict[str, Tensor]:
        channel, spatial = tensor.unflatten(0, (self.groups, -1)).split(
            [self.channels**2, self.points_out * self.points_in], dim=1
        )
        spatial = spatial.unflatten(1, (self.points_out, self.points_in)).transpose(1, 2).flatten(1, 2)
        return {"channel": channel.flatten(0, 1), "spatial": spatial.flatten(0, 1)}

    def private(self, tensor: Tensor) -> dict[str, Tensor]:
        channel, spatial = tensor.unflatten(0, (2, -1, self.rank, self.rank))
        return {"channel": channel.flatten(0, 2), "spatial": spatial.transpose(1, 2).flatten(0, 2)}

    def factor(self, tensor: Tensor) -> dict[str, Tensor]:
        return {"": tensor.unflatten(0, (self.groups, -1))}

    def swapped_factor(self, tensor: Tensor) -> dict[str, Tensor]:
        return {"": tensor.unflatten(0, (self.groups, -1)).transpose(2, 3).contiguous()}

    def one_group(self, tensor: Tensor) -> dict[str, Tensor]:
        return {"": tensor[None]}


def from_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the authors' AdaMixer or LORS (ResNet) -> the same weights for `lors.AdaMixer`.

    The queries' first boxes are left out: they are always the whole image and here no parameter.

    Raises:
        ValueError: a key is neither program's, or the first boxes are not the whole image.
    """
    layout = _Layout(state_dict)
    renamed = [(_pattern(released), ours) for released, ours in _NAMES]
    relaid = [(_pattern(released), f"{_BANK}.{ours}", lay) for released, ours, lay in layout.rules]
    converted, unknown = {}, []
    for name, tensor in state_dict.items():
        matches = [
            (ours.format(**found.groupdict()) + found["rest"], tensor)
            for pattern, ours in renamed
            if (found := pattern.fullmatch(name))
        ] or [
            (ours.format(part=part, **found.groupdict()), laid)
            for pattern, ours, lay in relaid
            if (found := pattern.fullmatch(name))
            for part, laid in lay(tensor).items()
        ]
        converted.update(matches)
        if not matches and name != _FIRST_BOXES:
            unknown.append(name)
    if unknown:
        raise ValueError(f"not keys of the authors' AdaMixer or LORS: {', '.join(unknown[:5])}")
    boxes = state_dict.get(_FIRST_BOXES)
    if boxes is not None and not torch.equal(boxes, boxes.new_tensor((0.5, 0.5, 1, 1)).expand_as(boxes)):
        raise ValueError(
            f"{_FIRST_BOXES}: not the whole image, which is all that lors.Queries can start from"
        )
    return converted


def _pattern(template: str) -> re.Pattern:
    pattern = re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
    pattern = pattern.replace(r"\{leaf\}", r"(?P<leaf>weight|bias)")
    return re.compile(pattern + f"(?P<rest>{'.+' if template.endswith('.') else ''})")
