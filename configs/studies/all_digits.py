from .sharing_digits import study

_plain = study.arms.plain.overrides
_bank = "model.decoder.bank.residual"
_all = ("attention", "ffn", "channel", "spatial", "output")

study.title = "What sharing buys where attention and FFN are shared too, on the digits"
study.config = "configs/digits/lors_all_digits.py"
study.arms = {
    "plain": dict(config="configs/digits/lors_digits.py", overrides=_plain),
    "LORS": dict(),
    "slow private": study.arms["slow private"],
    "tied": dict(overrides=[f"{_bank}.{name}.private=false" for name in _all]),
    "narrow plain": dict(
        overrides=[
            *_plain,
            "model.decoder.groups=4",
            "model.decoder.points_in=5",
            "model.decoder.points_out=5",
            "model.decoder.ffn_dim=64",
        ]
    ),
    "narrow queries": dict(
        overrides=[
            *_plain,
            "model.queries.query_dim=32",
            "model.decoder.groups=4",
            "model.decoder.points_out=16",
        ]
    ),
}
