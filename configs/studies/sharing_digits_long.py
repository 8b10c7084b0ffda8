from .all_digits import study as _all
from .sharing_digits import study

study.title += ", with three times the schedule"
study.reference = "LORS of all"
study.overrides = ["train.max_iter=6300"]
study.arms = {
    **{label: study.arms[label] for label in ("plain", "LORS")},
    "LORS of all": dict(config=_all.config),
    "tied of all": dict(config=_all.config, **_all.arms.tied),
    "narrow queries": _all.arms["narrow queries"],
}
