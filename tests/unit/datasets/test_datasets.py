"""Each published layout is read as its publishers meant it; a wrong tree is drawn beside the right one."""

import hashlib
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bank_tools.datasets import LAYOUTS, Category, Dataset, read_dataset
from bank_tools.datasets.classes import SPECIES_60
from edge_uad.errors import FrameError, UsageError
from tests import dataset_trees as trees


def only_category(dataset: Dataset) -> Category:
    (category,) = dataset.categories
    return category


def kinds(category: Category) -> Counter[tuple[str, bool, bool]]:
    return Counter((sample.kind, sample.anomalous, sample.mask_path is not None) for sample in category.test)


@pytest.mark.parametrize(
    ("write", "layout", "good", "test"),
    [
        (trees.mvtec, "mvtec", 2, {("good", False, False): 1, ("crack", True, True): 2}),
        (trees.mvtec2, "mvtec2", 3, {("good", False, False): 1, ("bad", True, True): 2}),
        (trees.visa, "visa", 2, {("good", False, False): 1, ("anomaly", True, True): 1}),
        (trees.mtd, "mtd", 8, {("good", False, True): 2, ("blowhole", True, True): 1, ("crack", True, True): 1}),
        (trees.casting, "casting", 2, {("good", False, False): 2, ("def_front", True, False): 1}),
        (
            trees.textiles,
            "textiles",
            3,
            {("good", False, False): 2, ("local", True, False): 2, ("global", True, False): 2},
        ),
    ],
)
def test_a_defect_set_is_recognised_and_read(
    tmp_path: Path,
    write: Callable[[Path], Path],
    layout: str,
    good: int,
    test: dict[tuple[str, bool, bool], int],
) -> None:
    dataset = read_dataset(write(tmp_path))

    category = only_category(dataset)
    assert dataset.layout == layout
    assert not dataset.labelled_classes
    assert len(category.good) == good
    assert kinds(category) == test
    names = [sample.name for sample in category.good + category.test]
    assert len(set(names)) == len(names)
    for sample in category.good + category.test:
        assert sample.image().shape == (trees.SIDE_PX, trees.SIDE_PX, 3)
        mask = sample.mask((trees.SIDE_PX, trees.SIDE_PX))
        if sample.mask_path is not None:
            assert mask is not None
            expected = (trees.SIDE_PX // 2) ** 2 if sample.anomalous else 0
            assert mask.defect.sum() == expected, "what is not black is anomalous, however dark"
        elif sample.anomalous:
            assert mask is None, "nobody knows where the anomaly is"
        else:
            assert mask is not None
            assert not mask.defect.any()
    assert read_dataset(tmp_path, layout=layout).categories == dataset.categories


def test_btad_has_a_category_for_each_product_and_masks_of_another_suffix(tmp_path: Path) -> None:
    dataset = read_dataset(trees.btad(tmp_path))

    assert dataset.layout == "btad"
    assert [category.name for category in dataset.categories] == ["01", "02"]
    for category in dataset.categories:
        assert kinds(category) == {("good", False, False): 1, ("ko", True, True): 1}


def test_the_split_of_a_set_without_one_is_the_same_every_time_and_keeps_test_tiles_apart(tmp_path: Path) -> None:
    category = only_category(read_dataset(trees.mtd(tmp_path)))

    learned = {sample.name for sample in category.good}
    scored = {sample.name for sample in category.test}
    assert not learned & scored
    assert category == only_category(read_dataset(tmp_path))


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_10_is_read_from_its_pickles_as_one_class_against_the_rest(tmp_path: Path, protocol: int) -> None:
    dataset = read_dataset(trees.cifar10(tmp_path, protocol=protocol))

    assert dataset.layout == "cifar"
    assert dataset.labelled_classes
    assert [category.name for category in dataset.categories] == ["airplane", "automobile", "bird"]
    bird = dataset.categories[2]
    assert [sample.name for sample in bird.good] == [
        "data_batch_1:2",
        "data_batch_1:5",
        "data_batch_2:2",
        "data_batch_2:5",
    ]
    assert [sample.anomalous for sample in bird.test] == [True, True, False] * 2
    assert bird.warnings == (), "classes have no masks, and nobody misses them"


def test_a_cifar_row_is_all_red_then_all_green_then_all_blue(tmp_path: Path) -> None:
    trees.cifar10(tmp_path)
    with (tmp_path / "cifar-10-batches-py" / "test_batch").open("rb") as file:
        row = pickle.load(file)[b"data"][0]  # noqa: S301  # the test wrote it

    sample = read_dataset(tmp_path).categories[0].test[0]

    image = sample.image()
    assert image.shape == (32, 32, 3)
    assert image[0, 1].tolist() == [row[1], row[1024 + 1], row[2048 + 1]]
    assert image[1, 0].tolist() == [row[32], row[1024 + 32], row[2048 + 32]]
    assert sample.digest() == hashlib.sha256(b"32x32:" + row.tobytes()).hexdigest()


def test_cifar_100_is_judged_by_its_superclasses(tmp_path: Path) -> None:
    dataset = read_dataset(trees.cifar100(tmp_path))

    assert [category.name for category in dataset.categories] == ["fish", "flowers"]
    assert [sample.anomalous for sample in dataset.categories[1].test] == [True, False, False]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this ran while a file was read",)


@pytest.mark.parametrize(
    "content",
    [
        {b"data": Evil(), b"labels": []},
        [1, 2, 3],
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), object), b"labels": [0, 1]},
        {b"data": np.zeros((2, 100), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 3]},
    ],
)
def test_a_pickle_that_is_not_cifar_is_refused_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object
) -> None:
    trees.cifar10(tmp_path)
    trees.write_pickle(tmp_path / "cifar-10-batches-py" / "test_batch", content)

    with pytest.raises(UsageError, match=r"test_batch .*fetch it again"):
        read_dataset(tmp_path)

    assert capsys.readouterr().out == ""


def test_a_damaged_pickle_is_refused(tmp_path: Path) -> None:
    batch = trees.cifar10(tmp_path) / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:-3000])

    with pytest.raises(UsageError, match="data_batch_2 is not a CIFAR pickle"):
        read_dataset(tmp_path)


def test_folders_of_classes_are_one_class_against_the_rest(tmp_path: Path) -> None:
    dataset = read_dataset(trees.species(tmp_path))

    assert dataset.layout == "classes"
    assert dataset.labelled_classes
    mushroom, fish = dataset.categories
    assert [sample.name for sample in fish.good] == [
        "one_class_train/umbra_limi/10026878.jpeg",
        "one_class_train/umbra_limi/10126060.jpg",
    ]
    assert [sample.anomalous for sample in mushroom.test] == [False, False, True, True]
    assert [sample.anomalous for sample in fish.test] == [True, True, False, False]
    assert [sample.kind for sample in fish.test] == ["agaricus augustus"] * 2 + ["umbra_limi"] * 2


def test_of_all_species_the_sixty_of_the_paper_are_read(tmp_path: Path) -> None:
    for label in (*SPECIES_60, "homo_sapiens"):
        for split in ("one_class_train", "one_class_test"):
            trees.write_pictures(tmp_path / split / label, ["1.png"])

    dataset = read_dataset(tmp_path)

    assert dataset.layout == "species60"
    assert [category.name for category in dataset.categories] == list(SPECIES_60)
    assert {len(category.test) for category in dataset.categories} == {60}
    assert len(read_dataset(tmp_path, layout="classes").categories) == 61


def test_a_split_list_says_which_pictures_count(tmp_path: Path) -> None:
    trees.species(tmp_path)
    (tmp_path / "one_class_train.txt").write_text("agaricus augustus/10026878.jpeg 0\numbra_limi/10126060.jpg 1\n")

    dataset = read_dataset(tmp_path)

    assert [[sample.name for sample in category.good] for category in dataset.categories] == [
        ["one_class_train/agaricus augustus/10026878.jpeg"],
        ["one_class_train/umbra_limi/10126060.jpg"],
    ]
    assert len(dataset.categories[0].test) == 4


def test_a_split_list_that_names_what_is_not_there_is_refused(tmp_path: Path) -> None:
    trees.species(tmp_path)
    (tmp_path / "one_class_test.txt").write_text("umbra_limi/1.jpg\n")

    with pytest.raises(UsageError, match=r"one_class_test.txt lists 1 picture .*umbra_limi/1.jpg"):
        read_dataset(tmp_path)


def test_one_category_is_a_dataset_as_well(tmp_path: Path) -> None:
    dataset = read_dataset(trees.mvtec(tmp_path) / "bottle")

    assert only_category(dataset).name == "bottle"
    assert only_category(dataset) == only_category(read_dataset(tmp_path))


def test_categories_are_chosen_by_name_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    trees.mvtec(tmp_path, name="bottle")
    trees.mvtec(tmp_path, name="cable")

    assert only_category(read_dataset(tmp_path, categories=["cable"])).name == "cable"
    with pytest.raises(UsageError, match="no category 'screw'; there are bottle, cable"):
        read_dataset(tmp_path, categories=["screw"])


def test_a_wrong_tree_is_drawn_beside_the_right_one(tmp_path: Path) -> None:
    trees.write_pictures(tmp_path / "Good Ones", ["1.png", "2.png"])
    (tmp_path / "notes.txt").write_text("…")

    with pytest.raises(UsageError) as caught:
        read_dataset(tmp_path, layout="visa")

    lines = str(caught.value).splitlines()
    assert "is not laid out as VisA" in lines[0]
    assert lines[2].split() == ["expected", "found"]
    assert lines[3].startswith("ROOT/")
    assert lines[3].endswith(f"{tmp_path.name}/  notes.txt")
    assert lines[4].startswith("├── split_csv/")
    assert lines[4].endswith("└── Good Ones/  2 images")


def test_without_a_layout_a_strange_tree_is_shown_the_common_one(tmp_path: Path) -> None:
    trees.write_pictures(tmp_path / "somewhere", ["1.png"])

    with pytest.raises(UsageError, match="has none of the known layouts") as caught:
        read_dataset(tmp_path)

    assert "ground_truth/" in str(caught.value)
    assert all(layout in str(caught.value) for layout in LAYOUTS)


def test_a_defect_set_reordered_by_kind_is_not_taken_for_classes(tmp_path: Path) -> None:
    trees.write_pictures(tmp_path / "train" / "bottle_good", ["000.png"])
    trees.write_pictures(tmp_path / "test" / "bottle_broken", ["000.png"])
    trees.write_masks(tmp_path / "ground_truth" / "bottle_broken", ["000_mask.png"])

    with pytest.raises(UsageError, match="known layouts"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("root", ["nowhere", "file.txt"])
def test_a_root_that_is_no_folder_is_refused(tmp_path: Path, root: str) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UsageError, match="no such folder"):
        read_dataset(tmp_path / root)


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no layout 'coco'; there are auto, visa"):
        read_dataset(tmp_path, layout="coco")


def test_a_category_without_good_images_is_refused(tmp_path: Path) -> None:
    for picture in (trees.mvtec(tmp_path) / "bottle" / "train" / "good").iterdir():
        picture.unlink()

    with pytest.raises(UsageError, match="bottle has no good image to learn from"):
        read_dataset(tmp_path)


def test_a_category_without_test_images_is_refused_unless_it_is_left_out(tmp_path: Path) -> None:
    trees.mvtec(tmp_path)
    trees.write_pictures(tmp_path / "cable" / "train" / "good", ["000.png"])

    with pytest.raises(UsageError, match="cable has no test image to score"):
        read_dataset(tmp_path)
    assert only_category(read_dataset(tmp_path, categories=["bottle"])).name == "bottle"


def test_what_costs_a_metric_is_told(tmp_path: Path) -> None:
    trees.write_pictures(tmp_path / "only_good" / "train" / "good", ["0.png"])
    trees.write_pictures(tmp_path / "only_good" / "test" / "good", ["0.png"])
    trees.write_pictures(tmp_path / "only_bad" / "train" / "good", ["0.png", "1.png"])
    trees.write_pictures(tmp_path / "only_bad" / "test" / "bent", ["0.png"])

    only_bad, only_good = read_dataset(tmp_path).categories

    assert only_good.warnings == (
        "only_good: one good image alone; a threshold calibrated on it says little about the next part",
        "only_good: no test image is anomalous; recall, AUROC and their like cannot be computed",
    )
    assert only_bad.warnings == (
        "only_bad: every test image is anomalous; AUROC and the false-alarm rate cannot be computed",
        "only_bad: no anomalous image has a mask; pixel metrics cannot be computed",
    )


def test_images_without_masks_and_masks_without_images_are_listed_by_name(tmp_path: Path) -> None:
    category = trees.mvtec(tmp_path) / "bottle"
    (category / "ground_truth" / "crack" / "001_mask.png").rename(category / "ground_truth" / "crack" / "010_mask.png")
    (category / "test" / "empty").mkdir()
    trees.write_masks(category / "ground_truth" / "dent", ["000_mask.png"])

    dataset = read_dataset(tmp_path)

    assert dataset.warnings == (
        "bottle/ground_truth/crack: 1 mask without image, left out: 010_mask.png",
        "bottle/test/empty: the folder holds no image",
        "bottle/ground_truth/dent: there are no test images of this kind",
        "bottle: 1 image of kind crack has no mask and counts in the image metrics alone: test/crack/001.png",
    )
    assert [sample.mask_path is not None for sample in only_category(dataset).test] == [True, False, False]


def test_files_among_the_images_that_are_not_read_are_counted_with_reasons(tmp_path: Path) -> None:
    category = trees.mvtec(tmp_path) / "bottle"
    crack = category / "test" / "crack"
    (crack / "notes.txt").write_text("no picture")
    (crack / "000").write_bytes((crack / "000.png").read_bytes())
    (crack / ".hidden.png").write_bytes((crack / "000.png").read_bytes())
    (crack / "gone.png").symlink_to(tmp_path / "nowhere.png")
    trees.write_pictures(crack / "more", ["000.png", "001.png"])
    trees.write_pictures(category / "test" / "@eaDir", ["000.png"])
    (category / "license.txt").write_text("not among images")

    dataset = read_dataset(tmp_path)

    left_out, below = dataset.warnings
    assert left_out.startswith("4 files or folders left out: ")
    for reason in (
        "1 without a known suffix (bottle/test/crack/notes.txt)",
        "1 without a suffix (bottle/test/crack/000)",
        "1 hidden (bottle/test/crack/.hidden.png)",
        "1 broken link (bottle/test/crack/gone.png)",
    ):
        assert reason in left_out
    assert below == (
        "2 images left out, in folders inside a folder of images: "
        "bottle/test/crack/more/000.png, bottle/test/crack/more/001.png"
    )
    assert {sample.kind for sample in only_category(dataset).test} == {"good", "crack"}


def test_a_class_folder_that_links_to_itself_is_read_once(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            trees.write_pictures(tmp_path / split / name, ["0.png", "1.png"])
    (tmp_path / "train" / "cat" / "again").symlink_to(tmp_path / "train" / "cat", target_is_directory=True)

    cat, dog = read_dataset(tmp_path, layout="classes").categories

    assert (len(cat.good), len(dog.good)) == (2, 2)
    assert "1 linked folder that is read already (train/cat/again)" in cat.warnings[0]


def test_masks_of_one_image_and_images_of_one_mask_are_counted(tmp_path: Path) -> None:
    category = trees.mvtec(tmp_path) / "bottle"
    trees.write_masks(category / "ground_truth" / "crack", ["000.png"], level=0)
    trees.write_pictures(category / "test" / "crack", ["001.bmp"])

    dataset = read_dataset(tmp_path)

    assert dataset.warnings == (
        "bottle/ground_truth/crack: 1 mask of an image that has another mask, left out: 000.png",
        "bottle: 2 images with a mask that is another image's too: test/crack/001.bmp, test/crack/001.png",
    )
    masks = [sample.mask_path for sample in only_category(dataset).test if sample.name == "test/crack/000.png"]
    assert masks == [category / "ground_truth" / "crack" / "000_mask.png"]


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    trees.write_masks(trees.mvtec(tmp_path) / "bottle" / "ground_truth" / "crack", ["000_mask.png"], side_px=6)
    sample = only_category(read_dataset(tmp_path)).test[0]

    with pytest.raises(FrameError, match=r"of another size than the image.* \(6×6, the image is 8×8\)"):
        sample.mask(sample.image().shape[:2])


def test_a_damaged_mask_is_refused(tmp_path: Path) -> None:
    mask = trees.mvtec(tmp_path) / "bottle" / "ground_truth" / "crack" / "000_mask.png"
    mask.write_bytes(mask.read_bytes()[:40])
    sample = only_category(read_dataset(tmp_path)).test[0]

    with pytest.raises(FrameError, match=r"mask 000_mask.png: unreadable"):
        sample.mask((8, 8))


def test_a_damaged_image_is_found_when_it_is_read_and_not_before(tmp_path: Path) -> None:
    (trees.mvtec(tmp_path) / "bottle" / "test" / "good" / "000.png").write_bytes(b"not a picture")

    sample = next(sample for sample in only_category(read_dataset(tmp_path)).test if not sample.anomalous)

    with pytest.raises(FrameError, match="not an image"):
        sample.image()
    assert sample.digest() == hashlib.sha256(b"not a picture").hexdigest()


def test_a_split_that_names_missing_files_or_files_elsewhere_leaves_them_out(tmp_path: Path) -> None:
    root = trees.visa(tmp_path / "visa")
    trees.write_pictures(tmp_path, ["outside.png"])
    normal = "candle/Data/Images/Normal"
    trees.write_split(
        root,
        [
            ("candle", "train", "normal", f"{normal}/0000.JPG", ""),
            ("candle", "train", "normal", f"{normal}/9999.JPG", ""),
            ("candle", "test", "normal", "../outside.png", ""),
            ("candle", "test", "normal", f"{normal}/0001.JPG", ""),
        ],
    )

    category = only_category(read_dataset(root))

    assert [sample.name for sample in category.good + category.test] == [f"{normal}/0000.JPG", f"{normal}/0001.JPG"]
    assert category.warnings[0] == (
        f"candle: 2 images of 1cls.csv not found and left out: {normal}/9999.JPG, ../outside.png"
    )


def test_a_split_without_its_columns_is_refused(tmp_path: Path) -> None:
    (trees.visa(tmp_path) / "split_csv" / "1cls.csv").write_text("image,label\na.JPG,normal\n")

    with pytest.raises(UsageError, match="has no column mask, object, split"):
        read_dataset(tmp_path)


def test_the_real_tiles_are_read(tiles: Path) -> None:
    category = only_category(read_dataset(tiles))

    assert len(category.good) + sum(not sample.anomalous for sample in category.test) == 952
    assert sum(sample.mask_path is not None for sample in category.test) == 392
    sample = category.test[0]
    mask = sample.mask(sample.image().shape[:2])
    assert mask is not None
    assert 0 < mask.defect.mean() < 0.5


def test_of_the_real_cookies_the_unmasked_ones_are_listed(cookies: Path) -> None:
    (warning,) = read_dataset(cookies).warnings

    assert "8 images of kind cracked_unmasked have no mask" in warning
