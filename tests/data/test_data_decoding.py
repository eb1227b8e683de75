"""Image files of all kinds, against values known by construction and against torchvision."""

import os
import socket
import struct

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import pil_loader

from bayesprune.data.decoding import decode, file_state
from bayesprune.errors import DataError

WIDTH, HEIGHT = 6, 5
ORIENTATION = 0x0112


def random_bytes(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def grey(pixels):
    """``pixels`` is three equal channels; gives one."""
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0]


SIXTEEN = np.array([[0, 500, 32768], [65278, 65535, 128]], dtype=np.uint16)
SIXTEEN_AS_BYTES = [[0, 2, 128], [254, 255, 0]]  # 255 v / 65535: 1.95, 127.50, 254.00, 0.50 (128 is 0.498)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, name):
    Image.fromarray(SIXTEEN).save(tmp_path / name)
    assert grey(decode(str(tmp_path / name))).tolist() == SIXTEEN_AS_BYTES


def test_a_tiff_of_twelve_bits_is_white_at_4095(tmp_path):
    path = tmp_path / "a.tiff"
    path.write_bytes(twelve_bit_tiff([0, 2048, 4095, 16]))
    assert grey(decode(str(path))).tolist() == [[0, 128, 255, 1]]


def twelve_bit_tiff(values):
    """One row of an even number of 12-bit samples as a TIFF, most significant bits first."""
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(values[::2], values[1::2], strict=True)
    )
    tags = [(256, 3, len(values)), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 0), (277, 3, 1)]
    tags += [(278, 3, 1), (279, 4, len(packed))]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, start if tag == 273 else value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + packed


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_what_a_png_holds_is_what_torchvision_reads(tmp_path, mode):
    path = str(tmp_path / "a.png")
    Image.fromarray(random_bytes(HEIGHT, WIDTH, 4), "RGBA").convert("RGB").convert(mode).save(path)
    assert (decode(path) == np.asarray(pil_loader(path))).all()


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "a.jpg"), ("YCbCr", "a.jpg"), ("CMYK", "a.tif"), ("LAB", "a.tif")])
def test_other_colours_are_those_of_torchvision(tmp_path, mode, name):
    path = str(tmp_path / name)
    channels = len(mode) if mode != "YCbCr" else 3
    Image.frombytes(mode, (WIDTH, HEIGHT), random_bytes(HEIGHT, WIDTH, channels).tobytes()).save(path)
    assert (decode(path) == np.asarray(pil_loader(path))).all()


def test_a_palette_with_transparency_gives_no_warning(tmp_path):
    path = str(tmp_path / "a.png")
    picture = Image.fromarray(random_bytes(HEIGHT, WIDTH) % 4, "P")
    colours = random_bytes(4, 3)
    picture.putpalette(colours.tobytes())
    picture.save(path, transparency=bytes([0, 100, 200, 255]))
    assert (decode(path) == colours[random_bytes(HEIGHT, WIDTH) % 4]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("sixteen", [False, True])
def test_images_are_turned_as_their_orientation_says(tmp_path, orientation, sixteen):
    path = str(tmp_path / "a.png")
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # How a camera stores an upright picture under each orientation, by the table of the EXIF standard.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = stored.astype(np.uint16) * 257 if sixteen else stored
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)
    assert grey(decode(path)).tolist() == upright.tolist()


@pytest.mark.parametrize(("kind", "says"), [(np.float32, "floats"), (np.int32, "integers of 32 bits")])
def test_samples_without_a_known_white_are_refused(tmp_path, kind, says):
    path = str(tmp_path / "a.tiff")
    Image.fromarray(np.ones((2, 2), kind)).save(path)
    with pytest.raises(DataError, match=rf"a.tiff, could not read it: its samples are {says}.*8 or 16 bits"):
        decode(path)


def test_a_picture_too_large_to_decode_is_refused(tmp_path, monkeypatch):
    path = str(tmp_path / "a.png")
    Image.new("1", (300, 300)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"a.png, could not read it: .*exceeds limit"):
        decode(path)


def test_every_beginning_of_a_file_is_read_or_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(random_bytes(HEIGHT, WIDTH, 3)).save(path)
    content = path.read_bytes()
    whole = decode(str(path))
    for length in range(len(content)):
        path.write_bytes(content[:length])
        try:
            assert decode(str(path)).shape == whole.shape
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    address = tmp_path / "s.png"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
        for path in (pipe, address, "/dev/zero"):
            with pytest.raises(DataError, match=f"expected an image in {path}, .* a pipe, a socket or a device"):
                file_state(str(path))
