"""Pascal VOC's folders, https://host.robots.ox.ac.uk/pascal/VOC, as a dataset in COCO format."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from lors.data.problems import Problem
from lors.errors import UserError

# Some lists have the files' extensions.
_STEM = re.compile(r"\.(xml|jpe?g|png|bmp)$", re.IGNORECASE)


def is_voc(path: str) -> bool:
    """Whether it is a folder, or the list of an image set, rather than a JSON file."""
    return os.path.isdir(path) or path.endswith(".txt")


def image_folder(path: str) -> str:
    """Where the images of `read_voc`'s argument are: JPEGImages or images beside Annotations, or in it."""
    folder = _annotation_folder(Path(path))
    beside = (folder.parent / name for name in ("JPEGImages", "images", "Images"))
    return str(next(filter(Path.is_dir, beside), folder) if folder.name == "Annotations" else folder)


def read_voc(path: str, image_root: str) -> tuple[dict, list[Problem]]:
    """What a COCO-format file would hold, and the files of a folder that it leaves out.

    Args:
        path: a folder of XML files, or one with such a folder called Annotations; or an image set's list,
            ImageSets/Main/train.txt, with Annotations beside ImageSets.
        image_root: the folder of the images.

    VOC counts pixels from 1. An object that is "difficult" is to be ignored. Classes are sorted by name.

    Raises:
        UserError: there are no XML files of VOC's, one is missing, or broken.
    """
    folder = _annotation_folder(Path(path))
    if os.path.isdir(path):
        # A Mac leaves a file ._NAME beside each in an archive.
        files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() == ".xml" and f.name[:2] != "._"]
    else:
        lines = filter(None, map(str.strip, Path(path).read_text("utf-8-sig").splitlines()))
        files = [_listed(folder, line) for line in lines]
    images_of = defaultdict(list)
    for name in sorted(os.listdir(image_root)):
        if Path(name).suffix.lower() in Image.registered_extensions() and name[:2] != "._":
            images_of[Path(name).stem].append(name)
    images, objects, problems = [], [], []
    for number, file in enumerate(files, start=1):
        try:
            root = ElementTree.parse(file).getroot()
            if root.tag != "annotation":
                problems.append(Problem("not_voc", file.name, f"it holds <{root.tag}>, not <annotation>"))
                continue
            name = _image(images_of[file.stem], root.findtext("filename")) or file.stem
            width, height = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for found in root.iter("object"):
                if found.find("bndbox") is None:
                    turned = "; the turned ones of roLabelImg, <robndbox>, cannot be learnt"
                    raise ValueError(f"an object has no upright box, <bndbox>{turned}")
                corners = (found.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
                x0, y0, x1, y1 = map(float, corners)
                x0, y0 = max(x0 - 1, 0), max(y0 - 1, 0)
                w, h = x1 - x0, y1 - y0
                entry = {"id": len(objects) + 1, "image_id": number, "bbox": [x0, y0, w, h], "area": w * h}
                label, ignore = " ".join((found.findtext("name") or "").split()), found.findtext("difficult")
                objects.append({**entry, "category_id": label, "iscrowd": 0, "ignore": int(ignore or 0)})
        except FileNotFoundError as error:
            raise UserError(f"{path}: there is no {file}") from error
        except (ElementTree.ParseError, TypeError, ValueError) as error:
            raise UserError(f"{file}: not an annotation of Pascal VOC: {error}") from error
    if not images:
        raise UserError(f"{path}: there are no XML files of Pascal VOC in it")
    names = sorted({entry["category_id"] for entry in objects})
    for entry in objects:
        entry["category_id"] = names.index(entry["category_id"]) + 1
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    annotated = {file.stem for file in files}
    problems += [
        Problem("no_xml", name, f"there is no annotation {stem}.xml in {folder}")
        for stem, found in images_of.items()
        for name in (found if os.path.isdir(path) and stem not in annotated else ())
    ]
    return {"images": images, "annotations": objects, "categories": categories}, problems


def _annotation_folder(path: Path) -> Path:
    if path.is_dir():
        return path / "Annotations" if (path / "Annotations").is_dir() else path
    folder = path.absolute().parent.parent.parent / "Annotations"
    if not folder.is_dir():
        raise UserError(f"{path}: there is no {folder}; VOC's lists lie in ImageSets/Main beside Annotations")
    return folder


def _listed(folder: Path, line: str) -> Path:
    """The XML file of a line; lists of a single class have a second column."""
    whole, first = (folder / f"{_STEM.sub('', name)}.xml" for name in (line, line.split()[0]))
    return whole if whole.is_file() else first


def _image(found: list[str], named: str | None) -> str | None:
    """Of the images with an XML file's name, the one that it names; beside an image may lie a mask."""
    if len(found) > 1 and named not in found:
        raise ValueError(f"its image may be {' or '.join(found)}, and <filename> is {named}")
    return named if len(found) != 1 else found[0]
