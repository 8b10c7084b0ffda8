from .recipe_digits import study as _recipe
from .sharing_neu_det import study

_plain = study.arms.plain.overrides
_weighted = "model.criterion.stage_weights=[0.1,0.5,1,1]"
_late = _recipe.arms.late.overrides
_slow_private = _recipe.arms["slow private"].overrides
_slow_shared = _recipe.arms["slow shared"].overrides

study.title = "What brings LORS level with plain at half its decoder's parameters, on NEU-DET"
study.reference = "plain"
study.arms = {
    "plain": study.arms.plain,
    "plain, losses weighted": dict(overrides=[*_plain, _weighted]),
    "LORS": study.arms.LORS,
    "LORS, losses weighted": dict(overrides=[_weighted]),
    "slow private": dict(overrides=_slow_private),
    "slow shared": dict(overrides=_slow_shared),
    "late": dict(overrides=_late),
    "late, slow shared, losses weighted": dict(overrides=[*_late, *_slow_shared, _weighted]),
}
