/**
 * cai/array_object.h - arrays that C keeps beyond a call: from Python objects, and as Python objects.
 *
 *   cai_array_t *kept = cai_array_from_object(state, object, &want, cai_order_adopt());
 *   …
 *   PyObject *same = cai_array_to_object(state, kept);                        the very object, a new reference
 *   cai_array_release(kept);                                                  on any thread, with or without the GIL
 *
 *   cai_array_t *made = cai_array_new_like(state, like, cai_float32(), 1, shape);          memory of the library of `like`
 *   … fill it on made->stream, with its device current …
 *   PyObject *theirs = cai_array_to_object(state, made);                                   a tensor of torch's, for torch's
 *   cai_array_release(made);
 */
#ifndef CAI_ARRAY_OBJECT_H
#define CAI_ARRAY_OBJECT_H

#include <cai/object.h>

/**
 * Take `object`'s array to keep it beyond the call: as cai_view_acquire, but what is returned holds the object, and what its
 * protocol handed out, until it is released, which may happen on any thread. What the author enqueues on it meanwhile he
 * tells by cai_array_used_on; the array goes back behind that. A stream that the order names has to live as long as the
 * array, which waits for it where the producer tells none. A new reference, or NULL with an exception.
 */
CAI_API CAI_NODISCARD cai_array_t *cai_array_from_object(cai_state_t *state, PyObject *object,
                                                         const cai_request_t *request, cai_order_t order);

/**
 * The array as a Python object: a new reference to the very object it came from, if it came from one of this interpreter's,
 * else a new Array that holds a reference to it. NULL with an exception. The caller keeps his own reference to `array`.
 */
CAI_API PyObject *cai_array_to_object(cai_state_t *state, cai_array_t *array);

/**
 * The array as an object of the library that `like` belongs to, without a copy: torch in, torch out. What came from an
 * object of the same type goes back as that object. Else by the exchange table of that type, which puts the array's work
 * before what the library does next on its current stream; for subclasses such as torch's Parameter that makes the table's
 * own type, a Tensor. Else by the library's from_dlpack: where there is no table, and for what a table need not take
 * (read-only, pinned and managed memory, unusual dtypes, negative strides). torch knows no read-only tensors, and makes a
 * writable one of a read-only array.
 *
 * NULL with an exception: InterfaceNotImplementedError where the library has neither, StreamCaptureError where the order
 * would break a capture, or the library's own; after a failure inside the table the array may never be freed, because
 * nobody says who frees the tensor.
 */
CAI_API PyObject *cai_array_to_object_like(cai_state_t *state, cai_array_t *array, PyObject *like);

/**
 * A new C-contiguous array without defined contents, where `like` lies, in memory of the library that `like` belongs to: by
 * the allocator in the exchange table of its type (torch's caching allocator). cai_array_to_object gives an object of that
 * library, and always the same one. Its stream is the one that the library works on now; under a capture of that stream the
 * library knows what to do.
 *
 * For types without such a table, memory of cai's own as cai_array_new makes it, on the device and the stream of `like`,
 * which is kept alive where its stream is a handle; cai_array_to_object_like gives it to the library. The device that is
 * current stays so, whatever device `like` is on.
 *
 * A reference that the caller releases, or NULL with an exception: those of cai_array_new, those of cai_view_acquire for
 * `like`, or the library's own. Needs an attached thread state (the GIL).
 */
CAI_API CAI_NODISCARD cai_array_t *cai_array_new_like(cai_state_t *state, PyObject *like, cai_dtype_t dtype,
                                                      int32_t ndim, const int64_t *shape);

/**
 * An array over memory that a Python object keeps: as cai_array_wrap, with a new reference to `owner` as the owner, given up
 * on whatever thread, and seen by Python's garbage collector. NULL with an exception.
 */
CAI_API CAI_NODISCARD cai_array_t *cai_array_wrap_object(cai_state_t *state, const cai_tensor_t *tensor, uint64_t flags,
                                                         PyObject *owner);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* ------------------------------------------------------------------------------------------------- arrays to keep -- */

/* A view that is kept beyond its call, given up on any thread. */
typedef struct cai_impl_keeper {
    cai_impl_return_t item;
    cai_impl_queue_t *queue;
    cai_view_t        view;
} cai_impl_keeper_t;

/* A keeper is larger than the blocks that malloc has at hand: one stays with the queue for the next array. */
CAI_IMPL cai_impl_keeper_t *cai_impl_keeper_allocate(cai_impl_queue_t *queue)
{
    void *spare = __atomic_exchange_n(&queue->spare, NULL, __ATOMIC_ACQUIRE);
    return CAI_IMPL_CAST(cai_impl_keeper_t *,
                         CAI_IMPL_LIKELY(spare != NULL) ? spare : malloc(sizeof(cai_impl_keeper_t)));
}

CAI_IMPL void cai_impl_keeper_free(cai_impl_keeper_t *keeper)
{
    cai_impl_queue_t *queue = keeper->queue;
    void             *spare = NULL;
    if (CAI_IMPL_UNLIKELY(!__atomic_compare_exchange_n(&queue->spare, &spare, CAI_IMPL_CAST(void *, keeper), false,
                                                       __ATOMIC_RELEASE, __ATOMIC_RELAXED)))
        free(keeper);
    cai_impl_queue_release(queue);
}

CAI_IMPL void cai_impl_keeper_give_back(cai_impl_return_t *item)
{
    cai_impl_keeper_t *keeper = CAI_IMPL_BITS(cai_impl_keeper_t *, item);
    cai_impl_view_close(&keeper->view);
    cai_impl_keeper_free(keeper);
}

/* The deleter of an array that was made of a view. */
CAI_IMPL void cai_impl_keeper_delete(void *owner)
{
    cai_impl_keeper_t *keeper = CAI_IMPL_CAST(cai_impl_keeper_t *, owner);
    cai_impl_queue_give_up(keeper->queue, &keeper->item);
}

CAI_IMPL cai_impl_keeper_t *cai_impl_keeper_of(cai_array_t *array)
{
    return CAI_IMPL_CAST(cai_impl_keeper_t *, cai_impl_own(array)->owner);
}

/* cai_array_t.object of such an array. Objects of another interpreter must not be touched in this one, and a capsule that
 * was consumed is no array. */
CAI_IMPL void *cai_impl_keeper_object(cai_array_t *array)
{
    const cai_impl_keeper_t *keeper = cai_impl_keeper_of(array);
    PyObject                *object = CAI_IMPL_CAST(PyObject *, keeper->view.impl_object);
    return cai_impl_queue_is_of(keeper->queue, PyInterpreterState_Get()) && !PyCapsule_CheckExact(object) ? object
                                                                                                          : NULL;
}

/* cai_array_t.used_on where the object's own array is kept: that one has to know. Its per-thread stream may be another
 * thread's than that of the array that keeps it; legacy waits for either. */
CAI_IMPL cai_status_t cai_impl_keeper_used_on(cai_array_t *array, cai_stream_t stream)
{
    cai_array_t       *kept = CAI_IMPL_CAST(cai_array_t *, cai_impl_keeper_of(array)->view.impl_managed);
    const cai_status_t status = kept->used_on(kept, stream);
    array->stream = kept->stream == CAI_STREAM_PER_THREAD ? CAI_STREAM_LEGACY : kept->stream;
    return status;
}

CAI_IMPL cai_impl_keeper_t *cai_impl_keeper_new(const cai_state_t *state)
{
    cai_impl_keeper_t *keeper = cai_impl_keeper_allocate(state->impl_queue);
    if (keeper == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    keeper->item.next = NULL;
    keeper->item.give_back = cai_impl_keeper_give_back;
    keeper->queue = cai_impl_queue_retain(state->impl_queue);
    cai_impl_view_reset(&keeper->view);
    return keeper;
}

/* What is ordered on the producer's own stream comes before whatever the producer does next, so that nobody has to wait,
 * and an array of cai's is told of every use; a producer that told no stream gets its memory back when the work is done. */
CAI_IMPL void cai_impl_keeper_order(cai_impl_own_array_t *own, const cai_impl_keeper_t *keeper)
{
    const cai_impl_order_record_t *record = &keeper->view.impl_order;
    const int32_t                  type = keeper->view.tensor.device.device_type;
    own->ordered_back = keeper->view.protocol == CAI_VIA_ARRAY;
    own->home = record->pinned ? record->device_id : -1;
    if (type == CAI_DEVICE_CPU || record->source == CAI_IMPL_SOURCE_READY)
        return;
    own->array.stream = record->source == CAI_IMPL_SOURCE_ORDERED ? record->consumer : record->producer;
    own->stream_may_be_gone = record->source == CAI_IMPL_SOURCE_STREAM;
    own->ordered_back = own->ordered_back || (record->source == CAI_IMPL_SOURCE_STREAM && !record->pinned);
    own->deletes_anywhere = !record->pinned;
}

/* The array of a view that was acquired; the array takes the keeper over. NULL with an exception. */
CAI_IMPL cai_array_t *cai_impl_keeper_array(cai_state_t *state, cai_impl_keeper_t *keeper)
{
    const cai_view_t *view = &keeper->view;
    cai_error_t       error;
    cai_array_t      *array = cai_impl_own_wrap(state->impl_pool, &view->tensor,
                                                view->flags & (CAI_READONLY | CAI_SUBBYTE_PADDED), keeper,
                                                cai_impl_keeper_delete, &error);
    if (array == NULL) {
        (void)cai_raise(state, &error);
        return NULL;
    }
    array->object = cai_impl_keeper_object;
    cai_impl_own(array)->deletes_attached = true;
    if (view->protocol == CAI_VIA_ARRAY) {
        array->used_on = cai_impl_keeper_used_on;
        cai_impl_own(array)->keeps_array = true;
    }
    cai_impl_keeper_order(cai_impl_own(array), keeper);
    return array;
}

/* The array of a view: that of a "cai_array_v1" capsule itself, which is not to be kept, or one that keeps the object. */
CAI_IMPL cai_array_t *cai_impl_keeper_finish(cai_state_t *state, cai_impl_keeper_t *keeper)
{
    cai_array_t *array;
    if (keeper->view.protocol != CAI_VIA_ARRAY ||
        !PyCapsule_CheckExact(CAI_IMPL_CAST(PyObject *, keeper->view.impl_object)))
        return cai_impl_keeper_array(state, keeper);
    array = cai_array_retain(CAI_IMPL_CAST(cai_array_t *, keeper->view.impl_managed));
    cai_impl_keeper_give_back(&keeper->item);
    return array;
}

CAI_API cai_array_t *cai_array_from_object(cai_state_t *state, PyObject *object, const cai_request_t *request,
                                           cai_order_t order)
{
    cai_impl_keeper_t *keeper = cai_impl_keeper_new(state);
    cai_array_t       *array = NULL;
    if (keeper == NULL)
        return NULL;
    if (cai_view_acquire(state, object, request, order, &keeper->view) == 0)
        array = cai_impl_keeper_finish(state, keeper);
    if (array == NULL)
        cai_impl_keeper_give_back(&keeper->item);
    return array;
}

CAI_API cai_array_t *cai_array_wrap_object(cai_state_t *state, const cai_tensor_t *tensor, uint64_t flags,
                                           PyObject *owner)
{
    cai_impl_kept_t *kept = cai_impl_kept_new(state->impl_queue, owner);
    cai_error_t      error;
    cai_array_t     *array;
    if (kept == NULL)
        return NULL;
    array = cai_array_wrap(state->impl_pool, tensor, flags, kept, cai_impl_kept_delete, &error);
    if (array != NULL) {
        cai_impl_own(array)->keeps_object = cai_impl_own(array)->deletes_attached = true;
        return array;
    }
    cai_impl_kept_delete(kept);
    (void)cai_raise(state, &error);
    return NULL;
}

/* ----------------------------------------------------------------------------------------------------- arrays out -- */

CAI_API PyObject *cai_array_to_object(cai_state_t *state, cai_array_t *array)
{
    PyObject *object = CAI_IMPL_CAST(PyObject *, array->object(array));
    cai_impl_queue_check(state->impl_queue);
    return object != NULL ? Py_NewRef(object) : cai_impl_array_object_new(state, array);
}

/* The package that a class comes from, if somebody has imported it; NULL with or without an exception. */
CAI_IMPL_COLD PyObject *cai_impl_package_of(cai_state_t *state, PyObject *type)
{
    PyObject *path = PyObject_GetAttr(type, cai_impl_name(state, CAI_IMPL_NAME_MODULE)), *library = NULL;
    PyObject *parts = path == NULL ? NULL : PyObject_CallMethod(path, "partition", "s", ".");
    if (parts != NULL)
        library = PyImport_GetModule(PyTuple_GetItem(parts, 0));
    Py_XDECREF(path);
    Py_XDECREF(parts);
    return library;
}

/* Of the classes that an object is of, its own first, the package of the first that has from_dlpack: a user's subclass is of
 * his base's library. NULL with or without an exception. */
CAI_IMPL_COLD PyObject *cai_impl_package_with_from_dlpack(cai_state_t *state, PyObject *like)
{
    PyObject        *classes = PyObject_GetAttrString(CAI_IMPL_BITS(PyObject *, Py_TYPE(like)), "__mro__");
    const Py_ssize_t n = classes == NULL ? 0 : PyTuple_Size(classes);
    PyObject        *library = NULL, *from_dlpack = NULL;
    for (Py_ssize_t i = 0; i < n && from_dlpack == NULL && PyErr_Occurred() == NULL; i++) {
        Py_XDECREF(library);
        library = cai_impl_package_of(state, PyTuple_GetItem(classes, i));
        if (library != NULL)
            (void)cai_impl_get_attribute(library, cai_impl_name(state, CAI_IMPL_NAME_FROM_DLPACK), &from_dlpack);
    }
    if (from_dlpack == NULL)
        Py_CLEAR(library);
    Py_XDECREF(from_dlpack);
    Py_XDECREF(classes);
    return library;
}

/* Where the from_dlpack of an object's library is: the namespace of the array API standard, or its package. NumPy's own
 * arrays are not asked: their answer, an import, takes longer than making an array. */
CAI_IMPL_COLD PyObject *cai_impl_library_of(cai_state_t *state, PyObject *like, uint32_t facts)
{
    PyObject *method, *library;
    int       found;
    if ((facts & CAI_IMPL_TYPE_NUMPY) != 0) {
        library = PyImport_GetModule(cai_impl_name(state, CAI_IMPL_NAME_NUMPY));
        if (library != NULL || PyErr_Occurred() != NULL)
            return library;
    }
    found = cai_impl_get_attribute(like, cai_impl_name(state, CAI_IMPL_NAME_ARRAY_NAMESPACE), &method);
    if (found == 0)
        return cai_impl_package_with_from_dlpack(state, like);
    library = found < 0 ? NULL : PyObject_CallNoArgs(method);
    Py_XDECREF(method);
    return library;
}

/* No library to make an array of: what was raised, if anything, is the cause. */
CAI_IMPL_COLD PyObject *cai_impl_like_refused(cai_state_t *state, PyObject *like)
{
    PyObject   *pending = cai_impl_take_exception();
    cai_error_t error;
    char        type[192];
    cai_impl_type_words(state, like, type, sizeof(type));
    cai_impl_set_exception(pending);
    if (pending != NULL && cai_impl_exception_is_final())
        return NULL;
    (void)cai_error_set(&error, CAI_ERROR_INTERFACE_NOT_IMPLEMENTED,
                        "expected an object of a library with from_dlpack, to make an array of that library; got %s",
                        type);
    (void)cai_raise(state, &error);
    return NULL;
}

/* By from_dlpack, of the very object that the array came from, or of an Array. */
CAI_IMPL_COLD PyObject *cai_impl_like_from_dlpack(cai_state_t *state, cai_array_t *array, PyObject *like,
                                                  uint32_t facts)
{
    PyObject *object = cai_array_to_object(state, array), *library, *from_dlpack = NULL, *result = NULL;
    if (object == NULL)
        return NULL;
    library = cai_impl_library_of(state, like, facts);
    if (library != NULL)
        from_dlpack = PyObject_GetAttr(library, cai_impl_name(state, CAI_IMPL_NAME_FROM_DLPACK));
    if (from_dlpack == NULL)
        (void)cai_impl_like_refused(state, like);
    else
        result = PyObject_CallFunctionObjArgs(from_dlpack, object, NULL);
    Py_XDECREF(from_dlpack);
    Py_XDECREF(library);
    Py_DECREF(object);
    return result;
}

/* What is known of the type of `like`; one that cannot be inspected has no table. Remembered if that says by itself which
 * protocol serves the type. 0, or -1 with an exception. */
CAI_IMPL int cai_impl_like_inspect(cai_state_t *state, PyObject *like, cai_impl_type_t *known)
{
    const cai_impl_type_t *entry = cai_impl_type_find(state, Py_TYPE(like));
    if (CAI_IMPL_LIKELY(entry != NULL)) {
        known->type = entry->type;
        known->exchange = entry->exchange;
        known->facts = cai_impl_type_facts(entry);
        known->hint = cai_impl_type_hint(entry);
        return 0;
    }
    if (cai_impl_type_inspect(state, like, known) == 0) {
        known->hint = known->exchange != NULL ? CAI_VIA_EXCHANGE : CAI_VIA_BUFFER;
        if (known->exchange != NULL || (known->facts & CAI_IMPL_TYPE_NUMPY) != 0)
            cai_impl_type_publish(state, known);
        return 0;
    }
    if (cai_impl_exception_is_final())
        return -1;
    PyErr_Clear();
    known->facts = 0;
    known->exchange = NULL;
    return 0;
}

CAI_API PyObject *cai_array_to_object_like(cai_state_t *state, cai_array_t *array, PyObject *like)
{
    PyObject       *object = CAI_IMPL_CAST(PyObject *, array->object(array)); /* borrowed */
    cai_impl_type_t known;
    if (object != NULL && Py_TYPE(object) == Py_TYPE(like))
        return cai_array_to_object(state, array);
    cai_impl_queue_check(state->impl_queue);
    if (CAI_IMPL_BITS(PyObject *, Py_TYPE(like)) == state->impl_array_type)
        return cai_impl_array_object_new(state, array);
    if (cai_impl_like_inspect(state, like, &known) < 0)
        return NULL;
    if (known.exchange == NULL || !cai_impl_exchange_suits(known.exchange, array))
        return cai_impl_like_from_dlpack(state, array, like, known.facts);
    return cai_impl_exchange_hand_over(state, known.exchange, array);
}

/* ------------------------------------------------------------------------------------------ new arrays like others -- */

/* What is wished of a new array: one of that form without memory, which the caller releases. NULL with an exception. */
CAI_IMPL cai_array_t *cai_impl_wish_new(cai_state_t *state, cai_device_t device, cai_dtype_t dtype, int32_t ndim,
                                        const int64_t *shape)
{
    cai_impl_own_array_t *own = NULL;
    size_t                nbytes = 0;
    cai_error_t           error;
    if (cai_impl_own_check(ndim, shape, CAI_MEMORY_HOST, &error) == CAI_OK)
        own = cai_impl_own_allocate(state->impl_pool, ndim, &error);
    if (own != NULL) {
        own->array.tensor.device = device;
        if (cai_impl_own_lay_out(own, dtype, shape, &nbytes, &error) == CAI_OK)
            return &own->array;
        (void)cai_impl_own_discard(own);
    }
    (void)cai_raise(state, &error);
    return NULL;
}

/* Whether a library gave what was asked of it; that it is C-contiguous and writable was seen before. */
CAI_IMPL bool cai_impl_wish_is_met(const cai_tensor_t *wish, const cai_tensor_t *tensor)
{
    bool met = cai_dtype_equal(wish->dtype, tensor->dtype) && wish->ndim == tensor->ndim &&
               wish->device.device_type == tensor->device.device_type &&
               wish->device.device_id == tensor->device.device_id;
    for (int32_t i = 0; met && i < wish->ndim; i++)
        met = wish->shape[i] == tensor->shape[i];
    return met;
}

/* The array of a library's new object, which it keeps; NULL with an exception. */
CAI_IMPL cai_array_t *cai_impl_new_like_keep(cai_state_t *state, PyObject *object, const cai_tensor_t *wish)
{
    cai_request_t request = cai_request(NULL);
    cai_array_t  *array;
    cai_error_t   error;
    request.memory = CAI_ANYWHERE;
    request.require = CAI_WRITABLE | CAI_C_CONTIGUOUS | CAI_UNUSUAL_DTYPE_OK;
    array = cai_array_from_object(state, object, &request, cai_order_adopt());
    if (array == NULL || CAI_IMPL_LIKELY(cai_impl_wish_is_met(wish, &array->tensor)))
        return array;
    cai_array_release(array);
    (void)cai_error_set(&error, CAI_ERROR_INCOMPLETE_INTERFACE,
                        "expected an array as it was asked for; got one of another dtype, shape or device from the "
                        "allocator of an exchange table");
    (void)cai_raise(state, &error);
    return NULL;
}

CAI_IMPL cai_array_t *cai_impl_new_like_by_table(cai_state_t *state, const cai_dlpack_exchange_t *exchange,
                                                 PyObject *like, cai_array_t *wish)
{
    PyObject    *object = cai_impl_exchange_new(state, exchange, like, &wish->tensor);
    cai_array_t *array = object == NULL ? NULL : cai_impl_new_like_keep(state, object, &wish->tensor);
    Py_XDECREF(object);
    return array;
}

/* Keep `like` as long as the array, if its stream is a handle of its library's. Where that fails the array is released. */
CAI_IMPL cai_array_t *cai_impl_new_like_keep_stream(cai_state_t *state, PyObject *like, cai_array_t *array)
{
    const cai_stream_t stream = array->stream;
    cai_impl_kept_t   *kept;
    if (stream == NULL || stream == CAI_STREAM_LEGACY || stream == CAI_STREAM_PER_THREAD)
        return array;
    kept = cai_impl_kept_new(state->impl_queue, like);
    if (kept == NULL) {
        cai_array_release(array);
        return NULL;
    }
    (void)cai_array_set_stream(array, stream, kept, cai_impl_kept_delete); /* its own stream: nothing can go wrong */
    return array;
}

/* Memory of cai's own beside that of `like`, of the same kind, on the same stream. */
CAI_IMPL cai_array_t *cai_impl_new_like_by_view(cai_state_t *state, PyObject *like, const cai_view_t *view,
                                                cai_dtype_t dtype, int32_t ndim, const int64_t *shape)
{
    const cai_device_t device = view->tensor.device;
    cai_memory_t       memory = CAI_MEMORY_HOST;
    cai_array_t       *array = NULL;
    cai_error_t        error;
    if (cai_impl_exchange_memory(device.device_type, &memory))
        array = cai_array_new(state->impl_pool, dtype, ndim, shape,
                              device.device_type == CAI_DEVICE_CUDA_HOST ? -1 : device.device_id, memory, view->stream,
                              &error);
    else
        (void)cai_error_set(&error, CAI_ERROR_DEVICE_MISMATCH, "cai cannot allocate memory of device type %d",
                            device.device_type);
    if (array != NULL)
        return cai_impl_new_like_keep_stream(state, like, array);
    (void)cai_raise(state, &error);
    return NULL;
}

CAI_IMPL cai_array_t *cai_impl_new_like_beside(cai_state_t *state, PyObject *like, cai_dtype_t dtype, int32_t ndim,
                                               const int64_t *shape)
{
    cai_request_t request = cai_request("like");
    cai_view_t    view;
    cai_array_t  *array;
    request.memory = CAI_ANYWHERE;
    request.require = CAI_UNUSUAL_DTYPE_OK | CAI_UNALIGNED_OK | CAI_MASK_OK | CAI_IMPL_STREAM_WANTED;
    if (cai_view_acquire(state, like, &request, cai_order_none(), &view) < 0)
        return NULL;
    array = cai_impl_new_like_by_view(state, like, &view, dtype, ndim, shape);
    (void)cai_view_release(&view);
    return array;
}

/* Whether the type's library makes memory by its table; cai's own types would make it of cai's, and lose the stream. */
CAI_IMPL bool cai_impl_new_like_has_table(const cai_impl_type_t *known)
{
    const cai_dlpack_exchange_t *exchange = known->exchange;
    return exchange != NULL && (known->facts & CAI_IMPL_TYPE_ARRAY) == 0 &&
           exchange->managed_tensor_allocator != NULL && exchange->managed_tensor_to_py_object_no_sync != NULL &&
           (exchange->dltensor_from_py_object_no_sync != NULL ||
            exchange->managed_tensor_from_py_object_no_sync != NULL);
}

CAI_API cai_array_t *cai_array_new_like(cai_state_t *state, PyObject *like, cai_dtype_t dtype, int32_t ndim,
                                        const int64_t *shape)
{
    cai_impl_type_t known;
    cai_device_t    device = cai_impl_device(CAI_DEVICE_CPU, 0);
    cai_array_t    *wish, *array;
    cai_impl_queue_check(state->impl_queue);
    if (cai_impl_like_inspect(state, like, &known) < 0)
        return NULL;
    if (!cai_impl_new_like_has_table(&known))
        return cai_impl_new_like_beside(state, like, dtype, ndim, shape);
    if (cai_impl_exchange_device(known.exchange, like, &device) < 0)
        return NULL;
    if (device.device_type != CAI_DEVICE_CPU && device.device_type != CAI_DEVICE_CUDA)
        return cai_impl_new_like_beside(state, like, dtype, ndim, shape);
    wish = cai_impl_wish_new(state, device, dtype, ndim, shape);
    array = wish == NULL ? NULL : cai_impl_new_like_by_table(state, known.exchange, like, wish);
    cai_array_release(wish);
    return array;
}

#endif /* CAI_ARRAY_OBJECT_H */
