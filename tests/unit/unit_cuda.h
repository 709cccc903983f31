/*
 * What the unit tests that call CUDA share: streams, captures and delayed writes on the emulator.
 *
 * Each test runs in a process of its own, so that each starts with a fresh emulator.
 */
#ifndef UNIT_CUDA_H
#define UNIT_CUDA_H

#include "emulator.h"
#include "unit.h"

/* Calls the runtime for a test's own purposes, which must succeed. */
#define UNIT_CUDA(call)                                                                                                \
    do {                                                                                                               \
        const cudaError_t unit_result = emulator_##call;                                                               \
        cr_assert_eq(unit_result, cudaSuccess, "%s: %s", #call, emulator_cudaGetErrorName(unit_result));               \
    } while (0)

/* At the end of a body: nothing was used wrongly. */
#define UNIT_NO_VIOLATIONS() cr_expect_eq(emulator_count_violations(), 0, "the emulator noted a wrong use")

/* A stream of the current device: cudaStreamNonBlocking or cudaStreamDefault. */
static inline cudaStream_t unit_stream(unsigned int flags)
{
    cudaStream_t stream = NULL;
    UNIT_CUDA(cudaStreamCreateWithFlags(&stream, flags));
    return stream;
}

static inline int unit_current_device(void)
{
    int device = -1;
    UNIT_CUDA(cudaGetDevice(&device));
    return device;
}

/* The calling thread's capture mode. */
static inline enum cudaStreamCaptureMode unit_capture_mode(void)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed, found;
    UNIT_CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
    found = mode;
    UNIT_CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
    return found;
}

/* Ends a capture that must still be intact. */
static inline void unit_end_capture(cudaStream_t stream, const char *name)
{
    cudaGraph_t       graph = NULL;
    const cudaError_t result = emulator_cudaStreamEndCapture(stream, &graph);
    cr_expect_eq(result, cudaSuccess, "%s: the capture is broken: %s", name, emulator_cudaGetErrorName(result));
    if (result == cudaSuccess)
        UNIT_CUDA(cudaGraphDestroy(graph));
}

static inline void unit_write_one(void *arguments)
{
    int *const *target = (int *const *)arguments;
    **target = 1;
}

/* Writes 1 to *target when the stream's work is forced. */
static inline void unit_write_late(cudaStream_t stream, int *target)
{
    *target = 0;
    cr_assert_eq(emulator_launch(stream, unit_write_one, &target, sizeof(target)), cudaSuccess, "launch");
}

#endif
