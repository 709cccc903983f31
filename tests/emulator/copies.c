/* Kernels, host functions, copies and fills: what the arguments say, and for whom the host has to wait. */
#include "internal.h"

#include <string.h>

/* Where an address is, for the runtime's rules on what is synchronous. */
typedef enum place { PLACE_PAGEABLE, PLACE_PINNED, PLACE_MANAGED, PLACE_DEVICE } place_t;

static place_t place_of(const void *pointer)
{
    const block_t *block = block_find(pointer);
    if (block == NULL) {
        return PLACE_PAGEABLE;
    }
    switch (block->kind) {
    case MEMORY_PINNED: return PLACE_PINNED;
    case MEMORY_MANAGED: return PLACE_MANAGED;
    default: return PLACE_DEVICE;
    }
}

static bool is_host(place_t place)
{
    return place == PLACE_PAGEABLE || place == PLACE_PINNED;
}

/* Whether the bytes end where their allocation ends, or before. */
static bool is_inside(const void *pointer, size_t size)
{
    const block_t *block = block_find(pointer);
    if (block == NULL) {
        return true;
    }
    size_t offset = (size_t)((const unsigned char *)pointer - block->base);
    size_t length = block->allocated ? block->size : block->capacity;
    if (offset <= length && size <= length - offset) {
        return true;
    }
    violation("%zu bytes at %p go beyond the end of the allocation", size, pointer);
    return false;
}

/* Submits, and if the host has to wait for the result, waits for it. */
static cudaError_t submit_and_wait(stream_t *stream, operation_t *operation, bool blocks)
{
    if (!blocks || stream->capture != NULL) {
        return stream_submit(stream, operation, NULL);
    }
    work_t     *work;
    cudaError_t error = stream_submit(stream, operation, &work);
    if (error == cudaSuccess) {
        call_blocks();
        work_force_one(work);
        work_release(work);
    }
    return error;
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

typedef struct copy {
    unsigned char       *destination;
    size_t               destination_pitch;
    const unsigned char *source;
    size_t               source_pitch;
    size_t               width;
    size_t               height;
    enum cudaMemcpyKind  kind;
    bool                 is_synchronous; /* the call, not its Async form */
} copy_t;

static size_t extent(size_t pitch, size_t width, size_t height)
{
    return pitch * (height - 1) + width;
}

static cudaError_t check_direction(const copy_t *copy)
{
    bool to_device = copy->kind == cudaMemcpyHostToDevice || copy->kind == cudaMemcpyDeviceToDevice;
    bool from_device = copy->kind == cudaMemcpyDeviceToHost || copy->kind == cudaMemcpyDeviceToDevice;
    if ((int)copy->kind < (int)cudaMemcpyHostToHost || (int)copy->kind > (int)cudaMemcpyDefault) {
        return cudaErrorInvalidMemcpyDirection;
    }
    bool is_wrong = (to_device && place_of(copy->destination) == PLACE_PAGEABLE) ||
                    (from_device && place_of(copy->source) == PLACE_PAGEABLE);
    return is_wrong ? cudaErrorInvalidValue : cudaSuccess;
}

static cudaError_t check_copy(const copy_t *copy)
{
    if (copy->destination_pitch < copy->width || copy->source_pitch < copy->width) {
        return cudaErrorInvalidPitchValue;
    }
    if (copy->destination == NULL || copy->source == NULL) {
        return cudaErrorInvalidValue;
    }
    bool fits = is_inside(copy->destination, extent(copy->destination_pitch, copy->width, copy->height)) &&
                is_inside(copy->source, extent(copy->source_pitch, copy->width, copy->height));
    return fits ? check_direction(copy) : cudaErrorInvalidValue;
}

/* "API synchronization behavior" of the runtime's documentation. */
static bool copy_blocks(const copy_t *copy)
{
    place_t from = place_of(copy->source);
    place_t to = place_of(copy->destination);
    if (is_host(from) && is_host(to)) {
        return true;
    }
    if (copy->is_synchronous) {
        return from != PLACE_DEVICE || to != PLACE_DEVICE;
    }
    return to == PLACE_PAGEABLE;
}

/* The runtime copies pageable memory into a staging buffer before an asynchronous call returns. */
static void *stage(const copy_t *copy)
{
    unsigned char *staging = allocate(copy->width * copy->height);
    for (size_t row = 0; row < copy->height; row++) {
        memcpy(staging + row * copy->width, copy->source + row * copy->source_pitch, copy->width);
    }
    return staging;
}

static cudaError_t submit_copy(const copy_t *copy, cudaStream_t handle)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    bool        is_empty = copy->width == 0 || copy->height == 0;
    if (error == cudaSuccess && !is_empty) {
        error = check_copy(copy);
    }
    if (error == cudaSuccess && copy->is_synchronous) {
        error = capture_check_unsafe();
    }
    if (error == cudaSuccess) {
        error = capture_check_submit(stream);
    }
    if (error != cudaSuccess || is_empty) {
        return error;
    }
    operation_t operation = {.kind = OPERATION_COPY,
                             .destination = copy->destination,
                             .destination_pitch = copy->destination_pitch,
                             .source = copy->source,
                             .source_pitch = copy->source_pitch,
                             .width = copy->width,
                             .height = copy->height};
    bool        blocks = copy_blocks(copy);
    if (!blocks && stream->capture == NULL && place_of(copy->source) == PLACE_PAGEABLE) {
        operation.staging = stage(copy);
    }
    return submit_and_wait(stream, &operation, blocks);
}

static copy_t copy_of(void *destination, const void *source, size_t size, enum cudaMemcpyKind kind)
{
    return (copy_t){.destination = destination,
                    .destination_pitch = size,
                    .source = source,
                    .source_pitch = size,
                    .width = size,
                    .height = 1,
                    .kind = kind};
}

cudaError_t emulator_cudaMemcpy(void *destination, const void *source, size_t size, enum cudaMemcpyKind kind)
{
    call_t call = {.record = {.name = "cudaMemcpy", .pointer = destination, .source = source, .size = size}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        copy_t copy = copy_of(destination, source, size, kind);
        copy.is_synchronous = true;
        call.result = submit_copy(&copy, cudaStreamLegacy);
    }
    return call_end(&call);
}

cudaError_t emulator_cudaMemcpyAsync(void *destination, const void *source, size_t size, enum cudaMemcpyKind kind,
                                     cudaStream_t stream)
{
    call_t call = {
        .record = {
            .name = "cudaMemcpyAsync", .pointer = destination, .source = source, .size = size, .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        copy_t copy = copy_of(destination, source, size, kind);
        call.result = submit_copy(&copy, stream);
    }
    return call_end(&call);
}

cudaError_t emulator_cudaMemcpy2DAsync(void *destination, size_t destination_pitch, const void *source,
                                       size_t source_pitch, size_t width, size_t height, enum cudaMemcpyKind kind,
                                       cudaStream_t stream)
{
    call_t call = {.record = {.name = "cudaMemcpy2DAsync",
                              .pointer = destination,
                              .source = source,
                              .size = width * height,
                              .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        copy_t copy = {.destination = destination,
                       .destination_pitch = destination_pitch,
                       .source = source,
                       .source_pitch = source_pitch,
                       .width = width,
                       .height = height,
                       .kind = kind};
        call.result = submit_copy(&copy, stream);
    }
    return call_end(&call);
}

cudaError_t emulator_cudaMemcpyPeerAsync(void *destination, int destination_device, const void *source,
                                         int source_device, size_t size, cudaStream_t stream)
{
    call_t call = {.record = {.name = "cudaMemcpyPeerAsync",
                              .device = destination_device,
                              .pointer = destination,
                              .source = source,
                              .size = size,
                              .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        copy_t copy = copy_of(destination, source, size, cudaMemcpyDefault);
        bool   exist = device_exists(destination_device) && device_exists(source_device);
        call.result = exist ? submit_copy(&copy, stream) : cudaErrorInvalidDevice;
    }
    return call_end(&call);
}

/* ---- fills ------------------------------------------------------------------------------------------------------- */

static cudaError_t submit_fill(void *pointer, int value, size_t size, cudaStream_t handle, bool is_synchronous)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess && size > 0 && (place_of(pointer) == PLACE_PAGEABLE || !is_inside(pointer, size))) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess) {
        error = capture_check_submit(stream);
    }
    if (error != cudaSuccess || size == 0) {
        return error;
    }
    operation_t operation = {.kind = OPERATION_FILL, .destination = pointer, .value = value, .width = size};
    return submit_and_wait(stream, &operation, is_synchronous && place_of(pointer) != PLACE_DEVICE);
}

cudaError_t emulator_cudaMemset(void *pointer, int value, size_t size)
{
    call_t call = {.record = {.name = "cudaMemset", .pointer = pointer, .size = size}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = submit_fill(pointer, value, size, cudaStreamLegacy, true);
    }
    return call_end(&call);
}

cudaError_t emulator_cudaMemsetAsync(void *pointer, int value, size_t size, cudaStream_t stream)
{
    call_t call = {.record = {.name = "cudaMemsetAsync", .pointer = pointer, .size = size, .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = submit_fill(pointer, value, size, stream, false);
    }
    return call_end(&call);
}

/* ---- functions --------------------------------------------------------------------------------------------------- */

static cudaError_t launch_host_function(cudaStream_t handle, cudaHostFn_t function, void *data)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess && function == NULL) {
        error = cudaErrorInvalidValue;
    }
    if (error != cudaSuccess) {
        return error;
    }
    operation_t operation = {.kind = OPERATION_HOST_FUNCTION, .function = function, .arguments = data};
    return stream_submit(stream, &operation, NULL);
}

cudaError_t emulator_cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    call_t call = {.record = {.name = "cudaLaunchHostFunc", .stream = stream, .pointer = data}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = launch_host_function(stream, function, data);
    }
    return call_end(&call);
}

static cudaError_t launch_kernel(cudaStream_t handle, void (*function)(void *), const void *arguments, size_t size)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess && function == NULL) {
        error = cudaErrorInvalidDeviceFunction;
    }
    if (error == cudaSuccess && arguments == NULL && size > 0) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess && stream->device != this_thread()->device) {
        error = cudaErrorInvalidResourceHandle;
    }
    if (error != cudaSuccess) {
        return error;
    }
    operation_t operation = {.kind = OPERATION_KERNEL, .function = function, .arguments_size = size};
    if (size > 0) {
        operation.arguments = memcpy(allocate(size), arguments, size);
    }
    return stream_submit(stream, &operation, NULL);
}

cudaError_t emulator_launch(cudaStream_t stream, void (*function)(void *arguments), const void *arguments, size_t size)
{
    call_t call = {.record = {.name = "emulator_launch", .stream = stream, .size = size}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = launch_kernel(stream, function, arguments, size);
    }
    return call_end(&call);
}
