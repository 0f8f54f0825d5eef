"""Blocks on their way to the host hold what is copied and belongs to nobody else."""

from __future__ import annotations

import weakref

import torch

from fastrank.history import ring


def test_spectra_are_kept_until_their_copy_is_complete(monkeypatch):
    """Their memory would be given to the next forward pass, while the copy waits for the tracker's own stream."""
    target = ring.Ring(2, 1, torch.device("cpu"), capacity=2)
    sigma = torch.ones(4, dtype=torch.float64)
    kept, arrived = weakref.ref(sigma), []
    for step, spectra in ((1, sigma), (2, None)):
        target.append(torch.tensor(step), torch.zeros(2, 1), spectra, ((3, 2), (5, 2)))
    del sigma, spectra
    monkeypatch.setattr(ring._Sent, "arrived", lambda sent: bool(arrived))
    target.collect(blocks := [])
    assert not blocks
    assert kept() is not None
    arrived.append(True)
    target.collect(blocks)
    assert blocks[0].spectra[0].tolist() == [1.0] * 4
    assert kept() is None
