// A kernel with static and dynamic shared memory; launched twice, the second time with more than a block of sm_120 has.
// launch: scale_kernel threads=256 shared=4096
// launch: scale_kernel threads=256 shared=131072

extern "C" __global__ void scale_kernel(double *x, double factor) {
    __shared__ double first[32];
    extern __shared__ double rest[];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x < 32) first[threadIdx.x] = x[threadIdx.x];
    rest[threadIdx.x] = x[i];
    __syncthreads();
    x[i] = factor * rest[blockDim.x - 1 - threadIdx.x] + first[threadIdx.x % 32];
}

extern "C" __global__ void forgotten_kernel(double *x) { x[threadIdx.x] += 1.0; }
