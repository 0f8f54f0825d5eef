"""Rooflines of cards: the rates are those of the data sheets, the figures those that a hand computes."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

import cards
from cards import CARDS, Work

FIRST = CARDS[0]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_rates_are_those_of_the_data_sheets(card):
    fp64, int8, _ = card.rates()
    assert (fp64, int8) == pytest.approx((card.fp64 * 1e12, card.int8 * 1e12), rel=0.1)


def test_a_launch_takes_the_longest_of_its_parts():
    assert Work(bytes=1.008e9, fp64=1.0).ms(FIRST) == pytest.approx(1)
    assert Work(bytes=1.008e9, fp64=2.58e9).ms(FIRST) == pytest.approx(2, rel=1e-3)
    assert Work(bytes=1.008e9, int8=1.982e12).ms(FIRST) == pytest.approx(3, rel=1e-3)
    assert Work(bytes=1.008e9, int32=8.26e10).ms(FIRST) == pytest.approx(4, rel=1e-3)


def test_grams_of_resnet18_by_hand():
    """On an RTX 4090: 10,987,200 elements, 10 products, tiles of 64 rows for matrices with 64, 128, 256 or 512."""
    assert FIRST.name == "RTX 4090"
    shapes = cards.shapes_of("resnet18-cifar")
    by_order = {64: 4 * 576, 128: 3 * 1152 + 576, 256: 3 * 2304 + 1152, 512: 3 * 4608 + 2304}
    tiled = sum((1 + 64 / r) * r * r * n for r, n in by_order.items()) + 2 * 64 * 64 * 64  # the last is 27 x 64
    cached, streamed = (cards.gram_launches(FIRST, shapes, 10, kept) for kept in (True, False))
    assert cached["product"].ms(FIRST) == pytest.approx(10 * tiled / (128 * 2.52e9 * 2048) * 1e3)
    assert cached["cut"].ms(FIRST) == pytest.approx(10_987_200 * 4 / 1008e9 * 1e3)  # slices stay in L2, W does not
    assert streamed["cut"].ms(FIRST) == pytest.approx(10_987_200 * 8 / 1008e9 * 1e3)
    padded = sum(r * r * n for r, n in {64: 4, 128: 4, 256: 4, 512: 4, 32: 1}.items())
    assert cached["finish"].ms(FIRST) == pytest.approx(4 * padded / (128 * 2.52e9 * 4) * 1e3)
    in_fp64 = cards.gram_launches(FIRST, shapes, 0, False)["product"].ms(FIRST)
    tiled = sum((1 + 32 / r) * r * r * n for r, n in by_order.items()) + 2 * 32 * 32 * 64
    assert in_fp64 == pytest.approx(tiled / (128 * 2.52e9 * 4) * 1e3)


def test_factors_of_resnet18_by_hand():
    flops, chain = cards.factors_ms(FIRST, cards.shapes_of("resnet18-cifar"))
    cubes = 27**3 + 4 * sum(r**3 for r in (64, 128, 256, 512))
    assert flops == pytest.approx(4 * cubes / 3 / (128 * 2.52e9 * 4) * 1e3)
    assert chain == pytest.approx(512 * 266 / 8 * 64 / 2.52e6)  # two FP64 units: a warp's instruction takes 64 cycles


def test_the_step_by_hand():
    assert cards.step(16, False).ms(FIRST) == pytest.approx(34e8 / (128 * 2.52e9 * 4) * 1e3)
    moved = cards.step(16, True)
    assert moved.ms(FIRST) == pytest.approx(moved.bytes / 1008e9 * 1e3)
    assert 20e8 < moved.bytes < 20.1e8
    assert (moved.fp64, moved.int8, moved.int32) == (8e8, 768e8, 66e8)
    b300 = next(card for card in CARDS if card.name == "B300")
    assert cards.step(128, True).ms(b300) == pytest.approx(3072e8 / (148 * 2.03e9 * 512) * 1e3)  # bound by INT8
    b200 = next(card for card in CARDS if card.name == "B200")
    slower = [k for k in cards.STEPS if cards.step(k, True).ms(b200) > cards.step(k, False).ms(b200)]
    assert slower == [16, 32, 64]


def test_the_file_is_what_the_script_writes():
    assert cards.PAGE.read_text() == cards.text(), "run `make cards`"
