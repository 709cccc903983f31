/**
 * cai/exchange.h - arrays by DLPack's C exchange API, a table of functions that a producer's type carries: in, and
 * out.
 *
 * On the way in, the table is looked up on the type, never on the instance, and only under its name of DLPack 1.3.
 * torch's table is asked to lend its tensor, which costs least; every other table is asked for an owned one, because
 * only that says whether the memory may be written. A lent tensor is valid until control goes back to Python, so
 * shape and strides are copied at once, and the view's reference keeps the object alive.
 *
 * Private to cai; object.h is the way in. Specification: DLPack 1.3, DLPackExchangeAPI.
 */
#ifndef CAI_EXCHANGE_H
#define CAI_EXCHANGE_H

#include <cai/managed_tensor.h>
#include <cai/reader.h>

/* The table of our major version, found by the header's chain; NULL if there is none. */
CAI_IMPL_COLD const cai_dlpack_exchange_t *cai_impl_exchange_of_version(const cai_dlpack_exchange_header_t *header)
{
    while (header != NULL && header->version.major != CAI_DLPACK_MAJOR)
        header = header->prev_api;
    return CAI_IMPL_BITS(const cai_dlpack_exchange_t *, header);
}

/* The table that a type carries, NULL if it has none; -1 with the exception that its metaclass raised. Whatever else the
 * attribute holds (an integer, None, a property object) counts as no table. */
CAI_IMPL_COLD int cai_impl_exchange_find(const cai_state_t *state, PyTypeObject *type,
                                         const cai_dlpack_exchange_t **exchange)
{
    PyObject *capsule;
    *exchange = NULL;
    if (cai_impl_get_attribute(CAI_IMPL_BITS(PyObject *, type), cai_impl_name(state, CAI_IMPL_NAME_EXCHANGE),
                               &capsule) < 0)
        return -1;
    if (capsule == NULL)
        return 0;
    if (PyCapsule_IsValid(capsule, CAI_DLPACK_CAPSULE_EXCHANGE) != 0) {
        const void *table = PyCapsule_GetPointer(capsule, CAI_DLPACK_CAPSULE_EXCHANGE);
        *exchange = cai_impl_exchange_of_version(CAI_IMPL_CAST(const cai_dlpack_exchange_header_t *, table));
    }
    Py_DECREF(capsule);
    return 0;
}

/* Whether the type is torch.Tensor or derived from it, and has torch's own table or, as torch itself before 2.10, none:
 * then the producer is known to have no read-only tensors. 1, 0, or -1 with an exception. Nothing is imported. */
CAI_IMPL_COLD int cai_impl_type_is_torch(const cai_state_t *state, PyTypeObject *type,
                                         const cai_dlpack_exchange_t *exchange)
{
    const cai_dlpack_exchange_t *of_torch = NULL;
    PyObject                    *tensor;
    const int                    found = cai_impl_find_class(state, CAI_IMPL_NAME_TORCH, CAI_IMPL_NAME_TENSOR, &tensor);
    int                          result = 0;
    if (found <= 0)
        return found;
    if (PyType_IsSubtype(type, CAI_IMPL_BITS(PyTypeObject *, tensor))) {
        result = cai_impl_exchange_find(state, CAI_IMPL_BITS(PyTypeObject *, tensor), &of_torch);
        if (result == 0)
            result = of_torch == exchange;
    }
    Py_DECREF(tensor);
    return result;
}

/* The producer's own exception, or one in its place where it forgot to set it. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_exchange_failed(const char *function)
{
    if (PyErr_Occurred() == NULL)
        PyErr_Format(PyExc_RuntimeError, "%s failed without an exception", function);
    return CAI_IMPL_PRODUCER_RAISED;
}

/* -------------------------------------------------------------------------------------------------- the reader --- */

/* A boolean attribute or method of a tensor: 1, 0, or -1 with the producer's exception. */
CAI_IMPL_COLD int cai_impl_exchange_ask(const cai_state_t *state, PyObject *object, cai_impl_name_t name, bool call)
{
    PyObject *answer = PyObject_GetAttr(object, cai_impl_name(state, name)), *result;
    int       truth;
    if (answer != NULL && call) {
        result = PyObject_CallNoArgs(answer);
        Py_DECREF(answer);
        answer = result;
    }
    if (answer == NULL)
        return -1;
    truth = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return truth;
}

/* torch lends tensors that require gradients; writing to them behind autograd's back gives wrong gradients. */
CAI_IMPL cai_impl_result_t cai_impl_torch_check_writable(const cai_impl_reader_t *reader)
{
    int requires_grad;
    if ((reader->request->require & CAI_WRITABLE) == 0)
        return CAI_IMPL_READ;
    requires_grad = cai_impl_exchange_ask(reader->state, reader->object, CAI_IMPL_NAME_REQUIRES_GRAD, false);
    if (requires_grad < 0)
        return CAI_IMPL_PRODUCER_RAISED;
    return requires_grad == 0
               ? CAI_IMPL_READ
               : cai_impl_refuse_with(reader, CAI_VIA_EXCHANGE, CAI_IMPL_REFUSED, CAI_ERROR_READ_ONLY_ACCESS,
                                      "expected writable memory; got a tensor that requires gradients: pass "
                                      "tensor.detach()");
}

/* Whether the memory may hold other values than the tensor shows: complex tensors may be conjugated lazily, and views of
 * those (x.conj().imag) negated lazily. Such a view has gaps, and shows them unless it has at most one element. */
CAI_IMPL bool cai_impl_torch_may_be_lazy(const cai_view_t *view)
{
    return view->tensor.dtype.code == CAI_CODE_COMPLEX ||
           (view->tensor.dtype.code == CAI_CODE_FLOAT && (!view->impl_layout.c_contiguous || view->size == 1));
}

CAI_IMPL_COLD cai_impl_result_t cai_impl_torch_check_lazy(const cai_impl_reader_t *reader, uint32_t protocol)
{
    const bool complex_numbers = reader->view->tensor.dtype.code == CAI_CODE_COMPLEX;
    const int  conjugated =
        complex_numbers ? cai_impl_exchange_ask(reader->state, reader->object, CAI_IMPL_NAME_IS_CONJ, true) : 0;
    const int negated =
        conjugated == 0 ? cai_impl_exchange_ask(reader->state, reader->object, CAI_IMPL_NAME_IS_NEG, true) : 0;
    if (conjugated < 0 || negated < 0)
        return CAI_IMPL_PRODUCER_RAISED;
    if (conjugated == 0 && negated == 0)
        return CAI_IMPL_READ;
    return cai_impl_refuse_with(reader, protocol, CAI_IMPL_REFUSED, CAI_ERROR_LAYOUT_MISMATCH,
                                "expected the values in memory; got a tensor that is %s lazily: pass tensor.%s()",
                                conjugated != 0 ? "conjugated" : "negated",
                                conjugated != 0 ? "resolve_conj" : "resolve_neg");
}

/* A tensor that is out of the ordinary. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_exchange_settle(const cai_impl_reader_t *reader, const cai_tensor_t *tensor)
{
    cai_error_t error;
    if (cai_impl_view_copy(reader->view, tensor, &error) != CAI_OK)
        return cai_impl_refuse(reader, CAI_VIA_EXCHANGE, CAI_IMPL_UNREADABLE, &error);
    return cai_impl_settle(reader, CAI_VIA_EXCHANGE);
}

/* torch's tensor, lent: into the view as it is now. */
CAI_IMPL cai_impl_result_t cai_impl_torch_borrow(const cai_impl_reader_t *reader)
{
    cai_tensor_t tensor;
    if (CAI_IMPL_UNLIKELY(reader->view->impl_exchange->dltensor_from_py_object_no_sync(reader->object, &tensor) != 0))
        return cai_impl_exchange_failed("dltensor_from_py_object_no_sync");
    if (CAI_IMPL_LIKELY(cai_impl_view_fill_from(reader->view, &tensor)))
        return cai_impl_settle_found(reader, CAI_VIA_EXCHANGE);
    return cai_impl_exchange_settle(reader, &tensor);
}

/* An owned tensor of whatever producer: into the view, which gives it back at release. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_exchange_own(const cai_impl_reader_t *reader)
{
    cai_dlpack_managed_versioned_t *managed = NULL;
    cai_error_t                     error;
    if (CAI_IMPL_UNLIKELY(
            reader->view->impl_exchange->managed_tensor_from_py_object_no_sync(reader->object, &managed) != 0 ||
            managed == NULL))
        return cai_impl_exchange_failed("managed_tensor_from_py_object_no_sync");
    if (CAI_IMPL_UNLIKELY(cai_impl_view_take_versioned(reader->view, managed, &error) != CAI_OK))
        return cai_impl_refuse(reader, CAI_VIA_EXCHANGE, CAI_IMPL_UNREADABLE, &error);
    return cai_impl_settle(reader, CAI_VIA_EXCHANGE);
}

/* Whether the question has been put already, in this call. */
CAI_IMPL bool cai_impl_knows_work_stream(const cai_impl_work_stream_t *known, const cai_dlpack_exchange_t *exchange,
                                         cai_device_t device)
{
    return known != NULL && known->exchange == exchange && known->device.device_type == device.device_type &&
           known->device.device_id == device.device_id;
}

/* Ask for the stream that the producer works on now, NULL where it does not say. Pinned memory has no device of its own;
 * whoever fills it does so from the current one. */
CAI_IMPL_ASIDE cai_impl_result_t cai_impl_exchange_ask_stream(const cai_impl_reader_t *reader, void **stream)
{
    const cai_dlpack_exchange_t *exchange = reader->view->impl_exchange;
    cai_impl_work_stream_t      *known = reader->work_stream;
    cai_device_t                 device = reader->view->tensor.device;
    cai_error_t                  error;
    *stream = NULL;
    if (exchange->current_work_stream == NULL)
        return CAI_IMPL_READ;
    if (CAI_IMPL_UNLIKELY(device.device_type == CAI_DEVICE_CUDA_HOST)) {
        device.device_type = CAI_DEVICE_CUDA;
        if (cai_current_device(&device.device_id, &error) != CAI_OK)
            return cai_impl_refuse(reader, CAI_VIA_EXCHANGE, CAI_IMPL_REFUSED, &error);
    }
    if (cai_impl_knows_work_stream(known, exchange, device)) {
        *stream = known->stream;
        return CAI_IMPL_READ;
    }
    if (exchange->current_work_stream(device.device_type, device.device_id, stream) != 0)
        return cai_impl_exchange_failed("current_work_stream");
    if (known != NULL) {
        known->exchange = exchange;
        known->device = device;
        known->stream = *stream;
    }
    return CAI_IMPL_READ;
}

/* NULL is torch's default stream, which is the legacy one; from anybody else it may mean that nobody knows. */
CAI_IMPL cai_impl_result_t cai_impl_exchange_set_stream(const cai_impl_reader_t *reader)
{
    const bool        torch = (reader->view->impl_facts & CAI_IMPL_TYPE_TORCH) != 0 &&
                              reader->view->impl_exchange->current_work_stream != NULL;
    cai_impl_result_t result;
    void             *stream;
    if (reader->view->tensor.device.device_type == CAI_DEVICE_CPU) {
        cai_impl_set_source(reader->view, CAI_IMPL_SOURCE_READY, NULL);
        return CAI_IMPL_READ;
    }
    result = cai_impl_exchange_ask_stream(reader, &stream);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        cai_impl_set_source(reader->view, torch || stream != NULL ? CAI_IMPL_SOURCE_STREAM : CAI_IMPL_SOURCE_SILENT,
                            cai_stream_from_handle(CAI_IMPL_BITS(uint64_t, stream)));
    return result;
}

/* Whether there is a table that lends. A free-threaded build always owns: another thread could change what was lent at any
 * time. So does a type with `_capsule`, which is asked for that first, and may run Python code when what that left is
 * dropped. */
CAI_IMPL bool cai_impl_exchange_lends(const cai_view_t *view)
{
    return (view->impl_facts & (CAI_IMPL_TYPE_TORCH | CAI_IMPL_TYPE_ARRAY)) == CAI_IMPL_TYPE_TORCH &&
           !CAI_IMPL_FREE_THREADED && view->impl_exchange != NULL &&
           view->impl_exchange->dltensor_from_py_object_no_sync != NULL;
}

/* torch, lent or owned. Everything that may run Python code comes before the last look at the tensor. */
CAI_IMPL cai_impl_result_t cai_impl_exchange_read_torch(const cai_impl_reader_t *reader)
{
    const bool        lends = cai_impl_exchange_lends(reader->view);
    cai_impl_result_t result = cai_impl_torch_check_writable(reader);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = lends ? cai_impl_torch_borrow(reader) : cai_impl_exchange_own(reader);
    if (result != CAI_IMPL_READ || CAI_IMPL_LIKELY(!cai_impl_torch_may_be_lazy(reader->view)))
        return result;
    result = cai_impl_torch_check_lazy(reader, CAI_VIA_EXCHANGE);
    return result == CAI_IMPL_READ && lends ? cai_impl_torch_borrow(reader) : result;
}

/* A lent tensor may be looked at again, and be somewhere else then. */
CAI_IMPL void cai_impl_exchange_start(cai_view_t *view)
{
    view->flags = 0;
    view->stream = NULL;
    view->impl_progress &= ~CAI_IMPL_CAST(uint32_t, CAI_IMPL_HOLDS_OBJECT_ALONE);
}

CAI_IMPL cai_impl_result_t cai_impl_exchange_finish(const cai_impl_reader_t *reader, cai_impl_result_t result)
{
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = cai_impl_exchange_set_stream(reader);
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return cai_impl_abandon(reader->view, result);
    cai_impl_mark_ready(reader->view);
    return CAI_IMPL_READ;
}

/* Read an object whose type has the table that is in the view already (impl_exchange, impl_facts). */
CAI_IMPL cai_impl_result_t cai_impl_exchange_read(const cai_impl_reader_t *reader)
{
    cai_view_t *view = reader->view;
    const bool  torch = (view->impl_facts & CAI_IMPL_TYPE_TORCH) != 0;
    if (view->impl_exchange == NULL || !cai_impl_allows(reader->request, CAI_VIA_EXCHANGE) ||
        (!cai_impl_exchange_lends(view) && view->impl_exchange->managed_tensor_from_py_object_no_sync == NULL))
        return CAI_IMPL_ABSENT;
    cai_impl_exchange_start(view);
    return cai_impl_exchange_finish(reader,
                                    torch ? cai_impl_exchange_read_torch(reader) : cai_impl_exchange_own(reader));
}

/* Look at a tensor that is lent once more, asking nothing, so that no Python code runs. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_exchange_look(const cai_impl_reader_t *reader)
{
    cai_impl_exchange_start(reader->view);
    return cai_impl_exchange_finish(reader, cai_impl_torch_borrow(reader));
}

/* ------------------------------------------------------------------------------------------------------- outward --- */

CAI_IMPL bool cai_impl_is_seen_by_host(const cai_array_t *array)
{
    const int32_t type = array->tensor.device.device_type;
    return type == CAI_DEVICE_CPU || type == CAI_DEVICE_CUDA_HOST;
}

/* What is pending on an array comes before what its consumer does on a stream, or with host memory at once. 0, or -1 with
 * an exception. */
CAI_IMPL int cai_impl_exchange_order_before(cai_state_t *state, const cai_array_t *array, cai_stream_t stream)
{
    cai_error_t error;
    if (cai_impl_is_seen_by_host(array))
        return cai_impl_array_wait(state, array);
    if (array->stream == NULL || array->tensor.data == NULL ||
        cai_order_streams(state->impl_pool, cai_impl_array_stream(array), stream, cai_impl_array_device(array),
                          &error) == CAI_OK)
        return 0;
    return cai_raise(state, &error);
}

/* The consumer asks for one stream per device, and ours are per array. So the answer is legacy, and everything that goes
 * out is ordered before legacy first; what comes back is on legacy too. 0, or -1 with an exception. */
CAI_IMPL int cai_impl_exchange_order(cai_state_t *state, cai_array_t *array)
{
    if (cai_impl_exchange_order_before(state, array, CAI_STREAM_LEGACY) < 0)
        return -1;
    cai_impl_array_went_out(array);
    return 0;
}

/* managed_tensor_from_py_object_no_sync: `out` holds a reference to the array. */
CAI_IMPL int cai_impl_exchange_give(cai_state_t *state, cai_array_t *array, cai_dlpack_managed_versioned_t **out)
{
    if (cai_impl_exchange_order(state, array) < 0)
        return -1;
    *out = cai_impl_managed_new_versioned(array, array->tensor.device, CAI_DLPACK_MINOR);
    if (*out != NULL)
        return 0;
    PyErr_NoMemory();
    return -1;
}

/* dltensor_from_py_object_no_sync: `out` is valid as long as the object. It has no place for flags, so that read-only and
 * padded arrays are refused. */
CAI_IMPL int cai_impl_exchange_lend(cai_state_t *state, cai_array_t *array, cai_tensor_t *out)
{
    cai_error_t error;
    if ((array->flags & CAI_READONLY) != 0) {
        (void)cai_error_set(&error, CAI_ERROR_READ_ONLY_ACCESS,
                            "a read-only array cannot be lent: a DLTensor does not say that it must not be written");
        return cai_raise(state, &error);
    }
    if ((array->flags & CAI_SUBBYTE_PADDED) != 0) {
        (void)cai_error_set(&error, CAI_ERROR_UNKNOWN_DTYPE,
                            "an array of padded items of less than a byte cannot be lent: a DLTensor does not say that "
                            "they are padded");
        return cai_raise(state, &error);
    }
    if (cai_impl_exchange_order(state, array) < 0)
        return -1;
    *out = array->tensor;
    if (out->device.device_type != CAI_DEVICE_CUDA)
        out->device.device_id = 0;
    return 0;
}

/* current_work_stream */
CAI_IMPL int cai_impl_exchange_legacy(int32_t device_type, int32_t device_id, void **out)
{
    (void)device_id;
    *out = device_type == CAI_DEVICE_CPU ? NULL : CAI_IMPL_CAST(void *, CAI_STREAM_LEGACY);
    return 0;
}

CAI_IMPL bool cai_impl_exchange_memory(int32_t device_type, cai_memory_t *memory)
{
    switch (device_type) {
    case CAI_DEVICE_CPU: *memory = CAI_MEMORY_HOST; return true;
    case CAI_DEVICE_CUDA: *memory = CAI_MEMORY_DEVICE; return true;
    case CAI_DEVICE_CUDA_HOST: *memory = CAI_MEMORY_PINNED; return true;
    case CAI_DEVICE_CUDA_MANAGED: *memory = CAI_MEMORY_MANAGED; return true;
    default: return false;
    }
}

/* cai_array_t.release of what the allocator makes, which has no pool, and is freed by a wait for its device: an attached
 * thread lets the interpreter go meanwhile. While that goes down there must be no wait, and the memory is leaked. */
CAI_IMPL_COLD void cai_impl_exchange_release(cai_array_t *array)
{
    const bool is_last = __atomic_load_n(&cai_impl_own(array)->references, __ATOMIC_ACQUIRE) == 1;
    void      *detached = NULL;
    if (is_last && !cai_impl_detach(&detached))
        return;
    cai_impl_own_release(array);
    if (detached != NULL)
        cai_impl_attach(detached);
}

/* managed_tensor_allocator: may be called without Python, and tells failures by `set_error`. */
CAI_IMPL int cai_impl_exchange_allocate(cai_tensor_t *prototype, cai_dlpack_managed_versioned_t **out, void *error_ctx,
                                        void (*set_error)(void *error_ctx, const char *kind, const char *message))
{
    /* Pinned and managed memory belong to no device, so that their number says nothing. */
    const cai_device_t device = prototype->device;
    const int32_t      device_id = device.device_type == CAI_DEVICE_CUDA ? device.device_id : -1;
    cai_memory_t       memory = CAI_MEMORY_HOST;
    cai_array_t       *array = NULL;
    cai_error_t        error;
    if (cai_impl_exchange_memory(device.device_type, &memory))
        array = cai_array_new(NULL, prototype->dtype, prototype->ndim, prototype->shape, device_id, memory,
                              CAI_STREAM_LEGACY, &error);
    else
        (void)cai_error_set(&error, CAI_ERROR_DEVICE_MISMATCH, "cai cannot allocate memory of device type %d",
                            device.device_type);
    *out = NULL;
    if (array != NULL) {
        if (memory != CAI_MEMORY_HOST) {
            (void)array->used_on(array, NULL);
            array->release = cai_impl_exchange_release;
        }
        *out = cai_impl_managed_new_versioned(array, array->tensor.device, CAI_DLPACK_MINOR);
        if (*out == NULL)
            (void)cai_error_set(&error, CAI_ERROR_MEMORY, "no memory for a managed tensor");
        cai_array_release(array);
    }
    if (*out != NULL)
        return 0;
    if (set_error != NULL)
        set_error(error_ctx, cai_status_base(error.status), error.message);
    return -1;
}

CAI_IMPL void cai_impl_exchange_delete(void *owner)
{
    cai_dlpack_managed_versioned_t *managed = CAI_IMPL_CAST(cai_dlpack_managed_versioned_t *, owner);
    if (managed->deleter != NULL)
        managed->deleter(managed);
}

/* Take a tensor over: an array that owns it. NULL with an exception, and then the tensor is still the caller's. Of its
 * flags those are passed on that both sides know: cai has others of its own behind them. */
CAI_IMPL cai_array_t *cai_impl_exchange_take(cai_state_t *state, cai_dlpack_managed_versioned_t *managed)
{
    cai_array_t *array = NULL;
    cai_error_t  error;
    if (managed->version.major != CAI_DLPACK_MAJOR)
        (void)cai_error_set(&error, CAI_ERROR_INVALID_VERSION, "DLPack version %u.%u cannot be read",
                            managed->version.major, managed->version.minor);
    else
        array = cai_array_wrap(state->impl_pool, &managed->tensor, managed->flags & (CAI_READONLY | CAI_SUBBYTE_PADDED),
                               managed, cai_impl_exchange_delete, &error);
    if (array == NULL) {
        (void)cai_raise(state, &error);
        return NULL;
    }
    if (array->tensor.device.device_type != CAI_DEVICE_CPU)
        (void)cai_array_used_on(array, CAI_STREAM_LEGACY);
    return array;
}

/* -------------------------------------------------------------------------------------- into another library ----- */

/* Whether the array can go into a library by its table. Nobody says who frees a tensor that a table refuses; torch leaks it.
 * So what a table is likely to refuse goes by __dlpack__, where a refusal leaks nothing, and so do read-only arrays, as
 * which every library imports them in its own way. */
CAI_IMPL bool cai_impl_exchange_suits(const cai_dlpack_exchange_t *exchange, const cai_array_t *array)
{
    const cai_tensor_t *tensor = &array->tensor;
    const int32_t       type = tensor->device.device_type;
    if (exchange->managed_tensor_to_py_object_no_sync == NULL || (array->flags & CAI_READONLY) != 0 ||
        (type != CAI_DEVICE_CPU && type != CAI_DEVICE_CUDA) || !cai_dtype_is_plain(tensor->dtype) ||
        tensor->dtype.code > CAI_CODE_BOOL)
        return false;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        if (tensor->shape[i] > 1 && tensor->strides[i] < 0)
            return false;
    }
    return true;
}

/* The stream that a table's library works on now: legacy where it does not say. 0, or -1 with an exception. */
CAI_IMPL int cai_impl_exchange_work_stream(const cai_dlpack_exchange_t *exchange, cai_device_t device,
                                           cai_stream_t *stream)
{
    void *handle = NULL;
    if (exchange->current_work_stream != NULL &&
        exchange->current_work_stream(device.device_type, device.device_id, &handle) != 0) {
        (void)cai_impl_exchange_failed("current_work_stream");
        return -1;
    }
    *stream = cai_stream_from_handle(CAI_IMPL_BITS(uint64_t, handle));
    return 0;
}

/* No function of a table orders anything: what is pending on the array comes before what its new library does next. 0, or
 * -1 with an exception. */
CAI_IMPL int cai_impl_exchange_order_out(cai_state_t *state, const cai_dlpack_exchange_t *exchange,
                                         const cai_array_t *array)
{
    cai_stream_t stream = NULL;
    if (array->stream != NULL && array->tensor.data != NULL && !cai_impl_is_seen_by_host(array) &&
        cai_impl_exchange_work_stream(exchange, array->tensor.device, &stream) < 0)
        return -1;
    return cai_impl_exchange_order_before(state, array, stream);
}

/* An object of the table's library that owns the tensor; NULL with an exception. The tensor is not deleted then: the table
 * may have done so already, and what leaks at worst is freed twice at worst otherwise. */
CAI_IMPL PyObject *cai_impl_exchange_wrap(const cai_dlpack_exchange_t    *exchange,
                                          cai_dlpack_managed_versioned_t *managed)
{
    void *object = NULL;
    if (CAI_IMPL_LIKELY(exchange->managed_tensor_to_py_object_no_sync(managed, &object) == 0 && object != NULL))
        return CAI_IMPL_CAST(PyObject *, object);
    (void)cai_impl_exchange_failed("managed_tensor_to_py_object_no_sync");
    return NULL;
}

/* The array as an object of the table's library, which holds a reference to it; NULL with an exception. */
CAI_IMPL PyObject *cai_impl_exchange_hand_over(cai_state_t *state, const cai_dlpack_exchange_t *exchange,
                                               cai_array_t *array)
{
    cai_dlpack_managed_versioned_t *managed;
    if (cai_impl_exchange_order_out(state, exchange, array) < 0)
        return NULL;
    managed = cai_impl_managed_new_versioned(array, array->tensor.device, CAI_DLPACK_MINOR);
    if (managed == NULL)
        return PyErr_NoMemory();
    cai_impl_array_went_out(array);
    return cai_impl_exchange_wrap(exchange, managed);
}

/* The device that a table says its object lies on. 0, or -1 with an exception. */
CAI_IMPL int cai_impl_exchange_device(const cai_dlpack_exchange_t *exchange, PyObject *object, cai_device_t *device)
{
    cai_dlpack_managed_versioned_t *managed = NULL;
    cai_tensor_t                    tensor;
    if (exchange->dltensor_from_py_object_no_sync != NULL) {
        if (exchange->dltensor_from_py_object_no_sync(object, &tensor) == 0) {
            *device = tensor.device;
            return 0;
        }
        (void)cai_impl_exchange_failed("dltensor_from_py_object_no_sync");
        return -1;
    }
    if (exchange->managed_tensor_from_py_object_no_sync(object, &managed) != 0 || managed == NULL) {
        (void)cai_impl_exchange_failed("managed_tensor_from_py_object_no_sync");
        return -1;
    }
    *device = managed->tensor.device;
    if (managed->deleter != NULL)
        managed->deleter(managed);
    return 0;
}

/* What an allocator says of its failure, which it does without Python. */
typedef struct cai_impl_allocator_error {
    char kind[32], message[256];
} cai_impl_allocator_error_t;

/* SetError. Called once a failure by the contract, and twice by some: the first is the cause. */
CAI_IMPL_COLD void cai_impl_exchange_note_error(void *context, const char *kind, const char *message)
{
    cai_impl_allocator_error_t *error = CAI_IMPL_CAST(cai_impl_allocator_error_t *, context);
    if (error->message[0] != '\0')
        return;
    snprintf(error->kind, sizeof(error->kind), "%s", kind == NULL ? "" : kind);
    snprintf(error->message, sizeof(error->message), "%s", message == NULL ? "no memory" : message);
    error->message[strcspn(error->message, "\n")] = '\0'; /* of a C++ trace the first line is enough */
}

CAI_IMPL_COLD PyObject *cai_impl_exception_of_kind(const char *kind)
{
    if (strcmp(kind, "MemoryError") == 0)
        return PyExc_MemoryError;
    if (strcmp(kind, "BufferError") == 0)
        return PyExc_BufferError;
    if (strcmp(kind, "TypeError") == 0)
        return PyExc_TypeError;
    return strcmp(kind, "ValueError") == 0 ? PyExc_ValueError : PyExc_RuntimeError;
}

/* An allocator's failure as an exception: its own if it set one, else of the kind that it told. */
CAI_IMPL_COLD void cai_impl_exchange_not_allocated(const cai_state_t *state, PyObject *like,
                                                   const cai_impl_allocator_error_t *error)
{
    char type[192];
    if (PyErr_Occurred() != NULL)
        return;
    if (error->message[0] == '\0') {
        (void)cai_impl_exchange_failed("managed_tensor_allocator");
        return;
    }
    cai_impl_type_words(state, like, type, sizeof(type));
    PyErr_Format(cai_impl_exception_of_kind(error->kind), "the allocator of %s: %s", type, error->message);
}

/* A new object of the table's library, in memory of its allocator; of `wish` everything but the data counts. NULL with an
 * exception. */
CAI_IMPL PyObject *cai_impl_exchange_new(const cai_state_t *state, const cai_dlpack_exchange_t *exchange,
                                         PyObject *like, cai_tensor_t *wish)
{
    cai_dlpack_managed_versioned_t *managed = NULL;
    cai_impl_allocator_error_t      error;
    memset(&error, 0, sizeof(error));
    if (exchange->managed_tensor_allocator(wish, &managed, &error, cai_impl_exchange_note_error) == 0 &&
        managed != NULL)
        return cai_impl_exchange_wrap(exchange, managed);
    cai_impl_exchange_not_allocated(state, like, &error);
    return NULL;
}

/* ----------------------------------------------------------------------- a table's state, in each interpreter ---- */

/* The functions of a table that make an object are told no module: the state is found by the interpreter, whose dict has a
 * list of the states that share the table, which several may (a module that was loaded twice, CAI_DEFINE_STATE). The last
 * one counts, those of modules before that without. */

/* The list of a table's states, made where there is none: a new reference, or NULL with an exception. */
CAI_IMPL_COLD PyObject *cai_impl_table_states(PyObject *key)
{
    PyObject *empty = PyList_New(0), *states = empty == NULL ? NULL : cai_impl_dict_keep(key, empty);
    Py_XDECREF(empty);
    return states;
}

/* 0, or -1 with an exception. */
CAI_IMPL_COLD int cai_impl_table_register(cai_state_t *state, const void *table)
{
    PyObject *key = cai_impl_dict_key(table), *capsule = PyCapsule_New(state, NULL, NULL), *states = NULL;
    int       result = -1;
    if (state->impl_table_keys == NULL)
        state->impl_table_keys = PyList_New(0);
    if (key != NULL && capsule != NULL && state->impl_table_keys != NULL &&
        PyList_Append(state->impl_table_keys, key) == 0)
        states = cai_impl_table_states(key);
    if (states != NULL)
        result = PyList_Insert(states, state->impl_module == NULL ? 0 : PyList_Size(states), capsule);
    Py_XDECREF(states);
    Py_XDECREF(key);
    Py_XDECREF(capsule);
    return result;
}

/* NULL with an exception where the module of the table is not loaded in this interpreter. */
CAI_IMPL_COLD cai_state_t *cai_impl_table_state(const void *table)
{
    PyObject        *dict = PyInterpreterState_GetDict(PyInterpreterState_Get()); /* borrowed */
    PyObject        *key = cai_impl_dict_key(table), *states = NULL;
    const int        found = dict == NULL || key == NULL ? -1 : cai_impl_get_item(dict, key, &states);
    const Py_ssize_t n = found > 0 ? PyList_Size(states) : 0;
    void            *state = n > 0 ? PyCapsule_GetPointer(PyList_GetItem(states, n - 1), NULL) : NULL;
    Py_XDECREF(key);
    Py_XDECREF(states);
    if (state == NULL && PyErr_Occurred() == NULL)
        PyErr_SetString(PyExc_RuntimeError, "the module of this exchange table is not loaded in this interpreter");
    return CAI_IMPL_CAST(cai_state_t *, state);
}

#endif /* CAI_EXCHANGE_H */
