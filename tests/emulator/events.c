/* Events: a name for the work before a record, or, in a capture, for nodes of its graph. */
#include "internal.h"

#include <stdlib.h>

void event_retain(event_t *event)
{
    event->references++;
}

/* Forgets what the event stood for. */
static void clear(event_t *event)
{
    work_release(event->work);
    event->work = NULL;
    capture_release(event->capture);
    event->capture = NULL;
    list_clear(&event->capture_nodes);
    event->queries = 0;
}

void event_release(event_t *event)
{
    if (event == NULL || --event->references > 0) {
        return;
    }
    clear(event);
    list_free(&event->capture_nodes);
    free(event);
}

void event_recorded(event_t *event, work_t *work)
{
    work_retain(work);
    clear(event);
    event->recorded = true;
    event->work = work;
}

void events_reset(void)
{
    for (event_t *event; (event = handle_any(HANDLE_EVENT)) != NULL;) {
        handle_destroy(HANDLE_EVENT, event->handle);
        event_release(event);
    }
}

/* ---- creation ---------------------------------------------------------------------------------------------------- */

static cudaError_t create(cudaEvent_t *handle, unsigned int flags)
{
    const unsigned int known = cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;
    bool               is_interprocess = (flags & cudaEventInterprocess) != 0;
    bool               is_timed = (flags & cudaEventDisableTiming) == 0;
    if (handle == NULL || (flags & ~known) != 0 || (is_interprocess && is_timed)) {
        return cudaErrorInvalidValue;
    }
    event_t *event = allocate(sizeof(*event));
    event->device = this_thread()->device;
    event->references = 1;
    event->handle = handle_create(HANDLE_EVENT, event);
    *handle = event->handle;
    return cudaSuccess;
}

cudaError_t emulator_cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    call_t call = {.record = {.name = "cudaEventCreateWithFlags", .flags = flags}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = create(event, flags);
        call.record.event = call.result == cudaSuccess ? *event : NULL;
    }
    return call_end(&call);
}

cudaError_t emulator_cudaEventCreate(cudaEvent_t *event)
{
    call_t call = {.record.name = "cudaEventCreate"};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = create(event, cudaEventDefault);
        call.record.event = call.result == cudaSuccess ? *event : NULL;
    }
    return call_end(&call);
}

cudaError_t emulator_cudaEventDestroy(cudaEvent_t event)
{
    call_t call = {.record = {.name = "cudaEventDestroy", .event = event}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        event_t *found = handle_find(HANDLE_EVENT, event);
        call.result = found != NULL ? cudaSuccess : cudaErrorInvalidResourceHandle;
        handle_destroy(HANDLE_EVENT, event);
        event_release(found);
    }
    return call_end(&call);
}

/* ---- recording --------------------------------------------------------------------------------------------------- */

/* In a capture the event stands for the nodes so far. As an external one it becomes a node: recorded at every
 * replay. */
static cudaError_t record_in_capture(event_t *event, stream_t *stream, bool external)
{
    if (external) {
        event_retain(event);
        operation_t operation = {.kind = OPERATION_RECORD_EVENT, .event = event};
        return stream_submit(stream, &operation, NULL);
    }
    clear(event);
    event->recorded = true;
    event->capture = stream->capture;
    event->capture->references++;
    for (size_t i = 0; i < stream->capture_nodes.count; i++) {
        list_add(&event->capture_nodes, stream->capture_nodes.items[i]);
    }
    return cudaSuccess;
}

static cudaError_t record(cudaEvent_t handle, cudaStream_t stream_handle, unsigned int flags)
{
    stream_t   *stream;
    event_t    *event = handle_find(HANDLE_EVENT, handle);
    cudaError_t error = event != NULL ? stream_find(stream_handle, &stream) : cudaErrorInvalidResourceHandle;
    if (error != cudaSuccess) {
        return error;
    }
    if (event->device != stream->device) {
        return cudaErrorInvalidResourceHandle;
    }
    bool external = flags == cudaEventRecordExternal;
    if ((flags != cudaEventRecordDefault && !external) || (external && stream->capture == NULL)) {
        return cudaErrorInvalidValue;
    }
    error = capture_check_submit(stream);
    if (error != cudaSuccess) {
        return error;
    }
    if (stream->capture != NULL) {
        return record_in_capture(event, stream, external);
    }
    work_t     *work;
    operation_t marker = {.kind = OPERATION_MARKER};
    error = stream_submit(stream, &marker, &work);
    event_recorded(event, work);
    work_release(work);
    return error;
}

cudaError_t emulator_cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    call_t call = {.record = {.name = "cudaEventRecord", .event = event, .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = record(event, stream, cudaEventRecordDefault);
    }
    return call_end(&call);
}

cudaError_t emulator_cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned int flags)
{
    call_t call = {.record = {.name = "cudaEventRecordWithFlags", .event = event, .stream = stream, .flags = flags}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = record(event, stream, flags);
    }
    return call_end(&call);
}

/* ---- waiting on the device --------------------------------------------------------------------------------------- */

static void add_nodes(stream_t *stream, const event_t *event)
{
    for (size_t i = 0; i < event->capture_nodes.count; i++) {
        list_add_new(&stream->capture_nodes, event->capture_nodes.items[i]);
    }
}

/* A wait for an event of a capture: a join, or the fork that brings the stream into it. */
static cudaError_t wait_for_captured(stream_t *stream, event_t *event)
{
    capture_t *capture = event->capture;
    if (capture->ended) {
        return cudaErrorInvalidValue;
    }
    if (capture->invalidated) {
        return cudaErrorStreamCaptureInvalidated;
    }
    if (stream->kind == STREAM_LEGACY) {
        capture_invalidate(capture);
        return cudaErrorStreamCaptureImplicit;
    }
    if (stream->capture != NULL && stream->capture != capture) {
        capture_invalidate(capture);
        capture_invalidate(stream->capture);
        return cudaErrorStreamCaptureMerge;
    }
    capture_join(capture, stream);
    add_nodes(stream, event);
    return cudaSuccess;
}

static cudaError_t wait_externally(stream_t *stream, event_t *event)
{
    if (stream->capture == NULL) {
        return cudaErrorInvalidValue;
    }
    event_retain(event);
    operation_t operation = {.kind = OPERATION_WAIT_EVENT, .event = event};
    return stream_submit(stream, &operation, NULL);
}

static cudaError_t wait_for_work(stream_t *stream, event_t *event)
{
    if (stream->capture != NULL) {
        capture_invalidate(stream->capture);
        return cudaErrorStreamCaptureIsolation;
    }
    operation_t marker = {.kind = OPERATION_MARKER};
    work_t     *work = work_create(stream->device, &marker);
    work_depend(work, event->work);
    stream_append(stream, work);
    work_release(work);
    return cudaSuccess;
}

static cudaError_t wait_event(cudaStream_t stream_handle, cudaEvent_t handle, unsigned int flags)
{
    stream_t   *stream;
    event_t    *event = handle_find(HANDLE_EVENT, handle);
    cudaError_t error = event != NULL ? stream_find(stream_handle, &stream) : cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess && flags != cudaEventWaitDefault && flags != cudaEventWaitExternal) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess) {
        error = capture_check_submit(stream);
    }
    if (error != cudaSuccess) {
        return error;
    }
    if (flags == cudaEventWaitExternal) {
        return wait_externally(stream, event);
    }
    if (event->capture != NULL) {
        return wait_for_captured(stream, event);
    }
    return event->recorded ? wait_for_work(stream, event) : cudaSuccess;
}

cudaError_t emulator_cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    call_t call = {.record = {.name = "cudaStreamWaitEvent", .event = event, .stream = stream, .flags = flags}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = wait_event(stream, event, flags);
    }
    return call_end(&call);
}

/* ---- waiting on the host ----------------------------------------------------------------------------------------- */

/* Nobody can ever say of an event that was last recorded in a capture whether it is done. */
static cudaError_t check_host_may_ask(const event_t *event)
{
    cudaError_t error = capture_check_unsafe();
    if (error != cudaSuccess || event->capture == NULL) {
        return error;
    }
    if (event->capture->ended) {
        return cudaErrorInvalidValue;
    }
    capture_invalidate(event->capture);
    return cudaErrorCapturedEvent;
}

static cudaError_t query(event_t *event)
{
    cudaError_t error = event != NULL ? check_host_may_ask(event) : cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess && event->work != NULL) {
        list_t targets = {0};
        list_add(&targets, event->work);
        error = work_query(&targets, &event->queries);
        list_free(&targets);
    }
    return error;
}

cudaError_t emulator_cudaEventQuery(cudaEvent_t event)
{
    call_t call = {.record = {.name = "cudaEventQuery", .event = event}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = query(handle_find(HANDLE_EVENT, event));
    }
    return call_end(&call);
}

static cudaError_t synchronize(event_t *event)
{
    cudaError_t error = event != NULL ? check_host_may_ask(event) : cudaErrorInvalidResourceHandle;
    if (error != cudaSuccess) {
        return error;
    }
    work_t *work = event->work;
    if (work != NULL) {
        work_retain(work);
    }
    call_blocks();
    if (work != NULL) {
        work_force_one(work);
    }
    work_release(work);
    return cudaSuccess;
}

cudaError_t emulator_cudaEventSynchronize(cudaEvent_t event)
{
    call_t call = {.record = {.name = "cudaEventSynchronize", .event = event}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = synchronize(handle_find(HANDLE_EVENT, event));
    }
    return call_end(&call);
}

size_t emulator_count_events(void)
{
    lock();
    size_t count = handle_count(HANDLE_EVENT);
    unlock();
    return count;
}
