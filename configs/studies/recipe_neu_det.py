from .recipe_digits import study as _recipe
from .sharing_neu_det import study

_plain = study.arms.plain.overrides
_weighted = "model.criterion.stage_weights=[0.1,0.5,1,1]"
_late = _recipe.arms.late.overrides
_slow_shared = (
    "optimizer.params.overrides={content:{lr:0.01,weight_decay:0.0},bias:{weight_decay:0.0},"
    "shared:{lr:0.00065},shared_bias:{lr:0.00065,weight_decay:0.0}}"
)

study.title = "What brings LORS level with plain at half its decoder's parameters, on NEU-DET"
study.reference = "plain"
study.arms = {
    "plain": study.arms.plain,
    "plain, losses weighted": dict(overrides=[*_plain, _weighted]),
    "LORS": study.arms.LORS,
    "LORS, losses weighted": dict(overrides=[_weighted]),
    "slow shared": dict(overrides=[_slow_shared]),
    "late": dict(overrides=_late),
    "late, slow shared, losses weighted": dict(overrides=[*_late, _slow_shared, _weighted]),
}
