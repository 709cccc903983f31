/*
 * The kernels that the suite of behaviours launches, on a GPU (kernels_device.cu) or the emulator (kernels_emulated.c),
 * and the few questions that the runtime itself does not answer.
 */
#ifndef EMULATOR_KERNELS_H
#define EMULATOR_KERNELS_H

#ifdef BEHAVIOURS_EMULATED
#include "emulator.h"
#define CUDA(name) emulator_##name
#else
#include <cuda_runtime_api.h>
#define CUDA(name) name
#endif

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How long a late kernel takes, at least, in milliseconds of device time; the emulator's take until they are forced. */
#define KERNEL_DELAY_MS 50

/* To be called before any CUDA call of the process. */
void kernels_prepare(void);

/* Runs every kernel once on the current device, because the first launch of a kernel may load code and synchronise. */
cudaError_t kernels_warm_up(void);

/* Launches a kernel that waits for the delay and then writes value to *target. */
cudaError_t kernel_write_late(cudaStream_t stream, int *target, int value);

/* Launches a kernel that adds value to *target. */
cudaError_t kernel_add(cudaStream_t stream, int *target, int value);

/* Whether the device has a context in this process, which asking does not create. */
bool device_has_context(int device);

/* What is wrong with the process when all tests are over, as one text, or NULL: leaks, on the emulator. */
const char *kernels_find_leaks(void);

#ifdef __cplusplus
}
#endif

#endif
