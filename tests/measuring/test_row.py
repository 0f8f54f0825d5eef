"""Columns of a row: their names, their order, and the arguments that ask for them."""

from __future__ import annotations

import pytest
import torch

from fastrank.measuring.row import check_spectrum, columns, metrics_of, spectrum_metrics
from fastrank.metrics import Tolerance, energy_rank


def test_energy_ranks_come_last_and_the_first_has_no_suffix():
    spectrum = check_spectrum(["singular_values", "nuclear_norm"], [0.99, 0.9, 1])
    assert list(spectrum_metrics(spectrum)) == ["nuclear_norm", "energy_rank", "energy_rank@0.9", "energy_rank@1"]
    assert columns([Tolerance()], spectrum)[-5:] == ("status", *spectrum_metrics(spectrum))
    sigma = torch.tensor([[3.0, 1.0, 0.2]], dtype=torch.float64)
    found = metrics_of(sigma, spectrum, 2.0)
    assert found[0] == pytest.approx(8.4)
    assert found[1:] == [energy_rank(sigma, energy) for energy in (0.99, 0.9, 1.0)]


def test_one_energy_or_none():
    assert check_spectrum([], 0.9) == ("energy_rank@0.9",)
    assert check_spectrum(["effective_rank"]) == ("effective_rank",)


@pytest.mark.parametrize("energy", [0, -0.5, 1.5, float("nan"), [0.9, 2]])
def test_an_energy_out_of_range_is_named(energy):
    with pytest.raises(ValueError, match=r"energy: must be above 0 and at most 1"):
        check_spectrum([], energy)


@pytest.mark.parametrize("energy", ["0.9", True, None, [None]])
def test_an_energy_that_is_no_number_is_named(energy):
    with pytest.raises(TypeError, match="energy: expected a number"):
        check_spectrum([], energy)


@pytest.mark.parametrize("spectrum", [True, None, 3, "effective_rank"])
def test_names_of_a_spectrum_are_a_sequence(spectrum):
    with pytest.raises(TypeError, match=f"spectrum: expected a sequence of names from .*effective_rank.*{spectrum!r}"):
        check_spectrum(spectrum)


def test_energies_differ():
    with pytest.raises(ValueError, match="energy: the same one twice"):
        check_spectrum([], [0.9, 0.9])
    with pytest.raises(ValueError, match="unknown 'energy_rank'"):
        check_spectrum(["energy_rank"])
