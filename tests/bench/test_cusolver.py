"""The marshalling of cuSOLVER's arguments, against a library of the same prototypes that knows what they have to be.

The real one needs a GPU. The prototypes below are copied from `cusolverDn.h` (12.0.4), enumerations as int.
"""

from __future__ import annotations

import ctypes
import weakref

import cusolver
import pytest
import torch
from c_library import c_library

FAKE = r"""
#include <stdint.h>
#include <stddef.h>

static int handle, params, stream_set, failing;

#define EXPECT(condition) do { if (!(condition)) return __LINE__; } while (0)

void fail_with(int status) { failing = status; }

int cusolverDnCreate(void **out) { *out = &handle; return 0; }
int cusolverDnCreateParams(void **out) { *out = &params; return 0; }
int cusolverDnSetStream(void *h, void *stream) {
    EXPECT(h == &handle && stream == NULL);
    stream_set = 1;
    return 0;
}

int cusolverDnXsyevBatched_bufferSize(void *h, void *p, int jobz, int uplo, int64_t n, int typeA, const void *A,
                                      int64_t lda, int typeW, const void *W, int compute, size_t *onDevice,
                                      size_t *onHost, int64_t batch) {
    EXPECT(h == &handle && p == &params && jobz == 0 && uplo == 0 && stream_set);
    EXPECT(typeA == 1 && typeW == 1 && compute == 1 && lda == n && A && W);
    *onDevice = 8 * batch;
    *onHost = 24;
    return 0;
}

int cusolverDnXsyevBatched(void *h, void *p, int jobz, int uplo, int64_t n, int typeA, void *A, int64_t lda, int typeW,
                           void *W, int compute, void *device, size_t onDevice, void *host, size_t onHost, int *info,
                           int64_t batch) {
    EXPECT(h == &handle && p == &params && jobz == 0 && uplo == 0);
    EXPECT(typeA == 1 && typeW == 1 && compute == 1 && lda == n);
    EXPECT(onDevice == 8 * (size_t)batch && onHost == 24);
    for (int64_t i = 0; i < batch; i++) {
        ((double *)device)[i] = 0;
        info[i] = 0;
        for (int64_t j = 0; j < n; j++) ((double *)W)[i * n + j] = ((double *)A)[(i * n + j) * n + j];
    }
    ((char *)host)[23] = 1;
    if (((double *)A)[0] < 0) info[batch - 1] = 5;
    ((double *)A)[0] = 7;  /* it works in place */
    return failing;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return c_library(tmp_path_factory.mktemp("fake"), FAKE)


@pytest.fixture
def solver(library):
    library.fail_with(0)
    return cusolver.Solver(library)


def diagonals(*shape):
    made = torch.randn(*shape, shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made[0, 0, 0] = 3.0
    return made, made.diagonal(dim1=-2, dim2=-1).clone()


def test_a_batch_of_symmetric_matrices(solver):
    stack, expected = diagonals(3, 5)
    assert torch.equal(solver.eigenvalues(stack), expected)


def test_a_batch_that_is_too_large_goes_in_parts(solver, monkeypatch):
    stack, expected = diagonals(7, 5)
    stack[::3, 0, 0] = expected[::3, 0] = 2.0  # each part begins well
    monkeypatch.setattr(cusolver, "ENTRIES", 99)  # three of 25
    assert torch.equal(solver.eigenvalues(stack), expected)
    assert (stack[:, 0, 0] == 7).nonzero().flatten().tolist() == [0, 3, 6]


def test_what_goes_wrong_is_said(solver, library):
    stack, _ = diagonals(3, 5)
    stack[0, 0, 0] = -1
    with pytest.raises(RuntimeError, match=r"XsyevBatched: info \[5\]"):
        solver.eigenvalues(stack)
    library.fail_with(6)
    with pytest.raises(RuntimeError, match="cusolverDnXsyevBatched returned 6"):
        solver.eigenvalues(diagonals(3, 5)[0])


def test_the_space_on_the_host_is_kept_until_the_device_is_done(solver, monkeypatch):
    """A call returns at once, and the library may still read from it or write to it."""
    made, kept = [], []
    allocate, converged = ctypes.create_string_buffer, cusolver._converged

    def allocated(size):
        buffer = allocate(size)
        made.append(weakref.ref(buffer))
        return buffer

    def waits(name, info):
        kept.append(made[-1]() is not None)
        converged(name, info)

    monkeypatch.setattr(ctypes, "create_string_buffer", allocated)
    monkeypatch.setattr(cusolver, "_converged", waits)
    solver.eigenvalues(diagonals(3, 5)[0])
    assert kept == [True]
    assert [buffer() for buffer in made] == [None]


def test_the_fake_notices_what_it_is_given(solver):
    """Or the tests above could not fail: FP32 where it wants FP64."""
    with pytest.raises(RuntimeError, match="XsyevBatched_bufferSize returned"):
        solver.eigenvalues(torch.eye(3)[None].contiguous())
