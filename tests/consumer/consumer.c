/* consumer.c - the smallest useful extension on cai: the sum of a one-dimensional array of float64 in host memory. */
#include <cai/cai.h>

#if defined(CONSUMER_HAS_DLPACK)
#include <cai/dlpack_compat.h>
#endif

/* The same number by the official struct, where there is one. */
static int64_t extent(cai_tensor_t *tensor)
{
#if defined(CONSUMER_HAS_DLPACK)
    return cai_tensor_to_dl(tensor)->shape[0];
#else
    return tensor->shape[0];
#endif
}

static PyObject *total(PyObject *module, PyObject *array)
{
    static const cai_request_t want = {.name = "array", .dtype = CAI_FLOAT64, .ndim = 1, .memory = CAI_ON_HOST};
    cai_view_t                 view;
    double                     sum = 0;
    if (cai_view_acquire(cai_module_state(module), array, &want, cai_order_adopt(), &view) < 0)
        return NULL;
    for (int64_t i = 0; i < extent(&view.tensor); i++)
        sum += ((const double *)view.tensor.data)[i * view.tensor.strides[0]];
    (void)cai_view_release(&view);
    return PyFloat_FromDouble(sum);
}

static int module_exec(PyObject *module)
{
    cai_state_t *state = cai_module_state(module);
    return cai_state_init(state, module) < 0 ? -1 : cai_register_exceptions(state, module, NULL);
}

static PyMethodDef methods[] = {
    {"total", total, METH_O, "total(array): the sum of a one-dimensional float64 array."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)(uintptr_t)module_exec},
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,      .m_name = "consumer",     .m_size = sizeof(cai_state_t),
    .m_methods = methods,       .m_slots = slots,         .m_traverse = cai_state_traverse,
    .m_clear = cai_state_clear, .m_free = cai_state_free,
};

PyMODINIT_FUNC PyInit_consumer(void)
{
    return PyModuleDef_Init(&definition);
}
