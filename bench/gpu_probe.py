"""Tests what the proofs assume of arithmetic on a device; exit status 1 where something does not hold."""

from __future__ import annotations

import argparse
import sys

import torch

from fastrank import probing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    found = probing.probe(torch.device(parser.parse_args().device))
    for finding in found:
        print(f"{'holds' if finding.passed else 'FAILS'}  {finding.assumption}: {finding.seen}")
    failed = sum(not finding.passed for finding in found)
    print(f"{len(found) - failed} of {len(found)} assumptions hold")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
