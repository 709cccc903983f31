/* floor.c - the least that each case can cost: the calls that its protocol cannot avoid, unchecked, and nothing else. */
#include <cai/dlpack_abi.h>

#include <Python.h>
#include <cuda_runtime_api.h>

#include <stdlib.h>
#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#endif

enum { SHAPE, TYPESTR, DATA, VERSION, STRIDES, STREAM, N_FIELDS };

/* A benchmark's module is loaded once, so that what it keeps may be static. */
static PyObject *fields[N_FIELDS], *interface_name, *dlpack_name, *dlpack_keywords, *stream_keyword, *minus_one, *one,
    *newest, *float32_typestr, *three;
static const cai_dlpack_exchange_t *table; /* torch's */
static cudaStream_t                 consumer;
static cudaEvent_t                  event;
static float                        host_memory[64];
static void                        *device_memory;

/* What an argument holds from acquire to release; each protocol uses its own part. */
typedef struct {
    Py_buffer                       buffer;
    cai_tensor_t                    tensor;
    cai_dlpack_managed_versioned_t *managed;
    cai_dlpack_managed_t           *legacy;
    int64_t                         shape[64], strides[64];
    cudaStream_t                    stream;
    PyObject                       *object;
} held_t;

/* ------------------------------------------------------------------------------------------------------ protocols -- */

static inline int acquire_buffer(PyObject *object, held_t *held)
{
    return PyObject_GetBuffer(object, &held->buffer, PyBUF_RECORDS_RO);
}

static inline void release_buffer(held_t *held)
{
    PyBuffer_Release(&held->buffer);
}

static inline void release_nothing(held_t *held)
{
    (void)held;
}

static inline int acquire_exchange(PyObject *object, held_t *held)
{
    return table->dltensor_from_py_object_no_sync(object, &held->tensor);
}

static inline void read_integers(PyObject *tuple, int64_t *out)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++)
        out[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i));
}

static inline void read_fields(PyObject *interface, held_t *held)
{
    PyObject *values[N_FIELDS];
    for (int i = 0; i < N_FIELDS; i++)
        values[i] = PyDict_GetItemWithError(interface, fields[i]);
    read_integers(values[SHAPE], held->shape);
    if (values[STRIDES] != NULL && values[STRIDES] != Py_None)
        read_integers(values[STRIDES], held->strides);
    held->tensor.ndim = (int32_t)PyTuple_GET_SIZE(values[SHAPE]);
    held->tensor.dtype.code = (uint8_t)PyUnicode_AsUTF8(values[TYPESTR])[1];
    held->tensor.data = PyLong_AsVoidPtr(PyTuple_GET_ITEM(values[DATA], 0));
    held->tensor.byte_offset = PyTuple_GET_ITEM(values[DATA], 1) == Py_True;
    held->tensor.device.device_type = (int32_t)PyLong_AsLong(values[VERSION]);
    held->stream = NULL;
    if (values[STREAM] != NULL && values[STREAM] != Py_None)
        held->stream = (cudaStream_t)PyLong_AsVoidPtr(values[STREAM]);
}

static inline int acquire_interface(PyObject *object, held_t *held)
{
    struct cudaPointerAttributes attributes;
    PyObject                    *interface = PyObject_GetAttr(object, interface_name);
    if (interface == NULL)
        return -1;
    read_fields(interface, held);
    Py_DECREF(interface);
    (void)cudaPointerGetAttributes(&attributes, held->tensor.data);
    held->tensor.device.device_id = attributes.device;
    return 0;
}

/* A consumer that orders nothing; the producer takes the newest version that it knows. */
static inline int acquire_dlpack(PyObject *object, held_t *held)
{
    PyObject *args[3] = {object, minus_one, newest};
    PyObject *capsule =
        PyObject_VectorcallMethod(dlpack_name, args, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, dlpack_keywords);
    if (capsule == NULL)
        return -1;
    held->managed = PyCapsule_GetPointer(capsule, CAI_DLPACK_CAPSULE_VERSIONED);
    (void)PyCapsule_SetName(capsule, CAI_DLPACK_CAPSULE_VERSIONED_USED);
    Py_DECREF(capsule);
    return held->managed == NULL ? -1 : 0;
}

static inline void release_dlpack(held_t *held)
{
    held->managed->deleter(held->managed);
}

/* JAX knows legacy capsules only, and refuses -1: it orders its work before the legacy stream. */
static inline int acquire_dlpack_legacy(PyObject *object, held_t *held)
{
    PyObject *args[2] = {object, one};
    PyObject *capsule =
        PyObject_VectorcallMethod(dlpack_name, args, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, stream_keyword);
    if (capsule == NULL)
        return -1;
    held->legacy = PyCapsule_GetPointer(capsule, CAI_DLPACK_CAPSULE);
    (void)PyCapsule_SetName(capsule, CAI_DLPACK_CAPSULE_USED);
    Py_DECREF(capsule);
    return held->legacy == NULL ? -1 : 0;
}

static inline void release_dlpack_legacy(held_t *held)
{
    held->legacy->deleter(held->legacy);
}

/* --------------------------------------------------------------------------------------------------------- order --- */

static inline void order_nothing(held_t *held)
{
    (void)held;
}

/* torch tells its stream apart from its tensors: once for a call. */
static inline void order_work_stream(held_t *held)
{
    void *stream;
    (void)table->current_work_stream(CAI_DEVICE_CUDA, held->tensor.device.device_id, &stream);
    held->stream = (cudaStream_t)stream;
}

static inline void order_streams(cudaStream_t before, cudaStream_t after)
{
    (void)cudaEventRecord(event, before);
    (void)cudaStreamWaitEvent(after, event, 0);
}

/* Whoever does not ask first breaks the capture that is under way on one of the two. */
static inline void order_there(held_t *held)
{
    enum cudaStreamCaptureStatus capturing;
    (void)cudaStreamIsCapturing(held->stream, &capturing);
    (void)cudaStreamIsCapturing(consumer, &capturing);
    order_streams(held->stream, consumer);
}

static inline void order_back(held_t *held)
{
    order_streams(consumer, held->stream);
}

static inline void order_work_stream_there(held_t *held)
{
    order_work_stream(held);
    order_there(held);
}

static inline void order_block(held_t *held)
{
    Py_BEGIN_ALLOW_THREADS(void)
    cudaStreamSynchronize(held->stream);
    Py_END_ALLOW_THREADS
}

static inline void order_work_stream_block(held_t *held)
{
    order_work_stream(held);
    order_block(held);
}

/* ----------------------------------------------------------------------------------------------------- functions --- */

#define CONSUMER(name, acquire, before, after, release, result)                                                        \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t nargs)                                   \
    {                                                                                                                  \
        held_t held[3];                                                                                                \
        (void)module;                                                                                                  \
        for (Py_ssize_t i = 0; i < nargs; i++) {                                                                       \
            if (acquire(args[i], &held[i]) < 0)                                                                        \
                return NULL;                                                                                           \
        }                                                                                                              \
        before(&held[0]);                                                                                              \
        after(&held[0]);                                                                                               \
        for (Py_ssize_t i = 0; i < nargs; i++)                                                                         \
            release(&held[i]);                                                                                         \
        Py_INCREF(result);                                                                                             \
        return result;                                                                                                 \
    }

/* Name, acquire, order there, order back, release, result. */
#define CONSUMERS(X)                                                                                                   \
    X(buffer, acquire_buffer, order_nothing, order_nothing, release_buffer, Py_None)                                   \
    X(exchange, acquire_exchange, order_nothing, order_nothing, release_nothing, Py_None)                              \
    X(exchange_stream, acquire_exchange, order_work_stream, order_nothing, release_nothing, Py_None)                   \
    X(exchange_streams, acquire_exchange, order_work_stream_there, order_back, release_nothing, Py_None)               \
    X(exchange_block, acquire_exchange, order_work_stream_block, order_nothing, release_nothing, Py_None)              \
    X(interface, acquire_interface, order_nothing, order_nothing, release_nothing, Py_None)                            \
    X(interface_streams, acquire_interface, order_there, order_back, release_nothing, Py_None)                         \
    X(interface_block, acquire_interface, order_block, order_nothing, release_nothing, Py_None)                        \
    X(dlpack, acquire_dlpack, order_nothing, order_nothing, release_dlpack, Py_None)                                   \
    X(dlpack_legacy, acquire_dlpack_legacy, order_nothing, order_nothing, release_dlpack_legacy, Py_None)              \
    X(return_buffer, acquire_buffer, order_nothing, order_nothing, release_buffer, args[0])                            \
    X(return_exchange, acquire_exchange, order_nothing, order_nothing, release_nothing, args[0])                       \
    X(return_exchange_stream, acquire_exchange, order_work_stream, order_nothing, release_nothing, args[0])            \
    X(return_interface, acquire_interface, order_nothing, order_nothing, release_nothing, args[0])

CONSUMERS(CONSUMER)

static PyObject *noop(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module, (void)args, (void)nargs;
    Py_RETURN_NONE;
}

/* A tensor of torch, and two arrays by the CUDA Array Interface, all on one stream. */
static PyObject *mix(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    held_t held[3];
    (void)module, (void)nargs;
    if (acquire_interface(args[1], &held[1]) < 0 || acquire_interface(args[2], &held[2]) < 0 ||
        acquire_exchange(args[0], &held[0]) < 0)
        return NULL;
    order_work_stream(&held[0]);
    Py_RETURN_NONE;
}

/* --------------------------------------------------------------------------------------------------------- memory -- */

#define NBYTES 256

static PyObject *allocate_host(PyObject *module, PyObject *ignored)
{
    void *volatile memory = malloc(NBYTES);
    (void)module, (void)ignored;
    free(memory);
    Py_RETURN_NONE;
}

static PyObject *allocate_cuda(PyObject *module, PyObject *ignored)
{
    void *memory;
    (void)module, (void)ignored;
    if (cudaMallocAsync(&memory, NBYTES, consumer) == cudaSuccess)
        (void)cudaFreeAsync(memory, consumer);
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------------------------------------------------- array -- */

/* The least object that has the protocols: it describes memory that is never freed. */
typedef struct {
    PyObject_HEAD
    cai_tensor_t tensor;
} array_t;

static PyTypeObject array_type;
static int64_t      array_shape[2] = {8, 8}, array_strides[2] = {8, 1};
static Py_ssize_t   buffer_shape[2] = {8, 8}, buffer_strides[2] = {32, 4};

static PyObject *make_array(int32_t device_type)
{
    array_t *array = PyObject_New(array_t, &array_type);
    if (array == NULL)
        return NULL;
    array->tensor = (cai_tensor_t){.data = device_type == CAI_DEVICE_CPU ? host_memory : device_memory,
                                   .device = {device_type, 0},
                                   .ndim = 2,
                                   .dtype = {CAI_CODE_FLOAT, 32, 1},
                                   .shape = array_shape,
                                   .strides = array_strides};
    return (PyObject *)array;
}

static PyObject *array_host(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return make_array(CAI_DEVICE_CPU);
}

static PyObject *array_cuda(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return make_array(CAI_DEVICE_CUDA);
}

/* A type that is known has its struct at a known place. */
static inline int acquire_array(PyObject *object, held_t *held)
{
    if (!Py_IS_TYPE(object, &array_type))
        return -1;
    held->tensor = ((array_t *)object)->tensor;
    held->object = Py_NewRef(object);
    return 0;
}

static inline void release_array(held_t *held)
{
    Py_DECREF(held->object);
}

CONSUMER(array, acquire_array, order_nothing, order_nothing, release_array, Py_None)

static PyObject *array_interface(PyObject *self, void *ignored)
{
    const cai_tensor_t *tensor = &((array_t *)self)->tensor;
    PyObject           *dict = PyDict_New(), *shape = PyTuple_New(2), *data = PyTuple_New(2);
    PyTuple_SET_ITEM(shape, 0, PyLong_FromLongLong(tensor->shape[0]));
    PyTuple_SET_ITEM(shape, 1, PyLong_FromLongLong(tensor->shape[1]));
    PyTuple_SET_ITEM(data, 0, PyLong_FromVoidPtr(tensor->data));
    PyTuple_SET_ITEM(data, 1, Py_NewRef(Py_False));
    (void)ignored;
    (void)PyDict_SetItem(dict, fields[SHAPE], shape);
    (void)PyDict_SetItem(dict, fields[TYPESTR], float32_typestr);
    (void)PyDict_SetItem(dict, fields[DATA], data);
    (void)PyDict_SetItem(dict, fields[VERSION], three);
    (void)PyDict_SetItem(dict, fields[STRIDES], Py_None);
    Py_DECREF(shape);
    Py_DECREF(data);
    return dict;
}

static void delete_managed(cai_dlpack_managed_versioned_t *managed)
{
    Py_DECREF((PyObject *)managed->manager_ctx);
    free(managed);
}

static int give_managed(void *self, cai_dlpack_managed_versioned_t **out)
{
    cai_dlpack_managed_versioned_t *managed = malloc(sizeof *managed);
    if (managed == NULL)
        return -1;
    *managed = (cai_dlpack_managed_versioned_t){{CAI_DLPACK_MAJOR, CAI_DLPACK_MINOR},
                                                Py_NewRef((PyObject *)self),
                                                delete_managed,
                                                0,
                                                ((array_t *)self)->tensor};
    *out = managed;
    return 0;
}

static void delete_capsule(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, CAI_DLPACK_CAPSULE_VERSIONED))
        delete_managed(PyCapsule_GetPointer(capsule, CAI_DLPACK_CAPSULE_VERSIONED));
}

static PyObject *array_dlpack(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords)
{
    cai_dlpack_managed_versioned_t *managed;
    (void)args, (void)nargs, (void)keywords;
    return give_managed(self, &managed) < 0 ? NULL
                                            : PyCapsule_New(managed, CAI_DLPACK_CAPSULE_VERSIONED, delete_capsule);
}

static PyObject *array_dlpack_device(PyObject *self, PyObject *ignored)
{
    const cai_device_t device = ((array_t *)self)->tensor.device;
    (void)ignored;
    return Py_BuildValue("(ii)", device.device_type, device.device_id);
}

static int array_get_buffer(PyObject *self, Py_buffer *buffer, int flags)
{
    (void)flags;
    *buffer = (Py_buffer){.buf = host_memory,
                          .obj = Py_NewRef(self),
                          .len = NBYTES,
                          .itemsize = 4,
                          .ndim = 2,
                          .format = "f",
                          .shape = buffer_shape,
                          .strides = buffer_strides};
    return 0;
}

static PyBufferProcs array_as_buffer = {array_get_buffer, NULL};
static PyMethodDef   array_methods[] = {
    {"__dlpack__", (PyCFunction)(void (*)(void))array_dlpack, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"__dlpack_device__", array_dlpack_device, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef array_getset[] = {
    {"__cuda_array_interface__", array_interface, NULL, NULL, NULL},
    {"__array_interface__", array_interface, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject array_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "floor.Array",
    .tp_basicsize = sizeof(array_t),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = array_methods,
    .tp_getset = array_getset,
    .tp_as_buffer = &array_as_buffer,
};

static const cai_dlpack_exchange_t array_table = {.header = {{CAI_DLPACK_MAJOR, CAI_DLPACK_MINOR}, NULL},
                                                  .managed_tensor_from_py_object_no_sync = give_managed};

/* exchange_export(table, object): what a consumer does with a type's exchange table to own a tensor, and to give it up. */
static PyObject *exchange_export(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    const cai_dlpack_exchange_t    *exchange = PyCapsule_GetPointer(args[0], CAI_DLPACK_CAPSULE_EXCHANGE);
    cai_dlpack_managed_versioned_t *managed;
    (void)module, (void)nargs;
    if (exchange->managed_tensor_from_py_object_no_sync(args[1], &managed) < 0)
        return NULL;
    managed->deleter(managed);
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------------------------------- arrays of a library --- */

/* By a library's from_dlpack, which is passed. */
static PyObject *like(PyObject *from_dlpack, int32_t device_type)
{
    PyObject *array = make_array(device_type);
    PyObject *result = array == NULL ? NULL : PyObject_CallOneArg(from_dlpack, array);
    Py_XDECREF(array);
    return result;
}

static PyObject *like_host(PyObject *module, PyObject *from_dlpack)
{
    (void)module;
    return like(from_dlpack, CAI_DEVICE_CPU);
}

static PyObject *like_cuda(PyObject *module, PyObject *from_dlpack)
{
    (void)module;
    return like(from_dlpack, CAI_DEVICE_CUDA);
}

static void delete_unowned(cai_dlpack_managed_versioned_t *managed)
{
    free(managed);
}

/* By torch's exchange table. */
static PyObject *like_torch(void *memory, int32_t device_type)
{
    void                           *result;
    cai_dlpack_managed_versioned_t *managed = malloc(sizeof *managed);
    if (managed == NULL)
        return PyErr_NoMemory();
    *managed = (cai_dlpack_managed_versioned_t){
        .version = {CAI_DLPACK_MAJOR, CAI_DLPACK_MINOR},
        .deleter = delete_unowned,
        .tensor = {memory, {device_type, 0}, 2, {CAI_CODE_FLOAT, 32, 1}, array_shape, array_strides, 0}};
    return table->managed_tensor_to_py_object_no_sync(managed, &result) < 0 ? NULL : result;
}

static PyObject *like_torch_host(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return like_torch(host_memory, CAI_DEVICE_CPU);
}

static PyObject *like_torch_cuda(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return like_torch(device_memory, CAI_DEVICE_CUDA);
}

/* --------------------------------------------------------------------------------------------------------- set-up -- */

/* Lets valgrind write down what it has counted since it was last called; the first call starts the counting. */
static PyObject *mark(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
#if defined(CALLGRIND_DUMP_STATS)
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_DUMP_STATS;
    Py_RETURN_NONE;
#else
    PyErr_SetString(PyExc_RuntimeError, "valgrind's headers were not there when this was built");
    return NULL;
#endif
}

static PyObject *device_count(PyObject *module, PyObject *ignored)
{
    int count = 0;
    (void)module, (void)ignored;
    return PyLong_FromLong(cudaGetDeviceCount(&count) == cudaSuccess ? count : 0);
}

static PyObject *raise_cuda(cudaError_t error)
{
    PyErr_Format(PyExc_RuntimeError, "%s: %s", cudaGetErrorName(error), cudaGetErrorString(error));
    return NULL;
}

static PyObject *synchronize(PyObject *module, PyObject *ignored)
{
    const cudaError_t error = cudaDeviceSynchronize();
    (void)module, (void)ignored;
    if (error != cudaSuccess)
        return raise_cuda(error);
    Py_RETURN_NONE;
}

static PyObject *new_stream(PyObject *module, PyObject *ignored)
{
    cudaStream_t      stream;
    const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    (void)module, (void)ignored;
    return error == cudaSuccess ? PyLong_FromVoidPtr(stream) : raise_cuda(error);
}

/* By default the device's pool gives its memory back whenever the host waits, which would be timed with the next use. */
static cudaError_t keep_pool(void)
{
    cudaMemPool_t     pool;
    uint64_t          threshold = UINT64_MAX;
    const cudaError_t error = cudaDeviceGetDefaultMemPool(&pool, 0);
    return error == cudaSuccess ? cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold) : error;
}

/* use_cuda(consumer): the consumer's stream, and the memory of arrays; returns a pointer to that. */
static PyObject *use_cuda(PyObject *module, PyObject *stream)
{
    cudaError_t error = cudaMalloc(&device_memory, NBYTES);
    (void)module;
    consumer = (cudaStream_t)PyLong_AsVoidPtr(stream);
    if (error == cudaSuccess)
        error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    if (error == cudaSuccess)
        error = keep_pool();
    return error == cudaSuccess ? PyLong_FromVoidPtr(device_memory) : raise_cuda(error);
}

static PyObject *use_torch(PyObject *module, PyObject *capsule)
{
    (void)module;
    table = PyCapsule_GetPointer(capsule, CAI_DLPACK_CAPSULE_EXCHANGE);
    if (table == NULL)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *exchange_table(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return PyCapsule_New((void *)(uintptr_t)&array_table, CAI_DLPACK_CAPSULE_EXCHANGE, NULL);
}

#define FAST(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL},
#define FAST_CONSUMER(name, acquire, before, after, release, result) FAST(name)

static PyMethodDef methods[] = {
    CONSUMERS(FAST_CONSUMER) FAST(noop) FAST(mix) FAST(array)
        FAST(exchange_export){"allocate_host", allocate_host, METH_NOARGS, NULL},
    {"allocate_cuda", allocate_cuda, METH_NOARGS, NULL},
    {"array_host", array_host, METH_NOARGS, NULL},
    {"array_cuda", array_cuda, METH_NOARGS, NULL},
    {"like_host", like_host, METH_O, NULL},
    {"like_cuda", like_cuda, METH_O, NULL},
    {"like_torch_host", like_torch_host, METH_NOARGS, NULL},
    {"like_torch_cuda", like_torch_cuda, METH_NOARGS, NULL},
    {"mark", mark, METH_NOARGS, NULL},
    {"device_count", device_count, METH_NOARGS, NULL},
    {"synchronize", synchronize, METH_NOARGS, NULL},
    {"new_stream", new_stream, METH_NOARGS, NULL},
    {"use_cuda", use_cuda, METH_O, NULL},
    {"use_torch", use_torch, METH_O, NULL},
    {"exchange_table", exchange_table, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "floor", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_floor(void)
{
    static const char *const names[N_FIELDS] = {"shape", "typestr", "data", "version", "strides", "stream"};
    for (int i = 0; i < N_FIELDS; i++)
        fields[i] = PyUnicode_InternFromString(names[i]);
    interface_name = PyUnicode_InternFromString("__cuda_array_interface__");
    dlpack_name = PyUnicode_InternFromString("__dlpack__");
    dlpack_keywords = Py_BuildValue("(ss)", "stream", "max_version");
    stream_keyword = Py_BuildValue("(s)", "stream");
    minus_one = PyLong_FromLong(-1);
    one = PyLong_FromLong(1);
    three = PyLong_FromLong(3);
    float32_typestr = PyUnicode_InternFromString("<f4");
    newest = Py_BuildValue("(ii)", CAI_DLPACK_MAJOR, CAI_DLPACK_MINOR);
    return PyType_Ready(&array_type) < 0 ? NULL : PyModule_Create(&definition);
}
