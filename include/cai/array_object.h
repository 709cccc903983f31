/**
 * cai/array_object.h - arrays that C keeps beyond a call: from Python objects, and as Python objects.
 *
 *   cai_array_t *kept = cai_array_from_object(state, object, &want, cai_order_adopt());
 *   …
 *   PyObject *same = cai_array_to_object(state, kept);                        the very object, a new reference
 *   cai_array_release(kept);                                                  on any thread, with or without the GIL
 */
#ifndef CAI_ARRAY_OBJECT_H
#define CAI_ARRAY_OBJECT_H

#include <cai/object.h>

/**
 * Take `object`'s array to keep it beyond the call: as cai_view_acquire, but what is returned holds the object, and what its
 * protocol handed out, until it is released, which may happen on any thread. What the author enqueues on it meanwhile he
 * tells by cai_array_used_on; the array goes back behind that. A new reference, or NULL with an exception.
 */
CAI_API CAI_NODISCARD cai_array_t *cai_array_from_object(cai_state_t *state, PyObject *object,
                                                         const cai_request_t *request, cai_order_t order);

/**
 * The array as a Python object: a new reference to the very object it came from, if it came from one of this interpreter's,
 * else a new Array that holds a reference to it. NULL with an exception. The caller keeps his own reference to `array`.
 */
CAI_API PyObject *cai_array_to_object(cai_state_t *state, cai_array_t *array);

/**
 * The array as an object of the library that `like` belongs to, without a copy: by that library's from_dlpack. What came
 * from an object of the same type goes back as that object. NULL with an exception: InterfaceNotImplementedError where the
 * library has no from_dlpack, or the library's own.
 */
CAI_API PyObject *cai_array_to_object_like(cai_state_t *state, cai_array_t *array, PyObject *like);

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

CAI_IMPL void cai_impl_keeper_give_back(cai_impl_return_t *item)
{
    cai_impl_keeper_t *keeper = CAI_IMPL_BITS(cai_impl_keeper_t *, item);
    cai_impl_queue_t  *queue = keeper->queue;
    cai_impl_view_close(&keeper->view);
    free(keeper);
    cai_impl_queue_release(queue);
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
    return keeper->queue->interpreter == PyInterpreterState_Get() && !PyCapsule_CheckExact(object) ? object : NULL;
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
    cai_impl_keeper_t *keeper = CAI_IMPL_CAST(cai_impl_keeper_t *, malloc(sizeof(cai_impl_keeper_t)));
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
    own->ordered_back = own->ordered_back || (record->source == CAI_IMPL_SOURCE_STREAM && !record->pinned);
    own->deletes_anywhere = !record->pinned;
}

/* The array of a view that was acquired; the array takes the keeper over. NULL with an exception. */
CAI_IMPL cai_array_t *cai_impl_keeper_array(cai_state_t *state, cai_impl_keeper_t *keeper)
{
    const cai_view_t *view = &keeper->view;
    cai_error_t       error;
    cai_array_t      *array = cai_array_wrap(state->impl_pool, &view->tensor,
                                             view->flags & (CAI_READONLY | CAI_SUBBYTE_PADDED), keeper,
                                             cai_impl_keeper_delete, &error);
    if (array == NULL) {
        (void)cai_raise(state, &error);
        return NULL;
    }
    array->object = cai_impl_keeper_object;
    if (view->protocol == CAI_VIA_ARRAY)
        array->used_on = cai_impl_keeper_used_on;
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
    if (array != NULL)
        return array;
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

/* The package that an object's type comes from, if somebody has imported it; NULL with or without an exception. */
CAI_IMPL_COLD PyObject *cai_impl_package_of(cai_state_t *state, PyObject *like)
{
    PyObject *type = CAI_IMPL_BITS(PyObject *, Py_TYPE(like)), *library = NULL;
    PyObject *path = PyObject_GetAttr(type, cai_impl_name(state, CAI_IMPL_NAME_MODULE));
    PyObject *parts = path == NULL ? NULL : PyObject_CallMethod(path, "partition", "s", ".");
    if (parts != NULL)
        library = PyImport_GetModule(PyTuple_GetItem(parts, 0));
    Py_XDECREF(path);
    Py_XDECREF(parts);
    return library;
}

/* Where the from_dlpack of an object's library is: the namespace of the array API standard, or its package. */
CAI_IMPL_COLD PyObject *cai_impl_library_of(cai_state_t *state, PyObject *like)
{
    PyObject *method, *library;
    const int found = cai_impl_get_attribute(like, cai_impl_name(state, CAI_IMPL_NAME_ARRAY_NAMESPACE), &method);
    if (found == 0)
        return cai_impl_package_of(state, like);
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

CAI_API PyObject *cai_array_to_object_like(cai_state_t *state, cai_array_t *array, PyObject *like)
{
    PyObject *object = cai_array_to_object(state, array), *library, *from_dlpack = NULL, *result = NULL;
    if (object == NULL || Py_TYPE(object) == Py_TYPE(like))
        return object;
    library = cai_impl_library_of(state, like);
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

#endif /* CAI_ARRAY_OBJECT_H */
