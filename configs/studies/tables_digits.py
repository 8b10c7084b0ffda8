from .sharing_digits import study


def _stages(number):
    """Half of them with one group, half with two; the first two stages' losses weigh less, as with four."""
    half = number // 2
    weights = [0.1, 0.5, *(number - 2) * [1.0]]
    groups = half * [1] + half * [2]
    return dict(
        overrides=[
            f"model.decoder.num_stages={number}",
            f"model.criterion.stage_weights={weights}",
            *(f"model.decoder.bank.residual.{name}.groups={groups}" for name in ("channel", "spatial")),
        ]
    )


study.title = "Tables 4 and 8 of the paper in small, on the digits, not COCO"
study.arms = {
    "plain": study.arms.plain,
    "LORS": study.arms.LORS,
    "4: adaptive only": dict(config="configs/digits/lors_adaptive_only.py"),
    "4: static only": dict(config="configs/digits/lors_static_only.py"),
    **{f"8: {number} stages": _stages(number) for number in (2, 6)},
}
