// Tiles of a factorisation in shared memory, and what the tensor warps do with them. For `ldl.cu`.

#pragma once

#include "primitives.cuh"

constexpr int TILE = 64, STRIP = 8, STRIPS = TILE / STRIP;
constexpr int ROW_THREADS = TILE, THREADS = ROW_THREADS + 4 * 32;
constexpr int WIDE = TILE + 8;      // from row to row of a tile in shared memory: no bank conflict for fragments of C,
constexpr int NARROW = STRIP + 4;   // and of a strip, 8 columns of a tile: none for fragments of A and B
constexpr int STRIP_SIZE = TILE * NARROW, TILE_SIZE = TILE * WIDE;
constexpr int FLUSH = 512 / STRIP;  // chunks that are summed before the sum is added to the rest
constexpr int DONE = STRIPS + 1;    // what a tile counts up in a launch: its strips, and its count and growth
constexpr double UNIT = 1.0 / 9007199254740992.0;  // unit roundoff of FP64

// The problem of a block, and the place of its tile in it.
struct Problem {
    const double* gram;
    double* factor;
    double* pivots;    // d_j, one after the other
    int* progress;     // of tile (i, j): at i (i + 1) / 2 + j
    double* grown;     // growth and
    int* above;        // number of positive pivots of each tile, likewise
    int start;         // of `progress`, in all tiles, before this launch
    int rows, order;
    double shift, floor;

    __device__ int tile(int i, int j) const { return i * (i + 1) / 2 + j; }

    // How far a tile has come in this launch. Counters go on for ever, and wrap around.
    __device__ int news(int tile) const { return (int)((unsigned)seen(progress + tile) - (unsigned)start); }
};

// Shared memory. `strips` are the chunks of `sum_before`; after it, W and those of the diagonal tile to the left.
struct Shared {
    double* strips;
    double* diagonal;  // tile (i, i)
    double* left;      // tile (i, j), j < i
    double* pivots;    // of each chunk
    int* tasks;        // the block's task

    __device__ Shared(double* memory)
        : strips(memory), diagonal(strips + (MANY ? 2 * STAGES : 2) * STRIP_SIZE), left(diagonal + TILE_SIZE),
          pivots(MANY ? left + TILE_SIZE : left), tasks((int*)(pivots + STAGES * STRIP)) {}

    __device__ double* w(int s) const { return strips + (s & 1) * STRIP_SIZE; }
    __device__ double* other(int s) const { return strips + (2 + (s & 1)) * STRIP_SIZE; }
};

__device__ inline bool is_row_thread() { return threadIdx.x < ROW_THREADS; }

// ---- tensor warps

// c (16 x 8) of a tile -= a b^T, with a (16 x 8) given and b (8 x 8) in rows of `stride`.
__device__ inline void subtract_product(double* c, const double (&a)[4], const double* b, int stride) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    double2* p = (double2*)(c + g * WIDE + 2 * t);
    double2* q = p + 8 * WIDE / 2;
    double2 x = *p, y = *q;
    double sum[4] = {x.x, x.y, y.x, y.y};
    double right[2] = {b[g * stride + t], b[g * stride + t + 4]};
    multiply_add(sum, a, right);
    *p = make_double2(sum[0], sum[1]);
    *q = make_double2(sum[2], sum[3]);
}

// -a of 16 rows and 8 columns in rows of `stride`, as a fragment.
__device__ inline void load_negated(double (&a)[4], const double* p, int stride) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++) a[i] = -p[(g + 8 * (i % 2)) * stride + t + 4 * (i / 2)];
}

// A tile loses a b^T in its columns 8 begin : 8 end, where a and b are strips; each warp takes 16 rows.
__device__ inline void subtract_strip(double* tile, const double* a, int stride_a, const double* b, int stride_b,
                                      int begin, int end) {
    int row = (threadIdx.x - ROW_THREADS) / 32 * 16;
    if (begin >= end) return;
    double fragment[4];
    load_negated(fragment, a + row * stride_a, stride_a);
    for (int n = begin; n < end; n++)
        subtract_product(tile + row * WIDE + n * STRIP, fragment, b + n * STRIP * stride_b, stride_b);
}

// The last strip, and one more, that the 16 rows of this warp have below or on the diagonal.
__device__ inline int triangle() { return ((threadIdx.x - ROW_THREADS) / 32 + 1) * 2; }

// ---- all threads

// Starts to copy tile (i, j) of G; zeros beyond its last row, and nothing above its diagonal.
__device__ inline void fetch_gram(const Problem& p, double* tile, int i, int j) {
    for (int at = threadIdx.x; at < TILE * TILE / 2; at += THREADS) {
        int r = at / (TILE / 2), c = at % (TILE / 2) * 2, row = i * TILE + r, column = j * TILE + c;
        if (column <= row)
            copy_16(tile + r * WIDE + c, p.gram + (long long)row * p.order + column, row < p.order);
    }
    end_group();
}

// G becomes G - shift I on the diagonal of tile (i, i), of which each row thread has an element. Beyond the last row of
// the matrix it becomes the identity, which changes no other pivot.
__device__ inline void shift_diagonal(const Problem& p, double* tile, int i) {
    double* p_own = tile + threadIdx.x * (WIDE + 1);
    *p_own = i * TILE + (int)threadIdx.x < p.rows ? *p_own - p.shift : 1.0;
}

// tile = (G - shift I) - L_i D L_j^T, for tile (i, j), over `count` tiles of columns that are before it.
__device__ void sum_before(const Problem& p, const Shared& shared, double* tile, int i, int j, int count) {
    int lane = threadIdx.x % 32, thread = threadIdx.x;
    fetch_gram(p, tile, i, j);
    if (count == 0) {
        wait_groups<0>();
        __syncthreads();
        if (i == j && is_row_thread()) shift_diagonal(p, tile, i);
        __syncthreads();
        return;
    }

    int ready = 0;  // tiles of columns that other blocks are known to have finished in both rows
    auto fetch = [&](int chunk) {  // by the row threads: rows of L_i and L_j, and d, of 8 columns
        if (chunk < count * STRIPS) {
            for (Patience patience; chunk / STRIPS >= ready; patience.look()) {
                int k = ready + lane;
                bool missing = k >= count || p.news(p.tile(i, k)) < STRIPS || p.news(p.tile(j, k)) < STRIPS;
                ready += __ffsll(bits_of_warp(missing) | 1ll << 32) - 1;
                __syncwarp();
            }
            double* to = shared.strips + chunk % STAGES * 2 * STRIP_SIZE + thread * NARROW;
            for (int part = 0; part < (i == j ? 1 : 2); part++) {
                int row = (part ? j : i) * TILE + thread;
                const double* from = p.factor + (long long)row * p.order + chunk * STRIP;
                for (int c = 0; c < STRIP; c += 2) copy_16(to + part * STRIP_SIZE + c, from + c, row < p.order);
            }
            double* d = shared.pivots + chunk % STAGES * STRIP;
            if (thread < STRIP / 2) copy_16(d + 2 * thread, p.pivots + chunk * STRIP + 2 * thread, true);
        }
        end_group();
    };

    int warp = thread / 32 - 2, row = warp / 2 * 32, column = warp % 2 * 32, g = lane / 4, t = lane % 4;
    double sum[2][4][4] = {};
    if (is_row_thread())
        for (int chunk = 0; chunk < STAGES - 1; chunk++) fetch(chunk);
    for (int chunk = 0; chunk < count * STRIPS; chunk++) {
        if (is_row_thread()) wait_groups<STAGES - 2>();
        else if (chunk == 0) wait_groups<0>();
        __syncthreads();
        if (is_row_thread()) {
            fetch(chunk + STAGES - 1);
            if (chunk == 0 && i == j) shift_diagonal(p, tile, i);
            continue;
        }
        if (i == j && column > row) continue;  // above the diagonal
        const double* strips = shared.strips + chunk % STAGES * 2 * STRIP_SIZE + g * NARROW + t;
        const double* a = strips + row * NARROW;
        const double* b = strips + column * NARROW + (i == j ? 0 : STRIP_SIZE);
        const double* d = shared.pivots + chunk % STAGES * STRIP + t;
        double left[2][4];
        for (int m = 0; m < 2; m++)
            for (int e = 0; e < 4; e++) left[m][e] = a[(16 * m + 8 * (e % 2)) * NARROW + 4 * (e / 2)];
#pragma unroll
        for (int n = 0; n < 4; n++) {
            double right[2] = {b[8 * n * NARROW] * d[0], b[8 * n * NARROW + 4] * d[4]};
            multiply_add(sum[0][n], left[0], right);
            multiply_add(sum[1][n], left[1], right);
        }
        if ((chunk + 1) % FLUSH == 0 || chunk + 1 == count * STRIPS)
            for (int m = 0; m < 2; m++)
                for (int n = 0; n < 4; n++)
                    for (int e = 0; e < 4; e++) {
                        tile[(row + 16 * m + 8 * (e / 2) + g) * WIDE + column + 8 * n + 2 * t + e % 2] -= sum[m][n][e];
                        sum[m][n][e] = 0.0;
                    }
    }
    __syncthreads();
}

