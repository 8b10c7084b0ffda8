"""LORS for any stack of layers; needs torch alone."""

from lors.sharing.bank import Bank, merge, share
from lors.sharing.nearest import factorize
from lors.sharing.residuals import GeneratedLowRank, LowRank

__all__ = ["Bank", "GeneratedLowRank", "LowRank", "factorize", "merge", "share"]
