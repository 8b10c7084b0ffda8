"""Augmentations that Detectron2 lacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T


class RandomChoice(T.Augmentation):
    """One of several lists of augmentations, each as likely."""

    def __init__(self, policies: Sequence[Sequence[T.Augmentation]]) -> None:
        self.policies = [T.AugmentationList(list(policy)) for policy in policies]

    def __call__(self, aug_input: T.AugInput) -> T.TransformList:
        return self.policies[np.random.randint(len(self.policies))](aug_input)
