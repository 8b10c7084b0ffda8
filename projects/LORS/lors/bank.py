"""The weights that an AdaMixer decoder pulls, for all of its stages."""

from __future__ import annotations

from typing import Union

from torch import nn

from lors.stack import DenseGenerator, DenseLinear, LORSGenerator, LORSLinear

Generator = Union[DenseGenerator, LORSGenerator]
Linear = Union[DenseLinear, LORSLinear]


class ParameterBank(nn.Module):
    """Channel mixing, spatial mixing and output projection of N stages (LORS, section 3.3).

    A stage calls `bank.channel(query, i)`, `bank.spatial(query, i)` and `bank.output(mixed, i)` with its own
    number i. Each of the three is dense or LORS, so AdaMixer, LORS and the mixed rows of Table 4 are banks.

    Args:
        channel: generates M_c, shape (g, C, C).
        spatial: generates M_s, shape (g, P_in, P_out).
        output: L_output, from g P_out C features to d_q.

    Raises:
        ValueError: the three do not fit together.
    """

    def __init__(self, channel: Generator, spatial: Generator, output: Linear) -> None:
        super().__init__()
        self.channel, self.spatial, self.output = channel, spatial, output
        self.num_stages, self.query_dim = channel.num_layers, channel.query_dim
        self.groups, self.channels = channel.shape[0], channel.shape[1]
        self.points_in, self.points_out = spatial.shape[1:]
        features = self.groups * self.points_out * self.channels
        for name, value, wanted in (
            ("channel.shape", channel.shape, (self.groups, self.channels, self.channels)),
            ("spatial.shape[0]", spatial.shape[0], self.groups),
            ("spatial.query_dim", spatial.query_dim, self.query_dim),
            ("output.in_features", output.in_features, features),
            ("output.out_features", output.out_features, self.query_dim),
            ("spatial.num_layers", spatial.num_layers, self.num_stages),
            ("output.num_layers", output.num_layers, self.num_stages),
        ):
            if value != wanted:
                raise ValueError(f"{name}={value}: must be {wanted} to fit the rest of the bank")
