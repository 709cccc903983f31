/* probe.c - the library as Python sees it: every field of a request, an order and a view, for the tests.
 *
 * Built several times from this one file, under the name in PROBE_NAME: over the emulator, without CUDA, for the limited
 * API, and over the real CUDA runtime. */
#include <cai/cai.h>

#define PROBE_TEXT_(name) #name
#define PROBE_TEXT(name)  PROBE_TEXT_(name)
#define PROBE_JOIN_(a, b) a##b
#define PROBE_JOIN(a, b)  PROBE_JOIN_(a, b)

enum { MAX_DTYPES = 8, MAX_ARGUMENTS = 16 };

typedef struct probe_state {
    cai_state_t   cai; /* first, so that cai_module_state finds it */
    PyTypeObject *view_type;
} probe_state_t;

static probe_state_t *state_of(PyObject *module)
{
    return (probe_state_t *)PyModule_GetState(module);
}

/* A request and what it points to. */
typedef struct probe_request {
    cai_request_t request;
    cai_dtype_t   dtypes[MAX_DTYPES];
} probe_request_t;

/* ------------------------------------------------------------------------------------------- Python values into C */

static int read_dtype(PyObject *value, cai_dtype_t *dtype)
{
    cai_error_t error;
    const char *name = PyUnicode_AsUTF8AndSize(value, NULL);
    if (name == NULL)
        return -1;
    return cai_dtype_from_name(name, dtype, &error) == CAI_OK ? 0 : cai_raise(NULL, &error);
}

static int read_dtypes(PyObject *value, probe_request_t *wish)
{
    const Py_ssize_t n = PySequence_Size(value);
    if (n < 0 || n > MAX_DTYPES)
        return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_GetItem(value, i);
        if (item == NULL || read_dtype(item, &wish->dtypes[i]) < 0) {
            Py_XDECREF(item);
            return -1;
        }
        Py_DECREF(item);
    }
    wish->request.dtypes = wish->dtypes;
    wish->request.n_dtypes = (int32_t)n;
    return 0;
}

static int read_shape(PyObject *value, cai_request_t *request)
{
    const Py_ssize_t n = PySequence_Size(value);
    if (n < 0 || n > CAI_REQUEST_NDIM)
        return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_GetItem(value, i);
        if (item == NULL)
            return -1;
        request->shape[i] = PyLong_AsLongLong(item);
        Py_DECREF(item);
    }
    return PyErr_Occurred() == NULL ? 0 : -1;
}

static int read_field(const char *key, PyObject *value, probe_request_t *wish)
{
    cai_request_t *request = &wish->request;
    if (strcmp(key, "name") == 0) {
        request->name = value == Py_None ? NULL : PyUnicode_AsUTF8AndSize(value, NULL); /* lives as long as the dict */
        return value == Py_None || request->name != NULL ? 0 : -1;
    }
    if (strcmp(key, "dtype") == 0)
        return read_dtype(value, &request->dtype);
    if (strcmp(key, "dtypes") == 0)
        return read_dtypes(value, wish);
    if (strcmp(key, "shape") == 0)
        return read_shape(value, request);
    if (strcmp(key, "ndim") == 0)
        request->ndim = (int32_t)PyLong_AsLong(value);
    else if (strcmp(key, "min_ndim") == 0)
        request->min_ndim = (int32_t)PyLong_AsLong(value);
    else if (strcmp(key, "max_ndim") == 0)
        request->max_ndim = (int32_t)PyLong_AsLong(value);
    else if (strcmp(key, "require") == 0)
        request->require = (uint32_t)PyLong_AsUnsignedLong(value);
    else if (strcmp(key, "memory") == 0)
        request->memory = (uint32_t)PyLong_AsUnsignedLong(value);
    else if (strcmp(key, "protocols") == 0)
        request->protocols = (uint32_t)PyLong_AsUnsignedLong(value);
    else
        PyErr_Format(PyExc_TypeError, "no field of a request: %s", key);
    return PyErr_Occurred() == NULL ? 0 : -1;
}

/* Fill a request from a dict of its fields. */
static int read_request(PyObject *fields, probe_request_t *wish)
{
    PyObject  *key, *value;
    Py_ssize_t at = 0;
    memset(wish, 0, sizeof(*wish));
    wish->request = cai_request("x");
    while (fields != NULL && PyDict_Next(fields, &at, &key, &value)) {
        const char *name = PyUnicode_AsUTF8AndSize(key, NULL);
        if (name == NULL || read_field(name, value, wish) < 0)
            return -1;
    }
    return 0;
}

/* "adopt", "block", "none", or a stream number to wait for. */
static int read_order(PyObject *value, cai_order_t *order)
{
    const char *name;
    if (value != NULL && PyLong_Check(value)) {
        *order = cai_order_wait((cai_stream_t)(uintptr_t)PyLong_AsUnsignedLongLong(value));
        return PyErr_Occurred() == NULL ? 0 : -1;
    }
    name = value == NULL ? "adopt" : PyUnicode_AsUTF8AndSize(value, NULL);
    if (name == NULL)
        return -1;
    *order = strcmp(name, "block") == 0  ? cai_order_block()
             : strcmp(name, "none") == 0 ? cai_order_none()
                                         : cai_order_adopt();
    return 0;
}

/* ------------------------------------------------------------------------------------------- C values into Python */

static PyObject *integers(const int64_t *values, int32_t n)
{
    PyObject *tuple = PyTuple_New(n);
    for (int32_t i = 0; tuple != NULL && i < n; i++) {
        PyObject *item = PyLong_FromLongLong(values[i]);
        if (item == NULL || PyTuple_SetItem(tuple, i, item) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

static int set_item(PyObject *dict, const char *key, PyObject *value)
{
    const int result = value == NULL ? -1 : PyDict_SetItemString(dict, key, value);
    Py_XDECREF(value);
    return result;
}

/* Everything about a view that is public. */
static PyObject *describe(const cai_view_t *view)
{
    const cai_tensor_t *tensor = &view->tensor;
    PyObject           *dict = PyDict_New(), *mask = cai_view_mask(view), *descr = cai_view_descr(view);
    char                dtype[CAI_DTYPE_NAME_SIZE];
    if (dict == NULL)
        return NULL;
    if (set_item(dict, "pointer", PyLong_FromVoidPtr(tensor->data)) < 0 ||
        set_item(dict, "shape", integers(tensor->shape, tensor->ndim)) < 0 ||
        set_item(dict, "strides", integers(tensor->strides, tensor->ndim)) < 0 ||
        set_item(dict, "dtype", PyUnicode_FromString(cai_dtype_name(tensor->dtype, dtype))) < 0 ||
        set_item(dict, "device", Py_BuildValue("(ii)", tensor->device.device_type, tensor->device.device_id)) < 0 ||
        set_item(dict, "byte_offset", PyLong_FromUnsignedLongLong(tensor->byte_offset)) < 0 ||
        set_item(dict, "stream", PyLong_FromVoidPtr(view->stream)) < 0 ||
        set_item(dict, "flags", PyLong_FromUnsignedLong(view->flags)) < 0 ||
        set_item(dict, "protocol", PyLong_FromUnsignedLong(view->protocol)) < 0 ||
        set_item(dict, "size", PyLong_FromLongLong(view->size)) < 0 ||
        set_item(dict, "mask", Py_NewRef(mask == NULL ? Py_None : mask)) < 0 ||
        set_item(dict, "descr", Py_NewRef(descr == NULL ? Py_None : descr)) < 0)
        Py_CLEAR(dict);
    return dict;
}

/* ---------------------------------------------------------------------------------------------- a view that is held */

typedef struct view_object {
    PyObject_HEAD
    cai_view_t view;
} view_object_t;

static PyObject *view_release(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyUnicode_FromString(cai_status_name(cai_view_release(&((view_object_t *)self)->view)));
}

static PyObject *view_describe(PyObject *self, PyObject *unused)
{
    (void)unused;
    return describe(&((view_object_t *)self)->view);
}

static PyObject *view_object(PyObject *self, PyObject *unused)
{
    PyObject *object = cai_view_object(&((view_object_t *)self)->view);
    (void)unused;
    return Py_NewRef(object == NULL ? Py_None : object);
}

/* Release with an exception set, and hand back that exception. */
static PyObject *view_release_raising(PyObject *self, PyObject *exception)
{
    PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    (void)cai_view_release(&((view_object_t *)self)->view);
    return NULL;
}

static void view_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    (void)cai_view_release(&((view_object_t *)self)->view);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef view_methods[] = {
    {"release", view_release, METH_NOARGS, "Release the view; the name of the status."},
    {"release_raising", view_release_raising, METH_O, "Release the view while the exception is set."},
    {"describe", view_describe, METH_NOARGS, "The public fields as a dict."},
    {"object", view_object, METH_NOARGS, "What the view was acquired from, None after release."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot view_slots[] = {
    {Py_tp_dealloc, (void *)(uintptr_t)view_dealloc},
    {Py_tp_methods, view_methods},
    {0, NULL},
};

static PyType_Spec view_spec = {
    .name = PROBE_TEXT(PROBE_NAME) ".View",
    .basicsize = sizeof(view_object_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = view_slots,
};

/* ------------------------------------------------------------------------------------------------------- functions */

PyDoc_STRVAR(acquire_doc, "acquire(object, order='adopt', request={}) -> View");

static PyObject *acquire(PyObject *module, PyObject *args)
{
    probe_state_t  *state = state_of(module);
    PyObject       *object, *order_value = NULL, *fields = NULL;
    probe_request_t wish;
    cai_order_t     order;
    view_object_t  *self;
    if (!PyArg_ParseTuple(args, "O|OO", &object, &order_value, &fields) || read_order(order_value, &order) < 0 ||
        read_request(fields, &wish) < 0)
        return NULL;
    self = PyObject_New(view_object_t, state->view_type);
    if (self == NULL)
        return NULL;
    memset(&self->view, 0xFF, sizeof self->view);
    if (cai_view_acquire(&state->cai, object, fields == NULL ? NULL : &wish.request, order, &self->view) < 0) {
        Py_DECREF(self); /* releases a view whose acquire failed, which must be harmless */
        return NULL;
    }
    return (PyObject *)self;
}

/* What the body of a call is told. */
static PyObject *describe_call(const cai_call_t *call, const cai_view_t *views, int32_t n)
{
    PyObject *dict = PyDict_New(), *list = PyList_New(0);
    int       failed = dict == NULL || list == NULL;
    for (int32_t i = 0; !failed && i < n; i++) {
        PyObject *one = describe(&views[i]);
        failed = one == NULL || PyList_Append(list, one) < 0;
        Py_XDECREF(one);
    }
    failed = failed || PyDict_SetItemString(dict, "views", list) < 0 ||
             set_item(dict, "stream", PyLong_FromVoidPtr(call->stream)) < 0 ||
             set_item(dict, "device", Py_BuildValue("(ii)", call->device.device_type, call->device.device_id)) < 0;
    Py_XDECREF(list);
    if (failed)
        Py_CLEAR(dict);
    return dict;
}

/* The middle of a call: the body's result, or the description if there is none. */
static PyObject *run_body(PyObject *body, PyObject *description)
{
    PyObject *result;
    if (description == NULL || body == NULL || body == Py_None)
        return description;
    result = PyObject_CallFunctionObjArgs(body, description, NULL);
    Py_DECREF(description);
    return result;
}

static int read_arguments(PyObject *objects, PyObject *fields, PyObject **args, probe_request_t *wishes,
                          cai_request_t *requests)
{
    const Py_ssize_t n = PyTuple_Size(objects);
    if (n < 0 || n > MAX_ARGUMENTS || PyTuple_Size(fields) > MAX_ARGUMENTS)
        return -1;
    for (Py_ssize_t i = 0; i < n; i++)
        args[i] = PyTuple_GetItem(objects, i);
    for (Py_ssize_t i = 0; i < PyTuple_Size(fields); i++) {
        if (read_request(PyTuple_GetItem(fields, i), &wishes[i]) < 0)
            return -1;
        requests[i] = wishes[i].request;
    }
    return 0;
}

PyDoc_STRVAR(call_doc, "call(objects, requests, order='adopt', body=None) -> body(description), or the description");

static PyObject *call(PyObject *module, PyObject *parameters)
{
    probe_state_t  *state = state_of(module);
    PyObject       *objects, *fields, *order_value = NULL, *body = NULL, *args[MAX_ARGUMENTS];
    probe_request_t wishes[MAX_ARGUMENTS];
    cai_request_t   requests[MAX_ARGUMENTS];
    cai_view_t      views[MAX_ARGUMENTS];
    cai_order_t     order;
    cai_call_t      state_of_call;
    int32_t         n;
    if (!PyArg_ParseTuple(parameters, "O!O!|OO", &PyTuple_Type, &objects, &PyTuple_Type, &fields, &order_value,
                          &body) ||
        read_order(order_value, &order) < 0 || read_arguments(objects, fields, args, wishes, requests) < 0)
        return NULL;
    n = (int32_t)PyTuple_Size(fields);
    memset(views, 0xFF, sizeof views); /* as an author's stack may be */
    memset(&state_of_call, 0xFF, sizeof state_of_call);
    if (cai_call_begin(&state_of_call, &state->cai, order, requests, args, PyTuple_Size(objects), n, views) < 0)
        return NULL;
    return cai_call_end(&state_of_call, run_body(body, describe_call(&state_of_call, views, n)));
}

PyDoc_STRVAR(parse_doc,
             "parse(arguments, order, request, format) -> (descriptions, number, statuses)\n\n"
             "Two arrays and an integer by PyArg_ParseTuple, as the format says; None for an array that was left out.");

static PyObject *parse(PyObject *module, PyObject *args)
{
    PyObject       *arguments, *order_value, *fields, *descriptions = NULL;
    const char     *format, *statuses[2];
    probe_request_t wish;
    cai_order_t     order;
    cai_argument_t  x[2];
    int             number = 0;
    if (!PyArg_ParseTuple(args, "O!OO!s", &PyTuple_Type, &arguments, &order_value, &PyDict_Type, &fields, &format) ||
        read_request(fields, &wish) < 0 || read_order(order_value, &order) < 0)
        return NULL;
    for (int i = 0; i < 2; i++)
        cai_argument_init(&x[i], &state_of(module)->cai, &wish.request, order);
    if (!PyArg_ParseTuple(arguments, format, cai_argument_converter, &x[0], cai_argument_converter, &x[1], &number)) {
        if (cai_view_object(&x[0].view) != NULL || cai_view_object(&x[1].view) != NULL)
            PyErr_SetString(PyExc_SystemError, "a view is held after a failure");
        return NULL;
    }
    if (cai_view_object(&x[1].view) == NULL)
        descriptions = Py_BuildValue("(NO)", describe(&x[0].view), Py_None);
    else
        descriptions = Py_BuildValue("(NN)", describe(&x[0].view), describe(&x[1].view));
    for (int i = 0; i < 2; i++)
        statuses[i] = cai_status_name(cai_view_release(&x[i].view));
    return descriptions == NULL ? NULL : Py_BuildValue("(Ni(ss))", descriptions, number, statuses[0], statuses[1]);
}

PyDoc_STRVAR(raise_doc, "raise_status(status, message, code=0, name=None): cai_raise");

static PyObject *raise_status(PyObject *module, PyObject *args)
{
    cai_error_t error;
    const char *message, *name = NULL;
    int         status, code = 0;
    if (!PyArg_ParseTuple(args, "is|iz", &status, &message, &code, &name))
        return NULL;
    (void)cai_error_set(&error, (cai_status_t)status, "%s", message);
    error.cuda_code = code;
    error.cuda_name = name;
    (void)cai_raise(&state_of(module)->cai, &error);
    return NULL;
}

PyDoc_STRVAR(register_doc, "register_exceptions(module, base=None, published=0, mapping={}): on another module object");

static PyObject *register_exceptions(PyObject *module, PyObject *args)
{
    PyObject               *target, *base = NULL, *mapping = NULL, *key, *value;
    cai_exception_mapping_t mapped[CAI_STATUS_COUNT];
    cai_exceptions_t        exceptions = {0};
    unsigned long long      published = 0;
    Py_ssize_t              at = 0;
    if (!PyArg_ParseTuple(args, "O|OKO", &target, &base, &published, &mapping))
        return NULL;
    exceptions.base = base == Py_None ? NULL : base;
    exceptions.published = published;
    exceptions.mapping = mapped;
    while (mapping != NULL && PyDict_Next(mapping, &at, &key, &value) && exceptions.n_mapping < CAI_STATUS_COUNT) {
        mapped[exceptions.n_mapping].status = (cai_status_t)PyLong_AsLong(key);
        mapped[exceptions.n_mapping++].type = value;
    }
    if (PyErr_Occurred() != NULL || cai_register_exceptions(&state_of(module)->cai, target, &exceptions) < 0)
        return NULL;
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(extent_doc, "extent(k) -> the value of CAI_EXTENT(k)");

static PyObject *extent(PyObject *module, PyObject *k)
{
    (void)module;
    return PyLong_FromLongLong(CAI_EXTENT(PyLong_AsLongLong(k)));
}

static PyMethodDef methods[] = {
    {"acquire", acquire, METH_VARARGS, acquire_doc},
    {"call", call, METH_VARARGS, call_doc},
    {"parse", parse, METH_VARARGS, parse_doc},
    {"raise_status", raise_status, METH_VARARGS, raise_doc},
    {"register_exceptions", register_exceptions, METH_VARARGS, register_doc},
    {"extent", extent, METH_O, extent_doc},
    {NULL, NULL, 0, NULL},
};

/* ----------------------------------------------------------------------------------------------------------- module */

typedef struct constant {
    const char *name;
    long long   value;
} constant_t;

#define CONSTANT(name) {#name, CAI_##name}

static const constant_t constants[] = {CONSTANT(WRITABLE),
                                       CONSTANT(C_CONTIGUOUS),
                                       CONSTANT(F_CONTIGUOUS),
                                       CONSTANT(CONTIGUOUS),
                                       CONSTANT(NONEMPTY),
                                       CONSTANT(NO_SELF_OVERLAP),
                                       CONSTANT(SAME_SHAPE),
                                       CONSTANT(SAME_DTYPE),
                                       CONSTANT(SAME_DEVICE),
                                       CONSTANT(UNALIGNED_OK),
                                       CONSTANT(TRUST_LEGACY),
                                       CONSTANT(MASK_OK),
                                       CONSTANT(UNUSUAL_DTYPE_OK),
                                       CONSTANT(UINT8_AS_BOOL),
                                       CONSTANT(NO_NEGATIVE_STRIDES),
                                       CONSTANT(ON_CUDA),
                                       CONSTANT(ON_MANAGED),
                                       CONSTANT(ON_PINNED),
                                       CONSTANT(ON_HOST),
                                       CONSTANT(ANYWHERE),
                                       CONSTANT(VIA_EXCHANGE),
                                       CONSTANT(VIA_BUFFER),
                                       CONSTANT(VIA_CUDA_ARRAY_INTERFACE),
                                       CONSTANT(VIA_CUDA_ARRAY_INTERFACE_3),
                                       CONSTANT(VIA_DLPACK),
                                       CONSTANT(VIA_ARRAY),
                                       CONSTANT(READONLY),
                                       CONSTANT(COPIED),
                                       CONSTANT(SUBBYTE_PADDED),
                                       CONSTANT(HAS_STREAM),
                                       CONSTANT(STREAM_UNKNOWN),
                                       CONSTANT(SCALAR),
                                       CONSTANT(DEVICE_CPU),
                                       CONSTANT(DEVICE_CUDA),
                                       CONSTANT(DEVICE_CUDA_HOST),
                                       CONSTANT(DEVICE_CUDA_MANAGED),
                                       {"EMPTY_EXTENT", CAI_EMPTY_EXTENT},
                                       {"FREE_THREADED", CAI_IMPL_FREE_THREADED},
#define STATUS(status, exception, base, text) {"ERROR_" #status, CAI_ERROR_##status},
                                       CAI_STATUS_LIST(STATUS)
#undef STATUS
};

static int add_constants(PyObject *module)
{
    for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++) {
        PyObject *value = PyLong_FromLongLong(constants[i].value);
        if (value == NULL || PyModule_AddObjectRef(module, constants[i].name, value) < 0) {
            Py_XDECREF(value);
            return -1;
        }
        Py_DECREF(value);
    }
    return 0;
}

static int module_exec(PyObject *module)
{
    probe_state_t *state = state_of(module);
    if (cai_state_init(&state->cai, module) < 0 || cai_register_exceptions(&state->cai, module, NULL) < 0)
        return -1;
    state->view_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &view_spec, NULL);
    return state->view_type == NULL ? -1 : add_constants(module);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    probe_state_t *state = state_of(module);
    if (state != NULL)
        Py_VISIT(state->view_type);
    return cai_state_traverse(module, visit, arg);
}

static int module_clear(PyObject *module)
{
    probe_state_t *state = state_of(module);
    if (state != NULL)
        Py_CLEAR(state->view_type);
    return cai_state_clear(module);
}

static void module_free(void *module)
{
    (void)module_clear((PyObject *)module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)(uintptr_t)module_exec},
#if CAI_IMPL_PYTHON >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if CAI_IMPL_PYTHON >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = PROBE_TEXT(PROBE_NAME), .m_size = sizeof(probe_state_t), .m_methods = methods,
    .m_slots = slots,      .m_traverse = module_traverse,    .m_clear = module_clear,         .m_free = module_free,
};

PyMODINIT_FUNC PROBE_JOIN(PyInit_, PROBE_NAME)(void)
{
    return PyModuleDef_Init(&definition);
}
