/*
 * Checks tensor.h: validation of tensors of unknown origin, and sizes, contiguity and overlap against brute force.
 */
#include <cai/tensor.h>

#include "unit.h"
#include "unit_random.h"

#include <stdlib.h>

TestSuite(tensor, .timeout = UNIT_TIMEOUT);

/* Dimensions that the tables use. */
#define ROW_NDIM 5

#define TERA (INT64_C(1) << 40)
#define FAR  (INT64_C(1) << 62)

/* An address that is never dereferenced, aligned to everything. */
#define ADDRESS ((void *)UINT64_C(0x7F0000001000))

/* The row's shape and strides, and behind them what must not be looked at. */
static void fill_arrays(int32_t ndim, const int64_t *row_shape, const int64_t *row_strides, int64_t *shape,
                        int64_t *strides)
{
    for (int i = 0; i < ROW_NDIM; i++) {
        shape[i] = i < ndim ? row_shape[i] : 7;
        strides[i] = i < ndim ? row_strides[i] : -7;
    }
}

static cai_tensor_t make_tensor(void *data, cai_dtype_t dtype, int32_t ndim, int64_t *shape, int64_t *strides)
{
    cai_tensor_t tensor;
    memset(&tensor, 0, sizeof(tensor));
    tensor.data = data;
    tensor.device.device_type = CAI_DEVICE_CUDA;
    tensor.dtype = dtype;
    tensor.ndim = ndim;
    tensor.shape = shape;
    tensor.strides = strides;
    return tensor;
}

/* ---- validation -------------------------------------------------------------------------------------------------- */

typedef struct validate_case {
    const char  *name;
    cai_status_t status;
    cai_dtype_t  dtype;
    int32_t      ndim;
    int64_t      shape[ROW_NDIM];
    bool         strided; /* whether there are strides */
    int64_t      strides[ROW_NDIM];
    uint64_t     data, byte_offset;
} validate_case_t;

#define AT UINT64_C(0x7F0000001000)

static const validate_case_t validations[] = {
    {"one number", CAI_OK, CAI_FLOAT32, 0, {0}, false, {0}, AT, 0},
    {"one number with strides", CAI_OK, CAI_FLOAT32, 0, {0}, true, {0}, AT, 0},
    {"vector", CAI_OK, CAI_FLOAT32, 1, {3}, false, {0}, AT, 0},
    {"vector with strides", CAI_OK, CAI_FLOAT32, 1, {3}, true, {1}, AT, 0},
    {"matrix", CAI_OK, CAI_FLOAT64, 2, {3, 4}, true, {4, 1}, AT, 16},
    {"transposed", CAI_OK, CAI_FLOAT64, 2, {3, 4}, true, {1, 3}, AT, 0},
    {"reversed", CAI_OK, CAI_FLOAT64, 2, {3, 4}, true, {-4, -1}, AT, 0},
    {"broadcast", CAI_OK, CAI_FLOAT64, 2, {3, 4}, true, {0, 0}, AT, 0},
    {"odd address", CAI_OK, CAI_FLOAT64, 1, {3}, true, {1}, AT + 1, 0},
    {"odd offset", CAI_OK, CAI_FLOAT64, 1, {3}, true, {1}, AT, 3},
    {"vector dtype", CAI_OK, {CAI_CODE_FLOAT, 32, 4}, 1, {3}, true, {1}, AT, 0},
    {"opaque", CAI_OK, CAI_OPAQUE(12), 1, {3}, true, {1}, AT, 0},
    {"sub-byte", CAI_OK, CAI_INT4, 1, {3}, true, {1}, AT, 0},
    {"the first byte", CAI_OK, CAI_UINT8, 1, {1}, true, {1}, 1, 0},

    /* the data type */
    {"unknown code", CAI_ERROR_UNKNOWN_DTYPE, {99, 8, 1}, 1, {3}, true, {1}, AT, 0},
    {"unknown width", CAI_ERROR_UNKNOWN_DTYPE, {CAI_CODE_FLOAT, 24, 1}, 1, {3}, true, {1}, AT, 0},
    {"no lanes", CAI_ERROR_UNKNOWN_DTYPE, {CAI_CODE_FLOAT, 32, 0}, 1, {3}, true, {1}, AT, 0},
    {"no bits", CAI_ERROR_UNKNOWN_DTYPE, {CAI_CODE_FLOAT, 0, 1}, 1, {3}, true, {1}, AT, 0},
    {"opaque without bytes", CAI_ERROR_UNKNOWN_DTYPE, CAI_OPAQUE(0), 1, {3}, true, {1}, AT, 0},
    {"unknown code, empty", CAI_ERROR_UNKNOWN_DTYPE, {99, 8, 1}, 1, {0}, true, {1}, AT, 0},

    /* dimensions and extents */
    {"-1 dimensions", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, -1, {3}, true, {1}, AT, 0},
    {"65 dimensions", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 65, {3}, true, {1}, AT, 0},
    {"INT32_MIN dimensions", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, INT32_MIN, {3}, true, {1}, AT, 0},
    {"INT32_MAX dimensions", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, INT32_MAX, {3}, true, {1}, AT, 0},
    {"negative extent", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 1, {-1}, true, {1}, AT, 0},
    {"negative extent first", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 3, {-1, 2, 3}, true, {6, 3, 1}, AT, 0},
    {"negative extent last", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 3, {2, 3, -1}, true, {3, 1, 1}, AT, 0},
    {"two negative extents", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 2, {-2, -3}, true, {3, 1}, AT, 0},
    {"smallest extent", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 1, {INT64_MIN}, true, {1}, AT, 0},
    {"negative extent, empty before", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 2, {0, -1}, true, {1, 1}, AT, 0},
    {"negative extent, empty behind", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 2, {-1, 0}, true, {1, 1}, AT, 0},
    {"negative extent, no strides", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 2, {-1, 3}, false, {0}, AT, 0},
    {"negative extent, NULL", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 2, {0, -1}, true, {1, 1}, 0, 0},

    /* products */
    {"2^62 bytes", CAI_OK, CAI_UINT8, 1, {FAR}, true, {1}, AT, 0},
    {"2^63 - 1 bytes", CAI_OK, CAI_UINT8, 1, {INT64_MAX}, true, {1}, AT, 0},
    {"2^63 - 1 bytes, no strides", CAI_OK, CAI_UINT8, 1, {INT64_MAX}, false, {0}, AT, 0},
    {"2^63 bytes", CAI_ERROR_INVALID_SHAPE, CAI_UINT8, 2, {FAR, 2}, true, {2, 1}, AT, 0},
    {"2^63 bytes, no strides", CAI_ERROR_INVALID_SHAPE, CAI_UINT8, 2, {FAR, 2}, false, {0}, AT, 0},
    {"2^64 bytes", CAI_ERROR_INVALID_SHAPE, CAI_UINT8, 2, {INT64_C(1) << 32, INT64_C(1) << 32}, true, {0, 0}, AT, 0},
    {"2^120 bytes", CAI_ERROR_INVALID_SHAPE, CAI_UINT8, 3, {TERA, TERA, TERA}, true, {0, 0, 0}, AT, 0},
    {"2^63 bytes by the item", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT64, 1, {INT64_C(1) << 60}, true, {1}, AT, 0},
    {"just less by the item", CAI_OK, CAI_FLOAT64, 1, {(INT64_C(1) << 60) - 1}, true, {1}, AT, 0},
    {"broadcast beyond", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT64, 1, {INT64_MAX}, true, {0}, AT, 0},
    {"wraps to a small size", CAI_ERROR_INVALID_SHAPE, CAI_UINT8, 2, {FAR, 4}, true, {0, 0}, AT, 0},
    {"wraps negatively", CAI_ERROR_INVALID_SHAPE, CAI_UINT8, 2, {3, FAR}, true, {0, 0}, AT, 0},
    {"wraps by lanes", CAI_ERROR_INVALID_SHAPE, CAI_OPAQUE(65535), 1, {INT64_C(1) << 48}, true, {1}, AT, 0},

    /* an extent of 0 hides an overflow, wherever it stands */
    {"empty", CAI_OK, CAI_FLOAT32, 1, {0}, true, {1}, AT, 0},
    {"empty, overflow before", CAI_OK, CAI_FLOAT32, 4, {TERA, TERA, TERA, 0}, true, {1, 1, 1, 1}, AT, 0},
    {"empty, overflow behind", CAI_OK, CAI_FLOAT32, 4, {0, TERA, TERA, TERA}, true, {1, 1, 1, 1}, AT, 0},
    {"empty, overflow around", CAI_OK, CAI_FLOAT32, 4, {TERA, TERA, 0, TERA}, true, {1, 1, 1, 1}, AT, 0},
    {"empty, no strides", CAI_OK, CAI_FLOAT32, 4, {0, TERA, TERA, TERA}, false, {0}, AT, 0},
    {"empty, last, no strides", CAI_OK, CAI_FLOAT32, 4, {TERA, TERA, TERA, 0}, false, {0}, AT, 0},
    {"empty, item too many", CAI_OK, CAI_FLOAT64, 2, {0, INT64_MAX}, true, {1, 1}, AT, 0},
    {"empty, any strides", CAI_OK, CAI_FLOAT32, 2, {0, 7}, true, {INT64_MAX, INT64_MIN}, AT, 0},
    {"empty, NULL", CAI_OK, CAI_FLOAT32, 1, {0}, true, {1}, 0, 0},
    {"empty, NULL and offset", CAI_OK, CAI_FLOAT32, 1, {0}, true, {1}, 0, 64},
    {"empty, no address", CAI_OK, CAI_FLOAT32, 1, {0}, true, {1}, UINT64_MAX, UINT64_MAX},
    {"empty, negative", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 4, {0, TERA, TERA, -1}, true, {1, 1, 1, 1}, AT, 0},

    /* an extent of 1 makes its stride meaningless */
    {"extent 1, largest stride", CAI_OK, CAI_FLOAT64, 2, {1, 3}, true, {INT64_MAX, 1}, AT, 0},
    {"extent 1, smallest stride", CAI_OK, CAI_FLOAT64, 2, {3, 1}, true, {1, INT64_MIN}, AT, 0},
    {"extents 1, any strides", CAI_OK, CAI_FLOAT64, 2, {1, 1}, true, {INT64_MIN, INT64_MAX}, AT, 0},

    /* reach */
    {"stride times extent", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 1, {3}, true, {FAR}, AT, 0},
    {"stride times extent, below", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 1, {4}, true, {-FAR}, AT, 0},
    {"stride times item", CAI_ERROR_INVALID_STRIDES, CAI_FLOAT64, 1, {2}, true, {INT64_C(1) << 60}, AT, 0},
    {"stride times item, below", CAI_ERROR_INVALID_STRIDES, CAI_FLOAT64, 1, {3}, true, {-(INT64_C(1) << 60)}, AT, 0},
    {"sum of reaches", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 2, {2, 2}, true, {FAR, FAR}, AT, 0},
    {"sum, below", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 3, {2, 2, 2}, true, {-FAR, -FAR, -1}, AT, 0},
    {"largest stride", CAI_ERROR_INVALID_STRIDES, CAI_FLOAT32, 1, {2}, true, {INT64_MAX}, AT, 0},
    {"smallest stride", CAI_ERROR_INVALID_STRIDES, CAI_FLOAT32, 1, {2}, true, {INT64_MIN}, AT, 0},
    {"wraps to a small stride", CAI_ERROR_INVALID_STRIDES, CAI_FLOAT32, 1, {2}, true, {FAR}, AT, 0},
    {"below the address space", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 1, {2}, true, {-INT64_C(0x7F0000001001)}, AT, 0},
    {"down to address 0", CAI_OK, CAI_UINT8, 1, {2}, true, {-INT64_C(0x7F0000001000)}, AT, 0},
    {"above the address space", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 1, {17}, true, {1}, UINT64_MAX - 15, 0},
    {"above, no strides", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 1, {17}, false, {0}, UINT64_MAX - 15, 0},
    {"at the end of the address space", CAI_OK, CAI_UINT8, 1, {15}, true, {1}, UINT64_MAX - 15, 0},
    {"item beyond the end", CAI_ERROR_INVALID_STRIDES, CAI_FLOAT64, 0, {0}, true, {0}, UINT64_MAX - 6, 0},
    {"offset wraps", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 1, {3}, true, {1}, AT, UINT64_MAX},
    {"offset wraps to NULL", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 1, {3}, true, {1}, AT, UINT64_MAX - AT + 1},
    {"large offset", CAI_OK, CAI_UINT8, 1, {3}, true, {1}, AT, TERA},
    {"offset, then below", CAI_OK, CAI_UINT8, 1, {4}, true, {-1}, 1, 2},
    {"offset, then too far below", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 1, {5}, true, {-1}, 1, 2},

    /* the address */
    {"NULL", CAI_ERROR_INCOMPLETE_INTERFACE, CAI_FLOAT32, 1, {3}, true, {1}, 0, 0},
    {"NULL, no strides", CAI_ERROR_INCOMPLETE_INTERFACE, CAI_FLOAT32, 1, {3}, false, {0}, 0, 0},
    {"NULL, 0-d", CAI_ERROR_INCOMPLETE_INTERFACE, CAI_FLOAT32, 0, {0}, false, {0}, 0, 0},
    {"NULL with an offset", CAI_ERROR_INCOMPLETE_INTERFACE, CAI_FLOAT32, 1, {3}, true, {1}, 0, 64},
};

static cai_tensor_t make_row(const validate_case_t *row, int64_t *shape, int64_t *strides)
{
    cai_tensor_t tensor = make_tensor((void *)row->data, row->dtype, row->ndim, shape, row->strided ? strides : NULL);
    memcpy(shape, row->shape, sizeof(row->shape));
    memcpy(strides, row->strides, sizeof(row->strides));
    tensor.byte_offset = row->byte_offset;
    return tensor;
}

Test(tensor, pitfall_16_validate)
{
    for (size_t i = 0; i < UNIT_COUNT(validations); i++) {
        const validate_case_t *row = &validations[i];
        int64_t                shape[ROW_NDIM], strides[ROW_NDIM];
        const cai_tensor_t     tensor = make_row(row, shape, strides);
        cai_error_t            error;
        cai_status_t           status;
        error.status = CAI_OK;
        status = cai_tensor_validate(&tensor, &error);
        cr_expect_eq(status, row->status, "%s: %s", row->name, cai_status_name(status));
        cr_expect_eq(error.status, row->status, "%s: %s in the error", row->name, cai_status_name(error.status));
        if (row->status != CAI_OK)
            cr_expect_neq(strlen(error.message), 0, "%s: no message", row->name);
        cr_expect_eq(cai_tensor_validate(&tensor, NULL), row->status, "%s: without an error", row->name);
        cr_expect_eq(memcmp(shape, row->shape, sizeof(shape)), 0, "%s: the shape was written to", row->name);
        cr_expect_eq(memcmp(strides, row->strides, sizeof(strides)), 0, "%s: the strides were written to", row->name);
    }
}

Test(tensor, pitfall_16_messages_say_what_is_wrong)
{
    int64_t      shape[2] = {3, -7}, strides[2] = {1, 1};
    cai_tensor_t tensor = make_tensor(ADDRESS, cai_float32(), 2, shape, strides);
    cai_error_t  error;
    cr_assert_eq(cai_tensor_validate(&tensor, &error), CAI_ERROR_INVALID_SHAPE);
    cr_expect_not_null(strstr(error.message, "dimension 1"), "%s", error.message);
    cr_expect_not_null(strstr(error.message, "-7"), "%s", error.message);
    tensor.ndim = 65;
    cr_assert_eq(cai_tensor_validate(&tensor, &error), CAI_ERROR_INVALID_SHAPE);
    cr_expect_not_null(strstr(error.message, "65"), "%s", error.message);
    tensor.ndim = -1;
    cr_assert_eq(cai_tensor_validate(&tensor, &error), CAI_ERROR_INVALID_SHAPE);
    cr_expect_not_null(strstr(error.message, "-1"), "%s", error.message);
    tensor.ndim = 2;
    tensor.dtype.code = 99;
    cr_assert_eq(cai_tensor_validate(&tensor, &error), CAI_ERROR_UNKNOWN_DTYPE);
    cr_expect_not_null(strstr(error.message, "code 99, 32 bits, 1 lanes"), "%s", error.message);
    tensor = make_tensor(NULL, cai_float32(), 0, NULL, NULL);
    cr_assert_eq(cai_tensor_validate(&tensor, &error), CAI_ERROR_INCOMPLETE_INTERFACE);
    cr_expect_not_null(strstr(error.message, "NULL pointer"), "%s", error.message);
    tensor = make_tensor(ADDRESS, cai_float32(), 3, NULL, NULL);
    cr_assert_eq(cai_tensor_validate(&tensor, &error), CAI_ERROR_INCOMPLETE_INTERFACE);
    cr_expect_not_null(strstr(error.message, "3 dimensions without a shape"), "%s", error.message);
}

/* The shape may be NULL exactly when there are no dimensions. */
Test(tensor, pitfall_31_null_shape)
{
    int64_t      strides[1] = {1};
    cai_tensor_t tensor = make_tensor(ADDRESS, cai_float32(), 0, NULL, NULL);
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_OK);
    tensor.ndim = 1;
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_ERROR_INCOMPLETE_INTERFACE);
    tensor.strides = strides;
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_ERROR_INCOMPLETE_INTERFACE);
    tensor.ndim = 64;
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_ERROR_INCOMPLETE_INTERFACE);
    tensor.ndim = 65;
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_ERROR_INVALID_SHAPE);
    tensor.ndim = -1;
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_ERROR_INVALID_SHAPE);
}

Test(tensor, pitfall_31_null_with_negative_strides)
{
    int64_t            shape[1] = {3}, strides[1] = {-1};
    const cai_tensor_t tensor = make_tensor(NULL, cai_float32(), 1, shape, strides);
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_ERROR_INCOMPLETE_INTERFACE);
}

Test(tensor, sixty_four_dimensions)
{
    int64_t      shape[CAI_MAX_NDIM], strides[CAI_MAX_NDIM];
    cai_tensor_t tensor = make_tensor(ADDRESS, cai_uint8(), CAI_MAX_NDIM, shape, strides);
    for (int i = 0; i < CAI_MAX_NDIM; i++)
        shape[i] = i < 62 ? 2 : 1;
    cai_c_contiguous_strides(CAI_MAX_NDIM, shape, strides);
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_OK);
    cr_expect_eq(cai_tensor_size(&tensor), INT64_C(1) << 62);
    cr_expect(cai_tensor_is_c_contiguous(&tensor));
    cr_expect_not(cai_tensor_is_f_contiguous(&tensor));
    cr_expect_not(cai_tensor_may_self_overlap(&tensor));
    tensor.strides = NULL;
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_OK);
    shape[62] = 2;
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_ERROR_INVALID_SHAPE);
    tensor.strides = strides;
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_ERROR_INVALID_SHAPE);
    shape[0] = 0;
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_OK);
}

/* Which refusals the specification allows: one bit for each status. A tensor with several faults may be refused for
 * any of them; whether one whose elements span more than 63 bits is a fault is left open. */
__extension__ typedef __int128 wide_t;

/* The product of a stride and an extent fits 128 bits, that with the item size need not: far is far enough. */
static wide_t clamp(wide_t value)
{
    const wide_t limit = (wide_t)1 << 80;
    return value > limit ? limit : value < -limit ? -limit : value;
}

static uint32_t allowed_refusals(const cai_tensor_t *tensor, bool *open)
{
    const wide_t itemsize = cai_dtype_itemsize(tensor->dtype);
    wide_t       size = 1, low = 0, high = 0, running = 1, address;
    uint32_t     allowed = 0;
    bool         negative = false, empty = false;
    *open = false;
    for (int i = 0; i < tensor->ndim; i++) {
        negative |= tensor->shape[i] < 0;
        empty |= tensor->shape[i] == 0;
    }
    if (!cai_dtype_is_known(tensor->dtype))
        allowed |= 1u << CAI_ERROR_UNKNOWN_DTYPE;
    if (negative)
        return allowed | 1u << CAI_ERROR_INVALID_SHAPE;
    if (empty)
        return allowed;
    for (int i = tensor->ndim - 1; i >= 0; i--) {
        const wide_t stride = tensor->strides != NULL ? tensor->strides[i] : running;
        const wide_t reach = clamp(stride * (tensor->shape[i] - 1)) * (itemsize > 0 ? itemsize : 1);
        if (size * tensor->shape[i] > INT64_MAX) {
            allowed |= 1u << CAI_ERROR_INVALID_SHAPE;
            size = INT64_MAX;
        } else {
            size *= tensor->shape[i];
        }
        running = size;
        *(reach < 0 ? &low : &high) += reach;
    }
    if (size * itemsize > INT64_MAX)
        allowed |= 1u << CAI_ERROR_INVALID_SHAPE;
    if (low < INT64_MIN || high > INT64_MAX)
        allowed |= 1u << CAI_ERROR_INVALID_STRIDES;
    *open = high - low + itemsize > INT64_MAX;
    address = (wide_t)(uint64_t)tensor->data + tensor->byte_offset;
    if (address > UINT64_MAX || address + low < 0 || address + high + itemsize > UINT64_MAX)
        allowed |= 1u << CAI_ERROR_INVALID_STRIDES;
    if (tensor->data == NULL)
        allowed |= 1u << CAI_ERROR_INCOMPLETE_INTERFACE;
    return allowed;
}

/* Extents and strides near every power of two, with signs; what is accepted must then answer every question. */
static int64_t edge_number(unit_random_t *random, bool any_sign)
{
    const int64_t kind = unit_random_between(random, 0, 9);
    int64_t       value;
    if (kind < 5)
        value = unit_random_between(random, 0, 4);
    else if (kind < 9)
        value = (int64_t)((UINT64_C(1) << unit_random_between(random, 0, 62)) - 1) + unit_random_between(random, 0, 2);
    else
        value = INT64_MAX;
    return any_sign && unit_random_between(random, 0, 3) == 0 ? -value : value;
}

static void ask_everything(const cai_tensor_t *tensor)
{
    static volatile int64_t answer; /* keeps the compiler from leaving a question out */
    int64_t                 low, high;
    answer = cai_tensor_size(tensor);
    answer = cai_tensor_nbytes(tensor);
    answer = (int64_t)(uint64_t)cai_tensor_data(tensor);
    answer = cai_tensor_is_c_contiguous(tensor);
    answer = cai_tensor_is_f_contiguous(tensor);
    answer = cai_tensor_is_aligned(tensor);
    answer = cai_tensor_has_negative_strides(tensor);
    answer = cai_tensor_may_self_overlap(tensor);
    answer = cai_tensors_may_overlap(tensor, tensor);
    cai_tensor_bounds(tensor, &low, &high);
    answer = low ^ high;
    (void)answer;
}

static const cai_dtype_t edge_dtypes[] = {CAI_UINT8, CAI_FLOAT32,       CAI_COMPLEX128,
                                          CAI_INT4,  CAI_OPAQUE(65535), {99, 8, 1}};
static const uint64_t    edge_addresses[] = {AT, AT + 3, 0, 1, UINT64_MAX - 64, UINT64_C(1) << 63};

/* Fills tensors from a fixed seed, and returns one of them at each call. */
static cai_tensor_t edge_tensor(unit_random_t *random, int64_t *shape, int64_t *strides)
{
    const size_t  n_dtypes = UNIT_COUNT(edge_dtypes), n_addresses = UNIT_COUNT(edge_addresses);
    const int32_t ndim = (int32_t)unit_random_between(random, 0, ROW_NDIM);
    const bool    signs = unit_random_between(random, 0, 9) == 0;
    cai_tensor_t  tensor = make_tensor(NULL, cai_float32(), ndim, shape, strides);
    tensor.dtype = edge_dtypes[unit_random_bits(random) % (n_dtypes + 4) % n_dtypes];
    tensor.data = (void *)edge_addresses[unit_random_bits(random) % (n_addresses + 12) % n_addresses];
    if (unit_random_between(random, 0, 3) == 0)
        tensor.byte_offset = (uint64_t)edge_number(random, true);
    for (int i = 0; i < ndim; i++) {
        shape[i] = edge_number(random, signs);
        strides[i] = edge_number(random, true);
    }
    if (unit_random_between(random, 0, 3) == 0)
        tensor.strides = NULL;
    return tensor;
}

Test(tensor, pitfall_16_validate_against_wide_arithmetic)
{
    unit_random_t random = {UINT64_C(0x9E3779B97F4A7C15)};
    size_t        accepted = 0;
    for (int round = 0; round < 200000; round++) {
        int64_t            shape[ROW_NDIM], strides[ROW_NDIM];
        const cai_tensor_t tensor = edge_tensor(&random, shape, strides);
        bool               open;
        const uint32_t     allowed = allowed_refusals(&tensor, &open);
        const cai_status_t status = cai_tensor_validate(&tensor, NULL);
        const bool         right = status == CAI_OK
                                       ? allowed == 0
                                       : (allowed >> status & 1u) != 0 || (open && status == CAI_ERROR_INVALID_STRIDES);
        accepted += status == CAI_OK;
        if (!right)
            cr_assert_fail("round %d: %s, but the refusals allowed are 0x%x", round, cai_status_name(status), allowed);
    }
    cr_expect_gt(accepted, 10000, "the rounds are of no use: %zu accepted", accepted);
}

/* What was accepted can be asked everything: nothing overflows (a sanitizer looks). */
Test(tensor, accepted_tensors_answer_every_question)
{
    unit_random_t random = {UINT64_C(0x9E3779B97F4A7C15)};
    for (int round = 0; round < 200000; round++) {
        int64_t            shape[ROW_NDIM], strides[ROW_NDIM];
        const cai_tensor_t tensor = edge_tensor(&random, shape, strides);
        if (cai_tensor_validate(&tensor, NULL) == CAI_OK)
            ask_everything(&tensor);
    }
}

Test(tensor, questions_do_not_overflow_where_an_extent_is_0)
{
    int64_t      shape[4] = {TERA, TERA, TERA, 0}, strides[4] = {1, 1, 1, 1};
    cai_tensor_t tensor = make_tensor(ADDRESS, cai_float32(), 4, shape, strides);
    cr_assert_eq(cai_tensor_validate(&tensor, NULL), CAI_OK);
    ask_everything(&tensor);
    tensor.strides = NULL;
    ask_everything(&tensor);
    shape[0] = 0;
    shape[3] = TERA;
    ask_everything(&tensor);
    tensor.strides = strides;
    ask_everything(&tensor);
}

Test(tensor, pitfall_31_questions_do_not_overflow_where_an_extent_is_1)
{
    int64_t      shape[2] = {1, 3}, strides[2] = {INT64_MIN, 1};
    cai_tensor_t tensor = make_tensor(ADDRESS, cai_float32(), 2, shape, strides);
    cr_assert_eq(cai_tensor_validate(&tensor, NULL), CAI_OK);
    ask_everything(&tensor);
    cr_expect_not(cai_tensor_may_self_overlap(&tensor));
    strides[0] = INT64_MAX;
    ask_everything(&tensor);
    cr_expect_not(cai_tensor_may_self_overlap(&tensor));
}

/* The last byte of the highest element may be the 2^63rd from the first. */
Test(tensor, bounds_at_the_limit_of_63_bits)
{
    int64_t      shape[1] = {2}, strides[1] = {(INT64_C(1) << 61) - 1}, low, high;
    cai_tensor_t tensor = make_tensor(ADDRESS, cai_float32(), 1, shape, strides);
    if (cai_tensor_validate(&tensor, NULL) != CAI_OK)
        return; /* refused: right as well */
    cai_tensor_bounds(&tensor, &low, &high);
    cr_expect_eq(low, 0);
    cr_expect_gt(high, 0, "an element lies %lld bytes above the first", (long long)high);
}

/* Below and above the first element there may be 2^63 bytes each. */
Test(tensor, self_overlap_at_the_limit_of_63_bits)
{
    int64_t      shape[2] = {2, 2}, strides[2] = {-(INT64_C(1) << 62), (INT64_C(1) << 62) + 1};
    cai_tensor_t tensor = make_tensor((void *)(UINT64_C(1) << 62), cai_uint8(), 2, shape, strides);
    if (cai_tensor_validate(&tensor, NULL) == CAI_OK)
        cr_expect_not(cai_tensor_may_self_overlap(&tensor));
}

/* ---- size and bounds --------------------------------------------------------------------------------------------- */

typedef struct extent_case {
    const char *name;
    cai_dtype_t dtype;
    int32_t     ndim;
    int64_t     shape[ROW_NDIM];
    bool        strided;
    int64_t     strides[ROW_NDIM];
    int64_t     size, nbytes, low, high;
} extent_case_t;

static const extent_case_t extents[] = {
    {"0-d", CAI_FLOAT32, 0, {0}, false, {0}, 1, 4, 0, 4},
    {"0-d with strides", CAI_FLOAT32, 0, {0}, true, {0}, 1, 4, 0, 4},
    {"vector", CAI_FLOAT32, 1, {3}, false, {0}, 3, 12, 0, 12},
    {"vector with strides", CAI_FLOAT32, 1, {3}, true, {1}, 3, 12, 0, 12},
    {"matrix", CAI_FLOAT64, 2, {3, 4}, true, {4, 1}, 12, 96, 0, 96},
    {"matrix, no strides", CAI_FLOAT64, 2, {3, 4}, false, {0}, 12, 96, 0, 96},
    {"transposed", CAI_FLOAT64, 2, {3, 4}, true, {1, 3}, 12, 96, 0, 96},
    {"sliced", CAI_INT16, 2, {3, 4}, true, {10, 2}, 12, 24, 0, 54},
    {"reversed", CAI_INT16, 1, {5}, true, {-1}, 5, 10, -8, 2},
    {"reversed rows", CAI_INT16, 2, {3, 4}, true, {-4, 1}, 12, 24, -16, 8},
    {"both reversed", CAI_INT16, 2, {3, 4}, true, {-4, -1}, 12, 24, -22, 2},
    {"broadcast", CAI_FLOAT32, 2, {3, 4}, true, {0, 1}, 12, 48, 0, 16},
    {"one value", CAI_FLOAT32, 2, {3, 4}, true, {0, 0}, 12, 48, 0, 4},
    {"extent 1, odd stride", CAI_FLOAT32, 2, {1, 3}, true, {-999, 1}, 3, 12, 0, 12},
    {"empty", CAI_FLOAT32, 2, {0, 4}, true, {4, 1}, 0, 0, 0, 0},
    {"empty behind", CAI_FLOAT32, 2, {4, 0}, true, {-7, 9}, 0, 0, 0, 0},
    {"empty, no strides", CAI_FLOAT32, 2, {4, 0}, false, {0}, 0, 0, 0, 0},
    {"lanes", {CAI_CODE_FLOAT, 32, 4}, 1, {3}, true, {1}, 3, 48, 0, 48},
    {"opaque", CAI_OPAQUE(12), 1, {3}, true, {2}, 3, 36, 0, 60},
    {"complex128", CAI_COMPLEX128, 1, {3}, true, {-2}, 3, 48, -64, 16},
    {"two of int4", CAI_INT4, 1, {2}, false, {0}, 2, 1, 0, 1},
    {"three of int4", CAI_INT4, 1, {3}, false, {0}, 3, 2, 0, 2},
    {"nine of int2", CAI_INT2, 1, {9}, false, {0}, 9, 3, 0, 3},
    {"four of float6", CAI_FLOAT6_E2M3FN, 1, {4}, false, {0}, 4, 3, 0, 3},
    {"five of float6", CAI_FLOAT6_E2M3FN, 1, {5}, false, {0}, 5, 4, 0, 4},
    {"eight of float6", CAI_FLOAT6_E3M2FN, 2, {4, 2}, false, {0}, 8, 6, 0, 6},
    {"three of float4x2", {CAI_CODE_FLOAT4_E2M1FN, 4, 2}, 1, {3}, false, {0}, 3, 3, 0, 3},
    {"no int4", CAI_INT4, 1, {0}, false, {0}, 0, 0, 0, 0},
};

Test(tensor, pitfall_05_size_and_bounds)
{
    for (size_t i = 0; i < UNIT_COUNT(extents); i++) {
        const extent_case_t *row = &extents[i];
        int64_t              shape[ROW_NDIM], strides[ROW_NDIM], low = 99, high = 99;
        cai_tensor_t         tensor = make_tensor(ADDRESS, row->dtype, row->ndim, shape, row->strided ? strides : NULL);
        fill_arrays(row->ndim, row->shape, row->strides, shape, strides);
        cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_OK, "%s", row->name);
        cr_expect_eq(cai_tensor_size(&tensor), row->size, "%s: size", row->name);
        cr_expect_eq(cai_tensor_nbytes(&tensor), row->nbytes, "%s: nbytes", row->name);
        cai_tensor_bounds(&tensor, &low, &high);
        cr_expect_eq(low, row->low, "%s: low is %lld", row->name, (long long)low);
        cr_expect_eq(high, row->high, "%s: high is %lld", row->name, (long long)high);
    }
}

/* Packed elements share bytes, whether their strides are given or not. */
Test(tensor, pitfall_33_bounds_of_packed_elements)
{
    int64_t      shape[1] = {5}, strides[1] = {1}, low, high;
    cai_tensor_t tensor = make_tensor(ADDRESS, cai_int4(), 1, shape, strides);
    cai_tensor_bounds(&tensor, &low, &high);
    cr_expect_eq(low, 0);
    cr_expect_eq(high, 3, "%lld", (long long)high);
}

Test(tensor, nbytes_of_large_packed_arrays)
{
    static const struct {
        cai_dtype_t dtype;
        int64_t     size, nbytes;
    } rows[] = {
        {CAI_INT4, INT64_MAX, INT64_C(1) << 62}, {CAI_INT4, INT64_MAX - 1, (INT64_C(1) << 62) - 1},
        {CAI_INT2, INT64_MAX, INT64_C(1) << 61}, {CAI_FLOAT6_E2M3FN, INT64_MAX, INT64_C(6917529027641081856)},
        {CAI_UINT8, INT64_MAX, INT64_MAX},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        int64_t            shape[1];
        const cai_tensor_t tensor = make_tensor(ADDRESS, rows[i].dtype, 1, shape, NULL);
        shape[0] = rows[i].size;
        cr_expect_eq(cai_tensor_nbytes(&tensor), rows[i].nbytes, "row %zu: %lld", i,
                     (long long)cai_tensor_nbytes(&tensor));
    }
}

/* Emptiness comes from the shape alone. */
Test(tensor, pitfall_01_size_of_empty_shapes)
{
    for (int where = 0; where < ROW_NDIM; where++) {
        int64_t      shape[ROW_NDIM] = {2, 3, 4, 5, 6}, strides[ROW_NDIM] = {0};
        cai_tensor_t tensor = make_tensor(NULL, cai_float32(), ROW_NDIM, shape, strides);
        shape[where] = 0;
        cr_expect_eq(cai_tensor_size(&tensor), 0, "%d", where);
        cr_expect_eq(cai_tensor_nbytes(&tensor), 0, "%d", where);
        shape[where] = 1;
        cr_expect_eq(cai_tensor_size(&tensor), 720 / (where + 2), "%d: strides of 0 make nothing empty", where);
    }
}

Test(tensor, pitfall_29_data_is_the_first_element)
{
    char         memory[64];
    int64_t      shape[1] = {3};
    cai_tensor_t tensor = make_tensor(memory, cai_float32(), 1, shape, NULL);
    cr_expect_eq(cai_tensor_data(&tensor), (void *)memory);
    tensor.byte_offset = 24;
    cr_expect_eq(cai_tensor_data(&tensor), (void *)(memory + 24));
    tensor.data = NULL;
    tensor.byte_offset = 0;
    cr_expect_null(cai_tensor_data(&tensor));
}

/* ---- contiguity -------------------------------------------------------------------------------------------------- */

typedef struct layout_case {
    const char *name;
    int32_t     ndim;
    int64_t     shape[ROW_NDIM];
    bool        strided;
    int64_t     strides[ROW_NDIM];
    bool        c, f, negative;
} layout_case_t;

static const layout_case_t layouts[] = {
    {"0-d", 0, {0}, true, {0}, true, true, false},
    {"0-d, no strides", 0, {0}, false, {0}, true, true, false},
    {"vector", 1, {3}, true, {1}, true, true, false},
    {"vector, no strides", 1, {3}, false, {0}, true, true, false},
    {"every second", 1, {3}, true, {2}, false, false, false},
    {"reversed", 1, {3}, true, {-1}, false, false, true},
    {"repeated", 1, {3}, true, {0}, false, false, false},
    {"matrix", 2, {3, 4}, true, {4, 1}, true, false, false},
    {"matrix, no strides", 2, {3, 4}, false, {0}, true, false, false},
    {"transposed", 2, {3, 4}, true, {1, 3}, false, true, false},
    {"square", 2, {3, 3}, true, {3, 1}, true, false, false},
    {"square, transposed", 2, {3, 3}, true, {1, 3}, false, true, false},
    {"gap between rows", 2, {3, 4}, true, {5, 1}, false, false, false},
    {"gap between columns", 2, {3, 4}, true, {1, 4}, false, false, false},
    {"rows overlap", 2, {3, 4}, true, {3, 1}, false, false, false},
    {"reversed rows", 2, {3, 4}, true, {-4, 1}, false, false, true},
    {"broadcast rows", 2, {3, 4}, true, {0, 1}, false, false, false},
    {"3-d C", 3, {2, 3, 4}, true, {12, 4, 1}, true, false, false},
    {"3-d F", 3, {2, 3, 4}, true, {1, 2, 6}, false, true, false},
    {"3-d neither", 3, {2, 3, 4}, true, {4, 8, 1}, false, false, false},
    {"3-d, no strides", 3, {2, 3, 4}, false, {0}, true, false, false},
    {"3-d C but the first", 3, {2, 3, 4}, true, {13, 4, 1}, false, false, false},
    {"3-d C but the second", 3, {2, 3, 4}, true, {12, 5, 1}, false, false, false},
    {"3-d C but the last", 3, {2, 3, 4}, true, {12, 4, 2}, false, false, false},
    {"3-d F but the first", 3, {2, 3, 4}, true, {2, 2, 6}, false, false, false},
    {"3-d F but the last", 3, {2, 3, 4}, true, {1, 2, 7}, false, false, false},
    /* extents of 1 */
    {"column", 2, {3, 1}, true, {1, 1}, true, true, false},
    {"column, odd stride", 2, {3, 1}, true, {1, 999}, true, true, false},
    {"column, negative stride", 2, {3, 1}, true, {1, -999}, true, true, false},
    {"column, no strides", 2, {3, 1}, false, {0}, true, true, false},
    {"row, odd stride", 2, {1, 3}, true, {-5, 1}, true, true, false},
    {"row with a gap", 2, {1, 3}, true, {3, 2}, false, false, false},
    {"ones", 3, {1, 1, 1}, true, {7, -8, 9}, true, true, false},
    {"ones between", 5, {1, 3, 1, 4, 1}, true, {0, 4, -1, 1, 77}, true, false, false},
    {"ones between, F", 5, {1, 3, 1, 4, 1}, true, {0, 1, -1, 3, 77}, false, true, false},
    /* no elements */
    {"empty", 1, {0}, true, {1}, true, true, false},
    {"empty, odd stride", 1, {0}, true, {17}, true, true, false},
    {"empty matrix", 2, {3, 0}, true, {99, 98}, true, true, false},
    {"empty matrix, first", 2, {0, 3}, true, {99, 98}, true, true, false},
    {"empty, no strides", 2, {0, 3}, false, {0}, true, true, false},
    {"empty in the middle", 3, {2, 0, 3}, true, {5, 5, 5}, true, true, false},
};

Test(tensor, pitfall_31_contiguity)
{
    for (size_t i = 0; i < UNIT_COUNT(layouts); i++) {
        const layout_case_t *row = &layouts[i];
        int64_t              shape[ROW_NDIM], strides[ROW_NDIM];
        cai_tensor_t tensor = make_tensor(ADDRESS, cai_float32(), row->ndim, shape, row->strided ? strides : NULL);
        fill_arrays(row->ndim, row->shape, row->strides, shape, strides);
        cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_OK, "%s", row->name);
        cr_expect_eq(cai_tensor_is_c_contiguous(&tensor), row->c, "%s: C", row->name);
        cr_expect_eq(cai_tensor_is_f_contiguous(&tensor), row->f, "%s: Fortran", row->name);
        cr_expect_eq(cai_tensor_has_negative_strides(&tensor), row->negative, "%s: negative", row->name);
    }
}

/* Strides of no elements mean nothing, so that none of them is negative. */
Test(tensor, pitfall_31_empty_arrays_have_no_negative_strides)
{
    int64_t            shape[2] = {0, 3}, strides[2] = {-3, -1};
    const cai_tensor_t tensor = make_tensor(NULL, cai_float32(), 2, shape, strides);
    cr_expect_not(cai_tensor_has_negative_strides(&tensor));
}

Test(tensor, strides_of_c_contiguous_shapes)
{
    static const struct {
        int32_t ndim;
        int64_t shape[ROW_NDIM], strides[ROW_NDIM];
    } rows[] = {
        {1, {7}, {1}},
        {2, {3, 4}, {4, 1}},
        {3, {2, 3, 4}, {12, 4, 1}},
        {4, {2, 1, 3, 1}, {3, 3, 1, 1}},
        {5, {6, 5, 4, 3, 2}, {120, 24, 6, 2, 1}},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        int64_t shape[ROW_NDIM], strides[ROW_NDIM];
        memset(strides, 0x5A, sizeof(strides));
        memcpy(shape, rows[i].shape, sizeof(shape));
        cai_c_contiguous_strides(rows[i].ndim, shape, strides);
        for (int j = 0; j < rows[i].ndim; j++) {
            if (shape[j] != 1)
                cr_expect_eq(strides[j], rows[i].strides[j], "row %zu, dimension %d", i, j);
        }
        for (int j = rows[i].ndim; j < ROW_NDIM; j++)
            cr_expect_eq(strides[j], INT64_C(0x5A5A5A5A5A5A5A5A), "row %zu: written behind the end", i);
    }
    cai_c_contiguous_strides(0, NULL, NULL);
}

Test(tensor, strides_of_empty_shapes_do_not_overflow)
{
    int64_t            shape[4] = {0, TERA, TERA, TERA}, strides[4];
    const cai_tensor_t tensor = make_tensor(NULL, cai_float64(), 4, shape, strides);
    cai_c_contiguous_strides(4, shape, strides);
    cr_expect_eq(cai_tensor_validate(&tensor, NULL), CAI_OK);
}

/* Contiguity from its definition: the offset of each element is its number in the order of the indices. */
static bool next_index(const cai_tensor_t *tensor, int64_t *index)
{
    for (int i = tensor->ndim - 1; i >= 0; i--) {
        if (++index[i] < tensor->shape[i])
            return true;
        index[i] = 0;
    }
    return false;
}

static int64_t offset_of(const cai_tensor_t *tensor, const int64_t *index)
{
    int64_t offset = 0;
    for (int i = 0; i < tensor->ndim; i++)
        offset += index[i] * tensor->strides[i];
    return offset;
}

static bool is_contiguous_by_force(const cai_tensor_t *tensor, bool fortran)
{
    int64_t index[ROW_NDIM] = {0};
    do {
        int64_t number = 0, weight = 1;
        for (int i = 0; i < tensor->ndim; i++) {
            const int at = fortran ? i : tensor->ndim - 1 - i;
            number += index[at] * weight;
            weight *= tensor->shape[at];
        }
        if (number != offset_of(tensor, index))
            return false;
    } while (next_index(tensor, index));
    return true;
}

/* A tensor of few small dimensions with any strides. */
static cai_tensor_t small_tensor(unit_random_t *random, int64_t *shape, int64_t *strides)
{
    const int32_t ndim = (int32_t)unit_random_between(random, 0, 4);
    const int64_t most = unit_random_between(random, 1, 24);
    cai_tensor_t  tensor = make_tensor(ADDRESS, cai_int16(), ndim, shape, strides);
    for (int i = 0; i < ndim; i++) {
        shape[i] = unit_random_between(random, 1, 4);
        strides[i] = unit_random_between(random, -most, most);
    }
    if (unit_random_between(random, 0, 2) == 0) { /* near a contiguous one */
        int64_t step = 1;
        for (int i = 0; i < ndim; i++) {
            strides[i] = step;
            step *= shape[i];
        }
        if (ndim > 0 && unit_random_between(random, 0, 1) == 0)
            strides[unit_random_between(random, 0, ndim - 1)] += unit_random_between(random, -1, 1);
    } else if (unit_random_between(random, 0, 2) == 0) {
        cai_c_contiguous_strides(ndim, shape, strides);
        if (ndim > 0 && unit_random_between(random, 0, 1) == 0)
            strides[unit_random_between(random, 0, ndim - 1)] += unit_random_between(random, -1, 1);
    }
    return tensor;
}

Test(tensor, pitfall_32_contiguity_against_brute_force)
{
    unit_random_t random = {12345};
    size_t        n_c = 0, n_f = 0;
    for (int round = 0; round < 20000; round++) {
        int64_t            shape[ROW_NDIM], strides[ROW_NDIM];
        const cai_tensor_t tensor = small_tensor(&random, shape, strides);
        const bool         c = is_contiguous_by_force(&tensor, false), f = is_contiguous_by_force(&tensor, true);
        n_c += c;
        n_f += f;
        if (cai_tensor_is_c_contiguous(&tensor) != c || cai_tensor_is_f_contiguous(&tensor) != f)
            cr_assert_fail("round %d: C %d, Fortran %d", round, c, f);
    }
    cr_expect(n_c > 1000 && n_f > 1000, "the rounds are of no use: %zu, %zu", n_c, n_f);
}

/* ---- alignment --------------------------------------------------------------------------------------------------- */

typedef struct aligned_case {
    const char *name;
    cai_dtype_t dtype;
    uint64_t    data, byte_offset;
    int64_t     extent;
    bool        aligned;
} aligned_case_t;

static const aligned_case_t alignments[] = {
    {"float32", CAI_FLOAT32, AT, 0, 3, true},
    {"float32 + 1", CAI_FLOAT32, AT + 1, 0, 3, false},
    {"float32 + 2", CAI_FLOAT32, AT + 2, 0, 3, false},
    {"float32 + 4", CAI_FLOAT32, AT + 4, 0, 3, true},
    {"float32, offset 2", CAI_FLOAT32, AT, 2, 3, false},
    {"float32, offset 4", CAI_FLOAT32, AT, 4, 3, true},
    {"float32 + 1, offset 3", CAI_FLOAT32, AT + 1, 3, 3, true},
    {"float64 + 4", CAI_FLOAT64, AT + 4, 0, 3, false},
    {"complex64 + 4", CAI_COMPLEX64, AT + 4, 0, 3, false},
    {"complex128 + 8", CAI_COMPLEX128, AT + 8, 0, 3, false},
    {"complex128 + 16", CAI_COMPLEX128, AT + 16, 0, 3, true},
    {"uint8 + 1", CAI_UINT8, AT + 1, 0, 3, true},
    {"float8 + 1", CAI_FLOAT8_E5M2, AT + 1, 0, 3, true},
    {"bfloat16 + 1", CAI_BFLOAT16, AT + 1, 0, 3, false},
    {"opaque + 1", CAI_OPAQUE(16), AT + 1, 0, 3, true},
    {"float32x4 + 4", {CAI_CODE_FLOAT, 32, 4}, AT + 4, 0, 3, true},
    {"float32x4 + 2", {CAI_CODE_FLOAT, 32, 4}, AT + 2, 0, 3, false},
    {"int4 + 1", CAI_INT4, AT + 1, 0, 3, true},
    {"empty + 1", CAI_FLOAT64, AT + 1, 0, 0, true},
    {"empty NULL", CAI_FLOAT64, 0, 3, 0, true},
};

Test(tensor, alignment)
{
    for (size_t i = 0; i < UNIT_COUNT(alignments); i++) {
        const aligned_case_t *row = &alignments[i];
        int64_t               shape[1], strides[1] = {1};
        cai_tensor_t          tensor = make_tensor((void *)row->data, row->dtype, 1, shape, strides);
        shape[0] = row->extent;
        tensor.byte_offset = row->byte_offset;
        cr_expect_eq(cai_tensor_is_aligned(&tensor), row->aligned, "%s", row->name);
    }
}

/* ---- overlap ----------------------------------------------------------------------------------------------------- */

/* Offsets of small tensors lie in -LIMIT … LIMIT. */
#define LIMIT 4096

static bool overlaps_itself_by_force(const cai_tensor_t *tensor)
{
    static unsigned char seen[2 * LIMIT + 1];
    int64_t              index[ROW_NDIM] = {0};
    bool                 twice = false;
    if (cai_tensor_size(tensor) == 0)
        return false;
    memset(seen, 0, sizeof(seen));
    do {
        const int64_t at = offset_of(tensor, index) + LIMIT;
        cr_assert(at >= 0 && at <= 2 * LIMIT);
        twice |= seen[at] != 0;
        seen[at] = 1;
    } while (next_index(tensor, index));
    return twice;
}

typedef struct overlap_case {
    const char *name;
    int32_t     ndim;
    int64_t     shape[ROW_NDIM];
    bool        strided;
    int64_t     strides[ROW_NDIM];
    bool        overlaps;
} overlap_case_t;

static const overlap_case_t self_overlaps[] = {
    {"0-d", 0, {0}, true, {0}, false},
    {"vector", 1, {3}, true, {1}, false},
    {"no strides", 2, {3, 4}, false, {0}, false},
    {"matrix", 2, {3, 4}, true, {4, 1}, false},
    {"transposed", 2, {3, 4}, true, {1, 3}, false},
    {"reversed", 2, {3, 4}, true, {-4, -1}, false},
    {"one reversed", 2, {3, 4}, true, {4, -1}, false},
    {"sliced", 2, {3, 4}, true, {16, 2}, false},
    {"broadcast rows", 2, {3, 4}, true, {0, 1}, true},
    {"broadcast columns", 2, {3, 4}, true, {1, 0}, true},
    {"broadcast both", 2, {3, 4}, true, {0, 0}, true},
    {"broadcast of extent 1", 2, {1, 4}, true, {0, 1}, false},
    {"all extents 1", 2, {1, 1}, true, {0, 0}, false},
    {"empty broadcast", 2, {0, 4}, true, {0, 0}, false},
    {"sliding window", 2, {5, 3}, true, {1, 1}, true},
    {"sliding window by 2", 2, {5, 3}, true, {2, 1}, true},
    {"window without overlap", 2, {5, 3}, true, {3, 1}, false},
    {"equal strides, opposite signs", 2, {2, 2}, true, {1, -1}, true},
    {"rows reach into the next", 2, {3, 4}, true, {3, 1}, true},
    {"rows end where the next begins", 2, {3, 4}, true, {-4, 1}, false},
};

Test(tensor, pitfall_05_self_overlap)
{
    for (size_t i = 0; i < UNIT_COUNT(self_overlaps); i++) {
        const overlap_case_t *row = &self_overlaps[i];
        int64_t               shape[ROW_NDIM], strides[ROW_NDIM];
        cai_tensor_t tensor = make_tensor(ADDRESS, cai_int16(), row->ndim, shape, row->strided ? strides : NULL);
        fill_arrays(row->ndim, row->shape, row->strides, shape, strides);
        cr_expect_eq(cai_tensor_may_self_overlap(&tensor), row->overlaps, "%s", row->name);
    }
}

/* Never false where two indices mean one element. */
Test(tensor, pitfall_05_self_overlap_is_never_missed)
{
    unit_random_t random = {777};
    size_t        n_overlaps = 0, n_free = 0;
    for (int round = 0; round < 50000; round++) {
        int64_t            shape[ROW_NDIM], strides[ROW_NDIM];
        const cai_tensor_t tensor = small_tensor(&random, shape, strides);
        const bool         overlaps = overlaps_itself_by_force(&tensor);
        if (overlaps && !cai_tensor_may_self_overlap(&tensor))
            cr_assert_fail("round %d: an overlap was missed", round);
        n_overlaps += overlaps;
        n_free += !cai_tensor_may_self_overlap(&tensor);
    }
    cr_expect(n_overlaps > 5000 && n_free > 5000, "the rounds are of no use: %zu, %zu", n_overlaps, n_free);
}

/* Slices, reversals and transpositions of a dense array, with broadcast dimensions in between. */
static cai_tensor_t derived_tensor(unit_random_t *random, int64_t *shape, int64_t *strides)
{
    const int32_t ndim = (int32_t)unit_random_between(random, 1, ROW_NDIM);
    cai_tensor_t  tensor = make_tensor(ADDRESS, cai_int16(), ndim, shape, strides);
    for (int i = 0; i < ndim; i++)
        shape[i] = unit_random_between(random, 1, 4);
    cai_c_contiguous_strides(ndim, shape, strides);
    for (int i = 0; i < ndim; i++) {
        const int64_t step = unit_random_between(random, 1, 3), start = unit_random_between(random, 0, shape[i] - 1);
        if (unit_random_between(random, 0, 1) == 0)
            continue;
        shape[i] = (shape[i] - start + step - 1) / step;
        strides[i] *= unit_random_between(random, 0, 1) == 0 ? step : -step;
    }
    for (int i = 0; i < ndim; i++) {
        const int     at = (int)unit_random_between(random, 0, ndim - 1);
        const int64_t extent = shape[i], stride = strides[i];
        shape[i] = shape[at];
        strides[i] = strides[at];
        shape[at] = extent;
        strides[at] = stride;
    }
    for (int i = 0; i < ndim; i++) {
        if (unit_random_between(random, 0, 9) == 0) {
            shape[i] = unit_random_between(random, 1, 3);
            strides[i] = 0;
        }
    }
    return tensor;
}

Test(tensor, pitfall_05_self_overlap_is_exact_for_what_nests)
{
    unit_random_t random = {4242};
    size_t        n_overlaps = 0, n_free = 0;
    for (int round = 0; round < 30000; round++) {
        int64_t            shape[ROW_NDIM], strides[ROW_NDIM];
        const cai_tensor_t tensor = derived_tensor(&random, shape, strides);
        const bool         overlaps = overlaps_itself_by_force(&tensor);
        if (overlaps != cai_tensor_may_self_overlap(&tensor))
            cr_assert_fail("round %d: the answer must be %d", round, overlaps);
        *(overlaps ? &n_overlaps : &n_free) += 1;
    }
    cr_expect(n_overlaps > 1000 && n_free > 1000, "the rounds are of no use: %zu, %zu", n_overlaps, n_free);
}

/* The bytes from the lowest to the highest element, by going through all of them. */
static void bounds_by_force(const cai_tensor_t *tensor, int64_t *low, int64_t *high)
{
    int64_t index[ROW_NDIM] = {0};
    *low = INT64_MAX;
    *high = INT64_MIN;
    do {
        const int64_t at = (int64_t)(uint64_t)cai_tensor_data(tensor) +
                           offset_of(tensor, index) * cai_dtype_itemsize(tensor->dtype);
        *low = at < *low ? at : *low;
        *high = at + cai_dtype_itemsize(tensor->dtype) > *high ? at + cai_dtype_itemsize(tensor->dtype) : *high;
    } while (next_index(tensor, index));
}

Test(tensor, pitfall_05_overlap_of_two_against_brute_force)
{
    static const cai_dtype_t kinds[] = {CAI_UINT8, CAI_INT16, CAI_FLOAT64, CAI_OPAQUE(3)};
    unit_random_t            random = {31415};
    size_t                   n_overlaps = 0, n_free = 0;
    for (int round = 0; round < 50000; round++) {
        int64_t      shape_a[ROW_NDIM], strides_a[ROW_NDIM], shape_b[ROW_NDIM], strides_b[ROW_NDIM];
        cai_tensor_t a = small_tensor(&random, shape_a, strides_a), b = small_tensor(&random, shape_b, strides_b);
        int64_t      low_a, high_a, low_b, high_b, low, high;
        bool         overlaps;
        a.dtype = kinds[unit_random_bits(&random) % UNIT_COUNT(kinds)];
        b.dtype = kinds[unit_random_bits(&random) % UNIT_COUNT(kinds)];
        b.byte_offset = (uint64_t)unit_random_between(&random, 0, 300);
        a.byte_offset = (uint64_t)unit_random_between(&random, 0, 300);
        bounds_by_force(&a, &low_a, &high_a);
        bounds_by_force(&b, &low_b, &high_b);
        cai_tensor_bounds(&a, &low, &high);
        if (low + (int64_t)(uint64_t)cai_tensor_data(&a) != low_a ||
            high + (int64_t)(uint64_t)cai_tensor_data(&a) != high_a)
            cr_assert_fail("round %d: the bounds are wrong", round);
        overlaps = low_a < high_b && low_b < high_a;
        if (cai_tensors_may_overlap(&a, &b) != overlaps || cai_tensors_may_overlap(&b, &a) != overlaps)
            cr_assert_fail("round %d: the answer must be %d", round, overlaps);
        *(overlaps ? &n_overlaps : &n_free) += 1;
    }
    cr_expect(n_overlaps > 5000 && n_free > 5000, "the rounds are of no use: %zu, %zu", n_overlaps, n_free);
}

typedef struct pair_case {
    const char *name;
    int64_t     extent_a, stride_a, extent_b, stride_b;
    uint64_t    offset_a, offset_b;
    bool        overlap;
} pair_case_t;

static const pair_case_t pairs[] = {
    /* of int32 */
    {"the same", 4, 1, 4, 1, 0, 0, true},
    {"neighbours", 4, 1, 4, 1, 0, 16, false},
    {"one byte in common", 4, 1, 4, 1, 0, 15, true},
    {"one inside", 8, 1, 1, 1, 0, 8, true},
    {"between two elements", 2, 4, 1, 1, 0, 8, true},
    {"reversed neighbour", 4, 1, 4, -1, 0, 28, false},
    {"reversed into it", 4, 1, 4, -1, 0, 24, true},
    {"reversed from the end", 4, 1, 4, -1, 0, 12, true},
    {"empty inside", 4, 1, 0, 1, 0, 4, false},
    {"both empty", 0, 1, 0, 1, 0, 0, false},
    {"repeated element", 1000, 0, 4, 1, 16, 0, false},
    {"repeated element inside", 1000, 0, 4, 1, 12, 0, true},
};

Test(tensor, overlap_of_two)
{
    for (size_t i = 0; i < UNIT_COUNT(pairs); i++) {
        const pair_case_t *row = &pairs[i];
        int64_t            shape_a[1], strides_a[1], shape_b[1], strides_b[1];
        cai_tensor_t       a = make_tensor(ADDRESS, cai_int32(), 1, shape_a, strides_a);
        cai_tensor_t       b = make_tensor(ADDRESS, cai_int32(), 1, shape_b, strides_b);
        shape_a[0] = row->extent_a;
        strides_a[0] = row->stride_a;
        shape_b[0] = row->extent_b;
        strides_b[0] = row->stride_b;
        a.byte_offset = row->offset_a;
        b.byte_offset = row->offset_b;
        cr_expect_eq(cai_tensors_may_overlap(&a, &b), row->overlap, "%s", row->name);
        cr_expect_eq(cai_tensors_may_overlap(&b, &a), row->overlap, "%s, the other way round", row->name);
    }
}

Test(tensor, overlap_of_two_without_strides)
{
    int64_t      shape[2] = {2, 3};
    cai_tensor_t a = make_tensor(ADDRESS, cai_int32(), 2, shape, NULL), b = a;
    cr_expect(cai_tensors_may_overlap(&a, &b));
    b.byte_offset = 23;
    cr_expect(cai_tensors_may_overlap(&a, &b));
    b.byte_offset = 24;
    cr_expect_not(cai_tensors_may_overlap(&a, &b));
}

Test(tensor, flags_are_dlpacks)
{
    cr_expect_eq(CAI_READONLY, 1);
    cr_expect_eq(CAI_COPIED, 2);
    cr_expect_eq(CAI_SUBBYTE_PADDED, 4);
}
