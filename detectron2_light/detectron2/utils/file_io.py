"""Files by path, by http address or by detectron2:// address."""

from typing import Any

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as PathManagerBase

PathManager = PathManagerBase()


class _ModelFileHandler(PathHandler):
    """detectron2://x is a file that Detectron2's authors publish; it is downloaded once."""

    PREFIX = "detectron2://"
    SERVER = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self) -> list:
        return [self.PREFIX]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        return PathManager.get_local_path(self.SERVER + path[len(self.PREFIX) :])


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(_ModelFileHandler())
