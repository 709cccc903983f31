/*
 * Checks request.h: every field of a request against tensors that meet it and that do not, and the texts of refusals.
 */
#include <cai/request.h>

#include "unit.h"

#include <pthread.h>

TestSuite(request, .timeout = UNIT_TIMEOUT);

#define NDIM 10

/* An address that is never dereferenced, aligned to everything. */
#define ADDRESS UINT64_C(0x7F0000001000)

/* Memory that a request of zeros accepts. */
#if defined(CAI_NO_CUDA)
#define USUAL_DEVICE CAI_DEVICE_CPU
#else
#define USUAL_DEVICE CAI_DEVICE_CUDA
#endif

/* A tensor on its own arrays, C-contiguous in the usual memory unless the test changes it. */
typedef struct sample {
    cai_tensor_t tensor;
    int64_t      shape[NDIM], strides[NDIM];
} sample_t;

static void make_sample(sample_t *sample, cai_dtype_t dtype, int32_t ndim, const int64_t *shape)
{
    memset(sample, 0, sizeof(*sample));
    sample->tensor.data = (void *)ADDRESS;
    sample->tensor.device.device_type = USUAL_DEVICE;
    sample->tensor.ndim = ndim;
    sample->tensor.dtype = dtype;
    sample->tensor.shape = sample->shape;
    sample->tensor.strides = sample->strides;
    for (int i = 0; i < ndim; i++)
        sample->shape[i] = shape[i];
    cai_c_contiguous_strides(ndim, sample->shape, sample->strides);
}

/* The status of the check, which must be the same without a place for the error. */
static cai_status_t check(const cai_request_t *request, const sample_t *sample, uint32_t flags, cai_shared_t *shared)
{
    cai_error_t       error;
    cai_shared_t      copy;
    cai_status_t      status, again;
    const char *const name = request->name != NULL ? request->name : "request without a name";
    if (shared != NULL)
        copy = *shared;
    error.status = CAI_OK;
    error.message[0] = '\0';
    status = cai_request_check(request, &sample->tensor, flags, shared, &error);
    again = cai_request_check(request, &sample->tensor, flags, shared != NULL ? &copy : NULL, NULL);
    cr_expect_eq(again, status, "%s: %s without an error", name, cai_status_name(again));
    cr_expect_eq(error.status, status, "%s: the error has another status", name);
    cr_expect_eq(error.message[0] != '\0', status != CAI_OK, "%s: message '%s'", name, error.message);
    return status;
}

#define EXPECT_STATUS(expected, request, sample, flags, shared, ...)                                                   \
    do {                                                                                                               \
        const cai_status_t found_ = check(request, sample, flags, shared);                                             \
        cr_expect_eq(found_, expected, __VA_ARGS__);                                                                   \
    } while (0)

/* ---- a request of zeros ------------------------------------------------------------------------------------------ */

Test(request, function_makes_zeros_with_a_name)
{
    static const cai_request_t zeros = {0};
    cai_request_t              request = cai_request("x");
    cr_expect_str_eq(request.name, "x");
    request.name = NULL;
    cr_expect_null(request.dtypes);
    cr_expect_eq(request.dtype.code + request.dtype.bits + request.dtype.lanes, 0);
    cr_expect_eq(request.n_dtypes, zeros.n_dtypes);
    cr_expect_eq(request.ndim, 0);
    cr_expect_eq(request.min_ndim, 0);
    cr_expect_eq(request.max_ndim, 0);
    cr_expect_eq(memcmp(request.shape, zeros.shape, sizeof(zeros.shape)), 0);
    cr_expect_eq(request.require, 0);
    cr_expect_eq(request.memory, 0);
    cr_expect_eq(request.protocols, 0);
    cr_expect_null(cai_request(NULL).name);
}

Test(request, constants)
{
    static const uint32_t requirements[] = {
        CAI_WRITABLE,        CAI_C_CONTIGUOUS, CAI_F_CONTIGUOUS,     CAI_CONTIGUOUS,    CAI_NONEMPTY,
        CAI_NO_SELF_OVERLAP, CAI_SAME_SHAPE,   CAI_SAME_DTYPE,       CAI_SAME_DEVICE,   CAI_UNALIGNED_OK,
        CAI_TRUST_LEGACY,    CAI_MASK_OK,      CAI_UNUSUAL_DTYPE_OK, CAI_UINT8_AS_BOOL, CAI_NO_NEGATIVE_STRIDES,
    };
    uint32_t seen = 0;
    for (size_t i = 0; i < UNIT_COUNT(requirements); i++) {
        cr_expect_eq(requirements[i] & (requirements[i] - 1), 0, "%zu is no single bit", i);
        cr_expect_eq(seen & requirements[i], 0, "%zu has the bit of another", i);
        seen |= requirements[i];
    }
    cr_expect_eq(CAI_ANYWHERE, CAI_ON_CUDA | CAI_ON_MANAGED | CAI_ON_PINNED | CAI_ON_HOST);
    cr_expect_eq(CAI_VIA_ANY, CAI_VIA_EXCHANGE | CAI_VIA_BUFFER | CAI_VIA_CUDA_ARRAY_INTERFACE | CAI_VIA_DLPACK |
                                  CAI_VIA_CUDA_ARRAY_INTERFACE_3 | CAI_VIA_ARRAY);
    cr_expect_eq(CAI_REQUEST_NDIM, 8);
    cr_expect_geq(CAI_REQUEST_EXTENTS, 8);
    for (int64_t k = 0; k < CAI_REQUEST_EXTENTS; k++) {
        cr_expect_lt(CAI_EXTENT(k), 0, "%d", (int)k);
        cr_expect_neq(CAI_EXTENT(k), CAI_EMPTY_EXTENT, "%d", (int)k);
    }
    cr_expect_neq(CAI_EXTENT(0), CAI_EXTENT(1));
    cr_expect_lt(CAI_EMPTY_EXTENT, 0);
    cr_expect_lt(CAI_SCALAR, 0);
}

Test(request, zeros_accept_every_plain_dtype_and_shape)
{
    static const cai_request_t any = {0};
    static const int64_t       shape[NDIM] = {2, 3, 1, 2, 2, 2, 2, 2, 2, 2};
    static const int64_t       empty[NDIM] = {2, 0, 1};
    static const cai_dtype_t   plain[] = {
#define DTYPE(NAME, name, code, bits, typestr, format) CAI_##NAME,
        CAI_DTYPE_LIST(DTYPE)
#undef DTYPE
    };
    for (size_t i = 0; i < UNIT_COUNT(plain); i++) {
        sample_t sample;
        make_sample(&sample, plain[i], 2, shape);
        EXPECT_STATUS(cai_dtype_is_plain(plain[i]) ? CAI_OK : CAI_ERROR_DTYPE_MISMATCH, &any, &sample, 0, NULL,
                      "dtype %zu", i);
    }
    for (int32_t ndim = 0; ndim <= NDIM; ndim++) {
        sample_t sample;
        make_sample(&sample, cai_float32(), ndim, shape);
        EXPECT_STATUS(CAI_OK, &any, &sample, CAI_READONLY, NULL, "%d dimensions", ndim);
        if (ndim > 1) {
            make_sample(&sample, cai_float32(), ndim, empty);
            sample.tensor.data = NULL;
            EXPECT_STATUS(CAI_OK, &any, &sample, CAI_READONLY, NULL, "%d dimensions, empty", ndim);
        }
    }
}

Test(request, zeros_accept_every_layout)
{
    static const cai_request_t any = {0};
    static const int64_t       shape[] = {3, 4};
    static const int64_t       layouts[][2] = {{4, 1}, {1, 3}, {-4, -1}, {0, 0}, {1, 1}, {100, 7}};
    sample_t                   sample;
    make_sample(&sample, cai_float32(), 2, shape);
    for (size_t i = 0; i < UNIT_COUNT(layouts); i++) {
        memcpy(sample.strides, layouts[i], sizeof(layouts[i]));
        EXPECT_STATUS(CAI_OK, &any, &sample, 0, NULL, "layout %zu", i);
    }
    sample.tensor.strides = NULL;
    EXPECT_STATUS(CAI_OK, &any, &sample, 0, NULL, "no strides");
}

/* ---- dtype ------------------------------------------------------------------------------------------------------- */

static const cai_dtype_t two_dtypes[] = {CAI_FLOAT32, CAI_FLOAT64};
static const cai_dtype_t one_dtype[] = {CAI_BFLOAT16};
static const cai_dtype_t bool_among[] = {CAI_INT32, CAI_BOOL};
static const cai_dtype_t odd_dtypes[] = {CAI_OPAQUE(16), {CAI_CODE_FLOAT, 32, 4}, CAI_INT4};

typedef struct dtype_case {
    cai_request_t request; /* its name is the case's */
    cai_dtype_t   dtype;
    cai_status_t  status;
} dtype_case_t;

static const dtype_case_t dtype_cases[] = {
    {{.name = "one, met", .dtype = CAI_FLOAT32}, CAI_FLOAT32, CAI_OK},
    {{.name = "another width", .dtype = CAI_FLOAT32}, CAI_FLOAT64, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "another kind", .dtype = CAI_FLOAT32}, CAI_INT32, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "another sign", .dtype = CAI_INT32}, CAI_UINT32, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "lanes not asked for", .dtype = CAI_FLOAT32}, {CAI_CODE_FLOAT, 32, 4}, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "lanes asked for", .dtype = {CAI_CODE_FLOAT, 32, 4}}, {CAI_CODE_FLOAT, 32, 4}, CAI_OK},
    {{.name = "other lanes asked for", .dtype = {CAI_CODE_FLOAT, 32, 2}},
     {CAI_CODE_FLOAT, 32, 4},
     CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "int8, whose code is 0", .dtype = CAI_INT8}, CAI_INT8, CAI_OK},
    {{.name = "int8 and uint8", .dtype = CAI_INT8}, CAI_UINT8, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "bfloat16 and float16", .dtype = CAI_BFLOAT16}, CAI_FLOAT16, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "bfloat16 and V2", .dtype = CAI_BFLOAT16}, CAI_OPAQUE(2), CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "float8 kinds", .dtype = CAI_FLOAT8_E4M3}, CAI_FLOAT8_E4M3FN, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "opaque asked for", .dtype = CAI_OPAQUE(16)}, CAI_OPAQUE(16), CAI_OK},
    {{.name = "opaque of another size", .dtype = CAI_OPAQUE(16)}, CAI_OPAQUE(8), CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "sub-byte asked for", .dtype = CAI_INT4}, CAI_INT4, CAI_OK},
    {{.name = "first of two", .dtypes = two_dtypes, .n_dtypes = 2}, CAI_FLOAT32, CAI_OK},
    {{.name = "second of two", .dtypes = two_dtypes, .n_dtypes = 2}, CAI_FLOAT64, CAI_OK},
    {{.name = "none of two", .dtypes = two_dtypes, .n_dtypes = 2}, CAI_FLOAT16, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "list of two, one used", .dtypes = two_dtypes, .n_dtypes = 1}, CAI_FLOAT64, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "list of one", .dtypes = one_dtype, .n_dtypes = 1}, CAI_BFLOAT16, CAI_OK},
    {{.name = "list before dtype", .dtype = CAI_INT32, .dtypes = two_dtypes, .n_dtypes = 2},
     CAI_INT32,
     CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "list of no length", .dtype = CAI_INT32, .dtypes = two_dtypes, .n_dtypes = 0}, CAI_INT32, CAI_OK},
    {{.name = "unusual in a list", .dtypes = odd_dtypes, .n_dtypes = 3}, CAI_OPAQUE(16), CAI_OK},
    {{.name = "vector in a list", .dtypes = odd_dtypes, .n_dtypes = 3}, {CAI_CODE_FLOAT, 32, 4}, CAI_OK},
    {{.name = "sub-byte in a list", .dtypes = odd_dtypes, .n_dtypes = 3}, CAI_INT4, CAI_OK},
    /* any dtype */
    {{.name = "any: opaque"}, CAI_OPAQUE(4), CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "any: vector"}, {CAI_CODE_FLOAT, 32, 4}, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "any: sub-byte"}, CAI_FLOAT4_E2M1FN, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "any: bfloat16"}, CAI_BFLOAT16, CAI_OK},
    {{.name = "any: complex32"}, CAI_COMPLEX32, CAI_OK},
    {{.name = "unusual: opaque", .require = CAI_UNUSUAL_DTYPE_OK}, CAI_OPAQUE(4), CAI_OK},
    {{.name = "unusual: vector", .require = CAI_UNUSUAL_DTYPE_OK}, {CAI_CODE_FLOAT, 32, 4}, CAI_OK},
    {{.name = "unusual: sub-byte", .require = CAI_UNUSUAL_DTYPE_OK}, CAI_FLOAT6_E2M3FN, CAI_OK},
    {{.name = "unusual: plain", .require = CAI_UNUSUAL_DTYPE_OK}, CAI_FLOAT32, CAI_OK},
    {{.name = "unusual beside a dtype", .dtype = CAI_FLOAT32, .require = CAI_UNUSUAL_DTYPE_OK},
     CAI_OPAQUE(4),
     CAI_ERROR_DTYPE_MISMATCH},
    /* bool */
    {{.name = "bool: bool", .dtype = CAI_BOOL}, CAI_BOOL, CAI_OK},
    {{.name = "bool: uint8", .dtype = CAI_BOOL}, CAI_UINT8, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "as bool: uint8", .dtype = CAI_BOOL, .require = CAI_UINT8_AS_BOOL}, CAI_UINT8, CAI_OK},
    {{.name = "as bool: bool", .dtype = CAI_BOOL, .require = CAI_UINT8_AS_BOOL}, CAI_BOOL, CAI_OK},
    {{.name = "as bool: int8", .dtype = CAI_BOOL, .require = CAI_UINT8_AS_BOOL}, CAI_INT8, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "as bool: uint8x2", .dtype = CAI_BOOL, .require = CAI_UINT8_AS_BOOL},
     {CAI_CODE_UINT, 8, 2},
     CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "as bool among others", .dtypes = bool_among, .n_dtypes = 2, .require = CAI_UINT8_AS_BOOL},
     CAI_UINT8,
     CAI_OK},
    {{.name = "not as bool among others", .dtypes = bool_among, .n_dtypes = 2}, CAI_UINT8, CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "uint8 is not bool", .dtype = CAI_UINT8, .require = CAI_UINT8_AS_BOOL},
     CAI_BOOL,
     CAI_ERROR_DTYPE_MISMATCH},
    {{.name = "as bool where int32", .dtype = CAI_INT32, .require = CAI_UINT8_AS_BOOL},
     CAI_UINT8,
     CAI_ERROR_DTYPE_MISMATCH},
};

Test(request, pitfall_33_dtype)
{
    static const int64_t shape[] = {3};
    for (size_t i = 0; i < UNIT_COUNT(dtype_cases); i++) {
        sample_t sample;
        make_sample(&sample, dtype_cases[i].dtype, 1, shape);
        EXPECT_STATUS(dtype_cases[i].status, &dtype_cases[i].request, &sample, 0, NULL, "%s",
                      dtype_cases[i].request.name);
    }
}

/* ---- dimensions and extents -------------------------------------------------------------------------------------- */

typedef struct shape_case {
    cai_request_t request;
    int32_t       ndim;
    int64_t       shape[NDIM];
    cai_status_t  status;
} shape_case_t;

#define E  CAI_EXTENT
#define NO CAI_ERROR_INVALID_SHAPE

static const shape_case_t shape_cases[] = {
    {{.name = "exactly 2", .ndim = 2}, 2, {3, 4}, CAI_OK},
    {{.name = "exactly 2, got 1", .ndim = 2}, 1, {3}, NO},
    {{.name = "exactly 2, got 3", .ndim = 2}, 3, {3, 4, 5}, NO},
    {{.name = "exactly 2, got 0", .ndim = 2}, 0, {0}, NO},
    {{.name = "exactly 9", .ndim = 9}, 9, {1, 1, 1, 1, 1, 1, 1, 1, 1}, CAI_OK},
    {{.name = "scalar", .ndim = CAI_SCALAR}, 0, {0}, CAI_OK},
    {{.name = "scalar, got 1", .ndim = CAI_SCALAR}, 1, {1}, NO},
    {{.name = "at least 2, got 1", .min_ndim = 2}, 1, {3}, NO},
    {{.name = "at least 2, got 2", .min_ndim = 2}, 2, {3, 4}, CAI_OK},
    {{.name = "at least 2, got 3", .min_ndim = 2}, 3, {3, 4, 5}, CAI_OK},
    {{.name = "at least 1, got 0", .min_ndim = 1}, 0, {0}, NO},
    {{.name = "at most 2, got 0", .max_ndim = 2}, 0, {0}, CAI_OK},
    {{.name = "at most 2, got 2", .max_ndim = 2}, 2, {3, 4}, CAI_OK},
    {{.name = "at most 2, got 3", .max_ndim = 2}, 3, {3, 4, 5}, NO},
    {{.name = "2 to 3, got 1", .min_ndim = 2, .max_ndim = 3}, 1, {3}, NO},
    {{.name = "2 to 3, got 2", .min_ndim = 2, .max_ndim = 3}, 2, {3, 4}, CAI_OK},
    {{.name = "2 to 3, got 3", .min_ndim = 2, .max_ndim = 3}, 3, {3, 4, 5}, CAI_OK},
    {{.name = "2 to 3, got 4", .min_ndim = 2, .max_ndim = 3}, 4, {3, 4, 5, 6}, NO},
    /* extents */
    {{.name = "any extent", .shape = {0, 0}}, 2, {3, 4}, CAI_OK},
    {{.name = "exact", .shape = {3, 4}}, 2, {3, 4}, CAI_OK},
    {{.name = "first is another", .shape = {3, 4}}, 2, {2, 4}, NO},
    {{.name = "second is another", .shape = {3, 4}}, 2, {3, 5}, NO},
    {{.name = "any and exact", .shape = {0, 4}}, 2, {99, 4}, CAI_OK},
    {{.name = "exact 1", .shape = {1}}, 1, {1}, CAI_OK},
    {{.name = "exact 1, got 0", .shape = {1}}, 1, {0}, NO},
    {{.name = "large", .shape = {INT64_C(1) << 40}}, 1, {INT64_C(1) << 40}, CAI_OK},
    {{.name = "large, 32 bits alike", .shape = {(INT64_C(1) << 40) + 3}}, 1, {3}, NO},
    {{.name = "fewer dimensions than extents", .shape = {3, 4, 5}}, 1, {3}, CAI_OK},
    {{.name = "more dimensions than extents", .shape = {3}}, 3, {3, 4, 5}, CAI_OK},
    {{.name = "extents of 0-d", .shape = {3, 4, 5}}, 0, {0}, CAI_OK},
    {{.name = "eighth", .shape = {0, 0, 0, 0, 0, 0, 0, 7}}, 8, {1, 1, 1, 1, 1, 1, 1, 7}, CAI_OK},
    {{.name = "eighth is another", .shape = {0, 0, 0, 0, 0, 0, 0, 7}}, 8, {1, 1, 1, 1, 1, 1, 1, 6}, NO},
    {{.name = "ninth is free", .shape = {1, 1, 1, 1, 1, 1, 1, 1}}, 9, {1, 1, 1, 1, 1, 1, 1, 1, 99}, CAI_OK},
    {{.name = "ninth is free, with wishes",
      .require = CAI_C_CONTIGUOUS,
      .memory = CAI_ANYWHERE,
      .protocols = CAI_VIA_ANY},
     10,
     {1, 1, 1, 1, 1, 1, 1, 1, 2, 3},
     CAI_OK},
    {{.name = "empty", .shape = {CAI_EMPTY_EXTENT}}, 1, {0}, CAI_OK},
    {{.name = "empty, got 1", .shape = {CAI_EMPTY_EXTENT}}, 1, {1}, NO},
    {{.name = "empty second", .shape = {0, CAI_EMPTY_EXTENT}}, 2, {5, 0}, CAI_OK},
    /* shared extents of one argument */
    {{.name = "square", .shape = {E(0), E(0)}}, 2, {4, 4}, CAI_OK},
    {{.name = "no square", .shape = {E(0), E(0)}}, 2, {4, 5}, NO},
    {{.name = "two extents", .shape = {E(0), E(1)}}, 2, {4, 5}, CAI_OK},
    {{.name = "around", .shape = {E(3), E(5), E(3)}}, 3, {4, 5, 4}, CAI_OK},
    {{.name = "not around", .shape = {E(3), E(5), E(3)}}, 3, {4, 5, 5}, NO},
    {{.name = "shared and empty", .shape = {E(0), E(0)}}, 2, {0, 0}, CAI_OK},
    {{.name = "shared, one empty", .shape = {E(0), E(0)}}, 2, {0, 4}, NO},
    {{.name = "last of 16", .shape = {E(15), E(15)}}, 2, {4, 4}, CAI_OK},
    {{.name = "last of 16, another", .shape = {E(15), E(15)}}, 2, {4, 5}, NO},
    {{.name = "17th of 16", .shape = {E(16)}}, 1, {4}, NO},
    {{.name = "33rd of 16", .shape = {E(32)}}, 1, {4}, NO},
    {{.name = "far beyond", .shape = {INT64_MIN + 1}}, 1, {4}, NO},
};

Test(request, ndim_and_extents)
{
    for (size_t i = 0; i < UNIT_COUNT(shape_cases); i++) {
        const shape_case_t *row = &shape_cases[i];
        sample_t            sample;
        cai_shared_t        shared;
        memset(&shared, 0, sizeof(shared));
        make_sample(&sample, cai_uint8(), row->ndim, row->shape);
        EXPECT_STATUS(row->status, &row->request, &sample, 0, NULL, "%s", row->request.name);
        EXPECT_STATUS(row->status, &row->request, &sample, 0, &shared, "%s, shared", row->request.name);
    }
}

Test(request, shared_extents_of_several_arguments)
{
    static const cai_request_t matrix = {.name = "a", .ndim = 2, .shape = {E(0), E(1)}};
    static const cai_request_t other = {.name = "b", .ndim = 2, .shape = {E(1), E(2)}};
    static const cai_request_t result = {.name = "c", .ndim = 2, .shape = {E(0), E(2)}};
    static const struct {
        const char  *name;
        int64_t      a[2], b[2], c[2];
        cai_status_t of_b, of_c;
    } rows[] = {
        {"all agree", {3, 4}, {4, 5}, {3, 5}, CAI_OK, CAI_OK},
        {"inner differ", {3, 4}, {5, 5}, {3, 5}, NO, CAI_OK},
        {"rows differ", {3, 4}, {4, 5}, {4, 5}, CAI_OK, NO},
        {"columns differ", {3, 4}, {4, 5}, {3, 4}, CAI_OK, NO},
        {"all empty", {0, 0}, {0, 0}, {0, 0}, CAI_OK, CAI_OK},
        {"extent 0 is known too", {0, 4}, {4, 5}, {3, 5}, CAI_OK, NO},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        sample_t     a, b, c;
        cai_shared_t shared;
        memset(&shared, 0, sizeof(shared));
        make_sample(&a, cai_float32(), 2, rows[i].a);
        make_sample(&b, cai_float32(), 2, rows[i].b);
        make_sample(&c, cai_float32(), 2, rows[i].c);
        EXPECT_STATUS(CAI_OK, &matrix, &a, 0, &shared, "%s: first", rows[i].name);
        cr_expect_eq(shared.first, &a.tensor, "%s: argument 0", rows[i].name);
        EXPECT_STATUS(rows[i].of_b, &other, &b, 0, &shared, "%s: second", rows[i].name);
        if (rows[i].of_b == CAI_OK)
            EXPECT_STATUS(rows[i].of_c, &result, &c, 0, &shared, "%s: third", rows[i].name);
        cr_expect_eq(shared.first, &a.tensor, "%s: argument 0 stays", rows[i].name);
    }
}

Test(request, arguments_that_stand_alone_share_nothing)
{
    static const cai_request_t request = {.name = "x", .shape = {E(0)}};
    static const int64_t       three[] = {3}, four[] = {4};
    sample_t                   a, b;
    make_sample(&a, cai_float32(), 1, three);
    make_sample(&b, cai_float32(), 1, four);
    EXPECT_STATUS(CAI_OK, &request, &a, 0, NULL, "the first");
    EXPECT_STATUS(CAI_OK, &request, &b, 0, NULL, "the second");
}

Test(request, same_shape_as_argument_0)
{
    static const cai_request_t any = {.name = "a"}, same = {.name = "b", .require = CAI_SAME_SHAPE};
    static const struct {
        const char  *name;
        int32_t      n_first, n_second;
        int64_t      first[3], second[3];
        cai_status_t status;
    } rows[] = {
        {"alike", 2, 2, {3, 4}, {3, 4}, CAI_OK},
        {"transposed", 2, 2, {3, 4}, {4, 3}, NO},
        {"last differs", 3, 3, {3, 4, 5}, {3, 4, 6}, NO},
        {"one more dimension", 2, 3, {3, 4}, {3, 4, 1}, NO},
        {"one less dimension", 2, 1, {3, 4}, {3}, NO},
        {"both 0-d", 0, 0, {0}, {0}, CAI_OK},
        {"0-d and 1-d", 0, 1, {0}, {1}, NO},
        {"empty", 2, 2, {0, 4}, {0, 4}, CAI_OK},
        {"both empty, but not alike", 2, 2, {0, 4}, {4, 0}, NO},
        {"no broadcast", 1, 1, {3}, {1}, NO},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        sample_t     a, b;
        cai_shared_t shared;
        memset(&shared, 0, sizeof(shared));
        make_sample(&a, cai_float32(), rows[i].n_first, rows[i].first);
        make_sample(&b, cai_float32(), rows[i].n_second, rows[i].second);
        EXPECT_STATUS(CAI_OK, &any, &a, 0, &shared, "%s: first", rows[i].name);
        EXPECT_STATUS(rows[i].status, &same, &b, 0, &shared, "%s", rows[i].name);
    }
}

Test(request, same_shape_with_a_null_shape)
{
    static const cai_request_t any = {.name = "a"}, same = {.name = "b", .require = CAI_SAME_SHAPE};
    sample_t                   a, b;
    cai_shared_t               shared;
    memset(&shared, 0, sizeof(shared));
    make_sample(&a, cai_float32(), 0, NULL);
    make_sample(&b, cai_float32(), 0, NULL);
    a.tensor.shape = a.tensor.strides = NULL;
    b.tensor.shape = b.tensor.strides = NULL;
    EXPECT_STATUS(CAI_OK, &any, &a, 0, &shared, "first");
    EXPECT_STATUS(CAI_OK, &same, &b, 0, &shared, "second");
}

Test(request, same_dtype_as_argument_0)
{
    static const cai_request_t any = {.name = "a", .require = CAI_UNUSUAL_DTYPE_OK};
    static const cai_request_t same = {.name = "b", .require = CAI_SAME_DTYPE | CAI_UNUSUAL_DTYPE_OK};
    static const int64_t       shape[] = {3};
    static const struct {
        const char  *name;
        cai_dtype_t  first, second;
        cai_status_t status;
    } rows[] = {
        {"alike", CAI_FLOAT32, CAI_FLOAT32, CAI_OK},
        {"another width", CAI_FLOAT32, CAI_FLOAT64, CAI_ERROR_DTYPE_MISMATCH},
        {"another code", CAI_FLOAT32, CAI_INT32, CAI_ERROR_DTYPE_MISMATCH},
        {"other lanes", CAI_FLOAT32, {CAI_CODE_FLOAT, 32, 2}, CAI_ERROR_DTYPE_MISMATCH},
        {"opaque alike", CAI_OPAQUE(12), CAI_OPAQUE(12), CAI_OK},
        {"opaque of other sizes", CAI_OPAQUE(12), CAI_OPAQUE(16), CAI_ERROR_DTYPE_MISMATCH},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        sample_t     a, b;
        cai_shared_t shared;
        memset(&shared, 0, sizeof(shared));
        make_sample(&a, rows[i].first, 1, shape);
        make_sample(&b, rows[i].second, 1, shape);
        EXPECT_STATUS(CAI_OK, &any, &a, 0, &shared, "%s: first", rows[i].name);
        EXPECT_STATUS(rows[i].status, &same, &b, 0, &shared, "%s", rows[i].name);
    }
}

Test(request, same_device_as_argument_0)
{
    static const cai_request_t any = {.name = "a", .memory = CAI_ANYWHERE};
    static const cai_request_t same = {.name = "b", .memory = CAI_ANYWHERE, .require = CAI_SAME_DEVICE};
    static const int64_t       shape[] = {3};
    static const int32_t kinds[] = {CAI_DEVICE_CPU, CAI_DEVICE_CUDA, CAI_DEVICE_CUDA_HOST, CAI_DEVICE_CUDA_MANAGED};
    for (size_t i = 0; i < UNIT_COUNT(kinds); i++) {
        for (size_t j = 0; j < UNIT_COUNT(kinds); j++) {
            const bool   agree = (kinds[i] == CAI_DEVICE_CPU) == (kinds[j] == CAI_DEVICE_CPU);
            sample_t     a, b;
            cai_shared_t shared;
            memset(&shared, 0, sizeof(shared));
            make_sample(&a, cai_float32(), 1, shape);
            make_sample(&b, cai_float32(), 1, shape);
            a.tensor.device.device_type = kinds[i];
            b.tensor.device.device_type = kinds[j];
            EXPECT_STATUS(CAI_OK, &any, &a, 0, &shared, "%d first", kinds[i]);
            EXPECT_STATUS(agree ? CAI_OK : CAI_ERROR_DEVICE_MISMATCH, &same, &b, 0, &shared, "%d, then %d", kinds[i],
                          kinds[j]);
            EXPECT_STATUS(CAI_OK, &any, &b, 0, &shared, "%d, then %d, not asked", kinds[i], kinds[j]);
        }
    }
}

/* What is not asked for may differ. */
Test(request, likeness_is_not_asked_by_itself)
{
    static const cai_request_t any = {.name = "x", .memory = CAI_ANYWHERE};
    static const int64_t       shape[] = {3}, other[] = {4, 5};
    sample_t                   a, b;
    cai_shared_t               shared;
    memset(&shared, 0, sizeof(shared));
    make_sample(&a, cai_float32(), 1, shape);
    make_sample(&b, cai_int8(), 2, other);
    b.tensor.device.device_type = CAI_DEVICE_CPU;
    EXPECT_STATUS(CAI_OK, &any, &a, 0, &shared, "first");
    EXPECT_STATUS(CAI_OK, &any, &b, 0, &shared, "second");
}

/* Argument 0 is like itself, and so is an argument that stands alone. */
Test(request, argument_0_is_like_itself)
{
    static const cai_request_t same = {.name = "x", .require = CAI_SAME_SHAPE | CAI_SAME_DTYPE | CAI_SAME_DEVICE};
    static const int64_t       shape[] = {3, 4};
    sample_t                   sample;
    cai_shared_t               shared;
    memset(&shared, 0, sizeof(shared));
    make_sample(&sample, cai_float32(), 2, shape);
    EXPECT_STATUS(CAI_OK, &same, &sample, 0, NULL, "alone");
    EXPECT_STATUS(CAI_OK, &same, &sample, 0, &shared, "argument 0");
    cr_expect_eq(shared.first, &sample.tensor);
}

/* ---- layout ------------------------------------------------------------------------------------------------------ */

typedef struct layout_case {
    const char *name;
    uint32_t    require;
    int32_t     ndim;
    int64_t     shape[3], strides[3];
    bool        met;
} layout_case_t;

static const layout_case_t layout_cases[] = {
    {"C: C", CAI_C_CONTIGUOUS, 2, {3, 4}, {4, 1}, true},
    {"C: F", CAI_C_CONTIGUOUS, 2, {3, 4}, {1, 3}, false},
    {"C: sliced", CAI_C_CONTIGUOUS, 1, {3}, {2}, false},
    {"C: reversed", CAI_C_CONTIGUOUS, 1, {3}, {-1}, false},
    {"C: broadcast", CAI_C_CONTIGUOUS, 2, {3, 4}, {0, 1}, false},
    {"C: extent 1", CAI_C_CONTIGUOUS, 2, {3, 1}, {1, 77}, true},
    {"C: 0-d", CAI_C_CONTIGUOUS, 0, {0}, {0}, true},
    {"C: empty", CAI_C_CONTIGUOUS, 2, {0, 4}, {9, 9}, true},
    {"F: F", CAI_F_CONTIGUOUS, 2, {3, 4}, {1, 3}, true},
    {"F: C", CAI_F_CONTIGUOUS, 2, {3, 4}, {4, 1}, false},
    {"F: vector", CAI_F_CONTIGUOUS, 1, {3}, {1}, true},
    {"F: sliced", CAI_F_CONTIGUOUS, 1, {3}, {2}, false},
    {"F: 0-d", CAI_F_CONTIGUOUS, 0, {0}, {0}, true},
    {"F: empty", CAI_F_CONTIGUOUS, 2, {3, 0}, {9, 9}, true},
    {"C and F: vector", CAI_C_CONTIGUOUS | CAI_F_CONTIGUOUS, 1, {3}, {1}, true},
    {"C and F: C", CAI_C_CONTIGUOUS | CAI_F_CONTIGUOUS, 2, {3, 4}, {4, 1}, false},
    {"C and F: F", CAI_C_CONTIGUOUS | CAI_F_CONTIGUOUS, 2, {3, 4}, {1, 3}, false},
    {"any order: C", CAI_CONTIGUOUS, 2, {3, 4}, {4, 1}, true},
    {"any order: F", CAI_CONTIGUOUS, 2, {3, 4}, {1, 3}, true},
    {"any order: neither", CAI_CONTIGUOUS, 2, {3, 4}, {8, 1}, false},
    {"any order: broadcast", CAI_CONTIGUOUS, 2, {3, 4}, {0, 1}, false},
    {"no overlap: C", CAI_NO_SELF_OVERLAP, 2, {3, 4}, {4, 1}, true},
    {"no overlap: F", CAI_NO_SELF_OVERLAP, 2, {3, 4}, {1, 3}, true},
    {"no overlap: reversed", CAI_NO_SELF_OVERLAP, 2, {3, 4}, {-4, -1}, true},
    {"no overlap: broadcast", CAI_NO_SELF_OVERLAP, 2, {3, 4}, {0, 1}, false},
    {"no overlap: window", CAI_NO_SELF_OVERLAP, 2, {3, 4}, {1, 1}, false},
    {"no overlap: empty broadcast", CAI_NO_SELF_OVERLAP, 2, {0, 4}, {0, 0}, true},
    {"no overlap: extent 1", CAI_NO_SELF_OVERLAP, 2, {1, 4}, {0, 1}, true},
    {"not negative: C", CAI_NO_NEGATIVE_STRIDES, 2, {3, 4}, {4, 1}, true},
    {"not negative: broadcast", CAI_NO_NEGATIVE_STRIDES, 2, {3, 4}, {0, 1}, true},
    {"not negative: reversed", CAI_NO_NEGATIVE_STRIDES, 2, {3, 4}, {-4, 1}, false},
    {"not negative: reversed columns", CAI_NO_NEGATIVE_STRIDES, 2, {3, 4}, {4, -1}, false},
    {"not negative: extent 1", CAI_NO_NEGATIVE_STRIDES, 2, {1, 4}, {-4, 1}, true},
    {"not negative and F: reversed", CAI_NO_NEGATIVE_STRIDES | CAI_F_CONTIGUOUS, 1, {3}, {-1}, false},
    {"not negative, no overlap: broadcast", CAI_NO_NEGATIVE_STRIDES | CAI_NO_SELF_OVERLAP, 2, {3, 4}, {0, 1}, false},
    {"not negative, no overlap: reversed", CAI_NO_NEGATIVE_STRIDES | CAI_NO_SELF_OVERLAP, 2, {3, 4}, {-4, 1}, false},
    {"not negative: empty", CAI_NO_NEGATIVE_STRIDES, 2, {0, 4}, {-4, -1}, true},
};

Test(request, pitfall_32_layout)
{
    for (size_t i = 0; i < UNIT_COUNT(layout_cases); i++) {
        const layout_case_t *row = &layout_cases[i];
        cai_request_t        request = cai_request(row->name);
        sample_t             sample;
        make_sample(&sample, cai_float32(), row->ndim, row->shape);
        memcpy(sample.strides, row->strides, sizeof(row->strides));
        request.require = row->require;
        EXPECT_STATUS(row->met ? CAI_OK : CAI_ERROR_LAYOUT_MISMATCH, &request, &sample, 0, NULL, "%s", row->name);
    }
}

Test(request, pitfall_30_layout_without_strides)
{
    static const int64_t  shape[] = {3, 4};
    static const uint32_t met[] = {CAI_C_CONTIGUOUS, CAI_CONTIGUOUS, CAI_NO_SELF_OVERLAP, CAI_NO_NEGATIVE_STRIDES};
    cai_request_t         request = cai_request("x");
    sample_t              sample;
    make_sample(&sample, cai_float32(), 2, shape);
    sample.tensor.strides = NULL;
    for (size_t i = 0; i < UNIT_COUNT(met); i++) {
        request.require = met[i];
        EXPECT_STATUS(CAI_OK, &request, &sample, 0, NULL, "0x%x", met[i]);
    }
    request.require = CAI_F_CONTIGUOUS;
    EXPECT_STATUS(CAI_ERROR_LAYOUT_MISMATCH, &request, &sample, 0, NULL, "Fortran");
}

/* Without elements no stride means anything, whatever else is asked for. */
Test(request, pitfall_31_empty_arrays_meet_every_layout)
{
    static const int64_t  shape[] = {0, 3};
    static const uint32_t wishes[] = {
        CAI_NO_NEGATIVE_STRIDES | CAI_C_CONTIGUOUS,
        CAI_NO_NEGATIVE_STRIDES | CAI_F_CONTIGUOUS,
        CAI_NO_NEGATIVE_STRIDES | CAI_NO_SELF_OVERLAP | CAI_F_CONTIGUOUS | CAI_CONTIGUOUS,
    };
    cai_request_t request = cai_request("x");
    sample_t      sample;
    make_sample(&sample, cai_float32(), 2, shape);
    sample.strides[0] = -3;
    sample.strides[1] = -1;
    for (size_t i = 0; i < UNIT_COUNT(wishes); i++) {
        request.require = wishes[i];
        EXPECT_STATUS(CAI_OK, &request, &sample, 0, NULL, "0x%x", wishes[i]);
    }
}

Test(request, pitfall_29_alignment)
{
    static const int64_t shape[] = {3}, empty[] = {0};
    static const struct {
        const char *name;
        cai_dtype_t dtype;
        uint64_t    data, byte_offset;
        bool        aligned;
    } rows[] = {
        {"float32", CAI_FLOAT32, ADDRESS, 0, true},
        {"float32 + 2", CAI_FLOAT32, ADDRESS + 2, 0, false},
        {"float32, offset 1", CAI_FLOAT32, ADDRESS, 1, false},
        {"float32 + 3, offset 1", CAI_FLOAT32, ADDRESS + 3, 1, true},
        {"complex128 + 8", CAI_COMPLEX128, ADDRESS + 8, 0, false},
        {"uint8 + 1", CAI_UINT8, ADDRESS + 1, 0, true},
        {"float32, not to 64 or 256 bytes", CAI_FLOAT32, ADDRESS + 4, 0, true},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        cai_request_t request = cai_request(rows[i].name);
        sample_t      sample;
        make_sample(&sample, rows[i].dtype, 1, shape);
        sample.tensor.data = (void *)rows[i].data;
        sample.tensor.byte_offset = rows[i].byte_offset;
        EXPECT_STATUS(rows[i].aligned ? CAI_OK : CAI_ERROR_LAYOUT_MISMATCH, &request, &sample, 0, NULL, "%s",
                      rows[i].name);
        request.require = CAI_UNALIGNED_OK;
        EXPECT_STATUS(CAI_OK, &request, &sample, 0, NULL, "%s, any address will do", rows[i].name);
        request.require = CAI_UNALIGNED_OK | CAI_C_CONTIGUOUS;
        EXPECT_STATUS(CAI_OK, &request, &sample, 0, NULL, "%s, any address, contiguous", rows[i].name);
        make_sample(&sample, rows[i].dtype, 1, empty);
        sample.tensor.data = (void *)rows[i].data;
        sample.tensor.byte_offset = rows[i].byte_offset;
        request.require = 0;
        EXPECT_STATUS(CAI_OK, &request, &sample, 0, NULL, "%s, empty", rows[i].name);
    }
}

Test(request, pitfall_01_nonempty)
{
    static const struct {
        const char *name;
        int32_t     ndim;
        int64_t     shape[3];
        bool        met;
    } rows[] = {
        {"0-d", 0, {0}, true},
        {"one", 1, {1}, true},
        {"none", 1, {0}, false},
        {"some", 2, {3, 4}, true},
        {"none first", 2, {0, 4}, false},
        {"none last", 3, {3, 4, 0}, false},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        cai_request_t request = cai_request(rows[i].name);
        sample_t      sample;
        make_sample(&sample, cai_float32(), rows[i].ndim, rows[i].shape);
        EXPECT_STATUS(CAI_OK, &request, &sample, 0, NULL, "%s, not asked", rows[i].name);
        request.require = CAI_NONEMPTY;
        EXPECT_STATUS(rows[i].met ? CAI_OK : NO, &request, &sample, 0, NULL, "%s", rows[i].name);
    }
}

Test(request, pitfall_15_writable)
{
    static const int64_t  shape[] = {3};
    static const uint32_t others[] = {0, CAI_COPIED, CAI_SUBBYTE_PADDED, 8, 16, 8 | 16 | CAI_COPIED};
    cai_request_t         request = cai_request("x");
    sample_t              sample;
    make_sample(&sample, cai_float32(), 1, shape);
    for (size_t i = 0; i < UNIT_COUNT(others); i++) {
        request.require = 0;
        EXPECT_STATUS(CAI_OK, &request, &sample, others[i], NULL, "flags 0x%x", others[i]);
        EXPECT_STATUS(CAI_OK, &request, &sample, others[i] | CAI_READONLY, NULL, "flags 0x%x, read-only", others[i]);
        request.require = CAI_WRITABLE;
        EXPECT_STATUS(CAI_OK, &request, &sample, others[i], NULL, "flags 0x%x, writable", others[i]);
        EXPECT_STATUS(CAI_ERROR_READ_ONLY_ACCESS, &request, &sample, others[i] | CAI_READONLY, NULL,
                      "flags 0x%x, read-only, writable", others[i]);
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

typedef struct memory_case {
    const char *name;
    int32_t     device_type;
    uint32_t    memory;
    const char *words;
} memory_case_t;

static const memory_case_t memories[] = {
    {"host", 1, CAI_ON_HOST, "host"},
    {"CUDA", 2, CAI_ON_CUDA, "CUDA"},
    {"pinned", 3, CAI_ON_PINNED, "pinned host"},
    {"managed", 13, CAI_ON_MANAGED, "managed"},
    {"OpenCL", 4, 0, "device type 4"},
    {"retired", 5, 0, "device type 5"},
    {"ROCm", 10, 0, "device type 10"},
    {"ROCm host", 11, 0, "device type 11"},
    {"OneAPI", 14, 0, "device type 14"},
    {"unknown", 42, 0, "device type 42"},
    {"zero", 0, 0, "device type 0"},
    {"negative", INT32_MIN, 0, "device type -2147483648"},
    {"as large as can be", INT32_MAX, 0, "device type 2147483647"},
};

Test(request, pitfall_39_memory)
{
    static const int64_t shape[] = {3};
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        const memory_case_t *row = &memories[i];
        char                 text[32];
        sample_t             sample;
        make_sample(&sample, cai_float32(), 1, shape);
        sample.tensor.device.device_type = row->device_type;
        cr_expect_eq(cai_device_memory(row->device_type), row->memory, "%s", row->name);
        cr_expect_str_eq(cai_device_words(row->device_type, text), row->words, "%s", row->name);
        for (uint32_t memory = 0; memory <= CAI_ANYWHERE; memory++) {
            cai_request_t  request = cai_request(row->name);
            const uint32_t wanted = memory != 0 ? memory : cai_request_memory(&request);
            request.memory = memory;
            EXPECT_STATUS((wanted & row->memory) != 0 ? CAI_OK : CAI_ERROR_DEVICE_MISMATCH, &request, &sample, 0, NULL,
                          "%s, asked for 0x%x", row->name, memory);
        }
    }
}

Test(request, pitfall_39_memory_by_default)
{
    cai_request_t request = cai_request("x");
#if defined(CAI_NO_CUDA)
    cr_expect_eq(cai_request_memory(&request), CAI_ON_HOST);
#else
    cr_expect_eq(cai_request_memory(&request), CAI_ON_CUDA | CAI_ON_MANAGED);
#endif
    for (uint32_t memory = 1; memory <= CAI_ANYWHERE; memory++) {
        request.memory = memory;
        cr_expect_eq(cai_request_memory(&request), memory);
    }
}

/* ---- which wish is named ----------------------------------------------------------------------------------------- */

/* The order is memory, dtype, shape, layout, writable: of several wishes that are not met, the first is named. */
typedef struct order_case {
    const char  *name;
    bool         memory, dtype, ndim, extent, layout, readonly; /* what is wrong */
    cai_status_t status;
} order_case_t;

static const order_case_t orders[] = {
    {"all but the extent", true, true, true, false, true, true, CAI_ERROR_DEVICE_MISMATCH},
    {"memory and dtype", true, true, false, false, false, false, CAI_ERROR_DEVICE_MISMATCH},
    {"memory and read-only", true, false, false, false, false, true, CAI_ERROR_DEVICE_MISMATCH},
    {"from dtype on", false, true, true, false, true, true, CAI_ERROR_DTYPE_MISMATCH},
    {"dtype and layout", false, true, false, false, true, false, CAI_ERROR_DTYPE_MISMATCH},
    {"dtype and extent", false, true, false, true, false, false, CAI_ERROR_DTYPE_MISMATCH},
    {"from ndim on", false, false, true, false, true, true, CAI_ERROR_INVALID_SHAPE},
    {"ndim and layout", false, false, true, false, true, false, CAI_ERROR_INVALID_SHAPE},
    {"ndim and read-only", false, false, true, false, false, true, CAI_ERROR_INVALID_SHAPE},
    {"layout and read-only", false, false, false, false, true, true, CAI_ERROR_LAYOUT_MISMATCH},
    {"read-only", false, false, false, false, false, true, CAI_ERROR_READ_ONLY_ACCESS},
    {"extent", false, false, false, true, false, false, CAI_ERROR_INVALID_SHAPE},
    {"nothing", false, false, false, false, false, false, CAI_OK},
};

static const order_case_t extent_orders[] = {
    {"extent and layout", false, false, false, true, true, false, CAI_ERROR_INVALID_SHAPE},
    {"extent and read-only", false, false, false, true, false, true, CAI_ERROR_INVALID_SHAPE},
    {"from extent on", false, false, false, true, true, true, CAI_ERROR_INVALID_SHAPE},
};

static void check_orders(const order_case_t *rows, size_t count)
{
    static const cai_request_t request = {.name = "x",
                                          .dtype = CAI_FLOAT32,
                                          .ndim = 2,
                                          .shape = {3},
                                          .memory = CAI_ON_CUDA,
                                          .require = CAI_WRITABLE | CAI_C_CONTIGUOUS};
    for (size_t i = 0; i < count; i++) {
        const order_case_t *row = &rows[i];
        const int64_t       shape[] = {row->extent ? 5 : 3, 4, 2};
        sample_t            sample;
        make_sample(&sample, row->dtype ? cai_float64() : cai_float32(), row->ndim ? 3 : 2, shape);
        sample.tensor.device.device_type = row->memory ? CAI_DEVICE_CPU : CAI_DEVICE_CUDA;
        if (row->layout)
            sample.strides[0] += 2;
        EXPECT_STATUS(row->status, &request, &sample, row->readonly ? CAI_READONLY : 0, NULL, "%s", row->name);
    }
}

Test(request, the_first_wish_is_named)
{
    check_orders(orders, UNIT_COUNT(orders));
}

Test(request, extents_are_named_before_layout)
{
    check_orders(extent_orders, UNIT_COUNT(extent_orders));
}

Test(request, likeness_is_named_in_order)
{
    static const cai_request_t any = {.name = "a", .memory = CAI_ANYWHERE};
    static const struct {
        const char  *name;
        uint32_t     require;
        bool         memory, dtype, shape;
        cai_status_t status;
    } rows[] = {
        {"memory first", CAI_SAME_DEVICE | CAI_SAME_DTYPE | CAI_SAME_SHAPE, true, true, true,
         CAI_ERROR_DEVICE_MISMATCH},
        {"dtype first", CAI_SAME_DEVICE | CAI_SAME_DTYPE | CAI_SAME_SHAPE, false, true, true, CAI_ERROR_DTYPE_MISMATCH},
        {"shape", CAI_SAME_DEVICE | CAI_SAME_DTYPE | CAI_SAME_SHAPE, false, false, true, CAI_ERROR_INVALID_SHAPE},
    };
    static const int64_t shape[] = {3}, other[] = {4};
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        cai_request_t request = cai_request(rows[i].name);
        sample_t      a, b;
        cai_shared_t  shared;
        memset(&shared, 0, sizeof(shared));
        request.require = rows[i].require;
        request.memory = CAI_ANYWHERE;
        make_sample(&a, cai_float32(), 1, shape);
        make_sample(&b, rows[i].dtype ? cai_float64() : cai_float32(), 1, rows[i].shape ? other : shape);
        a.tensor.device.device_type = CAI_DEVICE_CUDA;
        b.tensor.device.device_type = rows[i].memory ? CAI_DEVICE_CPU : CAI_DEVICE_CUDA;
        EXPECT_STATUS(CAI_OK, &any, &a, 0, &shared, "%s: first", rows[i].name);
        EXPECT_STATUS(rows[i].status, &request, &b, 0, &shared, "%s", rows[i].name);
    }
}

/* A shape that is not that of argument 0 is named before the layout and the read-only memory. */
Test(request, likeness_is_named_before_layout)
{
    static const cai_request_t any = {.name = "a"};
    static const cai_request_t want = {.name = "b",
                                       .require = CAI_SAME_DTYPE | CAI_SAME_SHAPE | CAI_C_CONTIGUOUS | CAI_WRITABLE};
    static const int64_t       shape[] = {3}, other[] = {4};
    sample_t                   a, b;
    cai_shared_t               shared;
    memset(&shared, 0, sizeof(shared));
    make_sample(&a, cai_float32(), 1, shape);
    make_sample(&b, cai_float32(), 1, other);
    b.strides[0] = 2;
    EXPECT_STATUS(CAI_OK, &any, &a, 0, &shared, "first");
    EXPECT_STATUS(CAI_ERROR_INVALID_SHAPE, &want, &b, CAI_READONLY, &shared, "shape");
    make_sample(&b, cai_float64(), 1, shape);
    EXPECT_STATUS(CAI_ERROR_DTYPE_MISMATCH, &want, &b, CAI_READONLY, &shared, "dtype");
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */

typedef struct text_case {
    cai_request_t request;
    cai_dtype_t   dtype;
    int32_t       ndim, device_type;
    int64_t       shape[NDIM];
    bool          strided;
    int64_t       strides[NDIM];
    uint64_t      data;
    uint32_t      flags;
    cai_status_t  status;
    const char   *message;
} text_case_t;

static const cai_dtype_t three_dtypes[] = {CAI_FLOAT32, CAI_FLOAT64, CAI_BFLOAT16};
static const cai_dtype_t float32_dtype = CAI_FLOAT32;

/* clang-format off */
static const text_case_t texts[] = {
    {{.name = "x", .dtype = CAI_FLOAT32, .ndim = 2, .require = CAI_C_CONTIGUOUS | CAI_WRITABLE},
     CAI_FLOAT64, 2, CAI_DEVICE_CUDA, {3, 4}, true, {1, 3}, ADDRESS, CAI_READONLY, CAI_ERROR_DTYPE_MISMATCH,
     "argument 'x': expected float32, 2-d, C-contiguous, writable; got float64, shape (3, 4), strides (1, 3), "
     "read-only"},
    {{.name = "x", .dtype = CAI_FLOAT32, .ndim = 2},
     CAI_FLOAT64, 2, CAI_DEVICE_CUDA, {3, 4}, false, {0}, ADDRESS, 0, CAI_ERROR_DTYPE_MISMATCH,
     "argument 'x': expected float32, 2-d; got float64, shape (3, 4)"},
    {{.dtype = CAI_FLOAT32},
     CAI_INT8, 0, CAI_DEVICE_CUDA, {0}, false, {0}, ADDRESS, 0, CAI_ERROR_DTYPE_MISMATCH,
     "array: expected float32; got int8, shape ()"},
    {{.name = "x", .dtypes = &float32_dtype, .n_dtypes = 1},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_DTYPE_MISMATCH,
     "argument 'x': expected float32; got int8, shape (3,)"},
    {{.name = "x", .dtypes = three_dtypes, .n_dtypes = 2},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_DTYPE_MISMATCH,
     "argument 'x': expected float32 or float64; got int8, shape (3,)"},
    {{.name = "x", .dtypes = three_dtypes, .n_dtypes = 3},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_DTYPE_MISMATCH,
     "argument 'x': expected float32, float64 or bfloat16; got int8, shape (3,)"},
    {{.name = "x"},
     {CAI_CODE_FLOAT, 32, 4}, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_DTYPE_MISMATCH,
     "argument 'x': expected a plain data type; got float32x4, shape (3,)"},
    {{.name = "x", .dtype = CAI_BFLOAT16},
     CAI_OPAQUE(2), 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_DTYPE_MISMATCH,
     "argument 'x': expected bfloat16; got V2, shape (3,) (bytes without a meaning: bfloat16 and float8 have no "
     "typestr, "
     "DLPack carries them)"},
    {{.name = "x", .dtype = CAI_OPAQUE(2), .ndim = 2},
     CAI_OPAQUE(2), 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected V2, 2-d; got V2, shape (3,)"},
    {{.name = "x", .dtype = {99, 8, 1}},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_DTYPE_MISMATCH,
     "argument 'x': expected code 99, 8 bits, 1 lanes; got int8, shape (3,)"},
    {{.name = "x", .ndim = CAI_SCALAR},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected 0-d; got int8, shape (3,)"},
    {{.name = "x", .min_ndim = 2},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected at least 2-d; got int8, shape (3,)"},
    {{.name = "x", .min_ndim = 1},
     CAI_INT8, 0, CAI_DEVICE_CUDA, {0}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected at least 1-d; got int8, shape ()"},
    {{.name = "x", .min_ndim = 1, .max_ndim = 1},
     CAI_INT8, 0, CAI_DEVICE_CUDA, {0}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected 1- to 1-d; got int8, shape ()"},
    {{.name = "x", .max_ndim = 1},
     CAI_INT8, 2, CAI_DEVICE_CUDA, {3, 4}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected at most 1-d; got int8, shape (3, 4)"},
    {{.name = "x", .min_ndim = 2, .max_ndim = 3},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected 2- to 3-d; got int8, shape (3,)"},
    {{.name = "x", .ndim = 2, .shape = {3, 0}},
     CAI_INT8, 2, CAI_DEVICE_CUDA, {4, 4}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected 2-d, shape (3, *); got int8, shape (4, 4)"},
    {{.name = "x", .ndim = 1, .shape = {3}},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {4}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected 1-d, shape (3,); got int8, shape (4,)"},
    {{.name = "x", .shape = {3}},
     CAI_INT8, 2, CAI_DEVICE_CUDA, {4, 4}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected shape (3, ...); got int8, shape (4, 4)"},
    {{.name = "x", .shape = {0, CAI_EMPTY_EXTENT}},
     CAI_INT8, 2, CAI_DEVICE_CUDA, {4, 4}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected shape (*, 0, ...); got int8, shape (4, 4)"},
    {{.name = "x", .ndim = 2, .shape = {E(0), E(0)}},
     CAI_INT8, 2, CAI_DEVICE_CUDA, {4, 5}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected 2-d, shape (n0=4, n0=4); got int8, shape (4, 5)"},
    {{.name = "x", .ndim = 1, .shape = {E(16)}},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {4}, false, {0}, ADDRESS, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected 1-d, shape (CAI_EXTENT(16), which must be less than 16,); got int8, shape (4,)"},
    {{.name = "x", .require = CAI_NONEMPTY},
     CAI_INT8, 2, CAI_DEVICE_CUDA, {0, 5}, false, {0}, 0, 0, CAI_ERROR_INVALID_SHAPE,
     "argument 'x': expected not empty; got int8, shape (0, 5)"},
    {{.name = "x", .require = CAI_C_CONTIGUOUS},
     CAI_INT8, 2, CAI_DEVICE_CUDA, {3, 4}, true, {-8, 2}, ADDRESS, 0, CAI_ERROR_LAYOUT_MISMATCH,
     "argument 'x': expected C-contiguous; got int8, shape (3, 4), strides (-8, 2)"},
    {{.name = "x", .require = CAI_F_CONTIGUOUS},
     CAI_INT8, 2, CAI_DEVICE_CUDA, {3, 4}, false, {0}, ADDRESS, 0, CAI_ERROR_LAYOUT_MISMATCH,
     "argument 'x': expected Fortran-contiguous; got int8, shape (3, 4)"},
    {{.name = "x", .require = CAI_CONTIGUOUS},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {3}, true, {2}, ADDRESS, 0, CAI_ERROR_LAYOUT_MISMATCH,
     "argument 'x': expected contiguous; got int8, shape (3,), strides (2,)"},
    {{.name = "x", .require = CAI_NO_NEGATIVE_STRIDES},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {3}, true, {-1}, ADDRESS, 0, CAI_ERROR_LAYOUT_MISMATCH,
     "argument 'x': expected no negative strides; got int8, shape (3,), strides (-1,)"},
    {{.name = "x", .require = CAI_NO_SELF_OVERLAP | CAI_WRITABLE},
     CAI_INT8, 1, CAI_DEVICE_CUDA, {3}, true, {0}, ADDRESS, 0, CAI_ERROR_LAYOUT_MISMATCH,
     "argument 'x': expected no element reached by two indices, writable; got int8, shape (3,), strides (0,)"},
    {{.name = "x"},
     CAI_FLOAT64, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS + 4, 0, CAI_ERROR_LAYOUT_MISMATCH,
     "argument 'x': expected aligned to 8 bytes; got float64, shape (3,), at address 0x7f0000001004"},
    {{.name = "x", .require = CAI_WRITABLE},
     CAI_FLOAT64, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, CAI_READONLY, CAI_ERROR_READ_ONLY_ACCESS,
     "argument 'x': expected writable; got float64, shape (3,), read-only"},
    {{.name = "x", .memory = CAI_ON_CUDA | CAI_ON_MANAGED},
     CAI_FLOAT64, 1, CAI_DEVICE_CPU, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_DEVICE_MISMATCH,
     "argument 'x': expected in CUDA or managed memory; got float64, shape (3,), in host memory"},
    {{.name = "x", .dtype = CAI_FLOAT64, .memory = CAI_ON_HOST},
     CAI_FLOAT64, 1, CAI_DEVICE_CUDA, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_DEVICE_MISMATCH,
     "argument 'x': expected float64, in host memory; got float64, shape (3,), in CUDA memory"},
    {{.name = "x", .memory = CAI_ANYWHERE},
     CAI_FLOAT64, 1, 42, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_DEVICE_MISMATCH,
     "argument 'x': expected in CUDA or managed or pinned host or host memory; got float64, shape (3,), in device type "
     "42 "
     "memory"},
    {{.name = "x", .memory = CAI_ON_PINNED},
     CAI_FLOAT64, 1, CAI_DEVICE_CUDA_MANAGED, {3}, false, {0}, ADDRESS, 0, CAI_ERROR_DEVICE_MISMATCH,
     "argument 'x': expected in pinned host memory; got float64, shape (3,), in managed memory"},
};
/* clang-format on */

static void make_text_sample(const text_case_t *row, sample_t *sample)
{
    make_sample(sample, row->dtype, row->ndim, row->shape);
    sample->tensor.device.device_type = row->device_type;
    sample->tensor.data = (void *)row->data;
    if (row->strided)
        memcpy(sample->strides, row->strides, sizeof(row->strides));
}

Test(request, texts_of_refusals)
{
    for (size_t i = 0; i < UNIT_COUNT(texts); i++) {
        const text_case_t *row = &texts[i];
        sample_t           sample;
        cai_error_t        error;
        cai_request_t      request = row->request;
        cai_status_t       status;
        if (request.memory == 0)
            request.memory = CAI_ON_CUDA; /* also where the default is another */
        make_text_sample(row, &sample);
        memset(&error, 0x5A, sizeof(error));
        status = cai_request_check(&request, &sample.tensor, row->flags, NULL, &error);
        cr_expect_eq(status, row->status, "row %zu: %s", i, cai_status_name(status));
        cr_expect_str_eq(error.message, row->message, "row %zu: %s", i, error.message);
        cr_expect_eq(error.status, row->status, "row %zu", i);
        cr_expect_eq(error.cuda_code, 0, "row %zu", i);
        cr_expect_null(error.cuda_name, "row %zu", i);
    }
}

/* The message of another status, and with a source, for the same request and tensor. */
Test(request, texts_with_a_source)
{
    static const cai_request_t request = {
        .name = "x", .dtype = CAI_FLOAT32, .ndim = 2, .require = CAI_C_CONTIGUOUS | CAI_WRITABLE};
    static const int64_t shape[] = {3, 4};
    sample_t             sample;
    cai_error_t          error;
    make_sample(&sample, cai_float64(), 2, shape);
    sample.strides[0] = 1;
    sample.strides[1] = 3;
    cr_expect_eq(cai_request_explain(&request, &sample.tensor, CAI_READONLY, NULL, CAI_ERROR_READ_ONLY_ACCESS,
                                     "cupy.ndarray via DLPack", &error),
                 CAI_ERROR_READ_ONLY_ACCESS);
    cr_expect_eq(error.status, CAI_ERROR_READ_ONLY_ACCESS);
    cr_expect_str_eq(error.message,
                     "argument 'x': expected float32, 2-d, C-contiguous, writable; got float64, shape (3, 4), "
                     "strides (1, 3), read-only (cupy.ndarray via DLPack)");
    cr_expect_eq(cai_request_explain(&request, &sample.tensor, 0, NULL, CAI_ERROR_MASKED_ARRAY, NULL, &error),
                 CAI_ERROR_MASKED_ARRAY);
    cr_expect_str_eq(error.message,
                     "argument 'x': expected float32, 2-d, C-contiguous, writable; got float64, shape (3, 4), "
                     "strides (1, 3)");
    cr_expect_eq(cai_request_explain(&request, &sample.tensor, 0, NULL, CAI_ERROR_MASKED_ARRAY, "source", NULL),
                 CAI_ERROR_MASKED_ARRAY);
}

Test(request, text_of_a_request_that_wishes_nothing)
{
    static const cai_request_t any = {.name = "x"};
    static const int64_t       shape[] = {3};
    sample_t                   sample;
    cai_error_t                error;
    make_sample(&sample, cai_float64(), 1, shape);
    cr_expect_eq(cai_request_explain(&any, &sample.tensor, 0, NULL, CAI_ERROR_MASKED_ARRAY, NULL, &error),
                 CAI_ERROR_MASKED_ARRAY);
    cr_expect_str_eq(error.message, "argument 'x': expected an array; got float64, shape (3,)");
}

Test(request, texts_of_likeness)
{
    static const cai_request_t any = {.name = "a", .memory = CAI_ANYWHERE, .shape = {E(0)}};
    static const struct {
        cai_request_t request;
        cai_dtype_t   dtype;
        int32_t       device_type;
        cai_status_t  status;
        const char   *message;
    } rows[] = {
        {{.name = "b", .memory = CAI_ANYWHERE, .require = CAI_SAME_DTYPE},
         CAI_INT8,
         CAI_DEVICE_CUDA,
         CAI_ERROR_DTYPE_MISMATCH,
         "argument 'b': expected the dtype of the first argument (float32); got int8, shape (4,)"},
        {{.name = "b", .memory = CAI_ANYWHERE, .require = CAI_SAME_SHAPE},
         CAI_FLOAT32,
         CAI_DEVICE_CUDA,
         CAI_ERROR_INVALID_SHAPE,
         "argument 'b': expected the shape of the first argument (3, 5); got float32, shape (4,)"},
        {{.name = "b", .memory = CAI_ANYWHERE, .require = CAI_SAME_DEVICE},
         CAI_FLOAT32,
         CAI_DEVICE_CPU,
         CAI_ERROR_DEVICE_MISMATCH,
         "argument 'b': expected CUDA memory like the first argument; got float32, shape (4,), in host memory"},
        {{.name = "b", .memory = CAI_ANYWHERE, .ndim = 1, .shape = {E(0)}},
         CAI_FLOAT32,
         CAI_DEVICE_CUDA,
         CAI_ERROR_INVALID_SHAPE,
         "argument 'b': expected 1-d, shape (n0=3,); got float32, shape (4,)"},
        {{.name = "b", .memory = CAI_ANYWHERE, .dtype = CAI_INT8, .ndim = 1, .shape = {E(0)}},
         CAI_FLOAT32,
         CAI_DEVICE_CUDA,
         CAI_ERROR_DTYPE_MISMATCH,
         "argument 'b': expected int8, 1-d, shape (n0=3,); got float32, shape (4,)"},
        {{.name = "b", .memory = CAI_ANYWHERE, .dtype = CAI_INT8, .ndim = 1, .shape = {E(1)}},
         CAI_FLOAT32,
         CAI_DEVICE_CUDA,
         CAI_ERROR_DTYPE_MISMATCH,
         "argument 'b': expected int8, 1-d, shape (n1,); got float32, shape (4,)"},
        {{.name = "b", .memory = CAI_ANYWHERE, .require = CAI_SAME_DTYPE | CAI_SAME_SHAPE | CAI_SAME_DEVICE},
         CAI_INT8,
         CAI_DEVICE_CUDA,
         CAI_ERROR_DTYPE_MISMATCH,
         "argument 'b': expected the dtype of the first argument (float32), the shape of the first argument (3, 5), "
         "CUDA "
         "memory like the first argument; got int8, shape (4,)"},
    };
    static const int64_t shape[] = {3, 5}, other[] = {4};
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        sample_t     a, b;
        cai_shared_t shared;
        cai_error_t  error;
        cai_status_t status;
        memset(&shared, 0, sizeof(shared));
        make_sample(&a, cai_float32(), 2, shape);
        make_sample(&b, rows[i].dtype, 1, other);
        a.tensor.device.device_type = CAI_DEVICE_CUDA;
        b.tensor.device.device_type = rows[i].device_type;
        cr_assert_eq(cai_request_check(&any, &a.tensor, 0, &shared, NULL), CAI_OK);
        status = cai_request_check(&rows[i].request, &b.tensor, 0, &shared, &error);
        cr_expect_eq(status, rows[i].status, "row %zu: %s", i, cai_status_name(status));
        cr_expect_str_eq(error.message, rows[i].message, "row %zu: %s", i, error.message);
    }
}

/* Shape and strides of 64 dimensions are longer than a message: it is cut, marked, and whole up to there. */
Test(request, texts_of_64_dimensions_are_cut)
{
    static const cai_request_t request = {.name = "x", .dtype = CAI_FLOAT64, .memory = CAI_ANYWHERE};
    int64_t                    shape[CAI_MAX_NDIM], strides[CAI_MAX_NDIM];
    cai_tensor_t               tensor;
    cai_error_t                error;
    const char                *text = error.message;
    memset(&tensor, 0, sizeof(tensor));
    tensor.data = (void *)ADDRESS;
    tensor.device.device_type = CAI_DEVICE_CUDA;
    tensor.dtype = cai_float32();
    tensor.ndim = CAI_MAX_NDIM;
    tensor.shape = shape;
    tensor.strides = strides;
    for (int i = 0; i < CAI_MAX_NDIM; i++) {
        shape[i] = 1;
        strides[i] = INT64_MIN;
    }
    shape[0] = shape[63] = 3;
    cr_expect_neq(cai_request_check(&request, &tensor, 0, NULL, &error), CAI_OK);
    cr_expect_eq(strlen(text), CAI_ERROR_MESSAGE_SIZE - 1);
    cr_expect_eq(strncmp(text, "argument 'x': expected float64; got float32, shape (3, 1, 1, ", 60), 0, "%s", text);
    cr_expect_not_null(strstr(text, ", 1, 3), strides (-9223372036854775808, -9223372036854775808, "), "%s", text);
    cr_expect_str_eq(text + CAI_ERROR_MESSAGE_SIZE - 4, "...");
}

Test(request, texts_with_a_long_name_are_cut)
{
    static const int64_t shape[] = {3};
    char                 name[3000];
    cai_request_t        request;
    sample_t             sample;
    cai_error_t          error;
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    request = cai_request(name);
    request.dtype = cai_float64();
    request.memory = CAI_ANYWHERE;
    make_sample(&sample, cai_float32(), 1, shape);
    cr_expect_eq(cai_request_check(&request, &sample.tensor, 0, NULL, &error), CAI_ERROR_DTYPE_MISMATCH);
    cr_expect_eq(strlen(error.message), CAI_ERROR_MESSAGE_SIZE - 1);
    cr_expect_str_eq(error.message + CAI_ERROR_MESSAGE_SIZE - 4, "...");
    cr_expect_eq(strncmp(error.message, "argument 'nnn", 13), 0);
}

/* A check that succeeds writes no error. */
Test(request, success_writes_no_error)
{
    static const cai_request_t any = {.memory = CAI_ANYWHERE};
    static const int64_t       shape[] = {3};
    sample_t                   sample;
    cai_error_t                error, before;
    memset(&error, 0x5A, sizeof(error));
    memset(&before, 0x5A, sizeof(before));
    make_sample(&sample, cai_float32(), 1, shape);
    cr_expect_eq(cai_request_check(&any, &sample.tensor, 0, NULL, &error), CAI_OK);
    cr_expect_eq(memcmp(&error, &before, sizeof(error)), 0);
}

/* Neither the request nor the tensor is written to. */
Test(request, inputs_are_only_read)
{
    for (size_t i = 0; i < UNIT_COUNT(texts); i++) {
        sample_t      sample, before;
        cai_request_t request = texts[i].request, copy = texts[i].request;
        cai_error_t   error;
        make_text_sample(&texts[i], &sample);
        before = sample;
        (void)!cai_request_check(&request, &sample.tensor, texts[i].flags, NULL, &error);
        cr_expect_eq(memcmp(&request, &copy, sizeof(copy)), 0, "row %zu: the request", i);
        cr_expect_eq(memcmp(&sample, &before, sizeof(before)), 0, "row %zu: the tensor", i);
    }
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

/* One static request may be used by all threads at once; what the arguments share belongs to the call. */
enum { N_THREADS = 4, N_ROUNDS = 2000 };

static const cai_request_t common = {
    .name = "x", .dtype = CAI_FLOAT32, .memory = CAI_ANYWHERE, .ndim = 2, .shape = {E(0), E(0)}};

static void *check_common(void *argument)
{
    size_t *wrong = (size_t *)argument;
    for (int64_t i = 1; i <= N_ROUNDS; i++) {
        const int64_t square[] = {i, i}, other[] = {i, i + 1};
        sample_t      a, b;
        cai_shared_t  shared;
        cai_error_t   error;
        char          expected[128];
        memset(&shared, 0, sizeof(shared));
        make_sample(&a, cai_float32(), 2, square);
        make_sample(&b, cai_float32(), 2, other);
        snprintf(expected, sizeof(expected),
                 "argument 'x': expected float32, 2-d, shape (n0=%d, n0=%d); got float32, shape (%d, %d)", (int)i,
                 (int)i, (int)i, (int)i + 1);
        if (cai_request_check(&common, &a.tensor, 0, &shared, &error) != CAI_OK ||
            cai_request_check(&common, &b.tensor, 0, &shared, &error) != CAI_ERROR_INVALID_SHAPE ||
            strcmp(error.message, expected) != 0)
            ++*wrong;
    }
    return NULL;
}

Test(request, threads_share_a_request)
{
    pthread_t threads[N_THREADS];
    size_t    wrong[N_THREADS] = {0};
    for (size_t i = 0; i < N_THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, check_common, &wrong[i]), 0);
    for (size_t i = 0; i < N_THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
        cr_expect_eq(wrong[i], 0, "thread %zu: %zu wrong", i, wrong[i]);
    }
}
