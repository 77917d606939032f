"""What the trials of turned views, registration and score rules compute is what their tables say."""

import numpy as np
import pytest

from benchmarks.registration import moved, moves_of, nearest_of
from benchmarks.rotations import turned
from benchmarks.score_rules import power_mean, several_tops, soft_maximum, top, top_of_area
from tests.banks import level_rows


def test_a_turn_and_the_turn_back_give_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    np.testing.assert_array_equal(turned(turned(image, 90), 270), image)
    np.testing.assert_array_equal(turned(image, 0, mirrored=True), image[:, ::-1])
    smooth = np.full((40, 56, 3), 90, np.uint8)
    smooth[15:25, 20:36] = 200
    back = turned(turned(smooth, 30), -30)
    assert back.shape == smooth.shape
    assert np.abs(back.astype(int) - smooth).mean() < 5


def test_a_picture_that_is_shifted_is_moved_back() -> None:
    picture = np.full((224, 224, 3), 60, np.uint8)
    picture[60:150, 80:170] = 200
    picture[90:110, 100:150] = 20
    shifted = moved(picture, np.asarray([[1, 0, 6], [0, 1, -4]], np.float32))
    moves, n_failed = moves_of([picture, picture, shifted], 2)
    assert n_failed == 0
    np.testing.assert_allclose(moves[2][:, 2], (-6, 4), atol=0.5)
    assert np.abs(moved(shifted, moves[2]).astype(int) - picture).mean() < 2


def test_a_search_near_by_finds_only_what_is_allowed() -> None:
    rng = np.random.default_rng(0)
    bank = level_rows(rng, 12, 16, 2)
    allowed = np.zeros((3, 12), np.bool_)
    allowed[:, 4:] = True
    anywhere, near = nearest_of(bank[:3], bank, [None, allowed], levels=2)
    np.testing.assert_allclose(anywhere, 0, atol=1e-5)
    halves = slice(8), slice(8, 16)
    expected = [
        np.mean([2 * ((row[half] - bank[4:, half]) ** 2).sum(axis=1).min() for half in halves]) for row in bank[:3]
    ]
    np.testing.assert_allclose(near, expected, rtol=1e-4)


def test_rules_agree_where_they_must() -> None:
    ordered = np.sort(np.random.default_rng(0).random((5, 200), np.float32), axis=1)
    areas = np.full(5, 200)
    np.testing.assert_allclose(top_of_area(ordered, areas, 0.05), top(ordered, areas, 0.05))
    np.testing.assert_allclose(top_of_area(ordered, areas // 2, 0.1), top(ordered, areas, 0.05))
    np.testing.assert_allclose(top(ordered, areas, 0.005), ordered[:, -1])
    np.testing.assert_allclose(power_mean(ordered, areas, 1), ordered.mean(axis=1), rtol=1e-5)
    mean, highest = soft_maximum(ordered, areas, 1e3), soft_maximum(ordered, areas, 1e-6)
    np.testing.assert_allclose(mean, ordered.mean(axis=1), rtol=1e-2)
    assert highest == pytest.approx(ordered[:, -1], abs=1e-4)
    assert (top(ordered, areas, 0.05) < several_tops(ordered, areas)).all()
