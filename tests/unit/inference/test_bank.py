"""The bank file vouches for itself, and says how it is searched."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from edge_uad.errors import BankError, UsageError
from edge_uad.inference.bank import PatchBank, check_writable
from edge_uad.records import CertifiedPrecision, Embedding, PatchMask, Rotations
from tests.banks import brute_force, certified, random_bank, unit_rows


def test_masked_patches_have_no_distance_and_no_neighbour() -> None:
    bank = random_bank()
    tokens = unit_rows(np.random.default_rng(3), 6, bank.patches.shape[1])
    tokens[4] = bank.patches[7]
    seen = Embedding(tokens=tokens, attention=np.ones(6, np.float32), grid_hw=(2, 3))
    mask = PatchMask(foreground=np.array([True, False, True, False, True, False]), grid_hw=(2, 3))
    found = bank.distances(seen, mask)
    assert found.squared[[1, 3, 5]].tolist() == [0, 0, 0]
    assert found.nearest[[1, 3, 5]].tolist() == [-1, -1, -1]
    assert found.nearest[4] == 7
    assert found.squared[4] == pytest.approx(0, abs=1e-6)
    assert (found.squared[[0, 2]] > 0).all()


def test_more_neighbours_give_the_mean_of_their_squared_distances() -> None:
    bank = random_bank(neighbours=3)
    tokens = unit_rows(np.random.default_rng(3), 1, bank.patches.shape[1])
    seen = Embedding(tokens=tokens, attention=np.ones(1, np.float32), grid_hw=(1, 1))
    found = bank.distances(seen, PatchMask(foreground=np.array([True]), grid_hw=(1, 1)))
    expected, _ = brute_force(tokens, bank.patches, 3)
    assert found.squared[0] == pytest.approx(expected.mean(), abs=1e-6)


def test_a_saved_bank_comes_back_whole(tmp_path: Path) -> None:
    bank = random_bank(roi=(1, 2, 30, 40))
    bank.save(tmp_path / "b.safetensors")
    again = PatchBank.load(tmp_path / "b.safetensors")
    assert again.manifest == bank.manifest
    np.testing.assert_array_equal(again.patches, bank.patches)
    np.testing.assert_array_equal(again.patch_image, bank.patch_image)
    np.testing.assert_array_equal(again.calibration, bank.calibration)
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]


def test_the_bank_id_depends_on_content_alone() -> None:
    assert random_bank().manifest.bank_id == random_bank().manifest.bank_id
    assert random_bank().manifest.bank_id != random_bank(threshold=0.9).manifest.bank_id
    assert random_bank().manifest.bank_id != random_bank(seed=1).manifest.bank_id


def test_fields_that_were_added_later_are_hashed_only_where_they_say_something() -> None:
    """The id of a bank as it was before there was a pixel threshold or a count of excluded images."""
    before = "e67df0a48b21d896e6f31318804b9e987bfaaea8c5b8275786fbe88bfe4f49f4"
    assert random_bank().manifest.bank_id == before
    assert random_bank(pixel_threshold=0.2).manifest.bank_id != before
    assert random_bank(n_excluded=1).manifest.bank_id != before
    assert random_bank(rotations=Rotations.QUARTER).manifest.bank_id != before


@settings(deadline=None, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_any_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, place: float, change: int) -> None:
    path = tmp_path_factory.mktemp("bank") / "b.safetensors"
    random_bank().save(path)
    content = bytearray(path.read_bytes())
    position = int(place * len(content))
    content[position] ^= change
    path.write_bytes(content)
    loaded = refused = None
    try:
        loaded = PatchBank.load(path)
    except BankError as error:
        refused = str(error)
    if loaded is None:
        assert refused is not None
        assert str(path) in refused
    else:  # a byte that carries nothing: white space that pads the header
        assert loaded.manifest == random_bank().manifest
        np.testing.assert_array_equal(loaded.patches, random_bank().patches)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_bank_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "b.safetensors"
    random_bank().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(BankError, match=r"cannot be read as a bank .*rerun edge-uad build-bank"):
        PatchBank.load(path)


def test_a_missing_bank_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(BankError, match=r"there is no bank at .*edge-uad build-bank"):
        PatchBank.load(tmp_path / "none.safetensors")


def test_other_safetensors_are_no_bank(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(BankError, match="without a bank's manifest"):
        PatchBank.load(tmp_path / "w.safetensors")


def rewrite(path: Path, **changed: object) -> None:
    """Save a random bank with other manifest values, its id not brought up to date."""
    bank = random_bank()
    bank.save(path)
    manifest = dataclasses.asdict(bank.manifest) | changed
    save_file(load_file(path), path, {"edge_uad_manifest": json.dumps(manifest)})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schema": 99}, r"has schema 99, this edge-uad reads 1"),
        ({"threshold": 0.001}, r"changed after it was built"),
        ({"threshold": "low"}, r"damaged manifest"),
        ({"surprise": 1}, r"damaged manifest"),
        ({"n_patches": 3}, r"tensors of different lengths"),
    ],
)
def test_a_manifest_at_odds_with_its_bank_is_refused(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    path = tmp_path / "b.safetensors"
    rewrite(path, **changed)
    with pytest.raises(BankError, match=message):
        PatchBank.load(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"threshold": float("nan")},
        {"threshold": float("inf")},
        {"threshold": -0.1},
        {"threshold": 4.0},
        {"pixel_threshold": float("nan")},
        {"pixel_threshold": -0.1},
        {"top_ratio": 0.0},
        {"top_ratio": float("nan")},
        {"neighbours": 0},
        {"bpm_kernel": 2},
        {"bpm_kernel": 10**9 + 1},
        {"bpm_threshold": 5.0},
        {"false_alarm_rate": -3.0},
        {"roi": (-5, -5, 0, 0)},
        {"model_id": "no hash"},
        {"source_digest": "F" * 64},
        {"backbone": "two\nlines"},
        {"rotations": Rotations.AUTO},
        {"turned_ratio": float("nan")},
    ],
    ids=str,
)
def test_a_bank_by_which_everything_would_be_normal_is_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    random_bank(**changed).save(tmp_path / "b.safetensors")
    with pytest.raises(BankError, match="damaged manifest"):
        PatchBank.load(tmp_path / "b.safetensors")


SOUND = certified("int8", "int8_dot", "bf16")


def test_a_bank_keeps_its_certificates(tmp_path: Path) -> None:
    bank = random_bank(precisions=(SOUND, certified("bf16", "bf16")))
    bank.save(tmp_path / "b.safetensors")
    assert PatchBank.load(tmp_path / "b.safetensors").manifest == bank.manifest


def spoilt(**changed: Any) -> CertifiedPrecision:
    """The same with other values, in its certificate where that has them."""
    own = {name: value for name, value in changed.items() if hasattr(SOUND, name)}
    inner = {name: value for name, value in changed.items() if name not in own}
    return dataclasses.replace(SOUND, **own, certificate=dataclasses.replace(SOUND.certificate, **inner))


@pytest.mark.parametrize(
    "changed",
    [
        {"flips": -1},
        {"flips": 101},
        {"flips": 10**400, "n_judged": 10**400},
        {"n_good": -1},
        {"threshold": float("inf")},
        {"threshold": 0.4},
        {"reference_model_id": "e" * 64},
        {"images_digest": "two\nlines"},
        {"runtime": "\x1b[31m"},
        {"made_by": "x" * 10_000},
        {"auroc": float("inf")},
        {"p99_score_difference": -1.0},
        {"largest_score_difference": float("nan")},
        {"features": ()},
        {"features": ("bf16",) * 1000},
        {"features": ("x" * 10_000,)},
        {"features": ("two\nlines",)},
        {"embedding_ms": 0.0},
        {"fp32_embedding_ms": float("nan")},
    ],
    ids=", ".join,
)
def test_a_certificate_that_cannot_be_makes_the_manifest_a_damaged_one(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    random_bank(precisions=(spoilt(**changed),)).save(tmp_path / "b.safetensors")
    with pytest.raises(BankError, match="damaged manifest"):
        PatchBank.load(tmp_path / "b.safetensors")


def test_no_precision_is_certified_twice(tmp_path: Path) -> None:
    random_bank(precisions=(SOUND, SOUND)).save(tmp_path / "b.safetensors")
    with pytest.raises(BankError, match="damaged manifest"):
        PatchBank.load(tmp_path / "b.safetensors")


def test_whole_numbers_for_ratios_make_a_bank_that_can_be_read(tmp_path: Path) -> None:
    bank = random_bank(bpm_threshold=0, coreset_ratio=1, top_ratio=1, threshold=1)
    bank.save(tmp_path / "b.safetensors")
    assert PatchBank.load(tmp_path / "b.safetensors").manifest == bank.manifest


def test_a_bank_of_several_levels_is_searched_at_each(tmp_path: Path) -> None:
    bank = random_bank(levels=2)
    bank.save(tmp_path / "b.safetensors")
    loaded = PatchBank.load(tmp_path / "b.safetensors")
    assert loaded.manifest == bank.manifest
    # a patch whose first half is one bank patch's and whose second half is another's is known to both levels
    half = bank.patches.shape[1] // 2
    mixed = np.concatenate([bank.patches[:1, :half], bank.patches[1:2, half:]], axis=1)
    seen = Embedding(tokens=mixed, attention=np.ones(1, np.float32), grid_hw=(1, 1))
    every = PatchMask(foreground=np.ones(1, np.bool_), grid_hw=(1, 1))
    for search in (loaded, loaded.searched_by(threads=1)):
        np.testing.assert_allclose(search.distances(seen, every).squared, 0, atol=1e-6)


def test_a_bank_whose_patches_have_no_such_levels_is_refused(tmp_path: Path) -> None:
    bank = random_bank()
    sealed = PatchBank.sealed(
        patches=bank.patches,
        patch_image=bank.patch_image,
        calibration=bank.calibration,
        manifest=dataclasses.replace(bank.manifest, levels=2),
    )
    sealed.save(tmp_path / "b.safetensors")
    with pytest.raises(BankError, match="not unit norm"):
        PatchBank.load(tmp_path / "b.safetensors")


def test_a_bank_with_calibration_scores_that_are_no_numbers_is_refused(tmp_path: Path) -> None:
    bank = random_bank()
    bank.calibration[3] = np.nan
    sealed = PatchBank.sealed(
        patches=bank.patches, patch_image=bank.patch_image, calibration=bank.calibration, manifest=bank.manifest
    )
    sealed.save(tmp_path / "b.safetensors")
    with pytest.raises(BankError, match="not finite"):
        PatchBank.load(tmp_path / "b.safetensors")


def test_a_place_that_cannot_hold_a_bank_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(UsageError, match="missing or read-only"):
        check_writable(tmp_path / "no" / "b.safetensors")
    check_writable(tmp_path / "b.safetensors")


def test_a_failed_save_leaves_nothing_and_keeps_the_old_bank(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    path.mkdir()  # os.replace cannot put a file over a folder
    with pytest.raises(UsageError, match="cannot be written"):
        random_bank().save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.safetensors"]
