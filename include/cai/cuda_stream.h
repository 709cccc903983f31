/**
 * cai/cuda_stream.h - streams of other libraries as arguments: the CUDA stream protocol (__cuda_stream__), and what came
 * before it.
 *
 * Private but for cai_stream_from_object. Specification: the CUDA stream protocol, version 0: a method without arguments
 * that returns (0, handle). Handle 0, which libraries emit for their null stream, is read as the legacy stream. More
 * liberal than that: the attribute that the method once was, any sequence of two, and handles of a type of their own.
 */
#ifndef CAI_CUDA_STREAM_H
#define CAI_CUDA_STREAM_H

#include <cai/reader.h>

/**
 * Read a stream that somebody passed: None (legacy), an integer, an object with `__cuda_stream__` (method, or attribute as
 * it once was), or one of the older `cuda_stream` (torch), `ptr` (CuPy) and `handle` (Numba, cuda.core), in this order. 0
 * becomes CAI_STREAM_LEGACY. 0, or -1 with InvalidStreamError, InvalidVersionError or the object's own exception; the
 * message has the value that came. Arrays are refused, whose `ptr` is the address of memory.
 *
 * Ownership: a stream is a bare handle, so the caller keeps `object` alive while it is used; nothing says on which device
 * it lies. Needs an attached thread state (the GIL).
 */
CAI_API CAI_NODISCARD int cai_stream_from_object(cai_state_t *state, PyObject *object, cai_stream_t *stream);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* What came, in a message: repr(value), shortened. No exception may be set before, and none is afterwards. */
CAI_IMPL_COLD void cai_impl_value_words(PyObject *value, char *text, size_t size)
{
    PyObject   *words = PyObject_Repr(value);
    const char *utf8 = words == NULL ? NULL : PyUnicode_AsUTF8AndSize(words, NULL);
    snprintf(text, size, "%s", utf8 == NULL ? "something without a repr" : utf8);
    text[strcspn(text, "\n")] = '\0';
    PyErr_Clear();
    Py_XDECREF(words);
}

/* Refuse `object` because of `value`, which is it or what it gives: "<before><value><after>". An exception that is set
 * becomes the cause, or stays alone if it is a final one. Returns -1. */
CAI_IMPL_COLD int cai_impl_stream_refuse(cai_state_t *state, PyObject *object, cai_status_t status, const char *before,
                                         PyObject *value, const char *after)
{
    PyObject   *pending = cai_impl_take_exception();
    cai_error_t error;
    char        type[192], words[96] = "";
    cai_impl_type_words(state, object, type, sizeof(type));
    if (value != NULL)
        cai_impl_value_words(value, words, sizeof(words));
    cai_impl_set_exception(pending);
    if (pending != NULL && cai_impl_exception_is_final())
        return -1;
    (void)cai_error_set(&error, status,
                        "expected a CUDA stream (None, an integer, an object with __cuda_stream__); got %s%s%s%s", type,
                        before, words, after);
    return cai_raise(state, &error);
}

/* The integer in a ctypes.c_void_p, which Numba's handles once were: its `value` is None for 0. A new reference; NULL for
 * anything else, with or without an exception. */
CAI_IMPL_COLD PyObject *cai_impl_stream_pointer_number(const cai_state_t *state, PyObject *pointer)
{
    PyObject *value;
    if (cai_impl_get_attribute(pointer, cai_impl_name(state, CAI_IMPL_NAME_VALUE), &value) <= 0)
        return NULL;
    if (value == Py_None) {
        Py_DECREF(value);
        return PyLong_FromLong(0);
    }
    if (!PyLong_Check(value))
        Py_CLEAR(value);
    return value;
}

/* A handle as an integer: one, or what turns into one (cuda.bindings' CUstream), text and floats excepted. A new reference;
 * NULL for anything else, with or without an exception. */
CAI_IMPL PyObject *cai_impl_stream_handle_number(const cai_state_t *state, PyObject *value)
{
    if (PyBool_Check(value))
        return NULL;
    if (PyIndex_Check(value))
        return PyNumber_Index(value);
    if (PyFloat_Check(value) || PyUnicode_Check(value))
        return NULL;
    if (PyObject_CheckBuffer(value)) /* as those of ctypes do; bytes and arrays have no `value` */
        return cai_impl_stream_pointer_number(state, value);
    return PyNumber_Long(value);
}

/* The handle of `object`, which is it or what it gives; `before` says in a message where it is from. */
CAI_IMPL int cai_impl_stream_read_handle(cai_state_t *state, PyObject *object, const char *before, PyObject *value,
                                         cai_stream_t *stream)
{
    uint64_t  handle = 0;
    PyObject *number = cai_impl_stream_handle_number(state, value);
    bool      read = number != NULL && cai_impl_read_uint64(number, &handle);
    Py_XDECREF(number);
    if (!read)
        return cai_impl_stream_refuse(state, object, CAI_ERROR_INVALID_STREAM, before, value,
                                      ", which is no handle: an integer from 0, of 64 bits");
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
        result = cai_impl_stream_refuse(state, object, CAI_ERROR_INVALID_STREAM, ", whose __cuda_stream__ gives ",
                                        answer, ", which is no pair (version, handle)");
    else if (version != 0)
        result = cai_impl_stream_refuse(state, object, CAI_ERROR_INVALID_VERSION,
                                        ", whose __cuda_stream__ is of version ", cai_impl_tuple_item(pair, 0),
                                        ", not 0");
    else
        result = cai_impl_stream_read_handle(state, object, ", whose __cuda_stream__ gives the handle ",
                                             cai_impl_tuple_item(pair, 1), stream);
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

/* Whether an object is an array, whose `ptr` (CuPy's, RMM's, PyCUDA's) would be taken for a handle: 1, 0, or -1 with an
 * exception. */
CAI_IMPL int cai_impl_stream_is_array(const cai_state_t *state, PyObject *object)
{
    PyObject *attribute;
    int       found = cai_impl_get_attribute(object, cai_impl_name(state, CAI_IMPL_NAME_DLPACK), &attribute);
    Py_XDECREF(attribute);
    if (found != 0)
        return found;
    found = cai_impl_get_attribute(object, cai_impl_name(state, CAI_IMPL_NAME_CUDA_ARRAY_INTERFACE), &attribute);
    Py_XDECREF(attribute);
    return found;
}

/* By the first of the older attributes that the object has: 1, 0 if it has none, or -1 with an exception. */
CAI_IMPL int cai_impl_stream_from_older(cai_state_t *state, PyObject *object, cai_stream_t *stream)
{
    static const struct {
        cai_impl_name_t name;
        const char     *words;
    } older[] = {{CAI_IMPL_NAME_OLD_CUDA_STREAM, ", whose cuda_stream is "},
                 {CAI_IMPL_NAME_PTR, ", whose ptr is "},
                 {CAI_IMPL_NAME_HANDLE, ", whose handle is "}};
    for (size_t i = 0; i < sizeof(older) / sizeof(older[0]); i++) {
        PyObject *value;
        int       result = cai_impl_get_attribute(object, cai_impl_name(state, older[i].name), &value);
        if (result < 0)
            return -1;
        if (result == 0)
            continue;
        result = cai_impl_stream_read_handle(state, object, older[i].words, value, stream);
        Py_DECREF(value);
        return result < 0 ? -1 : 1;
    }
    return 0;
}

/* Neither None nor an integer, and without __cuda_stream__. */
CAI_IMPL int cai_impl_stream_without_protocol(cai_state_t *state, PyObject *object, cai_stream_t *stream)
{
    int found = cai_impl_stream_is_array(state, object);
    if (found != 0) /* the values of an array are not looked at: they may be many, or on a GPU that captures */
        return found < 0
                   ? -1
                   : cai_impl_stream_refuse(state, object, CAI_ERROR_INVALID_STREAM, ", which is an array", NULL, "");
    found = cai_impl_stream_from_older(state, object, stream);
    if (found != 0)
        return found < 0 ? -1 : 0;
    if (PyIndex_Check(object)) /* NumPy's integers */
        return cai_impl_stream_read_handle(state, object, " ", object, stream);
    return cai_impl_stream_refuse(state, object, CAI_ERROR_INVALID_STREAM, " ", object, "");
}

CAI_API int cai_stream_from_object(cai_state_t *state, PyObject *object, cai_stream_t *stream)
{
    PyObject *attribute;
    int       result;
    *stream = CAI_STREAM_LEGACY;
    if (object == Py_None)
        return 0;
    if (PyLong_Check(object))
        return cai_impl_stream_read_handle(state, object, " ", object, stream);
    result = cai_impl_get_attribute(object, cai_impl_name(state, CAI_IMPL_NAME_CUDA_STREAM), &attribute);
    if (result <= 0)
        return result < 0 ? -1 : cai_impl_stream_without_protocol(state, object, stream);
    result = cai_impl_stream_ask(state, object, attribute, stream);
    Py_DECREF(attribute);
    return result;
}

#endif /* CAI_CUDA_STREAM_H */
