/**
 * cai/object.h - one array in: acquire and release, and the choice of the protocol.
 *
 *   cai_view_t view;
 *   if (cai_view_acquire(state, object, &want, cai_order_wait(stream), &view) < 0) return NULL;
 *   … enqueue work on view.stream, with its device current …
 *   cai_view_release(&view);
 *
 * The protocols are tried in this order, unless the type is known to be served by a later one:
 *   1. an Array of this or another extension, or a "cai_array_v1" capsule; a DLPack capsule passed as the object;
 *   2. the C exchange API on the object's type;
 *   3. the buffer protocol, if host memory was asked for, and before all else NumPy's own arrays, by their C layout;
 *   4. __cuda_array_interface__, if it says how its work is ordered (version 3, or a stream); of subclasses of
 *      numpy.ndarray before their buffer (Numba's arrays in pinned and managed memory);
 *   5. __dlpack__, with the consumer's stream;
 *   6. __cuda_array_interface__ that does not say.
 * With cai_order_none(), 5 comes before 4 where the type is known to have both, since that costs less. Of a type
 * that 3 serves on the host and 5 on devices, whichever served the last object comes first, and 4 after both.
 * One that is absent is passed over. One that raises an Exception, or gives something that cai cannot use, is passed over
 * too, and the first such failure is raised when nothing works. MemoryError and what is no Exception (KeyboardInterrupt)
 * end the attempt at once, and so does an array that is understood and is not what was asked for.
 */
#ifndef CAI_OBJECT_H
#define CAI_OBJECT_H

#include <cai/array_type.h>
#include <cai/at_once.h>
#include <cai/view_order.h>

/**
 * Borrow `object`'s array: check it against `request` (NULL: a request of zeros), order it, and describe it in `view`.
 *
 * Ownership: the view holds a reference to the object, and whatever the protocol hands out, until it is released. cai
 * keeps the object alive; it cannot keep a producer from replacing the object's memory meanwhile (torch's resize_, set_).
 * Device: the current one stays current. A kernel is launched on the current one, and streams 1 and 2 are its: on a machine
 * with several, make the array's current (cai_device_guard_enter) or take a call, which does (cai_call_begin).
 * Errors: -1 with an exception that names the argument, what was expected and what came; the view then holds nothing, and
 * everything that was taken has been given back. Releasing it is harmless.
 * Threads: needs an attached thread state (the GIL), which is released while the host waits.
 */
CAI_API CAI_NODISCARD int cai_view_acquire(cai_state_t *state, PyObject *object, const cai_request_t *request,
                                           cai_order_t order, cai_view_t *view);

/**
 * Give the view back, after the consumer's work where its order asks for that. Always completes, leaves a pending
 * exception alone and raises none; a second time is harmless. Returns the status of a CUDA call that failed, or CAI_OK.
 * Needs an attached thread state (the GIL), which is released while the host waits.
 */
CAI_API cai_status_t cai_view_release(cai_view_t *view);

/** The object that the view was acquired from: borrowed, NULL after release. */
CAI_API PyObject *cai_view_object(const cai_view_t *view);
/** The mask of an array that was acquired with CAI_MASK_OK: borrowed, NULL if it has none. */
CAI_API PyObject *cai_view_mask(const cai_view_t *view);
/** The `descr` of an opaque array's CUDA Array Interface, as it came: borrowed, NULL if it has none. */
CAI_API PyObject *cai_view_descr(const cai_view_t *view);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

CAI_API PyObject *cai_view_object(const cai_view_t *view)
{
    return CAI_IMPL_CAST(PyObject *, view->impl_object);
}

CAI_API PyObject *cai_view_mask(const cai_view_t *view)
{
    return CAI_IMPL_CAST(PyObject *, view->impl_mask);
}

CAI_API PyObject *cai_view_descr(const cai_view_t *view)
{
    return CAI_IMPL_CAST(PyObject *, view->impl_descr);
}

/* --------------------------------------------------------------------------------------- what the type tells ---- */

/* Whether the type has `_capsule`, as Array and every type of CAI_ARRAY_GETSET has. 0, or -1 with an exception. */
CAI_IMPL_COLD int cai_impl_type_has_capsule(const cai_state_t *state, PyTypeObject *type, uint32_t *facts)
{
    PyObject *attribute;
    const int found = cai_impl_get_attribute(CAI_IMPL_BITS(PyObject *, type),
                                             cai_impl_name(state, CAI_IMPL_NAME_CAPSULE), &attribute);
    if (found > 0)
        *facts |= CAI_IMPL_TYPE_ARRAY;
    Py_XDECREF(attribute);
    return found < 0 ? -1 : 0;
}

/* Numba's arrays in pinned and managed memory are NumPy's too, whose buffer says nothing of the stream that works on them.
 * 0, or -1 with an exception. */
CAI_IMPL_COLD int cai_impl_type_check_tells(const cai_state_t *state, PyTypeObject *type, uint32_t *facts)
{
    PyObject *attribute;
    int       found;
    if ((*facts & (CAI_IMPL_TYPE_NUMPY_LAYOUT | CAI_IMPL_TYPE_NUMPY)) != CAI_IMPL_TYPE_NUMPY_LAYOUT)
        return 0;
    found = cai_impl_get_attribute(CAI_IMPL_BITS(PyObject *, type),
                                   cai_impl_name(state, CAI_IMPL_NAME_CUDA_ARRAY_INTERFACE), &attribute);
    if (found != 0)
        *facts = found > 0 ? CAI_IMPL_TYPE_TELLS : 0;
    Py_XDECREF(attribute);
    return found < 0 ? -1 : 0;
}

/* What is to be known of a type that the cache has not seen. 0, or -1 with an exception, in which case nothing is. */
CAI_IMPL_COLD int cai_impl_type_inspect(const cai_state_t *state, PyObject *object, cai_impl_type_t *known)
{
    int torch, masked = 0;
    known->type = Py_TYPE(object);
    known->facts = known->hint = 0;
    known->exchange = NULL;
    if (cai_impl_exchange_find(state, known->type, &known->exchange) < 0)
        return -1;
    if (cai_impl_type_has_capsule(state, known->type, &known->facts) < 0)
        return -1;
    torch = cai_impl_type_is_torch(state, known->type, known->exchange);
    if (torch == 0 && PyObject_CheckBuffer(object))
        masked = cai_impl_type_is_masked(state, known->type);
    if (torch < 0 || masked < 0)
        return -1;
    if (torch != 0)
        known->facts |= CAI_IMPL_TYPE_TORCH;
    if (masked != 0)
        known->facts |= CAI_IMPL_TYPE_MASKED;
    if (known->facts != 0 || known->exchange != NULL || !PyObject_CheckBuffer(object))
        return 0;
    if (cai_impl_numpy_facts(state, known->type, &known->facts) < 0) /* of what nothing goes before */
        return -1;
    return cai_impl_type_check_tells(state, known->type, &known->facts);
}

/* Whether the type has __dlpack__. Leaves no exception: whoever cannot say has none. */
CAI_IMPL_COLD bool cai_impl_type_has_dlpack(const cai_state_t *state, PyTypeObject *type)
{
    PyObject *method = PyObject_GetAttr(CAI_IMPL_BITS(PyObject *, type), cai_impl_name(state, CAI_IMPL_NAME_DLPACK));
    PyErr_Clear();
    Py_XDECREF(method);
    return method != NULL;
}

/* Whether a type has arrays on the host, which a buffer shows, and on devices, which __dlpack__ gives, as JAX's: then the
 * one that served the last object comes first. */
CAI_IMPL bool cai_impl_type_is_on_both(const cai_view_t *view)
{
    return view->protocol == CAI_VIA_BUFFER ? view->impl_hint == CAI_VIA_DLPACK
                                            : view->protocol == CAI_VIA_DLPACK && view->impl_hint == CAI_VIA_BUFFER &&
                                                  view->tensor.device.device_type == CAI_DEVICE_CUDA;
}

/* Remember of a type the protocol that served its first object, or the last one, see above. Only a request that allows all
 * protocols says something about the type. Where __dlpack__ serves, an interface that only some of the type's arrays have is
 * not asked for any more, nor for the mask that it could have. Runs no Python code. */
CAI_IMPL_COLD void cai_impl_type_learn(const cai_impl_reader_t *reader)
{
    const cai_view_t *view = reader->view;
    const bool        is_first = (view->impl_progress & CAI_IMPL_KNOWN_TYPE) == 0;
    cai_impl_type_t   known;
    known.type = Py_TYPE(reader->object);
    if (!is_first && cai_impl_type_find(reader->state, known.type) == NULL)
        return; /* a type that could not be inspected: what is known of it is not all */
    known.exchange = view->impl_exchange;
    known.facts = view->impl_facts;
    known.hint = is_first || cai_impl_type_is_on_both(view) ? view->protocol : view->impl_hint;
    if (view->tensor.device.device_type == CAI_DEVICE_CUDA && known.hint == CAI_VIA_DLPACK)
        known.facts |= CAI_IMPL_TYPE_BY_DLPACK;
    cai_impl_type_publish(reader->state, &known);
}

/* ------------------------------------------------------------------------------------------ failures on the way -- */

/* What a reader's result means for the acquire: READ or REFUSED end it; after ABSENT it goes on, and if there was an
 * exception it is kept in case that it is the first. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_note_failure(const cai_impl_reader_t *reader, cai_impl_result_t result)
{
    cai_view_t *view = reader->view;
    PyObject   *exception;
    if (result == CAI_IMPL_REFUSED || cai_impl_exception_is_final())
        return CAI_IMPL_REFUSED;
    exception = cai_impl_take_exception();
    if (view->impl_failure != NULL) {
        Py_DECREF(exception);
        return CAI_IMPL_ABSENT;
    }
    view->impl_failure = exception;
    if (result == CAI_IMPL_PRODUCER_RAISED)
        view->impl_progress |= CAI_IMPL_FAILURE_FOREIGN;
    return CAI_IMPL_ABSENT;
}

CAI_IMPL_HOT cai_impl_result_t cai_impl_note(const cai_impl_reader_t *reader, cai_impl_result_t result)
{
    return CAI_IMPL_LIKELY(result == CAI_IMPL_READ || result == CAI_IMPL_ABSENT)
               ? result
               : cai_impl_note_failure(reader, result);
}

/* Copy into the view what is known of the object's type. A type that cannot be inspected is passed over like a protocol
 * that fails, and not remembered. 0, or -1 with an exception that ends the acquire. */
CAI_IMPL_HOT int cai_impl_type_look_up(const cai_impl_reader_t *reader)
{
    cai_view_t            *view = reader->view;
    const cai_impl_type_t *entry = cai_impl_type_find(reader->state, Py_TYPE(reader->object));
    cai_impl_type_t        fresh;
    view->impl_progress = CAI_IMPL_KNOWN_TYPE;
    if (CAI_IMPL_UNLIKELY(entry == NULL)) {
        entry = &fresh;
        if (cai_impl_type_inspect(reader->state, reader->object, &fresh) == 0)
            view->impl_progress = 0;
        else if (cai_impl_note(reader, CAI_IMPL_PRODUCER_RAISED) == CAI_IMPL_REFUSED)
            return -1;
    }
    view->impl_exchange = entry->exchange;
    view->impl_facts = cai_impl_type_facts(entry);
    view->impl_hint = cai_impl_type_hint(entry);
    return 0;
}

/* "DLPack, CUDA Array Interface or buffer protocol": what the request allows. */
CAI_IMPL_COLD void cai_impl_protocol_words(const cai_request_t *request, char *words, size_t size)
{
    static const uint32_t protocols[] = {CAI_VIA_EXCHANGE, CAI_VIA_DLPACK, CAI_VIA_CUDA_ARRAY_INTERFACE,
                                         CAI_VIA_CUDA_ARRAY_INTERFACE_3, CAI_VIA_BUFFER}; /* an Array speaks them all */
    cai_impl_text_t       text = cai_impl_text_begin(words, size);
    for (size_t i = 0; i < sizeof(protocols) / sizeof(protocols[0]); i++) {
        if (request->protocols == 0 && protocols[i] == CAI_VIA_CUDA_ARRAY_INTERFACE_3)
            continue;
        if (cai_impl_allows(request, protocols[i]))
            cai_impl_text_add(&text, "%s%s%s", text.length == 0 ? "" : ", ", cai_protocol_name(protocols[i]),
                              protocols[i] == CAI_VIA_CUDA_ARRAY_INTERFACE_3 ? " version 3" : "");
    }
}

/* The producer's own exception becomes the cause of one that names the argument. */
CAI_IMPL_COLD void cai_impl_raise_foreign(const cai_impl_reader_t *reader, PyObject *failure)
{
    PyObject   *words = PyObject_Str(failure);
    const char *utf8 = words == NULL ? NULL : PyUnicode_AsUTF8AndSize(words, NULL);
    char        type[192], text[256];
    PyErr_Clear();
    cai_impl_type_words(reader->state, failure, type, sizeof(type));
    snprintf(text, sizeof(text), "%s", utf8 == NULL ? "" : utf8);
    Py_XDECREF(words);
    text[strcspn(text, "\n")] = '\0'; /* of a C++ trace the first line is enough; the cause has it all */
    cai_impl_set_exception(failure);
    (void)cai_impl_refuse_with(reader, 0, CAI_IMPL_REFUSED, CAI_ERROR_INTERFACE_NOT_IMPLEMENTED,
                               "expected an array; its producer raised %s: %s", type, text);
}

/* No protocol worked: raise the first failure, or say that there was none to try. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_raise_failure(const cai_impl_reader_t *reader)
{
    cai_view_t *view = reader->view;
    PyObject   *failure = CAI_IMPL_CAST(PyObject *, view->impl_failure);
    char        protocols[160];
    view->impl_failure = NULL;
    if (failure != NULL && (view->impl_progress & CAI_IMPL_FAILURE_FOREIGN) != 0)
        cai_impl_raise_foreign(reader, failure);
    else if (failure != NULL)
        cai_impl_set_exception(failure);
    else if (cai_impl_allows(reader->request, CAI_VIA_BUFFER) && PyObject_CheckBuffer(reader->object))
        return cai_impl_refuse_memory(reader, CAI_VIA_BUFFER, "host");
    else {
        cai_impl_protocol_words(reader->request, protocols, sizeof(protocols));
        return cai_impl_refuse_with(reader, 0, CAI_IMPL_REFUSED, CAI_ERROR_INTERFACE_NOT_IMPLEMENTED,
                                    "expected an array that speaks one of %s; got something that speaks none",
                                    protocols);
    }
    return CAI_IMPL_REFUSED;
}

/* --------------------------------------------------------------------------------------------- arrays of cai's --- */

CAI_IMPL void cai_impl_give_back_array(void *managed)
{
    cai_array_release(CAI_IMPL_CAST(cai_array_t *, managed));
}

/* Fill the view from an array, whose reference it takes over. The host waits for what is pending on host memory. */
CAI_IMPL_ASIDE cai_impl_result_t cai_impl_array_fill(const cai_impl_reader_t *reader, cai_array_t *array)
{
    cai_view_t       *view = reader->view;
    cai_error_t       error;
    cai_impl_result_t result;
    view->impl_managed = array;
    view->impl_give_back = cai_impl_give_back_array;
    view->flags = CAI_IMPL_CAST(uint32_t, array->flags) & (CAI_READONLY | CAI_COPIED | CAI_SUBBYTE_PADDED);
    if (CAI_IMPL_UNLIKELY(cai_impl_view_copy(view, &array->tensor, &error) != CAI_OK))
        return cai_impl_refuse(reader, CAI_VIA_ARRAY, CAI_IMPL_UNREADABLE, &error);
    result = cai_impl_settle(reader, CAI_VIA_ARRAY);
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return result;
    if (array->tensor.device.device_type == CAI_DEVICE_CPU && reader->order.mode != CAI_ORDER_NONE &&
        cai_impl_array_wait(reader->state, array) < 0)
        return CAI_IMPL_REFUSED;
    cai_impl_set_source(view, array->stream == NULL ? CAI_IMPL_SOURCE_READY : CAI_IMPL_SOURCE_STREAM,
                        array->stream == NULL ? CAI_STREAM_LEGACY : cai_impl_array_stream(array));
    if (CAI_IMPL_UNLIKELY(view->impl_order.pinned) && cai_impl_array_device(array) >= 0)
        view->impl_order.device_id = cai_impl_array_device(array); /* not the current one, whose streams are others */
    return CAI_IMPL_READ;
}

/* The array of an object whose type has `_capsule`, or of a capsule: a new reference; NULL if there is none after all. */
CAI_IMPL cai_array_t *cai_impl_array_of(const cai_impl_reader_t *reader)
{
    PyObject    *object = reader->object, *capsule;
    cai_array_t *array = NULL;
    if (reader->state->impl_array_type != NULL &&
        CAI_IMPL_BITS(PyObject *, Py_TYPE(object)) == reader->state->impl_array_type) {
        array = cai_impl_array_array(object);
        return array == NULL ? NULL : cai_array_retain(array);
    }
    if (PyCapsule_CheckExact(object))
        return PyCapsule_IsValid(object, CAI_ARRAY_CAPSULE) == 0 ? NULL : cai_array_from_capsule(reader->state, object);
    capsule = PyObject_GetAttr(object, cai_impl_name(reader->state, CAI_IMPL_NAME_CAPSULE));
    if (capsule != NULL && PyCapsule_IsValid(capsule, CAI_ARRAY_CAPSULE) != 0)
        array = cai_array_from_capsule(reader->state, capsule);
    Py_XDECREF(capsule);
    return array;
}

CAI_IMPL cai_impl_result_t cai_impl_array_read(const cai_impl_reader_t *reader)
{
    cai_array_t      *array;
    cai_impl_result_t result;
    if (!cai_impl_allows(reader->request, CAI_VIA_ARRAY))
        return CAI_IMPL_ABSENT;
    array = cai_impl_array_of(reader);
    if (array == NULL)
        return PyErr_Occurred() != NULL ? CAI_IMPL_PRODUCER_RAISED : CAI_IMPL_ABSENT;
    result = cai_impl_array_fill(reader, array);
    return CAI_IMPL_LIKELY(result == CAI_IMPL_READ) ? result : cai_impl_abandon(reader->view, result);
}

/* ------------------------------------------------------------------------------------------------- the choice ---- */

/* Whether `dict`, the first interface of a type, lets the type's arrays on devices be read by __dlpack__ too, which says
 * nothing of a mask. Leaves no exception. */
CAI_IMPL_COLD bool cai_impl_type_is_served_by_both(const cai_impl_reader_t *reader, PyObject *dict)
{
    if (reader->request->protocols != 0 || reader->view->tensor.device.device_type != CAI_DEVICE_CUDA ||
        !PyDict_CheckExact(dict))
        return false;
    if (PyDict_Contains(dict, cai_impl_name(reader->state, CAI_IMPL_NAME_MASK)) == 0)
        return cai_impl_type_has_dlpack(reader->state, Py_TYPE(reader->object));
    PyErr_Clear();
    return false;
}

/* A CUDA Array Interface that tells its order; one that does not is kept for later, so that it is fetched once. */
CAI_IMPL_ASIDE cai_impl_result_t cai_impl_read_interface(const cai_impl_reader_t *reader)
{
    PyObject         *dict;
    cai_impl_result_t result = cai_impl_interface_fetch(reader, &dict);
    if (result != CAI_IMPL_READ)
        return result;
    result = cai_impl_interface_read(reader, dict, true);
    if (result == CAI_IMPL_READ && CAI_IMPL_UNLIKELY((reader->view->impl_progress & CAI_IMPL_KNOWN_TYPE) == 0) &&
        cai_impl_type_is_served_by_both(reader, dict))
        reader->view->impl_facts |= CAI_IMPL_TYPE_CUDA_DLPACK;
    if (result == CAI_IMPL_ABSENT)
        reader->view->impl_interface = dict;
    else
        Py_DECREF(dict);
    return result;
}

/* torch's other protocols do not say either that a tensor is conjugated or negated lazily. */
CAI_IMPL cai_impl_result_t cai_impl_check_lazy(const cai_impl_reader_t *reader)
{
    const cai_view_t *view = reader->view;
    cai_impl_result_t result;
    if (CAI_IMPL_LIKELY((view->impl_facts & CAI_IMPL_TYPE_TORCH) == 0 || view->protocol == CAI_VIA_EXCHANGE) ||
        !cai_impl_torch_may_be_lazy(view))
        return CAI_IMPL_READ;
    result = cai_impl_note(reader, cai_impl_torch_check_lazy(reader, view->protocol));
    return result == CAI_IMPL_ABSENT ? cai_impl_raise_failure(reader) : result;
}

/* The buffer of an array whose interface tells whose work is under way, of memory that is not what was asked for: on its
 * device, as nearly as the host can say, the host waits for everything. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_read_shared_buffer(const cai_impl_reader_t *reader)
{
    cai_error_t             error;
    const cai_impl_result_t result = cai_impl_buffer_read(reader);
    if (result != CAI_IMPL_READ || reader->order.mode == CAI_ORDER_NONE || reader->view->impl_failure == NULL ||
        cai_impl_wait_for_device_without_gil(-1, &error) == CAI_OK)
        return result;
    return cai_impl_abandon(reader->view, cai_impl_refuse(reader, CAI_VIA_BUFFER, CAI_IMPL_REFUSED, &error));
}

/* Steps 3 and 4, for what is not read by the exchange API. ABSENT: steps 5 and 6 remain, and of a type that __dlpack__
 * serves on devices what was passed over here. */
CAI_IMPL cai_impl_result_t cai_impl_read_told_by(const cai_impl_reader_t *reader)
{
    const bool        tells = (reader->view->impl_facts & CAI_IMPL_TYPE_TELLS) != 0;
    const uint32_t    hint = tells ? CAI_IMPL_CAST(uint32_t, CAI_VIA_CUDA_ARRAY_INTERFACE) : reader->view->impl_hint;
    cai_impl_result_t result = CAI_IMPL_ABSENT;
    if (reader->order.mode == CAI_ORDER_NONE && (reader->view->impl_facts & CAI_IMPL_TYPE_CUDA_DLPACK) != 0 &&
        (reader->request->require & CAI_IMPL_STREAM_WANTED) == 0 && cai_impl_allows(reader->request, CAI_VIA_DLPACK))
        result = cai_impl_note(reader, cai_impl_dlpack_read_unordered(reader));
    if (result != CAI_IMPL_ABSENT || hint == CAI_VIA_DLPACK)
        return result;
    if (hint != CAI_VIA_CUDA_ARRAY_INTERFACE)
        result = cai_impl_note(reader, cai_impl_buffer_read(reader));
    if (result == CAI_IMPL_ABSENT && (reader->view->impl_facts & CAI_IMPL_TYPE_BY_DLPACK) == 0)
        result = cai_impl_note(reader, cai_impl_read_interface(reader));
    if (result == CAI_IMPL_ABSENT && hint == CAI_VIA_CUDA_ARRAY_INTERFACE)
        result = cai_impl_note(reader, tells ? cai_impl_read_shared_buffer(reader) : cai_impl_buffer_read(reader));
    return result;
}

CAI_IMPL_ASIDE cai_impl_result_t cai_impl_read_told(const cai_impl_reader_t *reader)
{
    const cai_impl_result_t result = cai_impl_read_told_by(reader);
    return CAI_IMPL_LIKELY(result == CAI_IMPL_READ) ? cai_impl_check_lazy(reader) : result;
}

/* Steps 1 to 4: whatever does not have to be told the consumer's stream. */
CAI_IMPL cai_impl_result_t cai_impl_read_any_told(const cai_impl_reader_t *reader)
{
    const cai_view_t *view = reader->view;
    cai_impl_result_t result = CAI_IMPL_ABSENT;
    if (CAI_IMPL_UNLIKELY((view->impl_facts & CAI_IMPL_TYPE_ARRAY) != 0) || PyCapsule_CheckExact(reader->object))
        result = cai_impl_note(reader, cai_impl_array_read(reader));
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_ABSENT))
        return result;
    if (CAI_IMPL_UNLIKELY(PyCapsule_CheckExact(reader->object)))
        return cai_impl_note(reader, cai_impl_dlpack_read_capsule(reader));
    result = cai_impl_note(reader, cai_impl_exchange_read(reader));
    return result == CAI_IMPL_ABSENT ? cai_impl_read_told(reader) : result;
}

/* The same, with NumPy's own arrays before all others, and no detour for a type that steps 3 and 4 are known to serve. */
CAI_IMPL_HOT cai_impl_result_t cai_impl_read_first(const cai_impl_reader_t *reader)
{
    const cai_view_t *view = reader->view;
    cai_impl_result_t result = CAI_IMPL_ABSENT;
    if ((view->impl_facts & CAI_IMPL_TYPE_NUMPY_LAYOUT) != 0)
        result = cai_impl_note(reader, cai_impl_numpy_read(reader));
    if (result != CAI_IMPL_ABSENT)
        return result;
    if (view->impl_exchange == NULL && (view->impl_facts & CAI_IMPL_TYPE_ARRAY) == 0 &&
        (view->impl_hint & (CAI_VIA_BUFFER | CAI_VIA_CUDA_ARRAY_INTERFACE)) != 0)
        return cai_impl_read_told(reader);
    return cai_impl_read_any_told(reader);
}

/* Step 5. Where __dlpack__ is the hint, it says first where the array is: one on the host is read by the buffer protocol all
 * the same, which also says whether it may be written, and one on a device is not thought to have a buffer. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_read_dlpack(const cai_impl_reader_t *reader, cai_stream_t consumer)
{
    cai_impl_dlpack_producer_t producer;
    cai_impl_result_t          met = cai_impl_note(reader, cai_impl_dlpack_meet(reader, &producer));
    const bool                 by_hint = reader->view->impl_hint == CAI_VIA_DLPACK;
    const bool                 on_cuda = producer.device.device_type == CAI_DEVICE_CUDA;
    cai_impl_result_t          result = met == CAI_IMPL_REFUSED ? CAI_IMPL_REFUSED : CAI_IMPL_ABSENT;
    if (result == CAI_IMPL_ABSENT && by_hint && !on_cuda)
        result = cai_impl_note(reader, cai_impl_buffer_read(reader));
    if (result == CAI_IMPL_ABSENT && met == CAI_IMPL_READ)
        result = cai_impl_note(reader, cai_impl_dlpack_read(reader, &producer, consumer));
    if (result == CAI_IMPL_ABSENT && by_hint && on_cuda)
        result = cai_impl_note(reader, cai_impl_buffer_read(reader));
    Py_XDECREF(producer.method);
    return result;
}

/* Steps 5 and 6: producers that order their work before the consumer's stream, and those that say nothing. The last
 * chance: nothing found raises. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_read_last(const cai_impl_reader_t *reader, cai_stream_t consumer)
{
    cai_view_t       *view = reader->view;
    const bool        passed_over = view->impl_hint == CAI_VIA_DLPACK ||
                                    (view->impl_facts & CAI_IMPL_TYPE_BY_DLPACK) != 0; /* the interface was */
    cai_impl_result_t result = CAI_IMPL_ABSENT;
    if (!PyCapsule_CheckExact(reader->object))
        result = cai_impl_read_dlpack(reader, consumer);
    if (result == CAI_IMPL_ABSENT && passed_over)
        result = cai_impl_note(reader, cai_impl_read_interface(reader));
    if (result == CAI_IMPL_ABSENT && view->impl_interface != NULL)
        result = cai_impl_note(reader,
                               cai_impl_interface_read(reader, CAI_IMPL_CAST(PyObject *, view->impl_interface), false));
    if (result == CAI_IMPL_READ && cai_impl_type_is_on_both(view))
        view->impl_progress |= CAI_IMPL_NEWS_OF_TYPE;
    if (result == CAI_IMPL_READ)
        return cai_impl_check_lazy(reader);
    return result == CAI_IMPL_ABSENT ? cai_impl_raise_failure(reader) : result;
}

/* Begin an acquire: the view holds the object from here on, and nothing else. -1 with an exception. */
CAI_IMPL_HOT int cai_impl_view_open(const cai_impl_reader_t *reader)
{
    cai_impl_view_reset(reader->view);
    reader->view->impl_state = reader->state;
    reader->view->impl_object = Py_NewRef(reader->object);
    return cai_impl_type_look_up(reader);
}

CAI_IMPL bool cai_impl_view_has_news(const cai_view_t *view)
{
    return (view->impl_progress & (CAI_IMPL_KNOWN_TYPE | CAI_IMPL_NEWS_OF_TYPE)) != CAI_IMPL_KNOWN_TYPE;
}

/* The array is found: what was needed on the way can go, which may run Python code. */
CAI_IMPL void cai_impl_view_drop_way(cai_view_t *view)
{
    if (CAI_IMPL_LIKELY(view->impl_interface == NULL && view->impl_failure == NULL))
        return;
    cai_impl_drop(&view->impl_interface);
    cai_impl_drop(&view->impl_failure);
}

/* The acquire has succeeded: remember what it has shown of the type. Runs no Python code. */
CAI_IMPL_ASIDE void cai_impl_view_tell_news(const cai_impl_reader_t *reader)
{
    if (cai_impl_view_has_news(reader->view) && reader->request->protocols == 0)
        cai_impl_type_learn(reader);
}

CAI_API cai_status_t cai_view_release(cai_view_t *view)
{
    return cai_impl_view_release(view, NULL);
}

/* -------------------------------------------------------------------------------------------------- one array ---- */

/* Fill the view by whatever protocol works; READ, or REFUSED with an exception. */
CAI_IMPL cai_impl_result_t cai_impl_read_any(const cai_impl_reader_t *reader, cai_stream_t consumer)
{
    cai_impl_result_t result;
    if (CAI_IMPL_UNLIKELY(cai_impl_view_open(reader) < 0))
        return CAI_IMPL_REFUSED;
    result = cai_impl_read_first(reader);
    if (result == CAI_IMPL_ABSENT)
        result = cai_impl_read_last(reader, consumer);
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return result;
    cai_impl_view_drop_way(reader->view);
    if (CAI_IMPL_UNLIKELY(cai_impl_view_has_news(reader->view)))
        cai_impl_view_tell_news(reader);
    return CAI_IMPL_READ;
}

/* Check what was read, beside the arguments before it. Runs no Python code, unless it refuses. */
CAI_IMPL_HOT cai_impl_result_t cai_impl_check_view(const cai_impl_reader_t *reader, cai_shared_t *shared)
{
    const cai_view_t  *view = reader->view;
    const cai_status_t status =
        cai_impl_check_form(reader->request, &view->tensor, view->flags, &view->impl_layout, shared);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        return CAI_IMPL_READ;
    cai_impl_refuse_mismatch(reader, view->protocol, shared, status);
    return CAI_IMPL_REFUSED;
}

/* The same for an array by itself. */
CAI_IMPL cai_impl_result_t cai_impl_check_alone(const cai_impl_reader_t *reader)
{
    cai_shared_t shared;
    cai_impl_shared_begin(&shared);
    return cai_impl_check_view(reader, &shared);
}

/* Look at a lent tensor again, since other code may have changed it. `asks`: for its gradient too, which may run Python
 * code. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_read_again(const cai_impl_reader_t *reader, bool asks)
{
    const cai_stream_t stream = reader->view->stream;
    cai_impl_result_t  result;
    if (reader->view->protocol != CAI_VIA_EXCHANGE || !cai_impl_exchange_lends(reader->view))
        return CAI_IMPL_READ;
    result = cai_impl_note(reader, asks ? cai_impl_exchange_read(reader) : cai_impl_exchange_look(reader));
    if (reader->view->stream != NULL && stream != NULL)
        reader->view->stream = stream;
    return result == CAI_IMPL_ABSENT ? cai_impl_raise_failure(reader) : result;
}

/* Order one view, and look at a lent tensor again if other threads ran meanwhile. */
CAI_IMPL cai_impl_result_t cai_impl_order_view(const cai_impl_reader_t *reader, cai_stream_t consumer)
{
    cai_error_t error;
    int         waited;
    if (cai_impl_order_prepare(reader->view, reader->order, consumer, &error) != CAI_OK)
        return cai_impl_refuse(reader, reader->view->protocol, CAI_IMPL_REFUSED, &error);
    waited = cai_impl_order_perform(reader);
    if (CAI_IMPL_LIKELY(waited == 0))
        return CAI_IMPL_READ;
    return waited < 0 || cai_impl_read_again(reader, true) != CAI_IMPL_READ ? CAI_IMPL_REFUSED
                                                                            : cai_impl_check_alone(reader);
}

/* What is to be given back, and was put off, comes first: it may run Python code. */
CAI_IMPL_HOT void cai_impl_catch_up(const cai_state_t *state)
{
    cai_impl_queue_check(state->impl_queue);
    cai_impl_pool_sweep(state->impl_pool);
}

/* Everything that an acquire can need. */
CAI_IMPL cai_impl_result_t cai_impl_acquire(const cai_impl_reader_t *reader)
{
    const cai_stream_t      told = reader->order.mode == CAI_ORDER_WAIT ? reader->order.stream : CAI_STREAM_LEGACY;
    const cai_impl_result_t result = cai_impl_read_any(reader, told);
    return result == CAI_IMPL_READ ? cai_impl_check_alone(reader) : result;
}

CAI_IMPL_HOT cai_impl_result_t cai_impl_acquire_at_once(cai_state_t *state, PyObject *object,
                                                        const cai_request_t *request, cai_view_t *view)
{
    cai_shared_t      shared;
    cai_impl_result_t result = CAI_IMPL_READ;
    cai_impl_shared_begin(&shared);
    if ((request->require & CAI_WRITABLE) != 0 && cai_impl_at_once_is_tensor(state, object))
        result = cai_impl_at_once_ask(state, object);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        return cai_impl_read_at_once(state, object, request, view, NULL, &shared);
    cai_impl_view_reset(view);
    return result;
}

/* Order what was read, or give up what was not. */
CAI_IMPL_ASIDE int cai_impl_acquire_finish(const cai_impl_reader_t *reader, cai_impl_result_t result)
{
    cai_view_t *view = reader->view;
    if (result == CAI_IMPL_ABSENT)
        result = cai_impl_acquire(reader);
    if (result == CAI_IMPL_READ && view->stream != NULL)
        result =
            cai_impl_order_view(reader, reader->order.mode == CAI_ORDER_WAIT ? reader->order.stream : view->stream);
    if (result == CAI_IMPL_READ)
        return 0;
    cai_impl_view_close(view);
    return -1;
}

CAI_API int cai_view_acquire(cai_state_t *state, PyObject *object, const cai_request_t *request, cai_order_t order,
                             cai_view_t *view)
{
    static const cai_request_t any = {NULL, {0, 0, 0}, NULL, 0, 0, 0, 0, {0}, 0, 0, 0};
    cai_impl_reader_t          reader;
    cai_impl_result_t          result;
    request = request == NULL ? &any : request;
    cai_impl_catch_up(state);
    view->impl_object = NULL;
    result = cai_impl_acquire_at_once(state, object, request, view);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ &&
                        (view->stream == NULL || order.mode == CAI_ORDER_ADOPT || order.mode == CAI_ORDER_NONE))) {
        view->impl_progress |= CAI_IMPL_HOLDS_OBJECT_ALONE; /* and nothing has to be ordered */
        return 0;
    }
    reader = cai_impl_reader_for(state, object, request, order, view);
    return cai_impl_acquire_finish(&reader, result);
}

#endif /* CAI_OBJECT_H */
