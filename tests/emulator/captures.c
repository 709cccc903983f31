/*
 * Captures: their beginning and end, what is permitted beside one, and what invalidates it.
 *
 * The codes and the invalidations are those measured on H200s with CUDA 13.0. Where nothing was measured, the code is
 * the one that the runtime's headers document, and the capture is invalidated if the call would have broken it.
 */
#include "internal.h"

#include <stdlib.h>

static list_t             captures; /* those under way, counted */
static unsigned long long n_ids;

void capture_release(capture_t *capture)
{
    if (capture != NULL && --capture->references == 0) {
        list_free(&capture->streams);
        free(capture);
    }
}

void capture_invalidate(capture_t *capture)
{
    capture->invalidated = true;
}

void capture_join(capture_t *capture, stream_t *stream)
{
    stream->capture = capture;
    list_add_new(&capture->streams, stream);
}

static void leave(stream_t *stream)
{
    list_remove(&stream->capture->streams, stream);
    list_clear(&stream->capture_nodes);
    stream->capture = NULL;
}

/* Ends the capture; its graph goes to whoever calls. */
static graph_t *finish(capture_t *capture)
{
    graph_t *graph = capture->graph;
    while (capture->streams.count > 0) {
        leave(capture->streams.items[0]);
    }
    capture->ended = true;
    capture->graph = NULL;
    capture->origin = NULL;
    list_remove(&captures, capture);
    capture_release(capture);
    return graph;
}

void capture_abandon(stream_t *stream)
{
    if (stream->capture->origin == stream) {
        graph_free(finish(stream->capture));
    } else {
        leave(stream);
    }
}

void captures_reset(void)
{
    while (captures.count > 0) {
        graph_free(finish(captures.items[0]));
    }
}

/* ---- what is permitted ------------------------------------------------------------------------------------------- */

/* What cudaThreadExchangeStreamCaptureMode documents: a thread minds its own captures, and global ones of others. */
static bool is_unsafe_beside(const host_thread_t *thread, const capture_t *capture)
{
    if (thread->capture_mode == cudaStreamCaptureModeRelaxed || capture->mode == cudaStreamCaptureModeRelaxed) {
        return false;
    }
    if (capture->thread == thread->number) {
        return true;
    }
    return capture->mode == cudaStreamCaptureModeGlobal && thread->capture_mode == cudaStreamCaptureModeGlobal;
}

cudaError_t capture_check_unsafe(void)
{
    cudaError_t error = cudaSuccess;
    for (size_t i = 0; i < captures.count; i++) {
        capture_t *capture = captures.items[i];
        if (is_unsafe_beside(this_thread(), capture)) {
            capture_invalidate(capture);
            error = cudaErrorStreamCaptureUnsupported;
        }
    }
    return error;
}

/* Whether a stream captures that the legacy stream waits for. */
static bool is_legacy_blocked(int device)
{
    const list_t *streams = &device_get(device)->streams;
    for (size_t i = 0; i < streams->count; i++) {
        const stream_t *stream = streams->items[i];
        if (stream->capture != NULL && stream->kind != STREAM_NON_BLOCKING) {
            return true;
        }
    }
    return false;
}

static void invalidate_blocking(int device)
{
    const list_t *streams = &device_get(device)->streams;
    for (size_t i = 0; i < streams->count; i++) {
        const stream_t *stream = streams->items[i];
        if (stream->capture != NULL && stream->kind != STREAM_NON_BLOCKING) {
            capture_invalidate(stream->capture);
        }
    }
}

cudaError_t capture_check_submit(stream_t *stream)
{
    if (stream->kind == STREAM_LEGACY && is_legacy_blocked(stream->device)) {
        invalidate_blocking(stream->device);
        return cudaErrorStreamCaptureImplicit;
    }
    bool is_invalidated = stream->capture != NULL && stream->capture->invalidated;
    return is_invalidated ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}

cudaError_t capture_check_synchronize(stream_t *stream)
{
    if (stream->capture != NULL && stream->capture->invalidated) {
        return cudaErrorStreamCaptureInvalidated;
    }
    if (stream->capture != NULL) {
        capture_invalidate(stream->capture);
        return cudaErrorStreamCaptureUnsupported;
    }
    cudaError_t error = capture_check_unsafe();
    return error != cudaSuccess ? error : capture_check_submit(stream);
}

/* No mode permits this, and it breaks every capture on the device, whichever thread it belongs to. */
cudaError_t capture_check_device(int device)
{
    cudaError_t   error = cudaSuccess;
    const list_t *streams = &device_get(device)->streams;
    for (size_t i = 0; i < streams->count; i++) {
        const stream_t *stream = streams->items[i];
        if (stream->capture != NULL) {
            capture_invalidate(stream->capture);
            error = cudaErrorStreamCaptureUnsupported;
        }
    }
    return error != cudaSuccess ? error : capture_check_unsafe();
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static bool is_mode(enum cudaStreamCaptureMode mode)
{
    return mode == cudaStreamCaptureModeGlobal || mode == cudaStreamCaptureModeThreadLocal ||
           mode == cudaStreamCaptureModeRelaxed;
}

static cudaError_t begin(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error != cudaSuccess) {
        return error;
    }
    if (!is_mode(mode)) {
        return cudaErrorInvalidValue;
    }
    if (stream->kind == STREAM_LEGACY) {
        return cudaErrorStreamCaptureUnsupported;
    }
    if (stream->capture != NULL) {
        return cudaErrorIllegalState;
    }
    capture_t *capture = allocate(sizeof(*capture));
    capture->references = 1;
    capture->id = ++n_ids;
    capture->mode = mode;
    capture->thread = this_thread()->number;
    capture->origin = stream;
    capture->graph = graph_create();
    capture_join(capture, stream);
    list_add(&captures, capture);
    return cudaSuccess;
}

cudaError_t emulator_cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    call_t call = {.record = {.name = "cudaStreamBeginCapture", .stream = stream, .flags = (unsigned int)mode}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = begin(stream, mode);
    }
    return call_end(&call);
}

static cudaError_t check_may_end(const stream_t *stream)
{
    const capture_t *capture = stream->capture;
    if (capture == NULL) {
        return cudaErrorIllegalState;
    }
    if (capture->origin != stream) {
        return cudaErrorStreamCaptureUnmatched;
    }
    if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != this_thread()->number) {
        return cudaErrorStreamCaptureWrongThread;
    }
    return cudaSuccess;
}

static cudaError_t end(cudaStream_t handle, cudaGraph_t *graph)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess && graph == NULL) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess) {
        error = check_may_end(stream);
    }
    if (error != cudaSuccess) {
        return error;
    }
    if (stream->capture->invalidated) {
        error = cudaErrorStreamCaptureInvalidated;
    } else if (!graph_is_joined(stream->capture->graph, &stream->capture_nodes)) {
        error = cudaErrorStreamCaptureUnjoined;
    }
    graph_t *captured = finish(stream->capture);
    if (error == cudaSuccess) {
        *graph = graph_publish(captured);
    } else {
        *graph = NULL;
        graph_free(captured);
    }
    return error;
}

cudaError_t emulator_cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    call_t call = {.record = {.name = "cudaStreamEndCapture", .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = end(stream, graph);
    }
    return call_end(&call);
}

/* What a capture query answers. */
static cudaError_t get_status(cudaStream_t handle, enum cudaStreamCaptureStatus *status, stream_t **stream)
{
    cudaError_t error = stream_find(handle, stream);
    if (error != cudaSuccess) {
        return error;
    }
    if (status == NULL) {
        return cudaErrorInvalidValue;
    }
    if ((*stream)->kind == STREAM_LEGACY && is_legacy_blocked((*stream)->device)) {
        return cudaErrorStreamCaptureImplicit;
    }
    const capture_t *capture = (*stream)->capture;
    *status = capture == NULL        ? cudaStreamCaptureStatusNone
              : capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                     : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t emulator_cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    call_t call = {.record = {.name = "cudaStreamIsCapturing", .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        stream_t *found;
        call.result = get_status(stream, status, &found);
    }
    return call_end(&call);
}

/* What else the stream's capture is; any place but the status may be NULL. */
static cudaError_t get_info(cudaStream_t handle, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                            cudaGraph_t *graph, const cudaGraphNode_t **dependencies, size_t *n_dependencies)
{
    stream_t   *stream;
    cudaError_t error = get_status(handle, status, &stream);
    if (error != cudaSuccess || *status != cudaStreamCaptureStatusActive) {
        return error;
    }
    if (id != NULL) {
        *id = stream->capture->id;
    }
    if (graph != NULL) {
        *graph = graph_handle(stream->capture->graph);
    }
    if (dependencies != NULL) {
        *dependencies = (const cudaGraphNode_t *)(void *)stream->capture_nodes.items;
    }
    if (n_dependencies != NULL) {
        *n_dependencies = stream->capture_nodes.count;
    }
    return cudaSuccess;
}

static cudaError_t call_get_info(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                 cudaGraph_t *graph, const cudaGraphNode_t **dependencies, size_t *n_dependencies)
{
    call_t call = {.record = {.name = "cudaStreamGetCaptureInfo", .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = get_info(stream, status, id, graph, dependencies, n_dependencies);
    }
    return call_end(&call);
}

#if CUDART_VERSION >= 12030
/* The edges of a capture carry no data. */
static cudaError_t call_get_info_and_edges(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                           unsigned long long *id, cudaGraph_t *graph,
                                           const cudaGraphNode_t **dependencies, const cudaGraphEdgeData **edges,
                                           size_t *n_dependencies)
{
    if (edges != NULL) {
        *edges = NULL;
    }
    return call_get_info(stream, status, id, graph, dependencies, n_dependencies);
}
#endif

#if CUDART_VERSION >= 13000
cudaError_t emulator_cudaStreamGetCaptureInfo EMULATOR_CAPTURE_INFO_3
{
    return call_get_info_and_edges(stream, status, id, graph, dependencies, edges, n_dependencies);
}
#else
cudaError_t emulator_cudaStreamGetCaptureInfo EMULATOR_CAPTURE_INFO_2
{
    return call_get_info(stream, status, id, graph, dependencies, n_dependencies);
}

cudaError_t emulator_cudaStreamGetCaptureInfo_v2 EMULATOR_CAPTURE_INFO_2
{
    return call_get_info(stream, status, id, graph, dependencies, n_dependencies);
}

#if CUDART_VERSION >= 12030
cudaError_t emulator_cudaStreamGetCaptureInfo_v3 EMULATOR_CAPTURE_INFO_3
{
    return call_get_info_and_edges(stream, status, id, graph, dependencies, edges, n_dependencies);
}
#endif
#endif

cudaError_t emulator_cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
    call_t call = {.record.name = "cudaThreadExchangeStreamCaptureMode"};
    if (call_begin(&call, CALL_PLAIN)) {
        if (mode == NULL || !is_mode(*mode)) {
            call.result = cudaErrorInvalidValue;
        } else {
            enum cudaStreamCaptureMode before = this_thread()->capture_mode;
            call.record.flags = (unsigned int)*mode;
            this_thread()->capture_mode = *mode;
            *mode = before;
        }
    }
    return call_end(&call);
}
