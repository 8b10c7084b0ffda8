"""The authors' programs, AdaMixer and LORS on mmdetection, name and lay out the same tensors differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lors.checkpoints.backbones import RESNET, SWIN_MMDETECTION
from lors.checkpoints.rules import Rule, to_ours, to_theirs
from lors.errors import UserError

_STAGE = "roi_head.bbox_head.{i}"
_PLAIN = f"{_STAGE}.sampling_n_mixing.adaptive_mixing"
_LORS = "roi_head.adaptive_mixing"
_MIXING = "decoder.stages.{i}.mixing"
_BANK = "decoder.bank.mixing"
_FIRST_BOXES = "rpn_head.init_proposal_bboxes.weight"
_WHOLE_IMAGE = (0.5, 0.5, 1.0, 1.0)

_COMMON = (
    *RESNET,
    *SWIN_MMDETECTION,
    Rule("neck.lateral_convs.{i}.conv.{leaf}", ["neck.lateral.{i}.{leaf}"]),
    Rule("neck.gn_out.{leaf}", ["neck.norm.{leaf}"]),
    Rule("rpn_head.init_content_features.weight", ["queries.content"]),
    *(
        Rule(f"{_STAGE}.{theirs}", [f"decoder.stages.{{i}}.{ours}"])
        for theirs, ours in (
            ("iof_tau", "iof_tau"),
            ("attention.attn.{rest}", "attention.{rest}"),
            ("attention_norm.{leaf}", "attention_norm.{leaf}"),
            ("ffn.layers.0.0.{leaf}", "ffn.0.{leaf}"),
            ("ffn.layers.1.{leaf}", "ffn.2.{leaf}"),
            ("ffn_norm.{leaf}", "ffn_norm.{leaf}"),
            ("fc_cls.{leaf}", "classify.3.{leaf}"),
            ("cls_fcs.{j}.{leaf}", "classify.{j}.{leaf}"),
            ("fc_reg.{leaf}", "regress.3.{leaf}"),
            ("reg_fcs.{j}.{leaf}", "regress.{j}.{leaf}"),
        )
    ),
)


class _Sizes(NamedTuple):
    """What no key states but the shapes imply. `lors` tells the two programs apart."""

    lors: bool
    groups: int
    channels: int
    points_in: int
    points_out: int
    rank: int


def from_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the authors' AdaMixer or LORS -> the same weights for `lors.AdaMixer`.

    The backbone is ResNet-50, ResNet-101 or Swin. The queries' first boxes are left out: they are always the
    whole image and here no parameter.

    Raises:
        UserError: a key is neither program's, or the first boxes are not the whole image.
    """
    rest = dict(state_dict)
    boxes = rest.pop(_FIRST_BOXES, None)
    if boxes is not None and not torch.equal(boxes, boxes.new_tensor(_WHOLE_IMAGE).expand_as(boxes)):
        raise UserError(f"{_FIRST_BOXES}: not the whole image, which is all that lors.Queries can start from")
    converted, unknown = to_ours(rest, _rules(_their_sizes(rest)))
    if unknown:
        raise UserError(f"not keys of the authors' AdaMixer or LORS: {', '.join(unknown[:5])}")
    return converted


def to_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_released`: a state dict of `lors.AdaMixer` for the authors' AdaMixer or LORS.

    Raises:
        UserError: a tensor has no place there, as in a bank that is LORS in part.
    """
    converted, unknown = to_theirs(state_dict, _rules(_our_sizes(state_dict)))
    if unknown:
        raise UserError(f"the authors' programs have no place for {', '.join(unknown[:5])}")
    content = state_dict["queries.content"]
    return {**converted, _FIRST_BOXES: content.new_tensor(_WHOLE_IMAGE).repeat(len(content), 1)}


def _their_sizes(state_dict: Mapping[str, Tensor]) -> _Sizes:
    def shape(ending: str) -> torch.Size:
        for name, tensor in state_dict.items():
            if name.endswith(ending):
                return tensor.shape
        raise UserError(f"not a state dict of the authors' AdaMixer or LORS: no key ends in {ending}")

    features = shape("neck.gn_out.weight")[0]
    samples = shape("sampling_offset_generator.0.bias")[0] // 3
    lors = any(name.startswith(_LORS) for name in state_dict)
    points_out = shape("base_out_proj.weight" if lors else "mixing.out_proj.weight")[1] // features
    generated = shape("common_parameter_generator.bias" if lors else ".parameter_generator.0.bias")[0]
    # generated = g (C^2 + P_in P_out), samples = g P_in and C = features / g
    groups = features**2 // (generated - samples * points_out)
    rank = shape("ml_parameters.0")[-1] if lors else 0
    return _Sizes(lors, groups, features // groups, samples // groups, points_out, rank)


def _our_sizes(state_dict: Mapping[str, Tensor]) -> _Sizes:
    def shape(name: str) -> torch.Size:
        if name not in state_dict:
            raise UserError(f"not a state dict of lors.AdaMixer that the authors' programs know: no {name}")
        return state_dict[name].shape

    features = shape("neck.norm.weight")[0]
    samples = shape("decoder.stages.0.offsets.bias")[0] // 3
    lors = f"{_BANK}.channel.weight.shared" in state_dict
    channel, output = (
        f"{_BANK}.{name}.weight.shared" if lors else f"{_MIXING.format(i=0)}.{name}.weight"
        for name in ("channel", "output")
    )
    # g C^2 and features = g C
    groups = features**2 // shape(channel)[0]
    points_out = shape(output)[1] // features
    rank = shape(f"{_BANK}.channel.weight.A.0")[-2] if lors else 0
    stage = 0
    while lors and f"{_BANK}.channel.weight.A.{stage}" in state_dict:
        names = [f"{_BANK}.{name}.weight.A.{stage}" for name in ("channel", "spatial", "output")]
        channel, *others = (tuple(shape(name)[:-1]) for name in names)
        generated = (groups, channel[1], rank)
        if [channel, *others] != [generated, generated, (1, others[1][-1])]:
            raise UserError(
                f"the authors' LORS has one rank and number of groups for channel and spatial, and one group "
                f"in output; here {', '.join(f'{name} is {tuple(shape(name))}' for name in names)}"
            )
        stage += 1
    return _Sizes(lors, groups, features // groups, samples // groups, points_out, rank)


def _rules(sizes: _Sizes) -> tuple[Rule, ...]:
    """The authors keep M_c and M_s in one tensor and M_s as P_out x P_in; ours keeps them apart and M_s, as
    the paper writes it, as P_in x P_out. So the factors of M_s change places: S = B E A becomes A^T E^T B^T.
    """
    _, groups, channels, points_in, points_out, rank = sizes

    def split_generator(tensor: Tensor) -> tuple[Tensor, Tensor]:
        channel, spatial = tensor.unflatten(0, (groups, -1)).split(
            [channels**2, points_out * points_in], dim=1
        )
        spatial = spatial.unflatten(1, (points_out, points_in)).transpose(1, 2).flatten(1, 2)
        return channel.flatten(0, 1), spatial.flatten(0, 1)

    def join_generator(channel: Tensor, spatial: Tensor) -> Tensor:
        spatial = spatial.unflatten(0, (groups, points_in, points_out)).transpose(1, 2).flatten(1, 2)
        return torch.cat((channel.unflatten(0, (groups, -1)), spatial), dim=1).flatten(0, 1)

    def split_private(tensor: Tensor) -> tuple[Tensor, Tensor]:
        channel, spatial = tensor.unflatten(0, (2, -1, rank, rank))
        return channel.flatten(0, 2), spatial.transpose(1, 2).flatten(0, 2)

    def join_private(channel: Tensor, spatial: Tensor) -> Tensor:
        spatial = spatial.unflatten(0, (-1, rank, rank)).transpose(1, 2).flatten(0, 2)
        return torch.cat((channel, spatial))

    def split_factor(tensor: Tensor) -> tuple[Tensor]:
        return (tensor.unflatten(0, (groups, -1)),)

    def join_factor(tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1)

    def split_swapped(tensor: Tensor) -> tuple[Tensor]:
        return (tensor.unflatten(0, (groups, -1)).transpose(2, 3).contiguous(),)

    def join_swapped(tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1).transpose(1, 2).contiguous()

    if not sizes.lors:
        return (
            *_COMMON,
            Rule(
                f"{_STAGE}.sampling_n_mixing.sampling_offset_generator.0.{{leaf}}",
                ["decoder.stages.{i}.offsets.{leaf}"],
            ),
            Rule(f"{_STAGE}.sampling_n_mixing.norm.{{leaf}}", ["decoder.stages.{i}.mixing_norm.{leaf}"]),
            Rule(f"{_PLAIN}.out_proj.{{leaf}}", [f"{_MIXING}.output.{{leaf}}"]),
            Rule(
                f"{_PLAIN}.parameter_generator.0.{{leaf}}",
                [f"{_MIXING}.channel.{{leaf}}", f"{_MIXING}.spatial.{{leaf}}"],
                split_generator,
                join_generator,
            ),
        )
    return (
        *_COMMON,
        Rule(
            f"{_STAGE}.sampling.sampling_offset_generator.0.{{leaf}}", ["decoder.stages.{i}.offsets.{leaf}"]
        ),
        Rule(f"{_LORS}.out_norm.{{i}}.{{leaf}}", ["decoder.stages.{i}.mixing_norm.{leaf}"]),
        Rule(f"{_LORS}.base_out_proj.weight", [f"{_BANK}.output.weight.shared"]),
        Rule(f"{_LORS}.out_weight_bias.{{i}}", [f"{_MIXING}.output.bias"]),
        *(
            Rule(
                f"{_LORS}.common_parameter_generator.{leaf}",
                [f"{_BANK}.{name}.weight.{ours}" for name in ("channel", "spatial")],
                split_generator,
                join_generator,
            )
            for leaf, ours in (("weight", "shared"), ("bias", "shared_bias"))
        ),
        Rule(
            f"{_LORS}.private_parameter_generator.{{i}}.{{leaf}}",
            [f"{_BANK}.{name}.weight.E.{{i}}.{{leaf}}" for name in ("channel", "spatial")],
            split_private,
            join_private,
        ),
        *(
            Rule(f"{_LORS}.{theirs}_parameters.{{i}}", [f"{_BANK}.{name}.weight.{factor}.{{i}}"], split, join)
            for theirs, name, factor, split, join in (
                ("ml", "channel", "B", split_factor, join_factor),
                ("mr", "channel", "A", split_factor, join_factor),
                ("sl", "spatial", "A", split_swapped, join_swapped),
                ("sr", "spatial", "B", split_swapped, join_swapped),
            )
        ),
        *(
            Rule(
                f"{_LORS}.out_weight_add_{factor}.{{i}}",
                [f"{_BANK}.output.weight.{factor}.{{i}}"],
                lambda tensor: (tensor[None],),
                lambda tensor: tensor.squeeze(0),
            )
            for factor in "AB"
        ),
    )
