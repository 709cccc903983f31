/**
 * cai/array.h - cai_array_t: an array that is owned, counted, and freed after the work on it.
 *
 * Memory made by cai_array_new, or made elsewhere and handed over by cai_array_wrap. Whoever holds a reference may read
 * the tensor, enqueue work on the array's stream, and hand the array to Python (object.h) or to another extension, built
 * with whatever version of cai: the struct begins with the maker's own functions, and its layout is frozen up to `flags`.
 *
 * Releasing may happen on any thread, with or without the GIL, while somebody captures a graph, during and after Python's
 * shutdown. It never raises and never waits for the GIL.
 */
#ifndef CAI_ARRAY_H
#define CAI_ARRAY_H

#include <cai/order.h>
#include <cai/request.h>

#include <pthread.h>

/** The layout below, and the name of the capsule that carries it. */
#define CAI_ARRAY_ABI     1
#define CAI_ARRAY_CAPSULE "cai_array_v1"

/**
 * A flag of arrays, beside those of tensor.h and stream.h. FREE_IN_ORDER: everybody who uses the array is known, because
 * the work is on its stream or was told by cai_array_used_on, so that the array is freed in stream order without looking
 * for others. What a consumer does on the stream of an export is not looked for then either.
 */
enum { CAI_FREE_IN_ORDER = 32 };

/**
 * An array with an owner. Never allocated, copied or changed by anybody but its maker; `retain` and the other functions
 * are called through cai_array_retain and so on.
 */
typedef struct cai_array {
    uint32_t abi, size;                      /**< CAI_ARRAY_ABI; sizeof of the maker's struct */
    void (*retain)(struct cai_array *self);  /**< any thread */
    void (*release)(struct cai_array *self); /**< any thread, never fails */
    cai_status_t (*used_on)(struct cai_array *self, cai_stream_t stream);
    void *(*object)(struct cai_array *self); /**< the PyObject it came from (borrowed), or NULL */
    cai_tensor_t tensor;                     /**< byte_offset 0, strides never NULL */
    cai_stream_t stream;                     /**< where the array's work is; NULL: no work pending */
    uint64_t     flags;                      /**< CAI_READONLY, CAI_FREE_IN_ORDER … */
} cai_array_t;

/**
 * A new array without defined contents, C-contiguous, with one reference, which the caller releases.
 *
 * `memory` says what kind. `stream` is where its first work will be (for CAI_MEMORY_DEVICE also that of the allocation);
 * 0 is legacy, and a handle has to stay valid as long as the array (cai_array_set_stream takes an owner with it): where the
 * last reference goes while it captures a graph, that is until the next call of cai after the capture.
 * `device_id` -1 is the current device, and the stream is one of it. `pool`, cai_state_pool(state), is kept until the array
 * is freed. Without one (NULL) a wait for work on the array may hold the GIL, and memory whose stream captures a graph when
 * it should be freed is never freed. NULL with an error: MEMORY, INVALID_SHAPE, UNKNOWN_DTYPE, CUDA_CALL, or STREAM_CAPTURE
 * when the stream captures a graph, since the memory would belong to the graph.
 */
CAI_API CAI_NODISCARD cai_array_t *cai_array_new(cai_order_pool_t *pool, cai_dtype_t dtype, int32_t ndim,
                                                 const int64_t *shape, int32_t device_id, cai_memory_t memory,
                                                 cai_stream_t stream, cai_error_t *error);

/**
 * An array over memory that is there already; shape and strides are copied. No work is pending on it: what has been enqueued
 * is told by cai_array_used_on before the array goes out. `deleter(owner)` is called once, when the last reference is gone
 * and the work that cai was told of is done, on whatever thread that is, without the GIL (with it only in the limited API,
 * without a pool, or at Python's end, if that thread has it). Somebody may be capturing a graph then, which cudaFree breaks
 * outside the relaxed mode (cudaThreadExchangeStreamCaptureMode). `flags`: CAI_READONLY, CAI_FREE_IN_ORDER. On failure
 * (NULL, with what cai_tensor_validate says, MISSING_DELETER if there is an owner without one, DEVICE_MISMATCH for other
 * devices than cai knows, or MEMORY) the deleter has not run: the caller still owns.
 */
CAI_API CAI_NODISCARD cai_array_t *cai_array_wrap(cai_order_pool_t *pool, const cai_tensor_t *tensor, uint64_t flags,
                                                  void *owner, void (*deleter)(void *owner), cai_error_t *error);

/** One more reference; returns `array`. Any thread. */
CAI_API cai_array_t *cai_array_retain(cai_array_t *array);
/** One reference less. Any thread, see above; NULL is let through. */
CAI_API void cai_array_release(cai_array_t *array);

/**
 * "I enqueued work on it there": export, free, deleter and giving back come after the work that is on `stream` now. An
 * array without a stream gets this one. STREAM_CAPTURE if the stream captures a graph and the array's does not.
 */
CAI_API cai_status_t cai_array_used_on(cai_array_t *array, cai_stream_t stream);

/**
 * Give the array a stream that was made elsewhere; `deleter(owner)` (may be NULL) is called when the array no longer needs
 * it. Work on the stream that the array had is ordered before it. For arrays of this extension: OBJECT_OWNERSHIP
 * otherwise, and the deleter has not run.
 */
CAI_API cai_status_t cai_array_set_stream(cai_array_t *array, cai_stream_t stream, void *owner,
                                          void (*deleter)(void *owner));

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

CAI_IMPL_ASSERT_LAYOUT(cai_array_t, 104);
CAI_IMPL_ASSERT_OFFSET(cai_array_t, retain, 8);
CAI_IMPL_ASSERT_OFFSET(cai_array_t, release, 16);
CAI_IMPL_ASSERT_OFFSET(cai_array_t, used_on, 24);
CAI_IMPL_ASSERT_OFFSET(cai_array_t, object, 32);
CAI_IMPL_ASSERT_OFFSET(cai_array_t, tensor, 40);
CAI_IMPL_ASSERT_OFFSET(cai_array_t, stream, 88);
CAI_IMPL_ASSERT_OFFSET(cai_array_t, flags, 96);

#define CAI_IMPL_MEMORY_WRAPPED CAI_IMPL_CAST(cai_memory_t, 0)

/* An array of this extension. One block of memory holds it, its shape and its strides. */
typedef struct cai_impl_own_array {
    cai_array_t         array;
    cai_impl_deferred_t deferred;
    int64_t             references;
    cai_order_pool_t   *pool;
    cai_memory_t        memory;  /* CAI_IMPL_MEMORY_WRAPPED: `owner` has it */
    uint8_t             lock;    /* of stream, its owner, `home` and `foreign` */
    bool                foreign; /* somebody may use the memory on a stream that nobody told, or whose handle is gone */
    bool                ordered_back;       /* the stream is the owner's own: what is ordered there needs no wait */
    bool                keeps_array;        /* of cai's, which has to be told who uses it */
    bool                keeps_object;       /* of Python's, which `owner`, a cai_impl_kept_t, refers to */
    bool                deletes_attached;   /* the deleter gives up references of Python's */
    bool                stream_may_be_gone; /* it is of a producer, whose array need not keep it */
    bool                deletes_anywhere;   /* the deleter calls no CUDA function, and waits for no lock of Python's */
    void               *base;               /* what is freed; NULL: nothing was allocated */
    int32_t             home;   /* of pinned memory: the device whose streams 1 and 2 are meant; -1: the current one */
    pthread_t           thread; /* the maker's: CAI_STREAM_PER_THREAD is another stream on every other thread */
    void               *owner, *stream_owner;
    void (*deleter)(void *owner);
    void (*stream_deleter)(void *owner);
} cai_impl_own_array_t;

/* Behind the struct: shape, then strides. */
CAI_IMPL int64_t *cai_impl_own_extents(cai_impl_own_array_t *own)
{
    return CAI_IMPL_BITS(int64_t *, own + 1);
}

CAI_API cai_array_t *cai_array_retain(cai_array_t *array)
{
    array->retain(array);
    return array;
}

CAI_API void cai_array_release(cai_array_t *array)
{
    if (array != NULL)
        array->release(array);
}

CAI_API cai_status_t cai_array_used_on(cai_array_t *array, cai_stream_t stream)
{
    return array->used_on(array, stream == NULL ? cai_order_wait(NULL).stream : stream);
}

CAI_IMPL cai_impl_own_array_t *cai_impl_own(cai_array_t *array)
{
    return CAI_IMPL_BITS(cai_impl_own_array_t *, array);
}

CAI_IMPL bool cai_impl_own_on_gpu(const cai_impl_own_array_t *own)
{
    return own->array.tensor.device.device_type != CAI_DEVICE_CPU;
}

/* The device whose streams 1 and 2 are the array's; -1, the current one, for memory that has none. */
CAI_IMPL int32_t cai_impl_own_device(const cai_impl_own_array_t *own)
{
    const cai_device_t device = own->array.tensor.device;
    return device.device_type == CAI_DEVICE_CUDA || device.device_type == CAI_DEVICE_CUDA_MANAGED ? device.device_id
                                                                                                  : own->home;
}

/* The same, and -1 also where it is the only one that there is: it need not be made current. */
CAI_IMPL int32_t cai_impl_own_other_device(const cai_impl_own_array_t *own)
{
    const int32_t device_id = cai_impl_own_device(own);
    return device_id < 0 || device_id == cai_impl_pool_only_device(own->pool) ? -1 : device_id;
}

/* Whether the array's stream is the per-thread one of another thread, which cannot be named from here. */
CAI_IMPL bool cai_impl_own_elsewhere(const cai_impl_own_array_t *own)
{
    return own->array.stream == CAI_STREAM_PER_THREAD && pthread_equal(own->thread, pthread_self()) == 0;
}

/* The array's stream as this thread can name it: legacy waits for another thread's per-thread stream, which in turn waits
 * for legacy. */
CAI_IMPL cai_stream_t cai_impl_own_stream(const cai_impl_own_array_t *own)
{
    return cai_impl_own_elsewhere(own) ? CAI_STREAM_LEGACY : own->array.stream;
}

CAI_IMPL_ONE void cai_impl_own_retain(cai_array_t *array);
CAI_IMPL_ONE void cai_impl_own_retain(cai_array_t *array)
{
    (void)__atomic_add_fetch(&cai_impl_own(array)->references, 1, __ATOMIC_RELAXED);
}

/* Whether this extension made the array: told by its smallest function, so that code that never makes one does not carry
 * those that free. */
CAI_IMPL bool cai_impl_is_own(const cai_array_t *array)
{
    return array->retain == cai_impl_own_retain;
}

/* The same two of any maker's array. */
CAI_IMPL int32_t cai_impl_array_device(const cai_array_t *array)
{
    const cai_device_t device = array->tensor.device;
    if (cai_impl_is_own(array))
        return cai_impl_own_device(CAI_IMPL_BITS(const cai_impl_own_array_t *, array));
    return device.device_type == CAI_DEVICE_CUDA || device.device_type == CAI_DEVICE_CUDA_MANAGED ? device.device_id
                                                                                                  : -1;
}

/* Bytes that the elements fill; padded ones take one each. */
CAI_IMPL int64_t cai_impl_array_nbytes(const cai_array_t *array)
{
    const cai_tensor_t *tensor = &array->tensor;
    return (array->flags & CAI_SUBBYTE_PADDED) != 0 ? cai_tensor_size(tensor) * cai_dtype_itemsize(tensor->dtype)
                                                    : cai_tensor_nbytes(tensor);
}

CAI_IMPL cai_stream_t cai_impl_array_stream(const cai_array_t *array)
{
    if (cai_impl_is_own(array))
        return cai_impl_own_stream(CAI_IMPL_BITS(const cai_impl_own_array_t *, array));
    /* Whose per-thread stream is meant, only the maker knows; legacy waits for that of every thread. */
    return array->stream == CAI_STREAM_PER_THREAD ? CAI_STREAM_LEGACY : array->stream;
}

/* ------------------------------------------------------------------------------------------------------- release --- */

/* What has to be over before the memory can go. */
typedef enum cai_impl_farewell {
    CAI_IMPL_FAREWELL_AT_ONCE,  /* nothing, or what the freeing call orders by itself without blocking */
    CAI_IMPL_FAREWELL_CALL,     /* the freeing call waits for the device by itself */
    CAI_IMPL_FAREWELL_STREAM,   /* the work on the array's stream */
    CAI_IMPL_FAREWELL_EVERYBODY /* everything on the device: nobody knows who uses the memory */
} cai_impl_farewell_t;

CAI_IMPL cai_impl_farewell_t cai_impl_own_farewell(const cai_impl_own_array_t *own)
{
    const bool foreign = own->foreign && (own->array.flags & CAI_FREE_IN_ORDER) == 0;
    switch (own->memory) {
    case CAI_MEMORY_DEVICE_NO_POOL:
    case CAI_MEMORY_MANAGED:
    case CAI_MEMORY_PINNED: return CAI_IMPL_FAREWELL_CALL;
    case CAI_MEMORY_DEVICE:
        return foreign || cai_impl_own_elsewhere(own) ? CAI_IMPL_FAREWELL_EVERYBODY : CAI_IMPL_FAREWELL_AT_ONCE;
    default: break;
    }
    if ((foreign && cai_impl_own_on_gpu(own)) || cai_impl_own_elsewhere(own))
        return CAI_IMPL_FAREWELL_EVERYBODY;
    if (own->array.stream == NULL || own->ordered_back)
        return CAI_IMPL_FAREWELL_AT_ONCE;
    return own->stream_may_be_gone ? CAI_IMPL_FAREWELL_EVERYBODY : CAI_IMPL_FAREWELL_STREAM;
}

/* Wait on the host for what the farewell names. A wait that fails is over: the device or the driver is gone. */
CAI_IMPL void cai_impl_own_wait(const cai_impl_own_array_t *own, cai_impl_farewell_t farewell)
{
    if (farewell == CAI_IMPL_FAREWELL_EVERYBODY)
        (void)cai_impl_wait_for_device(-1, NULL);
    else if (farewell == CAI_IMPL_FAREWELL_STREAM)
        (void)cai_impl_wait_for_stream(own->array.stream, cai_impl_own_device(own), NULL);
}

/* Free memory of cai's own, or have its owner do so. Pool memory goes back to its pool in the order of a stream, the array's
 * if that can be named here; cudaFree would not wait either, and the pool goes on counting what it got that way as used
 * (measured). */
CAI_IMPL void cai_impl_own_give_back(const cai_impl_own_array_t *own)
{
    if (own->memory == CAI_IMPL_MEMORY_WRAPPED)
        own->deleter(own->owner);
    else
        (void)cai_impl_memory_free(own->base, own->memory,
                                   cai_impl_own_elsewhere(own) ? CAI_STREAM_PER_THREAD : own->array.stream, NULL);
}

/* The array's device is current. What must not be waited for is leaked. An author's deleter, which may wait for the device
 * (cudaFree), lets the interpreter go as the wait before it does. */
CAI_IMPL void cai_impl_own_let_go(const cai_impl_own_array_t *own)
{
    const cai_impl_farewell_t farewell = cai_impl_own_farewell(own);
    const bool                authors = own->memory == CAI_IMPL_MEMORY_WRAPPED && !own->deletes_attached;
    void                     *detached = NULL;
    if (farewell == CAI_IMPL_FAREWELL_STREAM && own->deletes_anywhere &&
        cai_impl_call_late(own->pool, own->array.stream, cai_impl_own_device(own), own->deleter, own->owner))
        return;
    if ((farewell != CAI_IMPL_FAREWELL_AT_ONCE || authors) && !cai_impl_pool_detach(own->pool, &detached) &&
        farewell != CAI_IMPL_FAREWELL_AT_ONCE)
        return;
    cai_impl_own_wait(own, farewell);
    if (!own->deletes_attached)
        cai_impl_own_give_back(own);
    cai_impl_pool_attach(own->pool, detached);
    if (own->deletes_attached)
        cai_impl_own_give_back(own);
}

/* The device to make current before the array is freed; -1 for none: a free in the order of a handle needs none. */
CAI_IMPL int32_t cai_impl_own_device_to_free_on(const cai_impl_own_array_t *own)
{
    if (!cai_impl_own_on_gpu(own) || (own->memory == CAI_MEMORY_DEVICE && !cai_impl_is_number(own->array.stream) &&
                                      cai_impl_own_farewell(own) == CAI_IMPL_FAREWELL_AT_ONCE))
        return -1;
    return cai_impl_own_other_device(own);
}

/* Free the memory, or have its owner do so. */
CAI_IMPL void cai_impl_own_free_memory(const cai_impl_own_array_t *own)
{
    cai_device_guard_t guard = {-1};
    int32_t            device_id;
    if (own->memory == CAI_IMPL_MEMORY_WRAPPED ? own->deleter == NULL : own->base == NULL)
        return;
    device_id = cai_impl_own_device_to_free_on(own);
    /* Where the device cannot be reached, memory of cai's own is lost; an owner gets his back all the same. */
    if (device_id >= 0 && cai_device_guard_enter(&guard, device_id, NULL) != CAI_OK &&
        own->memory != CAI_IMPL_MEMORY_WRAPPED)
        return;
    cai_impl_own_let_go(own);
    (void)cai_device_guard_leave(&guard, NULL);
}

CAI_IMPL void cai_impl_own_destroy(cai_impl_own_array_t *own)
{
    cai_order_pool_t *pool = own->pool;
    cai_impl_own_free_memory(own);
    if (own->stream_deleter != NULL)
        own->stream_deleter(own->stream_owner);
    free(own);
    cai_impl_pool_sweep(pool);
    cai_order_pool_release(pool);
}

/* Whether the array's stream captures a graph: then nothing of the array can be freed now. A stream that is a producer's is
 * not asked: it may be gone, and no more is given up than what keeps the producer's array. */
CAI_IMPL bool cai_impl_own_is_capturing(const cai_impl_own_array_t *own)
{
    bool capturing = false;
    if (own->array.stream == NULL || own->stream_may_be_gone || own->ordered_back || cai_impl_own_elsewhere(own))
        return false;
    return cai_impl_stream_is_capturing_on(own->array.stream, cai_impl_own_other_device(own), &capturing, NULL) ==
               CAI_OK &&
           capturing;
}

CAI_IMPL_COLD bool cai_impl_own_retry(cai_impl_deferred_t *deferred)
{
    cai_impl_own_array_t *own = CAI_IMPL_BITS(cai_impl_own_array_t *, CAI_IMPL_BITS(char *, deferred) -
                                                                          offsetof(cai_impl_own_array_t, deferred));
    if (cai_impl_own_is_capturing(own))
        return false;
    cai_impl_own_destroy(own);
    return true;
}

CAI_IMPL void cai_impl_own_release(cai_array_t *array)
{
    cai_impl_own_array_t *own = cai_impl_own(array);
    if (__atomic_sub_fetch(&own->references, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    if (CAI_IMPL_UNLIKELY(cai_impl_own_is_capturing(own))) {
        own->deferred.retry = cai_impl_own_retry;
        cai_impl_pool_defer(own->pool, &own->deferred);
    } else {
        cai_impl_own_destroy(own);
    }
}

/* ---------------------------------------------------------------------------------------------------------- use --- */

/* Arrays that came from no Python object. */
CAI_IMPL void *cai_impl_own_object(cai_array_t *array)
{
    (void)array;
    return NULL;
}

/* The home that memory of no device gets by a stream: the numbers 1 and 2 are the current device's. -1: none. */
CAI_IMPL int32_t cai_impl_own_home_by(const cai_impl_own_array_t *own, cai_stream_t stream)
{
    int32_t device_id;
    return cai_impl_own_device(own) < 0 && cai_impl_is_number(stream) && cai_current_device(&device_id, NULL) == CAI_OK
               ? device_id
               : -1;
}

/* The first one stays. Under the lock. */
CAI_IMPL void cai_impl_own_set_home(cai_impl_own_array_t *own, int32_t home)
{
    if (own->home < 0)
        own->home = home;
}

/* `stream` NULL, which cai_array_used_on never passes: on streams that nobody knows. The per-thread stream means another
 * one on the thread that frees, so that its work is ordered before legacy now instead of being remembered. */
CAI_IMPL cai_status_t cai_impl_own_used_on(cai_array_t *array, cai_stream_t stream)
{
    cai_impl_own_array_t *own = cai_impl_own(array);
    cai_stream_t          mine;
    int32_t               home;
    if (stream == NULL) {
        __atomic_store_n(&own->foreign, true, __ATOMIC_RELEASE);
        return CAI_OK;
    }
    home = cai_impl_own_home_by(own, stream);
    cai_impl_lock(&own->lock);
    cai_impl_own_set_home(own, home);
    if (array->stream == NULL)
        array->stream = stream == CAI_STREAM_PER_THREAD ? CAI_STREAM_LEGACY : stream;
    mine = cai_impl_own_stream(own);
    cai_impl_unlock(&own->lock);
    return cai_order_streams(own->pool, stream, mine, cai_impl_own_device(own), NULL);
}

CAI_API cai_status_t cai_array_set_stream(cai_array_t *array, cai_stream_t stream, void *owner,
                                          void (*deleter)(void *owner))
{
    cai_impl_own_array_t *own = cai_impl_own(array);
    cai_stream_t          before;
    int32_t               home;
    void                 *old_owner;
    void (*old_deleter)(void *owner);
    cai_status_t status;
    if (!cai_impl_is_own(array) || own->keeps_array)
        return CAI_ERROR_OBJECT_OWNERSHIP;
    stream = stream == NULL ? cai_order_wait(NULL).stream : stream;
    home = cai_impl_own_home_by(own, stream);
    before = cai_impl_own_stream(own);
    status = before == NULL ? CAI_OK : cai_order_streams(own->pool, before, stream, cai_impl_own_device(own), NULL);
    if (status != CAI_OK)
        return status;
    cai_impl_lock(&own->lock);
    array->stream = stream;
    cai_impl_own_set_home(own, home);
    own->thread = pthread_self();
    own->ordered_back = own->stream_may_be_gone = false; /* it is not the owner's own any more */
    old_owner = own->stream_owner;
    old_deleter = own->stream_deleter;
    own->stream_owner = owner;
    own->stream_deleter = deleter;
    cai_impl_unlock(&own->lock);
    if (old_deleter != NULL)
        old_deleter(old_owner);
    return CAI_OK;
}

/* ---------------------------------------------------------------------------------------------- making an array --- */

/* An array over nothing yet, with room for its shape and strides. */
CAI_IMPL cai_impl_own_array_t *cai_impl_own_allocate(cai_order_pool_t *pool, int32_t ndim, cai_error_t *error)
{
    const size_t          n = CAI_IMPL_CAST(size_t, ndim);
    cai_impl_own_array_t *own =
        CAI_IMPL_CAST(cai_impl_own_array_t *, malloc(sizeof(cai_impl_own_array_t) + 2 * n * sizeof(int64_t)));
    if (own == NULL) {
        (void)cai_error_set(error, CAI_ERROR_MEMORY, "no memory for an array");
        return NULL;
    }
    memset(own, 0, sizeof(*own));
    own->array.abi = CAI_ARRAY_ABI;
    own->array.size = sizeof(*own);
    own->array.retain = cai_impl_own_retain;
    own->array.release = cai_impl_own_release;
    own->array.used_on = cai_impl_own_used_on;
    own->array.object = cai_impl_own_object;
    own->array.tensor.ndim = ndim;
    own->array.tensor.shape = cai_impl_own_extents(own);
    own->array.tensor.strides = cai_impl_own_extents(own) + n;
    own->references = 1;
    own->home = -1;
    own->pool = cai_order_pool_retain(pool);
    own->thread = pthread_self();
    return own;
}

/* An array that could not be finished; there may be memory already, and work on its stream, which does not capture. */
CAI_IMPL_COLD cai_array_t *cai_impl_own_discard(cai_impl_own_array_t *own)
{
    cai_impl_own_destroy(own);
    return NULL;
}

CAI_IMPL int32_t cai_impl_memory_device_type(cai_memory_t memory)
{
    switch (memory) {
    case CAI_MEMORY_HOST: return CAI_DEVICE_CPU;
    case CAI_MEMORY_PINNED: return CAI_DEVICE_CUDA_HOST;
    case CAI_MEMORY_MANAGED: return CAI_DEVICE_CUDA_MANAGED;
    default: return CAI_DEVICE_CUDA;
    }
}

/* Fill dtype, shape and strides, and check them; `nbytes` is what has to be allocated. */
CAI_IMPL cai_status_t cai_impl_own_lay_out(cai_impl_own_array_t *own, cai_dtype_t dtype, const int64_t *shape,
                                           size_t *nbytes, cai_error_t *error)
{
    cai_tensor_t     *tensor = &own->array.tensor;
    cai_impl_layout_t layout;
    cai_status_t      status;
    tensor->dtype = dtype;
    for (int32_t i = 0; i < tensor->ndim; i++)
        tensor->shape[i] = shape[i];
    cai_c_contiguous_strides(tensor->ndim, tensor->shape, tensor->strides);
    status = cai_impl_header_check(tensor, error);
    if (status == CAI_OK)
        status = cai_impl_layout_find(tensor, &layout, error);
    if (status == CAI_OK)
        *nbytes = CAI_IMPL_CAST(size_t, cai_tensor_nbytes(tensor));
    return status;
}

/* The array's device is current, or it has none. Memory that is allocated on a capturing stream would be the graph's. */
CAI_IMPL cai_status_t cai_impl_own_fill(cai_impl_own_array_t *own, size_t nbytes, cai_memory_t memory,
                                        cai_stream_t stream, cai_error_t *error)
{
    bool         capturing = false;
    cai_status_t status = CAI_OK;
    own->memory = memory;
    if (memory != CAI_MEMORY_HOST)
        own->array.stream = stream == NULL ? cai_order_wait(NULL).stream : stream;
    if (nbytes == 0)
        return CAI_OK;
    if (memory == CAI_MEMORY_DEVICE)
        status = cai_stream_is_capturing(own->array.stream, &capturing, error);
    if (status == CAI_OK && capturing)
        return cai_error_set(
            error, CAI_ERROR_STREAM_CAPTURE,
            "stream %p captures a graph, which would own memory that is allocated on it: allocate before",
            CAI_IMPL_CAST(void *, own->array.stream));
    if (status == CAI_OK)
        status = cai_impl_memory_allocate(&own->base, nbytes, memory, own->array.stream, error);
    own->array.tensor.data = own->base;
    return status;
}

/* Find the device, and make it current; CUDA is not asked where there is only one. */
CAI_IMPL cai_status_t cai_impl_own_enter_device(const cai_impl_own_array_t *own, cai_device_guard_t *guard,
                                                int32_t *device_id, cai_error_t *error)
{
    const int32_t only = cai_impl_pool_only_device(own->pool);
    if (only >= 0 && *device_id < 0)
        *device_id = only;
    if (*device_id < 0)
        return cai_current_device(device_id, error);
    return *device_id == only ? CAI_OK : cai_device_guard_enter(guard, *device_id, error);
}

/* Find the device, make it current, and fill the array there. */
CAI_IMPL cai_status_t cai_impl_own_fill_on(cai_impl_own_array_t *own, size_t nbytes, int32_t device_id,
                                           cai_memory_t memory, cai_stream_t stream, cai_error_t *error)
{
    const int32_t      type = cai_impl_memory_device_type(memory);
    cai_device_guard_t guard = {-1};
    cai_status_t       status = CAI_OK, left;
    if (type != CAI_DEVICE_CPU)
        status = cai_impl_own_enter_device(own, &guard, &device_id, error);
    if (status != CAI_OK)
        return status;
    own->home = type == CAI_DEVICE_CPU ? -1 : device_id;
    own->array.tensor.device =
        cai_impl_device(type, type == CAI_DEVICE_CUDA || type == CAI_DEVICE_CUDA_MANAGED ? device_id : 0);
    status = cai_impl_own_fill(own, nbytes, memory, stream, error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

/* Arguments of cai_array_new that nothing behind it looks at. */
CAI_IMPL cai_status_t cai_impl_own_check(int32_t ndim, const int64_t *shape, cai_memory_t memory, cai_error_t *error)
{
    if (ndim < 0 || ndim > CAI_MAX_NDIM)
        return cai_error_set(error, CAI_ERROR_INVALID_SHAPE, "the number of dimensions must be 0 to %d: it is %d",
                             CAI_MAX_NDIM, ndim);
    if (shape == NULL && ndim > 0)
        return cai_error_set(error, CAI_ERROR_INCOMPLETE_INTERFACE, "%d dimensions without a shape", ndim);
    if (memory < CAI_MEMORY_DEVICE || memory > CAI_MEMORY_HOST)
        return cai_error_set(error, CAI_ERROR_DEVICE_MISMATCH, "there is no kind of memory %d",
                             CAI_IMPL_CAST(int, memory));
    return CAI_OK;
}

CAI_API cai_array_t *cai_array_new(cai_order_pool_t *pool, cai_dtype_t dtype, int32_t ndim, const int64_t *shape,
                                   int32_t device_id, cai_memory_t memory, cai_stream_t stream, cai_error_t *error)
{
    cai_impl_own_array_t *own;
    size_t                nbytes = 0;
    if (cai_impl_own_check(ndim, shape, memory, error) != CAI_OK)
        return NULL;
    cai_impl_pool_sweep(pool);
    own = cai_impl_own_allocate(pool, ndim, error);
    if (own == NULL)
        return NULL;
    if (cai_impl_own_lay_out(own, dtype, shape, &nbytes, error) != CAI_OK ||
        cai_impl_own_fill_on(own, nbytes, device_id, memory, stream, error) != CAI_OK)
        return cai_impl_own_discard(own);
    return &own->array;
}

/* The array over a tensor that was validated. NULL with MEMORY. */
CAI_IMPL cai_array_t *cai_impl_own_wrap(cai_order_pool_t *pool, const cai_tensor_t *tensor, uint64_t flags, void *owner,
                                        void (*deleter)(void *owner), cai_error_t *error)
{
    cai_impl_own_array_t *own = cai_impl_own_allocate(pool, tensor->ndim, error);
    if (own == NULL)
        return NULL;
    own->array.tensor.data = cai_tensor_data(tensor);
    own->array.tensor.device = tensor->device;
    own->array.tensor.dtype = tensor->dtype;
    own->array.flags = flags & (CAI_READONLY | CAI_SUBBYTE_PADDED | CAI_FREE_IN_ORDER);
    for (int32_t i = 0; i < tensor->ndim; i++)
        own->array.tensor.shape[i] = tensor->shape[i];
    if (tensor->strides == NULL)
        cai_c_contiguous_strides(tensor->ndim, tensor->shape, own->array.tensor.strides);
    for (int32_t i = 0; tensor->strides != NULL && i < tensor->ndim; i++)
        own->array.tensor.strides[i] = tensor->strides[i];
    own->owner = owner;
    own->deleter = deleter;
    return &own->array;
}

CAI_API cai_array_t *cai_array_wrap(cai_order_pool_t *pool, const cai_tensor_t *tensor, uint64_t flags, void *owner,
                                    void (*deleter)(void *owner), cai_error_t *error)
{
    cai_array_t *array;
    if (cai_tensor_validate(tensor, error) != CAI_OK)
        return NULL;
    if (owner != NULL && deleter == NULL) {
        (void)cai_error_set(error, CAI_ERROR_MISSING_DELETER, "an owner was handed over without a deleter");
        return NULL;
    }
    if (cai_device_memory(tensor->device.device_type) == 0) {
        (void)cai_error_set(error, CAI_ERROR_DEVICE_MISMATCH,
                            "expected host, pinned, managed or CUDA memory; got device type %d",
                            tensor->device.device_type);
        return NULL;
    }
    array = cai_impl_own_wrap(pool, tensor, flags, owner, deleter, error);
    if (array != NULL && cai_tensor_size(tensor) == 0)
        array->tensor.data = NULL;
    return array;
}

/* ------------------------------------------------------------------------------------------------------- copying --- */

/* Enqueue a copy between any two kinds of memory; both devices' memory is reached by its address. */
CAI_IMPL cai_status_t cai_impl_memory_copy(void *to, const void *from, size_t nbytes, cai_stream_t stream,
                                           cai_error_t *error)
{
#if !defined(CAI_NO_CUDA)
    if (stream != NULL)
        return cai_cuda_status(CAI_CUDA(cudaMemcpyAsync)(to, from, nbytes, cudaMemcpyDefault, stream),
                               "cudaMemcpyAsync", error);
#endif
    (void)stream;
    (void)error;
    memcpy(to, from, nbytes);
    return CAI_OK;
}

/* Copy everything between the lowest and the highest element into an array that has the same shape and strides; the
 * device of the source, if it has one, is current. */
CAI_IMPL_COLD cai_status_t cai_impl_own_copy_values(cai_impl_own_array_t *own, const cai_tensor_t *from,
                                                    cai_memory_t memory, cai_stream_t stream, cai_error_t *error)
{
    int64_t      low, high;
    cai_status_t status;
    cai_impl_bounds_by_flags(from, own->array.flags, &low, &high);
    status = cai_impl_own_fill_on(own, CAI_IMPL_CAST(size_t, high - low), -1, memory, stream, error);
    if (status != CAI_OK || high == low)
        return status;
    own->array.tensor.data = CAI_IMPL_CAST(char *, own->base) - low;
    return cai_impl_memory_copy(own->base, CAI_IMPL_CAST(const char *, from->data) + low,
                                CAI_IMPL_CAST(size_t, high - low), stream, error);
}

/* A new array with the values of another one, in its shape and strides, by one copy of everything between its lowest and
 * its highest element, since cai has no kernels. On `stream`, of the source's device, behind which the source's work has
 * been ordered; NULL for host memory from host memory. */
CAI_IMPL_COLD cai_array_t *cai_impl_array_copy(cai_order_pool_t *pool, const cai_array_t *source, cai_memory_t memory,
                                               cai_stream_t stream, cai_error_t *error)
{
    const cai_tensor_t   *from = &source->tensor;
    const size_t          extents = CAI_IMPL_CAST(size_t, from->ndim) * sizeof(int64_t);
    cai_impl_own_array_t *own = cai_impl_own_allocate(pool, from->ndim, error);
    cai_device_guard_t    guard = {-1};
    cai_status_t          status = CAI_OK;
    if (own == NULL)
        return NULL;
    own->array.tensor.dtype = from->dtype;
    own->array.flags = (source->flags & CAI_SUBBYTE_PADDED) | CAI_COPIED;
    memcpy(own->array.tensor.shape, from->shape, extents);
    memcpy(own->array.tensor.strides, from->strides, extents);
    if (stream != NULL && cai_impl_array_device(source) >= 0)
        status = cai_device_guard_enter(&guard, cai_impl_array_device(source), error);
    if (status == CAI_OK)
        status = cai_impl_own_copy_values(own, from, memory, stream, error);
    (void)cai_device_guard_leave(&guard, NULL);
    if (status == CAI_OK)
        return &own->array;
    return cai_impl_own_discard(own);
}

#endif /* CAI_ARRAY_H */
