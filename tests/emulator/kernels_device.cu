/* The kernels of the suite of behaviours, for a GPU. */
#include "kernels.h"

#include <cuda.h>
#include <dlfcn.h>
#include <stdlib.h>

static __global__ void write_late(int *target, int value)
{
    unsigned long long begin;
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < KERNEL_DELAY_MS * 1000000ULL);
    *target = value;
}

static __global__ void add(int *target, int value)
{
    *target += value;
}

/* Loading a kernel's code at its first launch synchronises, which would make unordered work look ordered. */
void kernels_prepare(void)
{
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);
}

cudaError_t kernels_warm_up(void)
{
    int        *target;
    cudaError_t error = cudaMalloc((void **)&target, sizeof(*target));
    if (error != cudaSuccess) {
        return error;
    }
    kernel_write_late(0, target, 0);
    kernel_add(0, target, 0);
    error = cudaDeviceSynchronize();
    cudaFree(target);
    return error;
}

cudaError_t kernel_write_late(cudaStream_t stream, int *target, int value)
{
    write_late<<<1, 1, 0, stream>>>(target, value);
    return cudaGetLastError();
}

cudaError_t kernel_add(cudaStream_t stream, int *target, int value)
{
    add<<<1, 1, 0, stream>>>(target, value);
    return cudaGetLastError();
}

/* The driver knows; it is loaded here because the program links the runtime alone. */
bool device_has_context(int device)
{
    typedef CUresult (*initialise_t)(unsigned int flags);
    typedef CUresult (*get_state_t)(CUdevice device, unsigned int *flags, int *active);
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (driver == NULL) {
        return false;
    }
    initialise_t initialise = (initialise_t)dlsym(driver, "cuInit");
    get_state_t  get_state = (get_state_t)dlsym(driver, "cuDevicePrimaryCtxGetState");
    unsigned int flags = 0;
    int          active = 0;
    bool         known = initialise != NULL && get_state != NULL && initialise(0) == CUDA_SUCCESS &&
                         get_state(device, &flags, &active) == CUDA_SUCCESS;
    return known && active != 0;
}

const char *kernels_find_leaks(void)
{
    return NULL;
}
