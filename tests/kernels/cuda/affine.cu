// A kernel with a parameter of every type that kernels here take, to try how they are compiled and launched.
// launch: affine_kernel threads=64 shared=65536 UNROLL=2
#include "affine.cuh"

// y[i] = slope x[i] + n[i] + add for i < end, and 0 up to the next multiple of 64.        affine_kernel(nothing at all)
extern "C" __global__ void __launch_bounds__(64)
affine_kernel(double *__restrict__ y, const float* x, const long long* n, const int* none, int add, /* double, */ double slope,
              long long end, float half) {
    extern __shared__ double shared[];
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    shared[threadIdx.x] = i < end ? affine(slope, x[i], half) : 0.0;
    __syncthreads();
    y[i] = i < end && none == nullptr ? shared[threadIdx.x] + n[i] + add : 0.0;
}
