"""Published figures stand beside ours only where the dataset is the same."""

from pathlib import Path

import pytest

from bank_tools.datasets import Category, Dataset
from bank_tools.evaluation.published import ABLATE, CLUSTER, DEFECT, MVTEC_AD, SEMANTIC, published


def dataset(names: list[str], *, name: str = "set", layout: str = "mvtec") -> Dataset:
    categories = tuple(Category(name=one, good=(), test=()) for one in names)
    return Dataset(name=name, root=Path(name), layout=layout, categories=categories)


def test_the_fifteen_products_of_mvtec_ad_have_figures_for_every_task() -> None:
    whole = dataset(sorted(MVTEC_AD))
    assert {(one.metric, one.value) for one in published(whole, DEFECT)} >= {
        ("image AUROC", 0.9932),
        ("pixel AUROC", 0.9848),
    }
    assert len(published(whole, CLUSTER)) == 12
    assert ("bpm-kernel=1", 0.93) in {(one.setting, one.value) for one in published(whole, ABLATE)}


@pytest.mark.parametrize("names", [["bottle"], [*sorted(MVTEC_AD), "bolt"], ["mtd"]])
def test_a_part_of_it_or_another_set_has_none(names: list[str]) -> None:
    assert published(dataset(names), DEFECT) == ()


def test_one_class_sets_are_told_by_layout_name_and_number_of_classes() -> None:
    classes = [str(index) for index in range(60)]
    assert published(dataset(classes[:10], layout="cifar"), SEMANTIC)[0].value == 0.947
    assert published(dataset(classes[:30], name="ImageNet-30", layout="classes"), SEMANTIC)[0].value == 0.976
    assert published(dataset(classes, name="species_60", layout="classes"), SEMANTIC)[0].value == 0.9264
    assert published(dataset(classes[:30], name="flowers", layout="classes"), SEMANTIC) == ()
