/**
 * cai/request.h - what an author wants of an argument, the check of it, and the message of a refusal. Pure C.
 *
 *   static const cai_request_t want = {.name = "x", .dtype = CAI_FLOAT32, .ndim = 2, .require = CAI_C_CONTIGUOUS};
 *
 * A request of zeros accepts any plain dtype, any shape and strides, read-only or not, aligned to the item size, in
 * memory that a kernel can use. In C++, where designators warn before C++20, fill what cai_request("x") returns.
 */
#ifndef CAI_REQUEST_H
#define CAI_REQUEST_H

#include <cai/tensor.h>

/** Dimensions of an array that a request can constrain; further ones are free. */
#define CAI_REQUEST_NDIM 8
/** Number of extents that the arguments of one call can share: CAI_EXTENT(0) to CAI_EXTENT(15). */
#define CAI_REQUEST_EXTENTS 16

/** For `ndim`: exactly zero dimensions. */
#define CAI_SCALAR (-1)
/** For `shape[i]`: the k-th extent that the arguments of one call share; the first one that is seen sets it. */
#define CAI_EXTENT(k) (INT64_C(-1) - (k))
/** For `shape[i]`: exactly 0, since a plain 0 means any. */
#define CAI_EMPTY_EXTENT INT64_MIN

/** For `require`. */
enum {
    CAI_WRITABLE = 1 << 0,          /**< the source says that it may be written */
    CAI_C_CONTIGUOUS = 1 << 1,      /**< row-major without gaps */
    CAI_F_CONTIGUOUS = 1 << 2,      /**< column-major without gaps */
    CAI_CONTIGUOUS = 1 << 3,        /**< one of the two */
    CAI_NONEMPTY = 1 << 4,          /**< at least one element */
    CAI_NO_SELF_OVERLAP = 1 << 5,   /**< no two indices mean one element (cai_tensor_may_self_overlap) */
    CAI_SAME_SHAPE = 1 << 6,        /**< the shape of argument 0 of the call */
    CAI_SAME_DTYPE = 1 << 7,        /**< the dtype of argument 0 of the call */
    CAI_SAME_DEVICE = 1 << 8,       /**< host memory exactly if argument 0 of the call is in host memory */
    CAI_UNALIGNED_OK = 1 << 9,      /**< any address; otherwise a multiple of the item size */
    CAI_TRUST_LEGACY = 1 << 10,     /**< a source that does not say whether it is read-only counts as writable */
    CAI_MASK_OK = 1 << 11,          /**< a masked array is accepted, its mask handed over (cai_view_mask) */
    CAI_UNUSUAL_DTYPE_OK = 1 << 12, /**< where any dtype will do, also opaque items, vectors and sub-byte types */
    CAI_UINT8_AS_BOOL = 1 << 13,    /**< where bool is asked for, uint8 is accepted */
    CAI_NO_NEGATIVE_STRIDES = 1 << 14
};

/** For `memory`: where the array may lie. */
enum {
    CAI_ON_CUDA = 1 << 0,    /**< the memory of a CUDA device */
    CAI_ON_MANAGED = 1 << 1, /**< managed (unified) memory */
    CAI_ON_PINNED = 1 << 2,  /**< page-locked host memory that CUDA knows */
    CAI_ON_HOST = 1 << 3,    /**< any other host memory */
    CAI_ANYWHERE = 15
};

/** For `protocols`, and in the `protocol` of a view. */
enum {
    CAI_VIA_EXCHANGE = 1 << 0,               /**< DLPack's C exchange API, found on the type */
    CAI_VIA_BUFFER = 1 << 1,                 /**< the buffer protocol; of NumPy's arrays the C struct that it shows */
    CAI_VIA_CUDA_ARRAY_INTERFACE = 1 << 2,   /**< any version */
    CAI_VIA_DLPACK = 1 << 3,                 /**< __dlpack__, or a capsule passed as the argument */
    CAI_VIA_CUDA_ARRAY_INTERFACE_3 = 1 << 4, /**< exactly version 3 */
    CAI_VIA_ARRAY = 1 << 5,                  /**< a cai_array_t: an Array of any extension, or its capsule */
    CAI_VIA_ANY = 63
};

/** What is wanted of one argument. All zero is a valid request; the struct is only read. */
typedef struct {
    const char        *name;                    /**< the argument's name in messages; NULL: "array" */
    cai_dtype_t        dtype;                   /**< zero = any; or: */
    const cai_dtype_t *dtypes;                  /**< a list that must live as long as the request */
    int32_t            n_dtypes;                /**< its length; `dtype` is not looked at when it is not 0 */
    int32_t            ndim;                    /**< 0 = any, n = exactly n, CAI_SCALAR = exactly 0; or a range: */
    int32_t            min_ndim, max_ndim;      /**< 0 = no bound */
    int64_t            shape[CAI_REQUEST_NDIM]; /**< per dimension that the array has: 0 = any, n > 0 = exactly n,
                                                     CAI_EXTENT(k), CAI_EMPTY_EXTENT */
    uint32_t           require;                 /**< CAI_WRITABLE, CAI_C_CONTIGUOUS … */
    uint32_t           memory;                  /**< CAI_ON_CUDA …; 0 = CUDA and managed, with CAI_NO_CUDA the host */
    uint32_t           protocols;               /**< CAI_VIA_DLPACK …; 0 = all */
} cai_request_t;

/** What the arguments of one call have in common. All zero at the start of the call. */
typedef struct cai_shared {
    const cai_tensor_t *first;                        /**< argument 0, once it is known */
    uint32_t            known;                        /**< bit k: extents[k] is set */
    int64_t             extents[CAI_REQUEST_EXTENTS]; /**< values of CAI_EXTENT(k) */
} cai_shared_t;

/** A request of zeros with a name (static storage, or one that outlives the request). */
CAI_API cai_request_t cai_request(const char *name);
/** The `memory` of the request with its default filled in. */
CAI_API uint32_t cai_request_memory(const cai_request_t *request);
/** The CAI_ON_… bit of a device type; 0 for kinds of memory that cai does not handle. */
CAI_API uint32_t cai_device_memory(int32_t device_type);
/** "CUDA", "host", "pinned host" …: a kind of device in words; "device type 42" is written to `text` (32 bytes). */
CAI_API const char *cai_device_words(int32_t device_type, char *text) CAI_IMPL_SELDOM;

/**
 * Check a sound tensor (cai_tensor_validate) against a request. `flags` are the tensor's (CAI_READONLY). `shared` (NULL:
 * the argument stands alone) is compared and filled; arguments are checked in their order, and after a failure from the
 * first one again, with a new `shared`. On failure the status says which wish was not met, in the order memory, dtype,
 * likeness to argument 0 in these, shape, layout, writable, and `error` (may be NULL) has the whole message:
 * "argument 'x': expected float32, 2-d; got float64, shape (3, 4)".
 */
CAI_API CAI_NODISCARD cai_status_t cai_request_check(const cai_request_t *request, const cai_tensor_t *tensor,
                                                     uint32_t flags, cai_shared_t *shared, cai_error_t *error);

/**
 * The message of a refusal alone: what `request` wished and what came, for a failed check that returned `status`.
 * `source` (may be NULL) is added in brackets: "cupy.ndarray via DLPack". Returns `status`.
 */
CAI_API cai_status_t cai_request_explain(const cai_request_t *request, const cai_tensor_t *tensor, uint32_t flags,
                                         const cai_shared_t *shared, cai_status_t status, const char *source,
                                         cai_error_t *error) CAI_IMPL_SELDOM;

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

CAI_API cai_request_t cai_request(const char *name)
{
    cai_request_t request;
    memset(&request, 0, sizeof(request));
    request.name = name;
    return request;
}

CAI_API uint32_t cai_request_memory(const cai_request_t *request)
{
    if (request->memory != 0)
        return request->memory;
#if defined(CAI_NO_CUDA)
    return CAI_ON_HOST;
#else
    return CAI_ON_CUDA | CAI_ON_MANAGED;
#endif
}

CAI_API uint32_t cai_device_memory(int32_t device_type)
{
    static const uint8_t memory[CAI_DEVICE_CUDA_MANAGED + 1] = {
        0, CAI_ON_HOST, CAI_ON_CUDA, CAI_ON_PINNED, 0, 0, 0, 0, 0, 0, 0, 0, 0, CAI_ON_MANAGED};
    const uint32_t index = CAI_IMPL_CAST(uint32_t, device_type);
    return index < sizeof(memory) ? memory[index] : 0;
}
CAI_IMPL_STATIC_ASSERT(CAI_DEVICE_CPU == 1 && CAI_DEVICE_CUDA == 2 && CAI_DEVICE_CUDA_HOST == 3 &&
                           CAI_DEVICE_CUDA_MANAGED == 13,
                       "the table of cai_device_memory is in the order of the device types");

CAI_API const char *cai_device_words(int32_t device_type, char *text)
{
    switch (device_type) {
    case CAI_DEVICE_CPU: return "host";
    case CAI_DEVICE_CUDA: return "CUDA";
    case CAI_DEVICE_CUDA_HOST: return "pinned host";
    case CAI_DEVICE_CUDA_MANAGED: return "managed";
    default: snprintf(text, 32, "device type %d", device_type); return text;
    }
}

/* ------------------------------------------------------------------------------------------------ the checks ---- */

/* Nothing shared yet. The extents are looked at only where `known` says so. */
CAI_IMPL void cai_impl_shared_begin(cai_shared_t *shared)
{
    shared->first = NULL;
    shared->known = 0;
}

CAI_IMPL bool cai_impl_any_dtype(const cai_request_t *request)
{
    return request->n_dtypes == 0 && request->dtype.bits == 0;
}

CAI_IMPL bool cai_impl_dtype_meets(const cai_request_t *request, cai_dtype_t wanted, cai_dtype_t dtype)
{
    return cai_dtype_equal(wanted, dtype) ||
           ((request->require & CAI_UINT8_AS_BOOL) != 0 && cai_dtype_equal(wanted, cai_bool()) &&
            cai_dtype_equal(dtype, cai_uint8()));
}

CAI_IMPL_ASIDE bool cai_impl_dtype_among(const cai_request_t *request, cai_dtype_t dtype)
{
    const int32_t      n = request->n_dtypes > 0 ? request->n_dtypes : 1;
    const cai_dtype_t *dtypes = request->n_dtypes > 0 ? request->dtypes : &request->dtype;
    if (cai_impl_any_dtype(request))
        return cai_dtype_is_plain(dtype) || (request->require & CAI_UNUSUAL_DTYPE_OK) != 0;
    for (int32_t i = 0; i < n; i++) {
        if (cai_impl_dtype_meets(request, dtypes[i], dtype))
            return true;
    }
    return false;
}

CAI_IMPL_HOT bool cai_impl_dtype_wanted(const cai_request_t *request, cai_dtype_t dtype)
{
    if (CAI_IMPL_LIKELY(request->n_dtypes == 0 && cai_dtype_equal(request->dtype, dtype)))
        return true;
    return cai_impl_dtype_among(request, dtype);
}

CAI_IMPL_HOT bool cai_impl_ndim_wanted(const cai_request_t *request, int32_t ndim)
{
    if (request->ndim != 0)
        return ndim == (request->ndim == CAI_SCALAR ? 0 : request->ndim);
    return ndim >= request->min_ndim && (request->max_ndim == 0 || ndim <= request->max_ndim);
}

/* One extent against one wish that is more than the extent itself; shared extents are set by whoever comes first. */
CAI_IMPL_ASIDE bool cai_impl_extent_wanted(int64_t wish, int64_t extent, cai_shared_t *shared)
{
    uint32_t k;
    if (wish > 0)
        return false;
    if (wish == CAI_EMPTY_EXTENT)
        return extent == 0;
    if (wish < CAI_EXTENT(CAI_REQUEST_EXTENTS - 1))
        return false;
    k = CAI_IMPL_CAST(uint32_t, CAI_EXTENT(0) - wish);
    if ((shared->known >> k & 1u) != 0)
        return shared->extents[k] == extent;
    shared->known |= 1u << k;
    shared->extents[k] = extent;
    return true;
}

CAI_IMPL_HOT bool cai_impl_extents_wanted(const cai_request_t *request, const cai_tensor_t *tensor,
                                          cai_shared_t *shared)
{
    const int32_t ndim = tensor->ndim < CAI_REQUEST_NDIM ? tensor->ndim : CAI_REQUEST_NDIM;
    for (int32_t i = 0; i < ndim; i++) {
        const int64_t wish = request->shape[i], extent = tensor->shape[i];
        if (wish != 0 && wish != extent && !cai_impl_extent_wanted(wish, extent, shared))
            return false;
    }
    return true;
}

CAI_IMPL_ASIDE bool cai_impl_same_shape(const cai_tensor_t *a, const cai_tensor_t *b)
{
    return a->ndim == b->ndim &&
           (a->ndim == 0 || memcmp(a->shape, b->shape, CAI_IMPL_CAST(size_t, a->ndim) * sizeof(*a->shape)) == 0);
}

/* The wishes that a C-contiguous array meets by itself, but for CAI_F_CONTIGUOUS. */
CAI_IMPL_COLD bool cai_impl_layout_meets(uint32_t require, const cai_tensor_t *tensor, const cai_impl_layout_t *layout)
{
    if ((require & CAI_C_CONTIGUOUS) != 0 && !layout->c_contiguous)
        return false;
    if ((require & CAI_F_CONTIGUOUS) != 0 && !cai_tensor_is_f_contiguous(tensor))
        return false;
    if ((require & CAI_CONTIGUOUS) != 0 && !layout->c_contiguous && !cai_tensor_is_f_contiguous(tensor))
        return false;
    if ((require & CAI_NO_SELF_OVERLAP) != 0 && cai_tensor_may_self_overlap(tensor))
        return false;
    return (require & CAI_NO_NEGATIVE_STRIDES) == 0 || !cai_tensor_has_negative_strides(tensor);
}

CAI_IMPL_HOT bool cai_impl_layout_wanted(const cai_request_t *request, const cai_tensor_t *tensor,
                                         const cai_impl_layout_t *layout)
{
    const uint32_t require = request->require;
    const uint32_t dense = CAI_F_CONTIGUOUS; /* what a C-contiguous array may fail in, and one with gaps: */
    const uint32_t gaps = CAI_C_CONTIGUOUS | CAI_F_CONTIGUOUS | CAI_CONTIGUOUS | CAI_NO_SELF_OVERLAP |
                          CAI_NO_NEGATIVE_STRIDES;
    if (layout->size == 0)
        return true;
    if (CAI_IMPL_UNLIKELY(!cai_tensor_is_aligned(tensor)) && (require & CAI_UNALIGNED_OK) == 0)
        return false;
    if (CAI_IMPL_LIKELY((require & (layout->c_contiguous ? dense : gaps)) == 0))
        return true;
    return cai_impl_layout_meets(require, tensor, layout);
}

CAI_IMPL bool cai_impl_is_host(const cai_tensor_t *tensor)
{
    return tensor->device.device_type == CAI_DEVICE_CPU;
}

/* What the elements have to be, and where. An array may look better in these by another protocol. */
CAI_IMPL_HOT cai_status_t cai_impl_check_kind(const cai_request_t *request, const cai_tensor_t *tensor)
{
    if (CAI_IMPL_UNLIKELY((cai_device_memory(tensor->device.device_type) & cai_request_memory(request)) == 0))
        return CAI_ERROR_DEVICE_MISMATCH;
    return CAI_IMPL_LIKELY(cai_impl_dtype_wanted(request, tensor->dtype)) ? CAI_OK : CAI_ERROR_DTYPE_MISMATCH;
}

/* What it has to be like argument 0 in, other than the shape. */
CAI_IMPL_ASIDE cai_status_t cai_impl_check_likeness(uint32_t require, const cai_tensor_t *tensor,
                                                    const cai_tensor_t *first)
{
    if (CAI_IMPL_UNLIKELY((require & CAI_SAME_DEVICE) != 0 && cai_impl_is_host(tensor) != cai_impl_is_host(first)))
        return CAI_ERROR_DEVICE_MISMATCH;
    if (CAI_IMPL_UNLIKELY((require & CAI_SAME_DTYPE) != 0 && !cai_dtype_equal(tensor->dtype, first->dtype)))
        return CAI_ERROR_DTYPE_MISMATCH;
    return CAI_OK;
}

CAI_IMPL_HOT bool cai_impl_shape_wanted(const cai_request_t *request, const cai_tensor_t *tensor, int64_t size,
                                        const cai_tensor_t *first, cai_shared_t *shared)
{
    if (CAI_IMPL_UNLIKELY(size == 0) && (request->require & CAI_NONEMPTY) != 0)
        return false;
    if ((request->require & CAI_SAME_SHAPE) != 0 && !cai_impl_same_shape(tensor, first))
        return false;
    return cai_impl_ndim_wanted(request, tensor->ndim) && cai_impl_extents_wanted(request, tensor, shared);
}

/* Everything else, by itself and beside the arguments before it. */
CAI_IMPL_HOT cai_status_t cai_impl_check_form(const cai_request_t *request, const cai_tensor_t *tensor, uint32_t flags,
                                              const cai_impl_layout_t *layout, cai_shared_t *shared)
{
    const cai_tensor_t *first = shared->first != NULL ? shared->first : tensor;
    const uint32_t      known = shared->known;
    cai_status_t        status = CAI_OK;
    if (CAI_IMPL_UNLIKELY((request->require & (CAI_SAME_DEVICE | CAI_SAME_DTYPE)) != 0))
        status = cai_impl_check_likeness(request->require, tensor, first);
    if (CAI_IMPL_UNLIKELY(status != CAI_OK))
        return status;
    if (CAI_IMPL_UNLIKELY(!cai_impl_shape_wanted(request, tensor, layout->size, first, shared)))
        status = CAI_ERROR_INVALID_SHAPE;
    else if (CAI_IMPL_UNLIKELY(!cai_impl_layout_wanted(request, tensor, layout)))
        status = CAI_ERROR_LAYOUT_MISMATCH;
    else if (CAI_IMPL_UNLIKELY((request->require & CAI_WRITABLE) != 0 && (flags & CAI_READONLY) != 0))
        status = CAI_ERROR_READ_ONLY_ACCESS;
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        shared->first = first;
    else if (status != CAI_ERROR_INVALID_SHAPE)
        shared->known = known; /* the message shows extents that were wished, and not those that it brings itself */
    return status;
}

CAI_API cai_status_t cai_request_check(const cai_request_t *request, const cai_tensor_t *tensor, uint32_t flags,
                                       cai_shared_t *shared, cai_error_t *error)
{
    cai_shared_t      alone;
    cai_impl_layout_t layout;
    cai_status_t      status;
    if (shared == NULL) {
        cai_impl_shared_begin(&alone);
        shared = &alone;
    }
    layout.size = cai_tensor_size(tensor);
    layout.nbytes = cai_tensor_nbytes(tensor);
    layout.c_contiguous = cai_tensor_is_c_contiguous(tensor);
    status = cai_impl_check_kind(request, tensor);
    if (status == CAI_OK)
        status = cai_impl_check_form(request, tensor, flags, &layout, shared);
    return status == CAI_OK ? CAI_OK : cai_request_explain(request, tensor, flags, shared, status, NULL, error);
}

/* ----------------------------------------------------------------------------------------------- the message ---- */

/* A list of phrases under construction: "float32, 2-d, writable". */
typedef struct cai_impl_phrases {
    cai_impl_text_t *text;
    bool             started;
} cai_impl_phrases_t;

CAI_IMPL_COLD CAI_IMPL_PRINTF(2, 3) void cai_impl_phrase(cai_impl_phrases_t *phrases, const char *format, ...)
{
    va_list arguments;
    if (phrases->started)
        cai_impl_text_add(phrases->text, ", ");
    phrases->started = true;
    va_start(arguments, format);
    cai_impl_text_add_list(phrases->text, format, arguments);
    va_end(arguments);
}

CAI_IMPL_COLD void cai_impl_add_integers(cai_impl_text_t *text, const int64_t *values, int32_t n)
{
    cai_impl_text_add(text, "(");
    for (int32_t i = 0; i < n; i++)
        cai_impl_text_add(text, i == 0 ? "%lld" : ", %lld", CAI_IMPL_CAST(long long, values[i]));
    cai_impl_text_add(text, n == 1 ? ",)" : ")");
}

CAI_IMPL void cai_impl_phrase_dtypes(cai_impl_phrases_t *phrases, const cai_request_t *request)
{
    const cai_dtype_t *dtypes = request->n_dtypes > 0 ? request->dtypes : &request->dtype;
    const int32_t      n = request->n_dtypes > 0 ? request->n_dtypes : 1;
    char               name[CAI_DTYPE_NAME_SIZE];
    if (cai_impl_any_dtype(request))
        return;
    cai_impl_phrase(phrases, "%s", cai_dtype_name(dtypes[0], name));
    for (int32_t i = 1; i < n; i++)
        cai_impl_text_add(phrases->text, i + 1 < n ? ", %s" : " or %s", cai_dtype_name(dtypes[i], name));
}

CAI_IMPL void cai_impl_phrase_ndim(cai_impl_phrases_t *phrases, const cai_request_t *request)
{
    if (request->ndim != 0)
        cai_impl_phrase(phrases, "%d-d", request->ndim == CAI_SCALAR ? 0 : request->ndim);
    else if (request->min_ndim > 0 && request->max_ndim > 0)
        cai_impl_phrase(phrases, "%d- to %d-d", request->min_ndim, request->max_ndim);
    else if (request->min_ndim > 0)
        cai_impl_phrase(phrases, "at least %d-d", request->min_ndim);
    else if (request->max_ndim > 0)
        cai_impl_phrase(phrases, "at most %d-d", request->max_ndim);
}

CAI_IMPL void cai_impl_add_wished_extent(cai_impl_text_t *text, int64_t wish, const cai_shared_t *shared)
{
    const long long k = CAI_IMPL_CAST(long long, CAI_EXTENT(0) - wish);
    if (wish == 0)
        cai_impl_text_add(text, "*");
    else if (wish > 0)
        cai_impl_text_add(text, "%lld", CAI_IMPL_CAST(long long, wish));
    else if (wish == CAI_EMPTY_EXTENT)
        cai_impl_text_add(text, "0");
    else if (k >= CAI_REQUEST_EXTENTS)
        cai_impl_text_add(text, "CAI_EXTENT(%lld), which must be less than %d", k, CAI_REQUEST_EXTENTS);
    else if (shared != NULL && (shared->known >> k & 1u) != 0)
        cai_impl_text_add(text, "n%lld=%lld", k, CAI_IMPL_CAST(long long, shared->extents[k]));
    else
        cai_impl_text_add(text, "n%lld", k);
}

CAI_IMPL void cai_impl_phrase_shape(cai_impl_phrases_t *phrases, const cai_request_t *request,
                                    const cai_shared_t *shared)
{
    int32_t n = CAI_REQUEST_NDIM;
    while (n > 0 && request->shape[n - 1] == 0)
        n--;
    if (n == 0)
        return;
    if (request->ndim > n)
        n = request->ndim < CAI_REQUEST_NDIM ? request->ndim : CAI_REQUEST_NDIM;
    cai_impl_phrase(phrases, "shape (");
    for (int32_t i = 0; i < n; i++) {
        cai_impl_text_add(phrases->text, i == 0 ? "" : ", ");
        cai_impl_add_wished_extent(phrases->text, request->shape[i], shared);
    }
    cai_impl_text_add(phrases->text, request->ndim == 0 ? ", ...)" : n == 1 ? ",)" : ")");
}

CAI_IMPL void cai_impl_phrase_first(cai_impl_phrases_t *phrases, const cai_request_t *request,
                                    const cai_shared_t *shared)
{
    const cai_tensor_t *first = shared == NULL ? NULL : shared->first;
    char                text[CAI_DTYPE_NAME_SIZE];
    if (first == NULL)
        return;
    if ((request->require & CAI_SAME_DTYPE) != 0)
        cai_impl_phrase(phrases, "the dtype of the first argument (%s)", cai_dtype_name(first->dtype, text));
    if ((request->require & CAI_SAME_SHAPE) != 0) {
        cai_impl_phrase(phrases, "the shape of the first argument ");
        cai_impl_add_integers(phrases->text, first->shape, first->ndim);
    }
    if ((request->require & CAI_SAME_DEVICE) != 0)
        cai_impl_phrase(phrases, "%s memory like the first argument", cai_impl_is_host(first) ? "host" : "CUDA");
}

CAI_IMPL void cai_impl_phrase_layout(cai_impl_phrases_t *phrases, const cai_request_t *request)
{
    const uint32_t require = request->require;
    if ((require & CAI_C_CONTIGUOUS) != 0)
        cai_impl_phrase(phrases, "C-contiguous");
    if ((require & CAI_F_CONTIGUOUS) != 0)
        cai_impl_phrase(phrases, "Fortran-contiguous");
    if ((require & CAI_CONTIGUOUS) != 0)
        cai_impl_phrase(phrases, "contiguous");
    if ((require & CAI_NO_NEGATIVE_STRIDES) != 0)
        cai_impl_phrase(phrases, "no negative strides");
    if ((require & CAI_NO_SELF_OVERLAP) != 0)
        cai_impl_phrase(phrases, "no element reached by two indices");
    if ((require & CAI_NONEMPTY) != 0)
        cai_impl_phrase(phrases, "not empty");
    if ((require & CAI_WRITABLE) != 0)
        cai_impl_phrase(phrases, "writable");
}

CAI_IMPL_COLD void cai_impl_phrase_memory(cai_impl_phrases_t *phrases, uint32_t memory)
{
    static const char *const names[] = {"CUDA", "managed", "pinned host", "host"};
    bool                     started = false;
    cai_impl_phrase(phrases, "in ");
    for (uint32_t i = 0; i < 4; i++) {
        if ((memory >> i & 1u) != 0)
            cai_impl_text_add(phrases->text, started ? " or %s" : "%s", names[i]);
        started |= (memory >> i & 1u) != 0;
    }
    cai_impl_text_add(phrases->text, " memory");
}

CAI_IMPL void cai_impl_add_wish(cai_impl_text_t *text, const cai_request_t *request, const cai_tensor_t *tensor,
                                const cai_shared_t *shared, cai_status_t status)
{
    cai_impl_phrases_t phrases;
    phrases.text = text;
    phrases.started = false;
    cai_impl_phrase_dtypes(&phrases, request);
    cai_impl_phrase_ndim(&phrases, request);
    cai_impl_phrase_shape(&phrases, request, shared);
    cai_impl_phrase_first(&phrases, request, shared);
    cai_impl_phrase_layout(&phrases, request);
    if (status == CAI_ERROR_DEVICE_MISMATCH &&
        (cai_device_memory(tensor->device.device_type) & cai_request_memory(request)) == 0)
        cai_impl_phrase_memory(&phrases, cai_request_memory(request));
    if (status == CAI_ERROR_LAYOUT_MISMATCH && !cai_tensor_is_aligned(tensor))
        cai_impl_phrase(&phrases, "aligned to %lld bytes",
                        CAI_IMPL_CAST(long long, cai_dtype_alignment(tensor->dtype)));
    if (status == CAI_ERROR_DTYPE_MISMATCH && cai_impl_any_dtype(request) && !cai_dtype_is_plain(tensor->dtype))
        cai_impl_phrase(&phrases, "a plain data type");
    if (!phrases.started)
        cai_impl_phrase(&phrases, "an array");
}

CAI_IMPL void cai_impl_add_found(cai_impl_text_t *text, const cai_tensor_t *tensor, uint32_t flags, cai_status_t status)
{
    cai_impl_phrases_t phrases;
    char               name[CAI_DTYPE_NAME_SIZE];
    phrases.text = text;
    phrases.started = false;
    cai_impl_phrase(&phrases, "%s", cai_dtype_name(tensor->dtype, name));
    cai_impl_phrase(&phrases, "shape ");
    cai_impl_add_integers(text, tensor->shape, tensor->ndim);
    if (!cai_tensor_is_c_contiguous(tensor)) {
        cai_impl_phrase(&phrases, "strides ");
        cai_impl_add_integers(text, tensor->strides, tensor->ndim);
    }
    if ((flags & CAI_READONLY) != 0)
        cai_impl_phrase(&phrases, "read-only");
    if (status == CAI_ERROR_DEVICE_MISMATCH)
        cai_impl_phrase(&phrases, "in %s memory", cai_device_words(tensor->device.device_type, name));
    if (status == CAI_ERROR_LAYOUT_MISMATCH && !cai_tensor_is_aligned(tensor))
        cai_impl_phrase(&phrases, "at address 0x%llx", CAI_IMPL_BITS(unsigned long long, cai_tensor_data(tensor)));
    if (status == CAI_ERROR_DTYPE_MISMATCH && tensor->dtype.code == CAI_CODE_OPAQUE)
        cai_impl_text_add(text, " (bytes without a meaning: bfloat16 and float8 have no typestr, DLPack carries them)");
}

CAI_IMPL_COLD void cai_impl_add_argument(cai_impl_text_t *text, const cai_request_t *request)
{
    if (request->name == NULL)
        cai_impl_text_add(text, "array: ");
    else
        cai_impl_text_add(text, "argument '%s': ", request->name);
}

CAI_API cai_status_t cai_request_explain(const cai_request_t *request, const cai_tensor_t *tensor, uint32_t flags,
                                         const cai_shared_t *shared, cai_status_t status, const char *source,
                                         cai_error_t *error)
{
    cai_impl_text_t text;
    if (error == NULL)
        return status;
    (void)cai_error_set(error, status, "%s", "");
    text = cai_impl_text_begin(error->message, sizeof(error->message));
    cai_impl_add_argument(&text, request);
    cai_impl_text_add(&text, "expected ");
    cai_impl_add_wish(&text, request, tensor, shared, status);
    cai_impl_text_add(&text, "; got ");
    cai_impl_add_found(&text, tensor, flags, status);
    if (source != NULL)
        cai_impl_text_add(&text, " (%s)", source);
    return status;
}

#endif /* CAI_REQUEST_H */
