/* minimal_floor.c - a module of one function that does nothing: what Python.h and an ELF file cost. */
#include <Python.h>

static PyObject *take(PyObject *module, PyObject *object)
{
    (void)module, (void)object;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"take", take, METH_O, NULL}, {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "minimal_floor",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_minimal_floor(void)
{
    return PyModuleDef_Init(&definition);
}
