/**
 * cai/reader.h - what the readers of all protocols share: the wish they serve, their results, and how they refuse.
 *
 * A reader fills a view from an object by one protocol and checks it against the request. It either succeeds, or leaves
 * an exception that names the argument, or says that the object does not speak its protocol. Private throughout.
 */
#ifndef CAI_READER_H
#define CAI_READER_H

#include <cai/state.h>

/* What a table of the exchange API has answered for a device: it is asked once in a call. */
typedef struct cai_impl_work_stream {
    const cai_dlpack_exchange_t *exchange; /* NULL: nothing yet */
    cai_device_t                 device;
    void                        *stream;
} cai_impl_work_stream_t;

/* What a reader is asked for. */
typedef struct cai_impl_reader {
    cai_state_t            *state;
    PyObject               *object; /* borrowed; the view holds a reference */
    const cai_request_t    *request;
    cai_order_t             order;
    cai_view_t             *view;
    cai_impl_work_stream_t *work_stream; /* of the call; NULL for an array by itself */
} cai_impl_reader_t;

/* Private bit of a request's `require`: though nothing is ordered, the array's stream is wanted. */
#define CAI_IMPL_STREAM_WANTED (UINT32_C(1) << 31)

/* impl_progress of a view. */
enum {
    CAI_IMPL_KNOWN_TYPE = 1,      /* the type was in the cache */
    CAI_IMPL_FAILURE_FOREIGN = 2, /* impl_failure is the producer's own exception, not one of cai's */
    CAI_IMPL_LENT = 4,            /* the tensor is lent: a call looks at it again after all that may run Python code */
    CAI_IMPL_HOLDS_OBJECT_ALONE = 8, /* the object is all that there is to give back, and nothing is to be ordered */
    CAI_IMPL_NEWS_OF_TYPE = 16       /* something has shown that is to be remembered of the type */
};

CAI_IMPL cai_impl_reader_t cai_impl_reader_for(cai_state_t *state, PyObject *object, const cai_request_t *request,
                                               cai_order_t order, cai_view_t *view)
{
    cai_impl_reader_t reader;
    reader.state = state;
    reader.object = object;
    reader.request = request;
    reader.order = order;
    reader.view = view;
    reader.work_stream = NULL;
    return reader;
}

/* How a reader ended. Below 0 an exception is set, and whatever the reader had taken has been given back. */
typedef enum cai_impl_result {
    CAI_IMPL_READ = 1,             /* the view is filled and meets the request */
    CAI_IMPL_ABSENT = 0,           /* the object does not speak the protocol, or the request does not allow it */
    CAI_IMPL_PRODUCER_RAISED = -1, /* the producer raised its own exception: another protocol may work */
    CAI_IMPL_UNREADABLE = -2,      /* cai cannot use what came: another protocol may do better */
    CAI_IMPL_REFUSED = -3          /* the array is understood and is not what was asked for, by whatever protocol */
} cai_impl_result_t;

/* Whether the exception that is set ends an acquire whatever other protocols could do: MemoryError, and what is no
 * Exception (KeyboardInterrupt, SystemExit). */
CAI_IMPL_COLD bool cai_impl_exception_is_final(void)
{
    return PyErr_ExceptionMatches(PyExc_MemoryError) || !PyErr_ExceptionMatches(PyExc_Exception);
}

/* An attribute of a module that somebody else has imported: a new reference and 1; NULL and 0 if there is none; NULL and
 * -1 with an exception that must not be passed over. Nothing is imported. */
CAI_IMPL_COLD int cai_impl_find_attribute(const cai_state_t *state, cai_impl_name_t module_name, cai_impl_name_t name,
                                          PyObject **value)
{
    PyObject *imported = PyImport_GetModule(cai_impl_name(state, module_name));
    *value = imported == NULL ? NULL : PyObject_GetAttr(imported, cai_impl_name(state, name));
    Py_XDECREF(imported);
    if (*value != NULL)
        return 1;
    if (PyErr_Occurred() != NULL && cai_impl_exception_is_final())
        return -1;
    PyErr_Clear();
    return 0;
}

/* The same for a class; without it no object can be of that class. */
CAI_IMPL_COLD int cai_impl_find_class(const cai_state_t *state, cai_impl_name_t module_name, cai_impl_name_t name,
                                      PyObject **type)
{
    const int found = cai_impl_find_attribute(state, module_name, name, type);
    if (found <= 0 || PyType_Check(*type))
        return found;
    Py_CLEAR(*type);
    return 0;
}

/* Code of a producer's that runs at its end (deleters, destructors) neither sees nor loses the exception that is set: put
 * aside before, and put back after. What such code leaves behind is printed, since there is nobody to raise it to. */
CAI_IMPL PyObject *cai_impl_put_aside(void)
{
    return CAI_IMPL_UNLIKELY(PyErr_Occurred() != NULL) ? cai_impl_take_exception() : NULL;
}

CAI_IMPL void cai_impl_put_back(PyObject *pending)
{
    if (CAI_IMPL_UNLIKELY(PyErr_Occurred() != NULL))
        PyErr_WriteUnraisable(NULL);
    if (CAI_IMPL_UNLIKELY(pending != NULL))
        cai_impl_set_exception(pending);
}

CAI_IMPL bool cai_impl_allows(const cai_request_t *request, uint32_t protocols)
{
    return request->protocols == 0 || (request->protocols & protocols) != 0;
}

/* A str attribute of a type, copied; false where there is none. Leaves no exception. */
CAI_IMPL_COLD bool cai_impl_type_text(const cai_state_t *state, PyObject *type, cai_impl_name_t name, char *text,
                                      size_t size)
{
    PyObject   *value = PyObject_GetAttr(type, cai_impl_name(state, name));
    const char *utf8 = value != NULL && PyUnicode_Check(value) ? PyUnicode_AsUTF8AndSize(value, NULL) : NULL;
    if (utf8 != NULL)
        snprintf(text, size, "%s", utf8);
    PyErr_Clear();
    Py_XDECREF(value);
    return utf8 != NULL;
}

/* Write "module.Type" of an object. No exception may be set before, and none is afterwards. */
CAI_IMPL_COLD void cai_impl_type_words(const cai_state_t *state, PyObject *object, char *text, size_t size)
{
    PyObject *type = CAI_IMPL_BITS(PyObject *, Py_TYPE(object));
    char      module[96], name[96];
    if (!cai_impl_type_text(state, type, CAI_IMPL_NAME_QUALNAME, name, sizeof(name)))
        snprintf(name, sizeof(name), "object");
    if (!cai_impl_type_text(state, type, CAI_IMPL_NAME_MODULE, module, sizeof(module)) ||
        strcmp(module, "builtins") == 0)
        snprintf(text, size, "%s", name);
    else
        snprintf(text, size, "%s.%s", module, name);
}

/* "cupy.ndarray via DLPack"; without a protocol the type alone. */
CAI_IMPL_COLD void cai_impl_source_words(const cai_impl_reader_t *reader, uint32_t protocol, char *text, size_t size)
{
    char type[192];
    cai_impl_type_words(reader->state, reader->object, type, sizeof(type));
    if (protocol == 0)
        snprintf(text, size, "%s", type);
    else
        snprintf(text, size, "%s via %s", type, cai_protocol_name(protocol));
}

/* Raise an error of the core floor, with the argument before and the source behind its message, and return `result`. An
 * exception that is set, a conversion's or the producer's, becomes the cause, or stays alone if it is a final one. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_refuse(const cai_impl_reader_t *reader, uint32_t protocol,
                                                cai_impl_result_t result, const cai_error_t *error)
{
    cai_error_t     named = *error;
    cai_impl_text_t text = cai_impl_text_begin(named.message, sizeof(named.message));
    PyObject       *cause = cai_impl_take_exception();
    char            source[256];
    cai_impl_source_words(reader, protocol, source, sizeof(source));
    cai_impl_set_exception(cause);
    if (cause != NULL && cai_impl_exception_is_final())
        return CAI_IMPL_REFUSED;
    cai_impl_add_argument(&text, reader->request);
    cai_impl_text_add(&text, "%s (%s)", error->message, source);
    (void)cai_raise(reader->state, &named);
    return error->status == CAI_ERROR_MEMORY ? CAI_IMPL_REFUSED : result;
}

CAI_IMPL_COLD CAI_IMPL_PRINTF(5, 0) cai_impl_result_t
    cai_impl_refuse_list(const cai_impl_reader_t *reader, uint32_t protocol, cai_impl_result_t result,
                         cai_status_t status, const char *format, va_list arguments)
{
    cai_error_t     error;
    cai_impl_text_t text;
    (void)cai_error_set(&error, status, "%s", "");
    text = cai_impl_text_begin(error.message, sizeof(error.message));
    cai_impl_text_add_list(&text, format, arguments);
    return cai_impl_refuse(reader, protocol, result, &error);
}

CAI_IMPL_COLD CAI_IMPL_PRINTF(5, 6) cai_impl_result_t
    cai_impl_refuse_with(const cai_impl_reader_t *reader, uint32_t protocol, cai_impl_result_t result,
                         cai_status_t status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    result = cai_impl_refuse_list(reader, protocol, result, status, format, arguments);
    va_end(arguments);
    return result;
}

/* An integer by __index__: a new reference, or NULL with an exception. A bool is no integer here. */
CAI_IMPL_COLD PyObject *cai_impl_index(PyObject *object)
{
    if (!PyBool_Check(object))
        return PyNumber_Index(object);
    PyErr_SetString(PyExc_TypeError, "a bool is no integer here");
    return NULL;
}

/* An integer field: false with an exception where it is none or does not fit. */
CAI_IMPL bool cai_impl_read_int64(PyObject *object, int64_t *value)
{
    PyObject *index;
    long long number;
    if (CAI_IMPL_LIKELY(PyLong_CheckExact(object)) && cai_impl_exact_int64(object, value))
        return true;
    index = cai_impl_index(object);
    if (index == NULL)
        return false;
    number = PyLong_AsLongLong(index);
    Py_DECREF(index);
    *value = number;
    return number != -1 || PyErr_Occurred() == NULL;
}

/* The same without a sign: addresses and handles. */
CAI_IMPL_COLD bool cai_impl_read_uint64(PyObject *object, uint64_t *value)
{
    PyObject          *index = cai_impl_index(object);
    unsigned long long number;
    if (index == NULL)
        return false;
    number = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    *value = number;
    return number != CAI_IMPL_CAST(unsigned long long, -1) || PyErr_Occurred() == NULL;
}

/* Kinds of memory where the array would be accepted, host memory that CUDA knows included. */
CAI_IMPL bool cai_impl_wants_memory(const cai_request_t *request, uint32_t memory)
{
    return (cai_request_memory(request) & memory) != 0;
}

/* Memory of the wrong kind, known before there is a tensor. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_refuse_memory(const cai_impl_reader_t *reader, uint32_t protocol,
                                                       const char *found)
{
    cai_error_t        error;
    cai_impl_text_t    text;
    cai_impl_phrases_t phrases;
    (void)cai_error_set(&error, CAI_ERROR_DEVICE_MISMATCH, "expected an array");
    text = cai_impl_text_begin(error.message, sizeof(error.message));
    cai_impl_text_add(&text, "expected an array ");
    phrases.text = &text;
    phrases.started = false;
    cai_impl_phrase_memory(&phrases, cai_request_memory(reader->request));
    cai_impl_text_add(&text, "; got %s memory", found);
    return cai_impl_refuse(reader, protocol, CAI_IMPL_UNREADABLE, &error);
}

/* Whether the address has to be asked about the memory: the device of managed memory is 0 by DLPack's rule, and what a
 * producer calls host memory may be pinned, which matters where pinned memory would do and plain host memory would not. */
CAI_IMPL bool cai_impl_must_refine_device(const cai_impl_reader_t *reader)
{
    const cai_tensor_t *tensor = &reader->view->tensor;
    const int32_t       told = tensor->device.device_type;
    if (CAI_IMPL_LIKELY(told == CAI_DEVICE_CUDA))
        return false;
    if (told == CAI_DEVICE_CPU)
        return (cai_request_memory(reader->request) & (CAI_ON_PINNED | CAI_ON_HOST)) == CAI_ON_PINNED;
    return told == CAI_DEVICE_CUDA_MANAGED;
}

CAI_IMPL_COLD cai_impl_result_t cai_impl_refine_device(const cai_impl_reader_t *reader, uint32_t protocol)
{
    cai_tensor_t *tensor = &reader->view->tensor;
    const int32_t wanted = tensor->device.device_type == CAI_DEVICE_CPU ? CAI_DEVICE_CUDA_HOST
                                                                        : CAI_DEVICE_CUDA_MANAGED;
    cai_device_t  found;
    cai_error_t   error;
    if (tensor->data == NULL)
        return CAI_IMPL_READ;
    if (cai_pointer_device(tensor->data, &found, &error) != CAI_OK)
        return cai_impl_refuse(reader, protocol, CAI_IMPL_UNREADABLE, &error);
    if (found.device_type == wanted)
        tensor->device = found;
    return CAI_IMPL_READ;
}

/* Raise what the request wished and what came, for a check that gave `status`. */
CAI_IMPL_COLD void cai_impl_refuse_mismatch(const cai_impl_reader_t *reader, uint32_t protocol,
                                            const cai_shared_t *shared, cai_status_t status)
{
    const cai_view_t *view = reader->view;
    cai_error_t       error;
    char              source[256];
    cai_impl_source_words(reader, protocol, source, sizeof(source));
    (void)cai_request_explain(reader->request, &view->tensor, view->flags, shared, status, source, &error);
    (void)cai_raise(reader->state, &error);
}

CAI_IMPL_COLD cai_impl_result_t cai_impl_refuse_kind(const cai_impl_reader_t *reader, uint32_t protocol,
                                                     cai_status_t status)
{
    const cai_tensor_t *tensor = &reader->view->tensor;
    /* The wrong memory, and bytes without a meaning, may be this protocol's view of it only. */
    const bool other = status == CAI_ERROR_DEVICE_MISMATCH ||
                       (status == CAI_ERROR_DTYPE_MISMATCH && tensor->dtype.code == CAI_CODE_OPAQUE);
    cai_impl_refuse_mismatch(reader, protocol, NULL, status);
    return other ? CAI_IMPL_UNREADABLE : CAI_IMPL_REFUSED;
}

/* The mask of a numpy.ma.MaskedArray, which no protocol hands out: refused, or kept if it was asked for; nomask (a false
 * scalar) as it is. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_read_mask(const cai_impl_reader_t *reader, uint32_t protocol)
{
    if ((reader->request->require & CAI_MASK_OK) == 0)
        return cai_impl_refuse_with(reader, protocol, CAI_IMPL_REFUSED, CAI_ERROR_MASKED_ARRAY,
                                    "expected an array without a mask; got a masked array: pass array.filled() or "
                                    "array.data");
    reader->view->impl_mask = PyObject_GetAttr(reader->object, cai_impl_name(reader->state, CAI_IMPL_NAME_MASK));
    return reader->view->impl_mask == NULL ? CAI_IMPL_PRODUCER_RAISED : CAI_IMPL_READ;
}

/* The last step of every reader, once the layout is found: see that the array is of the kind that was asked for. Its form
 * is checked when the arguments before it are known. */
CAI_IMPL_ASIDE cai_impl_result_t cai_impl_settle_found(const cai_impl_reader_t *reader, uint32_t protocol)
{
    cai_view_t  *view = reader->view;
    cai_status_t status;
    if (CAI_IMPL_UNLIKELY(cai_impl_must_refine_device(reader)) &&
        cai_impl_refine_device(reader, protocol) != CAI_IMPL_READ)
        return CAI_IMPL_UNREADABLE;
    status = cai_impl_check_kind(reader->request, &view->tensor);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return cai_impl_refuse_kind(reader, protocol, status);
    view->protocol = protocol;
    if (CAI_IMPL_UNLIKELY((view->impl_facts & CAI_IMPL_TYPE_MASKED) != 0) && view->impl_mask == NULL)
        return cai_impl_read_mask(reader, protocol);
    return CAI_IMPL_READ;
}

/* The same for a tensor that was copied into the view as it came: validate it first, and bring it into the form that a
 * view promises. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_settle(const cai_impl_reader_t *reader, uint32_t protocol)
{
    cai_error_t error;
    if (cai_impl_view_settle(reader->view, &error) != CAI_OK)
        return cai_impl_refuse(reader, protocol, CAI_IMPL_UNREADABLE, &error);
    return cai_impl_settle_found(reader, protocol);
}

/* Give back what the view got from its producer. No exception is set, neither before nor after. */
CAI_IMPL void cai_impl_give_back(cai_view_t *view)
{
    void (*give_back)(void *managed) = view->impl_give_back;
    if (give_back == NULL)
        return;
    view->impl_give_back = NULL;
    give_back(view->impl_managed);
    cai_impl_put_back(NULL);
}

/* Drop a reference that a view holds as void *, since the core floor does not know PyObject. */
CAI_IMPL void cai_impl_drop(void **reference)
{
    PyObject *object = CAI_IMPL_CAST(PyObject *, *reference);
    *reference = NULL;
    Py_XDECREF(object);
}

/* A reader that had taken something ends without success. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_abandon(cai_view_t *view, cai_impl_result_t result)
{
    PyObject *pending = cai_impl_put_aside();
    cai_impl_give_back(view);
    cai_impl_drop(&view->impl_mask);
    cai_impl_drop(&view->impl_descr);
    cai_impl_put_back(pending);
    view->flags = 0;
    view->stream = NULL;
    view->protocol = 0;
    return result;
}

/* The device whose streams 1 and 2 mean for pinned memory; -1 where CUDA does not say. */
CAI_IMPL_COLD int32_t cai_impl_device_of_pinned(void)
{
    int32_t device_id;
    return cai_current_device(&device_id, NULL) == CAI_OK ? device_id : -1;
}

/* Note how the producer's work is ordered. Memory without elements has none; pinned memory is seen by host code, and
 * belongs to no device: the streams that 1 and 2 mean are those of the device that is current now. */
CAI_IMPL_HOT void cai_impl_set_source(cai_view_t *view, cai_impl_source_t source, cai_stream_t producer)
{
    cai_impl_order_record_t *record = &view->impl_order;
    const int32_t            type = view->tensor.device.device_type;
    record->producer = producer;
    record->device_id = view->tensor.device.device_id;
    record->source = view->size == 0 || type == CAI_DEVICE_CPU ? CAI_IMPL_SOURCE_READY : source;
    record->pinned = type == CAI_DEVICE_CUDA_HOST && view->size > 0;
    if (type == CAI_DEVICE_CPU)
        return;
    if (CAI_IMPL_UNLIKELY(record->pinned))
        record->device_id = cai_impl_device_of_pinned();
    if (source == CAI_IMPL_SOURCE_STREAM)
        view->flags |= CAI_HAS_STREAM;
    if (source == CAI_IMPL_SOURCE_SILENT || source == CAI_IMPL_SOURCE_ORDERED)
        view->flags |= CAI_STREAM_UNKNOWN;
    view->stream = producer;
}

/* Whether the object is all that the view holds. */
CAI_IMPL_HOT bool cai_impl_view_holds_object_alone(const cai_view_t *view)
{
    return view->impl_give_back == NULL && view->impl_mask == NULL && view->impl_descr == NULL &&
           view->impl_interface == NULL && view->impl_failure == NULL;
}

/* Nothing is to be ordered: such a view can be released in short. */
CAI_IMPL_HOT void cai_impl_mark_object_alone(cai_view_t *view)
{
    if (cai_impl_view_holds_object_alone(view))
        view->impl_progress |= CAI_IMPL_HOLDS_OBJECT_ALONE;
}

/* What a reader knows of that, whatever the order will be. */
CAI_IMPL_HOT void cai_impl_mark_ready(cai_view_t *view)
{
    if (view->impl_order.source == CAI_IMPL_SOURCE_READY && !view->impl_order.pinned)
        cai_impl_mark_object_alone(view);
}

/* Both at once, for host memory and no more than the object. */
CAI_IMPL_HOT void cai_impl_set_ready_on_host(cai_view_t *view)
{
    view->impl_order.producer = CAI_STREAM_LEGACY;
    view->impl_order.device_id = 0;
    view->impl_order.source = CAI_IMPL_SOURCE_READY;
    view->impl_order.pinned = false;
    view->impl_progress |= CAI_IMPL_HOLDS_OBJECT_ALONE;
}

/* ------------------------------------------------------------------------------------------------------- outward --- */

/* A tuple of integers: a new reference, or NULL with an exception. */
CAI_IMPL PyObject *cai_impl_integers_as_tuple(const int64_t *values, int32_t n)
{
    PyObject *tuple = PyTuple_New(n);
    for (int32_t i = 0; tuple != NULL && i < n; i++) {
        PyObject *number = PyLong_FromLongLong(values[i]);
        if (number == NULL || PyTuple_SetItem(tuple, i, number) < 0) /* which takes the number over, whatever comes */
            Py_CLEAR(tuple);
    }
    return tuple;
}

/* A tensor's strides in bytes, likewise. */
CAI_IMPL PyObject *cai_impl_strides_as_tuple(const cai_tensor_t *tensor)
{
    int64_t strides[CAI_MAX_NDIM];
    for (int32_t i = 0; i < tensor->ndim; i++)
        strides[i] = cai_impl_byte_stride(tensor, i);
    return cai_impl_integers_as_tuple(strides, tensor->ndim);
}

/* Wait, without the GIL, for the work on the stream of an array in memory that the host is about to see; the device of a
 * number is `device_id`, -1: the current one. */
CAI_IMPL_COLD cai_status_t cai_impl_wait_for_work(cai_stream_t stream, int32_t device_id, cai_error_t *error)
{
    PyThreadState *thread;
    bool           capturing = false;
    cai_status_t   status = cai_impl_stream_is_capturing_on(stream, device_id, &capturing, error);
    if (status == CAI_OK && capturing)
        status = cai_error_set(error, CAI_ERROR_STREAM_CAPTURE,
                               "the array's stream %p captures a graph, so that the host cannot wait for its work",
                               CAI_IMPL_CAST(void *, stream));
    if (status != CAI_OK)
        return status;
    thread = PyEval_SaveThread();
    status = cai_impl_wait_for_stream(stream, device_id, error);
    PyEval_RestoreThread(thread);
    return status;
}

/* The same for an array of cai's, which may have no stream. 0, or -1 with an exception. */
CAI_IMPL int cai_impl_array_wait(cai_state_t *state, const cai_array_t *array)
{
    cai_error_t error;
    if (CAI_IMPL_LIKELY(array->stream == NULL) || array->tensor.data == NULL ||
        cai_impl_wait_for_work(cai_impl_array_stream(array), cai_impl_array_device(array), &error) == CAI_OK)
        return 0;
    return cai_raise(state, &error);
}

/* Somebody whose streams nobody knows may use the array from now on. */
CAI_IMPL void cai_impl_array_went_out(cai_array_t *array)
{
    if (array->tensor.device.device_type != CAI_DEVICE_CPU)
        (void)array->used_on(array, NULL);
}

#endif /* CAI_READER_H */
