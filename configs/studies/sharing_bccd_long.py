from .sharing_bccd import study

study.title += ", with three times the schedule"
study.overrides = [*study.overrides, "train.max_iter=3000"]
study.arms = {label: study.arms[label] for label in ("plain", "LORS", "slow private", "narrow plain")}
