from .sharing_digits import study

_bank = "model.decoder.bank.residual"
_adaptive = ("channel", "spatial")
_alike = "model.criterion.stage_weights=null"
_rate = "optimizer.params.lr_factor_func"
_slow_private = study.arms["slow private"].overrides
_all = "configs/digits/lors_all_digits.py"

study.title = "What brings LORS level with plain at half its decoder's parameters, on the digits"
study.reference = "plain"
study.arms = {
    **{label: study.arms[label] for label in ("plain", "LORS", "slow private")},
    # Beside the widths as large as the paper's; LORS's own here are twice and four times that.
    "ranks in proportion": dict(
        overrides=[*(f"{_bank}.{name}.rank=4" for name in _adaptive), f"{_bank}.output.rank=2"]
    ),
    # A shared weight's gradient is the sum of four stages': the rate is divided by the square root of 4.
    "slow shared": dict(overrides=[f"{_rate}.shared=0.5"]),
    "late, slow private": dict(
        overrides=[
            *_slow_private,
            *(f"{_bank}.{name}.groups=[1,1,1,3]" for name in _adaptive),
            f"{_bank}.output.groups=[1,1,1,2]",
        ]
    ),
    "attention and FFN too, slow private": dict(config=_all, overrides=_slow_private),
    # What sharing attention and FFN saves pays for two more stages.
    "the same with 6 stages": dict(
        config=_all,
        overrides=[
            *_slow_private,
            "model.decoder.num_stages=6",
            "model.criterion.stage_weights=[0.1,0.5,1,1,1,1]",
            *(f"{_bank}.{name}.groups=[1,1,1,1,2,2]" for name in _adaptive),
            f"{_bank}.output.rank=8",
        ],
    ),
    "plain, losses alike": dict(overrides=[*study.arms.plain.overrides, _alike]),
    "LORS, losses alike": dict(overrides=[_alike]),
}
