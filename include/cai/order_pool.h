/**
 * cai/order_pool.h - what order needs from one use to the next: events, helper streams, and what was put off.
 *
 * Two things are put off. What cannot be freed while a graph capture is under way is tried again at the next occasion.
 * What must not be given back before work on a stream is done is given back late: a helper stream waits for that work,
 * and has a host function called, so that neither the host nor the stream waits.
 *
 * No function here knows Python: whoever calls one that may block releases the GIL around it.
 * Specification: CUDA Runtime API (events, host functions); behaviour measured on H200s with CUDA 13.0.
 */
#ifndef CAI_ORDER_POOL_H
#define CAI_ORDER_POOL_H

#include <cai/device.h>
#include <cai/stream.h>

#include <stdlib.h>

/**
 * What order needs from one use to the next: events, streams, and what could not be freed yet. Reference counted; every
 * state has one, and an array keeps the one that it was made with. All functions may be called from any thread.
 */
typedef struct cai_order_pool cai_order_pool_t;

/** A new pool with one reference, or NULL with MEMORY. Calls no CUDA function. */
CAI_API cai_order_pool_t *cai_order_pool_new(cai_error_t *error);
/** One more reference; returns `pool`. NULL is let through. */
CAI_API cai_order_pool_t *cai_order_pool_retain(cai_order_pool_t *pool);
/** One reference less; the last one destroys the pool's events and streams. NULL is let through. */
CAI_API void cai_order_pool_release(cai_order_pool_t *pool);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* Devices whose events and streams are kept, and events kept for each; what is beyond is created and destroyed at every
 * use. */
#define CAI_IMPL_POOL_DEVICES 16
#define CAI_IMPL_POOL_EVENTS  16

/* Helper streams of a device. What is to be given back behind one consumer's stream waits behind another's only where
 * both have the same helper. */
#define CAI_IMPL_POOL_HELPERS 4

/* How much a pool has given back late at most; what is beyond is waited for. */
#define CAI_IMPL_LATE_LIMIT 64

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

/* How much is being given back late. A block of its own: the last of it may come after the pool's end, and on a thread of
 * CUDA's, which must not destroy events. */
typedef struct cai_impl_late_count {
    int32_t references;
    int32_t pending;
} cai_impl_late_count_t;

#if !defined(CAI_NO_CUDA)
typedef struct cai_impl_pool_device {
    cudaEvent_t  events[CAI_IMPL_POOL_EVENTS];
    int32_t      n_events;
    cudaStream_t helpers[CAI_IMPL_POOL_HELPERS]; /* NULL until they are needed */
} cai_impl_pool_device_t;
#endif

struct cai_order_pool {
    int32_t                references;
    cai_impl_pool_hooks_t  hooks;
    cai_impl_deferred_t   *deferred;
    cai_impl_late_count_t *late;
    uint8_t                lock;
#if !defined(CAI_NO_CUDA)
    int32_t                n_devices; /* that there are; 0: not asked yet */
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
    cai_order_pool_t      *pool = CAI_IMPL_CAST(cai_order_pool_t *, calloc(1, sizeof(cai_order_pool_t)));
    cai_impl_late_count_t *late = CAI_IMPL_CAST(cai_impl_late_count_t *, calloc(1, sizeof(cai_impl_late_count_t)));
    if (pool == NULL || late == NULL) {
        free(pool);
        free(late);
        (void)cai_error_set(error, CAI_ERROR_MEMORY, "no memory for an order pool");
        return NULL;
    }
    late->references = 1;
    pool->late = late;
    pool->references = 1;
    return pool;
}

CAI_API cai_order_pool_t *cai_order_pool_retain(cai_order_pool_t *pool)
{
    if (pool != NULL)
        (void)__atomic_add_fetch(&pool->references, 1, __ATOMIC_RELAXED);
    return pool;
}

CAI_IMPL void cai_impl_late_count_release(cai_impl_late_count_t *late)
{
    if (__atomic_sub_fetch(&late->references, 1, __ATOMIC_ACQ_REL) == 0)
        free(late);
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

/* ---------------------------------------------------------------------------------------- while a capture is on --- */

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

#if defined(CAI_NO_CUDA)

CAI_IMPL bool cai_impl_pool_has_devices(cai_order_pool_t *pool)
{
    (void)pool;
    return true;
}

CAI_IMPL int32_t cai_impl_pool_only_device(cai_order_pool_t *pool)
{
    (void)pool;
    return -1;
}

CAI_API void cai_order_pool_release(cai_order_pool_t *pool)
{
    if (pool == NULL || __atomic_sub_fetch(&pool->references, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    cai_impl_late_count_release(pool->late);
    free(pool);
}

#else

/* ---------------------------------------------------------------------------------------------------- events ---- */

/* A failure is not left behind as the thread's last error; one of somebody else's is. */
CAI_IMPL void cai_impl_ignore(cudaError_t result)
{
    if (CAI_IMPL_UNLIKELY(result != cudaSuccess))
        (void)CAI_CUDA(cudaGetLastError)();
}

/* Whether there are several devices; true where CUDA does not say. */
CAI_IMPL_COLD bool cai_impl_pool_count_devices(cai_order_pool_t *pool)
{
    int               n = 0;
    const cudaError_t result = CAI_CUDA(cudaGetDeviceCount)(&n);
    cai_impl_ignore(result);
    if (result == cudaSuccess && pool != NULL)
        __atomic_store_n(&pool->n_devices, n, __ATOMIC_RELAXED);
    return result != cudaSuccess || n > 1;
}

CAI_IMPL bool cai_impl_pool_has_devices(cai_order_pool_t *pool)
{
    const int32_t n = pool == NULL ? 0 : __atomic_load_n(&pool->n_devices, __ATOMIC_RELAXED);
    return CAI_IMPL_LIKELY(n > 0) ? n > 1 : cai_impl_pool_count_devices(pool);
}

/* The only device that there is, which is therefore current; -1 where there are several, or nobody remembers. */
CAI_IMPL int32_t cai_impl_pool_only_device(cai_order_pool_t *pool)
{
    return pool == NULL || cai_impl_pool_has_devices(pool) ? -1 : 0;
}

/* The place for a device's events and streams; NULL where none are kept. */
CAI_IMPL cai_impl_pool_device_t *cai_impl_pool_place(cai_order_pool_t *pool, int32_t device_id)
{
    return CAI_IMPL_LIKELY(pool != NULL && device_id >= 0 && device_id < CAI_IMPL_POOL_DEVICES)
               ? &pool->devices[device_id]
               : NULL;
}

/* A new event: one belongs to the device that is current when it is made. */
CAI_IMPL_COLD cai_status_t cai_impl_event_create(int32_t device_id, cudaEvent_t *event, cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_status_t       left, status = cai_device_guard_enter(&guard, device_id, error);
    if (status != CAI_OK)
        return status;
    status = cai_cuda_status(CAI_CUDA(cudaEventCreateWithFlags)(event, cudaEventDisableTiming),
                             "cudaEventCreateWithFlags", error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    if (status == CAI_OK && left != CAI_OK)
        cai_impl_ignore(CAI_CUDA(cudaEventDestroy)(*event));
    return status != CAI_OK ? status : left;
}

/* An event of a device, for the caller alone until he puts it back. */
CAI_IMPL cai_status_t cai_impl_event_take(cai_order_pool_t *pool, int32_t device_id, cudaEvent_t *event,
                                          cai_error_t *error)
{
    cai_impl_pool_device_t *device = cai_impl_pool_place(pool, device_id);
    *event = NULL;
    if (CAI_IMPL_LIKELY(device != NULL)) {
        cai_impl_lock(&pool->lock);
        if (device->n_events > 0)
            *event = device->events[--device->n_events];
        cai_impl_unlock(&pool->lock);
    }
    return CAI_IMPL_LIKELY(*event != NULL) ? CAI_OK : cai_impl_event_create(device_id, event, error);
}

/* An event is free again as soon as the wait for it is enqueued: the wait is for what was recorded then. */
CAI_IMPL void cai_impl_event_put(cai_order_pool_t *pool, int32_t device_id, cudaEvent_t event)
{
    cai_impl_pool_device_t *device = cai_impl_pool_place(pool, device_id);
    bool                    kept = false;
    if (CAI_IMPL_LIKELY(device != NULL)) {
        cai_impl_lock(&pool->lock);
        kept = device->n_events < CAI_IMPL_POOL_EVENTS;
        if (kept)
            device->events[device->n_events++] = event;
        cai_impl_unlock(&pool->lock);
    }
    if (CAI_IMPL_UNLIKELY(!kept))
        cai_impl_ignore(CAI_CUDA(cudaEventDestroy)(event));
}

/* ------------------------------------------------------------------------------------------- helper streams ---- */

/* A stream that orders nothing by itself, made in the relaxed mode, in which no capture minds. */
CAI_IMPL_COLD cai_status_t cai_impl_helper_create(int32_t device_id, cudaStream_t *helper, cai_error_t *error)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cai_device_guard_t         guard;
    cai_status_t               status = cai_device_guard_enter(&guard, device_id, error);
    if (status != CAI_OK)
        return status;
    status = cai_impl_capture_mode_exchange(&mode, error);
    if (status == CAI_OK) {
        status = cai_cuda_status(CAI_CUDA(cudaStreamCreateWithFlags)(helper, cudaStreamNonBlocking),
                                 "cudaStreamCreateWithFlags", error);
        (void)cai_impl_capture_mode_exchange(&mode, NULL);
    }
    (void)cai_device_guard_leave(&guard, NULL);
    return status;
}

/* The helper stream of a device that waits for `stream`: the pool's, which stays as long as that. */
CAI_IMPL cai_status_t cai_impl_helper_find(cai_order_pool_t *pool, int32_t device_id, cai_stream_t stream,
                                           cudaStream_t *helper, cai_error_t *error)
{
    /* Handles are addresses of structs, whose lowest bits are alike. */
    const size_t  which = (CAI_IMPL_BITS(uintptr_t, stream) >> 6 ^ CAI_IMPL_BITS(uintptr_t, stream)) %
                          CAI_IMPL_POOL_HELPERS;
    cudaStream_t *place = &pool->devices[device_id].helpers[which], fresh;
    cai_status_t  status;
    *helper = __atomic_load_n(place, __ATOMIC_ACQUIRE);
    if (CAI_IMPL_LIKELY(*helper != NULL))
        return CAI_OK;
    status = cai_impl_helper_create(device_id, &fresh, error);
    if (status != CAI_OK)
        return status;
    if (__atomic_compare_exchange_n(place, helper, fresh, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        *helper = fresh;
    else
        cai_impl_ignore(CAI_CUDA(cudaStreamDestroy)(fresh)); /* another thread was first */
    return CAI_OK;
}

/* ------------------------------------------------------------------------------------------- the pool's end ---- */

/* Destroying waits for nothing, but may wait for a lock of the driver's; what is still on a helper stream goes on. */
CAI_IMPL void cai_impl_pool_destroy_device(cai_impl_pool_device_t *device)
{
    while (device->n_events > 0)
        cai_impl_ignore(CAI_CUDA(cudaEventDestroy)(device->events[--device->n_events]));
    for (int32_t i = 0; i < CAI_IMPL_POOL_HELPERS; i++) {
        if (device->helpers[i] != NULL)
            cai_impl_ignore(CAI_CUDA(cudaStreamDestroy)(device->helpers[i]));
        device->helpers[i] = NULL;
    }
}

CAI_IMPL bool cai_impl_pool_is_empty(const cai_order_pool_t *pool)
{
    for (int32_t i = 0; i < CAI_IMPL_POOL_DEVICES; i++) {
        if (pool->devices[i].n_events > 0)
            return false;
        for (int32_t j = 0; j < CAI_IMPL_POOL_HELPERS; j++) {
            if (pool->devices[i].helpers[j] != NULL)
                return false;
        }
    }
    return true;
}

/* Give up the events and streams of every device; new ones are made when they are needed. Where Python is going down, and
 * nothing must be waited for, they go with the process. */
CAI_IMPL void cai_impl_pool_drain(cai_order_pool_t *pool)
{
    void *detached;
    if (cai_impl_pool_is_empty(pool) || !cai_impl_pool_detach(pool, &detached))
        return;
    for (int32_t i = 0; i < CAI_IMPL_POOL_DEVICES; i++)
        cai_impl_pool_destroy_device(&pool->devices[i]);
    cai_impl_pool_attach(pool, detached);
}

CAI_API void cai_order_pool_release(cai_order_pool_t *pool)
{
    if (pool == NULL || __atomic_sub_fetch(&pool->references, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    cai_impl_pool_drain(pool);
    cai_impl_late_count_release(pool->late);
    free(pool);
}

#endif

#endif /* CAI_ORDER_POOL_H */
