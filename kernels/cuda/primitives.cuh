// What the kernels need of a GPU beyond plain C++: tensor cores, asynchronous copies, named barriers, and memory that
// blocks share. The tests compile the kernels as C++ for a CPU, with their own version of this file.

#pragma once

// The block's dynamic shared memory.
#define SHARED_MEMORY(name)              \
    extern __shared__ double2 in_pairs[]; \
    double* name = (double*)in_pairs

// 1 / x to about one unit in the last place, for normal x: the hardware's 20 bits, and one step of third order, which
// is shorter than two of Newton's and than a division.
__device__ inline double reciprocal(double x) {
    double y;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
    double e = fma(-x, y, 1.0);
    return fma(y, fma(e, e, e), y);
}

// c += a b for one warp, a 16 x 8, b 8 x 8, c 16 x 8. With g = lane / 4 and t = lane % 4, a lane has
// a[g][t], a[g + 8][t], a[g][t + 4], a[g + 8][t + 4];  b[t][g], b[t + 4][g];  c[g][2 t], c[g][2 t + 1] and the same of
// row g + 8.
//
// Also where FP64 has two units a multiprocessor, in 8.6, 8.9, 10.3 and 12.0: these have the instruction (DMMA, which is
// no loop and no call there), and its 256 products of 8 x 8 x 4 wait for the same units as other FP64 operations do. By
// CUDA 13.0's assembler it keeps them for 584 cycles on 10.3 and 12.0, and the eight FMAs in its place for 8 x 64, which
// is 12 % less; for 8.6 and 8.9 the assembler does not say. Not built: with 4 x 584 cycles for one product 16 x 8 x 8 the
// units are the bound either way, elements would have to be exchanged by 64 shuffles, and nobody has measured it.
__device__ inline void multiply_add(double (&c)[4], const double (&a)[4], const double (&b)[2]) {
#if __CUDA_ARCH__ >= 900
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
#else
#pragma unroll
    for (int i = 0; i < 4; i++)
        asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
            : "+d"(c[2 * (i % 2)]), "+d"(c[2 * (i % 2) + 1])
            : "d"(a[i]), "d"(b[i / 2]));
#endif
}

// Starts to copy 16 bytes from global to shared memory, past the L1 cache; zeros instead if not `there`.
__device__ inline void copy_16(double* shared, const double* global, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
        :: "r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global), "r"(there ? 16 : 0) : "memory");
}

__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `LEFT` of the groups of copies that this thread has started are under way.
template <int LEFT>
__device__ inline void wait_groups() { asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory"); }

// A barrier for the first `threads` threads of the block alone.
__device__ inline void barrier_of(int threads) { asm volatile("bar.sync 1, %0;" :: "r"(threads) : "memory"); }

__device__ inline bool any_in_warp(bool x) { return __any_sync(~0u, x); }

// Bits of `x` of all lanes.
__device__ inline unsigned bits_of_warp(bool x) { return __ballot_sync(~0u, x); }

// What other blocks have announced at `p`; after it, this thread may read what they wrote before they did.
__device__ inline int seen(const int* p) {
    int x;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}

// Counts looks at what other blocks announce. After 2^25, which take 10 s or more, it ends the launch with an error: a
// block only waits for others that run, so that something must have gone wrong.
struct Patience {
    int left = 1 << 25;
    __device__ void look() {
        if (--left == 0) __trap();
    }
};

// Announces at `p` that what this thread has written, and what others wrote before a barrier that it has passed, is
// there.
__device__ inline void announce(int* p, int more) {
    asm volatile("red.release.gpu.global.add.s32 [%0], %1;" :: "l"(p), "r"(more) : "memory");
}

__device__ inline long long latest(const long long* p) { return *(const volatile long long*)p; }

// 0, 1, ..., n - 1, and 0 again: the counter needs no reset between launches.
__device__ inline int ticket(unsigned* counter, int n) { return atomicInc(counter, n - 1); }
