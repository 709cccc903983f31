/**
 * cai/order.h - the table of who runs after whom: as decisions, and as the events and waits that make them true.
 *
 * Where producer and consumer use one stream, which is what cai_order_adopt() is for, nothing is called at all. Where
 * they use two, an event orders the consumer's behind the producer's at the acquire, and another one the producer's
 * behind the consumer's at the release; the host does not wait. What a graph capture does not allow is refused before
 * any stream is touched. What streams alone cannot order at a release is left to the host, or given back late.
 *
 * No function here knows Python: whoever calls one that may block releases the GIL around it.
 * Specification: CUDA Array Interface v3, the array API standard; what captures forbid was measured (CUDA 13.0, H200).
 */
#ifndef CAI_ORDER_H
#define CAI_ORDER_H

#include <cai/order_pool.h>

#include <pthread.h>

/**
 * Whether work enqueued on the stream now becomes part of a graph. For CAI_STREAM_LEGACY: whether some blocking stream of
 * the current device captures, so that the legacy stream must not be used. 1 and 2 mean the current device's.
 */
CAI_API CAI_NODISCARD cai_status_t cai_stream_is_capturing(cai_stream_t stream, bool *capturing,
                                                           cai_error_t *error) CAI_IMPL_SELDOM;

/**
 * Let what is enqueued on `after` from now on run after what is on `before` now. 1 and 2 mean the streams of `device_id`,
 * -1 those of the current device; handles may be of any device. Nothing is called if the streams are equal. The host does
 * not wait. Two streams of one capture become an edge of its graph. STREAM_CAPTURE, before either stream is touched, if
 * one of them captures a graph and the other does not.
 */
CAI_API CAI_NODISCARD cai_status_t cai_order_streams(cai_order_pool_t *pool, cai_stream_t before, cai_stream_t after,
                                                     int32_t device_id, cai_error_t *error);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* ------------------------------------------------------------------------------------------------- the table ---- */

/* What is known of the work that a producer may still have in flight on an array. */
typedef enum cai_impl_source {
    CAI_IMPL_SOURCE_READY,  /* none: host memory, no elements, or the producer says that no order is needed */
    CAI_IMPL_SOURCE_STREAM, /* the producer told its stream */
    CAI_IMPL_SOURCE_SILENT, /* the producer tells no stream: legacy is assumed */
    CAI_IMPL_SOURCE_ORDERED /* the producer was passed the consumer's stream, and has ordered its work before it */
} cai_impl_source_t;

/* The order of one view: filled by the reader of its protocol, then by the choice of the consumer's stream. */
typedef struct cai_impl_order_record {
    cai_impl_source_t source;
    cai_order_mode_t  mode;
    bool              pinned;     /* memory that host code sees as soon as it is given back */
    bool              is_current; /* `device_id` is the current device whenever the record is used */
    bool              captured;   /* both streams take part in one capture */
    int32_t           device_id;  /* whose 1 and 2 are meant; -1: the current device's */
    pthread_t         thread;     /* whose 2 is meant */
    cai_stream_t      producer, consumer;
} cai_impl_order_record_t;

/* The left side of the table: what has to be done before the consumer's work. */
typedef enum cai_impl_before {
    CAI_IMPL_BEFORE_NOTHING,
    CAI_IMPL_BEFORE_EVENT, /* the consumer's stream waits for the producer's */
    CAI_IMPL_BEFORE_HOST   /* the host waits for the producer's stream */
} cai_impl_before_t;

/* The right side, as flags: what has to be done before the memory is given back. */
enum {
    CAI_IMPL_AFTER_EVENT = 1, /* the producer's stream waits for the consumer's */
    CAI_IMPL_AFTER_LATE = 2,  /* given back when the consumer's work is done */
    CAI_IMPL_AFTER_HOST = 4   /* the host waits for the consumer's stream */
};

CAI_IMPL cai_impl_before_t cai_impl_order_before(const cai_impl_order_record_t *record)
{
    if (record->source == CAI_IMPL_SOURCE_READY || record->mode == CAI_ORDER_NONE)
        return CAI_IMPL_BEFORE_NOTHING;
    if (record->mode == CAI_ORDER_BLOCK)
        return CAI_IMPL_BEFORE_HOST;
    return record->source == CAI_IMPL_SOURCE_ORDERED || record->producer == record->consumer ? CAI_IMPL_BEFORE_NOTHING
                                                                                             : CAI_IMPL_BEFORE_EVENT;
}

/* A producer whose stream is not known may hand the memory out again the moment it gets it back, and host code sees pinned
 * memory at once: both must find the consumer's work done. */
CAI_IMPL uint32_t cai_impl_order_after(const cai_impl_order_record_t *record)
{
    const bool tells = record->source == CAI_IMPL_SOURCE_STREAM ||
                       record->source == CAI_IMPL_SOURCE_SILENT; /* or is taken to */
    uint32_t   after = 0;
    if (record->mode != CAI_ORDER_WAIT && record->mode != CAI_ORDER_ADOPT)
        return 0;
    if (tells && record->producer != record->consumer)
        after |= CAI_IMPL_AFTER_EVENT;
    if (record->pinned)
        return after | CAI_IMPL_AFTER_HOST;
    if (record->source == CAI_IMPL_SOURCE_SILENT || record->source == CAI_IMPL_SOURCE_ORDERED)
        after |= CAI_IMPL_AFTER_LATE;
    return after;
}

/* What a release leaves to its caller, because streams alone cannot order it. */
typedef enum cai_impl_rest {
    CAI_IMPL_REST_NOTHING,
    CAI_IMPL_REST_LATE,   /* give back when the consumer's work is done */
    CAI_IMPL_REST_STREAM, /* wait for the consumer's stream */
    CAI_IMPL_REST_DEVICE  /* wait for everything on the device: the consumer's stream must not be touched */
} cai_impl_rest_t;

/* Stream numbers below 3 mean the current device's streams, so that their device has to be current. */
CAI_IMPL bool cai_impl_is_number(cai_stream_t stream)
{
    return CAI_IMPL_BITS(uint64_t, stream) <= 2;
}

CAI_IMPL cai_status_t cai_impl_stream_guard_enter(cai_device_guard_t *guard, cai_stream_t stream, int32_t device_id,
                                                  cai_error_t *error)
{
    guard->previous = -1;
    return !cai_impl_is_number(stream) || device_id < 0 ? CAI_OK : cai_device_guard_enter(guard, device_id, error);
}

/* Make a device current; where it is the only one, it is so already, and CUDA is not asked. */
CAI_IMPL cai_status_t cai_impl_pool_guard_enter(cai_order_pool_t *pool, cai_device_guard_t *guard, int32_t device_id,
                                                cai_error_t *error)
{
    guard->previous = -1;
    return device_id == 0 && !cai_impl_pool_has_devices(pool) ? CAI_OK
                                                              : cai_device_guard_enter(guard, device_id, error);
}

CAI_IMPL_ASIDE cai_status_t cai_impl_record_guard_enter(cai_order_pool_t *pool, cai_device_guard_t *guard,
                                                        const cai_impl_order_record_t *record, cai_error_t *error)
{
    guard->previous = -1;
    if (record->is_current || record->device_id < 0 ||
        !(cai_impl_is_number(record->producer) || cai_impl_is_number(record->consumer)))
        return CAI_OK;
    return cai_impl_pool_guard_enter(pool, guard, record->device_id, error);
}

#if defined(CAI_NO_CUDA)

CAI_API cai_status_t cai_stream_is_capturing(cai_stream_t stream, bool *capturing, cai_error_t *error)
{
    (void)stream;
    (void)error;
    *capturing = false;
    return CAI_OK;
}

CAI_IMPL cai_status_t cai_impl_stream_is_capturing_on(cai_stream_t stream, int32_t device_id, bool *capturing,
                                                      cai_error_t *error)
{
    (void)device_id;
    return cai_stream_is_capturing(stream, capturing, error);
}

CAI_IMPL_COLD cai_status_t cai_impl_no_order(cai_error_t *error)
{
    return cai_error_set(error, CAI_ERROR_DEVICE_MISMATCH,
                         "CUDA memory can be described, not ordered, by code that was built with CAI_NO_CUDA: use "
                         "cai_order_none()");
}

CAI_API cai_status_t cai_order_streams(cai_order_pool_t *pool, cai_stream_t before, cai_stream_t after,
                                       int32_t device_id, cai_error_t *error)
{
    (void)pool;
    (void)device_id;
    return before == after ? CAI_OK : cai_impl_no_order(error);
}

/* Without CUDA, memory that has to be ordered at release must not be taken in the first place. */
/* NOLINTNEXTLINE(readability-non-const-parameter): with CUDA the record is written to */
CAI_IMPL cai_status_t cai_impl_order_check(cai_order_pool_t *pool, cai_impl_order_record_t *record, cai_error_t *error)
{
    (void)pool;
    return cai_impl_order_before(record) == CAI_IMPL_BEFORE_NOTHING && cai_impl_order_after(record) == 0
               ? CAI_OK
               : cai_impl_no_order(error);
}

CAI_IMPL cai_status_t cai_impl_order_make(cai_order_pool_t *pool, const cai_impl_order_record_t *record,
                                          cai_error_t *error)
{
    (void)pool;
    (void)record;
    (void)error;
    return CAI_OK;
}

CAI_IMPL cai_impl_rest_t cai_impl_order_back(cai_order_pool_t *pool, const cai_impl_order_record_t *record,
                                             cai_status_t *status, cai_error_t *error)
{
    (void)pool;
    (void)record;
    (void)error;
    *status = CAI_OK;
    return CAI_IMPL_REST_NOTHING;
}

CAI_IMPL bool cai_impl_call_late(cai_order_pool_t *pool, cai_stream_t stream, int32_t device_id,
                                 void (*function)(void *data), void *data)
{
    (void)pool;
    (void)stream;
    (void)device_id;
    (void)function;
    (void)data;
    return false;
}

CAI_IMPL_COLD cai_status_t cai_impl_wait_for_stream(cai_stream_t stream, int32_t device_id, cai_error_t *error)
{
    (void)stream;
    (void)device_id;
    (void)error;
    return CAI_OK;
}

CAI_IMPL_COLD cai_status_t cai_impl_wait_for_device(int32_t device_id, cai_error_t *error)
{
    (void)device_id;
    (void)error;
    return CAI_OK;
}

#else

/* -------------------------------------------------------------------------------------------- waits of the host ---- */

/* Wait on the host until the stream's work is done; blocks. */
CAI_IMPL_COLD cai_status_t cai_impl_wait_for_stream(cai_stream_t stream, int32_t device_id, cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_status_t       status = cai_impl_stream_guard_enter(&guard, stream, device_id, error), left;
    if (status != CAI_OK)
        return status;
    status = cai_impl_stream_barrier(stream, error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

/* The same for everything that is on the device, where the stream cannot be named; -1: the current one. */
CAI_IMPL_COLD cai_status_t cai_impl_wait_for_device(int32_t device_id, cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_status_t       status, left;
    guard.previous = -1;
    status = device_id < 0 ? CAI_OK : cai_device_guard_enter(&guard, device_id, error);
    if (status != CAI_OK)
        return status;
    status = cai_impl_device_barrier(error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

/* -------------------------------------------------------------------------------------------------- captures ---- */

CAI_API cai_status_t cai_stream_is_capturing(cai_stream_t stream, bool *capturing, cai_error_t *error)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t            result = CAI_CUDA(cudaStreamIsCapturing)(stream, &status);
    if (CAI_IMPL_UNLIKELY(result == cudaErrorStreamCaptureImplicit)) {
        (void)CAI_CUDA(cudaGetLastError)();
        *capturing = true;
        return CAI_OK;
    }
    *capturing = status != cudaStreamCaptureStatusNone;
    return cai_cuda_status(result, "cudaStreamIsCapturing", error);
}

CAI_IMPL_COLD cai_status_t cai_impl_stream_is_capturing_on(cai_stream_t stream, int32_t device_id, bool *capturing,
                                                           cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_status_t       status = cai_impl_stream_guard_enter(&guard, stream, device_id, error), left;
    if (status != CAI_OK)
        return status;
    status = cai_stream_is_capturing(stream, capturing, error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

/* Which capture a stream takes part in; 0 for none, and for a capture that has been broken. */
CAI_IMPL_COLD unsigned long long cai_impl_capture_id(cai_stream_t stream)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    unsigned long long           id = 0;
#if CUDART_VERSION >= 13000
    const cudaError_t result = CAI_CUDA(cudaStreamGetCaptureInfo)(stream, &status, &id, NULL, NULL, NULL, NULL);
#else
    const cudaError_t result = CAI_CUDA(cudaStreamGetCaptureInfo)(stream, &status, &id, NULL, NULL, NULL);
#endif
    if (result != cudaSuccess)
        (void)CAI_CUDA(cudaGetLastError)();
    return result == cudaSuccess && status == cudaStreamCaptureStatusActive ? id : 0;
}

/* How two streams stand to captures. */
typedef enum cai_impl_capture {
    CAI_IMPL_CAPTURE_NONE,      /* neither captures */
    CAI_IMPL_CAPTURE_SHARED,    /* both take part in one capture */
    CAI_IMPL_CAPTURE_FIRST,     /* the first alone */
    CAI_IMPL_CAPTURE_SECOND,    /* the second alone */
    CAI_IMPL_CAPTURE_DIFFERENT, /* each in a capture of its own, or in one that has been broken */
} cai_impl_capture_t;

/* The device of numbers below 3 is current. Always asked before anything is recorded: a record or a wait that fails
 * breaks the capture. */
CAI_IMPL_ASIDE cai_status_t cai_impl_capture_find(cai_stream_t first, cai_stream_t second, cai_impl_capture_t *found,
                                                  cai_error_t *error)
{
    bool               first_captures = false, second_captures = false;
    unsigned long long id;
    cai_status_t       status = cai_stream_is_capturing(first, &first_captures, error);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        status = cai_stream_is_capturing(second, &second_captures, error);
    *found = CAI_IMPL_CAPTURE_NONE;
    if (CAI_IMPL_LIKELY(status != CAI_OK || (!first_captures && !second_captures)))
        return status;
    if (first_captures != second_captures) {
        *found = first_captures ? CAI_IMPL_CAPTURE_FIRST : CAI_IMPL_CAPTURE_SECOND;
        return CAI_OK;
    }
    id = cai_impl_capture_id(first);
    *found = id != 0 && id == cai_impl_capture_id(second) ? CAI_IMPL_CAPTURE_SHARED : CAI_IMPL_CAPTURE_DIFFERENT;
    return CAI_OK;
}

CAI_IMPL_COLD cai_status_t cai_impl_capture_refused(cai_stream_t before, cai_stream_t after, cai_impl_capture_t found,
                                                    cai_error_t *error)
{
    const bool first = found != CAI_IMPL_CAPTURE_SECOND;
    return cai_error_set(
        error, CAI_ERROR_STREAM_CAPTURE,
        "stream %p captures a graph and stream %p %s, so that one cannot be ordered after the other: let "
        "both sides use the capturing stream, or use cai_order_none() if the data is complete",
        CAI_IMPL_CAST(void *, first ? before : after), CAI_IMPL_CAST(void *, first ? after : before),
        found == CAI_IMPL_CAPTURE_DIFFERENT ? "another one" : "does not");
}

/* -------------------------------------------------------------------------------------------- streams ordered ---- */

/* The device of an event for `stream`, where `device_id` is most likely that: of a number it is, and of a handle, wherever
 * there is more than one device, it is asked. A record on a stream of another device than the event's fails; in a capture
 * it does not, and there a stream must not be asked either (both measured). */
CAI_IMPL cai_status_t cai_impl_event_device(cai_order_pool_t *pool, cai_stream_t stream, bool captured,
                                            int32_t *device_id, cai_error_t *error)
{
#if CAI_IMPL_HAS_STREAM_GET_DEVICE
    if (!cai_impl_is_number(stream) && !captured && CAI_IMPL_UNLIKELY(cai_impl_pool_has_devices(pool))) {
        int                found = -1;
        const cai_status_t status =
            cai_cuda_status(CAI_CUDA(cudaStreamGetDevice)(stream, &found), "cudaStreamGetDevice", error);
        *device_id = found;
        return status;
    }
#endif
    (void)pool;
    (void)stream;
    (void)captured;
    return CAI_IMPL_LIKELY(*device_id >= 0) ? CAI_OK : cai_current_device(device_id, error);
}

/* Record on one stream and let the other wait. Captures have been looked at: `captured` tells that both are in one. The
 * device of a number is current. */
CAI_IMPL_ASIDE cai_status_t cai_impl_event_order(cai_order_pool_t *pool, cai_stream_t before, cai_stream_t after,
                                                 int32_t device_id, bool captured, cai_error_t *error)
{
    cudaEvent_t  event;
    cai_status_t status = cai_impl_event_device(pool, before, captured, &device_id, error);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        status = cai_impl_event_take(pool, device_id, &event, error);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return status;
    status = cai_cuda_status(CAI_CUDA(cudaEventRecord)(event, before), "cudaEventRecord", error);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        status = cai_cuda_status(CAI_CUDA(cudaStreamWaitEvent)(after, event, 0), "cudaStreamWaitEvent", error);
    cai_impl_event_put(pool, device_id, event);
    return status;
}

/* cai_order_streams where the device of numbers is current. */
CAI_IMPL cai_status_t cai_impl_order_streams_here(cai_order_pool_t *pool, cai_stream_t before, cai_stream_t after,
                                                  int32_t device_id, cai_error_t *error)
{
    cai_impl_capture_t capture = CAI_IMPL_CAPTURE_NONE;
    const cai_status_t status = cai_impl_capture_find(before, after, &capture, error);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return status;
    if (CAI_IMPL_UNLIKELY(capture > CAI_IMPL_CAPTURE_SHARED))
        return cai_impl_capture_refused(before, after, capture, error);
    return cai_impl_event_order(pool, before, after, device_id, capture == CAI_IMPL_CAPTURE_SHARED, error);
}

CAI_API cai_status_t cai_order_streams(cai_order_pool_t *pool, cai_stream_t before, cai_stream_t after,
                                       int32_t device_id, cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_status_t       status, left;
    if (before == after)
        return CAI_OK;
    status = cai_impl_stream_guard_enter(&guard, cai_impl_is_number(before) ? before : after, device_id, error);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return status;
    status = cai_impl_order_streams_here(pool, before, after, device_id, error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

/* --------------------------------------------------------------------------------------- what is given back late ---- */

/* A call that CUDA makes when the work before it is done. */
typedef struct cai_impl_late {
    void (*function)(void *data);
    void                  *data;
    cai_impl_late_count_t *count;
} cai_impl_late_t;

/* On a thread of CUDA's. */
CAI_IMPL_COLD void CUDART_CB cai_impl_late_run(void *argument)
{
    cai_impl_late_t *late = CAI_IMPL_CAST(cai_impl_late_t *, argument);
    late->function(late->data);
    (void)__atomic_sub_fetch(&late->count->pending, 1, __ATOMIC_RELAXED);
    cai_impl_late_count_release(late->count);
    free(late);
}

/* A call to be made, counted among the pool's; NULL if there are too many, or no memory. */
CAI_IMPL cai_impl_late_t *cai_impl_late_new(cai_order_pool_t *pool, void (*function)(void *data), void *data)
{
    cai_impl_late_t *late;
    if (__atomic_load_n(&pool->late->pending, __ATOMIC_RELAXED) >= CAI_IMPL_LATE_LIMIT)
        return NULL;
    late = CAI_IMPL_CAST(cai_impl_late_t *, malloc(sizeof(cai_impl_late_t)));
    if (late == NULL)
        return NULL;
    (void)__atomic_add_fetch(&pool->late->pending, 1, __ATOMIC_RELAXED);
    (void)__atomic_add_fetch(&pool->late->references, 1, __ATOMIC_RELAXED);
    late->function = function;
    late->data = data;
    late->count = pool->late;
    return late;
}

CAI_IMPL_COLD void cai_impl_late_cancel(cai_impl_late_t *late)
{
    (void)__atomic_sub_fetch(&late->count->pending, 1, __ATOMIC_RELAXED);
    cai_impl_late_count_release(late->count);
    free(late);
}

/* Put the call behind the stream's work, on a helper stream. */
CAI_IMPL cai_status_t cai_impl_late_enqueue(cai_order_pool_t *pool, cai_stream_t stream, int32_t device_id,
                                            cai_impl_late_t *late)
{
    cudaStream_t helper;
    cai_status_t status = cai_impl_helper_find(pool, device_id, stream, &helper, NULL);
    if (status == CAI_OK)
        status = cai_impl_event_order(pool, stream, helper, device_id, false, NULL);
    if (status == CAI_OK)
        status =
            cai_cuda_status(CAI_CUDA(cudaLaunchHostFunc)(helper, cai_impl_late_run, late), "cudaLaunchHostFunc", NULL);
    return status;
}

/* Have `function(data)` called, on a thread of CUDA's, once everything is done that is on `stream` now: it must call no
 * CUDA function and wait for no lock of Python's. The stream does not capture, and the device of a number is current.
 * False: it will not be called, and whoever asked waits instead. */
CAI_IMPL bool cai_impl_call_late(cai_order_pool_t *pool, cai_stream_t stream, int32_t device_id,
                                 void (*function)(void *data), void *data)
{
    cai_impl_late_t *late;
    if (device_id < 0 && cai_current_device(&device_id, NULL) != CAI_OK)
        return false;
    if (cai_impl_pool_place(pool, device_id) == NULL)
        return false;
    late = cai_impl_late_new(pool, function, data);
    if (late == NULL)
        return false;
    if (CAI_IMPL_LIKELY(cai_impl_late_enqueue(pool, stream, device_id, late) == CAI_OK))
        return true;
    cai_impl_late_cancel(late);
    return false;
}

/* ------------------------------------------------------------------------------------------- an acquire's order ---- */

CAI_IMPL_COLD cai_status_t cai_impl_order_refused(const cai_impl_order_record_t *record, cai_impl_capture_t capture,
                                                  cai_error_t *error)
{
    const char *who = capture == CAI_IMPL_CAPTURE_FIRST    ? "the first captures a graph"
                      : capture == CAI_IMPL_CAPTURE_SECOND ? "the second captures a graph"
                                                           : "each captures another graph";
    if (record->mode == CAI_ORDER_BLOCK)
        return cai_error_set(
            error, CAI_ERROR_STREAM_CAPTURE,
            "its producer uses stream %p, which captures a graph, so that the host cannot wait for it: use "
            "cai_order_adopt(), or cai_order_none() if the data is complete",
            CAI_IMPL_CAST(void *, record->producer));
    return cai_error_set(error, CAI_ERROR_STREAM_CAPTURE,
                         "its producer uses stream %p, the consumer stream %p, and %s: let both use the capturing "
                         "stream, or use cai_order_none() if the data is complete",
                         CAI_IMPL_CAST(void *, record->producer), CAI_IMPL_CAST(void *, record->consumer), who);
}

CAI_IMPL cai_status_t cai_impl_order_check_here(cai_impl_order_record_t *record, cai_impl_before_t before,
                                                cai_error_t *error)
{
    cai_impl_capture_t capture = CAI_IMPL_CAPTURE_NONE;
    bool               capturing = false;
    cai_status_t       status;
    if (before == CAI_IMPL_BEFORE_HOST) {
        status = cai_stream_is_capturing(record->producer, &capturing, error);
        capture = capturing ? CAI_IMPL_CAPTURE_FIRST : CAI_IMPL_CAPTURE_NONE;
    } else {
        status = cai_impl_capture_find(record->producer, record->consumer, &capture, error);
    }
    record->captured = capture == CAI_IMPL_CAPTURE_SHARED;
    return status != CAI_OK || CAI_IMPL_LIKELY(capture <= CAI_IMPL_CAPTURE_SHARED)
               ? status
               : cai_impl_order_refused(record, capture, error);
}

/* Whether captures allow the order before the consumer's work. Touches no stream. */
CAI_IMPL cai_status_t cai_impl_order_check(cai_order_pool_t *pool, cai_impl_order_record_t *record, cai_error_t *error)
{
    const cai_impl_before_t before = cai_impl_order_before(record);
    cai_device_guard_t      guard;
    cai_status_t            status, left;
    if (CAI_IMPL_LIKELY(before == CAI_IMPL_BEFORE_NOTHING))
        return CAI_OK;
    status = cai_impl_record_guard_enter(pool, &guard, record, error);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return status;
    status = cai_impl_order_check_here(record, before, error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

/* Make the order that was checked, as far as streams make it: a wait of the host is the caller's. */
CAI_IMPL cai_status_t cai_impl_order_make(cai_order_pool_t *pool, const cai_impl_order_record_t *record,
                                          cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_status_t       status, left;
    if (CAI_IMPL_LIKELY(cai_impl_order_before(record) != CAI_IMPL_BEFORE_EVENT))
        return CAI_OK;
    status = cai_impl_record_guard_enter(pool, &guard, record, error);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return status;
    status = cai_impl_event_order(pool, record->producer, record->consumer, record->device_id, record->captured, error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

/* -------------------------------------------------------------------------------------------- a release's order ---- */

/* How the consumer's stream stands to captures, and to the producer's where that one is going to wait. */
CAI_IMPL cai_status_t cai_impl_order_back_capture(const cai_impl_order_record_t *record, bool waits,
                                                  cai_impl_capture_t *capture, cai_error_t *error)
{
    bool         capturing = false;
    cai_status_t status;
    if (waits)
        return cai_impl_capture_find(record->consumer, record->producer, capture, error);
    status = cai_stream_is_capturing(record->consumer, &capturing, error);
    *capture = capturing ? CAI_IMPL_CAPTURE_FIRST : CAI_IMPL_CAPTURE_NONE;
    return status;
}

/* Of a consumer whose stream captures nothing is under way: its work is in the graph, and whoever replays that keeps its
 * arrays. But the legacy stream, which cannot capture, cannot be touched either while another stream does, and what was
 * put there before is under way. */
CAI_IMPL cai_impl_rest_t cai_impl_order_back_here(cai_order_pool_t *pool, const cai_impl_order_record_t *record,
                                                  uint32_t after, cai_status_t *status, cai_error_t *error)
{
    const bool         waits = (after & CAI_IMPL_AFTER_EVENT) != 0 && record->producer != record->consumer;
    cai_impl_capture_t capture = CAI_IMPL_CAPTURE_NONE;
    *status = cai_impl_order_back_capture(record, waits, &capture, error);
    if (CAI_IMPL_UNLIKELY(*status != CAI_OK))
        return CAI_IMPL_REST_NOTHING;
    if (CAI_IMPL_UNLIKELY(capture == CAI_IMPL_CAPTURE_FIRST || capture == CAI_IMPL_CAPTURE_DIFFERENT))
        return record->consumer == CAI_STREAM_LEGACY ? CAI_IMPL_REST_DEVICE : CAI_IMPL_REST_NOTHING;
    if (waits && capture != CAI_IMPL_CAPTURE_SECOND)
        *status = cai_impl_event_order(pool, record->consumer, record->producer, record->device_id,
                                       capture == CAI_IMPL_CAPTURE_SHARED, error);
    if (CAI_IMPL_UNLIKELY(capture == CAI_IMPL_CAPTURE_SHARED))
        return CAI_IMPL_REST_NOTHING;
    if (CAI_IMPL_UNLIKELY(*status != CAI_OK) || (after & CAI_IMPL_AFTER_HOST) != 0)
        return CAI_IMPL_REST_STREAM;
    if ((after & CAI_IMPL_AFTER_LATE) != 0)
        return CAI_IMPL_REST_LATE;
    return CAI_IMPL_LIKELY(capture == CAI_IMPL_CAPTURE_NONE) ? CAI_IMPL_REST_NOTHING : CAI_IMPL_REST_STREAM;
}

/* Order the producer's later work behind the consumer's, as far as streams do, and say what is left. The record's streams
 * are named for the calling thread. A failure is told by `status`; what is left then is the host's. */
CAI_IMPL cai_impl_rest_t cai_impl_order_back(cai_order_pool_t *pool, const cai_impl_order_record_t *record,
                                             cai_status_t *status, cai_error_t *error)
{
    const uint32_t     after = cai_impl_order_after(record);
    cai_device_guard_t guard;
    cai_impl_rest_t    rest;
    cai_status_t       left;
    *status = CAI_OK;
    if (CAI_IMPL_LIKELY(after == 0))
        return CAI_IMPL_REST_NOTHING;
    *status = cai_impl_record_guard_enter(pool, &guard, record, error);
    if (CAI_IMPL_UNLIKELY(*status != CAI_OK))
        return CAI_IMPL_REST_NOTHING;
    rest = cai_impl_order_back_here(pool, record, after, status, error);
    left = cai_device_guard_leave(&guard, *status == CAI_OK ? error : NULL);
    *status = *status != CAI_OK ? *status : left;
    return rest;
}

#endif

/* Name a record's streams for the calling thread: where 2 was said by another one, legacy stands in, whose events come
 * after the work of every per-thread stream, and for which they wait. Whether the consumer's stream got another name. */
CAI_IMPL bool cai_impl_order_name_streams(cai_impl_order_record_t *record)
{
    const bool consumer = record->consumer == CAI_STREAM_PER_THREAD;
    if (CAI_IMPL_LIKELY(record->producer != CAI_STREAM_PER_THREAD && !consumer) ||
        pthread_equal(record->thread, pthread_self()) != 0)
        return false;
    if (record->producer == CAI_STREAM_PER_THREAD)
        record->producer = CAI_STREAM_LEGACY;
    if (consumer)
        record->consumer = CAI_STREAM_LEGACY;
    return consumer;
}

#endif /* CAI_ORDER_H */
