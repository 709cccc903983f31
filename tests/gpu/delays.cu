// delays.cu - kernels that take long on purpose, so that a missing wait is seen and not merely possible.
#include <cuda_runtime.h>

namespace
{

__device__ void spin(long long nanoseconds)
{
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    do {
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    } while (now - start < (unsigned long long)nanoseconds);
}

__global__ void fill_late(float *target, long long n, float value, long long nanoseconds)
{
    spin(nanoseconds);
    for (long long i = threadIdx.x; i < n; i += blockDim.x)
        target[i] = value;
}

__global__ void copy_late(float *target, const float *source, long long n, long long nanoseconds)
{
    spin(nanoseconds);
    for (long long i = threadIdx.x; i < n; i += blockDim.x)
        target[i] = source[i];
}

} // namespace

// After `milliseconds` of device time, target[0:n] = value. The array's device must be current.
extern "C" int delayed_fill(void *stream, float *target, long long n, float value, double milliseconds)
{
    fill_late<<<1, 256, 0, (cudaStream_t)stream>>>(target, n, value, (long long)(milliseconds * 1e6));
    return (int)cudaGetLastError();
}

// After `milliseconds` of device time, target[0:n] = source[0:n].
extern "C" int delayed_copy(void *stream, float *target, const float *source, long long n, double milliseconds)
{
    copy_late<<<1, 256, 0, (cudaStream_t)stream>>>(target, source, n, (long long)(milliseconds * 1e6));
    return (int)cudaGetLastError();
}
