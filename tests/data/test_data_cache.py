"""The file of decoded images: used while nothing changed, never trusted when damaged."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from bayesprune.data import folder as folder_module
from bayesprune.data import load
from bayesprune.data.cache import read_cache, write_cache

CACHE = ".cache-bayesprune.safetensors"


@pytest.fixture
def pictures(tmp_path):
    """PATH/train and PATH/test with two classes of random 6×5 PNG pictures."""
    generator = np.random.default_rng(0)
    path = tmp_path / "pictures"
    for part, count in (("train", 4), ("test", 2)):
        for name in ("ant", "bee"):
            (path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / part / name / f"{number}.png")
    return path


@pytest.fixture
def decoded(monkeypatch):
    """The numbers of pictures decoded since, one entry a split."""
    counts = []
    decode = folder_module._decode

    def counting(paths):
        counts.append(len(paths))
        return decode(paths)

    monkeypatch.setattr(folder_module, "_decode", counting)
    return counts


def content(path, limit=None):
    """All tensors of the data set in ``path``."""
    splits = load(f"imagefolder:{path}", limit=limit)
    return [t for split in (splits.train, splits.test) for t in (split.images, split.labels, split.mean, split.std)]


def equal(first, second):
    return all(a.equal(b) and a.dtype == b.dtype for a, b in zip(first, second, strict=True))


def test_the_second_run_reads_what_the_first_decoded(pictures, decoded):
    before = sorted(pictures.rglob("*"))
    first = content(pictures)
    assert decoded == [8, 4]
    assert sorted(pictures.rglob("*")) == sorted([*before, pictures / CACHE])
    written = (pictures / CACHE).stat().st_mtime_ns
    assert equal(content(pictures), first)
    assert decoded == [8, 4] and (pictures / CACHE).stat().st_mtime_ns == written


def test_a_limit_needs_no_file_of_its_own(pictures, decoded):
    fresh = content(pictures, limit=6)
    whole = content(pictures)
    assert equal(content(pictures, limit=6), fresh)
    assert decoded == [8, 4]
    assert [len(t) for t in fresh[:2]] == [6, 6] and len(whole[0]) == 8


def test_the_folder_may_be_moved_and_called_by_another_name(pictures, decoded, monkeypatch):
    first = content(pictures)
    moved = pictures.rename(pictures.parent / "moved")
    assert equal(content(moved), first)
    monkeypatch.chdir(moved)
    assert equal(content("."), first)
    assert decoded == [8, 4]


def rewrite(pictures):
    path = pictures / "train" / "bee" / "1.png"
    state = path.stat()
    Image.new("RGB", (6, 5), color=(9, 8, 7)).save(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # only the size tells


def touch(pictures):
    path = pictures / "test" / "ant" / "0.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def remove(pictures):
    (pictures / "train" / "ant" / "3.png").unlink()


def add(pictures):
    Image.new("RGB", (6, 5)).save(pictures / "test" / "bee" / "2.png")


def rename(pictures):
    (pictures / "train" / "ant" / "0.png").rename(pictures / "train" / "ant" / "9.png")


def swap_splits(pictures):
    for old, new in (("train", "x"), ("test", "train"), ("x", "test")):
        (pictures / old).rename(pictures / new)


@pytest.mark.parametrize("change", [rewrite, touch, remove, add, rename, swap_splits])
def test_changed_pictures_are_decoded_again(pictures, decoded, change):
    content(pictures)
    change(pictures)
    second = content(pictures)
    assert len(decoded) == 4
    assert equal(content(pictures), second) and len(decoded) == 4
    (pictures / CACHE).unlink()
    assert equal(content(pictures), second)


def test_other_files_do_not_matter(pictures, decoded):
    content(pictures)
    (pictures / "train" / "ant" / "notes.txt").write_text("not a picture")
    content(pictures)
    assert decoded == [8, 4]


def parts(path):
    """Tensors and metadata of a cache."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in ("train", "test")}, file.metadata()


def truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path):
    path.write_bytes(b"")


def overwritten(path):
    path.write_bytes(b"nonsense" * 50)


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_dtype(path):
    tensors, metadata = parts(path)
    save_file({name: t.to(torch.int32) for name, t in tensors.items()}, path, metadata)


def other_shape(path):
    tensors, metadata = parts(path)
    save_file({name: t.view(len(t), 3, 6, 5) for name, t in tensors.items()}, path, metadata)


def one_split(path):
    tensors, metadata = parts(path)
    save_file({"train": tensors["train"]}, path, metadata)


def no_metadata(path):
    save_file(parts(path)[0], path)


def a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [truncated, emptied, overwritten, one_bit, other_dtype, other_shape, one_split, no_metadata]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_again(pictures, decoded, damage):
    first = content(pictures)
    whole = (pictures / CACHE).read_bytes()
    damage(pictures / CACHE)
    assert (pictures / CACHE).read_bytes() != whole
    assert equal(content(pictures), first)
    assert equal(content(pictures), first)
    assert decoded == [8, 4, 8, 4]


def test_where_the_file_cannot_be_written_every_run_decodes(pictures, decoded):
    first = content(pictures)
    a_folder(pictures / CACHE)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"could not keep the decoded images in .*\.cache-bayesprune") as caught:
            assert equal(content(pictures), first)
        assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert len(decoded) == 6
    assert [path.name for path in pictures.iterdir() if path.name.startswith(".")] == [CACHE]


def test_a_picture_that_is_not_there(pictures):
    content(pictures)
    lost = pictures / "train" / "ant" / "0.png"
    lost.unlink()
    lost.symlink_to(pictures / "nowhere.png")
    with pytest.raises(ValueError, match=rf"expected an image in {lost}, could not read it: .*replace or remove it"):
        load(f"imagefolder:{pictures}")


def test_wrong_images_are_refused_even_when_their_checksum_is_right(tmp_path):
    path = Path(tmp_path) / "cache"
    good = {"train": torch.ones(4, 3, 2, 2, dtype=torch.uint8), "test": torch.zeros(2, 3, 2, 2, dtype=torch.uint8)}
    counts = {"train": 4, "test": 2}
    write_cache(path, "key", good)
    found = read_cache(path, "key", counts)
    assert found is not None and found["train"].equal(good["train"]) and found["test"].equal(good["test"])
    assert read_cache(path, "another key", counts) is None
    assert read_cache(path, "key", {"train": 3, "test": 2}) is None
    for bad in (torch.ones(4, 1, 2, 2, dtype=torch.uint8), torch.ones(4, 3, 2, 2), torch.ones(4, 3, dtype=torch.uint8)):
        write_cache(path, "key", {**good, "train": bad})
        assert read_cache(path, "key", counts) is None
