/**
 * cai/state.h - what a module has to remember, and how a status becomes an exception.
 *
 * A cai_state_t lies in the state of the author's module, as its first or only member, so that several modules, several
 * interpreters and reloading need no special case and no header has a mutable static:
 *
 *   static int module_exec(PyObject *module) { return cai_state_init(cai_module_state(module), module); }
 *   static PyModuleDef definition = {.m_size = sizeof(cai_state_t), .m_traverse = cai_state_traverse,
 *                                    .m_clear = cai_state_clear, .m_free = cai_state_free, …};
 *
 * An author with more state of his own writes his own slots and calls these from them. Every function here needs an
 * attached thread state (the GIL).
 */
#ifndef CAI_STATE_H
#define CAI_STATE_H

#include <cai/return_queue.h>

/* X(field, Python name): strings that are interned once per state. */
#define CAI_IMPL_NAME_LIST(X)                                                                                          \
    X(CUDA_ARRAY_INTERFACE, "__cuda_array_interface__")                                                                \
    X(SHAPE, "shape")                                                                                                  \
    X(TYPESTR, "typestr")                                                                                              \
    X(DATA, "data")                                                                                                    \
    X(VERSION, "version")                                                                                              \
    X(STRIDES, "strides")                                                                                              \
    X(STREAM, "stream")                                                                                                \
    X(MASK, "mask")                                                                                                    \
    X(DESCR, "descr")                                                                                                  \
    X(DLPACK, "__dlpack__")                                                                                            \
    X(DLPACK_DEVICE, "__dlpack_device__")                                                                              \
    X(MAX_VERSION, "max_version")                                                                                      \
    X(EXCHANGE, "__dlpack_c_exchange_api__")                                                                           \
    X(REQUIRES_GRAD, "requires_grad")                                                                                  \
    X(IS_CONJ, "is_conj")                                                                                              \
    X(IS_NEG, "is_neg")                                                                                                \
    X(TORCH, "torch")                                                                                                  \
    X(TENSOR, "Tensor")                                                                                                \
    X(NUMPY, "numpy")                                                                                                  \
    X(NUMPY_CORE, "numpy._core._multiarray_umath")                                                                     \
    X(NUMPY_1_CORE, "numpy.core._multiarray_umath")                                                                    \
    X(ARRAY_API, "_ARRAY_API")                                                                                         \
    X(NUMPY_MA, "numpy.ma")                                                                                            \
    X(MASKED_ARRAY, "MaskedArray")                                                                                     \
    X(CAPSULE, "_capsule")                                                                                             \
    X(CUDA_STREAM, "__cuda_stream__")                                                                                  \
    X(OLD_CUDA_STREAM, "cuda_stream")                                                                                  \
    X(PTR, "ptr")                                                                                                      \
    X(HANDLE, "handle")                                                                                                \
    X(VALUE, "value")                                                                                                  \
    X(DL_DEVICE, "dl_device")                                                                                          \
    X(COPY, "copy")                                                                                                    \
    X(FROM_DLPACK, "from_dlpack")                                                                                      \
    X(ARRAY_NAMESPACE, "__array_namespace__")                                                                          \
    X(MODULE, "__module__")                                                                                            \
    X(QUALNAME, "__qualname__")                                                                                        \
    X(CODE, "code")                                                                                                    \
    X(NAME, "name")

typedef enum cai_impl_name {
#define CAI_IMPL_NAME_VALUE(field, text) CAI_IMPL_NAME_##field,
    CAI_IMPL_NAME_LIST(CAI_IMPL_NAME_VALUE)
#undef CAI_IMPL_NAME_VALUE
        CAI_IMPL_NAME_COUNT
} cai_impl_name_t;

/* What is remembered of an exact type, as a hint for the order of protocols and never as a refusal: what is passed over
 * is tried when the rest has failed. Only a type without an exchange table keeps having none. Facts and hint may be
 * learned later. */
typedef struct cai_impl_type {
    PyTypeObject                *type;     /* owned, so that the address cannot mean another type later */
    const cai_dlpack_exchange_t *exchange; /* NULL: the type has no table */
    uint32_t                     facts;    /* CAI_IMPL_TYPE_… */
    uint32_t                     hint;     /* the CAI_VIA_… to try first: see cai_impl_type_learn */
} cai_impl_type_t;

enum {
    CAI_IMPL_TYPE_TORCH = 1,         /* torch.Tensor or a subclass, answered by torch's own table */
    CAI_IMPL_TYPE_MASKED = 2,        /* numpy.ma.MaskedArray or a subclass */
    CAI_IMPL_TYPE_ARRAY = 4,         /* has `_capsule`: an Array of this or another extension, or an author's type */
    CAI_IMPL_TYPE_NUMPY = 8,         /* numpy.ndarray itself */
    CAI_IMPL_TYPE_NUMPY_LAYOUT = 16, /* numpy.ndarray, or a subclass that its buffer shows: its C layout is known */
    CAI_IMPL_TYPE_CUDA_DLPACK = 32,  /* has __dlpack__ beside what served, and its first object was on a CUDA device */
    CAI_IMPL_TYPE_BY_DLPACK = 64, /* __dlpack__ has served an object on a CUDA device, as nothing else before it did */
    CAI_IMPL_TYPE_REFUSED_NONE = 128, /* its __dlpack__ refused -1 the last time, and gave the array for legacy */
    CAI_IMPL_TYPE_REFUSES_NONE = 256, /* and did so twice running: it is no failure that passes */
    CAI_IMPL_TYPE_TELLS = 512         /* derived from numpy.ndarray, with a CUDA Array Interface that comes first */
};

/* Slots of the cache, a power of two, and how many are filled at most: the rest keeps the search short. */
#define CAI_IMPL_TYPE_SLOTS 128
#define CAI_IMPL_TYPE_LIMIT 96

/** What a module remembers. Zeroed by Python when the module is made, filled by cai_state_init; no public fields. */
typedef struct cai_state {
    PyObject         *impl_names[CAI_IMPL_NAME_COUNT];
    PyObject         *impl_exceptions[CAI_STATUS_COUNT]; /* NULL: not registered, the builtin base is raised */
    PyObject         *impl_max_version;                  /* (1, 3) */
    PyObject         *impl_keywords_stream_version;      /* ("stream", "max_version") */
    PyObject         *impl_keywords_stream;              /* ("stream",) */
    PyObject         *impl_keywords_version;             /* ("max_version",) */
    cai_impl_type_t   impl_types[CAI_IMPL_TYPE_SLOTS];
    int32_t           impl_n_types;
    uint8_t           impl_types_lock;
    cai_order_pool_t *impl_pool;
    cai_impl_queue_t *impl_queue;
    PyObject         *impl_module;     /* borrowed: the module has the state; NULL for a state without one */
    PyObject         *impl_array_type; /* made when the first array goes out */
    PyObject         *impl_stream_type;
    PyObject         *impl_table_keys; /* list: where exchange tables find this state in the interpreter's dict */
} cai_state_t;

/** One class of a module's own that stands in for one of cai's; see cai_exceptions_t. */
typedef struct cai_exception_mapping {
    cai_status_t status;
    PyObject    *type; /**< borrowed; an exception class */
} cai_exception_mapping_t;

/** How cai's exceptions appear in a module. All zero: every class of CAI_STATUS_LIST under a new CAIError. */
typedef struct cai_exceptions {
    PyObject                      *base;      /**< borrowed; the common base, or NULL for a new class CAIError */
    uint64_t                       published; /**< bit per status: classes that become module attributes; 0 = all */
    const cai_exception_mapping_t *mapping;   /**< classes to raise instead of new ones; may be NULL */
    int32_t                        n_mapping;
} cai_exceptions_t;

/** The bit of a status in cai_exceptions_t.published. */
#define CAI_STATUS_BIT(status) (UINT64_C(1) << (status))

/** Prepare a zeroed state for `module`. 0, or -1 with an exception; the module's clear and free slots then clean up. */
CAI_API CAI_NODISCARD int cai_state_init(cai_state_t *state, PyObject *module) CAI_IMPL_SELDOM;
/** The state of a module whose m_size begins with a cai_state_t; NULL before Python has allocated it. */
CAI_API cai_state_t *cai_module_state(PyObject *module);

/** The state's order pool: borrowed, for cai_array_new and the like, which keep it as long as they need it. */
CAI_API cai_order_pool_t *cai_state_pool(cai_state_t *state);

/** For m_traverse, m_clear and m_free of a PyModuleDef. Harmless before cai_state_init and after a failed one. */
CAI_API int  cai_state_traverse(PyObject *module, visitproc visit, void *argument) CAI_IMPL_SELDOM;
CAI_API int  cai_state_clear(PyObject *module) CAI_IMPL_SELDOM;
CAI_API void cai_state_free(void *module) CAI_IMPL_SELDOM;

/**
 * Create the exception classes and add them to the module: CAIError and, under it, one class per status, each also
 * derived from the builtin that Python people expect. Never called, the builtins themselves are raised. `exceptions`
 * (NULL: all defaults) says what differs. 0, or -1 with an exception; may be called again.
 */
CAI_API CAI_NODISCARD int cai_register_exceptions(cai_state_t *state, PyObject *module,
                                                  const cai_exceptions_t *exceptions) CAI_IMPL_SELDOM;

/** The class that is raised for a status (borrowed); `state` NULL: the builtin base. */
CAI_API PyObject *cai_exception_type(cai_state_t *state, cai_status_t status);

/**
 * Raise `error` as an exception: the one place where a status becomes one. CudaCallError gets the attributes `code` and
 * `name`. An exception that is already set becomes the new one's cause. Returns -1.
 */
CAI_API int cai_raise(cai_state_t *state, const cai_error_t *error) CAI_IMPL_SELDOM;

/**
 * Define, in one translation unit, `cai_state_t *name(void)`: a state for where there is no module at hand (a type caster,
 * ctypes, code below a facade). It is made at the first call in each interpreter, lives as long as that, and raises the
 * builtin classes. NULL with an exception. Needs an attached thread state (the GIL).
 */
#define CAI_DEFINE_STATE(name)                                                                                         \
    cai_state_t *name(void);                                                                                           \
    cai_state_t *name(void)                                                                                            \
    {                                                                                                                  \
        static const char key = 0;                                                                                     \
        return cai_impl_state_of_interpreter(&key);                                                                    \
    }

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

CAI_API cai_state_t *cai_module_state(PyObject *module)
{
    return CAI_IMPL_CAST(cai_state_t *, PyModule_GetState(module));
}

CAI_IMPL PyObject *cai_impl_name(const cai_state_t *state, cai_impl_name_t name)
{
    return state->impl_names[name];
}

CAI_IMPL int cai_impl_intern_names(cai_state_t *state)
{
    /* One string, since each pointer of a table costs the loader a relocation. */
    static const char names[] =
#define CAI_IMPL_NAME_TEXT(field, text) text "\0"
        CAI_IMPL_NAME_LIST(CAI_IMPL_NAME_TEXT);
#undef CAI_IMPL_NAME_TEXT
    const char *name = names;
    for (int i = 0; i < CAI_IMPL_NAME_COUNT; i++, name += strlen(name) + 1) {
        state->impl_names[i] = PyUnicode_InternFromString(name);
        if (state->impl_names[i] == NULL)
            return -1;
    }
    return 0;
}

CAI_API cai_order_pool_t *cai_state_pool(cai_state_t *state)
{
    return state->impl_pool;
}

CAI_IMPL_COLD PyObject *cai_impl_at_exit(PyObject *capsule, PyObject *ignored)
{
    (void)ignored;
    cai_impl_queue_close(CAI_IMPL_CAST(cai_impl_queue_t *, PyCapsule_GetPointer(capsule, NULL)));
    return Py_NewRef(Py_None);
}

CAI_IMPL_COLD void cai_impl_queue_capsule_end(PyObject *capsule)
{
    cai_impl_queue_release(CAI_IMPL_CAST(cai_impl_queue_t *, PyCapsule_GetPointer(capsule, NULL)));
}

/* Have the queue closed before the interpreter goes. */
CAI_IMPL int cai_impl_queue_register(cai_impl_queue_t *queue)
{
    static const PyMethodDef definition = {"close_return_queue", cai_impl_at_exit, METH_NOARGS, NULL};
    PyObject                *capsule = PyCapsule_New(cai_impl_queue_retain(queue), NULL, cai_impl_queue_capsule_end);
    PyObject                *function, *atexit = NULL, *result = NULL;
    if (capsule == NULL) {
        cai_impl_queue_release(queue);
        return -1;
    }
    /* Python reads the definition only. */
    function = PyCFunction_New(CAI_IMPL_BITS(PyMethodDef *, CAI_IMPL_BITS(uintptr_t, &definition)), capsule);
    Py_DECREF(capsule);
    if (function != NULL)
        atexit = PyImport_ImportModule("atexit");
    if (atexit != NULL)
        result = PyObject_CallMethod(atexit, "register", "O", function);
    Py_XDECREF(atexit);
    Py_XDECREF(function);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* What arrays need: the pool and the queue. */
CAI_IMPL int cai_impl_state_init_arrays(cai_state_t *state)
{
    cai_error_t error;
    state->impl_pool = cai_order_pool_new(&error);
    if (state->impl_pool == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    state->impl_pool->hooks.detach = cai_impl_detach;
    state->impl_pool->hooks.attach = cai_impl_attach;
    state->impl_queue = cai_impl_queue_new();
    return state->impl_queue == NULL ? -1 : cai_impl_queue_register(state->impl_queue);
}

CAI_API int cai_state_init(cai_state_t *state, PyObject *module)
{
    state->impl_module = module;
    if (cai_impl_intern_names(state) < 0 || cai_impl_state_init_arrays(state) < 0)
        return -1;
    state->impl_max_version = Py_BuildValue("(ii)", CAI_DLPACK_MAJOR, CAI_DLPACK_MINOR);
    state->impl_keywords_stream_version =
        PyTuple_Pack(2, cai_impl_name(state, CAI_IMPL_NAME_STREAM), cai_impl_name(state, CAI_IMPL_NAME_MAX_VERSION));
    state->impl_keywords_stream = PyTuple_Pack(1, cai_impl_name(state, CAI_IMPL_NAME_STREAM));
    state->impl_keywords_version = PyTuple_Pack(1, cai_impl_name(state, CAI_IMPL_NAME_MAX_VERSION));
    return state->impl_max_version == NULL || state->impl_keywords_stream_version == NULL ||
                   state->impl_keywords_stream == NULL || state->impl_keywords_version == NULL
               ? -1
               : 0;
}

CAI_API int cai_state_traverse(PyObject *module, visitproc visit, void *argument)
{
    cai_state_t *state = cai_module_state(module);
    if (state == NULL)
        return 0;
    for (int i = 0; i < 2; i++) {
        PyObject *type = i == 0 ? state->impl_array_type : state->impl_stream_type;
        const int result = type == NULL ? 0 : visit(type, argument);
        if (result != 0)
            return result;
    }
    for (int i = 0; i < CAI_STATUS_COUNT; i++) {
        const int result = state->impl_exceptions[i] == NULL ? 0 : visit(state->impl_exceptions[i], argument);
        if (result != 0)
            return result;
    }
    for (int i = 0; i < CAI_IMPL_TYPE_SLOTS; i++) {
        PyTypeObject *type = state->impl_types[i].type;
        const int     result = type == NULL ? 0 : visit(CAI_IMPL_BITS(PyObject *, type), argument);
        if (result != 0)
            return result;
    }
    return 0;
}

CAI_IMPL_COLD void cai_impl_clear(PyObject **reference)
{
    Py_CLEAR(*reference);
}

CAI_IMPL_COLD void cai_impl_state_clear(cai_state_t *state)
{
    for (int i = 0; i < CAI_IMPL_NAME_COUNT; i++)
        cai_impl_clear(&state->impl_names[i]);
    for (int i = 0; i < CAI_STATUS_COUNT; i++)
        cai_impl_clear(&state->impl_exceptions[i]);
    cai_impl_clear(&state->impl_array_type);
    cai_impl_clear(&state->impl_stream_type);
    cai_impl_clear(&state->impl_max_version);
    cai_impl_clear(&state->impl_keywords_stream_version);
    cai_impl_clear(&state->impl_keywords_stream);
    cai_impl_clear(&state->impl_keywords_version);
    state->impl_n_types = 0;
    for (int i = 0; i < CAI_IMPL_TYPE_SLOTS; i++)
        Py_CLEAR(state->impl_types[i].type);
}

CAI_API int cai_state_clear(PyObject *module)
{
    cai_state_t *state = cai_module_state(module);
    if (state != NULL)
        cai_impl_state_clear(state);
    return 0;
}

/* Take a state out of the list of those that one exchange table has; an empty list leaves the dict. */
CAI_IMPL void cai_impl_state_unregister_from(const cai_state_t *state, PyObject *dict, PyObject *key)
{
    PyObject *states;
    if (cai_impl_get_item(dict, key, &states) <= 0)
        return;
    for (Py_ssize_t i = PyList_Size(states) - 1; i >= 0; i--) {
        if (PyCapsule_GetPointer(PyList_GetItem(states, i), NULL) == state)
            (void)PyList_SetSlice(states, i, i + 1, NULL);
    }
    if (PyList_Size(states) == 0)
        (void)PyDict_DelItem(dict, key);
    Py_DECREF(states);
}

/* Take the state out of the interpreter's dict, which is not asked for without need: at the very end that makes a new
 * one. */
CAI_IMPL void cai_impl_state_unregister(cai_state_t *state)
{
    PyObject  *dict, *pending;
    Py_ssize_t n;
    if (state->impl_table_keys == NULL)
        return;
    dict = PyInterpreterState_GetDict(PyInterpreterState_Get()); /* borrowed; NULL where there is none any more */
    pending = cai_impl_take_exception();
    n = dict == NULL ? 0 : PyList_Size(state->impl_table_keys);
    for (Py_ssize_t i = 0; i < n; i++)
        cai_impl_state_unregister_from(state, dict, PyList_GetItem(state->impl_table_keys, i));
    Py_CLEAR(state->impl_table_keys);
    cai_impl_set_exception(pending);
}

/* Everything that the state holds; `state` itself is the caller's. */
CAI_IMPL_COLD void cai_impl_state_end(cai_state_t *state)
{
    cai_impl_pool_sweep(state->impl_pool); /* what is put off keeps the pool, and nobody would come back to it */
    cai_impl_state_clear(state);
    cai_impl_state_unregister(state);
    cai_order_pool_release(state->impl_pool);
    cai_impl_queue_release(state->impl_queue);
    state->impl_pool = NULL;
    state->impl_queue = NULL;
}

CAI_API void cai_state_free(void *module)
{
    cai_state_t *state = cai_module_state(CAI_IMPL_CAST(PyObject *, module));
    if (state != NULL)
        cai_impl_state_end(state);
}

/* -------------------------------------------------------------------------------------- the interpreter's dict --- */

/* A key of that dict which belongs to an address, and so to one extension: a new reference. */
CAI_IMPL_COLD PyObject *cai_impl_dict_key(const void *address)
{
    return PyUnicode_FromFormat("cai.state.%p", address);
}

/* The state that lies in the dict under an address; NULL without an exception if none does. */
CAI_IMPL_COLD cai_state_t *cai_impl_dict_find(const void *address)
{
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get()); /* borrowed */
    PyObject *key = cai_impl_dict_key(address), *capsule = NULL;
    void     *state = NULL;
    if (dict != NULL && key != NULL && cai_impl_get_item(dict, key, &capsule) > 0)
        state = PyCapsule_GetPointer(capsule, NULL);
    Py_XDECREF(key);
    Py_XDECREF(capsule);
    return CAI_IMPL_CAST(cai_state_t *, state);
}

/* What lies in the dict under a key: `value`, unless somebody was faster. A new reference, or NULL with an exception. */
CAI_IMPL_COLD PyObject *cai_impl_dict_keep(PyObject *key, PyObject *value)
{
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get());
    if (dict != NULL)
        return PyObject_CallMethod(dict, "setdefault", "OO", key, value);
    PyErr_SetString(PyExc_RuntimeError, "the interpreter has no dict");
    return NULL;
}

CAI_IMPL_COLD void cai_impl_state_capsule_end(PyObject *capsule)
{
    cai_state_t *state = CAI_IMPL_CAST(cai_state_t *, PyCapsule_GetPointer(capsule, NULL));
    cai_impl_state_end(state);
    free(state);
}

/* A new state that the interpreter's dict owns, or that which another thread has put there meanwhile. */
CAI_IMPL_COLD cai_state_t *cai_impl_state_new(const void *address)
{
    cai_state_t *state = CAI_IMPL_CAST(cai_state_t *, calloc(1, sizeof(cai_state_t)));
    PyObject    *capsule = state == NULL ? PyErr_NoMemory() : PyCapsule_New(state, NULL, cai_impl_state_capsule_end);
    PyObject    *key, *kept = NULL;
    if (capsule == NULL) {
        free(state);
        return NULL;
    }
    key = cai_impl_dict_key(address);
    if (key != NULL && cai_state_init(state, NULL) == 0)
        kept = cai_impl_dict_keep(key, capsule);
    state = kept == NULL ? NULL : CAI_IMPL_CAST(cai_state_t *, PyCapsule_GetPointer(kept, NULL));
    Py_XDECREF(key);
    Py_XDECREF(kept);
    Py_DECREF(capsule); /* which frees the new state where the dict has not got it */
    return state;
}

CAI_IMPL cai_state_t *cai_impl_state_of_interpreter(const void *address)
{
    cai_state_t *state = cai_impl_dict_find(address);
    return state != NULL || PyErr_Occurred() != NULL ? state : cai_impl_state_new(address);
}

/* ------------------------------------------------------------------------------------------------ exceptions ---- */

CAI_IMPL_COLD PyObject *cai_impl_builtin_base(cai_status_t status)
{
    switch (status) {
#define CAI_IMPL_STATUS_CASE(status, exception, base, text)                                                            \
    case CAI_ERROR_##status: return PyExc_##base;
        CAI_STATUS_LIST(CAI_IMPL_STATUS_CASE)
#undef CAI_IMPL_STATUS_CASE
    default: return PyExc_RuntimeError;
    }
}

CAI_API PyObject *cai_exception_type(cai_state_t *state, cai_status_t status)
{
    PyObject *type = state == NULL || status <= CAI_OK || status >= CAI_STATUS_COUNT ? NULL
                                                                                     : state->impl_exceptions[status];
    return type != NULL ? type : cai_impl_builtin_base(status);
}

/* "module.Name", so that a traceback says where the class comes from. Empty on failure, with an exception. */
CAI_IMPL_COLD int cai_impl_qualify(PyObject *module, const char *name, char *text, size_t size)
{
    const char *module_name = PyModule_GetName(module);
    if (module_name == NULL)
        return -1;
    snprintf(text, size, "%s.%s", module_name, name);
    return 0;
}

/* A new exception class below one or two bases: a new reference, or NULL with an exception. */
CAI_IMPL_COLD PyObject *cai_impl_new_exception(PyObject *module, const char *name, const char *doc, PyObject *base,
                                               PyObject *second_base)
{
    char      qualified[256];
    PyObject *bases, *type;
    if (cai_impl_qualify(module, name, qualified, sizeof(qualified)) < 0)
        return NULL;
    bases = second_base == NULL ? PyTuple_Pack(1, base) : PyTuple_Pack(2, base, second_base);
    if (bases == NULL)
        return NULL;
    type = PyErr_NewExceptionWithDoc(qualified, doc, bases, NULL);
    Py_DECREF(bases);
    return type;
}

/* The class that the author maps a status to (a new reference), NULL without an exception if he does not. */
CAI_IMPL_COLD PyObject *cai_impl_mapped_exception(const cai_exceptions_t *exceptions, cai_status_t status)
{
    for (int32_t i = 0; i < exceptions->n_mapping; i++) {
        PyObject *type = exceptions->mapping[i].type;
        if (exceptions->mapping[i].status != status)
            continue;
        if (PyExceptionClass_Check(type))
            return Py_NewRef(type);
        PyErr_Format(PyExc_TypeError, "the class mapped to %s must be an exception class, not %R",
                     cai_status_exception(status), type);
        return NULL;
    }
    return NULL;
}

/* Create, or take over, the class of one status, and publish it. */
CAI_IMPL_COLD int cai_impl_register_exception(cai_state_t *state, PyObject *module, PyObject *base,
                                              const cai_exceptions_t *exceptions, cai_status_t status)
{
    const char *name = cai_status_exception(status);
    PyObject   *type = cai_impl_mapped_exception(exceptions, status), *old;
    if (type == NULL && PyErr_Occurred() == NULL)
        type = cai_impl_new_exception(module, name, cai_status_doc(status), base, cai_impl_builtin_base(status));
    if (type == NULL)
        return -1;
    old = state->impl_exceptions[status];
    state->impl_exceptions[status] = type;
    Py_XDECREF(old);
    if (exceptions->published != 0 && (exceptions->published & CAI_STATUS_BIT(status)) == 0)
        return 0;
    return PyModule_AddObjectRef(module, name, type);
}

/* The common base: a new reference, or NULL with an exception. */
CAI_IMPL_COLD PyObject *cai_impl_base_exception(PyObject *module, const cai_exceptions_t *exceptions)
{
    PyObject *base;
    if (exceptions->base != NULL && PyExceptionClass_Check(exceptions->base))
        return Py_NewRef(exceptions->base);
    if (exceptions->base != NULL) {
        PyErr_Format(PyExc_TypeError, "the base of the exceptions must be an exception class, not %R",
                     exceptions->base);
        return NULL;
    }
    base = cai_impl_new_exception(module, "CAIError", "Base class of the errors in exchanging arrays.", PyExc_Exception,
                                  NULL);
    if (base != NULL && PyModule_AddObjectRef(module, "CAIError", base) < 0)
        Py_CLEAR(base);
    return base;
}

CAI_API int cai_register_exceptions(cai_state_t *state, PyObject *module, const cai_exceptions_t *exceptions)
{
    cai_exceptions_t defaults;
    PyObject        *base;
    int              result = 0;
    if (exceptions == NULL) {
        memset(&defaults, 0, sizeof(defaults));
        exceptions = &defaults;
    }
    base = cai_impl_base_exception(module, exceptions);
    if (base == NULL)
        return -1;
    for (int status = CAI_OK + 1; result == 0 && status < CAI_ERROR_MEMORY; status++)
        result = cai_impl_register_exception(state, module, base, exceptions, CAI_IMPL_CAST(cai_status_t, status));
    Py_DECREF(base);
    return result;
}

/* Set `code` and `name` of a CudaCallError. An old exception class without a __dict__ goes without them. */
CAI_IMPL int cai_impl_add_cuda_code(cai_state_t *state, PyObject *exception, const cai_error_t *error)
{
    PyObject *code = PyLong_FromLong(error->cuda_code);
    PyObject *name = PyUnicode_FromString(error->cuda_name == NULL ? "" : error->cuda_name);
    int       result = -1;
    if (code != NULL && name != NULL)
        result = PyObject_SetAttr(exception, cai_impl_name(state, CAI_IMPL_NAME_CODE), code);
    if (result == 0)
        result = PyObject_SetAttr(exception, cai_impl_name(state, CAI_IMPL_NAME_NAME), name);
    Py_XDECREF(code);
    Py_XDECREF(name);
    return result;
}

/* A new exception object, or NULL with the exception that came of the attempt. */
CAI_IMPL PyObject *cai_impl_new_error(cai_state_t *state, const cai_error_t *error)
{
    PyObject *exception = NULL, *message = PyUnicode_DecodeUTF8(
                                    error->message, CAI_IMPL_CAST(Py_ssize_t, strlen(error->message)), "replace");
    if (message != NULL)
        exception = PyObject_CallFunctionObjArgs(cai_exception_type(state, error->status), message, NULL);
    Py_XDECREF(message);
    if (exception != NULL && error->status == CAI_ERROR_CUDA_CALL && state != NULL &&
        cai_impl_add_cuda_code(state, exception, error) < 0)
        Py_CLEAR(exception);
    return exception;
}

CAI_API int cai_raise(cai_state_t *state, const cai_error_t *error)
{
    PyObject *cause = cai_impl_take_exception(), *exception;
    if (error->status == CAI_ERROR_MEMORY) {
        Py_XDECREF(cause);
        PyErr_NoMemory();
        return -1;
    }
    exception = cai_impl_new_error(state, error);
    if (exception == NULL) {
        Py_XDECREF(cause);
        return -1;
    }
    if (cause != NULL) {
        PyException_SetCause(exception, Py_NewRef(cause)); /* steals */
        PyException_SetContext(exception, cause);          /* steals */
    }
    PyErr_SetObject(CAI_IMPL_BITS(PyObject *, Py_TYPE(exception)), exception);
    Py_DECREF(exception);
    return -1;
}

/* ------------------------------------------------------------------------------------------------ type cache ---- */

CAI_IMPL size_t cai_impl_type_slot(const PyTypeObject *type)
{
    return (CAI_IMPL_BITS(uintptr_t, type) >> 4) * 0x9E3779B97F4A7C15u >> 57;
}
CAI_IMPL_STATIC_ASSERT(CAI_IMPL_TYPE_SLOTS == 1 << 7, "cai_impl_type_slot gives seven bits");

/* The published entry of an exact type, or NULL. It lives as long as the state; of what is in it only facts and hint
 * change, each by itself. */
CAI_IMPL const cai_impl_type_t *cai_impl_type_find(const cai_state_t *state, const PyTypeObject *type)
{
    for (size_t slot = cai_impl_type_slot(type);; slot = (slot + 1) % CAI_IMPL_TYPE_SLOTS) {
        const cai_impl_type_t *entry = &state->impl_types[slot];
        const PyTypeObject    *found = __atomic_load_n(&entry->type, __ATOMIC_ACQUIRE);
        if (found == type)
            return entry;
        if (found == NULL)
            return NULL;
    }
}

CAI_IMPL uint32_t cai_impl_type_facts(const cai_impl_type_t *entry)
{
    return __atomic_load_n(&entry->facts, __ATOMIC_RELAXED);
}

CAI_IMPL uint32_t cai_impl_type_hint(const cai_impl_type_t *entry)
{
    return __atomic_load_n(&entry->hint, __ATOMIC_RELAXED);
}

/* Publish what is known of a type, unless the cache is full. Runs no Python code. */
CAI_IMPL_COLD void cai_impl_type_publish(cai_state_t *state, const cai_impl_type_t *known)
{
    size_t           slot = cai_impl_type_slot(known->type);
    cai_impl_type_t *entry;
    while (__atomic_test_and_set(&state->impl_types_lock, __ATOMIC_ACQUIRE)) {
    }
    while (state->impl_types[slot].type != NULL && state->impl_types[slot].type != known->type)
        slot = (slot + 1) % CAI_IMPL_TYPE_SLOTS;
    entry = &state->impl_types[slot];
    if (entry->type != NULL || state->impl_n_types < CAI_IMPL_TYPE_LIMIT) {
        __atomic_store_n(&entry->facts, known->facts, __ATOMIC_RELAXED);
        __atomic_store_n(&entry->hint, known->hint, __ATOMIC_RELAXED);
    }
    if (entry->type == NULL && state->impl_n_types < CAI_IMPL_TYPE_LIMIT) {
        state->impl_n_types++;
        Py_INCREF(CAI_IMPL_BITS(PyObject *, known->type));
        entry->exchange = known->exchange;
        __atomic_store_n(&entry->type, known->type, __ATOMIC_RELEASE);
    }
    __atomic_clear(&state->impl_types_lock, __ATOMIC_RELEASE);
}

#endif /* CAI_STATE_H */
