/* Streams: which one a handle means, the order that the runtime gives their work, and the calls about them. */
#include "internal.h"

#include <stdlib.h>

static unsigned long long n_ids;

static stream_t *create_stream(stream_kind_t kind, int device)
{
    stream_t *stream = allocate(sizeof(*stream));
    stream->kind = kind;
    stream->device = device;
    stream->id = ++n_ids;
    if (kind != STREAM_LEGACY) {
        list_add(&device_get(device)->streams, stream);
    }
    return stream;
}

void stream_free(stream_t *stream)
{
    work_release(stream->last);
    list_free(&stream->capture_nodes);
    free(stream);
}

stream_t *stream_legacy(int device)
{
    device_t *state = device_get(device);
    if (state->legacy == NULL) {
        state->legacy = create_stream(STREAM_LEGACY, device);
    }
    return state->legacy;
}

/* The per-thread stream is one for every pair of a host thread and a device. */
static stream_t *per_thread_stream(const host_thread_t *thread)
{
    const list_t *streams = &device_get(thread->device)->streams;
    for (size_t i = 0; i < streams->count; i++) {
        stream_t *stream = streams->items[i];
        if (stream->kind == STREAM_PER_THREAD && stream->thread == thread->number) {
            return stream;
        }
    }
    stream_t *stream = create_stream(STREAM_PER_THREAD, thread->device);
    stream->thread = thread->number;
    return stream;
}

cudaError_t stream_find(cudaStream_t handle, stream_t **stream)
{
    if (handle == NULL || handle == cudaStreamLegacy) {
        *stream = stream_legacy(this_thread()->device);
    } else if (handle == cudaStreamPerThread) {
        *stream = per_thread_stream(this_thread());
    } else {
        *stream = handle_find(HANDLE_STREAM, handle);
    }
    return *stream != NULL ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

/* Destroyed streams are kept for the sake of the legacy stream, until their work is done. */
static void forget_destroyed(list_t *streams)
{
    for (size_t i = streams->count; i > 0; i--) {
        stream_t *stream = streams->items[i - 1];
        if (stream->destroyed && work_is_done(stream->last)) {
            list_remove(streams, stream);
            stream_free(stream);
        }
    }
}

static void add_unfinished(list_t *targets, work_t *work)
{
    if (!work_is_done(work)) {
        list_add(targets, work);
    }
}

/* The last work of the streams that the legacy stream waits for. */
static void add_blocking_work(int device, list_t *targets)
{
    list_t *streams = &device_get(device)->streams;
    forget_destroyed(streams);
    for (size_t i = 0; i < streams->count; i++) {
        const stream_t *stream = streams->items[i];
        if (stream->kind != STREAM_NON_BLOCKING) {
            add_unfinished(targets, stream->last);
        }
    }
}

void stream_targets(const stream_t *stream, list_t *targets)
{
    add_unfinished(targets, stream->last);
    if (stream->kind == STREAM_LEGACY) {
        add_blocking_work(stream->device, targets);
    }
}

void stream_append(stream_t *stream, work_t *work)
{
    list_t before = {0};
    stream_targets(stream, &before);
    if (stream->kind == STREAM_PER_THREAD || stream->kind == STREAM_BLOCKING) {
        add_unfinished(&before, stream_legacy(stream->device)->last);
    }
    for (size_t i = 0; i < before.count; i++) {
        work_depend(work, before.items[i]);
    }
    list_free(&before);
    work_enqueue(work);
    work_retain(work);
    work_release(stream->last);
    stream->last = work;
    stream->queries = 0;
}

static void capture_operation(stream_t *stream, operation_t *operation)
{
    void *node = graph_add(stream->capture->graph, stream->device, operation, &stream->capture_nodes);
    list_clear(&stream->capture_nodes);
    list_add(&stream->capture_nodes, node);
}

cudaError_t stream_submit(stream_t *stream, operation_t *operation, work_t **work)
{
    if (work != NULL) {
        *work = NULL;
    }
    cudaError_t error = capture_check_submit(stream);
    if (error != cudaSuccess) {
        operation_release(operation);
        return error;
    }
    if (stream->capture != NULL) {
        capture_operation(stream, operation);
        return cudaSuccess;
    }
    work_t *created = work_create(stream->device, operation);
    stream_append(stream, created);
    if (work != NULL) {
        *work = created;
    } else {
        work_release(created);
    }
    return cudaSuccess;
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static cudaError_t open_stream(cudaStream_t *handle, unsigned int flags)
{
    if (handle == NULL || (flags != cudaStreamDefault && flags != cudaStreamNonBlocking)) {
        return cudaErrorInvalidValue;
    }
    stream_kind_t kind = flags == cudaStreamNonBlocking ? STREAM_NON_BLOCKING : STREAM_BLOCKING;
    stream_t     *stream = create_stream(kind, this_thread()->device);
    stream->flags = flags;
    stream->handle = handle_create(HANDLE_STREAM, stream);
    *handle = stream->handle;
    return cudaSuccess;
}

cudaError_t emulator_cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    call_t call = {.record = {.name = "cudaStreamCreateWithFlags", .flags = flags}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = open_stream(stream, flags);
        call.record.stream = call.result == cudaSuccess ? *stream : NULL;
    }
    return call_end(&call);
}

cudaError_t emulator_cudaStreamCreate(cudaStream_t *stream)
{
    call_t call = {.record.name = "cudaStreamCreate"};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = open_stream(stream, cudaStreamDefault);
        call.record.stream = call.result == cudaSuccess ? *stream : NULL;
    }
    return call_end(&call);
}

/* Returns at once; the work is finished when something else forces it. */
static cudaError_t close_stream(cudaStream_t handle)
{
    stream_t *stream = handle_find(HANDLE_STREAM, handle);
    if (stream == NULL) {
        return cudaErrorInvalidResourceHandle;
    }
    if (stream->capture != NULL) {
        violation("the stream is capturing");
        capture_abandon(stream);
    }
    handle_destroy(HANDLE_STREAM, handle);
    stream->destroyed = true;
    forget_destroyed(&device_get(stream->device)->streams);
    return cudaSuccess;
}

cudaError_t emulator_cudaStreamDestroy(cudaStream_t stream)
{
    call_t call = {.record = {.name = "cudaStreamDestroy", .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = close_stream(stream);
    }
    return call_end(&call);
}

static cudaError_t synchronize(cudaStream_t handle)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess) {
        error = capture_check_synchronize(stream);
    }
    if (error == cudaSuccess) {
        call_blocks();
        error = stream_find(handle, &stream); /* the hook may have destroyed it */
    }
    if (error == cudaSuccess) {
        list_t targets = {0};
        stream_targets(stream, &targets);
        work_force(&targets);
        list_free(&targets);
    }
    return error;
}

cudaError_t emulator_cudaStreamSynchronize(cudaStream_t stream)
{
    call_t call = {.record = {.name = "cudaStreamSynchronize", .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = synchronize(stream);
    }
    return call_end(&call);
}

static cudaError_t query(cudaStream_t handle)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess) {
        error = capture_check_synchronize(stream);
    }
    if (error == cudaSuccess) {
        list_t targets = {0};
        stream_targets(stream, &targets);
        error = work_query(&targets, &stream->queries);
        list_free(&targets);
    }
    return error;
}

cudaError_t emulator_cudaStreamQuery(cudaStream_t stream)
{
    call_t call = {.record = {.name = "cudaStreamQuery", .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = query(stream);
    }
    return call_end(&call);
}

/* A stream that captures must not even be asked what it is. */
static cudaError_t check_question(stream_t *stream)
{
    if (stream->capture == NULL) {
        return cudaSuccess;
    }
    capture_invalidate(stream->capture);
    return cudaErrorStreamCaptureUnsupported;
}

static cudaError_t get_id(cudaStream_t handle, unsigned long long *id)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess && id == NULL) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess) {
        error = check_question(stream);
    }
    if (error == cudaSuccess) {
        *id = stream->id;
    }
    return error;
}

cudaError_t emulator_cudaStreamGetId(cudaStream_t stream, unsigned long long *id)
{
    call_t call = {.record = {.name = "cudaStreamGetId", .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = get_id(stream, id);
    }
    return call_end(&call);
}

static cudaError_t get_flags(cudaStream_t handle, unsigned int *flags)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess && flags == NULL) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess) {
        error = check_question(stream);
    }
    if (error == cudaSuccess) {
        *flags = stream->flags;
    }
    return error;
}

cudaError_t emulator_cudaStreamGetFlags(cudaStream_t stream, unsigned int *flags)
{
    call_t call = {.record = {.name = "cudaStreamGetFlags", .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = get_flags(stream, flags);
    }
    return call_end(&call);
}

#if CUDART_VERSION >= 12080
static cudaError_t get_device(cudaStream_t handle, int *device)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess && device == NULL) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess) {
        error = check_question(stream);
    }
    if (error == cudaSuccess) {
        *device = stream->device;
    }
    return error;
}

cudaError_t emulator_cudaStreamGetDevice(cudaStream_t stream, int *device)
{
    call_t call = {.record = {.name = "cudaStreamGetDevice", .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = get_device(stream, device);
    }
    return call_end(&call);
}
#endif

/* ---- control ----------------------------------------------------------------------------------------------------- */

void streams_reset(void)
{
    for (stream_t *stream; (stream = handle_any(HANDLE_STREAM)) != NULL;) {
        handle_destroy(HANDLE_STREAM, stream->handle);
    }
}

bool emulator_is_pending(cudaStream_t handle)
{
    lock();
    stream_t *stream;
    list_t    targets = {0};
    if (device_exists(this_thread()->device) && stream_find(handle, &stream) == cudaSuccess) {
        stream_targets(stream, &targets);
    }
    bool is_pending = !work_are_done(&targets);
    list_free(&targets);
    unlock();
    return is_pending;
}

size_t emulator_count_streams(void)
{
    lock();
    size_t count = handle_count(HANDLE_STREAM);
    unlock();
    return count;
}
