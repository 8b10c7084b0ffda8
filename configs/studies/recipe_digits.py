from .all_digits import study

_adaptive = [f"model.decoder.bank.residual.{name}" for name in ("channel", "spatial")]
_more_stages = [
    "model.decoder.num_stages=6",
    "model.criterion.stage_weights=[0.1,0.5,1,1,1,1]",
    *(f"{name}.groups=[1,1,1,2,2,2]" for name in _adaptive),
]

study.title = "What brings LORS level with plain at half of its decoder's parameters or less, on the digits"
study.reference = "plain"
study.arms = {
    **{label: study.arms[label] for label in ("plain", "LORS", "slow private", "tied")},
    # A shared weight's gradient is the sum of four stages': the rate is divided by the square root of 4.
    "slow shared": dict(overrides=["optimizer.params.lr_factor_func.shared=0.5"]),
    # Where stages share, more of them cost few parameters, but their time.
    "6 stages": dict(overrides=_more_stages),
}
