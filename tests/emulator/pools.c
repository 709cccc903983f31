/* The default memory pool of each device: its attributes and statistics. Its memory is the business of memory.c. */
#include "internal.h"

/* A pool has no state of its own beside its device's, so its handle is only a number. */
#define POOL_HANDLE UINT64_C(0x5EF000000000)

void pool_note_use(int device)
{
    device_t *state = device_get(device);
    uint64_t  used = memory_in_pool(device, true);
    uint64_t  reserved = memory_in_pool(device, false);
    state->used_high = used > state->used_high ? used : state->used_high;
    state->reserved_high = reserved > state->reserved_high ? reserved : state->reserved_high;
}

cudaError_t emulator_cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device)
{
    call_t call = {.record = {.name = "cudaDeviceGetDefaultMemPool", .device = device}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        if (!device_exists(device)) {
            call.result = cudaErrorInvalidDevice;
        } else if (pool == NULL) {
            call.result = cudaErrorInvalidValue;
        } else {
            *pool = (cudaMemPool_t)(uintptr_t)(POOL_HANDLE + (uint64_t)device);
        }
    }
    return call_end(&call);
}

/* The device of a pool, or -1. */
static int pool_device(cudaMemPool_t pool)
{
    uint64_t device = (uint64_t)(uintptr_t)pool - POOL_HANDLE;
    return device < EMULATOR_MAX_DEVICES && device_exists((int)device) ? (int)device : -1;
}

/* The reuse attributes are the first three of the enumeration; they are remembered and change nothing. */
static bool is_reuse_attribute(enum cudaMemPoolAttr attribute)
{
    return attribute >= cudaMemPoolReuseFollowEventDependencies &&
           attribute <= cudaMemPoolReuseAllowInternalDependencies;
}

static cudaError_t get_pool_attribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
{
    int device = pool_device(pool);
    if (device < 0 || value == NULL) {
        return cudaErrorInvalidValue;
    }
    const device_t *state = device_get(device);
    if (is_reuse_attribute(attribute)) {
        *(int *)value = !state->reuse_disabled[attribute - cudaMemPoolReuseFollowEventDependencies];
        return cudaSuccess;
    }
    uint64_t *number = value;
    switch (attribute) {
    case cudaMemPoolAttrReleaseThreshold: *number = state->release_threshold; return cudaSuccess;
    case cudaMemPoolAttrReservedMemCurrent: *number = memory_in_pool(device, false); return cudaSuccess;
    case cudaMemPoolAttrReservedMemHigh: *number = state->reserved_high; return cudaSuccess;
    case cudaMemPoolAttrUsedMemCurrent: *number = memory_in_pool(device, true); return cudaSuccess;
    case cudaMemPoolAttrUsedMemHigh: *number = state->used_high; return cudaSuccess;
    default: return cudaErrorInvalidValue;
    }
}

static cudaError_t set_pool_attribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, const void *value)
{
    int device = pool_device(pool);
    if (device < 0 || value == NULL) {
        return cudaErrorInvalidValue;
    }
    device_t *state = device_get(device);
    if (is_reuse_attribute(attribute)) {
        state->reuse_disabled[attribute - cudaMemPoolReuseFollowEventDependencies] = *(const int *)value == 0;
        return cudaSuccess;
    }
    uint64_t number = *(const uint64_t *)value;
    switch (attribute) {
    case cudaMemPoolAttrReleaseThreshold: state->release_threshold = number; return cudaSuccess;
    case cudaMemPoolAttrReservedMemHigh: state->reserved_high = memory_in_pool(device, false); break;
    case cudaMemPoolAttrUsedMemHigh: state->used_high = memory_in_pool(device, true); break;
    default: return cudaErrorInvalidValue;
    }
    return number == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t emulator_cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
{
    call_t call = {.record = {.name = "cudaMemPoolGetAttribute", .flags = (unsigned int)attribute}};
    if (call_begin(&call, CALL_PLAIN)) {
        call.result = get_pool_attribute(pool, attribute, value);
    }
    return call_end(&call);
}

cudaError_t emulator_cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
{
    call_t call = {.record = {.name = "cudaMemPoolSetAttribute", .flags = (unsigned int)attribute}};
    if (call_begin(&call, CALL_PLAIN)) {
        call.result = set_pool_attribute(pool, attribute, value);
    }
    return call_end(&call);
}

size_t emulator_pool_bytes(int device)
{
    lock();
    size_t bytes = (size_t)memory_in_pool(device, true);
    unlock();
    return bytes;
}
