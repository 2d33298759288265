"""Tests of the conversion of ink to 28x28 pixels."""

from __future__ import annotations

import numpy as np

from job.predict import digit
from tests.job import report_samples as samples


def test_longer_side_fills_the_box_and_the_mass_is_in_the_middle() -> None:
    """A solid bar of 40x10 becomes 20x5; its centre of mass, row 9.5 and column 2, falls into pixel 14."""
    ink = np.zeros((100, 70))
    ink[50:90, 3:13] = 1
    expected = np.zeros((28, 28), np.uint8)
    expected[5:25, 12:17] = 255
    np.testing.assert_array_equal(digit.normalise(ink), expected)


def test_shrinking_averages_by_area() -> None:
    """From 30 columns to 20, each new pixel covers one and a half old ones; halves round up."""
    ink = np.zeros((30, 30))
    ink[:, ::3] = 1  # the first of each three old columns: two thirds of one new column and nothing of the next
    ink[:, 29] = 1
    row = digit.normalise(ink)[14]
    begin = int(np.flatnonzero(row)[0])
    assert row[begin : begin + 20].tolist() == [170, 0] * 9 + [170, 170]


def test_dataset_images_come_back_unchanged() -> None:
    """A normalised image stays unchanged, also if it is enlarged and moved."""
    for picture in samples.images(20):
        np.testing.assert_array_equal(digit.normalise(picture / 255), picture)
        larger = np.pad(picture.repeat(7, axis=0).repeat(7, axis=1), ((5, 40), (60, 0)))
        np.testing.assert_array_equal(digit.normalise(larger / 255), picture)


def test_mass_at_the_edge_never_pushes_ink_off() -> None:
    """A heavy foot would push the stem above the first row: the shift stops there."""
    ink = np.zeros((200, 200))
    ink[:, 99:102] = 0.2
    ink[190:, :] = 1
    found = digit.normalise(ink)
    assert found[:20].any(axis=1).all()
    assert not found[20:].any()


def test_no_ink_is_a_blank_field() -> None:
    """There is no division by zero."""
    assert not digit.normalise(np.zeros((50, 50))).any()
