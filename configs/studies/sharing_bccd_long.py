from .all_bccd import study as _all
from .sharing_bccd import study

study.title += ", with three times the schedule"
study.reference = "LORS of all"
# As long as in pretrained_bccd, which has the runs of LORS already
study.overrides = ["dataset.vertical_flip=0.5", "train.max_iter=3050"]
study.arms = {
    **{label: study.arms[label] for label in ("plain", "LORS")},
    "LORS of all": _all.arms.LORS,
    "tied of all": _all.arms.tied,
    "narrow queries": _all.arms["narrow queries"],
}
