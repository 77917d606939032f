"""A tiny tree of every published dataset layout: the publishers' folders and names, pictures of a few pixels."""

import csv
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX = 8
"""Of pictures and of masks, unless a test asks for another."""

CIFAR_ROW_BYTES = 3 * 32 * 32


def write_pictures(folder: Path, names: Sequence[str]) -> None:
    """Coloured noise, another for each path, in the format that the name's suffix says."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        noise = _noise(f"{folder.parent.name}/{folder.name}/{name}", (SIDE_PX, SIDE_PX, 3))
        Image.fromarray(noise).save(folder / name)


def write_masks(folder: Path, names: Sequence[str], *, side_px: int = SIDE_PX, level: int = 1) -> None:
    """A square of half the side on black; as dark as VisA's masks are, so that a threshold would lose it."""
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((side_px, side_px), np.uint8)
    mask[: side_px // 2, : side_px // 2] = level
    for name in names:
        Image.fromarray(mask).save(folder / name)


def write_split(root: Path, rows: Sequence[tuple[str, str, str, str, str]]) -> None:
    """VisA's one-class split; a row is object, split, label, image, mask."""
    path = root / "split_csv" / "1cls.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("object", "split", "label", "image", "mask"), *rows])


def write_pickle(path: Path, content: object, *, protocol: int = 2) -> None:
    """A pickle of protocol 2, the one in which CIFAR was published, or of another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def mvtec(root: Path, *, name: str = "bottle") -> Path:
    """MVTec AD: one category with ``train/good``, ``test/<kind>`` and ``ground_truth/<kind>``."""
    category = root / name
    write_pictures(category / "train" / "good", ["000.png", "001.png"])
    write_pictures(category / "test" / "good", ["000.png"])
    write_pictures(category / "test" / "crack", ["000.png", "001.png"])
    write_masks(category / "ground_truth" / "crack", ["000_mask.png", "001_mask.png"])
    return root


def mvtec2(root: Path) -> Path:
    """MVTec AD 2: good images in ``train`` and ``validation``, a public test, and two private ones without answers."""
    category = root / "can"
    public = category / "test_public"
    write_pictures(category / "train" / "good", ["000_regular.png", "001_regular.png"])
    write_pictures(category / "validation" / "good", ["000_regular.png"])
    write_pictures(public / "good", ["000_regular.png"])
    write_pictures(public / "bad", ["000_regular.png", "001_overexposed.png"])
    write_masks(public / "ground_truth" / "bad", ["000_regular_mask.png", "001_overexposed_mask.png"])
    write_pictures(category / "test_private", ["000_regular.png"])
    write_pictures(category / "test_private_mixed", ["000_mixed.png"])
    return root


def visa(root: Path) -> Path:
    """VisA: ``<object>/Data`` with images and masks, and ``split_csv/1cls.csv`` that says which is for what."""
    normal, anomaly = "candle/Data/Images/Normal", "candle/Data/Images/Anomaly"
    masks = "candle/Data/Masks/Anomaly"
    write_pictures(root / normal, ["0000.JPG", "0001.JPG", "0002.JPG"])
    write_pictures(root / anomaly, ["000.JPG"])
    write_masks(root / masks, ["000.png"])
    write_split(
        root,
        [
            ("candle", "train", "normal", f"{normal}/0000.JPG", ""),
            ("candle", "train", "normal", f"{normal}/0001.JPG", ""),
            ("candle", "test", "normal", f"{normal}/0002.JPG", ""),
            ("candle", "test", "anomaly", f"{anomaly}/000.JPG", f"{masks}/000.png"),
        ],
    )
    return root


def btad(root: Path) -> Path:
    """BTAD: products by number, ``ok`` and ``ko``; the first in BMP with PNG masks, the second in PNG."""
    for product, suffix in (("01", "bmp"), ("02", "png")):
        write_pictures(root / product / "train" / "ok", [f"0000.{suffix}", f"0001.{suffix}"])
        write_pictures(root / product / "test" / "ok", [f"0000.{suffix}"])
        write_pictures(root / product / "test" / "ko", [f"0001.{suffix}"])
        write_masks(root / product / "ground_truth" / "ko", ["0001.png"])
    return root


def mtd(root: Path) -> Path:
    """The magnetic tiles: ``MT_<kind>/Imgs`` with each photograph beside its mask, which is black for a free tile."""
    free = [f"exp1_num_{number}" for number in range(10)]
    write_pictures(root / "MT_Free" / "Imgs", [f"{stem}.jpg" for stem in free])
    write_masks(root / "MT_Free" / "Imgs", [f"{stem}.png" for stem in free], level=0)
    for kind in ("Blowhole", "Crack"):
        write_pictures(root / f"MT_{kind}" / "Imgs", ["exp2_num_0.jpg"])
        write_masks(root / f"MT_{kind}" / "Imgs", ["exp2_num_0.png"])
    return root


def casting(root: Path) -> Path:
    """The casting products as their archive unpacks: ``casting_data`` twice over, beside larger unsplit pictures."""
    base = root / "casting_data" / "casting_data"
    write_pictures(base / "train" / "ok_front", ["cast_ok_0_1.jpeg", "cast_ok_0_2.jpeg"])
    write_pictures(base / "train" / "def_front", ["cast_def_0_1.jpeg"])
    write_pictures(base / "test" / "ok_front", ["cast_ok_0_3.jpeg", "cast_ok_0_4.jpeg"])
    write_pictures(base / "test" / "def_front", ["cast_def_0_2.jpeg"])
    write_pictures(root / "casting_512x512" / "casting_512x512" / "ok_front", ["cast_ok_0_1.jpeg"])
    return root


def textiles(root: Path) -> Path:
    """The simulated textiles: ``nominal``, ``local`` and ``global``, neither split nor masked."""
    write_pictures(root / "nominal", [f"nominal_{number}.jpg" for number in range(1, 6)])
    for kind in ("local", "global"):
        write_pictures(root / kind, [f"{kind}_{number}.jpg" for number in range(1, 3)])
    return root


def cifar10(root: Path, *, protocol: int = 2) -> Path:
    """CIFAR-10 for Python: two batches and the test, in each of which three classes take turns."""
    folder = root / "cifar-10-batches-py"
    meta = {b"label_names": [b"airplane", b"automobile", b"bird"], b"num_vis": CIFAR_ROW_BYTES}
    write_pickle(folder / "batches.meta", meta, protocol=protocol)
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        labels = [0, 1, 2] * 2
        batch = {b"batch_label": name.encode(), b"labels": labels, b"data": _cifar_rows(name, len(labels))}
        write_pickle(folder / name, batch, protocol=protocol)
    return root


def cifar100(root: Path) -> Path:
    """CIFAR-100 for Python: ``train`` and ``test``, labelled with fine classes and with their superclasses."""
    folder = root / "cifar-100-python"
    fine_names, coarse_names = [b"orchid", b"poppy", b"shark"], [b"fish", b"flowers"]
    write_pickle(folder / "meta", {b"fine_label_names": fine_names, b"coarse_label_names": coarse_names})
    for name in ("train", "test"):
        content = {b"fine_labels": [2, 0, 1], b"coarse_labels": [0, 1, 1], b"data": _cifar_rows(name, 3)}
        write_pickle(folder / name, content)
    return root


def species(root: Path) -> Path:
    """Species as one class against the rest: a folder for each class, with a blank in a name, and no split lists."""
    for label in ("agaricus augustus", "umbra_limi"):
        write_pictures(root / "one_class_train" / label, ["10026878.jpeg", "10126060.jpg"])
        write_pictures(root / "one_class_test" / label, ["10200001.jpeg", "10200002.jpg"])
    return root


def _cifar_rows(name: str, n_rows: int) -> np.ndarray:
    return _noise(name, (n_rows, CIFAR_ROW_BYTES))


def _noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, shape, np.uint8)
