/**
 * cai/array_type.h - arrays as Python objects: the ready-made types Array and Stream, and every protocol for a type of the
 * author's own.
 *
 * An author's type says how to get at its array, and lists what the macros give it among its own slots:
 *
 *   static cai_array_t *buffer_array(PyObject *self);       borrowed; NULL with an exception
 *   static cai_state_t *buffer_state(PyObject *self);
 *   CAI_DEFINE_ARRAY_PROTOCOLS(buffer, buffer_state, buffer_array)
 *
 *   static PyMethodDef methods[] = {CAI_ARRAY_METHODS(buffer), …, {NULL, NULL, 0, NULL}};
 *   static PyGetSetDef getset[] = {CAI_ARRAY_GETSET(buffer), …, {NULL, NULL, NULL, NULL, NULL}};
 *   static PyType_Slot slots[] = {CAI_ARRAY_SLOTS(buffer), {Py_tp_methods, methods}, {Py_tp_getset, getset}, …};
 *
 * and calls CAI_ARRAY_TYPE_READY(buffer, state, type) when the type is made. Instances must hold a reference to their
 * array, because a CUDA Array Interface keeps nothing alive. Every function here needs an attached thread state (the GIL).
 *
 * Specification: those of the protocol headers; names of attributes as in NumPy and CuPy.
 */
#ifndef CAI_ARRAY_TYPE_H
#define CAI_ARRAY_TYPE_H

#include <cai/buffer.h>
#include <cai/cuda_array_interface.h>
#include <cai/cuda_stream.h>
#include <cai/dlpack.h>
#include <cai/exchange.h>

/** The type of the objects that cai_array_to_object makes, `Array`: borrowed, made at the first call; NULL with an
 * exception. To be added to the author's module, if its users shall see it. */
CAI_API PyObject *cai_array_type(cai_state_t *state);
/** The type of the objects that cai_stream_to_object makes, `Stream`; as cai_array_type. */
CAI_API PyObject *cai_stream_type(cai_state_t *state);

/**
 * A stream (0 is legacy) as a Python object with `__cuda_stream__`, which keeps `owner` (may be NULL) alive: a new
 * reference, or NULL with an exception.
 */
CAI_API PyObject *cai_stream_to_object(cai_state_t *state, cai_stream_t stream, PyObject *owner);

/** A capsule "cai_array_v1" that holds a reference to the array: for another extension. NULL with an exception. */
CAI_API PyObject *cai_array_to_capsule(cai_state_t *state, cai_array_t *array);
/** The array in such a capsule, which may be read any number of times: a new reference, or NULL with an exception. */
CAI_API cai_array_t *cai_array_from_capsule(cai_state_t *state, PyObject *capsule);

/* What a PyType_Slot points to, functions and tables alike. */
#define CAI_IMPL_SLOT(what) CAI_IMPL_BITS(void *, CAI_IMPL_BITS(uintptr_t, what))

/** Define, in one C file, the functions that the three macros below list. `state_of` and `array_of` take the instance. */
#define CAI_DEFINE_ARRAY_PROTOCOLS(prefix, state_of, array_of)                                                          \
    static PyObject *prefix##_cai_get(PyObject *self, void *which)                                                      \
    {                                                                                                                   \
        cai_array_t *array = array_of(self);                                                                            \
        return array == NULL ? NULL : cai_impl_array_get(state_of(self), array, self, which);                           \
    }                                                                                                                   \
    static PyObject *prefix##_cai_dlpack(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)    \
    {                                                                                                                   \
        cai_array_t *array = array_of(self);                                                                            \
        return array == NULL ? NULL : cai_dlpack_export(state_of(self), array, args, nargs, kwnames);                   \
    }                                                                                                                   \
    static PyObject *prefix##_cai_dlpack_device(PyObject *self, PyObject *ignored)                                      \
    {                                                                                                                   \
        cai_array_t *array = array_of(self);                                                                            \
        (void)ignored;                                                                                                  \
        return array == NULL ? NULL : cai_dlpack_device_export(array);                                                  \
    }                                                                                                                   \
    static int prefix##_cai_get_buffer(PyObject *self, Py_buffer *buffer, int flags)                                    \
    {                                                                                                                   \
        cai_array_t *array = array_of(self);                                                                            \
        buffer->obj = NULL;                                                                                             \
        return array == NULL ? -1 : cai_buffer_export(state_of(self), array, self, buffer, flags);                      \
    }                                                                                                                   \
    static Py_ssize_t prefix##_cai_length(PyObject *self)                                                               \
    {                                                                                                                   \
        cai_array_t *array = array_of(self);                                                                            \
        return array == NULL ? -1 : cai_impl_array_length(array);                                                       \
    }                                                                                                                   \
    static PyObject *prefix##_cai_repr(PyObject *self)                                                                  \
    {                                                                                                                   \
        cai_array_t *array = array_of(self);                                                                            \
        return array == NULL ? NULL : cai_impl_array_repr(self, array);                                                 \
    }                                                                                                                   \
    static int prefix##_cai_exchange_give(void *self, cai_dlpack_managed_versioned_t **out)                             \
    {                                                                                                                   \
        PyObject    *object = CAI_IMPL_CAST(PyObject *, self);                                                          \
        cai_array_t *array = array_of(object);                                                                          \
        return array == NULL ? -1 : cai_impl_exchange_give(state_of(object), array, out);                               \
    }                                                                                                                   \
    static int prefix##_cai_exchange_lend(void *self, cai_tensor_t *out)                                                \
    {                                                                                                                   \
        PyObject    *object = CAI_IMPL_CAST(PyObject *, self);                                                          \
        cai_array_t *array = array_of(object);                                                                          \
        return array == NULL ? -1 : cai_impl_exchange_lend(state_of(object), array, out);                               \
    }                                                                                                                   \
    static int                         prefix##_cai_exchange_take(cai_dlpack_managed_versioned_t *managed, void **out); \
    static const cai_dlpack_exchange_t prefix##_cai_exchange = {{{CAI_DLPACK_MAJOR, CAI_DLPACK_MINOR}, NULL},           \
                                                                cai_impl_exchange_allocate,                             \
                                                                prefix##_cai_exchange_give,                             \
                                                                prefix##_cai_exchange_take,                             \
                                                                prefix##_cai_exchange_lend,                             \
                                                                cai_impl_exchange_legacy};                              \
    static int                         prefix##_cai_exchange_take(cai_dlpack_managed_versioned_t *managed, void **out)  \
    {                                                                                                                   \
        return cai_impl_exchange_make(&prefix##_cai_exchange, managed, out);                                            \
    }

/** Entries of a PyMethodDef table. */
#define CAI_ARRAY_METHODS(prefix)                                                                                      \
    {"__dlpack__", CAI_IMPL_BITS(PyCFunction, CAI_IMPL_BITS(void (*)(void), prefix##_cai_dlpack)),                     \
     METH_FASTCALL | METH_KEYWORDS,                                                                                    \
     "__dlpack__(*, stream=None, max_version=None, dl_device=None, copy=None)\n\nA DLPack capsule of the array."},     \
        {"__dlpack_device__", prefix##_cai_dlpack_device, METH_NOARGS,                                                 \
         "(device type, device number), as DLPack has them"},                                                          \
        {"__reduce_ex__", cai_impl_array_reduce, METH_O, "Refused: an array is memory, not values."}

/** Entries of a PyGetSetDef table. */
#define CAI_ARRAY_GETSET(prefix)                                                                                       \
    CAI_IMPL_GETTER(prefix, "shape", CAI_IMPL_GET_SHAPE, "tuple of the extents"),                                      \
        CAI_IMPL_GETTER(prefix, "strides", CAI_IMPL_GET_STRIDES, "tuple of the strides, in bytes"),                    \
        CAI_IMPL_GETTER(prefix, "dtype", CAI_IMPL_GET_DTYPE, "name of the data type, as NumPy has it"),                \
        CAI_IMPL_GETTER(prefix, "ndim", CAI_IMPL_GET_NDIM, "number of dimensions"),                                    \
        CAI_IMPL_GETTER(prefix, "size", CAI_IMPL_GET_SIZE, "number of elements"),                                      \
        CAI_IMPL_GETTER(prefix, "nbytes", CAI_IMPL_GET_NBYTES, "bytes of all elements"),                               \
        CAI_IMPL_GETTER(prefix, "itemsize", CAI_IMPL_GET_ITEMSIZE, "bytes of one element"),                            \
        CAI_IMPL_GETTER(prefix, "device", CAI_IMPL_GET_DEVICE, "'cuda:0', or 'cpu' for memory of the host"),           \
        CAI_IMPL_GETTER(prefix, "stream", CAI_IMPL_GET_STREAM, "the Stream that work is pending on, or None"),         \
        CAI_IMPL_GETTER(prefix, "readonly", CAI_IMPL_GET_READONLY, "whether the array must not be written"),           \
        CAI_IMPL_GETTER(prefix, "ptr", CAI_IMPL_GET_PTR, "address of the first element, 0 without elements"),          \
        CAI_IMPL_GETTER(prefix, "__cuda_array_interface__", CAI_IMPL_GET_CUDA_ARRAY_INTERFACE, "version 3"),           \
        CAI_IMPL_GETTER(prefix, "__array_interface__", CAI_IMPL_GET_ARRAY_INTERFACE,                                   \
                        "for memory that the host reaches"),                                                           \
        CAI_IMPL_GETTER(prefix, "_capsule", CAI_IMPL_GET_CAPSULE, "for other extensions that use cai")

/** Entries of a PyType_Slot table: the buffer protocol, len() and repr(). */
#define CAI_ARRAY_SLOTS(prefix)                                                                                        \
    {Py_bf_getbuffer, CAI_IMPL_SLOT(prefix##_cai_get_buffer)},                                                         \
        {Py_bf_releasebuffer, CAI_IMPL_SLOT(cai_buffer_release)}, {Py_mp_length, CAI_IMPL_SLOT(prefix##_cai_length)},  \
    {                                                                                                                  \
        Py_tp_repr, CAI_IMPL_SLOT(prefix##_cai_repr)                                                                   \
    }

/** Put `__dlpack_c_exchange_api__` onto a type that was made. 0, or -1 with an exception. */
#define CAI_ARRAY_TYPE_READY(prefix, state, type) cai_impl_array_type_ready(state, type, &prefix##_cai_exchange)

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* What a getter is asked for; never 0, since it travels as a pointer. */
enum {
    CAI_IMPL_GET_SHAPE = 1,
    CAI_IMPL_GET_STRIDES,
    CAI_IMPL_GET_DTYPE,
    CAI_IMPL_GET_NDIM,
    CAI_IMPL_GET_SIZE,
    CAI_IMPL_GET_NBYTES,
    CAI_IMPL_GET_ITEMSIZE,
    CAI_IMPL_GET_DEVICE,
    CAI_IMPL_GET_STREAM,
    CAI_IMPL_GET_READONLY,
    CAI_IMPL_GET_PTR,
    CAI_IMPL_GET_CUDA_ARRAY_INTERFACE,
    CAI_IMPL_GET_ARRAY_INTERFACE,
    CAI_IMPL_GET_CAPSULE
};

#define CAI_IMPL_GETTER(prefix, name, which, doc)                                                                      \
    {name, prefix##_cai_get, NULL, doc, CAI_IMPL_BITS(void *, CAI_IMPL_CAST(uintptr_t, which))}

CAI_IMPL int cai_impl_exchange_make(const cai_dlpack_exchange_t *table, cai_dlpack_managed_versioned_t *managed,
                                    void **out);
CAI_IMPL_COLD PyObject *cai_impl_array_object_new(cai_state_t *state, cai_array_t *array);

/* ------------------------------------------------------------------------------------------------- attributes ---- */

/* The device in words: 'cuda:1', and 'cpu' for memory that belongs to no device. */
CAI_IMPL PyObject *cai_impl_array_device_name(const cai_array_t *array)
{
    const cai_device_t device = array->tensor.device;
    if (device.device_type == CAI_DEVICE_CUDA || device.device_type == CAI_DEVICE_CUDA_MANAGED)
        return PyUnicode_FromFormat("cuda:%d", device.device_id);
    return PyUnicode_FromString("cpu");
}

/* What an attribute raises when an object has it not, after another exception of the export: consumers look for the
 * attribute, and go on to the next protocol. */
CAI_IMPL PyObject *cai_impl_as_attribute(PyObject *result)
{
    PyObject *cause;
    if (result != NULL || PyErr_ExceptionMatches(PyExc_RuntimeError) || cai_impl_exception_is_final())
        return result;
    cause = cai_impl_take_exception();
    PyErr_Format(PyExc_AttributeError, "%S", cause);
    cai_impl_chain(cause);
    return NULL;
}

CAI_IMPL PyObject *cai_impl_array_dtype_name(const cai_array_t *array)
{
    char name[CAI_DTYPE_NAME_SIZE];
    return PyUnicode_FromString(cai_dtype_name(array->tensor.dtype, name));
}

CAI_IMPL PyObject *cai_impl_array_get(cai_state_t *state, cai_array_t *array, PyObject *self, void *which)
{
    const cai_tensor_t *tensor = &array->tensor;
    switch (CAI_IMPL_BITS(uintptr_t, which)) {
    case CAI_IMPL_GET_SHAPE: return cai_impl_integers_as_tuple(tensor->shape, tensor->ndim);
    case CAI_IMPL_GET_STRIDES: return cai_impl_strides_as_tuple(tensor);
    case CAI_IMPL_GET_DTYPE: return cai_impl_array_dtype_name(array);
    case CAI_IMPL_GET_NDIM: return PyLong_FromLong(tensor->ndim);
    case CAI_IMPL_GET_SIZE: return PyLong_FromLongLong(cai_tensor_size(tensor));
    case CAI_IMPL_GET_NBYTES: return PyLong_FromLongLong(cai_impl_array_nbytes(array));
    case CAI_IMPL_GET_ITEMSIZE: return PyLong_FromLongLong(cai_dtype_itemsize(tensor->dtype));
    case CAI_IMPL_GET_DEVICE: return cai_impl_array_device_name(array);
    case CAI_IMPL_GET_STREAM:
        return array->stream == NULL ? Py_NewRef(Py_None)
                                     : cai_stream_to_object(state, cai_impl_array_stream(array), self);
    case CAI_IMPL_GET_READONLY: return PyBool_FromLong((array->flags & CAI_READONLY) != 0);
    case CAI_IMPL_GET_PTR: return PyLong_FromVoidPtr(tensor->data);
    case CAI_IMPL_GET_CUDA_ARRAY_INTERFACE: return cai_impl_as_attribute(cai_cuda_array_interface_export(state, array));
    case CAI_IMPL_GET_ARRAY_INTERFACE: return cai_impl_as_attribute(cai_array_interface_export(state, array));
    default: return cai_array_to_capsule(state, array);
    }
}

CAI_IMPL Py_ssize_t cai_impl_array_length(const cai_array_t *array)
{
    if (array->tensor.ndim > 0)
        return array->tensor.shape[0];
    PyErr_SetString(PyExc_TypeError, "len() of an array of no dimensions");
    return -1;
}

/* "Array(shape=(3, 4), dtype=float32, device='cuda:0', readonly)". */
CAI_IMPL PyObject *cai_impl_array_repr(PyObject *self, const cai_array_t *array)
{
    const cai_tensor_t *tensor = &array->tensor;
    PyObject   *name = PyObject_GetAttrString(CAI_IMPL_BITS(PyObject *, Py_TYPE(self)), "__name__"), *text = NULL;
    PyObject   *shape = cai_impl_integers_as_tuple(tensor->shape, tensor->ndim);
    PyObject   *strides = cai_impl_strides_as_tuple(tensor);
    PyObject   *dtype = cai_impl_array_dtype_name(array), *device = cai_impl_array_device_name(array);
    const char *readonly = (array->flags & CAI_READONLY) != 0 ? ", readonly" : "";
    if (name != NULL && shape != NULL && strides != NULL && dtype != NULL && device != NULL) {
        if (cai_tensor_is_c_contiguous(tensor))
            text = PyUnicode_FromFormat("%U(shape=%R, dtype=%U, device=%R%s)", name, shape, dtype, device, readonly);
        else
            text = PyUnicode_FromFormat("%U(shape=%R, strides=%R, dtype=%U, device=%R%s)", name, shape, strides, dtype,
                                        device, readonly);
    }
    Py_XDECREF(name);
    Py_XDECREF(shape);
    Py_XDECREF(strides);
    Py_XDECREF(dtype);
    Py_XDECREF(device);
    return text;
}

/* Behind pickle and copy. */
CAI_IMPL PyObject *cai_impl_array_reduce(PyObject *self, PyObject *protocol)
{
    (void)protocol;
    PyErr_Format(
        PyExc_TypeError,
        "%R can be neither pickled nor copied: it is memory, maybe of a GPU, that has an owner; make an array of a "
        "library of it (numpy.from_dlpack, cupy.from_dlpack, torch.from_dlpack) and copy that",
        self);
    return NULL;
}

/* -------------------------------------------------------------------------------------------------- capsules ----- */

CAI_IMPL_COLD void cai_impl_array_capsule_end(PyObject *capsule)
{
    PyObject *pending = cai_impl_put_aside();
    cai_array_release(CAI_IMPL_CAST(cai_array_t *, PyCapsule_GetPointer(capsule, CAI_ARRAY_CAPSULE)));
    cai_impl_put_back(pending);
}

CAI_API PyObject *cai_array_to_capsule(cai_state_t *state, cai_array_t *array)
{
    PyObject *capsule = PyCapsule_New(array, CAI_ARRAY_CAPSULE, cai_impl_array_capsule_end);
    (void)state;
    if (capsule != NULL)
        (void)cai_array_retain(array);
    return capsule;
}

CAI_API cai_array_t *cai_array_from_capsule(cai_state_t *state, PyObject *capsule)
{
    cai_array_t *array;
    cai_error_t  error;
    if (PyCapsule_IsValid(capsule, CAI_ARRAY_CAPSULE) == 0) {
        (void)cai_error_set(&error, CAI_ERROR_INVALID_CAPSULE, "expected a capsule named \"" CAI_ARRAY_CAPSULE "\"");
        (void)cai_raise(state, &error);
        return NULL;
    }
    array = CAI_IMPL_CAST(cai_array_t *, PyCapsule_GetPointer(capsule, CAI_ARRAY_CAPSULE));
    if (array->abi == CAI_ARRAY_ABI)
        return cai_array_retain(array);
    (void)cai_error_set(&error, CAI_ERROR_INVALID_VERSION, "an array of binary interface %u; this is %d", array->abi,
                        CAI_ARRAY_ABI);
    (void)cai_raise(state, &error);
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------- Stream -- */

typedef struct cai_impl_stream_object {
    PyObject_HEAD
    cai_stream_t stream;
    PyObject    *owner; /* or NULL */
} cai_impl_stream_object_t;

CAI_IMPL cai_impl_stream_object_t *cai_impl_stream_self(PyObject *self)
{
    return CAI_IMPL_BITS(cai_impl_stream_object_t *, self);
}

CAI_IMPL PyObject *cai_impl_stream_handle(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(cai_stream_to_handle(cai_impl_stream_self(self)->stream));
}

CAI_IMPL PyObject *cai_impl_stream_int(PyObject *self)
{
    return cai_impl_stream_handle(self, NULL);
}

CAI_IMPL PyObject *cai_impl_stream_protocol(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    return Py_BuildValue("(iK)", 0,
                         CAI_IMPL_CAST(unsigned long long, cai_stream_to_handle(cai_impl_stream_self(self)->stream)));
}

CAI_IMPL PyObject *cai_impl_stream_repr(PyObject *self)
{
    const cai_stream_t stream = cai_impl_stream_self(self)->stream;
    if (stream == CAI_STREAM_LEGACY)
        return PyUnicode_FromString("Stream(legacy)");
    if (stream == CAI_STREAM_PER_THREAD)
        return PyUnicode_FromString("Stream(per thread)");
    return PyUnicode_FromFormat("Stream(%p)", CAI_IMPL_CAST(void *, stream));
}

CAI_IMPL Py_hash_t cai_impl_stream_hash(PyObject *self)
{
    return CAI_IMPL_CAST(Py_hash_t, cai_stream_to_handle(cai_impl_stream_self(self)->stream) >> 1);
}

CAI_IMPL PyObject *cai_impl_stream_compare(PyObject *self, PyObject *other, int operation)
{
    bool equal;
    if (Py_TYPE(self) != Py_TYPE(other) || (operation != Py_EQ && operation != Py_NE))
        return Py_NewRef(Py_NotImplemented);
    equal = cai_impl_stream_self(self)->stream == cai_impl_stream_self(other)->stream;
    return PyBool_FromLong(equal == (operation == Py_EQ));
}

CAI_IMPL int cai_impl_stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(CAI_IMPL_BITS(PyObject *, Py_TYPE(self)));
    Py_VISIT(cai_impl_stream_self(self)->owner);
    return 0;
}

CAI_IMPL int cai_impl_stream_clear(PyObject *self)
{
    Py_CLEAR(cai_impl_stream_self(self)->owner);
    return 0;
}

/* The end of an object of a heap type with garbage collection. */
CAI_IMPL void cai_impl_object_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc      release = CAI_IMPL_BITS(freefunc, CAI_IMPL_BITS(uintptr_t, PyType_GetSlot(type, Py_tp_free)));
    release(self);
    Py_DECREF(CAI_IMPL_BITS(PyObject *, type));
}

CAI_IMPL void cai_impl_stream_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    (void)cai_impl_stream_clear(self);
    cai_impl_object_free(self);
}

CAI_IMPL allocfunc cai_impl_type_allocator(PyObject *type)
{
    void *slot = PyType_GetSlot(CAI_IMPL_BITS(PyTypeObject *, type), Py_tp_alloc);
    return CAI_IMPL_BITS(allocfunc, CAI_IMPL_BITS(uintptr_t, slot));
}

/* A new heap type that belongs to the state's module, and is named `name` there. */
CAI_IMPL_COLD PyObject *cai_impl_type_new(cai_state_t *state, const char *name, size_t size, PyType_Slot *slots)
{
    PyType_Spec spec;
    PyObject   *type, *module_name;
    spec.name = name;
    spec.basicsize = CAI_IMPL_CAST(int, size);
    spec.itemsize = 0;
    spec.flags =
        CAI_IMPL_CAST(unsigned int, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION);
    spec.slots = slots;
    type = state->impl_module == NULL ? PyType_FromSpec(&spec)
                                      : PyType_FromModuleAndSpec(state->impl_module, &spec, NULL);
    if (type == NULL || state->impl_module == NULL)
        return type;
    module_name = PyModule_GetNameObject(state->impl_module);
    if (module_name == NULL || PyObject_SetAttr(type, cai_impl_name(state, CAI_IMPL_NAME_MODULE), module_name) < 0)
        Py_CLEAR(type);
    Py_XDECREF(module_name);
    return type;
}

/* Put a new type (stolen; NULL with an exception) into its place in the state, unless another thread was faster. */
CAI_IMPL_COLD PyObject *cai_impl_type_keep(PyObject **place, PyObject *type)
{
    PyObject *none = NULL;
    if (type == NULL || __atomic_compare_exchange_n(place, &none, type, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return type;
    Py_DECREF(type);
    return none;
}

CAI_API PyObject *cai_stream_type(cai_state_t *state)
{
    static const PyMethodDef methods[] = {
        {"__cuda_stream__", cai_impl_stream_protocol, METH_NOARGS, "(0, handle): the CUDA stream protocol, version 0"},
        {NULL, NULL, 0, NULL}};
    static const PyGetSetDef getset[] = {
        {"handle", cai_impl_stream_handle, NULL, "the stream as a number, never 0", NULL},
        {NULL, NULL, NULL, NULL, NULL}};
    static const char doc[] = "A CUDA stream, and whatever keeps it alive.";
    PyType_Slot       slots[] = {{Py_tp_doc, CAI_IMPL_SLOT(doc)},
                                 {Py_tp_methods, CAI_IMPL_SLOT(methods)}, /* Python reads these tables only */
                                 {Py_tp_getset, CAI_IMPL_SLOT(getset)},
                                 {Py_tp_traverse, CAI_IMPL_SLOT(cai_impl_stream_traverse)},
                                 {Py_tp_clear, CAI_IMPL_SLOT(cai_impl_stream_clear)},
                                 {Py_tp_dealloc, CAI_IMPL_SLOT(cai_impl_stream_dealloc)},
                                 {Py_tp_repr, CAI_IMPL_SLOT(cai_impl_stream_repr)},
                                 {Py_tp_hash, CAI_IMPL_SLOT(cai_impl_stream_hash)},
                                 {Py_tp_richcompare, CAI_IMPL_SLOT(cai_impl_stream_compare)},
                                 {Py_nb_int, CAI_IMPL_SLOT(cai_impl_stream_int)},
                                 {Py_nb_index, CAI_IMPL_SLOT(cai_impl_stream_int)},
                                 {0, NULL}};
    PyObject         *type = __atomic_load_n(&state->impl_stream_type, __ATOMIC_ACQUIRE);
    if (CAI_IMPL_LIKELY(type != NULL))
        return type;
    return cai_impl_type_keep(&state->impl_stream_type,
                              cai_impl_type_new(state, "cai.Stream", sizeof(cai_impl_stream_object_t), slots));
}

CAI_API PyObject *cai_stream_to_object(cai_state_t *state, cai_stream_t stream, PyObject *owner)
{
    PyObject                 *type = cai_stream_type(state);
    allocfunc                 allocate;
    cai_impl_stream_object_t *self;
    if (type == NULL)
        return NULL;
    allocate = cai_impl_type_allocator(type);
    self = CAI_IMPL_BITS(cai_impl_stream_object_t *, allocate(CAI_IMPL_BITS(PyTypeObject *, type), 0));
    if (self == NULL)
        return NULL;
    self->stream = stream == NULL ? CAI_STREAM_LEGACY : stream;
    self->owner = Py_XNewRef(owner);
    return CAI_IMPL_BITS(PyObject *, self);
}

/* -------------------------------------------------------------------------------------------------------- Array -- */

typedef struct cai_impl_array_object {
    PyObject_HEAD
    cai_state_t *state; /* of the module that the type keeps alive */
    cai_array_t *array; /* owned; NULL once the garbage collector has broken a cycle */
    PyObject    *weak_references;
} cai_impl_array_object_t;

CAI_IMPL cai_impl_array_object_t *cai_impl_array_self(PyObject *self)
{
    return CAI_IMPL_BITS(cai_impl_array_object_t *, self);
}

CAI_IMPL cai_state_t *cai_impl_array_state(PyObject *self)
{
    return cai_impl_array_self(self)->state;
}

/* Borrowed; NULL with an exception for what the collector has taken apart, or whose module it has. */
CAI_IMPL cai_array_t *cai_impl_array_array(PyObject *self)
{
    cai_impl_array_object_t *object = cai_impl_array_self(self);
    if (CAI_IMPL_LIKELY(object->array != NULL && cai_impl_name(object->state, CAI_IMPL_NAME_SHAPE) != NULL))
        return object->array;
    PyErr_SetString(PyExc_RuntimeError, "the array is being destroyed");
    return NULL;
}

/* A Python object that owns the array's memory, if nobody but this object holds the array: then the reference to it is
 * ours alone, and the garbage collector may follow it. Borrowed, or NULL. */
CAI_IMPL PyObject *cai_impl_array_sole_owner(PyObject *self)
{
    cai_array_t          *array = cai_impl_array_self(self)->array;
    cai_impl_own_array_t *own;
    if (array == NULL || !cai_impl_is_own(array))
        return NULL;
    own = cai_impl_own(array);
    if (!own->keeps_object || __atomic_load_n(&own->references, __ATOMIC_ACQUIRE) != 1)
        return NULL;
    return CAI_IMPL_CAST(cai_impl_kept_t *, own->owner)->object;
}

CAI_IMPL int cai_impl_array_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(CAI_IMPL_BITS(PyObject *, Py_TYPE(self)));
    Py_VISIT(cai_impl_array_sole_owner(self));
    return 0;
}

CAI_IMPL int cai_impl_array_clear(PyObject *self)
{
    cai_impl_array_object_t *object = cai_impl_array_self(self);
    cai_array_t             *array = object->array;
    object->array = NULL;
    cai_array_release(array);
    return 0;
}

CAI_IMPL void cai_impl_array_dealloc(PyObject *self)
{
    PyObject *pending;
    PyObject_GC_UnTrack(self);
    if (cai_impl_array_self(self)->weak_references != NULL)
        PyObject_ClearWeakRefs(self);
    pending = cai_impl_put_aside();
    (void)cai_impl_array_clear(self);
    cai_impl_put_back(pending);
    cai_impl_object_free(self);
}

CAI_DEFINE_ARRAY_PROTOCOLS(cai_impl_array, cai_impl_array_state, cai_impl_array_array)

/* Put the exchange table onto a type, and its state where the table finds it. */
CAI_IMPL_COLD int cai_impl_array_type_ready(cai_state_t *state, PyObject *type, const cai_dlpack_exchange_t *table)
{
    void     *pointer = CAI_IMPL_BITS(void *, CAI_IMPL_BITS(uintptr_t, table)); /* consumers read it only */
    PyObject *capsule = PyCapsule_New(pointer, CAI_DLPACK_CAPSULE_EXCHANGE, NULL);
    int       result;
    if (capsule == NULL)
        return -1;
    result = PyObject_SetAttr(type, cai_impl_name(state, CAI_IMPL_NAME_EXCHANGE), capsule);
    Py_DECREF(capsule);
    return result < 0 ? -1 : cai_impl_table_register(state, table);
}

CAI_API PyObject *cai_array_type(cai_state_t *state)
{
    static const PyMethodDef methods[] = {CAI_ARRAY_METHODS(cai_impl_array), {NULL, NULL, 0, NULL}};
    static const PyGetSetDef getset[] = {CAI_ARRAY_GETSET(cai_impl_array), {NULL, NULL, NULL, NULL, NULL}};
    static const PyMemberDef members[] = {{"__weaklistoffset__", CAI_IMPL_T_PYSSIZET,
                                           offsetof(cai_impl_array_object_t, weak_references), CAI_IMPL_READONLY, NULL},
                                          {NULL, 0, 0, 0, NULL}};
    static const char        doc[] = "An array in the memory of a GPU or of the host, for every library: by "
                                     "__cuda_array_interface__, DLPack, the buffer protocol.";
    PyType_Slot              slots[] = {CAI_ARRAY_SLOTS(cai_impl_array),
                                        {Py_tp_doc, CAI_IMPL_SLOT(doc)},
                                        {Py_tp_methods, CAI_IMPL_SLOT(methods)}, /* Python reads these tables only */
                                        {Py_tp_getset, CAI_IMPL_SLOT(getset)},
                                        {Py_tp_members, CAI_IMPL_SLOT(members)},
                                        {Py_tp_traverse, CAI_IMPL_SLOT(cai_impl_array_traverse)},
                                        {Py_tp_clear, CAI_IMPL_SLOT(cai_impl_array_clear)},
                                        {Py_tp_dealloc, CAI_IMPL_SLOT(cai_impl_array_dealloc)},
                                        {0, NULL}};
    PyObject                *type = __atomic_load_n(&state->impl_array_type, __ATOMIC_ACQUIRE);
    if (CAI_IMPL_LIKELY(type != NULL))
        return type;
    type = cai_impl_type_new(state, "cai.Array", sizeof(cai_impl_array_object_t), slots);
    if (type != NULL && cai_impl_array_type_ready(state, type, &cai_impl_array_cai_exchange) < 0)
        Py_CLEAR(type);
    return cai_impl_type_keep(&state->impl_array_type, type);
}

/* A new Array that holds a reference to the array. */
CAI_IMPL_COLD PyObject *cai_impl_array_object_new(cai_state_t *state, cai_array_t *array)
{
    PyObject                *type = cai_array_type(state);
    allocfunc                allocate;
    cai_impl_array_object_t *self;
    if (type == NULL)
        return NULL;
    allocate = cai_impl_type_allocator(type);
    self = CAI_IMPL_BITS(cai_impl_array_object_t *, allocate(CAI_IMPL_BITS(PyTypeObject *, type), 0));
    if (self == NULL)
        return NULL;
    self->state = state;
    self->array = cai_array_retain(array);
    return CAI_IMPL_BITS(PyObject *, self);
}

/* managed_tensor_to_py_object_no_sync: the tensor is consumed only where this succeeds. */
CAI_IMPL int cai_impl_exchange_make(const cai_dlpack_exchange_t *table, cai_dlpack_managed_versioned_t *managed,
                                    void **out)
{
    cai_state_t *state = cai_impl_table_state(table);
    cai_array_t *array = state == NULL ? NULL : cai_impl_exchange_take(state, managed);
    *out = NULL;
    if (array == NULL)
        return -1;
    *out = cai_impl_array_object_new(state, array);
    if (*out == NULL && cai_impl_is_own(array))
        cai_impl_own(array)->deleter = NULL; /* the tensor is still the caller's */
    cai_array_release(array);
    return *out == NULL ? -1 : 0;
}

#endif /* CAI_ARRAY_TYPE_H */
