__device__ double affine(double slope, float x, float half) {
    double sum = 0.0;
#pragma unroll UNROLL
    for (int i = 0; i < UNROLL; ++i) sum += slope * x * half;
    return sum;
}
