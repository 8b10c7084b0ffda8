from .sharing_digits import study

_bank = "model.decoder.bank.residual"
_adaptive = ("channel", "spatial")
_alike = "model.criterion.stage_weights=null"
_rate = "optimizer.params.lr_factor_func"
_slow_private = study.arms["slow private"].overrides

study.title = "What brings LORS level with plain at half its decoder's parameters, on the digits"
study.reference = "plain"
study.arms = {
    **{label: study.arms[label] for label in ("plain", "LORS", "slow private")},
    # A shared weight's gradient is the sum of four stages': the rate is divided by the square root of 4.
    "slow shared": dict(overrides=[f"{_rate}.shared=0.5"]),
    "late, slow private": dict(
        overrides=[
            *_slow_private,
            *(f"{_bank}.{name}.groups=[1,1,1,3]" for name in _adaptive),
            f"{_bank}.output.groups=[1,1,1,2]",
        ]
    ),
    "plain, losses alike": dict(overrides=[*study.arms.plain.overrides, _alike]),
    "LORS, losses alike": dict(overrides=[_alike]),
}
