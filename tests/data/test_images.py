"""An image is read as a viewer shows it, or refused by name."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from lors.data.images import BadImage, check_size, missing, read_image

RED, GREEN = (250, 20, 10), (10, 200, 30)


def two_halves(mode="RGB", size=(6, 4)):
    """Red left, green right."""
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (size[0] // 2, 0, *size))
    return image.convert(mode)


def save(image, path, **options):
    image.save(path, **options)
    return str(path)


def test_rgb(tmp_path):
    image = read_image(save(two_halves(), tmp_path / "a.png"))
    assert (image.shape, image.dtype) == ((4, 6, 3), np.uint8)
    assert (image[:, :3] == RED).all() and (image[:, 3:] == GREEN).all()


@pytest.mark.parametrize("mode, suffix", [("L", "png"), ("L", "jpg"), ("1", "png"), ("LA", "png")])
def test_grey(tmp_path, mode, suffix):
    path = save(Image.new("L", (5, 3), 255).convert(mode), tmp_path / f"a.{suffix}")
    assert (read_image(path) == np.full((3, 5, 3), 255)).all()
    path = save(two_halves("L"), tmp_path / "b.png")
    grey = read_image(path)
    assert (grey[..., 0] == grey[..., 1]).all() and (grey == np.asarray(two_halves("L"))[..., None]).all()


@pytest.mark.parametrize("suffix, dtype", [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2")])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, suffix, dtype):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=dtype)
    image = read_image(save(Image.fromarray(values), tmp_path / f"a.{suffix}"))
    assert image[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert image.shape == (1, 5, 3)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_cameras_of_fewer_bits_use_all_levels(tmp_path, bits):
    values = np.array([[0, 2 ** (bits - 1), 2**bits - 1]], dtype=np.uint16)
    image = read_image(save(Image.fromarray(values), tmp_path / "a.tif"))
    assert image[0, :, 0].tolist() == [0, 128, 255]


def test_16_bit_colour(tmp_path):
    # Pillow writes no such file: one pixel of 0x8001, 0x00ff, 0xffff
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\x80\x01\x00\xff\xff\xff")
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    assert read_image(str(tmp_path / "a.png")).tolist() == [[[0x80, 0, 0xFF]]]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_colours_of_print_and_video(tmp_path, mode):
    path = save(two_halves(mode, (64, 32)), tmp_path / "a.jpg", quality=100)
    image = read_image(path).astype(int)
    assert abs(image[:, :24] - RED).max() < 20 and abs(image[:, 40:] - GREEN).max() < 20


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_white(tmp_path, mode):
    path = tmp_path / "a.png"
    if mode in ("P", "RGB"):
        image = two_halves("RGB")
        image = image.quantize(2) if mode == "P" else image
        save(image, path, transparency=image.getpixel((0, 0)))
    else:
        image = two_halves(mode)
        alpha = Image.new("L", image.size, 255)
        alpha.paste(0, (0, 0, 3, 4))
        image.putalpha(alpha)
        save(image, path)
    read = read_image(str(path))
    assert (read[:, :3] == 255).all()
    assert (read[:, 3:] == read[0, 5]).all() and read[0, 5].min() < 200


def test_half_transparent(tmp_path):
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert abs(read_image(save(image, tmp_path / "a.png")).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(tmp_path, orientation):
    # EXIF says where row 0 and column 0 of what is stored are shown.
    shown = np.zeros((24, 40, 3), dtype=np.uint8)
    shown[:8], shown[:, :8, 0] = (0, 0, 200), 200  # top blue, left red
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: shown.transpose(1, 0, 2)[::-1],
        7: shown.transpose(1, 0, 2)[::-1, ::-1],
        8: shown.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "a.png", exif=exif)
    assert (read_image(path) == shown).all()


def test_broken_exif_is_passed_over(tmp_path):
    path = save(two_halves(), tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage")
    assert read_image(path).shape == (4, 6, 3)


@pytest.mark.parametrize("size", [(1, 1), (32, 4000), (4000, 32)])
def test_odd_sizes(tmp_path, size):
    assert read_image(save(Image.new("RGB", size), tmp_path / "a.png")).shape == (size[1], size[0], 3)


def test_moving_pictures_give_their_first(tmp_path):
    first, second = Image.new("RGB", (3, 2), RED), Image.new("RGB", (3, 2), GREEN)
    path = save(first, tmp_path / "a.gif", save_all=True, append_images=[second])
    assert (read_image(path) == RED).all()


def bad_file(kind, folder):
    path = folder / f"{kind}.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "float":
        path = folder / "float.tif"
        Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(path)
    elif kind == "int":
        path = folder / "int.tif"
        Image.fromarray(np.zeros((2, 2), dtype=np.int32)).save(path)
    elif kind == "jpeg":
        path = folder / "jpeg.jpg"
        noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-400])
    elif kind in ("truncated", "header", "flipped"):
        noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noise).save(path)
        data = path.read_bytes()
        if kind == "flipped":
            data = data[:100] + bytes(b ^ 0xFF for b in data[100:2000]) + data[2000:]
        path.write_bytes(data[: {"truncated": -3000, "header": 20}.get(kind)])
    elif kind != "missing":
        path.write_bytes(
            {"empty": b"", "text": b"not an image\n" * 99, "signature": b"\x89PNG\r\n\x1a\n"}[kind]
        )
    return str(path)


BAD = {
    "missing": "No such file",
    "folder": "Is a directory",
    "empty": "not an image",
    "text": "not an image",
    "signature": "",
    "header": "",
    "truncated": "truncated",
    "jpeg": "truncated",
    "flipped": "",
    "float": "range is unknown",
    "int": "range is unknown",
}


@pytest.mark.parametrize("kind, reason", BAD.items(), ids=BAD.keys())
def test_bad_files_are_refused_by_name(tmp_path, kind, reason):
    path = bad_file(kind, tmp_path)
    with pytest.raises(BadImage) as error:
        read_image(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and len(text) > len(path) + 6
    assert reason in text and "\n" not in text


def test_too_large(tmp_path):
    path = save(Image.new("1", (300, 200)), tmp_path / "a.png")
    assert read_image(path, max_pixels=60_000).shape == (200, 300, 3)
    with pytest.raises(BadImage, match="a.png: 300 x 200 pixels, more than max_pixels=59999"):
        read_image(path, max_pixels=59_999)


def test_a_bomb_is_refused_before_it_goes_off(tmp_path):
    # A file of 300 bytes that says it has 60,000 x 60,000 pixels
    path = tmp_path / "a.png"
    Image.new("1", (300, 200)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(BadImage, match="a.png: .*3600000000 pixels"):
        read_image(str(path))


def test_size():
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    check_size("a.png", image, 6, 4)
    with pytest.raises(BadImage, match="a.png: 6 x 4 pixels, the dataset says 6 x 5$"):
        check_size("a.png", image, 6, 5)
    with pytest.raises(BadImage, match="says 4 x 6; perhaps .* EXIF"):
        check_size("a.png", image, 4, 6)


def test_what_a_worker_raises_is_one_line(tmp_path):
    path = str(tmp_path / "a: b.png")
    loader = DataLoader([path], batch_size=None, collate_fn=read_image, num_workers=1)
    with pytest.raises(BadImage) as error:
        next(iter(loader))
    assert str(error.value) == f"{path}: No such file or directory"
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_links_and_addresses_of_nothing_are_missing(tmp_path):
    (tmp_path / "there.png").touch()
    (tmp_path / "dead.png").symlink_to(tmp_path / "gone.png")
    paths = [str(tmp_path / name) for name in ("there.png", "dead.png", "https://example.com/a.png")]
    assert missing([*paths, "s3://bucket/a.png"]) == set(paths[1:])
