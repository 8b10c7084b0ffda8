from .all_digits import study as _digits
from .pretrained_bccd import study
from .recipe_digits import study as _recipe

study.title = "What sharing attention and FFN too buys on BCCD, from scratch"
study.reference = "LORS"
study.config = "configs/custom/lors_all_tiny_cpu.py"
study.arms = {
    "plain": dict(config="configs/custom/tiny_cpu.py", overrides=["model.decoder.bank=null"]),
    "LORS": dict(),
    "slow shared": _recipe.arms["slow shared"],
    "narrow queries": _digits.arms["narrow queries"],
    "LORS, mixing alone": study.arms["from scratch"],
}
