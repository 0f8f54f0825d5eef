"""The marshalling of cuBLAS's arguments, against a function of the same prototype that does what its page says.

The real one needs a GPU. The prototype is the manual's, enumerations as int.
"""

from __future__ import annotations

import cublas
import grams
import pytest
import torch
from c_library import c_library

FAKE = r"""
static int failing;
void fail_with(int status) { failing = status; }

/* C = alpha op(A) op(A)^T + beta C by columns, the triangle of uplo alone: op(A) is n x k. */
int cublasDsyrk_v2(void *handle, int uplo, int trans, int n, int k, const double *alpha, const double *A, int lda,
                   const double *beta, double *C, int ldc) {
    if (handle != (void *)77 || lda < (trans ? k : n) || ldc < n) return __LINE__;
    for (int j = 0; j < n; j++)
        for (int i = uplo ? 0 : j; i <= (uplo ? j : n - 1); i++) {
            double sum = 0;
            for (long l = 0; l < k; l++)
                sum += trans ? A[i * (long)lda + l] * A[j * (long)lda + l] : A[l * lda + i] * A[l * lda + j];
            C[j * (long)ldc + i] = *alpha * sum + (*beta ? *beta * C[j * (long)ldc + i] : 0);
        }
    return failing;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return c_library(tmp_path_factory.mktemp("fake"), FAKE)


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "wide",
    [
        noise(5, 9),
        noise(9, 5).mT,
        noise(5, 20)[:, :9],
        noise(9, 20)[:, :5].mT,
        noise(1, 9),
        noise(9, 1).mT,
        noise(5, 1),
    ],
    ids=["rows", "columns", "rows apart", "columns apart", "one row", "one row across", "one column"],
)
def test_the_lower_triangle_of_a_gram(library, wide):
    library.fail_with(0)
    found = cublas.Blas(library).gram(wide, 77)
    torch.testing.assert_close(found.tril(), (wide @ wide.mT).tril(), rtol=1e-14, atol=1e-14)


def test_what_goes_wrong_is_said(library):
    library.fail_with(13)
    with pytest.raises(RuntimeError, match="cublasDsyrk returned 13"):
        cublas.Blas(library).gram(noise(5, 9), 77)
    with pytest.raises(ValueError, match="contiguous"):
        cublas.Blas(library).gram(noise(10, 18)[::2, ::2], 77)


def test_the_rival_widens_every_matrix_and_is_right(library, monkeypatch):
    """Wide, tall, and of half precision, by the check that comes before a row is timed."""
    library.fail_with(0)
    blas = cublas.Blas(library)
    monkeypatch.setattr(cublas, "gram", lambda wide: blas.gram(wide, 77))
    matrices = [noise(5, 9).float(), noise(30, 7).half(), noise(6, 6)]
    answer = grams.by_syrk(matrices)
    assert grams.relative_error(matrices, answer) < 1e-14
    answer[1][4, 2] += 1e-6 * answer[1].diagonal().sum()
    assert grams.relative_error(matrices, answer) > 1e-12
