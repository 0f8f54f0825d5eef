"""Sweeps that reproduce the paper's figures: configuration, trials, ledger, figures, report."""
