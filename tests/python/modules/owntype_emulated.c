/* owntype_emulated.c - what the example calls by the runtime's own names, for this module alone. */
#include <emulator_runtime.h>

#define HIDDEN __attribute__((visibility("hidden")))

HIDDEN cudaError_t cudaMalloc(void **pointer, size_t size)
{
    return emulator_cudaMalloc(pointer, size);
}

HIDDEN cudaError_t cudaFree(void *pointer)
{
    return emulator_cudaFree(pointer);
}

HIDDEN cudaError_t cudaMemset(void *pointer, int value, size_t size)
{
    return emulator_cudaMemset(pointer, value, size);
}

HIDDEN cudaError_t cudaGetLastError(void)
{
    return emulator_cudaGetLastError();
}

HIDDEN cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
    return emulator_cudaThreadExchangeStreamCaptureMode(mode);
}
