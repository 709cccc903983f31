/* minimal_cai.c - a module of one function that takes an array by any protocol. */
#include <cai/cai.h>

static PyObject *take(PyObject *module, PyObject *object)
{
    static const cai_request_t want = {.name = "x", .dtype = CAI_FLOAT32, .ndim = 2, .require = CAI_C_CONTIGUOUS};
    cai_view_t                 view;
    if (cai_view_acquire(cai_module_state(module), object, &want, cai_order_adopt(), &view) < 0)
        return NULL;
    (void)cai_view_release(&view);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"take", take, METH_O, NULL}, {NULL, NULL, 0, NULL}};

static int module_exec(PyObject *module)
{
    return cai_state_init(cai_module_state(module), module);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)(uintptr_t)module_exec}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "minimal_cai",          .m_size = sizeof(cai_state_t), .m_methods = methods,
    .m_slots = slots,      .m_traverse = cai_state_traverse, .m_clear = cai_state_clear,    .m_free = cai_state_free,
};

PyMODINIT_FUNC PyInit_minimal_cai(void)
{
    return PyModuleDef_Init(&definition);
}
