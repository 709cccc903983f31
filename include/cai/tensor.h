/**
 * cai/tensor.h - questions about a cai_tensor_t: is it sound, how large is it, how does it lie in memory.
 *
 * cai_tensor_validate() is for tensors of unknown origin. Every other question wants a tensor that passed it (that of a
 * view or an array always did), and can then neither fail nor overflow. All of them accept NULL strides (C-contiguous).
 *
 * Specification: DLPack 1.3 (DLTensor). An extent of 1 makes its stride meaningless, an extent of 0 makes all of them so;
 * at most one element is contiguous in every order.
 */
#ifndef CAI_TENSOR_H
#define CAI_TENSOR_H

#include <cai/dtype.h>

/** What is known of a tensor beside its struct; the first three bits are DLPack's. stream.h has further bits. */
enum {
    CAI_READONLY = 1,      /**< must not be written; also set where the source does not say that it may be */
    CAI_COPIED = 2,        /**< the producer made a copy for this consumer */
    CAI_SUBBYTE_PADDED = 4 /**< elements of less than a byte occupy one each, instead of being packed */
};

/**
 * Whether the tensor describes memory that can be reached without overflow: dtype known (UNKNOWN_DTYPE), 0 to
 * CAI_MAX_NDIM dimensions and extents not negative (INVALID_SHAPE), no product beyond 63 bits (INVALID_SHAPE,
 * INVALID_STRIDES), a shape and, if it has elements, an address (INCOMPLETE_INTERFACE). Reads the struct only.
 */
CAI_API CAI_NODISCARD cai_status_t cai_tensor_validate(const cai_tensor_t *tensor, cai_error_t *error);

/** Number of elements; 1 when ndim is 0. */
CAI_API int64_t cai_tensor_size(const cai_tensor_t *tensor);
/** Bytes that the elements fill when they are packed without gaps; sub-byte elements share bytes. */
CAI_API int64_t cai_tensor_nbytes(const cai_tensor_t *tensor);
/** Address of element (0, …, 0): data + byte_offset. */
CAI_API void *cai_tensor_data(const cai_tensor_t *tensor);
/** The bytes that elements occupy, as offsets [*low, *high) from cai_tensor_data; *low is negative below it. */
CAI_API void cai_tensor_bounds(const cai_tensor_t *tensor, int64_t *low, int64_t *high);

/** Row-major, without gaps: the last dimension varies fastest. */
CAI_API bool cai_tensor_is_c_contiguous(const cai_tensor_t *tensor);
/** Column-major, without gaps: the first dimension varies fastest. */
CAI_API bool cai_tensor_is_f_contiguous(const cai_tensor_t *tensor);
/** Whether the first element lies at a multiple of cai_dtype_alignment; always, when there are no elements. */
CAI_API bool cai_tensor_is_aligned(const cai_tensor_t *tensor);
/** Whether a stride is negative in a dimension of more than one element; never, when there are no elements. */
CAI_API bool cai_tensor_has_negative_strides(const cai_tensor_t *tensor);
/**
 * Whether two indices may mean one element (broadcast arrays, sliding windows). Exact where the dimensions nest, as they
 * do in slices, transpositions and broadcasts of a dense array; otherwise `true` may be said of a tensor without overlap.
 */
CAI_API bool cai_tensor_may_self_overlap(const cai_tensor_t *tensor);
/** Whether the bytes from the lowest to the highest element of the two tensors intersect. */
CAI_API bool cai_tensors_may_overlap(const cai_tensor_t *a, const cai_tensor_t *b);

/** Write the strides, in elements, of a C-contiguous array of that shape; `shape` must have passed validation. */
CAI_API void cai_c_contiguous_strides(int32_t ndim, const int64_t *shape, int64_t *strides);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* What one pass over the dimensions finds; the rest is asked only of tensors that are not C-contiguous. */
typedef struct cai_impl_layout {
    int64_t size, nbytes; /* elements, and the bytes of as many whole items */
    bool    c_contiguous;
} cai_impl_layout_t;

/* A negative extent, an extent of 0, or a product that overflowed: refused, unless the array is empty. */
CAI_IMPL_COLD cai_status_t cai_impl_extents_unusual(const cai_tensor_t *tensor, cai_impl_layout_t *layout,
                                                    cai_error_t *error)
{
    bool empty = false;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        if (tensor->shape[i] < 0)
            return cai_error_set(error, CAI_ERROR_INVALID_SHAPE, "the extent of dimension %d is negative: %lld", i,
                                 CAI_IMPL_CAST(long long, tensor->shape[i]));
        empty |= tensor->shape[i] == 0;
    }
    layout->size = layout->nbytes = 0;
    layout->c_contiguous = true;
    if (empty)
        return CAI_OK;
    return cai_error_set(error, CAI_ERROR_INVALID_SHAPE, "the size in bytes of this shape does not fit 63 bits");
}

/* The items, of `itemsize` units each, from the lowest to the end of the highest: offsets [*low, *high) from the first,
 * in those units; false if they do not fit 63 bits. */
CAI_IMPL_COLD bool cai_impl_bounds(const cai_tensor_t *tensor, int64_t itemsize, int64_t *low, int64_t *high)
{
    *low = 0;
    *high = itemsize;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        int64_t *end = tensor->strides[i] < 0 ? low : high, reach;
        if (tensor->shape[i] > 1 &&
            (__builtin_mul_overflow(tensor->strides[i], tensor->shape[i] - 1, &reach) ||
             __builtin_mul_overflow(reach, itemsize, &reach) || __builtin_add_overflow(*end, reach, end)))
            return false;
    }
    return true;
}

/* A stride in bytes for those who ask; 0 where that does not fit, which only strides do that are never followed: of extents
 * of 1, and of arrays without elements. */
CAI_IMPL int64_t cai_impl_byte_stride(const cai_tensor_t *tensor, int32_t dimension)
{
    int64_t stride;
    return __builtin_mul_overflow(tensor->strides[dimension], cai_dtype_itemsize(tensor->dtype), &stride) ? 0 : stride;
}

/* Whether [data + low, data + high) lies in the address space. */
CAI_IMPL bool cai_impl_address_fits(const cai_tensor_t *tensor, int64_t low, int64_t high)
{
    uint64_t address = CAI_IMPL_BITS(uint64_t, tensor->data), end;
    if (__builtin_add_overflow(address, tensor->byte_offset, &address))
        return false;
    if (address < CAI_IMPL_CAST(uint64_t, -(low + 1)) + 1 && low < 0)
        return false;
    return !__builtin_add_overflow(address, CAI_IMPL_CAST(uint64_t, high), &end);
}

CAI_IMPL_COLD cai_status_t cai_impl_strides_refused(cai_error_t *error)
{
    return cai_error_set(error, CAI_ERROR_INVALID_STRIDES,
                         "these shape and strides reach beyond the address space, or 63 bits, from the first element");
}

CAI_IMPL_COLD cai_status_t cai_impl_dtype_refused(cai_dtype_t dtype, cai_error_t *error)
{
    char name[CAI_DTYPE_NAME_SIZE];
    return cai_error_set(error, CAI_ERROR_UNKNOWN_DTYPE, "unknown data type: %s", cai_dtype_name(dtype, name));
}

CAI_IMPL_COLD cai_status_t cai_impl_tensor_incomplete(const cai_tensor_t *tensor, cai_error_t *error)
{
    if (tensor->ndim < 0 || tensor->ndim > CAI_MAX_NDIM)
        return cai_error_set(error, CAI_ERROR_INVALID_SHAPE, "the number of dimensions must be 0 to %d: it is %d",
                             CAI_MAX_NDIM, tensor->ndim);
    if (tensor->ndim > 0 && tensor->shape == NULL)
        return cai_error_set(error, CAI_ERROR_INCOMPLETE_INTERFACE, "%d dimensions without a shape", tensor->ndim);
    return cai_error_set(error, CAI_ERROR_INCOMPLETE_INTERFACE, "a NULL pointer for an array that has elements");
}

/* Refuses elements whose bytes do not all have an address; there is at least one. */
CAI_IMPL cai_status_t cai_impl_reach_check(const cai_tensor_t *tensor, const cai_impl_layout_t *layout,
                                           cai_error_t *error)
{
    int64_t low = 0, high = layout->nbytes;
    if (CAI_IMPL_UNLIKELY(tensor->data == NULL))
        return cai_impl_tensor_incomplete(tensor, error);
    if (!layout->c_contiguous &&
        CAI_IMPL_UNLIKELY(!cai_impl_bounds(tensor, cai_dtype_itemsize(tensor->dtype), &low, &high)))
        return cai_impl_strides_refused(error);
    if (CAI_IMPL_UNLIKELY(!cai_impl_address_fits(tensor, low, high)))
        return cai_impl_strides_refused(error);
    return CAI_OK;
}

/* The one loop of every acquire: size, overflow and C-contiguity together. ndim, shape and dtype are sound here, and
 * strides are not NULL. */
CAI_IMPL cai_status_t cai_impl_layout_find(const cai_tensor_t *tensor, cai_impl_layout_t *layout, cai_error_t *error)
{
    int64_t size = 1;
    bool    c_contiguous = true;
    for (int32_t i = tensor->ndim - 1; i >= 0; i--) {
        const int64_t extent = tensor->shape[i];
        if (extent == 1)
            continue;
        c_contiguous = c_contiguous && tensor->strides[i] == size;
        if (CAI_IMPL_UNLIKELY(extent < 1 || __builtin_mul_overflow(size, extent, &size)))
            return cai_impl_extents_unusual(tensor, layout, error);
    }
    if (CAI_IMPL_UNLIKELY(__builtin_mul_overflow(size, cai_dtype_itemsize(tensor->dtype), &layout->nbytes)))
        return cai_impl_extents_unusual(tensor, layout, error);
    layout->size = size;
    layout->c_contiguous = c_contiguous;
    return CAI_OK;
}

/* What cai_impl_layout_find relies on, and the address. A tensor with strides of NULL is given none here. */
CAI_IMPL cai_status_t cai_impl_header_check(const cai_tensor_t *tensor, cai_error_t *error)
{
    if (CAI_IMPL_UNLIKELY(tensor->ndim < 0 || tensor->ndim > CAI_MAX_NDIM ||
                          (tensor->ndim > 0 && tensor->shape == NULL)))
        return cai_impl_tensor_incomplete(tensor, error);
    if (CAI_IMPL_UNLIKELY(!cai_dtype_is_known(tensor->dtype)))
        return cai_impl_dtype_refused(tensor->dtype, error);
    return CAI_OK;
}

CAI_API void cai_c_contiguous_strides(int32_t ndim, const int64_t *shape, int64_t *strides)
{
    int64_t stride = 1;
    for (int32_t i = ndim - 1; i >= 0; i--) {
        strides[i] = stride;
        /* Of an empty array any stride will do; the product of its other extents may overflow. */
        if (__builtin_mul_overflow(stride, shape[i], &stride))
            stride = 0;
    }
}

CAI_API cai_status_t cai_tensor_validate(const cai_tensor_t *tensor, cai_error_t *error)
{
    cai_tensor_t      copy = *tensor;
    int64_t           strides[CAI_MAX_NDIM];
    cai_impl_layout_t layout;
    cai_status_t      status = cai_impl_header_check(tensor, error);
    if (status != CAI_OK)
        return status;
    if (copy.strides == NULL) {
        cai_c_contiguous_strides(copy.ndim, copy.shape, strides);
        copy.strides = strides;
    }
    status = cai_impl_layout_find(&copy, &layout, error);
    return status != CAI_OK || layout.size == 0 ? status : cai_impl_reach_check(&copy, &layout, error);
}

/* Unsigned, since the product of the other extents may overflow where one of them is 0. */
CAI_API int64_t cai_tensor_size(const cai_tensor_t *tensor)
{
    uint64_t size = 1;
    for (int32_t i = 0; i < tensor->ndim; i++)
        size *= CAI_IMPL_CAST(uint64_t, tensor->shape[i]);
    return CAI_IMPL_CAST(int64_t, size);
}

/* Bytes of so many items without gaps. Validation bounds items * ceil(bits / 8), not items * bits: whole groups of eight
 * items first. */
CAI_IMPL int64_t cai_impl_packed_bytes(int64_t items, cai_dtype_t dtype)
{
    const int64_t bits = CAI_IMPL_CAST(int64_t, dtype.bits) * dtype.lanes;
    return bits % 8 == 0 ? items * (bits / 8) : items / 8 * bits + (items % 8 * bits + 7) / 8;
}

CAI_API int64_t cai_tensor_nbytes(const cai_tensor_t *tensor)
{
    return cai_impl_packed_bytes(cai_tensor_size(tensor), tensor->dtype);
}

CAI_API void *cai_tensor_data(const cai_tensor_t *tensor)
{
    return tensor->data == NULL ? NULL : CAI_IMPL_CAST(char *, tensor->data) + tensor->byte_offset;
}

CAI_API void cai_tensor_bounds(const cai_tensor_t *tensor, int64_t *low, int64_t *high)
{
    *low = *high = 0;
    if (cai_tensor_size(tensor) == 0)
        return;
    if (tensor->strides == NULL) {
        *high = cai_tensor_nbytes(tensor);
        return;
    }
    (void)cai_impl_bounds(tensor, 1, low, high);
    *low = -cai_impl_packed_bytes(-*low, tensor->dtype);
    *high = cai_impl_packed_bytes(*high, tensor->dtype);
}

/* The same for whoever knows the flags: items of less than a byte that are padded take one each. */
CAI_IMPL_COLD void cai_impl_bounds_by_flags(const cai_tensor_t *tensor, uint64_t flags, int64_t *low, int64_t *high)
{
    cai_tensor_bounds(tensor, low, high);
    if (*high > 0 && (flags & CAI_SUBBYTE_PADDED) != 0)
        (void)cai_impl_bounds(tensor, cai_dtype_itemsize(tensor->dtype), low, high);
}

/* Contiguity in one order: `step` is -1 from the last dimension (C) or 1 from the first (Fortran). */
CAI_IMPL bool cai_impl_is_dense(const cai_tensor_t *tensor, int32_t first, int32_t step)
{
    uint64_t expected = 1; /* which may overflow before an extent of 0 is met */
    bool     dense = true;
    for (int32_t n = 0, i = first; n < tensor->ndim; n++, i += step) {
        if (tensor->shape[i] == 0)
            return true;
        if (tensor->shape[i] == 1)
            continue;
        dense &= CAI_IMPL_CAST(uint64_t, tensor->strides[i]) == expected;
        expected *= CAI_IMPL_CAST(uint64_t, tensor->shape[i]);
    }
    return dense;
}

CAI_API bool cai_tensor_is_c_contiguous(const cai_tensor_t *tensor)
{
    return tensor->strides == NULL || cai_impl_is_dense(tensor, tensor->ndim - 1, -1);
}

CAI_API bool cai_tensor_is_f_contiguous(const cai_tensor_t *tensor)
{
    int64_t      strides[CAI_MAX_NDIM];
    cai_tensor_t copy = *tensor;
    if (tensor->strides == NULL) {
        cai_c_contiguous_strides(tensor->ndim, tensor->shape, strides);
        copy.strides = strides;
    }
    return cai_impl_is_dense(&copy, 0, 1);
}

/* No item asks for more than this. */
#define CAI_IMPL_MAX_ALIGNMENT 16

CAI_IMPL_COLD bool cai_impl_is_aligned_to(const cai_tensor_t *tensor, uint64_t address)
{
    return address % CAI_IMPL_CAST(uint64_t, cai_dtype_alignment(tensor->dtype)) == 0 || cai_tensor_size(tensor) == 0;
}

CAI_API bool cai_tensor_is_aligned(const cai_tensor_t *tensor)
{
    const uint64_t address = CAI_IMPL_BITS(uint64_t, tensor->data) + tensor->byte_offset;
    if (CAI_IMPL_LIKELY(address % CAI_IMPL_MAX_ALIGNMENT == 0))
        return true;
    return cai_impl_is_aligned_to(tensor, address);
}

CAI_API bool cai_tensor_has_negative_strides(const cai_tensor_t *tensor)
{
    bool negative = false;
    for (int32_t i = 0; tensor->strides != NULL && i < tensor->ndim; i++)
        negative |= tensor->shape[i] > 1 && tensor->strides[i] < 0;
    return negative && cai_tensor_size(tensor) > 0;
}

CAI_IMPL_COLD bool cai_impl_may_self_overlap(const cai_tensor_t *tensor)
{
    /* Unsigned: there may be 63 bits below the first element and 63 above. */
    uint64_t steps[CAI_MAX_NDIM], extents[CAI_MAX_NDIM], reach = 0;
    int32_t  n = 0;
    if (tensor->strides == NULL || cai_tensor_size(tensor) < 2)
        return false;
    for (int32_t i = 0; i < tensor->ndim; i++) { /* sorted by insertion, the smallest step first */
        const uint64_t stride = CAI_IMPL_CAST(uint64_t, tensor->strides[i]);
        const uint64_t step = tensor->strides[i] < 0 ? 0 - stride : stride;
        int32_t        at = n;
        if (tensor->shape[i] == 1)
            continue;
        for (; at > 0 && steps[at - 1] > step; at--) {
            steps[at] = steps[at - 1];
            extents[at] = extents[at - 1];
        }
        steps[at] = step;
        extents[at] = CAI_IMPL_CAST(uint64_t, tensor->shape[i]);
        n++;
    }
    for (int32_t i = 0; i < n; i++) {
        if (steps[i] <= reach)
            return true;
        reach += steps[i] * (extents[i] - 1);
    }
    return false;
}

CAI_API bool cai_tensor_may_self_overlap(const cai_tensor_t *tensor)
{
    return cai_impl_may_self_overlap(tensor);
}

CAI_API bool cai_tensors_may_overlap(const cai_tensor_t *a, const cai_tensor_t *b)
{
    int64_t     low_a, high_a, low_b, high_b;
    const char *data_a = CAI_IMPL_CAST(const char *, cai_tensor_data(a));
    const char *data_b = CAI_IMPL_CAST(const char *, cai_tensor_data(b));
    cai_tensor_bounds(a, &low_a, &high_a);
    cai_tensor_bounds(b, &low_b, &high_b);
    if (low_a == high_a || low_b == high_b)
        return false;
    return data_a + low_a < data_b + high_b && data_b + low_b < data_a + high_a;
}

#endif /* CAI_TENSOR_H */
