from .sharing_neu_det import study

study.title = "What sharing buys, on NEU-DET, with three times the schedule"
study.overrides = [*study.overrides, "train.max_iter=9150"]
study.arms = {arm: study.arms[arm] for arm in ("plain", "LORS", "narrow plain")}
