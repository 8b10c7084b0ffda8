"""A small dataset in COCO format, as the content of its file."""

from itertools import count

NAN, INF = float("nan"), float("inf")


numbers = count()


def annotation(number, bbox=(), image_id=1, **fields):
    """Each has a box of its own where none is given."""
    bbox = (10 + next(numbers) % 10_000 / 10_000, 20, 30, 40) if bbox == () else bbox
    box = {} if bbox is None else {"bbox": list(bbox) if isinstance(bbox, tuple) else bbox, "area": 1200}
    return {"id": number, "image_id": image_id, "category_id": 7, "iscrowd": 0, **box, **fields}


def dataset(*annotations, **lists):
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in (1, 2)],
        "categories": [{"id": 7, "name": "seven"}, {"id": 90, "name": "ninety"}],
        # so that each image and each class has a box
        "annotations": [annotation(50), annotation(51, image_id=2, category_id=90), *annotations],
        **lists,
    }


def without(entry, key):
    return {k: v for k, v in entry.items() if k != key}


IMAGE = dataset()["images"][0]
