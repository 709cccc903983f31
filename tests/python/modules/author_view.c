/* author_view.c - the module of the README's first page: what an author writes, compiled as it stands. */
#include <cai/cai.h>

#include "emulator.h"

typedef struct launch {
    cai_tensor_t s, x, y;
    int64_t      n, step_s, step_x, step_y;
} launch_t;

static void run(void *arguments)
{
    const launch_t *launch = (const launch_t *)arguments;
    float          *s = (float *)launch->s.data;
    const float    *x = (const float *)launch->x.data, *y = (const float *)launch->y.data;
    for (int64_t i = 0; i < launch->n; i++)
        s[i * launch->step_s] = 2 * x[i * launch->step_x] + y[i * launch->step_y];
}

static void launch_saxpy(const cai_tensor_t *s, const cai_tensor_t *x, const cai_tensor_t *y, cai_stream_t stream)
{
    const launch_t launch = {*s, *x, *y, s->shape[0], s->strides[0], x->strides[0], y->strides[0]};
    (void)emulator_launch(stream, run, &launch, sizeof(launch));
}

static PyObject *saxpy(PyObject *module, PyObject *const *args, Py_ssize_t nargs) /* saxpy(s, x, y): s = 2 x + y */
{
    static const cai_request_t wants[3] = {
        {.name = "s", .dtype = CAI_FLOAT32, .ndim = 1, .shape = {CAI_EXTENT(0)}, .require = CAI_WRITABLE},
        {.name = "x", .dtype = CAI_FLOAT32, .ndim = 1, .shape = {CAI_EXTENT(0)}},
        {.name = "y", .dtype = CAI_FLOAT32, .ndim = 1, .shape = {CAI_EXTENT(0)}},
    };
    cai_view_t views[3];
    cai_call_t call;
    if (cai_call_begin(&call, cai_module_state(module), cai_order_adopt(), wants, args, nargs, 3, views) < 0)
        return NULL;
    launch_saxpy(&views[0].tensor, &views[1].tensor, &views[2].tensor, call.stream); /* the right device is current */
    return cai_call_end(&call, Py_NewRef(Py_None));
}

static PyMethodDef methods[] = {
    {"saxpy", (PyCFunction)(void (*)(void))saxpy, METH_FASTCALL, "saxpy(s, x, y): s = 2 x + y"},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    return cai_state_init(cai_module_state(module), module);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)(uintptr_t)module_exec}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "author_view",          .m_size = sizeof(cai_state_t), .m_methods = methods,
    .m_slots = slots,      .m_traverse = cai_state_traverse, .m_clear = cai_state_clear,    .m_free = cai_state_free,
};

PyMODINIT_FUNC PyInit_author_view(void)
{
    return PyModuleDef_Init(&definition);
}
