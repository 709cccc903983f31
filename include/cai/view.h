/**
 * cai/view.h - cai_view_t: an array that was borrowed from its producer, between acquire and release.
 *
 * A view lives where its author puts it (the stack, as a rule), about 1.3 kB each, and needs no initialisation before an
 * acquire. Its shape and strides are its own copy, taken before they were checked; `tensor.shape` and `tensor.strides`
 * point into the view itself, so a view is never copied by value. cai_view_acquire and cai_view_release are in object.h.
 */
#ifndef CAI_VIEW_H
#define CAI_VIEW_H

#include <cai/order.h>
#include <cai/request.h>

struct cai_state;

/** Words that hold a Py_buffer; python_compat.h checks that they do. */
#define CAI_IMPL_BUFFER_WORDS 12

typedef struct cai_view {
    /** data is the first element (byte_offset is 0), NULL without elements; strides count elements, never NULL. */
    cai_tensor_t tensor;
    /** Where to launch: the producer's stream, or that of cai_order_wait; NULL for host memory. */
    cai_stream_t stream;
    /** CAI_READONLY, CAI_COPIED, CAI_SUBBYTE_PADDED, CAI_HAS_STREAM, CAI_STREAM_UNKNOWN. */
    uint32_t flags;
    /** The CAI_VIA_… by which the array came; 0 when the view holds nothing. */
    uint32_t protocol;
    /** Number of elements. */
    int64_t size;

    /* Private: what is given back at release, and what an acquire in several steps remembers. */
    struct cai_state            *impl_state; /* borrowed */
    cai_impl_layout_t            impl_layout;
    cai_impl_order_record_t      impl_order;
    void                        *impl_object;                   /* PyObject, owned: the producer's object */
    void                        *impl_mask, *impl_descr;        /* PyObject, owned, or NULL */
    void                        *impl_interface, *impl_failure; /* PyObject, owned, NULL after the acquire */
    const cai_dlpack_exchange_t *impl_exchange;                 /* of the object's type, or NULL */
    uint32_t                     impl_facts, impl_hint;         /* what is known of its type */
    uint32_t                     impl_progress;                 /* how far the acquire is */
    void (*impl_give_back)(void *managed); /* of the protocol; NULL: there is nothing to give back */
    void    *impl_managed;
    uint64_t impl_buffer[CAI_IMPL_BUFFER_WORDS];
    int64_t  impl_shape[CAI_MAX_NDIM], impl_strides[CAI_MAX_NDIM];
} cai_view_t;

/** Write "CUDA Array Interface", "DLPack" …: the name of one CAI_VIA_… protocol. Static storage. */
CAI_API const char *cai_protocol_name(uint32_t protocol) CAI_IMPL_SELDOM;

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

CAI_API const char *cai_protocol_name(uint32_t protocol)
{
    switch (protocol) {
    case CAI_VIA_EXCHANGE: return "DLPack exchange API";
    case CAI_VIA_BUFFER: return "buffer protocol";
    case CAI_VIA_CUDA_ARRAY_INTERFACE:
    case CAI_VIA_CUDA_ARRAY_INTERFACE_3: return "CUDA Array Interface";
    case CAI_VIA_DLPACK: return "DLPack";
    case CAI_VIA_ARRAY: return "cai_array_v1";
    default: return "no protocol";
    }
}

/* A view that holds nothing: releasing it is harmless. */
CAI_IMPL_HOT void cai_impl_view_reset(cai_view_t *view)
{
    view->protocol = 0;
    view->flags = 0;
    view->stream = NULL;
    view->impl_object = view->impl_mask = view->impl_descr = NULL;
    view->impl_interface = view->impl_failure = NULL;
    view->impl_give_back = NULL;
    view->impl_progress = 0;
    view->tensor.shape = view->impl_shape;
    view->tensor.strides = view->impl_strides;
    view->impl_order.source = CAI_IMPL_SOURCE_READY;
    view->impl_order.mode = CAI_ORDER_NONE;
    view->impl_order.pinned = false;
    view->impl_order.is_current = false;
}

CAI_IMPL_COLD cai_status_t cai_impl_ndim_refused(int64_t ndim, cai_error_t *error)
{
    return cai_error_set(error, CAI_ERROR_INVALID_SHAPE, "the number of dimensions must be 0 to %d: it is %lld",
                         CAI_MAX_NDIM, CAI_IMPL_CAST(long long, ndim));
}

/* Everything of a tensor but its shape and strides, which the caller then writes to the view's own arrays. */
CAI_IMPL void cai_impl_view_set_header(cai_view_t *view, void *data, cai_device_t device, cai_dtype_t dtype,
                                       int32_t ndim)
{
    cai_tensor_t *tensor = &view->tensor;
    tensor->data = data;
    tensor->device = device;
    tensor->ndim = ndim;
    tensor->dtype = dtype;
    tensor->byte_offset = 0;
}

/* The same, checked. */
CAI_IMPL_COLD cai_status_t cai_impl_view_start(cai_view_t *view, void *data, cai_device_t device, cai_dtype_t dtype,
                                               int64_t ndim, cai_error_t *error)
{
    const bool possible = ndim >= 0 && ndim <= CAI_MAX_NDIM;
    cai_impl_view_set_header(view, data, device, dtype, possible ? CAI_IMPL_CAST(int32_t, ndim) : -1);
    if (CAI_IMPL_UNLIKELY(!possible))
        return cai_impl_ndim_refused(ndim, error);
    return CAI_IMPL_LIKELY(cai_dtype_is_known(dtype)) ? CAI_OK : cai_impl_dtype_refused(dtype, error);
}

CAI_IMPL_COLD cai_status_t cai_impl_stride_refused(int32_t dimension, int64_t bytes, int64_t itemsize,
                                                   cai_error_t *error)
{
    return cai_error_set(error, CAI_ERROR_INVALID_STRIDES,
                         "the stride of dimension %d, %lld bytes, is no multiple of the item size, %lld", dimension,
                         CAI_IMPL_CAST(long long, bytes), CAI_IMPL_CAST(long long, itemsize));
}

/* Set one stride that a producer tells in bytes; the shape is there already. Where an extent is 1 or less, or
 * any is 0, the stride means nothing, and producers put anything there. */
CAI_IMPL cai_status_t cai_impl_view_set_byte_stride(cai_view_t *view, int32_t dimension, int64_t bytes,
                                                    cai_error_t *error)
{
    const int64_t itemsize = cai_dtype_itemsize(view->tensor.dtype);
    view->impl_strides[dimension] = bytes / itemsize;
    if (CAI_IMPL_UNLIKELY(view->impl_strides[dimension] * itemsize != bytes && view->impl_shape[dimension] > 1) &&
        cai_tensor_size(&view->tensor) != 0)
        return cai_impl_stride_refused(dimension, bytes, itemsize, error);
    return CAI_OK;
}

CAI_IMPL void cai_impl_view_set_size(cai_view_t *view, int64_t size, int64_t nbytes)
{
    view->size = view->impl_layout.size = size;
    view->impl_layout.nbytes = nbytes;
}

/* The address has been checked: bring it into the form that the view promises. */
CAI_IMPL void cai_impl_view_set_found(cai_view_t *view)
{
    view->tensor.data = CAI_IMPL_CAST(char *, view->tensor.data) + view->tensor.byte_offset;
    view->tensor.byte_offset = 0;
}

/* An array in one pass over its dimensions: shape and strides copied, the layout found, the address checked. The header is
 * set and sound, with items of 2^item_shift bytes; 2^shift of the `strides` are one element: 0 means strides in elements,
 * item_shift strides in bytes. False, and nothing settled, where anything is out of the ordinary: the functions below
 * then tell what is allowed all the same from what is not. */
CAI_IMPL_ASIDE bool cai_impl_view_fill_strided(cai_view_t *view, const int64_t *shape, const int64_t *strides,
                                               unsigned shift, unsigned item_shift)
{
    cai_impl_layout_t *layout = &view->impl_layout;
    int64_t            step = INT64_C(1) << shift, odd = 0;
    layout->c_contiguous = true;
    for (int32_t i = view->tensor.ndim - 1; i >= 0; i--) {
        view->impl_shape[i] = shape[i];
        view->impl_strides[i] = strides[i] >> shift;
        if (shape[i] == 1)
            continue;
        odd |= strides[i];
        layout->c_contiguous &= strides[i] == step;
        if (shape[i] < 1 || __builtin_mul_overflow(step, shape[i], &step))
            return false;
    }
    if ((odd & ((INT64_C(1) << shift) - 1)) != 0 || step > INT64_MAX >> (item_shift - shift))
        return false;
    cai_impl_view_set_size(view, step >> shift, step << (item_shift - shift));
    if (cai_impl_reach_check(&view->tensor, layout, NULL) != CAI_OK)
        return false;
    cai_impl_view_set_found(view);
    return true;
}

/* The same for what is C-contiguous, as most arrays are; all others by the way. Strides of NULL are C-contiguous. */
CAI_IMPL_HOT bool cai_impl_view_fill(cai_view_t *view, const int64_t *shape, const int64_t *strides, unsigned shift,
                                     unsigned item_shift)
{
    int64_t step = INT64_C(1) << shift;
    for (int32_t i = view->tensor.ndim - 1; i >= 0; i--) {
        const int64_t extent = shape[i];
        view->impl_shape[i] = extent;
        view->impl_strides[i] = step >> shift;
        if (extent == 1)
            continue;
        if (strides != NULL && strides[i] != step)
            return cai_impl_view_fill_strided(view, shape, strides, shift, item_shift);
        if (CAI_IMPL_UNLIKELY(extent < 1 || __builtin_mul_overflow(step, extent, &step)))
            return false;
    }
    if (CAI_IMPL_UNLIKELY(step > INT64_MAX >> (item_shift - shift)))
        return false;
    view->impl_layout.c_contiguous = true;
    cai_impl_view_set_size(view, step >> shift, step << (item_shift - shift));
    if (CAI_IMPL_UNLIKELY(view->tensor.data == NULL ||
                          !cai_impl_address_fits(&view->tensor, 0, view->impl_layout.nbytes)))
        return false;
    cai_impl_view_set_found(view);
    return true;
}

/* The same where a producer has been called, or a dict walked, which costs far more than one more call: once. */
CAI_IMPL_ASIDE bool cai_impl_view_fill_aside(cai_view_t *view, const int64_t *shape, const int64_t *strides,
                                             unsigned shift, unsigned item_shift)
{
    return cai_impl_view_fill(view, shape, strides, shift, item_shift);
}

/* The logarithm of an item size in bytes; false for opaque items of other sizes. */
CAI_IMPL bool cai_impl_item_shift(int64_t itemsize, unsigned *shift)
{
    *shift = CAI_IMPL_CAST(unsigned, __builtin_ctzll(CAI_IMPL_CAST(unsigned long long, itemsize)));
    return (itemsize & (itemsize - 1)) == 0;
}

/* The same for a producer's tensor. */
CAI_IMPL bool cai_impl_view_fill_from(cai_view_t *view, const cai_tensor_t *source)
{
    unsigned shift;
    if (CAI_IMPL_UNLIKELY(source->ndim < 0 || source->ndim > CAI_MAX_NDIM || source->shape == NULL ||
                          !cai_dtype_is_plain(source->dtype) || !cai_impl_item_shift(source->dtype.bits / 8, &shift)))
        return false;
    cai_impl_view_set_header(view, source->data, source->device, source->dtype, source->ndim);
    view->tensor.byte_offset = source->byte_offset;
    return cai_impl_view_fill_aside(view, source->shape, source->strides, 0, shift);
}

/* All strides from what a producer tells in bytes, one by one; the shape is there already. */
CAI_IMPL_COLD cai_status_t cai_impl_view_set_byte_strides(cai_view_t *view, const int64_t *bytes, cai_error_t *error)
{
    cai_status_t status = CAI_OK;
    for (int32_t i = 0; i < view->tensor.ndim && status == CAI_OK; i++)
        status = cai_impl_view_set_byte_stride(view, i, bytes[i], error);
    return status;
}

/* Copy a producer's tensor, which may lie and may change later, into the view. */
CAI_IMPL_COLD cai_status_t cai_impl_view_copy(cai_view_t *view, const cai_tensor_t *source, cai_error_t *error)
{
    cai_status_t status = cai_impl_view_start(view, source->data, source->device, source->dtype, source->ndim, error);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return status;
    if (CAI_IMPL_UNLIKELY(source->shape == NULL && source->ndim > 0))
        return cai_impl_tensor_incomplete(source, error);
    view->tensor.byte_offset = source->byte_offset;
    for (int32_t i = 0; i < source->ndim; i++)
        view->impl_shape[i] = source->shape[i];
    if (source->strides == NULL) {
        cai_c_contiguous_strides(source->ndim, view->impl_shape, view->impl_strides);
        return CAI_OK;
    }
    for (int32_t i = 0; i < source->ndim; i++)
        view->impl_strides[i] = source->strides[i];
    return CAI_OK;
}

/* Validate what was copied, and bring it into the form that the view promises. */
CAI_IMPL_COLD cai_status_t cai_impl_view_settle(cai_view_t *view, cai_error_t *error)
{
    cai_tensor_t *tensor = &view->tensor;
    cai_status_t  status = cai_impl_layout_find(tensor, &view->impl_layout, error);
    if (status != CAI_OK)
        return status;
    view->size = view->impl_layout.size;
    if (view->size == 0) {
        tensor->data = NULL; /* producers leave anything here: 0, a stale address, the address of a neighbour */
        tensor->byte_offset = 0;
        return CAI_OK;
    }
    status = cai_impl_reach_check(tensor, &view->impl_layout, error);
    if (status == CAI_OK)
        cai_impl_view_set_found(view);
    return status;
}

#endif /* CAI_VIEW_H */
