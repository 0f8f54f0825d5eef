// A kernel whose registers depend on a macro, and that is too large for one architecture with one of its values.
// launch: sum_kernel threads=128 shared=0
// launch: sum_kernel threads=128 shared=131072 WIDTH=32 UNUSED=1 on=sm_80,sm_90

#include "width.cuh"

extern "C" __global__ void sum_kernel(double *x) {
    double kept[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; i++) kept[i] = x[i * 128 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < WIDTH; i++) x[i * 128 + threadIdx.x] = kept[WIDTH - 1 - i];
}
