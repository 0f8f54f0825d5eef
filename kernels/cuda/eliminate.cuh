// Eliminating the columns of a tile, 8 at a time. For `ldl.cu`.

#pragma once

#include "tiles.cuh"

// What a row thread has of its row: 8 columns, first as they are to be eliminated, then as L's.
struct Row {
    double a[STRIP], w[STRIP];  // w = L D
    double growth;

    // The next 8 columns, in shared memory, less the product of the 8 before them, x, with 8 rows b.
    __device__ void next(const double* row, const double* b, int stride, const double (&x)[STRIP]) {
#pragma unroll
        for (int c = 0; c < STRIP; c++) a[c] = row[c];
#pragma unroll
        for (int k = 0; k < STRIP; k++)
#pragma unroll
            for (int c = 0; c < STRIP; c++) a[c] = fma(-x[k], b[c * stride + k], a[c]);  // 8 sums side by side
    }
};

// L's strip s of tile (i, j) from what is below the factored tile (j, j).
__device__ inline void divide(Row& row, const double* lower, const double* d) {
#pragma unroll
    for (int c = 0; c < STRIP; c++) {
        double x = row.a[c];
        row.w[c] = x;
#pragma unroll
        for (int k = c + 1; k < STRIP; k++) row.a[k] = fma(-x, lower[k * NARROW + c], row.a[k]);
        row.a[c] = x * reciprocal(d[c]);
        row.growth += fabs(row.a[c] * x);
    }
}

// L's strip of the diagonal tile. Every thread factors the 8 x 8 block that begins at `block`, and its own row along.
//
// below: how many rows it is below the first one of the block. real: whether the matrix has the row.
// Returns the row's own pivot if that is among the 8, else 0.
__device__ inline double factor(Row& row, const double* block, double floor, int below, bool real) {
    double s[STRIP][STRIP], most = reciprocal(floor), own = 0.0;
#pragma unroll
    for (int i = 0; i < STRIP; i++)
#pragma unroll
        for (int j = 0; j <= i; j++) s[i][j] = block[i * WIDE + j];
#pragma unroll
    for (int c = 0; c < STRIP; c++) {
        // The comparison is no link of the chain from pivot to pivot.
        double pivot = s[c][c], inverse = reciprocal(pivot);
        bool moved = fabs(pivot) < floor;
        inverse = moved ? copysign(most, pivot) : inverse;
        pivot = moved ? copysign(floor, pivot) : pivot;
        double x = row.a[c], l = x * inverse;
#pragma unroll
        for (int i = c + 1; i < STRIP; i++) {
            double multiplier = s[i][c] * inverse;
#pragma unroll
            for (int j = c + 1; j <= i; j++) s[i][j] = fma(-multiplier, s[j][c], s[i][j]);
            row.a[i] = fma(-l, s[i][c], row.a[i]);
        }
        own = below == c ? pivot : own;
        row.growth += fabs((below > c ? l : 0.0) * (below > c ? x : 0.0));  // above the diagonal is noise
        row.w[c] = x;
        row.a[c] = below == c ? pivot : l;
    }
    row.growth += real ? fabs(own) : 0.0;
    return own;
}

__device__ inline void load(double (&to)[STRIP], const double* from) {
    for (int c = 0; c < STRIP; c++) to[c] = from[c];
}

__device__ inline void store(double* to, const double (&from)[STRIP]) {
    for (int c = 0; c < STRIP; c += 2) *(double2*)(to + c) = make_double2(from[c], from[c + 1]);
}

// Tile (i, j) in `shared.left`, j < i: L = tile (D L_jj^T)^-1. Where i = j + 1, the tile (i, i) in `shared.diagonal`
// loses L D L^T as well.
__device__ void eliminate_left(const Problem& p, const Shared& shared, Row& row, int i, int j) {
    int r = threadIdx.x, at = i * TILE + r, known = 0;
    double* tile = shared.left;
    double* to = p.factor + (long long)at * p.order + j * TILE;
    auto fetch = [&](int s, bool wait) {  // strip s of L_jj and its pivots; false if it is not there yet
        for (Patience patience; known <= s; patience.look()) {
            int now = p.news(p.tile(j, j));
            if (!any_in_warp(now <= s)) known = any_in_warp(now < STRIPS) ? s + 1 : STRIPS;
            else if (!wait) return false;
        }
        int from = j * TILE + r;
        for (int c = 0; c < STRIP; c += 2)
            copy_16(shared.other(s) + r * NARROW + c, p.factor + (long long)from * p.order + j * TILE + s * STRIP + c,
                    r >= s * STRIP);
        if (r < STRIP / 2)
            copy_16(shared.pivots + (s & 1) * STRIP + 2 * r, p.pivots + j * TILE + s * STRIP + 2 * r, true);
        return true;
    };

    bool fetched = false;
    if (is_row_thread()) load(row.a, tile + r * WIDE);
    for (int s = 0; s < STRIPS; s++) {
        const double* lower = shared.other(s);
        if (is_row_thread()) {
            if (!fetched) fetch(s, true);
            end_group();
            wait_groups<0>();
            barrier_of(ROW_THREADS);
            divide(row, lower + s * STRIP * NARROW, shared.pivots + (s & 1) * STRIP);
            store(tile + r * WIDE + s * STRIP, row.a);
            store(shared.w(s) + r * NARROW, row.w);
            if (at < p.order) store(to + s * STRIP, row.a);
        }
        __syncthreads();
        if (is_row_thread()) {
            fetched = s + 1 < STRIPS && fetch(s + 1, false);
            if (s + 1 < STRIPS) {
                double x[STRIP];
                load(x, row.w);
                row.next(tile + r * WIDE + (s + 1) * STRIP, lower + (s + 1) * STRIP * NARROW, NARROW, x);
            }
        } else {
            subtract_strip(tile, shared.w(s), NARROW, lower, NARROW, s + 2, STRIPS);
            if (i == j + 1) subtract_strip(shared.diagonal, tile + s * STRIP, WIDE, shared.w(s), NARROW, 0, triangle());
        }
    }
    if (threadIdx.x == ROW_THREADS) announce(p.progress + p.tile(i, j), STRIPS);
    __syncthreads();
}

// Tile (i, i) in `shared.diagonal`: L and D of its own columns. Returns whether this thread's pivot is positive.
__device__ bool eliminate_diagonal(const Problem& p, const Shared& shared, Row& row, int i) {
    int r = threadIdx.x, at = i * TILE + r;
    int strips = min(STRIPS, (p.rows - i * TILE + STRIP - 1) / STRIP);  // nobody reads what is all padding
    double* tile = shared.diagonal;
    double* to = p.factor + (long long)at * p.order + i * TILE;
    bool positive = false;
    if (is_row_thread()) load(row.a, tile + r * WIDE);
    for (int s = 0; s < strips; s++) {
        int c0 = s * STRIP;
        if (is_row_thread()) {
            barrier_of(ROW_THREADS);  // the rows of the 8 x 8 block are there
            if (r >= c0) {
                double pivot = factor(row, tile + c0 * WIDE + c0, p.floor, r - c0, at < p.rows);
                positive |= pivot > 0 && at < p.rows;
                if (r < c0 + STRIP) p.pivots[at] = pivot;
                if (at < p.order) store(to + c0, row.a);
                store(shared.w(s) + r * NARROW, row.w);
                if (r >= c0 + STRIP) store(tile + r * WIDE + c0, row.a);
            }
        }
        __syncthreads();
        if (is_row_thread()) {
            if (r >= c0 && r < c0 + STRIP) {
                store(tile + r * WIDE + c0, row.a);  // not before all have read the block
            } else if (r >= c0 + STRIP && s + 1 < strips) {
                double x[STRIP];
                load(x, row.a);
                row.next(tile + r * WIDE + c0 + STRIP, shared.w(s) + (c0 + STRIP) * NARROW, NARROW, x);
                if (r < c0 + 2 * STRIP) store(tile + r * WIDE + c0 + STRIP, row.a);
            }
        } else {
            if (threadIdx.x == ROW_THREADS) announce(p.progress + p.tile(i, i), 1);
            subtract_strip(tile, tile + c0, WIDE, shared.w(s), NARROW, s + 2, triangle());
        }
    }
    if (threadIdx.x == ROW_THREADS && strips < STRIPS) announce(p.progress + p.tile(i, i), STRIPS - strips);
    return positive;
}

// The inverse of each 16 x 16 block on L's diagonal, transposed, into the place above the diagonal of the factor's. A
// row thread finds a column of an inverse. Another block may be copying these places along with L, and reads only L.
__device__ void store_inverses(const Problem& p, const double* tile, int i) {
    constexpr int BLOCK = 16;
    int c = threadIdx.x % BLOCK, first = threadIdx.x - c, at = i * TILE + first;
    if (!is_row_thread() || at >= p.rows) return;
    double x[BLOCK];
#pragma unroll
    for (int a = 0; a < BLOCK; a++) {
        double sum = a == c ? 1.0 : 0.0;
#pragma unroll
        for (int k = 0; k < a; k++) sum = fma(-tile[(first + a) * WIDE + first + k], k < c ? 0.0 : x[k], sum);
        x[a] = sum;
    }
    double* to = p.factor + (long long)(at + c) * p.order + at;
#pragma unroll
    for (int a = 0; a < BLOCK; a++)
        if (a > c) to[a] = x[a];
}
