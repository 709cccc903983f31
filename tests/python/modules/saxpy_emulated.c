/* saxpy_emulated.c - pycai's kernel as a host function on the emulator's streams. */
#include "saxpy.h"

#include "emulator.h"

typedef struct launch {
    saxpy_layout_t    layout;
    saxpy_arguments_t arguments;
} launch_t;

static void run_float32(void *arguments)
{
    const launch_t *launch = (const launch_t *)arguments;
    saxpy_host_float32(&launch->layout, &launch->arguments);
}

static void run_float64(void *arguments)
{
    const launch_t *launch = (const launch_t *)arguments;
    saxpy_host_float64(&launch->layout, &launch->arguments);
}

int saxpy_launch_float32(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments, cai_stream_t stream)
{
    const launch_t launch = {*layout, *arguments};
    return (int)emulator_launch(stream, run_float32, &launch, sizeof(launch));
}

int saxpy_launch_float64(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments, cai_stream_t stream)
{
    const launch_t launch = {*layout, *arguments};
    return (int)emulator_launch(stream, run_float64, &launch, sizeof(launch));
}

/* What the example calls by the runtime's own names, for this module alone. */

__attribute__((visibility("hidden"))) cudaError_t cudaMemsetAsync(void *pointer, int value, size_t size,
                                                                  cudaStream_t stream)
{
    return emulator_cudaMemsetAsync(pointer, value, size, stream);
}

__attribute__((visibility("hidden"))) cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size,
                                                                  enum cudaMemcpyKind kind, cudaStream_t stream)
{
    return emulator_cudaMemcpyAsync(to, from, size, kind, stream);
}
