/* unordered.c - the library with its own ordering switched off, to see that the tests notice.
 *
 * What cai calls to order work or to wait for it does nothing here, and a host function, by which memory is given back
 * late, runs at once; meson.build puts these functions in the place of the emulator's, for the modules of this folder.
 * What tests and producers order themselves, and what the hardware orders, stays as it is. */
#include <stddef.h>

/* In this file the emulator's own are meant. */
#undef emulator_cudaMalloc
#undef emulator_cudaFree
#include <emulator_runtime.h>

cudaError_t unordered_cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t unordered_cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags);
cudaError_t unordered_cudaStreamSynchronize(cudaStream_t stream);
cudaError_t unordered_cudaEventSynchronize(cudaEvent_t event);
cudaError_t unordered_cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data);
cudaError_t unordered_cudaMalloc(void **pointer, size_t size);
cudaError_t unordered_cudaFree(void *pointer);

/* Left alone, a record on legacy would order the per-thread and the blocking streams by itself. */
cudaError_t unordered_cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    (void)event, (void)stream;
    return cudaSuccess;
}

cudaError_t unordered_cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    (void)stream, (void)event, (void)flags;
    return cudaSuccess;
}

cudaError_t unordered_cudaStreamSynchronize(cudaStream_t stream)
{
    (void)stream;
    return cudaSuccess;
}

cudaError_t unordered_cudaEventSynchronize(cudaEvent_t event)
{
    (void)event;
    return cudaSuccess;
}

cudaError_t unordered_cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    (void)stream;
    function(data);
    return cudaSuccess;
}

/* The barrier: freeing one byte waits for the device. Arrays are larger, and freeing them waits as hardware does. */
static char barrier;

cudaError_t unordered_cudaMalloc(void **pointer, size_t size)
{
    if (size > 1)
        return emulator_cudaMalloc(pointer, size);
    *pointer = &barrier;
    return cudaSuccess;
}

cudaError_t unordered_cudaFree(void *pointer)
{
    return pointer == &barrier ? cudaSuccess : emulator_cudaFree(pointer);
}
