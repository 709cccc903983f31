/* arrays.c - everything that goes out: a module that makes arrays in C, keeps arrays of others, and hands both to Python.
 *
 * Built several times (ARRAYS_NAME): two extensions that meet in one process, over the emulator, without CUDA, and for the
 * limited API. */
#include <cai/cai.h>

#include <pthread.h>
#include <time.h>

#define STRING_(name) #name
#define STRING(name)  STRING_(name)
#define JOIN_(a, b)   a##b
#define JOIN(a, b)    JOIN_(a, b)

/* ------------------------------------------------------------------------------------------------ what was deleted */

/* Owners that are numbers: every deletion is noted, with the thread that it happened on. */
enum { MAX_DELETED = 4096 };

static struct {
    long          owner;
    unsigned long thread;
} deleted_owners[MAX_DELETED];
static int n_deleted;

static void note_deleted(void *owner)
{
    const int at = __atomic_fetch_add(&n_deleted, 1, __ATOMIC_ACQ_REL) % MAX_DELETED;
    deleted_owners[at].owner = (long)(intptr_t)owner;
    deleted_owners[at].thread = (unsigned long)pthread_self();
}

static PyObject *deleted(PyObject *module, PyObject *ignored)
{
    const int n = __atomic_load_n(&n_deleted, __ATOMIC_ACQUIRE);
    PyObject *list = PyList_New(0);
    (void)module, (void)ignored;
    for (int i = 0; list != NULL && i < n; i++) {
        PyObject *number = PyLong_FromLong(deleted_owners[i].owner);
        if (number == NULL || PyList_Append(list, number) < 0)
            Py_CLEAR(list);
        Py_XDECREF(number);
    }
    return list;
}

static PyObject *forget_deleted(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    __atomic_store_n(&n_deleted, 0, __ATOMIC_RELEASE);
    Py_RETURN_NONE;
}

/* --------------------------------------------------------------------------------------------------------- handles */

/* C's own reference to an array, as a capsule; its context is not NULL once the reference was given up. */
static const char handle_name[] = STRING(ARRAYS_NAME) ".handle";

static cai_array_t *array_of(PyObject *handle)
{
    if (PyCapsule_IsValid(handle, handle_name) && PyCapsule_GetContext(handle) != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the handle was released");
        return NULL;
    }
    return (cai_array_t *)PyCapsule_GetPointer(handle, handle_name);
}

static void end_of_handle(PyObject *handle)
{
    if (PyCapsule_GetContext(handle) == NULL)
        cai_array_release((cai_array_t *)PyCapsule_GetPointer(handle, handle_name));
}

/* Steals the reference. */
static PyObject *make_handle(cai_array_t *array)
{
    PyObject *handle = array == NULL ? NULL : PyCapsule_New(array, handle_name, end_of_handle);
    if (handle == NULL)
        cai_array_release(array);
    return handle;
}

static PyObject *release(PyObject *module, PyObject *handle)
{
    cai_array_t *array = array_of(handle);
    (void)module;
    if (array == NULL || PyCapsule_SetContext(handle, handle) < 0)
        return NULL;
    cai_array_release(array);
    Py_RETURN_NONE;
}

typedef struct thread_work {
    cai_array_t *array;
    double       seconds; /* how long the release took */
} thread_work_t;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *release_in_thread(void *argument)
{
    thread_work_t *work = (thread_work_t *)argument;
    const double   start = now();
    cai_array_release(work->array);
    work->seconds = now() - start;
    return NULL;
}

/* release_on_thread(handle, hold_gil): on a thread that Python does not know; seconds that the release took. With the GIL
 * held until the thread has ended, a release that waits for it never comes back. */
static PyObject *release_on_thread(PyObject *module, PyObject *args)
{
    PyObject      *handle;
    int            hold;
    thread_work_t  work = {NULL, 0};
    pthread_t      thread;
    PyThreadState *state;
    (void)module;
    if (!PyArg_ParseTuple(args, "Op", &handle, &hold))
        return NULL;
    work.array = array_of(handle);
    if (work.array == NULL || PyCapsule_SetContext(handle, handle) < 0)
        return NULL;
    if (pthread_create(&thread, NULL, release_in_thread, &work) != 0)
        return PyErr_NoMemory();
    if (hold) {
        pthread_join(thread, NULL);
    } else {
        state = PyEval_SaveThread();
        pthread_join(thread, NULL);
        PyEval_RestoreThread(state);
    }
    return PyFloat_FromDouble(work.seconds);
}

/* --------------------------------------------------------------------------------------------------- making arrays */

static int read_shape(PyObject *shape, int32_t *ndim, int64_t *values)
{
    const Py_ssize_t n = PySequence_Size(shape);
    if (n < 0 || n > CAI_MAX_NDIM) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "too many dimensions");
        return -1;
    }
    *ndim = (int32_t)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_GetItem(shape, i);
        values[i] = item == NULL ? -1 : PyLong_AsLongLong(item);
        Py_XDECREF(item);
        if (PyErr_Occurred())
            return -1;
    }
    return 0;
}

static int read_dtype(PyObject *module, const char *name, cai_dtype_t *dtype)
{
    cai_error_t error;
    return cai_dtype_from_name(name, dtype, &error) == CAI_OK ? 0 : cai_raise(cai_module_state(module), &error);
}

/* The object of an array whose reference is stolen. */
static PyObject *hand_out(PyObject *module, cai_array_t *array)
{
    PyObject *object = array == NULL ? NULL : cai_array_to_object(cai_module_state(module), array);
    cai_array_release(array);
    return object;
}

static cai_array_t *new_array(PyObject *module, PyObject *args)
{
    cai_state_t       *state = cai_module_state(module);
    PyObject          *shape;
    const char        *name = "float32";
    int                memory = CAI_MEMORY_DEVICE, device = -1;
    unsigned long long stream = 0;
    int32_t            ndim;
    int64_t            extents[CAI_MAX_NDIM];
    cai_dtype_t        dtype;
    cai_error_t        error;
    cai_array_t       *array;
    if (!PyArg_ParseTuple(args, "O|siiK", &shape, &name, &memory, &device, &stream) ||
        read_shape(shape, &ndim, extents) < 0 || read_dtype(module, name, &dtype) < 0)
        return NULL;
    array = cai_array_new(cai_state_pool(state), dtype, ndim, extents, device, (cai_memory_t)memory,
                          (cai_stream_t)(uintptr_t)stream, &error);
    if (array == NULL)
        (void)cai_raise(state, &error);
    return array;
}

static PyObject *new_object(PyObject *module, PyObject *args)
{
    return hand_out(module, new_array(module, args));
}

static PyObject *new_handle(PyObject *module, PyObject *args)
{
    return make_handle(new_array(module, args));
}

/* wrap(pointer, shape, strides or None, dtype, (type, id), flags, owner): owner is a number, noted when it is deleted;
 * None: no owner; any other object: wrapped as such. A handle. */
static PyObject *wrap(PyObject *module, PyObject *args)
{
    cai_state_t       *state = cai_module_state(module);
    unsigned long long pointer, flags;
    PyObject          *shape, *strides, *owner;
    const char        *name;
    int64_t            extents[CAI_MAX_NDIM], steps[CAI_MAX_NDIM];
    int32_t            n_steps;
    cai_tensor_t       tensor = {0};
    cai_error_t        error;
    cai_array_t       *array;
    if (!PyArg_ParseTuple(args, "KOOs(ii)KO", &pointer, &shape, &strides, &name, &tensor.device.device_type,
                          &tensor.device.device_id, &flags, &owner) ||
        read_shape(shape, &tensor.ndim, extents) < 0 || read_dtype(module, name, &tensor.dtype) < 0 ||
        (strides != Py_None && read_shape(strides, &n_steps, steps) < 0))
        return NULL;
    tensor.data = (void *)(uintptr_t)pointer;
    tensor.shape = extents;
    tensor.strides = strides == Py_None ? NULL : steps;
    if (owner != Py_None && !PyLong_Check(owner))
        return make_handle(cai_array_wrap_object(state, &tensor, flags, owner));
    array = cai_array_wrap(cai_state_pool(state), &tensor, flags,
                           owner == Py_None ? NULL : (void *)(intptr_t)PyLong_AsLong(owner),
                           owner == Py_None ? NULL : note_deleted, &error);
    if (array == NULL) {
        (void)cai_raise(state, &error);
        return NULL;
    }
    return make_handle(array);
}

/* ------------------------------------------------------------------------------------------------ keeping and giving */

/* "adopt", "block", "none", or the number of a stream to wait for. */
static int read_order(PyObject *object, cai_order_t *order)
{
    const char *name;
    if (PyLong_Check(object)) {
        *order = cai_order_wait((cai_stream_t)PyLong_AsVoidPtr(object));
        return PyErr_Occurred() ? -1 : 0;
    }
    name = PyUnicode_AsUTF8AndSize(object, NULL);
    if (name == NULL)
        return -1;
    *order = strcmp(name, "block") == 0  ? cai_order_block()
             : strcmp(name, "none") == 0 ? cai_order_none()
                                         : cai_order_adopt();
    return 0;
}

/* keep(object, order="adopt", require=0): a handle. */
static PyObject *keep(PyObject *module, PyObject *args)
{
    cai_request_t request = cai_request("kept");
    cai_order_t   order = cai_order_adopt();
    PyObject     *object, *how = NULL;
    if (!PyArg_ParseTuple(args, "O|OI", &object, &how, &request.require) ||
        (how != NULL && read_order(how, &order) < 0))
        return NULL;
    request.memory = CAI_ANYWHERE;
    return make_handle(cai_array_from_object(cai_module_state(module), object, &request, order));
}

static PyObject *give(PyObject *module, PyObject *handle)
{
    cai_array_t *array = array_of(handle);
    return array == NULL ? NULL : cai_array_to_object(cai_module_state(module), array);
}

static PyObject *give_like(PyObject *module, PyObject *args)
{
    PyObject    *handle, *like;
    cai_array_t *array;
    if (!PyArg_ParseTuple(args, "OO", &handle, &like))
        return NULL;
    array = array_of(handle);
    return array == NULL ? NULL : cai_array_to_object_like(cai_module_state(module), array, like);
}

/* new_like(like, shape, dtype="float32"): a handle. */
static PyObject *new_like(PyObject *module, PyObject *args)
{
    PyObject   *like, *shape;
    const char *name = "float32";
    int32_t     ndim;
    int64_t     extents[CAI_MAX_NDIM];
    cai_dtype_t dtype;
    if (!PyArg_ParseTuple(args, "OO|s", &like, &shape, &name) || read_shape(shape, &ndim, extents) < 0 ||
        read_dtype(module, name, &dtype) < 0)
        return NULL;
    return make_handle(cai_array_new_like(cai_module_state(module), like, dtype, ndim, extents));
}

static PyObject *to_capsule(PyObject *module, PyObject *handle)
{
    cai_array_t *array = array_of(handle);
    return array == NULL ? NULL : cai_array_to_capsule(cai_module_state(module), array);
}

static PyObject *from_capsule(PyObject *module, PyObject *capsule)
{
    return make_handle(cai_array_from_capsule(cai_module_state(module), capsule));
}

static PyObject *used_on(PyObject *module, PyObject *args)
{
    PyObject          *handle;
    unsigned long long stream;
    cai_array_t       *array;
    (void)module;
    if (!PyArg_ParseTuple(args, "OK", &handle, &stream))
        return NULL;
    array = array_of(handle);
    if (array == NULL)
        return NULL;
    return PyUnicode_FromString(cai_status_name(cai_array_used_on(array, (cai_stream_t)(uintptr_t)stream)));
}

/* set_stream(handle, stream, owner number or -1) */
static PyObject *set_stream(PyObject *module, PyObject *args)
{
    PyObject          *handle;
    unsigned long long stream;
    long               owner;
    cai_array_t       *array;
    (void)module;
    if (!PyArg_ParseTuple(args, "OKl", &handle, &stream, &owner))
        return NULL;
    array = array_of(handle);
    if (array == NULL)
        return NULL;
    return PyUnicode_FromString(cai_status_name(cai_array_set_stream(
        array, (cai_stream_t)(uintptr_t)stream, (void *)(intptr_t)owner, owner < 0 ? NULL : note_deleted)));
}

static PyObject *describe(PyObject *module, PyObject *handle)
{
    cai_array_t *array = array_of(handle);
    (void)module;
    if (array == NULL)
        return NULL;
    return Py_BuildValue("{s:K,s:K,s:K,s:(ii),s:i,s:N}", "pointer", (unsigned long long)(uintptr_t)array->tensor.data,
                         "stream", (unsigned long long)(uintptr_t)array->stream, "flags",
                         (unsigned long long)array->flags, "device", array->tensor.device.device_type,
                         array->tensor.device.device_id, "ndim", array->tensor.ndim, "shape",
                         cai_impl_integers_as_tuple(array->tensor.shape, array->tensor.ndim));
}

/* --------------------------------------------------------------------------------------------------------- streams */

static PyObject *read_stream(PyObject *module, PyObject *object)
{
    cai_stream_t stream;
    if (cai_stream_from_object(cai_module_state(module), object, &stream) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong((unsigned long long)(uintptr_t)stream);
}

static PyObject *make_stream(PyObject *module, PyObject *args)
{
    unsigned long long stream;
    PyObject          *owner = NULL;
    if (!PyArg_ParseTuple(args, "K|O", &stream, &owner))
        return NULL;
    return cai_stream_to_object(cai_module_state(module), (cai_stream_t)(uintptr_t)stream, owner);
}

/* ---------------------------------------------------------------------------------------------- the exchange table */

static const cai_dlpack_exchange_t *table_of(PyObject *type)
{
    PyObject                    *capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
    const cai_dlpack_exchange_t *table = NULL;
    if (capsule != NULL)
        table = (const cai_dlpack_exchange_t *)PyCapsule_GetPointer(capsule, CAI_DLPACK_CAPSULE_EXCHANGE);
    Py_XDECREF(capsule);
    return table;
}

static const cai_dlpack_exchange_t *table_of_object(PyObject *object)
{
    return table_of((PyObject *)Py_TYPE(object));
}

/* table_give(object): a capsule "dltensor_versioned" without a destructor. */
static PyObject *table_give(PyObject *module, PyObject *object)
{
    const cai_dlpack_exchange_t    *table = table_of_object(object);
    cai_dlpack_managed_versioned_t *managed = NULL;
    (void)module;
    if (table == NULL || table->managed_tensor_from_py_object_no_sync(object, &managed) != 0)
        return NULL;
    return PyCapsule_New(managed, CAI_DLPACK_CAPSULE_VERSIONED, NULL);
}

/* table_lend(object): (pointer, device, shape, strides in elements) */
static PyObject *table_lend(PyObject *module, PyObject *object)
{
    const cai_dlpack_exchange_t *table = table_of_object(object);
    cai_tensor_t                 tensor;
    (void)module;
    if (table == NULL || table->dltensor_from_py_object_no_sync(object, &tensor) != 0)
        return NULL;
    return Py_BuildValue("(K(ii)NN)", (unsigned long long)(uintptr_t)tensor.data, tensor.device.device_type,
                         tensor.device.device_id, cai_impl_integers_as_tuple(tensor.shape, tensor.ndim),
                         cai_impl_integers_as_tuple(tensor.strides, tensor.ndim));
}

/* table_make(type, capsule): the object. The capsule keeps its name where it is not consumed. */
static PyObject *table_make(PyObject *module, PyObject *args)
{
    PyObject                    *type, *capsule;
    const cai_dlpack_exchange_t *table;
    void                        *object = NULL, *managed;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO", &type, &capsule))
        return NULL;
    table = table_of(type);
    managed = PyCapsule_GetPointer(capsule, CAI_DLPACK_CAPSULE_VERSIONED);
    if (table == NULL || managed == NULL ||
        table->managed_tensor_to_py_object_no_sync((cai_dlpack_managed_versioned_t *)managed, &object) != 0)
        return NULL;
    if (PyCapsule_SetName(capsule, CAI_DLPACK_CAPSULE_VERSIONED_USED) < 0)
        Py_CLEAR(object);
    return (PyObject *)object;
}

static void set_python_error(void *context, const char *kind, const char *message)
{
    (void)context;
    PyErr_Format(PyExc_RuntimeError, "%s: %s", kind, message);
}

/* table_allocate(type, shape, dtype, (type, id)): a capsule. */
static PyObject *table_allocate(PyObject *module, PyObject *args)
{
    PyObject                       *type, *shape;
    const char                     *name;
    int64_t                         extents[CAI_MAX_NDIM];
    cai_tensor_t                    prototype = {0};
    const cai_dlpack_exchange_t    *table;
    cai_dlpack_managed_versioned_t *managed = NULL;
    if (!PyArg_ParseTuple(args, "OOs(ii)", &type, &shape, &name, &prototype.device.device_type,
                          &prototype.device.device_id) ||
        read_shape(shape, &prototype.ndim, extents) < 0 || read_dtype(module, name, &prototype.dtype) < 0)
        return NULL;
    prototype.shape = extents;
    table = table_of(type);
    if (table == NULL || table->managed_tensor_allocator(&prototype, &managed, NULL, set_python_error) != 0)
        return NULL;
    return PyCapsule_New(managed, CAI_DLPACK_CAPSULE_VERSIONED, NULL);
}

static PyObject *table_stream(PyObject *module, PyObject *args)
{
    PyObject                    *type;
    int                          device_type, device_id;
    const cai_dlpack_exchange_t *table;
    void                        *stream = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "Oii", &type, &device_type, &device_id))
        return NULL;
    table = table_of(type);
    if (table == NULL || table->current_work_stream(device_type, device_id, &stream) != 0)
        return NULL;
    return PyLong_FromVoidPtr(stream);
}

/* Call the deleter of what is in a capsule "dltensor_versioned", which is used then; on a thread of its own if asked. */
static void *delete_in_thread(void *argument)
{
    cai_dlpack_managed_versioned_t *managed = (cai_dlpack_managed_versioned_t *)argument;
    managed->deleter(managed);
    return NULL;
}

static PyObject *delete_managed(PyObject *module, PyObject *args)
{
    PyObject *capsule;
    int       on_thread;
    pthread_t thread;
    void     *managed;
    (void)module;
    if (!PyArg_ParseTuple(args, "Op", &capsule, &on_thread))
        return NULL;
    managed = PyCapsule_GetPointer(capsule, CAI_DLPACK_CAPSULE_VERSIONED);
    if (managed == NULL || PyCapsule_SetName(capsule, CAI_DLPACK_CAPSULE_VERSIONED_USED) < 0)
        return NULL;
    if (!on_thread)
        (void)delete_in_thread(managed);
    else if (pthread_create(&thread, NULL, delete_in_thread, managed) != 0)
        return PyErr_NoMemory();
    else
        pthread_join(thread, NULL); /* with the GIL held: a deleter that waits for it never comes back */
    Py_RETURN_NONE;
}

/* --------------------------------------------------------------------------------------- a state without a module */

CAI_DEFINE_STATE(JOIN(ARRAYS_NAME, _state))

/* stateless(shape): a host array of the state that lies in the interpreter's dict. */
static PyObject *stateless(PyObject *module, PyObject *shape)
{
    cai_state_t *state = JOIN(ARRAYS_NAME, _state)();
    int32_t      ndim;
    int64_t      extents[CAI_MAX_NDIM];
    cai_error_t  error;
    cai_array_t *array;
    PyObject    *object;
    (void)module;
    if (state == NULL || read_shape(shape, &ndim, extents) < 0)
        return NULL;
    array = cai_array_new(cai_state_pool(state), cai_float32(), ndim, extents, -1, CAI_MEMORY_HOST, NULL, &error);
    if (array == NULL) {
        (void)cai_raise(state, &error);
        return NULL;
    }
    object = cai_array_to_object(state, array);
    cai_array_release(array);
    return object;
}

/* ---------------------------------------------------------------------------------------------------------- module */

static PyMethodDef methods[] = {
    {"new", new_object, METH_VARARGS, "new(shape, dtype, memory, device, stream): an Array"},
    {"new_handle", new_handle, METH_VARARGS, "the same as C's own reference"},
    {"wrap", wrap, METH_VARARGS, NULL},
    {"keep", keep, METH_VARARGS, NULL},
    {"give", give, METH_O, NULL},
    {"give_like", give_like, METH_VARARGS, NULL},
    {"new_like", new_like, METH_VARARGS, NULL},
    {"to_capsule", to_capsule, METH_O, NULL},
    {"from_capsule", from_capsule, METH_O, NULL},
    {"release", release, METH_O, NULL},
    {"release_on_thread", release_on_thread, METH_VARARGS, NULL},
    {"used_on", used_on, METH_VARARGS, NULL},
    {"set_stream", set_stream, METH_VARARGS, NULL},
    {"describe", describe, METH_O, NULL},
    {"deleted", deleted, METH_NOARGS, NULL},
    {"forget_deleted", forget_deleted, METH_NOARGS, NULL},
    {"read_stream", read_stream, METH_O, NULL},
    {"make_stream", make_stream, METH_VARARGS, NULL},
    {"table_give", table_give, METH_O, NULL},
    {"table_lend", table_lend, METH_O, NULL},
    {"table_make", table_make, METH_VARARGS, NULL},
    {"table_allocate", table_allocate, METH_VARARGS, NULL},
    {"table_stream", table_stream, METH_VARARGS, NULL},
    {"delete_managed", delete_managed, METH_VARARGS, NULL},
    {"stateless", stateless, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    static const struct {
        const char *name;
        long        value;
    } numbers[] = {{"DEVICE", CAI_MEMORY_DEVICE},   {"NO_POOL", CAI_MEMORY_DEVICE_NO_POOL},
                   {"MANAGED", CAI_MEMORY_MANAGED}, {"PINNED", CAI_MEMORY_PINNED},
                   {"HOST", CAI_MEMORY_HOST},       {"READONLY", CAI_READONLY},
                   {"COPIED", CAI_COPIED},          {"FREE_IN_ORDER", CAI_FREE_IN_ORDER},
                   {"WRITABLE", CAI_WRITABLE}};
    cai_state_t *state = cai_module_state(module);
    if (cai_state_init(state, module) < 0 || cai_register_exceptions(state, module, NULL) < 0)
        return -1;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        if (PyModule_AddIntConstant(module, numbers[i].name, numbers[i].value) < 0)
            return -1;
    }
    if (PyModule_AddStringConstant(module, "cai_version", CAI_VERSION_STRING) < 0 ||
        PyModule_AddIntConstant(module, "own_size", (long)sizeof(cai_impl_own_array_t)) < 0)
        return -1;
    if (cai_array_type(state) == NULL || cai_stream_type(state) == NULL ||
        PyModule_AddObjectRef(module, "Array", cai_array_type(state)) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "Stream", cai_stream_type(state));
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)(uintptr_t)module_exec},
#if PY_VERSION_HEX >= 0x030C0000 && (!defined(Py_LIMITED_API) || Py_LIMITED_API >= 0x030C0000)
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = STRING(ARRAYS_NAME),    .m_size = sizeof(cai_state_t), .m_methods = methods,
    .m_slots = slots,      .m_traverse = cai_state_traverse, .m_clear = cai_state_clear,    .m_free = cai_state_free,
};

PyMODINIT_FUNC JOIN(PyInit_, ARRAYS_NAME)(void)
{
    return PyModuleDef_Init(&definition);
}
