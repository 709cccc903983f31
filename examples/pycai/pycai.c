/* pycai.c - a complete extension module on cai, to copy and change: saxpy(s, x, y, a=2.0) computes with the arrays of any
 * library, axpy(x, y, a=2.0) returns the sum in the library of x, describe(array) tells what cai sees of an array, and
 * arrays_out.c hands arrays to Python. */
#include <cai/cai.h>

#include "arrays_out.h"
#include "saxpy.h"

/* Built without nvcc there is no kernel, and host arrays alone are asked for. */
#if defined(PYCAI_HAS_KERNEL)
#define MEMORY (CAI_ON_CUDA | CAI_ON_MANAGED | CAI_ON_HOST)
#else
#define MEMORY CAI_ON_HOST
#endif

static const cai_dtype_t floats[] = {CAI_FLOAT32, CAI_FLOAT64};

enum { S, X, Y, N_ARRAYS };

static const cai_request_t wants[N_ARRAYS] = {
    {.name = "s", .dtypes = floats, .n_dtypes = 2, .memory = MEMORY, .require = CAI_WRITABLE | CAI_NO_SELF_OVERLAP},
    {.name = "x", .memory = MEMORY, .require = CAI_SAME_DTYPE | CAI_SAME_SHAPE | CAI_SAME_DEVICE},
    {.name = "y", .memory = MEMORY, .require = CAI_SAME_DTYPE | CAI_SAME_SHAPE | CAI_SAME_DEVICE},
};

/* ----------------------------------------------------------------------------------------------- the index space */

/* Whether dimension i and the last one of the layout can be walked as one, in all three arrays. */
static bool can_merge(const saxpy_layout_t *layout, const cai_view_t *views, int32_t i)
{
    const int32_t last = layout->ndim - 1;
    for (int k = 0; k < N_ARRAYS; k++) {
        if (layout->strides[k][last] != views[k].tensor.shape[i] * views[k].tensor.strides[i])
            return false;
    }
    return true;
}

/* Extents of 1 are dropped and dimensions that lie behind each other merged, so that dense arrays have one dimension. */
static saxpy_layout_t layout_of(const cai_view_t *views)
{
    const cai_tensor_t *s = &views[S].tensor;
    saxpy_layout_t      layout = {.size = views[S].size};
    for (int32_t i = 0; i < s->ndim && layout.size > 0; i++) {
        if (s->shape[i] == 1)
            continue;
        if (layout.ndim > 0 && can_merge(&layout, views, i)) {
            layout.shape[layout.ndim - 1] *= s->shape[i];
        } else {
            layout.ndim++;
            layout.shape[layout.ndim - 1] = s->shape[i];
        }
        for (int k = 0; k < N_ARRAYS; k++)
            layout.strides[k][layout.ndim - 1] = views[k].tensor.strides[i];
    }
    return layout;
}

/* ------------------------------------------------------------------------------------------------------ saxpy() */

/* Whether two arrays of one shape are the same elements in the same places; of an extent of 1 the stride says nothing. */
static bool are_the_same(const cai_tensor_t *a, const cai_tensor_t *b)
{
    for (int32_t i = 0; i < a->ndim; i++) {
        if (a->shape[i] > 1 && a->strides[i] != b->strides[i])
            return false;
    }
    return a->data == b->data;
}

/* s may be x or y. An s that overlaps them otherwise would be read after it was written. */
static int check_overlap(cai_state_t *state, const cai_view_t *views)
{
    const cai_tensor_t *s = &views[S].tensor;
    for (int k = X; k < N_ARRAYS; k++) {
        const cai_tensor_t *input = &views[k].tensor;
        if (!are_the_same(s, input) && cai_tensors_may_overlap(s, input)) {
            cai_error_t error;
            (void)cai_error_set(&error, CAI_ERROR_LAYOUT_MISMATCH,
                                "argument 's': expected memory of its own, or all of '%s'; got an overlap",
                                wants[k].name);
            return cai_raise(state, &error);
        }
    }
    return 0;
}

static void compute_on_host(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments, bool is_float32)
{
    Py_BEGIN_ALLOW_THREADS
    if (is_float32)
        saxpy_host_float32(layout, arguments);
    else
        saxpy_host_float64(layout, arguments);
    Py_END_ALLOW_THREADS
}

/* Returns 0, or -1 with an exception. */
static int compute_on_device(cai_state_t *state, const saxpy_layout_t *layout, const saxpy_arguments_t *arguments,
                             bool is_float32, cai_stream_t stream)
{
#if defined(PYCAI_HAS_KERNEL)
    cai_error_t error;
    const int   result = is_float32 ? saxpy_launch_float32(layout, arguments, stream)
                                    : saxpy_launch_float64(layout, arguments, stream);
    if (cai_cuda_status((cudaError_t)result, "the launch of saxpy", &error) != CAI_OK)
        return cai_raise(state, &error);
#else
    (void)state, (void)layout, (void)arguments, (void)is_float32, (void)stream;
#endif
    return 0;
}

static int compute(cai_state_t *state, const cai_call_t *call, const cai_view_t *views, double a)
{
    const saxpy_layout_t    layout = layout_of(views);
    const saxpy_arguments_t arguments = {views[S].tensor.data, views[X].tensor.data, views[Y].tensor.data, a};
    const bool              is_float32 = cai_dtype_equal(views[S].tensor.dtype, cai_float32());
    if (check_overlap(state, views) < 0)
        return -1;
    if (layout.size == 0)
        return 0;
    if (call->device.device_type != CAI_DEVICE_CPU)
        return compute_on_device(state, &layout, &arguments, is_float32, call->stream);
    compute_on_host(&layout, &arguments, is_float32);
    return 0;
}

/* The factor, as a fourth argument or by name. 0, or -1 with an exception. */
static int parse_factor(PyObject *const *args, Py_ssize_t nargs, PyObject *names, double *a)
{
    const Py_ssize_t n_names = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    PyObject        *factor = nargs == N_ARRAYS + 1 ? args[N_ARRAYS] : NULL;
    *a = 2.0;
    if (nargs < N_ARRAYS || nargs > N_ARRAYS + 1 || n_names > 1 || (n_names == 1 && factor != NULL) ||
        (n_names == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "a") != 0)) {
        PyErr_SetString(PyExc_TypeError, "expected saxpy(s, x, y, a=2.0)");
        return -1;
    }
    if (n_names == 1)
        factor = args[nargs];
    if (factor != NULL)
        *a = PyFloat_AsDouble(factor);
    return *a == -1.0 && PyErr_Occurred() != NULL ? -1 : 0;
}

PyDoc_STRVAR(saxpy_doc,
             "saxpy(s, x, y, a=2.0)\n--\n\n"
             "s = a x + y, in place, for float32 or float64 arrays of one shape, any strides, in host or CUDA\n"
             "memory. On a GPU it runs on the arrays' own stream and returns before it is done.");

static PyObject *saxpy(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    cai_state_t *state = cai_module_state(module);
    cai_view_t   views[N_ARRAYS];
    cai_call_t   call;
    double       a;
    if (parse_factor(args, nargs, names, &a) < 0)
        return NULL;
    if (cai_call_begin(&call, state, cai_order_adopt(), wants, args, N_ARRAYS, N_ARRAYS, views) < 0)
        return NULL;
    return cai_call_end(&call, compute(state, &call, views, a) < 0 ? NULL : Py_NewRef(Py_None));
}

/* ------------------------------------------------------------------------------------------------------- axpy() */

/* A new array like x, in the memory of x's library where that lets C have it. NULL with an exception. */
static cai_array_t *new_like(cai_state_t *state, PyObject *x)
{
    static const cai_request_t want = {.name = "x", .dtypes = floats, .n_dtypes = 2, .memory = MEMORY};
    cai_view_t                 view;
    cai_array_t               *array;
    if (cai_view_acquire(state, x, &want, cai_order_none(), &view) < 0)
        return NULL;
    array = cai_array_new_like(state, x, view.tensor.dtype, view.tensor.ndim, view.tensor.shape);
    (void)cai_view_release(&view); /* nothing was enqueued, so that there is nothing to go wrong */
    return array;
}

PyDoc_STRVAR(axpy_doc, "axpy(x, y, a=2.0)\n--\n\n"
                       "a x + y as a new array of the library of x, on the device of x; otherwise as saxpy.");

static PyObject *axpy(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    cai_state_t *state = cai_module_state(module);
    PyObject    *arguments[N_ARRAYS + 1], *done = NULL, *result = NULL;
    cai_array_t *array;
    if (nargs < 2 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "expected axpy(x, y, a=2.0)");
        return NULL;
    }
    array = new_like(state, args[0]);
    if (array == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < nargs; i++)
        arguments[X + i] = args[i];
    arguments[S] = cai_array_to_object(state, array);
    if (arguments[S] != NULL)
        done = saxpy(module, arguments, nargs + 1, NULL);
    if (done != NULL)
        result = cai_array_to_object_like(state, array, args[0]);
    Py_XDECREF(done);
    Py_XDECREF(arguments[S]);
    cai_array_release(array);
    return result;
}

/* --------------------------------------------------------------------------------------------------- describe() */

/* A shape, or strides, as a tuple. */
static PyObject *integers(int32_t n, const int64_t *numbers)
{
    PyObject *tuple = PyTuple_New(n);
    for (int32_t i = 0; tuple != NULL && i < n; i++) {
        PyObject *number = PyLong_FromLongLong(numbers[i]);
        if (number == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, number);
    }
    return tuple;
}

/* What the view knows of work that its producer may still have in flight. */
static const char *order_of(const cai_view_t *view)
{
    if ((view->flags & CAI_HAS_STREAM) != 0)
        return "producer's stream";
    return (view->flags & CAI_STREAM_UNKNOWN) != 0 ? "legacy stream" : "none needed";
}

static PyObject *stream_of(const cai_view_t *view)
{
    if (view->stream == NULL)
        return Py_NewRef(Py_None);
    return PyLong_FromUnsignedLongLong(cai_stream_to_handle(view->stream));
}

static PyObject *description_of(const cai_view_t *view)
{
    const cai_tensor_t *tensor = &view->tensor;
    char                dtype[CAI_DTYPE_NAME_SIZE], memory[32];
    return Py_BuildValue("{s:s,s:s,s:i,s:s,s:N,s:N,s:O,s:s,s:N,s:K}", "protocol", cai_protocol_name(view->protocol),
                         "memory", cai_device_words(tensor->device.device_type, memory), "device",
                         tensor->device.device_id, "dtype", cai_dtype_name(tensor->dtype, dtype), "shape",
                         integers(tensor->ndim, tensor->shape), "strides", integers(tensor->ndim, tensor->strides),
                         "read_only", (view->flags & CAI_READONLY) != 0 ? Py_True : Py_False, "order", order_of(view),
                         "stream", stream_of(view), "pointer", (unsigned long long)(uintptr_t)tensor->data);
}

PyDoc_STRVAR(describe_doc,
             "describe(array)\n--\n\n"
             "What cai sees of an array, as a dict: protocol, memory, device, dtype, shape, strides (in\n"
             "elements), read_only, order (how work on it is ordered behind its producer's), stream (where\n"
             "that work goes, None for host memory) and pointer.");

static PyObject *describe(PyObject *module, PyObject *array)
{
    static const cai_request_t anything = {.name = "array", .memory = CAI_ANYWHERE, .require = CAI_UNUSUAL_DTYPE_OK};
    cai_view_t                 view;
    PyObject                  *description;
    if (cai_view_acquire(cai_module_state(module), array, &anything, cai_order_adopt(), &view) < 0)
        return NULL;
    description = description_of(&view);
    (void)cai_view_release(&view); /* nothing was enqueued, so that there is nothing to go wrong */
    return description;
}

/* ------------------------------------------------------------------------------------------------------- module */

static PyMethodDef methods[] = {
    {"saxpy", (PyCFunction)(void (*)(void))saxpy, METH_FASTCALL | METH_KEYWORDS, saxpy_doc},
    {"axpy", (PyCFunction)(void (*)(void))axpy, METH_FASTCALL, axpy_doc},
    {"describe", describe, METH_O, describe_doc},
#if !defined(CAI_NO_CUDA)
    {"receive_and_return_cuda_array_interface_float", receive_and_return_float, METH_O,
     "receive_and_return_cuda_array_interface_float" RECEIVE_AND_RETURN_DOC},
    {"receive_and_return_cuda_array_interface_int", receive_and_return_int, METH_O,
     "receive_and_return_cuda_array_interface_int" RECEIVE_AND_RETURN_DOC},
    {"return_cuda_array_interface", (PyCFunction)(void (*)(void))return_zeros, METH_VARARGS | METH_KEYWORDS,
     RETURN_ZEROS_DOC},
    {"return_cuda_array_interface_with_memory_copy", (PyCFunction)(void (*)(void))return_copy,
     METH_VARARGS | METH_KEYWORDS, RETURN_COPY_DOC},
#endif
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    cai_state_t *state = cai_module_state(module);
    if (cai_state_init(state, module) < 0 || cai_register_exceptions(state, module, NULL) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "has_kernel", (MEMORY & CAI_ON_CUDA) != 0 ? Py_True : Py_False);
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
    .m_name = "pycai",
    .m_doc =
        "saxpy on the arrays of any library, and a description of them, by cai. has_kernel: whether GPU arrays too.",
    .m_size = sizeof(cai_state_t),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = cai_state_traverse,
    .m_clear = cai_state_clear,
    .m_free = cai_state_free,
};

PyMODINIT_FUNC PyInit_pycai(void)
{
    return PyModuleDef_Init(&definition);
}
