/**
 * cai/cuda_stream.h - streams of other libraries as arguments: the CUDA stream protocol (__cuda_stream__), and what came
 * before it.
 *
 * Private but for cai_stream_from_object. Specification: the CUDA stream protocol, version 0: a method without arguments
 * that returns (0, handle). Handle 0, which libraries emit for their null stream, is read as the legacy stream.
 */
#ifndef CAI_CUDA_STREAM_H
#define CAI_CUDA_STREAM_H

#include <cai/reader.h>

/**
 * Read a stream that somebody passed: None (legacy), an integer, an object with `__cuda_stream__` (method, or attribute as
 * it once was), or one of the older `cuda_stream` (torch), `ptr` (CuPy) and `handle` (Numba, cuda.core). 0, or -1 with
 * InvalidStreamError, InvalidVersionError or the object's own exception.
 *
 * Ownership: a stream is a bare handle, so the caller keeps `object` alive while it is used; nothing says on which device
 * it lies. Needs an attached thread state (the GIL).
 */
CAI_API CAI_NODISCARD int cai_stream_from_object(cai_state_t *state, PyObject *object, cai_stream_t *stream);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

CAI_IMPL_COLD int cai_impl_stream_refuse(cai_state_t *state, PyObject *object, cai_status_t status, const char *what)
{
    PyObject   *pending = cai_impl_take_exception();
    cai_error_t error;
    char        type[192];
    cai_impl_type_words(state, object, type, sizeof(type));
    cai_impl_set_exception(pending);
    (void)cai_error_set(&error, status,
                        "expected a CUDA stream (None, an integer, an object with __cuda_stream__); got %s%s", type,
                        what);
    return cai_raise(state, &error);
}

/* A handle as an integer: one, or what turns into one (cuda.bindings' CUstream), text and floats excepted. A new reference;
 * NULL for anything else, with or without an exception. */
CAI_IMPL PyObject *cai_impl_stream_handle_number(PyObject *value)
{
    if (PyBool_Check(value))
        return NULL;
    if (PyIndex_Check(value))
        return PyNumber_Index(value);
    if (PyFloat_Check(value) || PyUnicode_Check(value) || PyObject_CheckBuffer(value))
        return NULL;
    return PyNumber_Long(value);
}

CAI_IMPL int cai_impl_stream_read_handle(cai_state_t *state, PyObject *object, PyObject *value, cai_stream_t *stream)
{
    uint64_t  handle = 0;
    PyObject *number = cai_impl_stream_handle_number(value);
    bool      read = number != NULL && cai_impl_read_uint64(number, &handle);
    Py_XDECREF(number);
    if (!read)
        return cai_impl_stream_refuse(state, object, CAI_ERROR_INVALID_STREAM,
                                      ", whose handle is no integer of 64 bits");
    *stream = cai_stream_from_handle(handle);
    return 0;
}

/* The answer of __cuda_stream__: a pair of the protocol's version and the handle. */
CAI_IMPL int cai_impl_stream_read_answer(cai_state_t *state, PyObject *object, PyObject *answer, cai_stream_t *stream)
{
    int64_t   version = 0;
    PyObject *pair = PySequence_Check(answer) ? PySequence_Tuple(answer) : NULL;
    int       result;
    if (pair == NULL || cai_impl_tuple_size(pair) != 2 || !cai_impl_read_int64(cai_impl_tuple_item(pair, 0), &version))
        result = cai_impl_stream_refuse(state, object, CAI_ERROR_INVALID_STREAM,
                                        ", whose __cuda_stream__ gives no pair (version, handle)");
    else if (version != 0)
        result = cai_impl_stream_refuse(state, object, CAI_ERROR_INVALID_VERSION,
                                        ", whose __cuda_stream__ is of another version than 0");
    else
        result = cai_impl_stream_read_handle(state, object, cai_impl_tuple_item(pair, 1), stream);
    Py_XDECREF(pair);
    return result;
}

/* The attribute __cuda_stream__, called if it is a method. */
CAI_IMPL int cai_impl_stream_ask(cai_state_t *state, PyObject *object, PyObject *attribute, cai_stream_t *stream)
{
    PyObject *answer = PyCallable_Check(attribute) != 0 ? PyObject_CallNoArgs(attribute) : Py_NewRef(attribute);
    int       result;
    if (answer == NULL)
        return -1;
    result = cai_impl_stream_read_answer(state, object, answer, stream);
    Py_DECREF(answer);
    return result;
}

/* Whether an object is an array, whose `ptr` would be taken for a handle: 1, 0, or -1 with an exception. */
CAI_IMPL int cai_impl_stream_is_array(const cai_state_t *state, PyObject *object)
{
    PyObject *method;
    const int found = cai_impl_get_attribute(object, cai_impl_name(state, CAI_IMPL_NAME_DLPACK), &method);
    Py_XDECREF(method);
    return found;
}

CAI_IMPL int cai_impl_stream_from_attributes(cai_state_t *state, PyObject *object, cai_stream_t *stream)
{
    static const cai_impl_name_t names[] = {CAI_IMPL_NAME_CUDA_STREAM, CAI_IMPL_NAME_OLD_CUDA_STREAM, CAI_IMPL_NAME_PTR,
                                            CAI_IMPL_NAME_HANDLE};
    const int                    array = cai_impl_stream_is_array(state, object);
    if (array != 0)
        return array < 0 ? -1 : cai_impl_stream_refuse(state, object, CAI_ERROR_INVALID_STREAM, ", which is an array");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        PyObject *value;
        int       result = cai_impl_get_attribute(object, cai_impl_name(state, names[i]), &value);
        if (result < 0)
            return -1;
        if (result == 0)
            continue;
        result = i == 0 ? cai_impl_stream_ask(state, object, value, stream)
                        : cai_impl_stream_read_handle(state, object, value, stream);
        Py_DECREF(value);
        return result;
    }
    if (PyIndex_Check(object)) /* NumPy's integers */
        return cai_impl_stream_read_handle(state, object, object, stream);
    return cai_impl_stream_refuse(state, object, CAI_ERROR_INVALID_STREAM, "");
}

CAI_API int cai_stream_from_object(cai_state_t *state, PyObject *object, cai_stream_t *stream)
{
    *stream = CAI_STREAM_LEGACY;
    if (object == Py_None)
        return 0;
    if (PyLong_Check(object))
        return cai_impl_stream_read_handle(state, object, object, stream);
    return cai_impl_stream_from_attributes(state, object, stream);
}

#endif /* CAI_CUDA_STREAM_H */
