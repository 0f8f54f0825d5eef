"""One decision about what serves a device, and a report of it that says the same."""

from __future__ import annotations

import torch

from fastrank import backend


def test_on_a_cpu_small_matrices_take_eigenvalues():
    cpu = torch.device("cpu")
    for purpose, limit in backend.EIGENVALUES_UP_TO.items():
        assert backend.counting(cpu, limit, purpose) == "eigenvalues"
        assert backend.counting(cpu, limit + 1, purpose) == "inertia"


def test_kernels_serve_cuda_where_triton_is_and_eigenvalues_where_it_is_not(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(backend, "installed", lambda package: True)
    assert backend.kernels_serve(cuda)
    assert not backend.kernels_serve(torch.device("cpu"))
    monkeypatch.setattr(backend, "installed", lambda package: False)
    assert not backend.kernels_serve(cuda)
    assert backend.counting(cuda, 10**6, "tracking") == "eigenvalues"


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
