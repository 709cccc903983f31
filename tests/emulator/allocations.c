/* The runtime calls that allocate memory, free it, and say what an address is. */
#include "internal.h"

#include <string.h>

static cudaError_t allocate_now(void **pointer, memory_kind_t kind, size_t size)
{
    if (pointer == NULL) {
        return cudaErrorInvalidValue;
    }
    cudaError_t error = capture_check_unsafe();
    if (error != cudaSuccess) {
        return error;
    }
    if (size == 0) {
        *pointer = NULL;
        return cudaSuccess;
    }
    block_t *block = memory_take(kind, this_thread()->device, size, 0);
    if (block == NULL) {
        return cudaErrorMemoryAllocation;
    }
    block_take_effect(block, block->life);
    *pointer = block->base;
    return cudaSuccess;
}

cudaError_t emulator_cudaMalloc(void **pointer, size_t size)
{
    call_t call = {.record = {.name = "cudaMalloc", .size = size}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = allocate_now(pointer, MEMORY_DEVICE, size);
        call.record.pointer = call.result == cudaSuccess ? *pointer : NULL;
    }
    return call_end(&call);
}

cudaError_t emulator_cudaMallocManaged(void **pointer, size_t size, unsigned int flags)
{
    call_t call = {.record = {.name = "cudaMallocManaged", .size = size, .flags = flags}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        bool is_valid = size > 0 && (flags == cudaMemAttachGlobal || flags == cudaMemAttachHost);
        call.result = is_valid ? allocate_now(pointer, MEMORY_MANAGED, size) : cudaErrorInvalidValue;
        call.record.pointer = call.result == cudaSuccess ? *pointer : NULL;
    }
    return call_end(&call);
}

static cudaError_t allocate_pinned(void **pointer, size_t size, unsigned int flags)
{
    const unsigned int known = cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;
    if ((flags & ~known) != 0) {
        return cudaErrorInvalidValue;
    }
    cudaError_t error = allocate_now(pointer, MEMORY_PINNED, size);
    if (error == cudaSuccess) {
        call_blocks();
    }
    return error;
}

cudaError_t emulator_cudaHostAlloc(void **pointer, size_t size, unsigned int flags)
{
    call_t call = {.record = {.name = "cudaHostAlloc", .size = size, .flags = flags}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = allocate_pinned(pointer, size, flags);
        call.record.pointer = call.result == cudaSuccess ? *pointer : NULL;
    }
    return call_end(&call);
}

cudaError_t emulator_cudaMallocHost(void **pointer, size_t size)
{
    call_t call = {.record = {.name = "cudaMallocHost", .size = size}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = allocate_pinned(pointer, size, cudaHostAllocDefault);
        call.record.pointer = call.result == cudaSuccess ? *pointer : NULL;
    }
    return call_end(&call);
}

static cudaError_t allocate_in_order(void **pointer, size_t size, cudaStream_t handle)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess && pointer == NULL) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess) {
        error = capture_check_submit(stream);
    }
    if (error == cudaSuccess && stream->capture == NULL) {
        error = capture_check_unsafe();
    }
    if (error != cudaSuccess) {
        return error;
    }
    if (size == 0) {
        *pointer = NULL;
        return cudaSuccess;
    }
    block_t *block = stream->capture != NULL ? memory_for_graph(stream->device, size, stream->capture->id)
                                             : memory_take(MEMORY_POOL, stream->device, size, stream->id);
    if (block == NULL) {
        return cudaErrorMemoryAllocation;
    }
    block_retain(block);
    *pointer = block->base;
    operation_t operation = {.kind = OPERATION_ALLOCATE, .block = block, .life = block->life};
    error = stream_submit(stream, &operation, NULL);
    pool_note_use(stream->device);
    return error;
}

cudaError_t emulator_cudaMallocAsync(void **pointer, size_t size, cudaStream_t stream)
{
    call_t call = {.record = {.name = "cudaMallocAsync", .size = size, .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = allocate_in_order(pointer, size, stream);
        call.record.pointer = call.result == cudaSuccess ? *pointer : NULL;
    }
    return call_end(&call);
}

static block_t *find_allocated(const void *pointer, bool pinned)
{
    block_t *block = block_find(pointer);
    if (block == NULL || block->base != pointer) {
        violation("%p was never allocated", pointer);
        return NULL;
    }
    if (!block->allocated) {
        violation("%p is freed already", pointer);
        return NULL;
    }
    if ((block->kind == MEMORY_PINNED) != pinned) {
        violation("%p is freed as another kind of memory than it is", pointer);
        return NULL;
    }
    return block;
}

/* Memory of pools is freed without waiting, all other memory after the device's work. */
static cudaError_t free_after_device(void *pointer, bool pinned)
{
    if (pointer == NULL) {
        return cudaSuccess;
    }
    cudaError_t error = capture_check_unsafe();
    block_t    *block = error == cudaSuccess ? find_allocated(pointer, pinned) : NULL;
    if (block == NULL) {
        return error != cudaSuccess ? error : cudaErrorInvalidValue;
    }
    if (block->kind != MEMORY_POOL && block->kind != MEMORY_GRAPH) {
        int device = block->device;
        call_blocks();
        work_force_device(device);
        block = find_allocated(pointer, pinned); /* another thread may have freed it meanwhile */
    }
    if (block == NULL) {
        return cudaErrorInvalidValue;
    }
    block_free_now(block);
    return cudaSuccess;
}

cudaError_t emulator_cudaFree(void *pointer)
{
    call_t call = {.record = {.name = "cudaFree", .pointer = pointer}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = free_after_device(pointer, false);
    }
    return call_end(&call);
}

cudaError_t emulator_cudaFreeHost(void *pointer)
{
    call_t call = {.record = {.name = "cudaFreeHost", .pointer = pointer}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = free_after_device(pointer, true);
    }
    return call_end(&call);
}

/* While a stream captures it may free only what the same capture allocated. Anything else is an unsafe call, which
 * finds the capture that it has just invalidated, or, where unsafe calls are permitted, an argument that is no good. */
static cudaError_t free_in_capture(void *pointer, stream_t *stream)
{
    block_t *block = block_find(pointer);
    bool     is_own = block != NULL && block->base == pointer && block->capture == stream->capture->id;
    if (!is_own) {
        return capture_check_unsafe() != cudaSuccess ? cudaErrorStreamCaptureInvalidated : cudaErrorInvalidValue;
    }
    if (block->free_captured) {
        violation("%p is freed already", pointer);
        return cudaErrorInvalidValue;
    }
    block->free_captured = true;
    block_retain(block);
    operation_t operation = {.kind = OPERATION_FREE, .block = block, .life = block->life};
    return stream_submit(stream, &operation, NULL);
}

static cudaError_t free_in_order(void *pointer, cudaStream_t handle)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess) {
        error = capture_check_submit(stream);
    }
    if (error == cudaSuccess && stream->capture != NULL) {
        return free_in_capture(pointer, stream);
    }
    if (error == cudaSuccess) {
        error = capture_check_unsafe();
    }
    if (error != cudaSuccess) {
        return error;
    }
    block_t *block = find_allocated(pointer, false);
    if (block == NULL) {
        return cudaErrorInvalidValue;
    }
    block_freed_on(block, stream);
    if (block->kind != MEMORY_GRAPH) {
        block_retain(block); /* for memory of a graph, the operation takes over what its being allocated counted */
    }
    work_release(block->free_work);
    operation_t operation = {.kind = OPERATION_FREE, .block = block, .life = block->life};
    return stream_submit(stream, &operation, &block->free_work);
}

cudaError_t emulator_cudaFreeAsync(void *pointer, cudaStream_t stream)
{
    call_t call = {.record = {.name = "cudaFreeAsync", .pointer = pointer, .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = free_in_order(pointer, stream);
    }
    return call_end(&call);
}

static void describe(struct cudaPointerAttributes *attributes, const void *pointer)
{
    static const enum cudaMemoryType types[] = {cudaMemoryTypeDevice, cudaMemoryTypeDevice, cudaMemoryTypeManaged,
                                                cudaMemoryTypeHost, cudaMemoryTypeDevice};
    void                            *address = (void *)(uintptr_t)pointer;
    const block_t                   *block = block_find(pointer);
    memset(attributes, 0, sizeof(*attributes));
    if (block == NULL || !block->allocated) {
        attributes->type = cudaMemoryTypeUnregistered;
        attributes->device = -2;
        attributes->hostPointer = address;
        return;
    }
    attributes->type = types[block->kind];
    attributes->device = block->device;
    attributes->devicePointer = address;
    attributes->hostPointer = attributes->type != cudaMemoryTypeDevice ? address : NULL;
}

cudaError_t emulator_cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer)
{
    call_t call = {.record = {.name = "cudaPointerGetAttributes", .pointer = pointer}};
    if (call_begin(&call, CALL_PLAIN)) {
        if (!device_exists(0)) {
            call.result = cudaErrorNoDevice;
        } else if (attributes == NULL) {
            call.result = cudaErrorInvalidValue;
        } else {
            describe(attributes, pointer);
        }
    }
    return call_end(&call);
}
