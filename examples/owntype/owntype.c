/* owntype.c - a type of the author's own that every array library understands: Buffer, with its own allocator and deleter.
 *
 * Buffer(n) is n float32 numbers in host memory, Buffer(n, device=True) in the memory of the current GPU. NumPy, CuPy,
 * PyTorch, JAX and all others use that very memory; it is freed when the last of them lets go of it. */
#include <cai/cai.h>

/* ----------------------------------------------------------------------------------------------- the author's memory */

/* What the allocator knows of a block: the array's owner, which its deleter gets. */
typedef struct block {
    void *memory;
    bool  on_device;
} block_t;

/* Blocks that are not freed yet. Deleters run on any thread. */
static int64_t n_blocks;

static void free_memory(void *memory, bool on_device)
{
#if !defined(CAI_NO_CUDA)
    /* Somebody may be capturing a graph, which cudaFree would break in any other mode. */
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    if (on_device) {
        (void)cudaThreadExchangeStreamCaptureMode(&mode);
        (void)cudaFree(memory);
        (void)cudaThreadExchangeStreamCaptureMode(&mode);
        return;
    }
#endif
    (void)on_device;
    free(memory);
}

static void *allocate_memory(size_t nbytes, bool on_device)
{
#if !defined(CAI_NO_CUDA)
    void *memory = NULL;
    if (on_device && cudaMalloc(&memory, nbytes) == cudaSuccess) {
        if (cudaMemset(memory, 0, nbytes) == cudaSuccess)
            return memory;
        free_memory(memory, on_device);
    }
    if (on_device)
        (void)cudaGetLastError(); /* told by our exception, and not to whoever asks next */
#endif
    return on_device ? NULL : calloc(nbytes, 1);
}

/* cai calls it once: on whatever thread the last reference goes, without Python, after all work that it knows of. */
static void delete_block(void *owner)
{
    block_t *block = (block_t *)owner;
    free_memory(block->memory, block->on_device);
    free(block);
    (void)__atomic_sub_fetch(&n_blocks, 1, __ATOMIC_RELAXED);
}

static block_t *new_block(size_t nbytes, bool on_device)
{
    block_t *block = (block_t *)malloc(sizeof(block_t));
    if (block == NULL)
        return NULL;
    block->on_device = on_device;
    block->memory = allocate_memory(nbytes, on_device);
    if (block->memory == NULL) {
        free(block);
        return NULL;
    }
    (void)__atomic_add_fetch(&n_blocks, 1, __ATOMIC_RELAXED);
    return block;
}

/* -------------------------------------------------------------------------------------------------- the Python type */

typedef struct buffer {
    PyObject_HEAD
    cai_array_t *array;
} buffer_t;

static cai_array_t *buffer_array(PyObject *self)
{
    return ((buffer_t *)self)->array;
}

static cai_state_t *buffer_state(PyObject *self)
{
    return (cai_state_t *)PyType_GetModuleState(Py_TYPE(self));
}

/* All protocols of arrays, from these two functions. */
CAI_DEFINE_ARRAY_PROTOCOLS(buffer, buffer_state, buffer_array)

/* An array over a new block; NULL with an exception. */
static cai_array_t *new_array(cai_state_t *state, int64_t n, bool on_device)
{
    cai_tensor_t tensor = {.ndim = 1, .dtype = CAI_FLOAT32, .shape = &n};
    block_t     *block = new_block((size_t)n * sizeof(float), on_device);
    cai_array_t *array = NULL;
    cai_error_t  error;
    if (block == NULL) {
        (void)PyErr_NoMemory();
        return NULL;
    }
    tensor.data = block->memory;
    tensor.device.device_type = CAI_DEVICE_CPU;
    if (!on_device || cai_pointer_device(block->memory, &tensor.device, &error) == CAI_OK)
        array = cai_array_wrap(cai_state_pool(state), &tensor, 0, block, delete_block, &error);
    if (array == NULL) {
        delete_block(block); /* on failure it is still ours */
        (void)cai_raise(state, &error);
        return NULL;
    }
    if (on_device)
        (void)cai_array_used_on(array, CAI_STREAM_LEGACY); /* where cudaMemset is at work */
    return array;
}

static PyObject *buffer_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"n", "device", NULL};
    Py_ssize_t   n;
    int          on_device = 0;
    cai_array_t *array;
    buffer_t    *self;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "n|p", names, &n, &on_device))
        return NULL;
    if (n < 1 || n > PY_SSIZE_T_MAX / (Py_ssize_t)sizeof(float))
        return PyErr_Format(PyExc_ValueError, "argument 'n': expected 1 or more; got %zd", n);
    array = new_array((cai_state_t *)PyType_GetModuleState(type), n, on_device != 0);
    if (array == NULL)
        return NULL;
    self = (buffer_t *)type->tp_alloc(type, 0);
    if (self == NULL)
        cai_array_release(array);
    else
        self->array = array;
    return (PyObject *)self;
}

static void buffer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    cai_array_release(buffer_array(self));
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef buffer_methods[] = {CAI_ARRAY_METHODS(buffer), {NULL, NULL, 0, NULL}};
static PyGetSetDef buffer_getset[] = {CAI_ARRAY_GETSET(buffer), {NULL, NULL, NULL, NULL, NULL}};

PyDoc_STRVAR(buffer_doc,
             "Buffer(n, device=False)\n--\n\nn float32 numbers, in host memory or in that of the current GPU.");

static PyType_Slot buffer_slots[] = {
    CAI_ARRAY_SLOTS(buffer),
    {Py_tp_doc, (void *)(uintptr_t)buffer_doc},
    {Py_tp_new, (void *)(uintptr_t)buffer_new},
    {Py_tp_dealloc, (void *)(uintptr_t)buffer_dealloc},
    {Py_tp_methods, buffer_methods},
    {Py_tp_getset, buffer_getset},
    {0, NULL},
};

static PyType_Spec buffer_spec = {
    .name = "owntype.Buffer",
    .basicsize = sizeof(buffer_t),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = buffer_slots,
};

/* ---------------------------------------------------------------------------------------------------------- module */

static PyObject *live(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return PyLong_FromLongLong(__atomic_load_n(&n_blocks, __ATOMIC_RELAXED));
}

static PyMethodDef methods[] = {
    {"live", live, METH_NOARGS, "live()\n--\n\nHow many blocks of memory are not freed yet."},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    cai_state_t *state = cai_module_state(module);
    PyObject    *type;
    int          result = -1;
    if (cai_state_init(state, module) < 0 || cai_register_exceptions(state, module, NULL) < 0)
        return -1;
    type = PyType_FromModuleAndSpec(module, &buffer_spec, NULL);
    if (type != NULL && CAI_ARRAY_TYPE_READY(buffer, state, type) == 0)
        result = PyModule_AddObjectRef(module, "Buffer", type);
    Py_XDECREF(type);
    return result;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)(uintptr_t)module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "owntype",
    .m_doc = "Buffer, a type of its own that every array library understands, by cai.",
    .m_size = sizeof(cai_state_t),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = cai_state_traverse,
    .m_clear = cai_state_clear,
    .m_free = cai_state_free,
};

PyMODINIT_FUNC PyInit_owntype(void)
{
    return PyModuleDef_Init(&definition);
}
