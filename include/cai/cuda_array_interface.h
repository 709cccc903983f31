/**
 * cai/cuda_array_interface.h - arrays by the CUDA Array Interface: in, versions 0 to 3, and out, version 3.
 *
 * The attribute is fetched once, because producers compute it, and some do work in it. A dict of nothing but plain
 * objects is read in one walk, in which no Python code can run. The fields of any other are held by reference while they
 * are read: converting one of them may run Python code that changes the dict. Nothing in the
 * interface says on which device the memory lies, so the pointer is asked; nothing in it owns the memory, so the view
 * holds the object.
 *
 * Private to cai, but for the export; object.h is the way in. Specification: CUDA Array Interface v3, as Numba
 * documents it. Newer versions are read as version 3, since keys have only ever been added (a judgement, not a rule
 * of the specification).
 */
#ifndef CAI_CUDA_ARRAY_INTERFACE_H
#define CAI_CUDA_ARRAY_INTERFACE_H

#include <cai/reader.h>

/**
 * The CUDA Array Interface of an array, version 3: a new dict each time, or NULL with an exception. `stream` is there only
 * while work may be pending on the array's stream, and never 0; `strides` is None for C-contiguous arrays.
 *
 * Ownership: the dict keeps nothing alive. The object that shows it must hold a reference to the array. Its reader may use
 * the memory on streams that nobody tells, so that the array's memory is freed behind everything on its device, unless its
 * author said CAI_FREE_IN_ORDER. Errors: UnknownDtypeError for types without a typestr (bfloat16), DeviceMismatchError for
 * host memory. Needs an attached thread state (the GIL).
 */
CAI_API PyObject *cai_cuda_array_interface_export(cai_state_t *state, cai_array_t *array);

/**
 * NumPy's `__array_interface__` of an array in host, pinned or managed memory, after the work that is pending on it: a new
 * dict each time, or NULL with an exception (as above; DeviceMismatchError for memory of a device). The GIL is released
 * while the host waits. Specification: NumPy's array interface, version 3, which the CUDA Array Interface grew from.
 */
CAI_API PyObject *cai_array_interface_export(cai_state_t *state, cai_array_t *array);

/* `shape`, `typestr`, `data`, `version`, `strides`, `stream`, `mask`, `descr`. */
#define CAI_IMPL_INTERFACE_FIELDS 8
CAI_IMPL_STATIC_ASSERT(CAI_IMPL_NAME_DESCR - CAI_IMPL_NAME_SHAPE == CAI_IMPL_INTERFACE_FIELDS - 1,
                       "the fields' names lie side by side in the state");

/* The fields of one dict, in the order of their names in the state: new references, NULL where the key is absent. */
typedef struct cai_impl_interface {
    PyObject *fields[CAI_IMPL_INTERFACE_FIELDS];
    int64_t   number; /* the version as a number, 0 where it is absent */
} cai_impl_interface_t;

CAI_IMPL PyObject *cai_impl_interface_field(const cai_impl_interface_t *interface, cai_impl_name_t name)
{
    return interface->fields[name - CAI_IMPL_NAME_SHAPE];
}

CAI_IMPL void cai_impl_interface_clear(cai_impl_interface_t *interface)
{
    for (int i = 0; i < CAI_IMPL_INTERFACE_FIELDS; i++)
        Py_CLEAR(interface->fields[i]);
}

/* A field that is missing, or that has the wrong form. */
CAI_IMPL_COLD CAI_IMPL_PRINTF(3, 4) cai_impl_result_t
    cai_impl_interface_refuse(const cai_impl_reader_t *reader, cai_status_t status, const char *format, ...)
{
    cai_impl_result_t result;
    va_list           arguments;
    va_start(arguments, format);
    result = cai_impl_refuse_list(reader, CAI_VIA_CUDA_ARRAY_INTERFACE, CAI_IMPL_UNREADABLE, status, format, arguments);
    va_end(arguments);
    return result;
}

/* --------------------------------------------------------------------------------------- fetching the fields ---- */

/* Every field, None counting as absent; false with an exception. */
CAI_IMPL bool cai_impl_interface_get_all(const cai_impl_reader_t *reader, PyObject *dict,
                                         cai_impl_interface_t *interface)
{
    for (int i = 0; i < CAI_IMPL_INTERFACE_FIELDS; i++) {
        if (cai_impl_get_item(dict, reader->state->impl_names[CAI_IMPL_NAME_SHAPE + i], &interface->fields[i]) < 0)
            return false;
        if (interface->fields[i] == Py_None)
            Py_CLEAR(interface->fields[i]);
    }
    return true;
}

/* A missing version is 0, as the first producers had it. */
CAI_IMPL cai_impl_result_t cai_impl_interface_read_version(const cai_impl_reader_t *reader,
                                                           cai_impl_interface_t    *interface)
{
    const bool exactly_3 = reader->request->protocols != 0 &&
                           (reader->request->protocols & CAI_VIA_CUDA_ARRAY_INTERFACE) == 0;
    interface->number = 0;
    if (cai_impl_interface_field(interface, CAI_IMPL_NAME_VERSION) != NULL &&
        !cai_impl_read_int64(cai_impl_interface_field(interface, CAI_IMPL_NAME_VERSION), &interface->number))
        return cai_impl_interface_refuse(reader, CAI_ERROR_INVALID_VERSION, "'version' must be an integer");
    if (interface->number < 0 || (exactly_3 && interface->number != 3))
        return cai_impl_interface_refuse(reader, CAI_ERROR_INVALID_VERSION,
                                         exactly_3 ? "expected version 3 of the interface; got version %lld"
                                                   : "'version' must not be negative; it is %lld",
                                         CAI_IMPL_CAST(long long, interface->number));
    return CAI_IMPL_READ;
}

/* Take the dict apart. The caller clears `interface`, whatever is returned. */
CAI_IMPL cai_impl_result_t cai_impl_interface_open(const cai_impl_reader_t *reader, PyObject *dict,
                                                   cai_impl_interface_t *interface)
{
    bool complete;
    memset(interface, 0, sizeof(*interface));
    if (CAI_IMPL_UNLIKELY(!PyDict_Check(dict)))
        return cai_impl_interface_refuse(reader, CAI_ERROR_INCOMPLETE_INTERFACE,
                                         "__cuda_array_interface__ must be a dict");
    CAI_IMPL_BEGIN_CRITICAL_SECTION(dict);
    complete = cai_impl_interface_get_all(reader, dict, interface);
    CAI_IMPL_END_CRITICAL_SECTION();
    if (CAI_IMPL_UNLIKELY(!complete))
        return cai_impl_interface_refuse(reader, CAI_ERROR_INCOMPLETE_INTERFACE,
                                         "__cuda_array_interface__ cannot be read");
    return cai_impl_interface_read_version(reader, interface);
}

/* Fetch the attribute: a new reference in `dict`. An attribute of None counts as absent. */
CAI_IMPL_ASIDE cai_impl_result_t cai_impl_interface_fetch(const cai_impl_reader_t *reader, PyObject **dict)
{
    *dict = NULL;
    if (!cai_impl_allows(reader->request, CAI_VIA_CUDA_ARRAY_INTERFACE | CAI_VIA_CUDA_ARRAY_INTERFACE_3))
        return CAI_IMPL_ABSENT;
    if (cai_impl_get_attribute(reader->object, cai_impl_name(reader->state, CAI_IMPL_NAME_CUDA_ARRAY_INTERFACE), dict) <
        0)
        return CAI_IMPL_PRODUCER_RAISED;
    if (*dict == Py_None)
        Py_CLEAR(*dict);
    return *dict == NULL ? CAI_IMPL_ABSENT : CAI_IMPL_READ;
}

/* Whether the dict says how it is ordered: by a stream, or by a version in which no stream means that none is needed. */
CAI_IMPL bool cai_impl_interface_tells_order(const cai_impl_interface_t *interface)
{
    return interface->number >= 3 || cai_impl_interface_field(interface, CAI_IMPL_NAME_STREAM) != NULL;
}

/* ---------------------------------------------------------------------------------------- reading the fields ---- */

/* A tuple or list as a tuple: a new reference, or NULL with an exception. */
CAI_IMPL_COLD PyObject *cai_impl_interface_tuple(PyObject *object)
{
    if (CAI_IMPL_LIKELY(PyTuple_Check(object)))
        return Py_NewRef(object);
    if (PyList_Check(object))
        return PyList_AsTuple(object);
    PyErr_SetString(PyExc_TypeError, "expected a tuple or a list");
    return NULL;
}

/* `data`: a pair of an address, which may be None where there are no elements, and the read-only flag. */
CAI_IMPL cai_impl_result_t cai_impl_interface_read_data(const cai_impl_reader_t    *reader,
                                                        const cai_impl_interface_t *interface, uint64_t *address)
{
    PyObject *pair = cai_impl_interface_field(interface, CAI_IMPL_NAME_DATA) == NULL
                         ? NULL
                         : cai_impl_interface_tuple(cai_impl_interface_field(interface, CAI_IMPL_NAME_DATA));
    int       readonly = -1;
    *address = 0;
    if (pair == NULL || cai_impl_tuple_size(pair) != 2) {
        Py_XDECREF(pair);
        return cai_impl_interface_refuse(reader, CAI_ERROR_INCOMPLETE_INTERFACE,
                                         cai_impl_interface_field(interface, CAI_IMPL_NAME_DATA) == NULL
                                             ? "'data' is missing"
                                             : "'data' must be a pair (address, read-only)");
    }
    if (cai_impl_tuple_item(pair, 0) == Py_None || cai_impl_read_uint64(cai_impl_tuple_item(pair, 0), address))
        readonly = PyObject_IsTrue(cai_impl_tuple_item(pair, 1));
    Py_DECREF(pair);
    if (readonly < 0)
        return cai_impl_interface_refuse(reader, CAI_ERROR_INCOMPLETE_INTERFACE,
                                         "'data' must be an address of 64 bits without sign, and a bool");
    reader->view->flags = readonly != 0 ? CAI_READONLY : 0;
    return CAI_IMPL_READ;
}

CAI_IMPL cai_impl_result_t cai_impl_interface_read_dtype(const cai_impl_reader_t    *reader,
                                                         const cai_impl_interface_t *interface, cai_dtype_t *dtype)
{
    Py_ssize_t  length;
    const char *text;
    cai_error_t error;
    if (cai_impl_interface_field(interface, CAI_IMPL_NAME_TYPESTR) == NULL ||
        !PyUnicode_Check(cai_impl_interface_field(interface, CAI_IMPL_NAME_TYPESTR)))
        return cai_impl_interface_refuse(reader, CAI_ERROR_INCOMPLETE_INTERFACE,
                                         cai_impl_interface_field(interface, CAI_IMPL_NAME_TYPESTR) == NULL
                                             ? "'typestr' is missing"
                                             : "'typestr' must be a str");
    text = PyUnicode_AsUTF8AndSize(cai_impl_interface_field(interface, CAI_IMPL_NAME_TYPESTR), &length);
    if (text == NULL)
        return cai_impl_interface_refuse(reader, CAI_ERROR_INVALID_TYPESTR, "'typestr' does not parse");
    if (cai_impl_typestr_read(text, CAI_IMPL_CAST(size_t, length), dtype, &error) != CAI_OK)
        return cai_impl_refuse(reader, CAI_VIA_CUDA_ARRAY_INTERFACE, CAI_IMPL_UNREADABLE, &error);
    return CAI_IMPL_READ;
}

/* Read the integers of a tuple into `values`, of which there are `n`; the index of the first bad one, or n. */
CAI_IMPL_COLD Py_ssize_t cai_impl_read_integers(PyObject *tuple, int64_t *values, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        if (CAI_IMPL_UNLIKELY(!cai_impl_read_int64(cai_impl_tuple_item(tuple, i), &values[i])))
            return i;
    }
    return n;
}

CAI_IMPL cai_impl_result_t cai_impl_interface_read_shape(const cai_impl_reader_t    *reader,
                                                         const cai_impl_interface_t *interface, uint64_t address,
                                                         cai_dtype_t dtype)
{
    cai_view_t *view = reader->view;
    PyObject   *shape = cai_impl_interface_field(interface, CAI_IMPL_NAME_SHAPE) == NULL
                            ? NULL
                            : cai_impl_interface_tuple(cai_impl_interface_field(interface, CAI_IMPL_NAME_SHAPE));
    Py_ssize_t  ndim, read;
    cai_error_t error;
    if (shape == NULL)
        return cai_impl_interface_refuse(reader, CAI_ERROR_INCOMPLETE_INTERFACE,
                                         cai_impl_interface_field(interface, CAI_IMPL_NAME_SHAPE) == NULL
                                             ? "'shape' is missing"
                                             : "'shape' must be a tuple of integers");
    ndim = cai_impl_tuple_size(shape);
    if (cai_impl_view_start(view, CAI_IMPL_BITS(void *, address), cai_impl_device(CAI_DEVICE_CUDA, -1), dtype, ndim,
                            &error) != CAI_OK) {
        Py_DECREF(shape);
        return cai_impl_refuse(reader, CAI_VIA_CUDA_ARRAY_INTERFACE, CAI_IMPL_UNREADABLE, &error);
    }
    read = cai_impl_read_integers(shape, view->impl_shape, ndim);
    Py_DECREF(shape);
    if (CAI_IMPL_LIKELY(read == ndim))
        return CAI_IMPL_READ;
    return cai_impl_interface_refuse(
        reader, PyErr_ExceptionMatches(PyExc_OverflowError) ? CAI_ERROR_INVALID_SHAPE : CAI_ERROR_INCOMPLETE_INTERFACE,
        "'shape' must hold integers of 64 bits; item %lld is none", CAI_IMPL_CAST(long long, read));
}

/* Strides in bytes, given explicitly: as strides in elements. */
CAI_IMPL cai_impl_result_t cai_impl_interface_convert_strides(const cai_impl_reader_t *reader, PyObject *strides)
{
    cai_view_t      *view = reader->view;
    const Py_ssize_t ndim = view->tensor.ndim, n = cai_impl_tuple_size(strides);
    int64_t          bytes[CAI_MAX_NDIM];
    cai_error_t      error;
    if (n != ndim)
        return cai_impl_interface_refuse(reader, CAI_ERROR_INVALID_STRIDES, "%lld strides for %lld dimensions",
                                         CAI_IMPL_CAST(long long, n), CAI_IMPL_CAST(long long, ndim));
    if (cai_impl_read_integers(strides, bytes, ndim) != ndim)
        return cai_impl_interface_refuse(reader, CAI_ERROR_INVALID_STRIDES, "'strides' must hold integers of 64 bits");
    for (int32_t i = 0; i < view->tensor.ndim; i++) {
        if (cai_impl_view_set_byte_stride(view, i, bytes[i], &error) != CAI_OK)
            return cai_impl_refuse(reader, CAI_VIA_CUDA_ARRAY_INTERFACE, CAI_IMPL_UNREADABLE, &error);
    }
    return CAI_IMPL_READ;
}

CAI_IMPL cai_impl_result_t cai_impl_interface_read_strides(const cai_impl_reader_t    *reader,
                                                           const cai_impl_interface_t *interface)
{
    cai_view_t       *view = reader->view;
    PyObject         *strides;
    cai_impl_result_t result;
    if (cai_impl_interface_field(interface, CAI_IMPL_NAME_STRIDES) == NULL) {
        cai_c_contiguous_strides(view->tensor.ndim, view->impl_shape, view->impl_strides);
        return CAI_IMPL_READ;
    }
    strides = cai_impl_interface_tuple(cai_impl_interface_field(interface, CAI_IMPL_NAME_STRIDES));
    if (strides == NULL)
        return cai_impl_interface_refuse(reader, CAI_ERROR_INVALID_STRIDES,
                                         "'strides' must be None or a tuple of integers");
    result = cai_impl_interface_convert_strides(reader, strides);
    Py_DECREF(strides);
    return result;
}

/* A mask that was not asked for must not be lost silently: its elements are not valid. */
CAI_IMPL cai_impl_result_t cai_impl_interface_read_mask(const cai_impl_reader_t    *reader,
                                                        const cai_impl_interface_t *interface)
{
    if (cai_impl_interface_field(interface, CAI_IMPL_NAME_MASK) != NULL &&
        (reader->request->require & CAI_MASK_OK) == 0)
        return cai_impl_refuse_with(reader, CAI_VIA_CUDA_ARRAY_INTERFACE, CAI_IMPL_REFUSED, CAI_ERROR_MASKED_ARRAY,
                                    "expected an array without a mask; got one with a mask");
    reader->view->impl_mask = Py_XNewRef(cai_impl_interface_field(interface, CAI_IMPL_NAME_MASK));
    if (reader->view->tensor.dtype.code == CAI_CODE_OPAQUE)
        reader->view->impl_descr = Py_XNewRef(cai_impl_interface_field(interface, CAI_IMPL_NAME_DESCR));
    return CAI_IMPL_READ;
}

/* The memory that the address lies in. Without elements there is nothing to ask about: the current device then. Memory
 * that CUDA does not know is host memory, and has to be wanted as such. */
CAI_IMPL_ASIDE cai_impl_result_t cai_impl_interface_find_device(const cai_impl_reader_t *reader)
{
    cai_tensor_t *tensor = &reader->view->tensor;
    cai_error_t   error;
    cai_status_t  status;
    if (tensor->data == NULL || cai_tensor_size(tensor) == 0)
        status = cai_current_device(&tensor->device.device_id, &error);
    else
        status = cai_pointer_device(tensor->data, &tensor->device, &error);
    if (status != CAI_OK)
        return cai_impl_refuse(reader, CAI_VIA_CUDA_ARRAY_INTERFACE, CAI_IMPL_REFUSED, &error);
    if (tensor->device.device_type == CAI_DEVICE_CPU && !cai_impl_wants_memory(reader->request, CAI_ON_HOST))
        return cai_impl_refuse_memory(reader, CAI_VIA_CUDA_ARRAY_INTERFACE,
                                      "host memory that CUDA does not know, or freed");
    return CAI_IMPL_READ;
}

/* The producer's stream. Memory that CUDA does not know may be the device's all the same, where the two share their pages:
 * the host, which sees it at once, waits for the work there. READ, or REFUSED with an exception. */
CAI_IMPL cai_impl_result_t cai_impl_interface_tell(const cai_impl_reader_t *reader, cai_stream_t stream)
{
    const cai_view_t *view = reader->view;
    cai_error_t       error;
    cai_impl_set_source(reader->view, CAI_IMPL_SOURCE_STREAM, stream);
    if (CAI_IMPL_LIKELY(view->tensor.device.device_type != CAI_DEVICE_CPU) || view->size == 0 ||
        reader->order.mode == CAI_ORDER_NONE || cai_impl_wait_for_work(stream, -1, &error) == CAI_OK)
        return CAI_IMPL_READ;
    return cai_impl_refuse(reader, CAI_VIA_CUDA_ARRAY_INTERFACE, CAI_IMPL_REFUSED, &error);
}

/* A stream of 0 is forbidden and emitted all the same (Numba): it is read as the legacy stream. */
CAI_IMPL cai_impl_result_t cai_impl_interface_set_stream(const cai_impl_reader_t    *reader,
                                                         const cai_impl_interface_t *interface)
{
    uint64_t handle;
    if (cai_impl_interface_field(interface, CAI_IMPL_NAME_STREAM) == NULL) {
        cai_impl_set_source(reader->view, interface->number >= 3 ? CAI_IMPL_SOURCE_READY : CAI_IMPL_SOURCE_SILENT,
                            CAI_STREAM_LEGACY);
        return CAI_IMPL_READ;
    }
    if (!cai_impl_read_uint64(cai_impl_interface_field(interface, CAI_IMPL_NAME_STREAM), &handle))
        return cai_impl_interface_refuse(reader, CAI_ERROR_INVALID_STREAM,
                                         "'stream' must be None or an integer from 1 to 64 bits without sign");
    return cai_impl_interface_tell(reader, cai_stream_from_handle(handle));
}

CAI_IMPL_COLD cai_impl_result_t cai_impl_interface_read_fields(const cai_impl_reader_t    *reader,
                                                               const cai_impl_interface_t *interface)
{
    uint64_t          address;
    cai_dtype_t       dtype;
    cai_impl_result_t result = cai_impl_interface_read_data(reader, interface, &address);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = cai_impl_interface_read_dtype(reader, interface, &dtype);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = cai_impl_interface_read_shape(reader, interface, address, dtype);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = cai_impl_interface_read_strides(reader, interface);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = cai_impl_interface_read_mask(reader, interface);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = cai_impl_interface_find_device(reader);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = cai_impl_settle(reader, CAI_VIA_CUDA_ARRAY_INTERFACE);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = cai_impl_interface_set_stream(reader, interface);
    return CAI_IMPL_LIKELY(result == CAI_IMPL_READ) ? result : cai_impl_abandon(reader->view, result);
}

/* Read a dict of any objects. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_interface_read_any(const cai_impl_reader_t *reader, PyObject *dict,
                                                            bool ordered_only)
{
    cai_impl_interface_t interface;
    cai_impl_result_t    result = cai_impl_interface_open(reader, dict, &interface);
    if (result == CAI_IMPL_READ && ordered_only && !cai_impl_interface_tells_order(&interface))
        result = CAI_IMPL_ABSENT;
    if (result == CAI_IMPL_READ)
        result = cai_impl_interface_read_fields(reader, &interface);
    cai_impl_interface_clear(&interface);
    return result;
}

/* -------------------------------------------------------------------------------------- a dict of plain objects --- */

/* The fields of such a dict, in the order of their names in the state: borrowed, NULL where the key is absent or the value
 * None. Valid until Python code may run. */
typedef struct cai_impl_plain_interface {
    PyObject *fields[CAI_IMPL_INTERFACE_FIELDS];
    uint64_t  address;
    int64_t   version, stream; /* a stream of -1: none */
    bool      readonly;
    int64_t   strides[CAI_MAX_NDIM]; /* in bytes, if there are any */
} cai_impl_plain_interface_t;

CAI_IMPL PyObject *cai_impl_plain_field(const cai_impl_plain_interface_t *plain, cai_impl_name_t name)
{
    return plain->fields[name - CAI_IMPL_NAME_SHAPE];
}

/* Which of four names a key is, by identity; 4 for none. Written out, since a loop takes twice as long. */
CAI_IMPL int cai_impl_plain_key_of_four(PyObject *const *names, const PyObject *key)
{
    return key == names[0] ? 0 : key == names[1] ? 1 : key == names[2] ? 2 : key == names[3] ? 3 : 4;
}

/* Which field a key is; CAI_IMPL_INTERFACE_FIELDS for none. */
CAI_IMPL int cai_impl_plain_key(PyObject *const *names, const PyObject *key)
{
    const int field = cai_impl_plain_key_of_four(names, key);
    return field < 4 ? field : 4 + cai_impl_plain_key_of_four(names + 4, key);
}

/* Find the fields by the identity of their keys. False where a key is none of them: it may be equal all the same. */
CAI_IMPL bool cai_impl_plain_walk(const cai_state_t *state, PyObject *dict, cai_impl_plain_interface_t *plain)
{
    PyObject  *key, *value;
    Py_ssize_t at = 0;
    for (int i = 0; i < CAI_IMPL_INTERFACE_FIELDS; i++)
        plain->fields[i] = NULL;
    while (PyDict_Next(dict, &at, &key, &value)) {
        const int field = cai_impl_plain_key(&state->impl_names[CAI_IMPL_NAME_SHAPE], key);
        if (CAI_IMPL_UNLIKELY(field == CAI_IMPL_INTERFACE_FIELDS))
            return false;
        plain->fields[field] = value == Py_None ? NULL : value;
    }
    return true;
}

CAI_IMPL bool cai_impl_plain_integer(PyObject *object, int64_t *value)
{
    return CAI_IMPL_LIKELY(PyLong_CheckExact(object)) && cai_impl_exact_int64(object, value);
}

/* The integers of an exact tuple of `n`; false if it is none. */
CAI_IMPL_ASIDE bool cai_impl_plain_integers(PyObject *tuple, int64_t *values, Py_ssize_t n)
{
    if (CAI_IMPL_UNLIKELY(!PyTuple_CheckExact(tuple) || cai_impl_tuple_size(tuple) != n))
        return false;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!cai_impl_plain_integer(cai_impl_tuple_item(tuple, i), &values[i]))
            return false;
    }
    return true;
}

/* `data`: an exact tuple of an exact int and a bool. */
CAI_IMPL bool cai_impl_plain_data(PyObject *data, cai_impl_plain_interface_t *plain)
{
    int64_t address;
    if (data == NULL || !PyTuple_CheckExact(data) || cai_impl_tuple_size(data) != 2 ||
        !cai_impl_plain_integer(cai_impl_tuple_item(data, 0), &address) || address <= 0)
        return false;
    plain->address = CAI_IMPL_CAST(uint64_t, address);
    plain->readonly = cai_impl_tuple_item(data, 1) == Py_True;
    return plain->readonly || cai_impl_tuple_item(data, 1) == Py_False;
}

CAI_IMPL bool cai_impl_plain_dtype(PyObject *typestr, cai_dtype_t *dtype)
{
    size_t      length;
    const char *text = typestr != NULL && PyUnicode_CheckExact(typestr) ? cai_impl_exact_ascii(typestr, &length) : NULL;
    return text != NULL && cai_dtype_from_typestr(text, length, dtype, NULL) == CAI_OK &&
           dtype->code != CAI_CODE_OPAQUE;
}

/* The numbers beside the array itself: which version it is, of those that the request takes, and whose stream. */
CAI_IMPL bool cai_impl_plain_order(const cai_impl_reader_t *reader, cai_impl_plain_interface_t *plain)
{
    PyObject *version = cai_impl_plain_field(plain, CAI_IMPL_NAME_VERSION);
    PyObject *stream = cai_impl_plain_field(plain, CAI_IMPL_NAME_STREAM);
    plain->version = 0;
    plain->stream = -1;
    if (version != NULL && (!cai_impl_plain_integer(version, &plain->version) || plain->version < 0))
        return false;
    if (stream != NULL && (!cai_impl_plain_integer(stream, &plain->stream) || plain->stream < 0))
        return false;
    return plain->version == 3 || cai_impl_allows(reader->request, CAI_VIA_CUDA_ARRAY_INTERFACE);
}

/* Take a dict apart in which nothing can run Python code, so that its values need not be held. False where anything is
 * not of the plainest kind, or wrong: it is read as any other then. */
CAI_IMPL bool cai_impl_plain_open(const cai_impl_reader_t *reader, PyObject *dict, cai_impl_plain_interface_t *plain)
{
    if (CAI_IMPL_FREE_THREADED || !PyDict_CheckExact(dict))
        return false;
    return cai_impl_plain_walk(reader->state, dict, plain) && cai_impl_plain_field(plain, CAI_IMPL_NAME_MASK) == NULL &&
           cai_impl_plain_order(reader, plain);
}

/* The array that is in the dict, into the view. */
CAI_IMPL bool cai_impl_plain_fill(const cai_impl_reader_t *reader, cai_impl_plain_interface_t *plain)
{
    cai_view_t *view = reader->view;
    PyObject   *shape = cai_impl_plain_field(plain, CAI_IMPL_NAME_SHAPE);
    PyObject   *strides = cai_impl_plain_field(plain, CAI_IMPL_NAME_STRIDES);
    cai_dtype_t dtype;
    unsigned    shift;
    Py_ssize_t  ndim;
    if (!cai_impl_plain_data(cai_impl_plain_field(plain, CAI_IMPL_NAME_DATA), plain) ||
        !cai_impl_plain_dtype(cai_impl_plain_field(plain, CAI_IMPL_NAME_TYPESTR), &dtype) || shape == NULL ||
        !PyTuple_CheckExact(shape) || cai_impl_tuple_size(shape) > CAI_MAX_NDIM)
        return false;
    ndim = cai_impl_tuple_size(shape);
    if (!cai_impl_plain_integers(shape, view->impl_shape, ndim) ||
        (strides != NULL && !cai_impl_plain_integers(strides, plain->strides, ndim)))
        return false;
    cai_impl_view_set_header(view, CAI_IMPL_BITS(void *, plain->address), cai_impl_device(CAI_DEVICE_CUDA, -1), dtype,
                             CAI_IMPL_CAST(int32_t, ndim));
    view->flags = plain->readonly ? CAI_READONLY : 0;
    return cai_impl_item_shift(dtype.bits / 8, &shift) &&
           cai_impl_view_fill_aside(view, view->impl_shape, strides == NULL ? NULL : plain->strides, shift, shift);
}

/* What is left once the view is filled. */
CAI_IMPL cai_impl_result_t cai_impl_plain_finish(const cai_impl_reader_t          *reader,
                                                 const cai_impl_plain_interface_t *plain)
{
    cai_view_t       *view = reader->view;
    cai_impl_result_t result = cai_impl_interface_find_device(reader);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = cai_impl_settle_found(reader, CAI_VIA_CUDA_ARRAY_INTERFACE);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ) && plain->stream >= 0)
        result = cai_impl_interface_tell(reader, plain->stream > 0 ? CAI_IMPL_BITS(cai_stream_t, plain->stream)
                                                                   : CAI_STREAM_LEGACY);
    else if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        cai_impl_set_source(view, plain->version >= 3 ? CAI_IMPL_SOURCE_READY : CAI_IMPL_SOURCE_SILENT,
                            CAI_STREAM_LEGACY);
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return cai_impl_abandon(view, result);
    cai_impl_mark_ready(view);
    return CAI_IMPL_READ;
}

/* Read a dict that cai_impl_interface_fetch gave. `ordered_only`: dicts that do not tell their order are ABSENT. */
CAI_IMPL cai_impl_result_t cai_impl_interface_read(const cai_impl_reader_t *reader, PyObject *dict, bool ordered_only)
{
    cai_impl_plain_interface_t plain;
    if (CAI_IMPL_UNLIKELY(!cai_impl_plain_open(reader, dict, &plain)))
        return cai_impl_interface_read_any(reader, dict, ordered_only);
    if (ordered_only && plain.version < 3 && plain.stream < 0)
        return CAI_IMPL_ABSENT;
    if (CAI_IMPL_UNLIKELY(!cai_impl_plain_fill(reader, &plain)))
        return cai_impl_interface_read_any(reader, dict, ordered_only);
    return cai_impl_plain_finish(reader, &plain);
}

/* ------------------------------------------------------------------------------------------------------- outward --- */

/* Put a value (stolen; NULL with an exception) under a key. 0, or -1 with an exception. */
CAI_IMPL int cai_impl_interface_put(const cai_state_t *state, PyObject *dict, cai_impl_name_t key, PyObject *value)
{
    int result;
    if (CAI_IMPL_UNLIKELY(value == NULL))
        return -1;
    result = PyDict_SetItem(dict, cai_impl_name(state, key), value);
    Py_DECREF(value);
    return result;
}

/* (address, whether it must not be written): a new reference, or NULL with an exception. */
CAI_IMPL PyObject *cai_impl_interface_data(const cai_array_t *array)
{
    PyObject *address = PyLong_FromUnsignedLongLong(CAI_IMPL_BITS(unsigned long long, array->tensor.data));
    PyObject *data;
    if (CAI_IMPL_UNLIKELY(address == NULL))
        return NULL;
    data = PyTuple_Pack(2, address, (array->flags & CAI_READONLY) != 0 ? Py_True : Py_False);
    Py_DECREF(address);
    return data;
}

/* The fields that the two interfaces have in common, key by key: a format string takes three times as long. */
CAI_IMPL int cai_impl_interface_fill(const cai_state_t *state, PyObject *dict, const cai_array_t *array,
                                     const char *typestr)
{
    const cai_tensor_t *tensor = &array->tensor;
    PyObject           *strides;
    if (cai_impl_interface_put(state, dict, CAI_IMPL_NAME_SHAPE,
                               cai_impl_integers_as_tuple(tensor->shape, tensor->ndim)) < 0)
        return -1;
    strides = cai_tensor_is_c_contiguous(tensor) ? Py_NewRef(Py_None) : cai_impl_strides_as_tuple(tensor);
    if (cai_impl_interface_put(state, dict, CAI_IMPL_NAME_STRIDES, strides) < 0 ||
        cai_impl_interface_put(state, dict, CAI_IMPL_NAME_TYPESTR, PyUnicode_FromString(typestr)) < 0 ||
        cai_impl_interface_put(state, dict, CAI_IMPL_NAME_DATA, cai_impl_interface_data(array)) < 0)
        return -1;
    return cai_impl_interface_put(state, dict, CAI_IMPL_NAME_VERSION, PyLong_FromLong(3));
}

/* The address, None strides where the array is C-contiguous, and typestr: what the two interfaces have in
 * common. A new dict, or NULL with an exception. */
CAI_IMPL PyObject *cai_impl_interface_dict(cai_state_t *state, const cai_array_t *array)
{
    char        typestr[CAI_TYPESTR_SIZE];
    cai_error_t error;
    PyObject   *dict;
    if (cai_dtype_to_typestr(array->tensor.dtype, typestr, &error) != CAI_OK) {
        (void)cai_raise(state, &error);
        return NULL;
    }
    dict = PyDict_New();
    if (dict != NULL && cai_impl_interface_fill(state, dict, array, typestr) < 0)
        Py_CLEAR(dict);
    return dict;
}

CAI_IMPL int cai_impl_interface_add_stream(const cai_state_t *state, PyObject *dict, const cai_array_t *array)
{
    if (array->stream == NULL || array->tensor.data == NULL)
        return 0;
    return cai_impl_interface_put(state, dict, CAI_IMPL_NAME_STREAM,
                                  PyLong_FromUnsignedLongLong(cai_stream_to_handle(cai_impl_array_stream(array))));
}

CAI_API PyObject *cai_cuda_array_interface_export(cai_state_t *state, cai_array_t *array)
{
    cai_error_t error;
    PyObject   *dict;
    if (array->tensor.device.device_type == CAI_DEVICE_CPU) {
        (void)cai_error_set(&error, CAI_ERROR_DEVICE_MISMATCH, "host memory has no CUDA Array Interface");
        (void)cai_raise(state, &error);
        return NULL;
    }
    dict = cai_impl_interface_dict(state, array);
    if (dict != NULL && cai_impl_interface_add_stream(state, dict, array) < 0)
        Py_CLEAR(dict);
    if (dict != NULL)
        cai_impl_array_went_out(array);
    return dict;
}

CAI_API PyObject *cai_array_interface_export(cai_state_t *state, cai_array_t *array)
{
    cai_error_t error;
    if (array->tensor.device.device_type != CAI_DEVICE_CUDA)
        return cai_impl_array_wait(state, array) < 0 ? NULL : cai_impl_interface_dict(state, array);
    (void)cai_error_set(&error, CAI_ERROR_DEVICE_MISMATCH, "memory of a CUDA device has no __array_interface__");
    (void)cai_raise(state, &error);
    return NULL;
}

#endif /* CAI_CUDA_ARRAY_INTERFACE_H */
