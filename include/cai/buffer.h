/**
 * cai/buffer.h - host arrays by the buffer protocol (PEP 3118), in and out.
 *
 * The Py_buffer is kept in the view until it is released, because it is what keeps a bytearray or an array.array from
 * being resized. It is asked for read-only: whoever can write says so in the answer, and NumPy does not warn.
 *
 * Private to cai, but for the export; object.h is the way in. Specification: the buffer protocol, formats of the struct
 * module and PEP 3118.
 */
#ifndef CAI_BUFFER_H
#define CAI_BUFFER_H

#include <cai/reader.h>

/**
 * Fill a buffer that somebody asks `exporter`, which holds a reference to `array`, for: the body of bf_getbuffer, as
 * cai_buffer_release is that of bf_releasebuffer. Waits for the work that is pending on the array, with the GIL released.
 * 0, or -1 with BufferError: memory of a device, types without a buffer format, read-only memory that was asked for as
 * writable, a layout other than was asked for. Needs an attached thread state (the GIL).
 */
CAI_API int cai_buffer_export(cai_state_t *state, cai_array_t *array, PyObject *exporter, Py_buffer *buffer, int flags);
CAI_API void cai_buffer_release(PyObject *exporter, Py_buffer *buffer);

CAI_IMPL Py_buffer *cai_impl_view_buffer(cai_view_t *view)
{
    return CAI_IMPL_BITS(Py_buffer *, view->impl_buffer);
}

CAI_IMPL void cai_impl_give_back_buffer(void *managed)
{
    PyBuffer_Release(CAI_IMPL_CAST(Py_buffer *, managed));
}

/* Whether the type is numpy.ma.MaskedArray or derived from it, whose buffer leaves the mask behind. 1, 0, or -1 with an
 * exception. */
CAI_IMPL_COLD int cai_impl_type_is_masked(const cai_state_t *state, PyTypeObject *type)
{
    PyObject *masked;
    const int found = cai_impl_find_class(state, CAI_IMPL_NAME_NUMPY_MA, CAI_IMPL_NAME_MASKED_ARRAY, &masked);
    int       result;
    if (found <= 0)
        return found;
    result = PyType_IsSubtype(type, CAI_IMPL_BITS(PyTypeObject *, masked)) != 0;
    Py_DECREF(masked);
    return result;
}

/* What was asked for and is not there all the same, and what was not asked for and is. */
CAI_IMPL cai_status_t cai_impl_buffer_check(const Py_buffer *buffer, cai_error_t *error)
{
    if (CAI_IMPL_UNLIKELY(buffer->shape == NULL && buffer->ndim > 1))
        return cai_error_set(error, CAI_ERROR_INCOMPLETE_INTERFACE, "%d dimensions without a shape", buffer->ndim);
    for (int32_t i = 0; buffer->suboffsets != NULL && i < buffer->ndim && i < CAI_MAX_NDIM; i++) {
        if (buffer->suboffsets[i] >= 0)
            return cai_error_set(error, CAI_ERROR_LAYOUT_MISMATCH,
                                 "expected elements at fixed strides; got pointers to them (suboffsets)");
    }
    return CAI_OK;
}

/* The usual buffer into the view; false: see below. */
CAI_IMPL bool cai_impl_buffer_fill_plain(cai_view_t *view, const Py_buffer *buffer)
{
    cai_dtype_t dtype;
    unsigned    shift;
    if (CAI_IMPL_UNLIKELY(cai_dtype_from_format(buffer->format, buffer->itemsize, &dtype, NULL) != CAI_OK ||
                          buffer->ndim < 0 || buffer->ndim > CAI_MAX_NDIM || buffer->suboffsets != NULL ||
                          (buffer->shape == NULL && buffer->ndim > 0) ||
                          !cai_impl_item_shift(buffer->itemsize, &shift)))
        return false;
    cai_impl_view_set_header(view, buffer->buf, cai_impl_device(CAI_DEVICE_CPU, 0), dtype, buffer->ndim);
    return cai_impl_view_fill(view, buffer->shape, buffer->strides, shift, shift);
}

/* The buffer's shape and strides into the view, as they are. A buffer without strides is C-contiguous, and one dimension
 * without a shape as long as its bytes. */
CAI_IMPL_COLD cai_status_t cai_impl_buffer_copy(cai_view_t *view, const Py_buffer *buffer, cai_error_t *error)
{
    cai_dtype_t  dtype;
    cai_status_t status = cai_impl_format_read(buffer->format, buffer->itemsize, &dtype, error);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        status = cai_impl_buffer_check(buffer, error);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        status = cai_impl_view_start(view, buffer->buf, cai_impl_device(CAI_DEVICE_CPU, 0), dtype, buffer->ndim, error);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return status;
    for (int32_t i = 0; i < buffer->ndim; i++)
        view->impl_shape[i] = buffer->shape != NULL ? buffer->shape[i] : buffer->len / buffer->itemsize;
    if (buffer->strides == NULL)
        cai_c_contiguous_strides(buffer->ndim, view->impl_shape, view->impl_strides);
    else
        status = cai_impl_view_set_byte_strides(view, buffer->strides, error);
    return status;
}

CAI_IMPL_COLD cai_impl_result_t cai_impl_buffer_fill_unusual(const cai_impl_reader_t *reader, const Py_buffer *buffer)
{
    cai_error_t error;
    if (cai_impl_buffer_copy(reader->view, buffer, &error) != CAI_OK)
        return cai_impl_refuse(reader, CAI_VIA_BUFFER, CAI_IMPL_UNREADABLE, &error);
    return cai_impl_settle(reader, CAI_VIA_BUFFER);
}

CAI_IMPL cai_impl_result_t cai_impl_buffer_fill(const cai_impl_reader_t *reader, const Py_buffer *buffer)
{
    reader->view->flags = buffer->readonly != 0 ? CAI_READONLY : 0;
    if (CAI_IMPL_LIKELY(cai_impl_buffer_fill_plain(reader->view, buffer)))
        return cai_impl_settle_found(reader, CAI_VIA_BUFFER);
    return cai_impl_buffer_fill_unusual(reader, buffer);
}

/* Host code fills a buffer before it hands it over, so no stream is involved; what CUDA still does to pinned memory is
 * not known. */
CAI_IMPL_ASIDE cai_impl_result_t cai_impl_buffer_read(const cai_impl_reader_t *reader)
{
    cai_view_t       *view = reader->view;
    Py_buffer        *buffer = cai_impl_view_buffer(view);
    cai_impl_result_t result;
    if (!cai_impl_allows(reader->request, CAI_VIA_BUFFER) ||
        !cai_impl_wants_memory(reader->request, CAI_ON_HOST | CAI_ON_PINNED) || !PyObject_CheckBuffer(reader->object))
        return CAI_IMPL_ABSENT;
    if (CAI_IMPL_UNLIKELY(PyObject_GetBuffer(reader->object, buffer, PyBUF_RECORDS_RO) < 0))
        return CAI_IMPL_PRODUCER_RAISED;
    view->impl_managed = buffer;
    view->impl_give_back = cai_impl_give_back_buffer;
    result = cai_impl_buffer_fill(reader, buffer);
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return cai_impl_abandon(view, result);
    cai_impl_set_source(view, CAI_IMPL_SOURCE_SILENT, CAI_STREAM_LEGACY);
    return CAI_IMPL_READ;
}

/* ------------------------------------------------------------------------------------------------------- outward --- */

CAI_IMPL_COLD int cai_impl_buffer_deny(const char *why)
{
    PyErr_SetString(PyExc_BufferError, why);
    return -1;
}

/* Whether the array can be shown in the way that the flags ask for. */
CAI_IMPL int cai_impl_buffer_check_export(const cai_array_t *array, int flags)
{
    const cai_tensor_t *tensor = &array->tensor;
    const bool          c = cai_tensor_is_c_contiguous(tensor);
    if (tensor->device.device_type == CAI_DEVICE_CUDA)
        return cai_impl_buffer_deny("the array is in the memory of a CUDA device, which buffers cannot show");
    if ((flags & PyBUF_WRITABLE) != 0 && (array->flags & CAI_READONLY) != 0)
        return cai_impl_buffer_deny("the array is read-only");
    if (((flags & PyBUF_STRIDES) != PyBUF_STRIDES || (flags & PyBUF_C_CONTIGUOUS) == PyBUF_C_CONTIGUOUS) && !c)
        return cai_impl_buffer_deny("the array is not C-contiguous");
    if ((flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS && !cai_tensor_is_f_contiguous(tensor))
        return cai_impl_buffer_deny("the array is not Fortran-contiguous");
    if ((flags & PyBUF_ANY_CONTIGUOUS) == PyBUF_ANY_CONTIGUOUS && !c && !cai_tensor_is_f_contiguous(tensor))
        return cai_impl_buffer_deny("the array is not contiguous");
    return 0;
}

/* Shape and strides in bytes, behind each other, which the buffer owns until it is released. */
CAI_IMPL Py_ssize_t *cai_impl_buffer_extents(const cai_tensor_t *tensor)
{
    const size_t n = CAI_IMPL_CAST(size_t, tensor->ndim);
    Py_ssize_t  *extents = CAI_IMPL_CAST(Py_ssize_t *, malloc((2 * n + 1) * sizeof(Py_ssize_t)));
    for (size_t i = 0; extents != NULL && i < n; i++) {
        extents[i] = tensor->shape[i];
        extents[n + i] = cai_impl_byte_stride(tensor, CAI_IMPL_CAST(int32_t, i));
    }
    return extents;
}

CAI_API int cai_buffer_export(cai_state_t *state, cai_array_t *array, PyObject *exporter, Py_buffer *buffer, int flags)
{
    const cai_tensor_t *tensor = &array->tensor;
    const char         *format = cai_dtype_to_format(tensor->dtype, NULL);
    Py_ssize_t         *extents;
    buffer->obj = NULL;
    if (cai_impl_buffer_check_export(array, flags) < 0)
        return -1;
    if (format == NULL)
        return cai_impl_buffer_deny("the array's data type has no buffer format");
    if (cai_impl_array_wait(state, array) < 0)
        return -1;
    extents = cai_impl_buffer_extents(tensor);
    if (extents == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    buffer->buf = tensor->data != NULL ? tensor->data : extents; /* without elements any address will do but NULL */
    buffer->len = cai_tensor_nbytes(tensor);
    buffer->itemsize = cai_dtype_itemsize(tensor->dtype);
    buffer->readonly = (array->flags & CAI_READONLY) != 0;
    buffer->ndim = tensor->ndim;
    buffer->format = (flags & PyBUF_FORMAT) != 0 ? CAI_IMPL_BITS(char *, CAI_IMPL_BITS(uintptr_t, format)) : NULL;
    buffer->shape = tensor->ndim > 0 && (flags & PyBUF_ND) != 0 ? extents : NULL; /* NULL too for a single item */
    buffer->strides = tensor->ndim > 0 && (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? extents + tensor->ndim : NULL;
    buffer->suboffsets = NULL;
    buffer->internal = extents;
    buffer->obj = Py_NewRef(exporter);
    return 0;
}

CAI_API void cai_buffer_release(PyObject *exporter, Py_buffer *buffer)
{
    (void)exporter;
    free(buffer->internal);
}

#endif /* CAI_BUFFER_H */
