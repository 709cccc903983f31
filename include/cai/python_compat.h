/**
 * cai/python_compat.h - the only includer of Python.h, and the only place with differences between Python versions.
 *
 * CPython 3.10 and newer, the limited API from 3.11 (the first with Py_buffer), and free-threaded builds. Each wrapper
 * names the version that made it unnecessary, so that it can be removed with confidence.
 *
 * Python.h asks to come before the standard headers: include <cai/cai.h> first, or Python.h yourself.
 */
#ifndef CAI_PYTHON_COMPAT_H
#define CAI_PYTHON_COMPAT_H

#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#endif
#include <Python.h>

#include <cai/core.h>

#if PY_VERSION_HEX < 0x030A0000
#error "cai needs Python 3.10 or newer"
#endif
#if defined(Py_LIMITED_API) && Py_LIMITED_API + 0 < 0x030B0000
#error "cai needs Py_LIMITED_API of 0x030B0000 (Python 3.11) or newer: earlier ones have no buffer protocol"
#endif

/* The oldest Python that the extension has to run on. */
#if defined(Py_LIMITED_API)
#define CAI_IMPL_PYTHON (Py_LIMITED_API + 0)
#else
#define CAI_IMPL_PYTHON PY_VERSION_HEX
#endif

CAI_IMPL_STATIC_ASSERT(sizeof(Py_buffer) <= CAI_IMPL_BUFFER_WORDS * sizeof(uint64_t), "a view holds a Py_buffer");

/* Free-threaded builds: two threads must not take one capsule, nor one change a dict that another walks. The lock helps
 * against code that takes it as well. Objects' own locks exist since 3.13, outside the limited API until 3.15. */
#if defined(Py_GIL_DISABLED) && !defined(Py_LIMITED_API)
#define CAI_IMPL_BEGIN_CRITICAL_SECTION(object) Py_BEGIN_CRITICAL_SECTION(object)
#define CAI_IMPL_END_CRITICAL_SECTION()         Py_END_CRITICAL_SECTION()
#else
#define CAI_IMPL_BEGIN_CRITICAL_SECTION(object) {
#define CAI_IMPL_END_CRITICAL_SECTION()         }
#endif

/* Whether other threads may run Python code between two of cai's calls, without cai having called anything. */
#if defined(Py_GIL_DISABLED)
#define CAI_IMPL_FREE_THREADED 1
#else
#define CAI_IMPL_FREE_THREADED 0
#endif

/* Whether a struct that begins with PyObject_HEAD may be read where it is: Python's own header is known, and no other
 * thread changes the object meanwhile. */
#if defined(Py_GIL_DISABLED) || defined(_Py_OPAQUE_PYOBJECT) || defined(PYPY_VERSION) || defined(GRAALVM_PYTHON)
#define CAI_IMPL_OBJECTS_LIE_STILL 0
#else
#define CAI_IMPL_OBJECTS_LIE_STILL 1
#endif

/* The attribute's value (a new reference) and 1; NULL and 0 if there is none, which only AttributeError means; NULL and
 * -1 with any other exception set. PyObject_GetOptionalAttr does it since 3.13. */
CAI_IMPL int cai_impl_get_attribute(PyObject *object, PyObject *name, PyObject **value)
{
#if CAI_IMPL_PYTHON >= 0x030D0000
    return PyObject_GetOptionalAttr(object, name, value);
#else
    *value = PyObject_GetAttr(object, name);
    if (*value != NULL)
        return 1;
    if (!PyErr_ExceptionMatches(PyExc_AttributeError))
        return -1;
    PyErr_Clear();
    return 0;
#endif
}

/* The same for an item of a dict. PyDict_GetItemRef does it since 3.13; before that every thread that could change the
 * dict needs the GIL, which is held between the two calls. */
CAI_IMPL int cai_impl_get_item(PyObject *dict, PyObject *key, PyObject **value)
{
#if CAI_IMPL_PYTHON >= 0x030D0000
    return PyDict_GetItemRef(dict, key, value);
#else
    *value = PyDict_GetItemWithError(dict, key);
    if (*value == NULL)
        return PyErr_Occurred() != NULL ? -1 : 0;
    Py_INCREF(*value);
    return 1;
#endif
}

/* Give up a reference that is not the last one, so that no destructor runs: false, and nothing given up, if it may be the
 * last. Without the GIL nobody can say. */
CAI_IMPL bool cai_impl_drop_shared(void *object)
{
    PyObject *owned = CAI_IMPL_CAST(PyObject *, object);
    if (CAI_IMPL_FREE_THREADED || CAI_IMPL_UNLIKELY(Py_REFCNT(owned) < 2))
        return false;
    Py_DECREF(owned);
    return true;
}

/* Take the exception that is set out of the thread state: normalised, a new reference; NULL if none is set.
 * PyErr_GetRaisedException does it since 3.12. */
CAI_IMPL_COLD PyObject *cai_impl_take_exception(void)
{
#if CAI_IMPL_PYTHON >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

/* Set an exception again: steals the reference. NULL clears. PyErr_SetRaisedException does it since 3.12. */
CAI_IMPL_COLD void cai_impl_set_exception(PyObject *exception)
{
#if CAI_IMPL_PYTHON >= 0x030C0000
    PyErr_SetRaisedException(exception);
#else
    if (exception == NULL) {
        PyErr_Clear();
        return;
    }
    PyErr_Restore(Py_NewRef(PyExceptionInstance_Class(exception)), exception, PyException_GetTraceback(exception));
#endif
}

/* Call with positional arguments and, behind them, keyword arguments named by a tuple (or NULL): a new reference.
 * Vectorcall is in the limited API since 3.12. */
CAI_IMPL PyObject *cai_impl_call_object(PyObject *callable, PyObject *const *arguments, Py_ssize_t positional,
                                        PyObject *keywords)
{
#if !defined(Py_LIMITED_API) || CAI_IMPL_PYTHON >= 0x030C0000
    return PyObject_Vectorcall(callable, arguments, CAI_IMPL_CAST(size_t, positional), keywords);
#else
    PyObject        *result = NULL, *tuple = PyTuple_New(positional), *dict = PyDict_New();
    const Py_ssize_t named = keywords == NULL ? 0 : PyTuple_Size(keywords);
    int              failed = tuple == NULL || dict == NULL;
    for (Py_ssize_t i = 0; !failed && i < positional; i++)
        failed = PyTuple_SetItem(tuple, i, Py_NewRef(arguments[i])) < 0;
    for (Py_ssize_t i = 0; !failed && i < named; i++)
        failed = PyDict_SetItem(dict, PyTuple_GetItem(keywords, i), arguments[positional + i]) < 0;
    if (!failed)
        result = PyObject_Call(callable, tuple, dict);
    Py_XDECREF(tuple);
    Py_XDECREF(dict);
    return result;
#endif
}

/* Call a method of arguments[0], as above, without making a bound method first. */
CAI_IMPL PyObject *cai_impl_call_method(PyObject *name, PyObject *const *arguments, Py_ssize_t positional,
                                        PyObject *keywords)
{
#if !defined(Py_LIMITED_API) || CAI_IMPL_PYTHON >= 0x030C0000
    return PyObject_VectorcallMethod(name, arguments, CAI_IMPL_CAST(size_t, positional), keywords);
#else
    PyObject *method = PyObject_GetAttr(arguments[0], name), *result;
    if (method == NULL)
        return NULL;
    result = cai_impl_call_object(method, arguments + 1, positional - 1, keywords);
    Py_DECREF(method);
    return result;
#endif
}

/* The kinds of PyMemberDef: in Python.h since 3.12. */
#if CAI_IMPL_PYTHON >= 0x030C0000
#define CAI_IMPL_T_PYSSIZET Py_T_PYSSIZET
#define CAI_IMPL_READONLY   Py_READONLY
#else
#include <structmember.h>
#define CAI_IMPL_T_PYSSIZET T_PYSSIZET
#define CAI_IMPL_READONLY   READONLY
#endif

/* Whether the interpreter is going down, so that a thread that lets go of it may never get it back. Public since 3.13. */
CAI_IMPL bool cai_impl_is_finalizing(void)
{
#if CAI_IMPL_PYTHON >= 0x030D0000
    return Py_IsFinalizing() != 0;
#elif defined(Py_LIMITED_API)
    return Py_IsInitialized() == 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
}

/* The value of an exact int, without Python code and without an exception: false where it does not fit. An int of one or
 * two digits is read where it lies since 3.12, the first with a public name for that. */
CAI_IMPL bool cai_impl_exact_int64(PyObject *number, int64_t *value)
{
    int overflow = 0;
#if !defined(Py_LIMITED_API) && CAI_IMPL_PYTHON >= 0x030C0000
    if (CAI_IMPL_LIKELY(PyUnstable_Long_IsCompact(CAI_IMPL_BITS(PyLongObject *, number)))) {
        *value = PyUnstable_Long_CompactValue(CAI_IMPL_BITS(PyLongObject *, number));
        return true;
    }
#endif
    *value = PyLong_AsLongLongAndOverflow(number, &overflow);
    return overflow == 0;
}

/* The characters of an exact str that is ASCII, NULL if it is not, without an exception. The limited API, and Python before
 * 3.11 in C++ (macros with old casts), can only ask for UTF-8, which an ASCII str has at hand as well. */
CAI_IMPL const char *cai_impl_exact_ascii(PyObject *text, size_t *length)
{
#if defined(Py_LIMITED_API) || CAI_IMPL_PYTHON < 0x030B0000
    Py_ssize_t  bytes = 0;
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &bytes);
    if (utf8 == NULL)
        PyErr_Clear();
    *length = CAI_IMPL_CAST(size_t, bytes);
    return utf8;
#else
    *length = CAI_IMPL_CAST(size_t, PyUnicode_GET_LENGTH(text));
    return PyUnicode_IS_COMPACT_ASCII(text) ? CAI_IMPL_CAST(const char *, PyUnicode_DATA(text)) : NULL;
#endif
}

/* Item `index` of an exact tuple, borrowed; in the limited API a call instead of a read. */
CAI_IMPL PyObject *cai_impl_tuple_item(PyObject *tuple, Py_ssize_t index)
{
#if defined(Py_LIMITED_API)
    return PyTuple_GetItem(tuple, index);
#else
    return PyTuple_GET_ITEM(tuple, index);
#endif
}

CAI_IMPL Py_ssize_t cai_impl_tuple_size(PyObject *tuple)
{
#if defined(Py_LIMITED_API)
    return PyTuple_Size(tuple);
#else
    return PyTuple_GET_SIZE(tuple);
#endif
}

#endif /* CAI_PYTHON_COMPAT_H */
