"""Adaptive channel and spatial mixing (LORS, equations 3 to 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def adaptive_mixing(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    """Mixes the channels, then the points, of each query's samples with weights of its own.

    Args:
        x: (B, L, g, P_in, C), sampled features.
        channel: M_c (B, L, g, C, C).
        spatial: M_s (B, L, g, P_in, P_out).

    Returns:
        (B, L, g P_out C).
    """
    if not torch.is_grad_enabled():
        return _mix(x, channel, spatial)
    # What lies between takes as much memory as all else that a stage keeps; it is cheap to make again.
    return checkpoint(_mix, x, channel, spatial, use_reentrant=False, preserve_rng_state=False)


def _mix(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    x = _norm_relu(x @ channel)
    x = _norm_relu(spatial.transpose(-1, -2) @ x)
    return x.flatten(2)


def _norm_relu(x: Tensor) -> Tensor:
    return F.relu(F.layer_norm(x, x.shape[-2:]), inplace=True)
