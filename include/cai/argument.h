/**
 * cai/argument.h - arrays as arguments of PyArg_ParseTuple and its like: a converter for "O&" with clean-up.
 *
 *   static const cai_request_t want = {.name = "x", .dtype = CAI_FLOAT32, .ndim = 1};
 *   cai_argument_t x;
 *   int            n;
 *   cai_argument_init(&x, cai_module_state(module), &want, cai_order_wait(stream));
 *   if (!PyArg_ParseTuple(args, "O&i", cai_argument_converter, &x, &n))
 *       return NULL;                                                   an exception is set, and nothing is held
 *   … enqueue work on x.view.stream, with x.view.tensor …
 *   if (cai_view_release(&x.view) != CAI_OK) …                         a CUDA call failed
 *
 * For several arrays that one kernel uses, cai_call_begin (call.h) is the better way: it checks them against each other,
 * puts them on one stream and makes their device current, none of which a converter can, since it sees one argument.
 *
 * Specification: CPython's C API, "Parsing arguments and building values", "O&" and Py_CLEANUP_SUPPORTED.
 */
#ifndef CAI_ARGUMENT_H
#define CAI_ARGUMENT_H

#include <cai/object.h>

/** One array among the arguments: what is wanted, and, once it was converted, the view of what came. */
typedef struct cai_argument {
    cai_state_t         *state;
    const cai_request_t *request; /**< NULL: a request of zeros; must live as long as the parsing */
    cai_order_t          order;
    cai_view_t           view; /**< a view points into itself: an argument is never copied by value */
} cai_argument_t;

/** Prepare an argument. Its view holds nothing: releasing it is harmless, also where "|" let the argument be left out. */
CAI_API void cai_argument_init(cai_argument_t *argument, cai_state_t *state, const cai_request_t *request,
                               cai_order_t order);

/**
 * The converter: for "O&", followed by a cai_argument_t * that cai_argument_init has prepared. 0 with the exception of
 * cai_view_acquire; otherwise Py_CLEANUP_SUPPORTED, and the view is acquired.
 *
 * Who releases: where the parsing succeeds, the author, by cai_view_release. Where it fails at a later argument, Python,
 * which calls the converter again with `object` NULL for each array that was converted. Once the parsing has succeeded
 * Python cleans up no more, whatever the author does then.
 *
 * Later arguments may run Python code while they are converted, which may replace the memory of an earlier one's object
 * (torch's resize_, set_): arrays had better come last. Needs an attached thread state (the GIL).
 */
CAI_API int cai_argument_converter(PyObject *object, void *argument);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

CAI_API void cai_argument_init(cai_argument_t *argument, cai_state_t *state, const cai_request_t *request,
                               cai_order_t order)
{
    argument->state = state;
    argument->request = request;
    argument->order = order;
    cai_impl_view_reset(&argument->view);
}

CAI_API int cai_argument_converter(PyObject *object, void *argument)
{
    cai_argument_t *self = CAI_IMPL_CAST(cai_argument_t *, argument);
    if (object != NULL)
        return cai_view_acquire(self->state, object, self->request, self->order, &self->view) < 0
                   ? 0
                   : Py_CLEANUP_SUPPORTED;
    (void)cai_view_release(&self->view); /* an exception is set already, and a status has nowhere to go */
    return 1;
}

#endif /* CAI_ARGUMENT_H */
