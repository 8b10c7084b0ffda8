"""Image files, read as a viewer shows them or refused by name."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

__all__ = ["BadImage", "check_size", "read_image"]

MAX_PIXELS = 80_000_000


class BadImage(ValueError):
    """An image that cannot be used; the text is one line with its file and the reason."""

    def __str__(self) -> str:
        # A DataLoader raises a worker's error anew, with the worker's whole traceback as its text.
        return super().__str__().strip().rpartition("\n")[2].rpartition("BadImage: ")[2]


def read_image(file_name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The first frame of an image file, upright as EXIF tells: RGB, uint8 (H, W, 3).

    Of 16 bits the upper 8 stay. Transparent pixels lie on white.

    Raises:
        BadImage: the file is missing, broken, no image, larger than `max_pixels` (seen before it is decoded;
            Pillow's own bound is 178,956,970), or of 32-bit values, whose range a file does not tell.
    """
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ValueError(f"{width} x {height} pixels, more than max_pixels={max_pixels}")
            image.load()
            # Viewers show an image whose EXIF is broken as it lies.
            with suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_to_rgb(image))
    # Pillow's decoders raise nearly anything for a broken file.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image, or of a format that Pillow does not know"
        raise BadImage(f"{file_name}: {' '.join(reason.split())}") from error


def check_size(file_name: str, image: np.ndarray, width: int, height: int) -> None:
    """Raises BadImage where an image (H, W, 3) has another size than its dataset says."""
    found = image.shape[1::-1]
    if found != (width, height):
        reason = f"{found[0]} x {found[1]} pixels, the dataset says {width} x {height}"
        if found == (height, width):
            reason += "; perhaps it was annotated without turning it as its EXIF orientation tells"
        raise BadImage(f"{file_name}: {reason}")


def _to_rgb(image: Image.Image) -> Image.Image:
    # Older Pillows open 16-bit PNG files with mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"32-bit values (mode {image.mode}), whose range is unknown")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
