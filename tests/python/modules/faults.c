/* faults.c - failures that Python code cannot cause by itself: an allocation that fails, a wait that holds the GIL. */
#include <Python.h>

#include <stdint.h>

/* ----------------------------------------------------------------------------------- the n-th allocation fails */

typedef struct domain {
    PyMemAllocatorDomain domain;
    PyMemAllocatorEx     original;
} domain_t;

static domain_t      domains[] = {{.domain = PYMEM_DOMAIN_MEM}, {.domain = PYMEM_DOMAIN_OBJ}};
static unsigned long failing_thread;
static long long     countdown, seen; /* countdown 0: nothing fails */

/* Whether this allocation is the one. Other threads' allocations neither count nor fail. */
static int fails(void)
{
    if (PyThread_get_thread_ident() != failing_thread)
        return 0;
    seen++;
    return countdown > 0 && --countdown == 0;
}

static void *failing_malloc(void *context, size_t size)
{
    PyMemAllocatorEx *original = &((domain_t *)context)->original;
    return fails() ? NULL : original->malloc(original->ctx, size);
}

static void *failing_calloc(void *context, size_t count, size_t size)
{
    PyMemAllocatorEx *original = &((domain_t *)context)->original;
    return fails() ? NULL : original->calloc(original->ctx, count, size);
}

static void *failing_realloc(void *context, void *pointer, size_t size)
{
    PyMemAllocatorEx *original = &((domain_t *)context)->original;
    return fails() ? NULL : original->realloc(original->ctx, pointer, size);
}

static void failing_free(void *context, void *pointer)
{
    PyMemAllocatorEx *original = &((domain_t *)context)->original;
    original->free(original->ctx, pointer);
}

static void install(void)
{
    for (size_t i = 0; i < sizeof(domains) / sizeof(domains[0]); i++) {
        PyMemAllocatorEx failing = {&domains[i], failing_malloc, failing_calloc, failing_realloc, failing_free};
        PyMem_GetAllocator(domains[i].domain, &domains[i].original);
        PyMem_SetAllocator(domains[i].domain, &failing);
    }
}

static void uninstall(void)
{
    for (size_t i = 0; i < sizeof(domains) / sizeof(domains[0]); i++)
        PyMem_SetAllocator(domains[i].domain, &domains[i].original);
}

PyDoc_STRVAR(call_doc, "call_failing(function, nth, *arguments) -> (result or exception, allocations)\n\n"
                       "Call with the nth allocation from now failing; 0 for none.");

static PyObject *call_failing(PyObject *module, PyObject *args)
{
    PyObject *function, *result, *rest = NULL, *answer;
    long long nth, count;
    (void)module;
    if (PyTuple_GET_SIZE(args) < 2)
        return PyErr_Format(PyExc_TypeError, "expected a function and a number");
    function = PyTuple_GET_ITEM(args, 0);
    nth = PyLong_AsLongLong(PyTuple_GET_ITEM(args, 1));
    rest = PyTuple_GetSlice(args, 2, PyTuple_GET_SIZE(args));
    if (PyErr_Occurred() != NULL || rest == NULL) {
        Py_XDECREF(rest);
        return NULL;
    }
    failing_thread = PyThread_get_thread_ident();
    seen = 0;
    countdown = nth;
    install();
    result = PyObject_Call(function, rest, NULL);
    uninstall();
    count = seen;
    Py_DECREF(rest);
    if (result == NULL) {
        PyObject *type, *traceback;
        PyErr_Fetch(&type, &result, &traceback);
        PyErr_NormalizeException(&type, &result, &traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
    }
    answer = Py_BuildValue("(OL)", result, count);
    Py_DECREF(result);
    return answer;
}

/* ---------------------------------------------------------------------------------------- who waits with the GIL */

static long long waits, waits_with_gil;

/* Called by the emulator on the thread that is about to block. */
static void note_wait(const char *name, void *context)
{
    (void)name;
    (void)context;
    waits++;
    waits_with_gil += PyGILState_Check();
}

static PyObject *wait_hook(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    waits = waits_with_gil = 0;
    return PyLong_FromVoidPtr((void *)(uintptr_t)note_wait);
}

static PyObject *count_waits(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("(LL)", waits, waits_with_gil);
}

static PyMethodDef methods[] = {
    {"call_failing", call_failing, METH_VARARGS, call_doc},
    {"wait_hook", wait_hook, METH_NOARGS, "The address of a hook for the emulator's blocking calls; counting starts."},
    {"count_waits", count_waits, METH_NOARGS, "(blocking calls, those of them whose thread held the GIL)"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "faults", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_faults(void)
{
    return PyModule_Create(&definition);
}
