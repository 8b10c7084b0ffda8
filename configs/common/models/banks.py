"""The two banks. Shapes: M_c (g, C, C), M_s (g, P_in, P_out), L_output g P_out C -> d_q."""

from detectron2.config import LazyCall as L

from lors.bank import ParameterBank
from lors.stack import DenseGenerator, DenseLinear, LORSGenerator, LORSLinear


def adamixer_bank(stages=6, query_dim=256, groups=4, channels=64, points_in=32, points_out=128):
    """Every stage has weights of its own; the defaults are AdaMixer's."""
    generator = dict(num_layers=stages, query_dim=query_dim)
    return L(ParameterBank)(
        channel=L(DenseGenerator)(shape=[groups, channels, channels], **generator),
        spatial=L(DenseGenerator)(shape=[groups, points_in, points_out], **generator),
        output=L(DenseLinear)(
            num_layers=stages, in_features=groups * points_out * channels, out_features=query_dim
        ),
    )


def lors_bank(
    stages=6,
    query_dim=256,
    groups=2,
    channels=128,
    points_in=64,
    points_out=128,
    adaptive_rank=16,
    adaptive_groups=(1, 1, 2, 2, 3, 3),
    static_rank=8,
    static_groups=1,
):
    """Stages share weights and keep low-rank parts; the defaults are the paper's (section 4.1)."""
    generator = dict(num_layers=stages, query_dim=query_dim, rank=adaptive_rank, groups=adaptive_groups)
    return L(ParameterBank)(
        channel=L(LORSGenerator)(shape=[groups, channels, channels], **generator),
        spatial=L(LORSGenerator)(shape=[groups, points_in, points_out], **generator),
        output=L(LORSLinear)(
            num_layers=stages,
            in_features=groups * points_out * channels,
            out_features=query_dim,
            rank=static_rank,
            groups=static_groups,
        ),
    )
