from .recipe_digits import study as _recipe
from .sharing_digits import study

study.title = "What sharing buys, on the digits, with three times the schedule"
study.overrides = ["train.max_iter=6300"]
study.arms = {
    **{arm: study.arms[arm] for arm in ("plain", "LORS", "narrow plain")},
    "slow private": _recipe.arms["slow private"],
}
