/* tables.c - libraries with a DLPack exchange table: every member, version and failure of the C exchange API. */
#include <Python.h>

#include <cai/dlpack_abi.h>

#include <stdlib.h>
#include <string.h>

enum { MAX_NDIM = 8 };

/* ---------------------------------------------------------------------------------------- the producer's object */

typedef struct array_object {
    PyObject_HEAD
    cai_tensor_t                    tensor;
    int64_t                         shape[MAX_NDIM], strides[MAX_NDIM];
    uint64_t                        flags;
    uint32_t                        major;                /* version stamped on owned tensors */
    int                             lent, owned, deleted; /* calls of the table's functions and of the deleter */
    int                             null_strides, null_deleter, fail_silently;
    PyObject                       *raises;  /* exception that both functions raise, or NULL */
    PyObject                       *during;  /* called at the end of each function, or NULL */
    cai_dlpack_managed_versioned_t *managed; /* of an object that the table made: deleted with it; else NULL */
} array_object_t;

/* How the functions behave that make objects and memory; each failure is one that a library can have. */
enum { WORKS, FAILS, FAILS_SILENTLY, GIVES_NULL, CONSUMES_AND_FAILS, FAILS_TWICE, FAILS_AND_RAISES, GIVES_ANOTHER };
static int       making, allocating;
static PyObject *made_type; /* of the objects that the table makes; kept for the life of the process */
static void     *memory;    /* what the allocator gives out; NULL: the host's */
static int       allocated, freed, given, made;

/* What current_work_stream answers: a handle, or -1 to raise. Asked for which device. */
static long long work_stream;
static int32_t   asked_type, asked_id;
static int       asked;

static int fill_shape(array_object_t *self, PyObject *shape, PyObject *strides)
{
    const Py_ssize_t ndim = PyTuple_Size(shape);
    int64_t          next = 1;
    if (ndim < 0 || ndim > MAX_NDIM || (strides != Py_None && PyTuple_Size(strides) != ndim))
        return -1;
    self->tensor.ndim = (int32_t)ndim;
    for (Py_ssize_t i = ndim - 1; i >= 0; i--) {
        self->shape[i] = PyLong_AsLongLong(PyTuple_GetItem(shape, i));
        self->strides[i] = strides == Py_None ? next : PyLong_AsLongLong(PyTuple_GetItem(strides, i));
        next *= self->shape[i];
    }
    self->tensor.shape = self->shape;
    self->tensor.strides = self->strides;
    return PyErr_Occurred() == NULL ? 0 : -1;
}

static int array_init(PyObject *object, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"pointer",     "shape",  "dtype",         "device",       "strides",      "flags",  "major",
                            "byte_offset", "raises", "fail_silently", "null_strides", "null_deleter", "during", NULL};
    array_object_t    *self = (array_object_t *)object;
    PyObject          *shape, *strides = Py_None, *raises = NULL, *during = NULL;
    unsigned long long pointer, flags = 0, offset = 0;
    int                code, bits, lanes, type = 1, id = 0, major = 1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "KO!(iii)|(ii)OKiKOpppO", names, &pointer, &PyTuple_Type, &shape,
                                     &code, &bits, &lanes, &type, &id, &strides, &flags, &major, &offset, &raises,
                                     &self->fail_silently, &self->null_strides, &self->null_deleter, &during))
        return -1;
    self->tensor.data = (void *)(uintptr_t)pointer;
    self->tensor.dtype.code = (uint8_t)code;
    self->tensor.dtype.bits = (uint8_t)bits;
    self->tensor.dtype.lanes = (uint16_t)lanes;
    self->tensor.device.device_type = type;
    self->tensor.device.device_id = id;
    self->tensor.byte_offset = offset;
    self->flags = flags;
    self->major = (uint32_t)major;
    self->raises = raises == Py_None ? NULL : Py_XNewRef(raises);
    self->during = during == Py_None ? NULL : Py_XNewRef(during);
    return fill_shape(self, shape, strides);
}

static void array_dealloc(PyObject *object)
{
    array_object_t *self = (array_object_t *)object;
    PyTypeObject   *type = Py_TYPE(object);
    Py_XDECREF(self->raises);
    Py_XDECREF(self->during);
    if (self->managed != NULL)
        self->managed->deleter(self->managed);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *array_counts(PyObject *object, PyObject *unused)
{
    array_object_t *self = (array_object_t *)object;
    (void)unused;
    return Py_BuildValue("{s:i,s:i,s:i}", "lent", self->lent, "owned", self->owned, "deleted", self->deleted);
}

static PyObject *array_set_pointer(PyObject *object, PyObject *pointer)
{
    ((array_object_t *)object)->tensor.data = PyLong_AsVoidPtr(pointer);
    return PyErr_Occurred() == NULL ? Py_NewRef(Py_None) : NULL;
}

static PyObject *integers(const int64_t *values, int32_t n)
{
    PyObject *tuple = PyTuple_New(n);
    for (int32_t i = 0; tuple != NULL && i < n; i++)
        PyTuple_SetItem(tuple, i, PyLong_FromLongLong(values[i]));
    return tuple;
}

static PyObject *array_describe(PyObject *object, PyObject *unused)
{
    array_object_t     *self = (array_object_t *)object;
    const cai_tensor_t *tensor = &self->tensor;
    (void)unused;
    return Py_BuildValue("{s:K,s:N,s:N,s:(iii),s:(ii),s:K}", "pointer", (unsigned long long)(uintptr_t)tensor->data,
                         "shape", integers(tensor->shape, tensor->ndim), "strides",
                         integers(tensor->strides, tensor->ndim), "dtype", tensor->dtype.code, tensor->dtype.bits,
                         tensor->dtype.lanes, "device", tensor->device.device_type, tensor->device.device_id, "flags",
                         (unsigned long long)self->flags);
}

static PyMethodDef array_methods[] = {
    {"describe", array_describe, METH_NOARGS, "The tensor, as a dict."},
    {"counts", array_counts, METH_NOARGS, "How often the tensor was lent, owned and deleted."},
    {"set_pointer", array_set_pointer, METH_O, "Move the array, as torch's resize_ and set_ do."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot array_slots[] = {
    {Py_tp_init, (void *)(uintptr_t)array_init},
    {Py_tp_dealloc, (void *)(uintptr_t)array_dealloc},
    {Py_tp_methods, array_methods},
    {0, NULL},
};

static PyType_Spec array_spec = {
    .name = "tables.Array",
    .basicsize = sizeof(array_object_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = array_slots,
};

/* ------------------------------------------------------------------------------------------- the table's functions */

/* The end of a function of the table: whatever the object is told to do. */
static int finish(array_object_t *self)
{
    if (self->raises != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(self->raises), self->raises);
        return -1;
    }
    if (self->during != NULL) {
        PyObject *result = PyObject_CallNoArgs(self->during);
        if (result == NULL)
            return -1;
        Py_DECREF(result);
    }
    return self->fail_silently ? -1 : 0;
}

static int lend(void *object, cai_tensor_t *out)
{
    array_object_t *self = (array_object_t *)object;
    self->lent++;
    *out = self->tensor;
    if (self->null_strides)
        out->strides = NULL;
    return finish(self);
}

static void delete_owned(cai_dlpack_managed_versioned_t *managed)
{
    array_object_t *self = (array_object_t *)managed->manager_ctx;
    self->deleted++;
    free(managed);
    Py_DECREF(self);
}

static int own(void *object, cai_dlpack_managed_versioned_t **out)
{
    array_object_t *self = (array_object_t *)object;
    self->owned++;
    if (finish(self) < 0)
        return -1;
    *out = (cai_dlpack_managed_versioned_t *)calloc(1, sizeof(**out));
    (*out)->version.major = self->major;
    (*out)->flags = self->flags;
    (*out)->tensor = self->tensor;
    if (self->null_strides)
        (*out)->tensor.strides = NULL;
    if (!self->null_deleter) {
        (*out)->manager_ctx = Py_NewRef(self);
        (*out)->deleter = delete_owned;
    }
    return 0;
}

static int current_work_stream(int32_t device_type, int32_t device_id, void **out)
{
    asked++;
    asked_type = device_type;
    asked_id = device_id;
    if (work_stream < 0) {
        PyErr_SetString(PyExc_RuntimeError, "no stream today");
        return -1;
    }
    *out = (void *)(uintptr_t)work_stream;
    return 0;
}

/* Make an object of a tensor that is handed over. */
static int to_object(cai_dlpack_managed_versioned_t *managed, void **out)
{
    array_object_t *self;
    given++;
    if (making == CONSUMES_AND_FAILS)
        managed->deleter(managed);
    if (making == FAILS || making == CONSUMES_AND_FAILS)
        PyErr_SetString(PyExc_LookupError, "no object today");
    if (making != WORKS && making != GIVES_NULL)
        return -1;
    *out = NULL;
    if (making == GIVES_NULL)
        return 0;
    self = (array_object_t *)((PyTypeObject *)made_type)->tp_alloc((PyTypeObject *)made_type, 0);
    if (self == NULL)
        return -1;
    self->tensor = managed->tensor;
    self->tensor.shape = self->shape;
    self->tensor.strides = self->strides;
    memcpy(self->shape, managed->tensor.shape, (size_t)managed->tensor.ndim * sizeof(int64_t));
    memcpy(self->strides, managed->tensor.strides, (size_t)managed->tensor.ndim * sizeof(int64_t));
    self->flags = managed->flags;
    self->major = managed->version.major;
    self->managed = managed;
    made++;
    *out = self;
    return 0;
}

static void free_allocated(cai_dlpack_managed_versioned_t *managed)
{
    freed++;
    free(managed->manager_ctx);
    free(managed);
}

/* Fails as it is told; by the contract it says why, once, without Python. */
static int refuse_memory(void *context, void (*set_error)(void *context, const char *kind, const char *message))
{
    if (allocating == FAILS || allocating == FAILS_TWICE || allocating == FAILS_AND_RAISES)
        set_error(context, "MemoryError", "no memory today\nnor tomorrow");
    if (allocating == FAILS_TWICE)
        set_error(context, "RuntimeError", "again");
    if (allocating == FAILS_AND_RAISES)
        PyErr_SetString(PyExc_LookupError, "no memory for Python");
    return allocating == GIVES_NULL ? 0 : -1;
}

/* A C-contiguous tensor as the prototype says, in the memory that was set, else in the host's. */
static int allocate(cai_tensor_t *prototype, cai_dlpack_managed_versioned_t **out, void *context,
                    void (*set_error)(void *context, const char *kind, const char *message))
{
    const size_t                    bytes = (size_t)prototype->ndim * sizeof(int64_t);
    cai_dlpack_managed_versioned_t *managed;
    int64_t                        *extents;
    int64_t                         next = 1;
    *out = NULL;
    if (allocating != WORKS && allocating != GIVES_ANOTHER)
        return refuse_memory(context, set_error);
    managed = (cai_dlpack_managed_versioned_t *)calloc(1, sizeof(*managed) + 2 * bytes);
    extents = (int64_t *)(managed + 1);
    managed->version.major = CAI_DLPACK_MAJOR;
    managed->deleter = free_allocated;
    managed->tensor = *prototype;
    managed->tensor.shape = memcpy(extents, prototype->shape, bytes);
    managed->tensor.strides = extents + prototype->ndim;
    if (allocating == GIVES_ANOTHER)
        managed->tensor.shape[0]++;
    for (int32_t i = prototype->ndim - 1; i >= 0; i--) {
        managed->tensor.strides[i] = next;
        next *= managed->tensor.shape[i];
    }
    managed->manager_ctx = memory == NULL ? malloc((size_t)next * prototype->dtype.bits / 8 + 1) : NULL;
    managed->tensor.data = memory == NULL ? managed->manager_ctx : memory;
    allocated++;
    *out = managed;
    return 0;
}

/* --------------------------------------------------------------------------------------------------------- module */

PyDoc_STRVAR(make_doc, "make_table(lends=True, owns=True, tells_stream=True, major=1, previous=None, makes=False, "
                       "allocates=False) -> capsule\n\n"
                       "A table with those members, the others NULL, before `previous` in the version chain.");

static PyObject *make_table(PyObject *module, PyObject *args, PyObject *keywords)
{
    static char           *names[] = {"lends", "owns", "tells_stream", "major", "previous", "makes", "allocates", NULL};
    cai_dlpack_exchange_t *table, *previous = NULL;
    PyObject              *chained = NULL;
    int                    lends = 1, owns = 1, tells = 1, major = 1, makes = 0, allocates = 0;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|pppiOpp", names, &lends, &owns, &tells, &major, &chained, &makes,
                                     &allocates))
        return NULL;
    if (chained != NULL && chained != Py_None) {
        previous = (cai_dlpack_exchange_t *)PyCapsule_GetPointer(chained, CAI_DLPACK_CAPSULE_EXCHANGE);
        if (previous == NULL)
            return NULL;
    }
    table = (cai_dlpack_exchange_t *)calloc(1, sizeof(*table)); /* for the life of the process, as the contract says */
    table->header.version.major = (uint32_t)major;
    table->header.prev_api = previous == NULL ? NULL : &previous->header;
    table->dltensor_from_py_object_no_sync = lends ? lend : NULL;
    table->managed_tensor_from_py_object_no_sync = owns ? own : NULL;
    table->current_work_stream = tells ? current_work_stream : NULL;
    table->managed_tensor_to_py_object_no_sync = makes ? to_object : NULL;
    table->managed_tensor_allocator = allocates ? allocate : NULL;
    return PyCapsule_New(table, CAI_DLPACK_CAPSULE_EXCHANGE, NULL);
}

static PyObject *set_stream(PyObject *module, PyObject *handle)
{
    (void)module;
    work_stream = PyLong_AsLongLong(handle);
    asked = 0;
    return PyErr_Occurred() == NULL ? Py_NewRef(Py_None) : NULL;
}

static PyObject *asked_for(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("(iii)", asked, asked_type, asked_id);
}

static PyObject *behave(PyObject *module, PyObject *args, PyObject *keywords)
{
    static char       *names[] = {"type", "making", "allocating", "memory", NULL};
    unsigned long long pointer = 0;
    PyObject          *type = NULL;
    (void)module;
    making = allocating = WORKS;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|iiK", names, &type, &making, &allocating, &pointer))
        return NULL;
    Py_XSETREF(made_type, Py_NewRef(type));
    memory = (void *)(uintptr_t)pointer;
    allocated = freed = given = made = 0;
    Py_RETURN_NONE;
}

static PyObject *done(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("{s:i,s:i,s:i,s:i}", "allocated", allocated, "given", given, "made", made, "freed", freed);
}

static PyMethodDef methods[] = {
    {"behave", (PyCFunction)(void (*)(void))behave, METH_VARARGS | METH_KEYWORDS,
     "behave(type, making=WORKS, allocating=WORKS, memory=0): of which type the tables make objects, how, and where."},
    {"done", done, METH_NOARGS,
     "How often memory was allocated, given to the table, made an object of, and freed, since behave()."},
    {"make_table", (PyCFunction)(void (*)(void))make_table, METH_VARARGS | METH_KEYWORDS, make_doc},
    {"set_stream", set_stream, METH_O, "What current_work_stream answers from now on; -1: an exception."},
    {"asked_for", asked_for, METH_NOARGS, "(how often the stream was asked for, the last device type, its id)"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "tables", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_tables(void)
{
    PyObject *module = PyModule_Create(&definition), *type = PyType_FromSpec(&array_spec);
    if (module == NULL || type == NULL || PyModule_AddObjectRef(module, "Array", type) < 0 ||
        PyModule_AddIntMacro(module, WORKS) < 0 || PyModule_AddIntMacro(module, FAILS) < 0 ||
        PyModule_AddIntMacro(module, FAILS_SILENTLY) < 0 || PyModule_AddIntMacro(module, GIVES_NULL) < 0 ||
        PyModule_AddIntMacro(module, CONSUMES_AND_FAILS) < 0 || PyModule_AddIntMacro(module, FAILS_TWICE) < 0 ||
        PyModule_AddIntMacro(module, FAILS_AND_RAISES) < 0 || PyModule_AddIntMacro(module, GIVES_ANOTHER) < 0)
        Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}
