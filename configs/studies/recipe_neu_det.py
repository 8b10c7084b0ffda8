from .recipe_digits import study as _recipe
from .sharing_neu_det import study

_plain = study.arms.plain.overrides
_weighted = "model.criterion.stage_weights=[0.1,0.5,1,1]"
_slow_private = _recipe.arms["slow private"].overrides

study.title = "What brings LORS level with plain at half its decoder's parameters, on NEU-DET"
study.reference = "plain"
study.arms = {
    "plain": study.arms.plain,
    "LORS": study.arms.LORS,
    "slow private": dict(overrides=_slow_private),
    "late, slow private": _recipe.arms["late, slow private"],
    "plain, losses weighted": dict(overrides=[*_plain, _weighted]),
    "slow private, losses weighted": dict(overrides=[*_slow_private, _weighted]),
}
