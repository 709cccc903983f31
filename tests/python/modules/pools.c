/* pools.c - what the states of other modules keep between tests, given up before the emulator starts afresh. */
#include <cai/cai.h>

/* drain(module): return what is to be returned, and give up the events and streams of the module's pool, which are of the
 * emulator as it is now. */
static PyObject *drain(PyObject *self, PyObject *module)
{
    cai_state_t *state = PyModule_Check(module) ? cai_module_state(module) : NULL;
    (void)self;
    if (state == NULL || state->impl_pool == NULL) {
        PyErr_SetString(PyExc_TypeError, "expected a module with a state of cai's");
        return NULL;
    }
    cai_impl_queue_check(state->impl_queue);
    cai_impl_pool_drain(state->impl_pool);
    return Py_NewRef(Py_None);
}

/* late(module): how much is being given back late. */
static PyObject *late(PyObject *self, PyObject *module)
{
    (void)self;
    return PyLong_FromLong(cai_module_state(module)->impl_pool->late->pending);
}

static PyMethodDef methods[] = {
    {"drain", drain, METH_O, "drain(module): give up the events and streams of its pool."},
    {"late", late, METH_O, "late(module): how much is being given back late."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "pools", .m_doc = "The order pools of the modules under test.",
    .m_methods = methods,  .m_slots = slots,
};

PyMODINIT_FUNC PyInit_pools(void)
{
    return PyModuleDef_Init(&definition);
}
