/**
 * cai/order.h - the table of who runs after whom, as decisions, and the host wait that makes them true.
 *
 * Where producer and consumer use one stream, which is what cai_order_adopt() is for, nothing is called at all. Where
 * they use two, the host waits: for the producer's stream before the work, for the consumer's before memory is given
 * back. A graph capture cannot be waited for, so that what would need it is refused before any stream is touched.
 *
 * No function here knows Python: whoever calls one that may block releases the GIL around it.
 * Specification: CUDA Array Interface v3, the array API standard; what captures forbid was measured (CUDA 13.0, H200).
 */
#ifndef CAI_ORDER_H
#define CAI_ORDER_H

#include <cai/device.h>
#include <cai/stream.h>

#include <stdlib.h>

/**
 * What order needs from one use to the next: events, and what could not be freed yet. Reference counted; every state has
 * one, and an array keeps the one that it was made with. All functions may be called from any thread.
 */
typedef struct cai_order_pool cai_order_pool_t;

/** A new pool with one reference, or NULL with MEMORY. Calls no CUDA function. */
CAI_API cai_order_pool_t *cai_order_pool_new(cai_error_t *error);
/** One more reference; returns `pool`. NULL is let through. */
CAI_API cai_order_pool_t *cai_order_pool_retain(cai_order_pool_t *pool);
/** One reference less; the last one destroys the pool's events. NULL is let through. */
CAI_API void cai_order_pool_release(cai_order_pool_t *pool);

/**
 * Whether work enqueued on the stream now becomes part of a graph. For CAI_STREAM_LEGACY: whether some blocking stream of
 * the current device captures, so that the legacy stream must not be used. 1 and 2 mean the current device's.
 */
CAI_API CAI_NODISCARD cai_status_t cai_stream_is_capturing(cai_stream_t stream, bool *capturing, cai_error_t *error);

/**
 * Let what is enqueued on `after` from now on run after what is on `before` now. `device_id` is the device of `before`,
 * and of `after` where that is 1 or 2; -1 means the current one. Nothing is called if the streams are equal. The host does
 * not wait. STREAM_CAPTURE, before either stream is touched, if one of them captures a graph and the other does not.
 */
CAI_API CAI_NODISCARD cai_status_t cai_order_streams(cai_order_pool_t *pool, cai_stream_t before, cai_stream_t after,
                                                     int32_t device_id, cai_error_t *error);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* -------------------------------------------------------------------------------------------------- the pool ---- */

/* Devices whose events are kept, and events kept for each; what is beyond is created and destroyed at every use. */
#define CAI_IMPL_POOL_DEVICES 16
#define CAI_IMPL_POOL_EVENTS  16

/* Called around a wait of the host by code that knows no Python, because such a wait must not hold the GIL: set by the
 * Python floor. `detach` fills what `attach` is passed; false: do not wait, Python is going down. */
typedef struct cai_impl_pool_hooks {
    bool (*detach)(void **detached);
    void (*attach)(void *detached);
} cai_impl_pool_hooks_t;

/* Something that could not be freed while a capture was under way; tried again at the next occasion. */
typedef struct cai_impl_deferred {
    struct cai_impl_deferred *next;
    bool (*retry)(struct cai_impl_deferred *self); /* true: done, and `self` is gone */
} cai_impl_deferred_t;

#if !defined(CAI_NO_CUDA)
typedef struct cai_impl_pool_device {
    cudaEvent_t events[CAI_IMPL_POOL_EVENTS];
    int32_t     n_events;
} cai_impl_pool_device_t;
#endif

struct cai_order_pool {
    int32_t               references;
    cai_impl_pool_hooks_t hooks;
    cai_impl_deferred_t  *deferred;
    uint8_t               lock;
#if !defined(CAI_NO_CUDA)
    cai_impl_pool_device_t devices[CAI_IMPL_POOL_DEVICES];
#endif
};

/* A lock for a few instructions, which may be taken with or without the GIL; nothing is called while it is held. */
/* NOLINTNEXTLINE(readability-non-const-parameter): the built-in writes to it */
CAI_IMPL void cai_impl_lock(uint8_t *lock)
{
    while (__atomic_test_and_set(lock, __ATOMIC_ACQUIRE)) {
    }
}

/* NOLINTNEXTLINE(readability-non-const-parameter) */
CAI_IMPL void cai_impl_unlock(uint8_t *lock)
{
    __atomic_clear(lock, __ATOMIC_RELEASE);
}

CAI_API cai_order_pool_t *cai_order_pool_new(cai_error_t *error)
{
    cai_order_pool_t *pool = CAI_IMPL_CAST(cai_order_pool_t *, calloc(1, sizeof(cai_order_pool_t)));
    if (pool == NULL) {
        (void)cai_error_set(error, CAI_ERROR_MEMORY, "no memory for an order pool");
        return NULL;
    }
    pool->references = 1;
    return pool;
}

CAI_API cai_order_pool_t *cai_order_pool_retain(cai_order_pool_t *pool)
{
    if (pool != NULL)
        (void)__atomic_add_fetch(&pool->references, 1, __ATOMIC_RELAXED);
    return pool;
}

/* Put off what could not be freed. Without a pool it is leaked: nobody would come back to it. */
CAI_IMPL_COLD void cai_impl_pool_defer(cai_order_pool_t *pool, cai_impl_deferred_t *item)
{
    if (pool == NULL)
        return;
    cai_impl_lock(&pool->lock);
    item->next = pool->deferred;
    pool->deferred = item;
    cai_impl_unlock(&pool->lock);
}

/* Try again what was put off. */
CAI_IMPL_COLD void cai_impl_pool_retry(cai_order_pool_t *pool)
{
    cai_impl_deferred_t *item, *next;
    cai_impl_lock(&pool->lock);
    item = pool->deferred;
    pool->deferred = NULL;
    cai_impl_unlock(&pool->lock);
    for (; item != NULL; item = next) {
        next = item->next;
        if (!item->retry(item))
            cai_impl_pool_defer(pool, item);
    }
}

CAI_IMPL void cai_impl_pool_sweep(cai_order_pool_t *pool)
{
    if (CAI_IMPL_UNLIKELY(pool != NULL && __atomic_load_n(&pool->deferred, __ATOMIC_RELAXED) != NULL))
        cai_impl_pool_retry(pool);
}

/* Around a wait of the host; false: do not wait. */
CAI_IMPL bool cai_impl_pool_detach(const cai_order_pool_t *pool, void **detached)
{
    *detached = NULL;
    return pool == NULL || pool->hooks.detach == NULL || pool->hooks.detach(detached);
}

CAI_IMPL void cai_impl_pool_attach(const cai_order_pool_t *pool, void *detached)
{
    if (detached != NULL)
        pool->hooks.attach(detached);
}

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
    bool              pinned;    /* memory that host code sees as soon as it is given back */
    int32_t           device_id; /* whose 1 and 2 are meant; -1: the current device's */
    unsigned long     thread;    /* whose 2 is meant */
    cai_stream_t      producer, consumer;
} cai_impl_order_record_t;

/* What to wait for: nothing (needed is false), or one stream. */
typedef struct cai_impl_wait {
    bool         needed;
    cai_stream_t stream;
    int32_t      device_id;
} cai_impl_wait_t;

CAI_IMPL cai_impl_wait_t cai_impl_wait_for(bool needed, cai_stream_t stream, int32_t device_id)
{
    cai_impl_wait_t wait;
    wait.needed = needed;
    wait.stream = stream;
    wait.device_id = device_id;
    return wait;
}

/* The left side of the table: what has to be done before the consumer's work. */
CAI_IMPL cai_impl_wait_t cai_impl_wait_before(const cai_impl_order_record_t *record)
{
    const bool pending = record->source != CAI_IMPL_SOURCE_READY && record->mode != CAI_ORDER_NONE;
    if (record->mode == CAI_ORDER_BLOCK)
        return cai_impl_wait_for(pending, record->producer, record->device_id);
    return cai_impl_wait_for(pending && record->source != CAI_IMPL_SOURCE_ORDERED &&
                                 record->producer != record->consumer,
                             record->producer, record->device_id);
}

/* The right side: what has to be done before the memory is given back. A producer whose stream is not known may hand the
 * memory out again at once, and so may host code with pinned memory; both then must find the consumer's work done. */
CAI_IMPL cai_impl_wait_t cai_impl_wait_after(const cai_impl_order_record_t *record)
{
    const bool used = record->mode == CAI_ORDER_WAIT || record->mode == CAI_ORDER_ADOPT;
    const bool known = record->source == CAI_IMPL_SOURCE_STREAM && record->producer == record->consumer;
    const bool pending = record->source != CAI_IMPL_SOURCE_READY && !known;
    return cai_impl_wait_for(used && (pending || record->pinned), record->consumer, record->device_id);
}

/* Stream numbers below 3 mean the current device's streams, so that their device has to be current. */
CAI_IMPL cai_status_t cai_impl_stream_guard_enter(cai_device_guard_t *guard, cai_stream_t stream, int32_t device_id,
                                                  cai_error_t *error)
{
    guard->previous = -1;
    if (CAI_IMPL_BITS(uint64_t, stream) > 2 || device_id < 0)
        return CAI_OK;
    return cai_device_guard_enter(guard, device_id, error);
}

CAI_IMPL cai_status_t cai_impl_stream_is_capturing_on(cai_stream_t stream, int32_t device_id, bool *capturing,
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

#if defined(CAI_NO_CUDA)

CAI_API cai_status_t cai_stream_is_capturing(cai_stream_t stream, bool *capturing, cai_error_t *error)
{
    (void)stream;
    (void)error;
    *capturing = false;
    return CAI_OK;
}

CAI_API void cai_order_pool_release(cai_order_pool_t *pool)
{
    if (pool != NULL && __atomic_sub_fetch(&pool->references, 1, __ATOMIC_ACQ_REL) == 0)
        free(pool);
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

/* Without CUDA, memory that has to be waited for at release must not be taken in the first place. */
CAI_IMPL bool cai_impl_cannot_wait_after(const cai_impl_order_record_t *record)
{
    return cai_impl_wait_after(record).needed;
}

CAI_IMPL_COLD cai_status_t cai_impl_wait_check(const cai_impl_order_record_t *record, cai_error_t *error)
{
    (void)record;
    return cai_impl_no_order(error);
}

CAI_IMPL_COLD cai_status_t cai_impl_wait_perform(const cai_impl_wait_t *wait, cai_error_t *error)
{
    (void)wait;
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

CAI_API cai_status_t cai_stream_is_capturing(cai_stream_t stream, bool *capturing, cai_error_t *error)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t            result = CAI_CUDA(cudaStreamIsCapturing)(stream, &status);
    if (result == cudaErrorStreamCaptureImplicit) {
        (void)CAI_CUDA(cudaGetLastError)();
        *capturing = true;
        return CAI_OK;
    }
    *capturing = status != cudaStreamCaptureStatusNone;
    return cai_cuda_status(result, "cudaStreamIsCapturing", error);
}

CAI_IMPL bool cai_impl_cannot_wait_after(const cai_impl_order_record_t *record)
{
    (void)record;
    return false;
}

CAI_IMPL_COLD cai_status_t cai_impl_wait_refused(const cai_impl_order_record_t *record, const char *who,
                                                 cai_error_t *error)
{
    if (record->mode == CAI_ORDER_BLOCK)
        return cai_error_set(
            error, CAI_ERROR_STREAM_CAPTURE,
            "its producer uses stream %p, which captures a graph, so that the host cannot wait for it: use "
            "cai_order_adopt(), or cai_order_none() if the data is complete",
            CAI_IMPL_CAST(void *, record->producer));
    return cai_error_set(
        error, CAI_ERROR_STREAM_CAPTURE,
        "its producer uses stream %p, the consumer stream %p, and %s captures a graph: let both use the "
        "capturing stream, or use cai_order_none() if the data is complete",
        CAI_IMPL_CAST(void *, record->producer), CAI_IMPL_CAST(void *, record->consumer), who);
}

/* Whether the host may wait for the record's producer: refused while a graph capture is involved on either side. */
CAI_IMPL cai_status_t cai_impl_wait_check(const cai_impl_order_record_t *record, cai_error_t *error)
{
    bool         producer = false, consumer = false;
    cai_status_t status = cai_impl_stream_is_capturing_on(record->producer, record->device_id, &producer, error);
    if (status == CAI_OK && record->mode != CAI_ORDER_BLOCK)
        status = cai_impl_stream_is_capturing_on(record->consumer, record->device_id, &consumer, error);
    if (status != CAI_OK || (!producer && !consumer))
        return status;
    return cai_impl_wait_refused(record, producer && consumer ? "each" : producer ? "the first" : "the second", error);
}

/* Wait on the host until the stream's work is done; blocks. */
CAI_IMPL_COLD cai_status_t cai_impl_wait_perform(const cai_impl_wait_t *wait, cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_status_t       status = cai_impl_stream_guard_enter(&guard, wait->stream, wait->device_id, error), left;
    if (status != CAI_OK)
        return status;
    status = cai_impl_stream_barrier(wait->stream, error);
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

/* ---------------------------------------------------------------------------------------------------- events ---- */

/* An event of the current device, which is `device_id`; the caller hands it back. */
CAI_IMPL cai_status_t cai_impl_event_take(cai_order_pool_t *pool, int32_t device_id, cudaEvent_t *event,
                                          cai_error_t *error)
{
    *event = NULL;
    if (CAI_IMPL_LIKELY(pool != NULL && device_id < CAI_IMPL_POOL_DEVICES)) {
        cai_impl_pool_device_t *device = &pool->devices[device_id];
        cai_impl_lock(&pool->lock);
        if (device->n_events > 0)
            *event = device->events[--device->n_events];
        cai_impl_unlock(&pool->lock);
    }
    if (CAI_IMPL_LIKELY(*event != NULL))
        return CAI_OK;
    return cai_cuda_status(CAI_CUDA(cudaEventCreateWithFlags)(event, cudaEventDisableTiming),
                           "cudaEventCreateWithFlags", error);
}

/* A failure is not left behind as the thread's last error; one of somebody else's is. */
CAI_IMPL void cai_impl_event_destroy(cudaEvent_t event)
{
    const cudaError_t result = CAI_CUDA(cudaEventDestroy)(event);
    if (CAI_IMPL_UNLIKELY(result != cudaSuccess))
        (void)CAI_CUDA(cudaGetLastError)();
}

/* An event is free again as soon as the wait for it is enqueued: the wait is for what was recorded then. */
CAI_IMPL void cai_impl_event_put(cai_order_pool_t *pool, int32_t device_id, cudaEvent_t event)
{
    bool kept = false;
    if (CAI_IMPL_LIKELY(pool != NULL && device_id < CAI_IMPL_POOL_DEVICES)) {
        cai_impl_pool_device_t *device = &pool->devices[device_id];
        cai_impl_lock(&pool->lock);
        kept = device->n_events < CAI_IMPL_POOL_EVENTS;
        if (kept)
            device->events[device->n_events++] = event;
        cai_impl_unlock(&pool->lock);
    }
    if (CAI_IMPL_UNLIKELY(!kept))
        cai_impl_event_destroy(event);
}

CAI_API void cai_order_pool_release(cai_order_pool_t *pool)
{
    if (pool == NULL || __atomic_sub_fetch(&pool->references, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    for (int32_t i = 0; i < CAI_IMPL_POOL_DEVICES; i++) {
        while (pool->devices[i].n_events > 0)
            cai_impl_event_destroy(pool->devices[i].events[--pool->devices[i].n_events]);
    }
    free(pool);
}

/* Record on one stream and let the other wait: the current device is `device_id`, that of `before`. */
CAI_IMPL cai_status_t cai_impl_event_order(cai_order_pool_t *pool, cai_stream_t before, cai_stream_t after,
                                           int32_t device_id, cai_error_t *error)
{
    cudaEvent_t  event;
    cai_status_t status = cai_impl_event_take(pool, device_id, &event, error);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return status;
    status = cai_cuda_status(CAI_CUDA(cudaEventRecord)(event, before), "cudaEventRecord", error);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        status = cai_cuda_status(CAI_CUDA(cudaStreamWaitEvent)(after, event, 0), "cudaStreamWaitEvent", error);
    cai_impl_event_put(pool, device_id, event);
    return status;
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
CAI_IMPL cai_status_t cai_impl_capture_find(cai_stream_t first, cai_stream_t second, cai_impl_capture_t *found,
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

/* A stream of another device than its array's: the event has to be of the stream's own device. */
CAI_IMPL_COLD cai_status_t cai_impl_event_order_elsewhere(cai_order_pool_t *pool, cai_stream_t before,
                                                          cai_stream_t after, cai_error_t *error)
{
#if CAI_IMPL_HAS_STREAM_GET_DEVICE
    cai_device_guard_t guard;
    int                device_id = -1;
    cai_status_t       left,
        status = cai_cuda_status(CAI_CUDA(cudaStreamGetDevice)(before, &device_id), "cudaStreamGetDevice", error);
    if (status == CAI_OK)
        status = cai_device_guard_enter(&guard, device_id, error);
    if (status != CAI_OK)
        return status;
    status = cai_impl_event_order(pool, before, after, device_id, error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
#else
    (void)pool;
    (void)before;
    (void)after;
    return cai_cuda_status(cudaErrorInvalidResourceHandle, "cudaEventRecord", error);
#endif
}

/* The same where the device of `before` is not known for sure; the current one is tried first. */
CAI_IMPL cai_status_t cai_impl_event_order_any(cai_order_pool_t *pool, cai_stream_t before, cai_stream_t after,
                                               int32_t device_id, cai_error_t *error)
{
    cai_error_t        first;
    const cai_status_t status = cai_impl_event_order(pool, before, after, device_id, &first);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        return CAI_OK;
    if (first.cuda_code == CAI_IMPL_CAST(int32_t, cudaErrorInvalidResourceHandle) &&
        CAI_IMPL_BITS(uint64_t, before) > 2)
        return cai_impl_event_order_elsewhere(pool, before, after, error);
    if (error != NULL)
        *error = first;
    return status;
}

CAI_API cai_status_t cai_order_streams(cai_order_pool_t *pool, cai_stream_t before, cai_stream_t after,
                                       int32_t device_id, cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_impl_capture_t capture = CAI_IMPL_CAPTURE_NONE;
    cai_status_t       status, left;
    if (before == after)
        return CAI_OK;
    status = device_id < 0 ? cai_current_device(&device_id, error) : CAI_OK;
    if (status == CAI_OK)
        status = cai_device_guard_enter(&guard, device_id, error);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return status;
    status = cai_impl_capture_find(before, after, &capture, error);
    if (status == CAI_OK && capture > CAI_IMPL_CAPTURE_SHARED)
        status = cai_impl_capture_refused(before, after, capture, error);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        status = cai_impl_event_order_any(pool, before, after, device_id, error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

#endif

#endif /* CAI_ORDER_H */
