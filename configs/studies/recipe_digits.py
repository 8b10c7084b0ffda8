from .sharing_digits import study

_bank = "model.decoder.bank.residual"
_adaptive = ("channel", "spatial")
_alike = "model.criterion.stage_weights=null"


# Divided by the square root of the 4 stages, as a shared weight's gradient is the sum of theirs.
_slow_shared = "optimizer.params.lr_factor_func.shared=0.5"
# What is private is a product of factors that all move.
_slow_private = "optimizer.params.lr_factor_func.private=0.25"
_late = [
    *(f"{_bank}.{name}.groups=[1,1,1,3]" for name in _adaptive),
    f"{_bank}.output.groups=[1,1,1,2]",
]

study.title = "What brings LORS level with plain at half its decoder's parameters, on the digits"
study.reference = "plain"
study.arms = {
    "plain": study.arms.plain,
    "plain, losses alike": dict(overrides=[*study.arms.plain.overrides, _alike]),
    "LORS": study.arms.LORS,
    "LORS, losses alike": dict(overrides=[_alike]),
    "slow private": dict(overrides=[_slow_private]),
    "slow shared": dict(overrides=[_slow_shared]),
    "late": dict(overrides=_late),
    "late, slow shared": dict(overrides=[*_late, _slow_shared]),
    "attention and FFN too": dict(config="configs/digits/lors_all_digits.py"),
    # What sharing attention and FFN saves pays for two more stages.
    "attention and FFN too, 6 stages": dict(
        config="configs/digits/lors_all_digits.py",
        overrides=[
            "model.decoder.num_stages=6",
            "model.criterion.stage_weights=[0.1,0.5,1,1,1,1]",
            *(f"{_bank}.{name}.groups=[1,1,1,1,2,2]" for name in _adaptive),
            f"{_bank}.output.rank=8",
        ],
    ),
}
