/* saxpy.cu - saxpy for CUDA arrays. The layout travels as a kernel argument (2 kB), so nothing has to be copied first. */
#include "saxpy.h"

#include <cuda_runtime.h>

namespace
{

__device__ int64_t offset_of(const saxpy_layout_t &layout, int array, int64_t index)
{
    int64_t offset = 0;
    for (int32_t i = layout.ndim - 1; i >= 0; i--) {
        offset += index % layout.shape[i] * layout.strides[array][i];
        index /= layout.shape[i];
    }
    return offset;
}

template <typename T>
__global__ void saxpy(const __grid_constant__ saxpy_layout_t layout, T *s, const T *x, const T *y, T a)
{
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < layout.size; i += step)
        s[offset_of(layout, 0, i)] = a * x[offset_of(layout, 1, i)] + y[offset_of(layout, 2, i)];
}

template <typename T> int launch(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments, cai_stream_t stream)
{
    const int     threads = 256;
    const int64_t wanted = (layout->size + threads - 1) / threads, limit = 65535;
    saxpy<T><<<unsigned(wanted < limit ? wanted : limit), threads, 0, stream>>>(
        *layout, static_cast<T *>(arguments->s), static_cast<const T *>(arguments->x),
        static_cast<const T *>(arguments->y), T(arguments->a));
    return int(cudaGetLastError());
}

} // namespace

extern "C" int saxpy_launch_float32(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments,
                                    cai_stream_t stream)
{
    return launch<float>(layout, arguments, stream);
}

extern "C" int saxpy_launch_float64(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments,
                                    cai_stream_t stream)
{
    return launch<double>(layout, arguments, stream);
}
