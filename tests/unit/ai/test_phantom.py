"""The phantoms: the same seed the same bytes, and a truth that agrees with the picture."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ai.dentition import FDI_NUMBERS, fdi_of_label, label_of_fdi
from ai.phantom import Phantom, cbct, intraoral, panoramic, photo
from ai.phantom.arch import Disease
from ai.phantom.truth import PART_CROWN, PART_ROOT_EXPOSED, PART_ROOT_IN_BONE


def test_labels_and_fdi_numbers_are_one_to_one() -> None:
    assert [label_of_fdi(fdi) for fdi in FDI_NUMBERS] == list(range(1, 33))
    assert [fdi_of_label(label) for label in range(1, 33)] == list(FDI_NUMBERS)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_picture() -> None:
    first, again, other = panoramic(7), panoramic(7), panoramic(8)

    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.label_mask.tobytes() == again.label_mask.tobytes()
    assert first.teeth == again.teeth
    assert first.pixels.tobytes() != other.pixels.tobytes()


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (12, np.uint16)])
def test_pixels_use_the_whole_range_of_their_bits(bits: int, dtype: type) -> None:
    pixels = panoramic(1, 256, 512, bits=bits).pixels

    assert pixels.dtype == dtype
    assert pixels.shape == (256, 512)
    assert int(pixels.min()) == 0
    assert int(pixels.max()) == (1 << bits) - 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_teeth_and_missing_teeth_make_up_the_dentition(seed: int) -> None:
    phantom = panoramic(seed)
    present = {tooth.fdi for tooth in phantom.teeth}

    assert present.isdisjoint(phantom.missing)
    assert present | set(phantom.missing) == set(FDI_NUMBERS)
    assert {fdi_of_label(int(v)) for v in np.unique(phantom.label_mask) if v} == present


@pytest.mark.parametrize("seed", [1, 4])
def test_every_tooth_lies_in_its_box_and_is_brighter_than_air(seed: int) -> None:
    phantom = panoramic(seed)
    background = phantom.pixels[phantom.label_mask == 0].mean()

    for tooth in phantom.teeth:
        inside = phantom.label_mask == label_of_fdi(tooth.fdi)
        rows, columns = np.nonzero(inside)
        left, top, right, bottom = tooth.box
        assert left <= columns.min() and columns.max() < right
        assert top <= rows.min() and rows.max() < bottom
        assert phantom.pixels[inside].mean() > background


def test_teeth_of_a_jaw_stand_in_order_from_the_patients_right() -> None:
    phantom = panoramic(11, disease=Disease(missing=0, missing_third_molar=0, caries=0))
    middles = {tooth.fdi: (tooth.box[0] + tooth.box[2]) / 2 for tooth in phantom.teeth}

    for order in ((*range(18, 10, -1), *range(21, 29)), (*range(48, 40, -1), *range(31, 39))):
        placed = [middles[fdi] for fdi in order]
        assert placed == sorted(placed)


@pytest.mark.parametrize("seed", range(6))
def test_lesion_masks_agree_with_the_teeth(seed: int) -> None:
    phantom = panoramic(seed, disease=Disease(caries=0.5, periapical=0.4))
    carious = {label_of_fdi(t.fdi) for t in phantom.teeth if t.caries_surfaces}
    apical = {label_of_fdi(t.fdi) for t in phantom.teeth if t.has_periapical_lesion}
    caries, periapical = phantom.caries_mask, phantom.periapical_mask

    assert set(np.unique(caries)) - {0} <= carious
    assert (caries[caries > 0] == phantom.label_mask[caries > 0]).all()
    assert len(carious) > 4
    assert set(np.unique(periapical)) - {0} <= apical
    assert len(apical) > 2


def test_caries_is_darker_than_the_sound_crown_around_it() -> None:
    differences = []
    for seed in range(4):
        phantom = panoramic(seed, disease=Disease(caries=0.6, filling=0, crown=0))
        for tooth in phantom.teeth:
            label = label_of_fdi(tooth.fdi)
            lesion = phantom.caries_mask == label
            crown = (phantom.label_mask == label) & (phantom.part_mask == PART_CROWN) & ~lesion
            if lesion.sum() > 10:
                differences.append(phantom.pixels[crown].mean() - phantom.pixels[lesion].mean())

    assert len(differences) > 20
    assert np.mean(np.array(differences) > 0) > 0.9


def test_bone_level_percent_agrees_with_the_part_mask() -> None:
    phantom = panoramic(5, 1024, 2048)
    errors = []
    for tooth in phantom.teeth:
        if tooth.bone_level_percent is None:
            continue
        inside = phantom.label_mask == label_of_fdi(tooth.fdi)
        heights = {}
        for part in (PART_ROOT_EXPOSED, PART_ROOT_IN_BONE):
            rows = np.nonzero((inside & (phantom.part_mask == part)).any(axis=1))[0]
            heights[part] = len(rows)
        measured = 100 * heights[PART_ROOT_EXPOSED] / sum(heights.values())
        errors.append(abs(measured - tooth.bone_level_percent))

    assert len(errors) > 20
    # Rows of a slanted crest count twice, so the mask overstates a little.
    assert np.median(errors) < 6


def test_a_panoramic_is_drawn_in_half_a_second() -> None:
    panoramic(0)
    times = []
    for seed in range(3):
        started = time.process_time()
        panoramic(seed, 512, 1024)
        times.append(time.process_time() - started)

    assert min(times) < 0.5


@pytest.mark.parametrize("tooth", [36, 16, 41])
def test_an_intraoral_film_shows_the_tooth_it_was_aimed_at(tooth: int) -> None:
    phantom: Phantom = intraoral(3, tooth)

    shown = {truth.fdi for truth in phantom.teeth}
    assert tooth in shown or tooth in phantom.missing
    assert 2 <= len(shown) <= 10
    assert phantom.modality == "IO"
    assert phantom.pixels.dtype == np.uint16
    assert phantom.pixels.shape == phantom.label_mask.shape


def test_a_cone_beam_volume_holds_jaws_teeth_and_air() -> None:
    phantom = cbct(2, 100)

    assert phantom.volume.shape == (100, 256, 256)
    assert phantom.volume.dtype == np.int16
    assert len(phantom.teeth) > 20
    tooth = phantom.volume[phantom.label_volume > 0]
    assert 1300 < float(tooth.mean()) < 2600
    assert float((phantom.volume < -800).mean()) > 0.1
    upper, lower = (
        np.nonzero(np.isin(phantom.label_volume, labels).any(axis=(1, 2)))[0].mean()
        for labels in (range(1, 17), range(17, 33))
    )
    assert upper < lower  # cranial slices come first
    assert cbct(2, 100).volume.tobytes() == phantom.volume.tobytes()


def test_a_photograph_shows_light_teeth_in_red_gums() -> None:
    phantom = photo(4)

    assert phantom.pixels.shape == (*phantom.label_mask.shape, 3)
    assert phantom.pixels.dtype == np.uint8
    assert len(phantom.teeth) >= 14
    tooth = phantom.pixels[phantom.label_mask > 0].mean(axis=0)
    gum = phantom.pixels[phantom.label_mask == 0].mean(axis=0)
    assert tooth[1] > gum[1] + 40
    assert gum[0] > 1.4 * gum[1]
