from .sharing_digits_long import study as _digits
from .sharing_neu_det import study

study.title = "What sharing buys, on NEU-DET, with three times the schedule"
study.overrides = [*study.overrides, "train.max_iter=9150"]
study.arms = _digits.arms
