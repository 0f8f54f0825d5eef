"""The names that users have: none goes, none comes, without this list being changed on purpose."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "fastrank": {
        *("SGD", "RankTracker", "Tolerance", "RankBounds", "Status", "prepare", "plot", "linalg", "__version__"),
        *("read_history", "write_history", "HistoryError", "HistoryWarning"),
        *("schedules", "sinks", "alerts", "AlertWarning", "analyze", "AnalyzeError", "products", "difference"),
        *("factorize", "load_factorized"),
    },
    "fastrank.sinks": {
        *("TensorBoard", "WeightsAndBiases", "MLflow", "Trackio", "Writer", "Function", "open_sink"),
        *("Sink", "Relay", "SinkWarning", "Background", "reason"),
    },
    "fastrank.alerts": {
        *("Alert", "Alerts", "AlertWarning", "Rows", "Rule", "below", "halved", "nonfinite"),
    },
    "fastrank.linalg": {
        *("rank_bounds", "matrix_rank", "svdvals", "svd_lowrank", "LowRankSVD", "spectral_norm", "nuclear_norm"),
        *("stable_rank", "effective_rank", "energy_rank", "participation_ratio"),
    },
    "fastrank.schedules": {"epochs", "logarithmic", "multiples"},
    "fastrank.lightning": {"RankCallback"},
    "fastrank.transformers": {"RankCallback"},
    "fastrank.products": {"attention_ov", "attention_qk", "core", "difference", "lora"},
    "fastrank.testing": {
        *("FAMILIES", "SPECTRA", "Case", "make", "cases", "spectrum", "clustered", "planted"),
        *("TrueRank", "true_rank", "true_singular_values", "CountErrors", "count_errors", "factor_error"),
        *("ExactMatrix", "exact_residual_squared"),
    },
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_names_are_these(name):
    module = importlib.import_module(name)
    assert set(module.__all__) == PUBLIC[name]
    assert len(module.__all__) == len(PUBLIC[name])


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name):
    module = importlib.import_module(name)
    for public in PUBLIC[name] - {"__version__", "FAMILIES", "SPECTRA"}:
        assert getattr(module, public).__doc__, public
