from .all_digits import study

_adaptive = [f"model.decoder.bank.residual.{name}" for name in ("channel", "spatial")]
_more_stages = [
    "model.decoder.num_stages=6",
    "model.criterion.stage_weights=[0.1,0.5,1,1,1,1]",
    *(f"{name}.groups=[1,1,1,2,2,2]" for name in _adaptive),
]
# A shared weight's gradient is the sum of four stages': the rate is divided by the square root of 4.
_slow = ["optimizer.params.lr_factor_func.shared=0.5"]

study.title = "What brings LORS level with plain at half of its decoder's parameters or less, on the digits"
study.reference = "plain"
study.arms = {
    **{label: study.arms[label] for label in ("plain", "LORS", "slow private", "tied")},
    "slow shared": dict(overrides=_slow),
    "slow tied": dict(overrides=[*study.arms.tied.overrides, *_slow]),
    # Where stages share, more of them cost few parameters, but their time.
    "6 stages": dict(overrides=_more_stages),
}
