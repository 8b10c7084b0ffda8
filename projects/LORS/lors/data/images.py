"""Image files, read as a viewer shows them or refused by name."""

from __future__ import annotations

import filecmp
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from urllib.parse import unquote

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

from lors.errors import UserError

MAX_PIXELS = 80_000_000


class BadImage(UserError):
    """An image that cannot be used; the text is one line with its file and the reason."""

    def __str__(self) -> str:
        # A DataLoader raises a worker's error anew, with the worker's whole traceback as its text.
        return super().__str__().strip().rpartition("\n")[2].rpartition("BadImage: ")[2]


def read_image(file_name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The first frame of an image file, upright as EXIF tells: RGB, uint8 (H, W, 3).

    Of grey of 16 bits the upper 8 that are used stay: a camera of 12 bits leaves 4 unused. Of colour of 16
    bits Pillow leaves the upper 8. Transparent pixels lie on white.

    Raises:
        BadImage: the file is missing, broken, no image, larger than `max_pixels` (seen before it is decoded;
            Pillow's own bound is 178,956,970), or of 32-bit values, whose range a file does not tell.
    """
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            width, height = image.size
            if width * height > max_pixels:
                keys = " or ".join(f"dataloader.{part}.mapper.max_pixels" for part in ("train", "test"))
                raise ValueError(f"{width} x {height} pixels, more than max_pixels={max_pixels} ({keys})")
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


def size_of(file_name: str) -> tuple[int, int]:
    """Width and height of an upright image, from its header alone.

    Raises:
        BadImage: the file is missing or no image.
    """
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            # Some Pillows turn the size of a TIFF themselves.
            size = tuple(image.tag_v2[tag] for tag in (256, 257)) if image.format == "TIFF" else image.size
            # With these EXIF orientations it lies on its side.
            return size[::-1] if image.getexif().get(0x0112) in (5, 6, 7, 8) else size
    except Exception as error:
        raise BadImage(f"{file_name}: {error}") from error


def missing(paths: Iterable[str]) -> set[str]:
    """Those of some files that are not there."""
    paths = [path for path in paths if not re.match(r"\w+://", path)]  # Detectron2 knows such addresses
    # Listing each folder once takes less time than asking for each file.
    folders = {folder for folder in map(os.path.dirname, paths) if os.path.isdir(folder)}
    there = {entry.path for folder in folders for entry in os.scandir(folder) if entry.is_file()}
    return {path for path in paths if path not in there and not os.path.isfile(path)}


def find_files(names: Mapping[Hashable, str], folder: str) -> dict[Hashable, str | None]:
    """For those `names` that are not in `folder`, the one file there that another system named so, or None.

    Slashes, case, %20, composed letters and the folders before a name may differ.
    """
    gone = missing(os.path.join(folder, name) for name in names.values())
    lost = {key: name for key, name in names.items() if os.path.join(folder, name) in gone}
    files: dict[str, list[str]] = defaultdict(list)
    for parent, _, found in os.walk(folder) if lost else ():
        for name in found:
            files[plain_name(name)].append(os.path.relpath(os.path.join(parent, name), folder))
    guesses: dict[Hashable, str | None] = {}
    for key, name in lost.items():
        wanted = f"/{plain_name(name).lstrip('/')}"
        places = {path: f"/{plain_name(path)}" for path in files[wanted.rpartition("/")[2]]}
        # The one with the most folders in common, or the only one in a deeper folder
        inside = sorted((len(place), path) for path, place in places.items() if wanted.endswith(place))
        deeper = [path for path, place in places.items() if place.endswith(wanted)]
        fits = [path for length, path in inside if length == inside[-1][0]] or deeper
        guesses[key] = fits[0] if len(fits) == 1 else None
    # Several names for one file are no good guess.
    taken = Counter([*names.values(), *guesses.values()])
    return {key: path if taken[path] == 1 else None for key, path in guesses.items()}


def in_both(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """The files of `second` that are in `first` under the same name: themselves, or copies of them."""
    second = list(second)
    names = set(map(os.path.basename, second))
    # The frames of all videos may have the same names, so their sizes set them apart first.
    alike: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in first:
        if os.path.basename(path) in names and os.path.isfile(path):
            alike[os.path.basename(path), os.path.getsize(path)].append(path)

    def is_there(path: str) -> bool:
        others = alike[os.path.basename(path), os.path.getsize(path)] if os.path.isfile(path) else []
        return any(os.path.samefile(path, o) or filecmp.cmp(path, o, shallow=False) for o in others)

    return [path for path in second if is_there(path)]


def plain_name(path: str) -> str:
    """A file's name, the same whatever system wrote it."""
    return unicodedata.normalize("NFC", unquote(path)).replace("\\", "/").casefold()


def _to_rgb(image: Image.Image) -> Image.Image:
    # Older Pillows open 16-bit PNG files with mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image)
        used = int(values.max()).bit_length()
        image = Image.fromarray((values >> max(0, used + used % 2 - 8)).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"32-bit values (mode {image.mode}), whose range is unknown")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
