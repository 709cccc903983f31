/* arrays_out.c - arrays that go back to Python: one that came from there, and new ones whose memory is made in C. */
#include "arrays_out.h"

#if !defined(CAI_NO_CUDA)

/* -------------------------------------------------------------------------------------- what came in goes back out */

/* Requests of these functions, stricter than the library asks for by itself. */
#define RECEIVED(type)                                                                                                 \
    {.name = "s", .dtype = type, .min_ndim = 1, .require = CAI_NONEMPTY, .protocols = CAI_VIA_CUDA_ARRAY_INTERFACE_3}

/* While C holds the array, its caller may drop the object; what goes back is that object all the same. */
static PyObject *receive_and_return(PyObject *module, PyObject *s, const cai_request_t *want)
{
    cai_state_t *state = cai_module_state(module);
    cai_array_t *array = cai_array_from_object(state, s, want, cai_order_adopt());
    PyObject    *object;
    if (array == NULL)
        return NULL;
    object = cai_array_to_object(state, array);
    cai_array_release(array);
    return object;
}

PyObject *receive_and_return_float(PyObject *module, PyObject *s)
{
    static const cai_request_t want = RECEIVED(CAI_FLOAT32);
    return receive_and_return(module, s, &want);
}

PyObject *receive_and_return_int(PyObject *module, PyObject *s)
{
    static const cai_request_t want = RECEIVED(CAI_INT32);
    return receive_and_return(module, s, &want);
}

/* ------------------------------------------------------------------------------------------------------ new arrays */

/* A sequence's items as a tuple of their own: the numbers among them may run Python code, which may change a list. A new
 * reference, or NULL with an exception. */
static PyObject *items_of(PyObject *sequence, const char *message)
{
    PyObject *items = PySequence_Fast(sequence, message), *tuple = items == NULL ? NULL : PySequence_Tuple(items);
    Py_XDECREF(items);
    return tuple;
}

/* A sequence of integers, or one integer, as a shape. 0, or -1 with an exception. */
static int read_shape(PyObject *object, int32_t *ndim, int64_t *shape)
{
    PyObject *items = PyLong_Check(object) ? PyTuple_Pack(1, object)
                                           : items_of(object, "argument 'shape': expected a sequence of integers");
    if (items == NULL)
        return -1;
    *ndim = (int32_t)Py_MIN(PyTuple_GET_SIZE(items), CAI_MAX_NDIM + 1); /* more are refused with the array */
    for (int32_t i = 0; i < Py_MIN(*ndim, CAI_MAX_NDIM) && PyErr_Occurred() == NULL; i++)
        shape[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(items, i));
    Py_DECREF(items);
    return PyErr_Occurred() == NULL ? 0 : -1;
}

/* Other versions of the interface than 3 are not made. */
static int check_version(cai_state_t *state, int version)
{
    cai_error_t error;
    if (version == 3)
        return 0;
    (void)cai_error_set(&error, CAI_ERROR_INVALID_VERSION, "argument 'version': expected 3; got %d", version);
    return cai_raise(state, &error);
}

/* A float32 array of the current GPU, on the legacy stream, where it is filled next. NULL with an exception. */
static cai_array_t *new_array(cai_state_t *state, int32_t ndim, const int64_t *shape)
{
    cai_error_t  error;
    cai_array_t *array = cai_array_new(cai_state_pool(state), cai_float32(), ndim, shape, -1, CAI_MEMORY_DEVICE,
                                       CAI_STREAM_LEGACY, &error);
    if (array == NULL)
        (void)cai_raise(state, &error);
    return array;
}

/* An array whose filling was enqueued with `result`, as an object: the reference is taken over. */
static PyObject *hand_out(cai_state_t *state, cai_array_t *array, cudaError_t result, const char *call)
{
    PyObject   *object = NULL;
    cai_error_t error;
    if (cai_cuda_status(result, call, &error) == CAI_OK)
        object = cai_array_to_object(state, array);
    else
        (void)cai_raise(state, &error);
    cai_array_release(array);
    return object;
}

PyObject *return_zeros(PyObject *module, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"shape", "readonly", "version", NULL};
    cai_state_t *state = cai_module_state(module);
    PyObject    *shape = NULL;
    int          readonly = 0, version = 3;
    int32_t      ndim = 3;
    int64_t      extents[CAI_MAX_NDIM] = {3, 4, 5};
    cai_array_t *array;
    cudaError_t  result = cudaSuccess;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|Opi", names, &shape, &readonly, &version) ||
        (shape != NULL && read_shape(shape, &ndim, extents) < 0) || check_version(state, version) < 0)
        return NULL;
    array = new_array(state, ndim, extents);
    if (array == NULL)
        return NULL;
    if (readonly)
        array->flags |= CAI_READONLY; /* for those who get it; whoever made it may still write */
    if (array->tensor.data != NULL)
        result = cudaMemsetAsync(array->tensor.data, 0, (size_t)cai_tensor_nbytes(&array->tensor), array->stream);
    return hand_out(state, array, result, "cudaMemsetAsync");
}

/* The numbers of a sequence as floats, to be freed by the caller; NULL with an exception. */
static float *read_numbers(PyObject *object, int64_t *n)
{
    PyObject *items = items_of(object, "argument 'vec': expected a sequence of numbers");
    float    *numbers = NULL;
    if (items == NULL)
        return NULL;
    *n = PyTuple_GET_SIZE(items);
    numbers = (float *)malloc((size_t)*n * sizeof(float) + 1);
    if (numbers == NULL)
        (void)PyErr_NoMemory();
    for (int64_t i = 0; i < *n && PyErr_Occurred() == NULL; i++)
        numbers[i] = (float)PyFloat_AsDouble(PyTuple_GET_ITEM(items, (Py_ssize_t)i));
    Py_DECREF(items);
    if (PyErr_Occurred() == NULL)
        return numbers;
    free(numbers);
    return NULL;
}

/* The copy of a new array from numbers of the host, which may be freed when this returns. */
static PyObject *copy_in(cai_state_t *state, const float *numbers, int64_t n)
{
    cai_array_t *array = new_array(state, 1, &n);
    cudaError_t  result = cudaSuccess;
    if (array == NULL)
        return NULL;
    if (n > 0)
        result = cudaMemcpyAsync(array->tensor.data, numbers, (size_t)n * sizeof(float), cudaMemcpyHostToDevice,
                                 array->stream);
    return hand_out(state, array, result, "cudaMemcpyAsync");
}

PyObject *return_copy(PyObject *module, PyObject *args, PyObject *keywords)
{
    static char       *names[] = {"vec", "readonly", "version", NULL};
    static const float defaults[] = {1, 2, 3, 4, 5};
    cai_state_t       *state = cai_module_state(module);
    PyObject          *vec = NULL, *object;
    float             *numbers;
    int                readonly = 0, version = 3;
    int64_t            n;
    cai_error_t        error;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|Opi", names, &vec, &readonly, &version) ||
        check_version(state, version) < 0)
        return NULL;
    if (readonly) {
        (void)cai_error_set(
            &error, CAI_ERROR_READ_ONLY_ACCESS,
            "argument 'readonly': expected False, since the numbers are copied into the array; got True");
        (void)cai_raise(state, &error);
        return NULL;
    }
    if (vec == NULL)
        return copy_in(state, defaults, 5);
    numbers = read_numbers(vec, &n);
    if (numbers == NULL)
        return NULL;
    object = copy_in(state, numbers, n);
    free(numbers);
    return object;
}

#endif
