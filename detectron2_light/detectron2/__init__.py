"""The part of Detectron2's public interface that this project uses, for one process."""

__version__ = "0.6+light"
