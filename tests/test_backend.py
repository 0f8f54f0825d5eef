"""One decision about what serves a device, and a report of it that says the same."""

from __future__ import annotations

import torch

from fastrank import backend


def test_small_matrices_take_eigenvalues_on_a_cpu_and_nothing_else_does():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for purpose, limit in backend.EIGENVALUES_UP_TO.items():
        assert backend.counting(cpu, limit, purpose) == "eigenvalues"
        assert backend.counting(cpu, limit + 1, purpose) == "inertia"
        assert backend.counting(cuda, 1, purpose) == "inertia"


def test_report_names_the_limits_in_force():
    report = backend.report()
    text = "\n".join(map(str, report))
    assert {choice.device for choice in report} >= {"cpu"}
    for limit in backend.EIGENVALUES_UP_TO.values():
        assert f"r <= {limit}" in text
        assert f"r > {limit}" in text
    assert all(choice.reason for choice in report)


def test_installed_looks_without_importing():
    assert backend.installed("torch")
    assert not backend.installed("no_such_package_anywhere")
