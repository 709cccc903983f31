/* The kernels of the suite of behaviours, as functions for the emulator. */
#include "kernels.h"

#include <stddef.h>

typedef struct arguments {
    int *target;
    int  value;
} arguments_t;

static void write_value(void *pointer)
{
    const arguments_t *arguments = pointer;
    *arguments->target = arguments->value;
}

static void add_value(void *pointer)
{
    const arguments_t *arguments = pointer;
    *arguments->target += arguments->value;
}

void kernels_prepare(void)
{
}

cudaError_t kernels_warm_up(void)
{
    return cudaSuccess;
}

cudaError_t kernel_write_late(cudaStream_t stream, int *target, int value)
{
    arguments_t arguments = {.target = target, .value = value};
    return emulator_launch(stream, write_value, &arguments, sizeof(arguments));
}

cudaError_t kernel_add(cudaStream_t stream, int *target, int value)
{
    arguments_t arguments = {.target = target, .value = value};
    return emulator_launch(stream, add_value, &arguments, sizeof(arguments));
}

bool device_has_context(int device)
{
    return emulator_has_context(device);
}

const char *kernels_find_leaks(void)
{
    if (emulator_count_allocations() > 0) {
        return "memory is still allocated";
    }
    if (emulator_count_streams() > 0 || emulator_count_events() > 0) {
        return "streams or events are left";
    }
    return emulator_count_graphs() > 0 || emulator_count_executable_graphs() > 0 ? "graphs are left" : NULL;
}
