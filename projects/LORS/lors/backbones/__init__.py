"""Backbones that Detectron2 lacks."""

from lors.backbones.swin import Swin

__all__ = ["Swin"]
