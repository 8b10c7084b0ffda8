"""The method as the papers write it: literal, slow, and independent of the package's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def non_dynamic_fused_weight(W_shared: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Figure 2: W_shared (1, d, h), A (G, r, h), B (G, d, r) -> (d, h)."""
    W_private = B @ A
    return torch.cat([W_shared, W_private], dim=0).sum(dim=0)


def dynamic_fused_weight(
    q: Tensor,
    shared_linear: Callable[[Tensor], Tensor],
    private_linear: Callable[[Tensor], Tensor],
    A: Tensor,
    B: Tensor,
) -> Tensor:
    """Figure 3, for g matrices at once: q (N, C), A (1, g, G, r, h), B (1, g, G, d, r) -> (N, g, d, h).

    `shared_linear` turns q into (N, g d h) numbers and `private_linear` into (N, g G r r).
    """
    N, g, G, r, d, h = len(q), *A.shape[1:4], B.shape[3], A.shape[4]
    W_shared = shared_linear(q).reshape(N, g, 1, d, h)
    E = private_linear(q).reshape(N, g, G, r, r)
    W_private = B @ E @ A
    return torch.cat([W_shared, W_private], dim=2).sum(dim=2)


def literal_sampling(levels: Sequence[Tensor], strides: Sequence[int], points: Tensor, groups: int) -> Tensor:
    """Levels (B, g C, H, W), points (B, L, g, P, 3), pixels and log2 pixels -> (B, L, g, P, C).

    One bilinear reading of each level, weighted by softmax over levels of -(z - log2 stride)^2 / 2.
    """
    B, L, g, P, _ = points.shape
    assert g == groups
    log_strides = torch.tensor(strides, dtype=points.dtype, device=points.device).log2()
    weight = (-((points[..., 2:] - log_strides) ** 2) / 2).softmax(-1)
    total = 0
    for i, (level, stride) in enumerate(zip(levels, strides)):
        h, w = level.shape[-2:]
        grid = points[..., :2] / (points.new_tensor([w, h]) * stride)
        grid = grid.transpose(1, 2).reshape(B * g, L, P, 2) * 2.0 - 1.0
        maps = level.reshape(B * g, -1, h, w)
        read = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        read = read.view(B, g, -1, L, P).permute(0, 3, 1, 4, 2)
        total = total + read * weight[..., i, None]
    return total


def literal_mixing(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    """Equations 4 and 6, one query and group at a time.

    x (B, L, g, P_in, C), M_c (B, L, g, C, C), M_s (B, L, g, P_in, P_out) -> (B, L, g P_out C).
    """
    B, L, g = x.shape[:3]
    rows = []
    for b in range(B):
        for query in range(L):
            for group in range(g):
                at = b, query, group
                acm = torch.relu(_layer_norm(x[at] @ channel[at]))
                asm = torch.relu(_layer_norm(acm.T @ spatial[at]))
                rows.append(asm.T.reshape(-1))
    return torch.stack(rows).view(B, L, -1)


def _layer_norm(x: Tensor) -> Tensor:
    """Over the whole matrix, without parameters."""
    return (x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)


def literal_decoder(
    decoder: nn.Module, features: Sequence[Tensor], content: Tensor, xyzr: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """What `lors.adamixer.Decoder` computes with its weights, step by step as the papers do.

    Every weight of every query and stage is stored, every private term apart, and each stage reads each level
    with a `grid_sample` of its own.
    """
    predictions = []
    for i, stage in enumerate(decoder.stages):
        content = stage.attention_norm(_attention(stage, content, xyzr))
        offsets = stage.offsets(content).view(*content.shape[:2], stage.groups, -1, 3)
        x, y, z, r = (xyzr[..., k, None, None] for k in range(4))
        w, h = 2 ** (z - r / 2), 2 ** (z + r / 2)
        points = torch.stack((x + offsets[..., 0] * w, y + offsets[..., 1] * h, z + offsets[..., 2]), dim=-1)
        sampled = literal_sampling(features, decoder.strides, points, stage.groups)
        size = stage.groups, stage.mixing.channels, stage.mixing.points_in, stage.mixing.points_out
        channel = generated(decoder, i, "channel", content, (size[0], size[1], size[1]))
        spatial = generated(decoder, i, "spatial", content, (size[0], *size[2:]))
        mixed = _normed_relu(sampled @ channel)
        mixed = _normed_relu(spatial.transpose(-1, -2) @ mixed).flatten(2)
        projected = F.linear(mixed, projection(decoder, i), stage.mixing.output.bias)
        content = stage.mixing_norm(content + projected)
        content = stage.ffn_norm(content + stage.ffn(content))
        logits, delta = stage.classify(content), stage.regress(content)
        xyzr = torch.cat(
            (xyzr[..., :2] + delta[..., :2] * 2 ** xyzr[..., 2:3], xyzr[..., 2:] + delta[..., 2:]), dim=-1
        )
        predictions.append((logits, corners(xyzr)))
        xyzr = xyzr.detach()
    return predictions


def shared(decoder: nn.Module, name: str) -> nn.Module | None:
    """What the bank holds for a Linear of the mixing, if the stages pull it."""
    return None if decoder.bank is None else decoder.bank.residuals().get(f"mixing.{name}.weight")


def generated(decoder: nn.Module, i: int, name: str, q: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The weights (B, L, g, d, h) that stage i makes from q (B, L, d_q)."""
    flat, held = q.flatten(0, 1), shared(decoder, name)
    if held is None:
        linear = getattr(decoder.stages[i].mixing, name)
        weight = F.linear(flat, linear.weight, linear.bias)
    else:
        A, B = held.A[i][None], held.B[i][None]
        weight = dynamic_fused_weight(
            flat, lambda x: F.linear(x, held.shared, held.shared_bias), held.E[i], A, B
        )
    return weight.view(*q.shape[:2], *shape)


def projection(decoder: nn.Module, i: int) -> Tensor:
    """The weight of the output projection of stage i, (d_q, g P_out C)."""
    held = shared(decoder, "output")
    if held is None:
        return decoder.stages[i].mixing.output.weight
    return non_dynamic_fused_weight(held.shared[None], held.A[i], held.B[i])


def corners(xyzr: Tensor) -> Tensor:
    """(..., 4) xyzr -> (..., 4) xyxy."""
    x, y, z, r = xyzr.unbind(-1)
    w, h = 2 ** (z - r / 2), 2 ** (z + r / 2)
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=-1)


def giou(a: list[float], b: list[float]) -> float:
    """Of two boxes, xyxy."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return both / union - (hull - union) / hull


def is_uniform(tensor: Tensor, bound: float) -> None:
    """Asserts that initial values are drawn evenly from -bound to bound."""
    largest = tensor.abs().max().item()
    assert 0.97 * bound < largest <= bound * (1 + 1e-6)
    assert tensor.mean().abs() < 0.1 * bound
    assert abs(tensor.std().item() * math.sqrt(3) / bound - 1) < 0.1


def _attention(stage: nn.Module, content: Tensor, xyzr: Tensor) -> Tensor:
    B, L, dim = content.shape
    mha = stage.attention
    heads, d = mha.num_heads, dim // mha.num_heads
    x = content + _position(xyzr, dim)
    q, k, v = (
        part.view(B, L, heads, d).transpose(1, 2)
        for part in F.linear(x, mha.in_proj_weight, mha.in_proj_bias).chunk(3, dim=-1)
    )
    bias = stage.iof_tau[:, None, None] * _log_iof(corners(xyzr))[:, None]
    read = (q @ k.transpose(-1, -2) / math.sqrt(d) + bias).softmax(-1) @ v
    return x + mha.out_proj(read.transpose(1, 2).flatten(2))


def _position(xyzr: Tensor, dim: int) -> Tensor:
    value = xyzr / xyzr.new_tensor([1000, 1000, 1, 1])
    frequency = 10000 ** (-torch.arange(0, dim // 4, 2, dtype=xyzr.dtype, device=xyzr.device) / (dim // 4))
    angle = value[..., None] * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-3)


def _log_iof(boxes: Tensor) -> Tensor:
    """(B, L, 4) -> (B, L, L)."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    w, h = (
        torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(low[:, :, None], low[:, None])
        for low, high in ((x0, x1), (y0, y1))
    )
    area = (x1 - x0) * (y1 - y0)
    return (w.clamp(min=0) * h.clamp(min=0) / area[:, :, None] + 1e-7).log()


def _normed_relu(x: Tensor) -> Tensor:
    return torch.relu(F.layer_norm(x, x.shape[-2:]))
