from .all_digits import study as _all
from .sharing_digits import study

study.title += ", with three times the schedule"
study.overrides = ["train.max_iter=6300"]
study.arms = {
    **{label: study.arms[label] for label in ("plain", "LORS")},
    "attention and FFN too": dict(config=_all.config),
    "narrow queries": _all.arms["narrow queries"],
}
