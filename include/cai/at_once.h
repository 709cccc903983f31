/**
 * cai/at_once.h - the arrays that most calls are about, read in one go: NumPy's own, and PyTorch's lent tensors.
 *
 * Their types are known from before, C code alone reads them, so that nothing they say can change meanwhile, and they are
 * what was asked for. Whatever is not so is left for the general way (object.h), which also says what is wrong. Private
 * throughout.
 */
#ifndef CAI_AT_ONCE_H
#define CAI_AT_ONCE_H

#include <cai/exchange.h>
#include <cai/numpy_array.h>

/* An exception on the way: one that ends the acquire stays set; for others the general way meets them again. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_at_once_failed(void)
{
    if (PyErr_Occurred() != NULL && cai_impl_exception_is_final())
        return CAI_IMPL_REFUSED;
    PyErr_Clear();
    return CAI_IMPL_ABSENT;
}

/* Whether the object is a tensor of torch's. */
CAI_IMPL bool cai_impl_at_once_is_tensor(const cai_state_t *state, PyObject *object)
{
    const cai_impl_type_t *known = cai_impl_type_find(state, Py_TYPE(object));
    return known != NULL && (cai_impl_type_facts(known) & CAI_IMPL_TYPE_TORCH) != 0;
}

/* Whether it is one, or may be found to be one. */
CAI_IMPL bool cai_impl_at_once_may_be_tensor(const cai_state_t *state, PyObject *object)
{
    const cai_impl_type_t *known = cai_impl_type_find(state, Py_TYPE(object));
    return known == NULL || (cai_impl_type_facts(known) & CAI_IMPL_TYPE_TORCH) != 0;
}

/* Ask a tensor that is to be written to for its gradient, which may run Python code, and so comes before anything is read.
 * ABSENT: it has one, which the general way refuses. */
CAI_IMPL cai_impl_result_t cai_impl_at_once_ask(const cai_state_t *state, PyObject *object)
{
    const int requires_grad = cai_impl_exchange_ask(state, object, CAI_IMPL_NAME_REQUIRES_GRAD, false);
    if (CAI_IMPL_UNLIKELY(requires_grad < 0))
        return cai_impl_at_once_failed();
    return CAI_IMPL_LIKELY(requires_grad == 0) ? CAI_IMPL_READ : CAI_IMPL_ABSENT;
}

CAI_IMPL_HOT bool cai_impl_at_once_is_wanted(const cai_view_t *view, const cai_request_t *request, cai_shared_t *shared)
{
    return cai_impl_check_kind(request, &view->tensor) == CAI_OK &&
           cai_impl_check_form(request, &view->tensor, view->flags, &view->impl_layout, shared) == CAI_OK;
}

CAI_IMPL_HOT bool cai_impl_numpy_at_once(cai_view_t *view, const PyObject *object, const cai_request_t *request,
                                         cai_shared_t *shared)
{
    if (CAI_IMPL_UNLIKELY(!cai_impl_numpy_fill(view, object) || !cai_impl_at_once_is_wanted(view, request, shared)))
        return false;
    view->protocol = CAI_VIA_BUFFER;
    cai_impl_set_ready_on_host(view);
    return true;
}

/* A tensor of torch's on a device: with the stream that torch works on. */
CAI_IMPL cai_impl_result_t cai_impl_torch_at_once_stream(const cai_impl_reader_t *reader)
{
    const cai_view_t *view = reader->view;
    if (CAI_IMPL_UNLIKELY(view->tensor.device.device_type != CAI_DEVICE_CUDA ||
                          view->impl_exchange->current_work_stream == NULL))
        return CAI_IMPL_ABSENT;
    return CAI_IMPL_LIKELY(cai_impl_exchange_set_stream(reader) == CAI_IMPL_READ) ? CAI_IMPL_READ
                                                                                  : cai_impl_at_once_failed();
}

CAI_IMPL cai_impl_result_t cai_impl_torch_at_once(const cai_impl_reader_t *reader, cai_shared_t *shared)
{
    cai_view_t       *view = reader->view;
    cai_impl_result_t result = CAI_IMPL_READ;
    cai_tensor_t      tensor;
    if (CAI_IMPL_UNLIKELY(!cai_impl_exchange_lends(view)))
        return CAI_IMPL_ABSENT;
    if (CAI_IMPL_UNLIKELY(view->impl_exchange->dltensor_from_py_object_no_sync(reader->object, &tensor) != 0))
        return cai_impl_at_once_failed();
    if (CAI_IMPL_UNLIKELY(!cai_impl_view_fill_from(view, &tensor) || cai_impl_torch_may_be_lazy(view) ||
                          !cai_impl_at_once_is_wanted(view, reader->request, shared)))
        return CAI_IMPL_ABSENT;
    if (view->tensor.device.device_type == CAI_DEVICE_CPU)
        cai_impl_set_ready_on_host(view);
    else
        result = cai_impl_torch_at_once_stream(reader);
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return result;
    view->protocol = CAI_VIA_EXCHANGE;
    view->impl_progress |= CAI_IMPL_LENT;
    return CAI_IMPL_READ;
}

/* Read, check and hold one array; `work_stream` as of a reader. ABSENT: it is left for the general way, which opens the
 * view; nothing is held. REFUSED: nothing is held either, with an exception. */
CAI_IMPL_HOT cai_impl_result_t cai_impl_read_at_once(cai_state_t *state, PyObject *object, const cai_request_t *request,
                                                     cai_view_t *view, cai_impl_work_stream_t *work_stream,
                                                     cai_shared_t *shared)
{
    const cai_impl_type_t *known = cai_impl_type_find(state, Py_TYPE(object));
    cai_impl_reader_t      reader;
    const uint32_t         facts = known == NULL ? 0 : cai_impl_type_facts(known);
    cai_impl_result_t      result;
    if ((facts & (CAI_IMPL_TYPE_NUMPY_LAYOUT | CAI_IMPL_TYPE_TORCH)) == 0 || request->protocols != 0)
        return CAI_IMPL_ABSENT;
    cai_impl_view_reset(view);
    view->impl_exchange = known->exchange;
    view->impl_facts = facts;
    view->impl_hint = cai_impl_type_hint(known);
    if ((facts & CAI_IMPL_TYPE_NUMPY_LAYOUT) != 0) {
        result = cai_impl_numpy_at_once(view, object, request, shared) ? CAI_IMPL_READ : CAI_IMPL_ABSENT;
    } else {
        reader = cai_impl_reader_for(state, object, request, cai_order_none(), view);
        reader.work_stream = work_stream;
        result = cai_impl_torch_at_once(&reader, shared);
    }
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return result;
    view->impl_progress |= CAI_IMPL_KNOWN_TYPE;
    view->impl_state = state;
    view->impl_object = Py_NewRef(object);
    return CAI_IMPL_READ;
}

#endif /* CAI_AT_ONCE_H */
