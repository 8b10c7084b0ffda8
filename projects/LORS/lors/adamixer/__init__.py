"""AdaMixer (Gao et al., CVPR 2022): the detector, which knows no LORS."""

from lors.adamixer.criterion import SetCriterion
from lors.adamixer.decoder import Decoder
from lors.adamixer.detector import AdaMixer
from lors.adamixer.matcher import HungarianMatcher
from lors.adamixer.neck import Neck
from lors.adamixer.queries import Queries
from lors.adamixer.stage import DecoderStage

__all__ = [
    "AdaMixer",
    "Decoder",
    "DecoderStage",
    "HungarianMatcher",
    "Neck",
    "Queries",
    "SetCriterion",
]
