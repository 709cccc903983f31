/* consumer.c - cai as an extension's author uses it: functions that take arrays and do nothing with them, and give some. */
#include <cai/cai.h>

/* cai's state comes first, so that cai_module_state finds it. */
typedef struct {
    cai_state_t  cai;
    cai_stream_t consumer;
    void        *device_memory;
} module_state_t;

static module_state_t *state_of(PyObject *module)
{
    return (module_state_t *)PyModule_GetState(module);
}

/* ------------------------------------------------------------------------------------------------------- requests -- */

#define REQUEST(argument, where, n, ...)                                                                               \
    {.name = argument,                                                                                                 \
     .dtype = CAI_FLOAT32,                                                                                             \
     .ndim = n,                                                                                                        \
     .shape = {__VA_ARGS__},                                                                                           \
     .require = CAI_C_CONTIGUOUS,                                                                                      \
     .memory = where}
#define THREE(where, n, ...)                                                                                           \
    {REQUEST("x", where, n, __VA_ARGS__), REQUEST("y", where, n, __VA_ARGS__), REQUEST("z", where, n, __VA_ARGS__)}

static const cai_request_t host_plain[3] = {{.memory = CAI_ON_HOST}, {.memory = CAI_ON_HOST}, {.memory = CAI_ON_HOST}};
static const cai_request_t host_1d[3] = THREE(CAI_ON_HOST, 1, 64);
static const cai_request_t host_2d[3] = THREE(CAI_ON_HOST, 2, 8, 8);
static const cai_request_t host_8d[3] = THREE(CAI_ON_HOST, 8, 2, 2, 2, 2, 2, 2, 1, 1);
static const cai_request_t cuda_plain[3];
static const cai_request_t cuda_1d[3] = THREE(0, 1, 64);
static const cai_request_t cuda_2d[3] = THREE(0, 2, 8, 8);
static const cai_request_t cuda_8d[3] = THREE(0, 8, 2, 2, 2, 2, 2, 2, 1, 1);

/* -------------------------------------------------------------------------------------------------------- arrays in - */

#define TAKE(name, wants, order, n)                                                                                    \
    static PyObject *name##_##n(PyObject *module, PyObject *const *args, Py_ssize_t nargs)                             \
    {                                                                                                                  \
        cai_view_t views[n];                                                                                           \
        cai_call_t call;                                                                                               \
        if (cai_call_begin(&call, cai_module_state(module), order, wants, args, nargs, n, views) < 0)                  \
            return NULL;                                                                                               \
        return cai_call_end(&call, Py_NewRef(Py_None));                                                                \
    }

/* Name, requests, order; each with one argument and with three. */
#define TAKERS(X)                                                                                                      \
    X(host_plain_adopt, host_plain, cai_order_adopt())                                                                 \
    X(host_1d_adopt, host_1d, cai_order_adopt())                                                                       \
    X(host_2d_adopt, host_2d, cai_order_adopt())                                                                       \
    X(host_8d_adopt, host_8d, cai_order_adopt())                                                                       \
    X(cuda_plain_adopt, cuda_plain, cai_order_adopt())                                                                 \
    X(cuda_1d_adopt, cuda_1d, cai_order_adopt())                                                                       \
    X(cuda_2d_adopt, cuda_2d, cai_order_adopt())                                                                       \
    X(cuda_8d_adopt, cuda_8d, cai_order_adopt())                                                                       \
    X(cuda_2d_none, cuda_2d, cai_order_none())                                                                         \
    X(cuda_2d_block, cuda_2d, cai_order_block())                                                                       \
    X(cuda_2d_wait, cuda_2d, cai_order_wait(CAI_STREAM_LEGACY))                                                        \
    X(cuda_2d_streams, cuda_2d, cai_order_wait(state_of(module)->consumer))

#define TAKE_1_AND_3(name, wants, order) TAKE(name, wants, order, 1) TAKE(name, wants, order, 3)
TAKERS(TAKE_1_AND_3)

/* One array alone needs no call. */
#define VIEW(name, wants)                                                                                              \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t nargs)                                   \
    {                                                                                                                  \
        cai_view_t view;                                                                                               \
        (void)nargs;                                                                                                   \
        if (cai_view_acquire(cai_module_state(module), args[0], wants, cai_order_adopt(), &view) < 0)                  \
            return NULL;                                                                                               \
        (void)cai_view_release(&view);                                                                                 \
        Py_RETURN_NONE;                                                                                                \
    }

VIEW(host_view, host_2d)
VIEW(cuda_view, cuda_2d)

static PyObject *noop(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module, (void)args, (void)nargs;
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------------------------------------------ arrays out -- */

static PyObject *same(PyObject *module, PyObject *object, const cai_request_t *want)
{
    cai_state_t *state = cai_module_state(module);
    cai_array_t *array = cai_array_from_object(state, object, want, cai_order_adopt());
    PyObject    *result = array == NULL ? NULL : cai_array_to_object(state, array);
    cai_array_release(array);
    return result;
}

static PyObject *same_host(PyObject *module, PyObject *object)
{
    return same(module, object, host_2d);
}

static PyObject *same_cuda(PyObject *module, PyObject *object)
{
    return same(module, object, cuda_2d);
}

/* `array` as an object of the library of `like`, or as an Array; the reference is taken over. */
static PyObject *hand_out(cai_state_t *state, cai_array_t *array, PyObject *like, const cai_error_t *error)
{
    PyObject *result;
    if (array == NULL) {
        (void)cai_raise(state, error);
        return NULL;
    }
    result = like == NULL ? cai_array_to_object(state, array) : cai_array_to_object_like(state, array, like);
    cai_array_release(array);
    return result;
}

/* Memory that is never freed, and that nobody uses, needs no looking for others. */
static PyObject *wrap(PyObject *module, void *memory, int32_t device_type, PyObject *like)
{
    static float       zeros[64];
    int64_t            shape[2] = {8, 8}, strides[2] = {8, 1};
    const cai_tensor_t tensor = {memory == NULL ? zeros : memory, {device_type, 0}, 2, CAI_FLOAT32, shape, strides, 0};
    cai_error_t        error;
    cai_state_t       *state = cai_module_state(module);
    cai_array_t       *array = cai_array_wrap(cai_state_pool(state), &tensor, CAI_FREE_IN_ORDER, NULL, NULL, &error);
    return hand_out(state, array, like, &error);
}

static PyObject *array_host(PyObject *module, PyObject *ignored)
{
    (void)ignored;
    return wrap(module, NULL, CAI_DEVICE_CPU, NULL);
}

static PyObject *array_cuda(PyObject *module, PyObject *ignored)
{
    (void)ignored;
    return wrap(module, state_of(module)->device_memory, CAI_DEVICE_CUDA, NULL);
}

static PyObject *like_host(PyObject *module, PyObject *like)
{
    return wrap(module, NULL, CAI_DEVICE_CPU, like);
}

static PyObject *like_cuda(PyObject *module, PyObject *like)
{
    return wrap(module, state_of(module)->device_memory, CAI_DEVICE_CUDA, like);
}

static PyObject *allocate(PyObject *module, cai_memory_t memory, cai_stream_t stream)
{
    const int64_t shape[2] = {8, 8};
    cai_error_t   error;
    cai_state_t  *state = cai_module_state(module);
    cai_array_t  *array = cai_array_new(cai_state_pool(state), cai_float32(), 2, shape, -1, memory, stream, &error);
    if (array != NULL)
        array->flags |= CAI_FREE_IN_ORDER;
    return hand_out(state, array, NULL, &error);
}

static PyObject *allocate_host(PyObject *module, PyObject *ignored)
{
    (void)ignored;
    return allocate(module, CAI_MEMORY_HOST, NULL);
}

static PyObject *allocate_cuda(PyObject *module, PyObject *ignored)
{
    (void)ignored;
    return allocate(module, CAI_MEMORY_DEVICE, state_of(module)->consumer);
}

/* ---------------------------------------------------------------------------------------------------------- module -- */

/* use_cuda(consumer, memory): the stream that is waited on, and 256 bytes of the device. */
static PyObject *use_cuda(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)nargs;
    state_of(module)->consumer = (cai_stream_t)PyLong_AsVoidPtr(args[0]);
    state_of(module)->device_memory = PyLong_AsVoidPtr(args[1]);
    Py_RETURN_NONE;
}

#define FAST(name)                       {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL},
#define FAST_1_AND_3(name, wants, order) FAST(name##_1) FAST(name##_3)

static PyMethodDef methods[] = {
    TAKERS(FAST_1_AND_3) FAST(host_view) FAST(cuda_view) FAST(noop)
        FAST(use_cuda){"same_host", same_host, METH_O, NULL},
    {"same_cuda", same_cuda, METH_O, NULL},
    {"array_host", array_host, METH_NOARGS, NULL},
    {"array_cuda", array_cuda, METH_NOARGS, NULL},
    {"like_host", like_host, METH_O, NULL},
    {"like_cuda", like_cuda, METH_O, NULL},
    {"allocate_host", allocate_host, METH_NOARGS, NULL},
    {"allocate_cuda", allocate_cuda, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    cai_state_t *state = cai_module_state(module);
    return cai_state_init(state, module) < 0 ? -1 : cai_register_exceptions(state, module, NULL);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)(uintptr_t)module_exec}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,      .m_name = "consumer",     .m_size = sizeof(module_state_t),
    .m_methods = methods,       .m_slots = slots,         .m_traverse = cai_state_traverse,
    .m_clear = cai_state_clear, .m_free = cai_state_free,
};

PyMODINIT_FUNC PyInit_consumer(void)
{
    return PyModuleDef_Init(&definition);
}
