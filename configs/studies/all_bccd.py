from .all_digits import study as _digits
from .sharing_bccd import study

study.title = "What sharing buys where attention and FFN are shared too, on BCCD, after the digits"
study.arms = {
    "plain": study.arms.plain,
    **{
        label: dict(
            config="configs/custom/lors_all_from_digits.py",
            overrides=_digits.arms[label].get("overrides", []),
            start=f"all_digits/{label}",
        )
        for label in ("LORS", "tied", "narrow queries")
    },
}
