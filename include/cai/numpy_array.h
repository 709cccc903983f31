/**
 * cai/numpy_array.h - a numpy.ndarray, read from its C struct instead of asked by the buffer protocol, which says the same
 * and takes twice as long.
 *
 * NumPy publishes the struct and has kept it since version 1.7; its headers are not needed. A type is taken for NumPy's
 * own only if NumPy's table of functions names it and gives one of the two ABI versions that are known here; a subclass
 * (memmap, matrix, an author's own) is read likewise where it has NumPy's own buffer function when it is first met.
 * Everything out of the ordinary is left to the buffer protocol: masked arrays, what is no plain number in the machine's
 * byte order, strides that are no multiple of the item size.
 *
 * Private to cai; object.h is the way in. Specification: PyArrayObject_fields, PyArray_Descr and NPY_TYPES of NumPy's
 * ndarraytypes.h, versions 1.21 to 2.4; NumPy's C API guide (_ARRAY_API).
 */
#ifndef CAI_NUMPY_ARRAY_H
#define CAI_NUMPY_ARRAY_H

#include <cai/reader.h>

#if CAI_IMPL_OBJECTS_LIE_STILL

/* What the two ABI versions have in common at the start of PyArray_Descr. */
typedef struct cai_impl_numpy_descr {
    PyObject_HEAD
    void *typeobj;
    char  kind, type, byteorder, flags;
    int   type_num;
} cai_impl_numpy_descr_t;

/* The start of PyArrayObject_fields. */
typedef struct cai_impl_numpy_array {
    PyObject_HEAD
    void                         *data;
    int                           nd;
    Py_ssize_t                   *dimensions, *strides; /* strides in bytes */
    PyObject                     *base;
    const cai_impl_numpy_descr_t *descr;
    int                           flags;
} cai_impl_numpy_array_t;

CAI_IMPL_ASSERT_OFFSET(cai_impl_numpy_descr_t, byteorder, 26);
CAI_IMPL_ASSERT_OFFSET(cai_impl_numpy_descr_t, type_num, 28);
CAI_IMPL_ASSERT_OFFSET(cai_impl_numpy_array_t, data, 16);
CAI_IMPL_ASSERT_OFFSET(cai_impl_numpy_array_t, nd, 24);
CAI_IMPL_ASSERT_OFFSET(cai_impl_numpy_array_t, dimensions, 32);
CAI_IMPL_ASSERT_OFFSET(cai_impl_numpy_array_t, strides, 40);
CAI_IMPL_ASSERT_OFFSET(cai_impl_numpy_array_t, descr, 56);
CAI_IMPL_ASSERT_OFFSET(cai_impl_numpy_array_t, flags, 64);

/* The start of the table that the capsule _ARRAY_API holds. */
typedef struct cai_impl_numpy_api {
    unsigned (*abi_version)(void); /* PyArray_GetNDArrayCVersion */
    void         *unused;
    PyTypeObject *array_type; /* PyArray_Type */
} cai_impl_numpy_api_t;

/* NPY_ABI_VERSION of NumPy 1.7 to 1.26, and of 2.0 and newer. */
#define CAI_IMPL_NUMPY_ABI_1 0x01000009u
#define CAI_IMPL_NUMPY_ABI_2 0x02000000u

/* NPY_ARRAY_WRITEABLE and NPY_ARRAY_WARN_ON_WRITE: what np.broadcast_arrays gives has both, and is to be read only. */
#define CAI_IMPL_NUMPY_WRITEABLE     0x0400u
#define CAI_IMPL_NUMPY_WARN_ON_WRITE 0x80000000u

/* NumPy's table of functions, if somebody has imported NumPy: a new reference to its capsule and 1; NULL and 0; NULL and
 * -1 with an exception that must not be passed over. */
CAI_IMPL_COLD int cai_impl_numpy_find_api(const cai_state_t *state, PyObject **capsule)
{
    const int found = cai_impl_find_attribute(state, CAI_IMPL_NAME_NUMPY_CORE, CAI_IMPL_NAME_ARRAY_API, capsule);
    if (found != 0)
        return found;
    return cai_impl_find_attribute(state, CAI_IMPL_NAME_NUMPY_1_CORE, CAI_IMPL_NAME_ARRAY_API, capsule);
}

/* What NumPy's table says of a type: CAI_IMPL_TYPE_NUMPY… */
CAI_IMPL uint32_t cai_impl_numpy_facts_by(const cai_impl_numpy_api_t *api, PyTypeObject *type)
{
    if (!PyType_IsSubtype(type, api->array_type) ||
        PyType_GetSlot(type, Py_bf_getbuffer) != PyType_GetSlot(api->array_type, Py_bf_getbuffer) ||
        (api->abi_version() != CAI_IMPL_NUMPY_ABI_1 && api->abi_version() != CAI_IMPL_NUMPY_ABI_2))
        return 0;
    return CAI_IMPL_TYPE_NUMPY_LAYOUT | (type == api->array_type ? CAI_IMPL_TYPE_NUMPY : 0);
}

/* Whether the type is numpy.ndarray or shown as one, with a layout that is known. The table is believed once it names a
 * type that this one is, or is derived from. 0, or -1 with an exception. */
CAI_IMPL_COLD int cai_impl_numpy_facts(const cai_state_t *state, PyTypeObject *type, uint32_t *facts)
{
    PyObject *capsule;
    const int found = cai_impl_numpy_find_api(state, &capsule);
    if (found <= 0)
        return found;
    if (PyCapsule_IsValid(capsule, NULL) != 0)
        *facts |= cai_impl_numpy_facts_by(
            CAI_IMPL_CAST(const cai_impl_numpy_api_t *, PyCapsule_GetPointer(capsule, NULL)), type);
    Py_DECREF(capsule);
    return 0;
}

/* The dtype of a type number (NPY_TYPES); lanes of 0 where the elements are no plain numbers in native order. */
CAI_IMPL_HOT cai_dtype_t cai_impl_numpy_dtype(const cai_impl_numpy_descr_t *descr)
{
    static const cai_dtype_t dtypes[] = {
        CAI_BOOL,   CAI_INT8,  CAI_UINT8,  CAI_INT16,   CAI_UINT16,  CAI_INT32, CAI_UINT32,    CAI_INT64,
        CAI_UINT64, CAI_INT64, CAI_UINT64, CAI_FLOAT32, CAI_FLOAT64, {0, 0, 0}, CAI_COMPLEX64, CAI_COMPLEX128,
        {0, 0, 0},  {0, 0, 0}, {0, 0, 0},  {0, 0, 0},   {0, 0, 0},   {0, 0, 0}, {0, 0, 0},     CAI_FLOAT16,
    };
    const unsigned number = CAI_IMPL_CAST(unsigned, descr->type_num);
    const bool     native = descr->byteorder == '=' || descr->byteorder == '|';
    return native && number < sizeof(dtypes) / sizeof(dtypes[0]) ? dtypes[number] : cai_impl_dtype(0, 0, 0);
}

/* Fill the view from an object whose type has CAI_IMPL_TYPE_NUMPY_LAYOUT. False where the buffer protocol has to read it,
 * or to say why not. */
CAI_IMPL_HOT bool cai_impl_numpy_fill(cai_view_t *view, const PyObject *object)
{
    const cai_impl_numpy_array_t *array = CAI_IMPL_BITS(const cai_impl_numpy_array_t *, object);
    const cai_dtype_t             dtype = cai_impl_numpy_dtype(array->descr);
    const uint32_t                flags = CAI_IMPL_CAST(uint32_t, array->flags);
    unsigned                      shift;
    if (CAI_IMPL_UNLIKELY(dtype.lanes == 0 || array->nd < 0 || array->nd > CAI_MAX_NDIM))
        return false;
    cai_impl_view_set_header(view, array->data, cai_impl_device(CAI_DEVICE_CPU, 0), dtype, array->nd);
    if (CAI_IMPL_UNLIKELY(!cai_impl_item_shift(dtype.bits / 8, &shift) ||
                          !cai_impl_view_fill(view, array->dimensions, array->strides, shift, shift)))
        return false;
    view->flags = (flags & (CAI_IMPL_NUMPY_WRITEABLE | CAI_IMPL_NUMPY_WARN_ON_WRITE)) == CAI_IMPL_NUMPY_WRITEABLE
                      ? 0
                      : CAI_READONLY;
    return true;
}

/* Read it where any host memory will do. ABSENT: the buffer protocol reads it, or says why not. */
CAI_IMPL cai_impl_result_t cai_impl_numpy_read(const cai_impl_reader_t *reader)
{
    cai_view_t *view = reader->view;
    if (!cai_impl_allows(reader->request, CAI_VIA_BUFFER) || !cai_impl_wants_memory(reader->request, CAI_ON_HOST) ||
        !cai_impl_numpy_fill(view, reader->object))
        return CAI_IMPL_ABSENT;
    if (CAI_IMPL_UNLIKELY(!cai_impl_dtype_wanted(reader->request, view->tensor.dtype)))
        return cai_impl_abandon(view, cai_impl_refuse_kind(reader, CAI_VIA_BUFFER, CAI_ERROR_DTYPE_MISMATCH));
    view->protocol = CAI_VIA_BUFFER;
    cai_impl_set_ready_on_host(view);
    return CAI_IMPL_READ;
}

#else

CAI_IMPL_COLD int cai_impl_numpy_facts(const cai_state_t *state, PyTypeObject *type, uint32_t *facts)
{
    (void)state;
    (void)type;
    (void)facts;
    return 0;
}

CAI_IMPL bool cai_impl_numpy_fill(cai_view_t *view, const PyObject *object)
{
    (void)view;
    (void)object;
    return false;
}

CAI_IMPL cai_impl_result_t cai_impl_numpy_read(const cai_impl_reader_t *reader)
{
    (void)reader;
    return CAI_IMPL_ABSENT;
}

#endif

#endif /* CAI_NUMPY_ARRAY_H */
