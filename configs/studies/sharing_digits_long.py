from .all_digits import study
from .recipe_digits import study as _recipe

study.title = "What sharing attention and FFN too buys with three times the schedule, on the digits"
study.overrides = ["train.max_iter=6300"]
study.arms = {
    **{label: study.arms[label] for label in ("plain", "LORS")},
    "slow shared": _recipe.arms["slow shared"],
    "narrow queries": study.arms["narrow queries"],
}
