// LDL: how many eigenvalues of each Gram are above each of several shifts, by an unpivoted LDL^T; see `inertia.ldl`.
//
//     G - shift I = L D L^T                           G (r, r) FP64; a *problem* is a matrix and a shift
//     counts[i, s] = number of positive pivots d_j
//     growth[i, s] = sum_j |d_j| ||L_j||^2
//
// One launch factors all problems, of any orders. The lower triangle of a problem is cut into tiles of 64 x 64. A block
// makes tile (i, j), or, along the diagonal, the tiles (i, i - 1) and (i, i), since what is last to be known of the one
// is needed at once by the other. It sums what the columns before have to say on the tensor cores, then eliminates
// the tile's own columns, 8 at a time:
//
//     row threads     64 of them, one for a row of the tile. Each has the 8 x 8 block on the diagonal in its own
//                     registers and factors it, as all others do too: from pivot to pivot there is a reciprocal and two
//                     operations, and no thread waits for another. A barrier comes every 8 pivots.
//     tensor warps    4 of them: the rest of the tile loses the product of the 8 columns before, meanwhile.
//
// Blocks hear of each other's tiles through counters in global memory: a tile counts up for each 8 columns that can be
// read. A block takes the next task of a list in which a task depends on earlier ones only. So it waits for blocks that
// are already running, whatever the order in which they were started. Along the diagonal a block divides by columns
// that its predecessor is still making, 8 behind it.
//
// An element a_ij loses its products in pieces of 512 columns or less, and those of the last 64 columns, on the
// diagonal of 128, one after the other. So a product goes through at most 512 + ceil(r / 512) + 128 + 1 operations:
// within the terms of `inertia.ldl`, 640 + r / 128 from r = 582 on, and r + 64 before that, where it is at most r + 2.
// A pivot of which the magnitude is below floor is replaced by floor, with the pivot's sign.
//
// Bytes: 8 r^2 / 2 read of G and written of L; r^3 / (3 x 64) elements of L read again, from L2. Flops: r^3 / 3, FP64.
//
// By the latencies of the compiled instructions for sm_90 (assumed: 9 cycles an FP64 operation, 24 a reciprocal, 30
// shared memory, 22 a barrier): 870 cycles to factor 8 columns, 1250 with all that comes between
// them and the next 8, which is 156 a pivot; 10,000 for a tile on the diagonal, and about 2,500 more until the next one
// can begin. At 1.755 GHz a chain of 512 pivots takes 57 us and one of 4096 460 us, where one program of Triton takes
// 810 us for the 512. Measured on an H200: 232 us for all of ResNet-18, 4 shifts a matrix; a chain alone is not measured.
//
// Tried, by what the compiler makes of it:
//     d of all 8 pivots in every thread, for one to store    8 to 36 bytes spilled at 168 registers, but on sm_100
//     the floor compared before the reciprocal               a comparison and two selections more from pivot to pivot

#ifndef MANY
#define MANY 1  // whether a problem has more than one tile
#endif
#ifndef STAGES
#define STAGES 3  // chunks of 8 columns in shared memory: for two blocks in 228 KiB; 2 where a block may have 99 KiB
#endif

#include "eliminate.cuh"

enum { ROWS = 1, ORDER = 5, OFFSET = 6, FIELDS = 11 };  // as in `inertia.table`
enum { MATRIX, SHIFT, TILE_ROW, TILE_COLUMN, FIRST_TILE, FIRST_PIVOT, TASK_FIELDS };  // as in `inertia.tasks`

// Sum over all threads of the block, for thread 0; the same bits in every launch.
__device__ double sum_of_block(double* memory, double x) {
    int thread = threadIdx.x;
    __syncthreads();
    memory[thread] = x;
    __syncthreads();
    if (thread >= 32) return 0.0;
    double sum = 0.0;
    for (int i = thread; i < THREADS; i += 32) sum += memory[i];
    for (int n = 16; n > 0; n /= 2) {
        memory[thread] = sum;
        __syncwarp();
        if (thread < n) sum += memory[thread + n];
        __syncwarp();
    }
    return sum;
}

// launch: ldl_kernel threads=192 shared=49360 MANY=0
// launch: ldl_kernel threads=192 shared=98448 MANY=1 STAGES=2 on=sm_86,sm_89,sm_120
// launch: ldl_kernel threads=192 shared=110800 MANY=1 STAGES=3 on=sm_80,sm_90,sm_100
extern "C" __global__ void __launch_bounds__(THREADS, 2)
ldl_kernel(const long long* table, const int* tasks, const int* decided, const double* coefficients,
           const double* trace, const double* gram, double* factors, long long* counts, double* growth, double* pivots,
           int* progress, double* grown, int* above, unsigned* counter, int count, int shifts, int parts, int pairs,
           int inverses) {
    SHARED_MEMORY(memory);
    Shared shared(memory);
    if (threadIdx.x == 0) shared.tasks[0] = ticket(counter, count);
    __syncthreads();
    const int* task = tasks + shared.tasks[0] * TASK_FIELDS;
    int matrix = task[MATRIX], which = task[SHIFT], i = task[TILE_ROW], j = task[TILE_COLUMN];
    int problem = matrix * shifts + which;
    const long long* row_of_table = table + (long long)matrix * FIELDS;
    double norm = trace[matrix], shift = coefficients[2 * problem] * norm + coefficients[2 * problem + 1];
    if (norm == 0 && shift == shift) shift = 1.0;  // any positive shift gives a zero matrix the count 0
    if (decided[matrix] != 0 || !isfinite(norm) || !(shift == shift)) return;

    Problem p;
    p.rows = (int)row_of_table[ROWS], p.order = (int)row_of_table[ORDER];
    p.gram = gram + row_of_table[OFFSET];
    p.factor = factors + row_of_table[OFFSET] * shifts + (long long)which * p.order * p.order;
    p.pivots = pivots + task[FIRST_PIVOT];
    p.progress = progress + task[FIRST_TILE];
    p.grown = grown + task[FIRST_TILE], p.above = above + task[FIRST_TILE];
    p.shift = shift, p.floor = UNIT * (norm + p.rows * fabs(shift));
    int own = p.tile(i, j), last = (p.rows + TILE - 1) / TILE - 1;

    // All counters of a problem are equal before a launch, since each counts up to the same number in every launch.
    if (threadIdx.x == 0) shared.tasks[1] = seen(p.progress + own);
    // Where the shift for the lower bound has all eigenvalues above it, the rank is full: nothing is left to find out.
    bool bounds_above = which / 2 < pairs && which % 2 == 0;
    if (threadIdx.x == 0) shared.tasks[2] = bounds_above && latest(counts + problem + 1) == p.rows;
    __syncthreads();
    p.start = shared.tasks[1];
    if (shared.tasks[2]) {
        if (threadIdx.x > 0) return;
        if (i == j && i > 0) announce(p.progress + own - 1, DONE);
        announce(p.progress + own, DONE);
        if (i == j && i == last) counts[problem] = p.rows, growth[(long long)problem * parts] = 0.0;
        return;
    }

    Row row;
    row.growth = 0.0;
    bool positive = false;
    if (MANY && i > 0) {
        if (i == j) sum_before(p, shared, shared.diagonal, i, i, i - 1);
        int k = i == j ? i - 1 : j;
        sum_before(p, shared, shared.left, i, k, k);
        eliminate_left(p, shared, row, i, k);
    } else {
        sum_before(p, shared, shared.diagonal, 0, 0, 0);
    }
    if (i == j) {
        positive = eliminate_diagonal(p, shared, row, i);
        if (inverses) {
            __syncthreads();
            store_inverses(p, shared.diagonal, i);
        }
    }
    int number = __syncthreads_count(positive);
    double total = sum_of_block(shared.strips, row.growth);
    if (threadIdx.x == 0) {
        p.grown[own] = total, p.above[own] = number;
        if (i == j && i > 0) {
            p.grown[own - 1] = 0.0, p.above[own - 1] = 0;
            announce(p.progress + own - 1, DONE - STRIPS);
        }
        announce(p.progress + own, DONE - STRIPS);
    }
    if (i != j || i != last) return;

    // The last tile of the diagonal comes after all others.
    total = 0.0, number = 0;
    for (int k = threadIdx.x; k <= own; k += THREADS) {
        for (Patience patience; p.news(k) < DONE;) patience.look();
        total += p.grown[k], number += p.above[k];
    }
    total = sum_of_block(shared.strips, total);
    double positives = sum_of_block(shared.strips, number);
    if (threadIdx.x == 0) counts[problem] = (long long)positives, growth[(long long)problem * parts] = total;
}
