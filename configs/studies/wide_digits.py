from .sharing_digits import study

study.title = "What sharing buys in stages with twice the channels, on the digits"
study.reference = "wide LORS, slow private"
study.arms = {
    "plain": study.arms.plain,
    "wide plain": dict(overrides=[*study.arms.plain.overrides, "model.neck.out_channels=128"]),
    "wide LORS": study.arms["wide LORS"],
    "wide LORS, slow private": dict(
        overrides=[*study.arms["wide LORS"].overrides, *study.arms["slow private"].overrides]
    ),
}
