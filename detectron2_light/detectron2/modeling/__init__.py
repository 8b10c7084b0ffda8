"""Backbones and the registry of detectors."""

from fvcore.common.registry import Registry

from .backbone.resnet import Backbone

META_ARCH_REGISTRY = Registry("META_ARCH")
