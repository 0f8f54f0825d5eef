"""`fastrank doctor`: what serves what, and whether arithmetic is what proofs assume."""

import re

from fastrank import backend, probing


def test_doctor_says_what_serves_what_and_why(run, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert run("doctor") == (0, "")
    output = capsys.readouterr().out
    for name in ("python", "torch", "fastrank", "commit", "cpu"):
        assert re.search(rf"^{name} +\S", output, re.MULTILINE)
    for choice in backend.report():
        assert all(field in output for field in choice)
    monkeypatch.setenv(backend.PRODUCTS, "fp32")
    monkeypatch.setattr(backend, "report", backend._told)  # as on a machine with a GPU
    assert run("doctor") == (1, "")
    assert capsys.readouterr().err.startswith("fastrank: FASTRANK_PRODUCTS: 'fp64' or 'integers'")


def test_doctor_probes_what_proofs_assume(run, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    holds, fails = probing.Finding("sums are right", True, "3 of 3"), probing.Finding("roots", False, "0 of 3", "stop")
    monkeypatch.setattr(probing, "probe", lambda device: [holds])
    assert run("doctor", "--probe") == (0, "")
    whole = r"^cpu +yes +sums are right +3 of 3\n(.*\n)*\n(\d+) of \2 tests passed$"
    assert re.search(whole, capsys.readouterr().out, re.MULTILINE)
    monkeypatch.setattr(probing, "probe", lambda device: [holds, fails])
    assert run("doctor", "--probe") == (1, "")
    output = capsys.readouterr().out
    assert re.search(r"^cpu +NO +roots +0 of 3$", output, re.MULTILINE)
    assert re.search(r"^\d+ of \d+ tests passed; the others, and what to do:\ncpu: roots: stop$", output, re.M)
