/*
 * Checks view.h: that a view copies what a producer shows, validates the copy, and brings it into the promised form.
 */
#include <cai/view.h>

#include "unit.h"
#include "unit_random.h"

#include <stdlib.h>

TestSuite(view, .timeout = UNIT_TIMEOUT);

#define ADDRESS UINT64_C(0x7F0000001000)
#define NDIM    4
#define TERA    (INT64_C(1) << 40)

/* A view as an author has it: on the stack, with anything in it. */
static void make_view(cai_view_t *view)
{
    memset(view, 0x5A, sizeof(*view));
    cai_impl_view_reset(view);
}

static cai_tensor_t make_tensor(cai_dtype_t dtype, int32_t ndim, int64_t *shape, int64_t *strides)
{
    cai_tensor_t tensor;
    memset(&tensor, 0, sizeof(tensor));
    tensor.data = (void *)ADDRESS;
    tensor.device.device_type = CAI_DEVICE_CUDA;
    tensor.device.device_id = 1;
    tensor.ndim = ndim;
    tensor.dtype = dtype;
    tensor.shape = shape;
    tensor.strides = strides;
    return tensor;
}

/* ---- what a view holds ------------------------------------------------------------------------------------------- */

Test(view, reset_holds_nothing)
{
    cai_view_t view;
    make_view(&view);
    cr_expect_eq(view.protocol, 0);
    cr_expect_eq(view.flags, 0);
    cr_expect_null(view.stream);
    cr_expect_null(view.impl_object);
    cr_expect_null(view.impl_mask);
    cr_expect_null(view.impl_descr);
    cr_expect_null(view.impl_interface);
    cr_expect_null(view.impl_failure);
    cr_expect(view.impl_give_back == NULL);
    cr_expect_eq(view.tensor.shape, view.impl_shape);
    cr_expect_eq(view.tensor.strides, view.impl_strides);
}

/* Releasing it is harmless: nothing to wait for, whatever was in the memory before. */
Test(view, reset_has_nothing_to_wait_for)
{
    for (int source = CAI_IMPL_SOURCE_READY; source <= CAI_IMPL_SOURCE_ORDERED; source++) {
        for (int mode = CAI_ORDER_WAIT; mode <= CAI_ORDER_NONE; mode++) {
            cai_view_t view;
            memset(&view, 0x5A, sizeof(view));
            view.impl_order.source = (cai_impl_source_t)source;
            view.impl_order.mode = (cai_order_mode_t)mode;
            view.impl_order.producer = CAI_STREAM_LEGACY;
            cai_impl_view_reset(&view);
            cr_expect_eq(cai_impl_order_before(&view.impl_order), CAI_IMPL_BEFORE_NOTHING, "source %d, mode %d", source,
                         mode);
            cr_expect_eq(cai_impl_order_after(&view.impl_order), 0, "source %d, mode %d", source, mode);
        }
    }
}

Test(view, shape_and_strides_are_in_the_view)
{
    cai_view_t view;
    cr_expect_eq(sizeof(view.impl_shape), CAI_MAX_NDIM * sizeof(int64_t));
    cr_expect_eq(sizeof(view.impl_strides), CAI_MAX_NDIM * sizeof(int64_t));
    cr_expect_lt(sizeof(view), 1500, "%zu bytes on the stack of an author", sizeof(view));
}

typedef struct protocol_case {
    uint32_t    protocol;
    const char *name;
} protocol_case_t;

static const protocol_case_t protocols[] = {
    {CAI_VIA_EXCHANGE, "DLPack exchange API"},
    {CAI_VIA_BUFFER, "buffer protocol"},
    {CAI_VIA_CUDA_ARRAY_INTERFACE, "CUDA Array Interface"},
    {CAI_VIA_CUDA_ARRAY_INTERFACE_3, "CUDA Array Interface"},
    {CAI_VIA_DLPACK, "DLPack"},
    {0, "no protocol"},
    {1u << 31, "no protocol"},
};

Test(view, names_of_protocols)
{
    for (size_t i = 0; i < UNIT_COUNT(protocols); i++)
        cr_expect_str_eq(cai_protocol_name(protocols[i].protocol), protocols[i].name);
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

Test(view, start_fills_the_header)
{
    cai_view_t         view;
    const cai_device_t device = {CAI_DEVICE_CUDA_MANAGED, 3};
    make_view(&view);
    view.tensor.byte_offset = 99;
    cr_expect_eq(cai_impl_view_start(&view, (void *)ADDRESS, device, cai_float64(), 3, NULL), CAI_OK);
    cr_expect_eq(view.tensor.data, (void *)ADDRESS);
    cr_expect_eq(view.tensor.device.device_type, CAI_DEVICE_CUDA_MANAGED);
    cr_expect_eq(view.tensor.device.device_id, 3);
    cr_expect_eq(view.tensor.ndim, 3);
    cr_expect_eq(view.tensor.byte_offset, 0);
    cr_expect(cai_dtype_equal(view.tensor.dtype, cai_float64()));
    cr_expect_eq(view.tensor.shape, view.impl_shape);
    cr_expect_eq(view.tensor.strides, view.impl_strides);
}

Test(view, pitfall_16_start_with_any_number_of_dimensions)
{
    static const struct {
        int64_t      ndim;
        cai_status_t status;
    } rows[] = {
        {0, CAI_OK},
        {1, CAI_OK},
        {64, CAI_OK},
        {65, CAI_ERROR_INVALID_SHAPE},
        {-1, CAI_ERROR_INVALID_SHAPE},
        {INT64_C(1) << 32, CAI_ERROR_INVALID_SHAPE},
        {(INT64_C(1) << 32) + 2, CAI_ERROR_INVALID_SHAPE},
        {INT64_MAX, CAI_ERROR_INVALID_SHAPE},
        {INT64_MIN, CAI_ERROR_INVALID_SHAPE},
    };
    const cai_device_t device = {CAI_DEVICE_CUDA, 0};
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        cai_view_t  view;
        cai_error_t error;
        char        number[32];
        make_view(&view);
        cr_expect_eq(cai_impl_view_start(&view, (void *)ADDRESS, device, cai_float64(), rows[i].ndim, &error),
                     rows[i].status, "%lld", (long long)rows[i].ndim);
        if (rows[i].status == CAI_OK)
            continue;
        snprintf(number, sizeof(number), "%lld", (long long)rows[i].ndim);
        cr_expect_not_null(strstr(error.message, number), "%s: %s", number, error.message);
        cr_expect_not_null(strstr(error.message, "0 to 64"), "%s: %s", number, error.message);
        cr_expect_eq(cai_impl_view_start(&view, (void *)ADDRESS, device, cai_float64(), rows[i].ndim, NULL),
                     rows[i].status);
    }
}

Test(view, start_with_an_unknown_dtype)
{
    static const cai_dtype_t unknown[] = {{99, 8, 1}, {CAI_CODE_FLOAT, 32, 0}, {CAI_CODE_FLOAT, 24, 1}};
    const cai_device_t       device = {CAI_DEVICE_CUDA, 0};
    for (size_t i = 0; i < UNIT_COUNT(unknown); i++) {
        cai_view_t view;
        make_view(&view);
        cr_expect_eq(cai_impl_view_start(&view, (void *)ADDRESS, device, unknown[i], 1, NULL), CAI_ERROR_UNKNOWN_DTYPE,
                     "%zu", i);
    }
}

/* ---- strides in bytes -------------------------------------------------------------------------------------------- */

typedef struct stride_case {
    const char  *name;
    cai_dtype_t  dtype;
    int64_t      extent, bytes;
    cai_status_t status;
    int64_t      elements;
} stride_case_t;

static const stride_case_t byte_strides[] = {
    {"one item", CAI_FLOAT32, 3, 4, CAI_OK, 1},
    {"several", CAI_FLOAT32, 3, 4000, CAI_OK, 1000},
    {"zero", CAI_FLOAT32, 3, 0, CAI_OK, 0},
    {"negative", CAI_FLOAT32, 3, -8, CAI_OK, -2},
    {"one byte", CAI_UINT8, 3, -7, CAI_OK, -7},
    {"opaque", CAI_OPAQUE(12), 3, 36, CAI_OK, 3},
    {"vector", {CAI_CODE_FLOAT, 32, 4}, 3, 32, CAI_OK, 2},
    {"complex128", CAI_COMPLEX128, 3, -16, CAI_OK, -1},
    {"far", CAI_FLOAT64, 3, INT64_MAX - 7, CAI_OK, (INT64_MAX - 7) / 8},
    {"far below", CAI_FLOAT64, 3, INT64_MIN, CAI_OK, INT64_MIN / 8},
    /* no multiple: a field of a record, for one */
    {"odd", CAI_FLOAT32, 3, 5, CAI_ERROR_INVALID_STRIDES, 0},
    {"half", CAI_FLOAT32, 3, 2, CAI_ERROR_INVALID_STRIDES, 0},
    {"less than one", CAI_FLOAT32, 2, 1, CAI_ERROR_INVALID_STRIDES, 0},
    {"negative and odd", CAI_FLOAT32, 3, -6, CAI_ERROR_INVALID_STRIDES, 0},
    {"record", CAI_FLOAT64, 3, 20, CAI_ERROR_INVALID_STRIDES, 0},
    {"opaque, odd", CAI_OPAQUE(12), 3, 16, CAI_ERROR_INVALID_STRIDES, 0},
    {"as far as can be", CAI_FLOAT64, 3, INT64_MAX, CAI_ERROR_INVALID_STRIDES, 0},
};

Test(view, pitfall_03_byte_strides)
{
    const cai_device_t device = {CAI_DEVICE_CUDA, 0};
    for (size_t i = 0; i < UNIT_COUNT(byte_strides); i++) {
        const stride_case_t *row = &byte_strides[i];
        cai_view_t           view;
        cai_error_t          error;
        cai_status_t         status;
        make_view(&view);
        cr_assert_eq(cai_impl_view_start(&view, (void *)ADDRESS, device, row->dtype, 2, NULL), CAI_OK, "%s", row->name);
        view.impl_shape[0] = 7;
        view.impl_shape[1] = row->extent;
        view.impl_strides[0] = 55;
        status = cai_impl_view_set_byte_stride(&view, 1, row->bytes, &error);
        cr_expect_eq(status, row->status, "%s: %s", row->name, cai_status_name(status));
        cr_expect_eq(cai_impl_view_set_byte_stride(&view, 1, row->bytes, NULL), row->status, "%s", row->name);
        cr_expect_eq(view.impl_strides[0], 55, "%s: another dimension", row->name);
        if (row->status == CAI_OK) {
            cr_expect_eq(view.impl_strides[1], row->elements, "%s: %lld", row->name, (long long)view.impl_strides[1]);
        } else {
            char text[32];
            cr_expect_not_null(strstr(error.message, "dimension 1"), "%s: %s", row->name, error.message);
            snprintf(text, sizeof(text), "%lld bytes", (long long)row->bytes);
            cr_expect_not_null(strstr(error.message, text), "%s: %s", row->name, error.message);
        }
    }
}

/* Where the extent is 1 or less the stride means nothing, and anything is accepted. */
Test(view, pitfall_31_byte_strides_that_mean_nothing)
{
    static const int64_t extents[] = {0, 1}, strides[] = {1, 5, -3, INT64_MAX, INT64_MIN, INT64_MIN + 1};
    const cai_device_t   device = {CAI_DEVICE_CUDA, 0};
    for (size_t i = 0; i < UNIT_COUNT(extents); i++) {
        for (size_t j = 0; j < UNIT_COUNT(strides); j++) {
            cai_view_t view;
            make_view(&view);
            cr_assert_eq(cai_impl_view_start(&view, (void *)ADDRESS, device, cai_float64(), 1, NULL), CAI_OK);
            view.impl_shape[0] = extents[i];
            cr_expect_eq(cai_impl_view_set_byte_stride(&view, 0, strides[j], NULL), CAI_OK, "%lld",
                         (long long)strides[j]);
            cr_expect_eq(cai_impl_view_settle(&view, NULL), CAI_OK, "%lld", (long long)strides[j]);
            cr_expect(view.impl_layout.c_contiguous, "%lld", (long long)strides[j]);
        }
    }
}

/* An extent of 0 makes all strides of the array meaningless. */
Test(view, pitfall_01_byte_strides_of_empty_arrays)
{
    const cai_device_t device = {CAI_DEVICE_CUDA, 0};
    cai_view_t         view;
    make_view(&view);
    cr_assert_eq(cai_impl_view_start(&view, NULL, device, cai_float32(), 2, NULL), CAI_OK);
    view.impl_shape[0] = 0;
    view.impl_shape[1] = 3;
    cr_expect_eq(cai_impl_view_set_byte_stride(&view, 0, 12, NULL), CAI_OK);
    cr_expect_eq(cai_impl_view_set_byte_stride(&view, 1, 5, NULL), CAI_OK);
}

/* ---- copy -------------------------------------------------------------------------------------------------------- */

Test(view, copy_has_arrays_of_its_own)
{
    int64_t            shape[NDIM] = {2, 3, 4, 5}, strides[NDIM] = {-60, 20, 0, 1};
    const int64_t      shape_before[NDIM] = {2, 3, 4, 5}, strides_before[NDIM] = {-60, 20, 0, 1};
    cai_tensor_t       source = make_tensor(cai_int16(), NDIM, shape, strides);
    const cai_tensor_t before = source;
    cai_view_t         view;
    make_view(&view);
    source.byte_offset = 24;
    cr_expect_eq(cai_impl_view_copy(&view, &source, NULL), CAI_OK);
    cr_expect_eq(view.tensor.shape, view.impl_shape);
    cr_expect_eq(view.tensor.strides, view.impl_strides);
    cr_expect_eq(memcmp(view.impl_shape, shape_before, sizeof(shape)), 0);
    cr_expect_eq(memcmp(view.impl_strides, strides_before, sizeof(strides)), 0);
    cr_expect_eq(view.tensor.data, source.data);
    cr_expect_eq(view.tensor.byte_offset, 24);
    cr_expect_eq(view.tensor.ndim, NDIM);
    cr_expect_eq(view.tensor.device.device_type, CAI_DEVICE_CUDA);
    cr_expect_eq(view.tensor.device.device_id, 1);
    cr_expect(cai_dtype_equal(view.tensor.dtype, cai_int16()));
    cr_expect_eq(view.impl_shape[NDIM], INT64_C(0x5A5A5A5A5A5A5A5A), "more was copied than there is");
    cr_expect_eq(view.impl_strides[NDIM], INT64_C(0x5A5A5A5A5A5A5A5A), "more was copied than there is");
    /* what the producer does to its arrays afterwards does not reach the view */
    memset(shape, 0x5A, sizeof(shape));
    memset(strides, 0x5A, sizeof(strides));
    cr_expect_eq(memcmp(view.impl_shape, shape_before, sizeof(shape)), 0);
    cr_expect_eq(memcmp(view.impl_strides, strides_before, sizeof(strides)), 0);
    cr_expect_eq(source.shape, before.shape);
}

Test(view, pitfall_30_copy_without_strides)
{
    int64_t            shape[3] = {2, 3, 4};
    const cai_tensor_t source = make_tensor(cai_int16(), 3, shape, NULL);
    cai_view_t         view;
    make_view(&view);
    cr_expect_eq(cai_impl_view_copy(&view, &source, NULL), CAI_OK);
    cr_expect_eq(view.tensor.strides, view.impl_strides, "never NULL");
    cr_expect_eq(view.impl_strides[0], 12);
    cr_expect_eq(view.impl_strides[1], 4);
    cr_expect_eq(view.impl_strides[2], 1);
    cr_expect_null(source.strides, "the producer's struct was written to");
    cr_expect_eq(cai_impl_view_settle(&view, NULL), CAI_OK);
    cr_expect(view.impl_layout.c_contiguous);
    cr_expect_eq(view.size, 24);
}

Test(view, pitfall_04_copy_of_0_d)
{
    cai_tensor_t source = make_tensor(cai_int16(), 0, NULL, NULL);
    int64_t      unused[1] = {99};
    cai_view_t   view;
    for (int i = 0; i < 2; i++) {
        make_view(&view);
        cr_expect_eq(cai_impl_view_copy(&view, &source, NULL), CAI_OK);
        cr_expect_eq(cai_impl_view_settle(&view, NULL), CAI_OK);
        cr_expect_eq(view.size, 1);
        cr_expect(view.impl_layout.c_contiguous);
        cr_expect_not_null(view.tensor.shape);
        cr_expect_not_null(view.tensor.strides);
        source.shape = source.strides = unused;
    }
}

Test(view, copy_of_64_dimensions)
{
    int64_t            shape[CAI_MAX_NDIM], strides[CAI_MAX_NDIM];
    const cai_tensor_t source = make_tensor(cai_uint8(), CAI_MAX_NDIM, shape, strides);
    cai_view_t         view;
    make_view(&view);
    for (int i = 0; i < CAI_MAX_NDIM; i++) {
        shape[i] = i + 1;
        strides[i] = -i;
    }
    cr_expect_eq(cai_impl_view_copy(&view, &source, NULL), CAI_OK);
    cr_expect_eq(memcmp(view.impl_shape, shape, sizeof(shape)), 0);
    cr_expect_eq(memcmp(view.impl_strides, strides, sizeof(strides)), 0);
}

typedef struct copy_case {
    const char  *name;
    cai_dtype_t  dtype;
    int32_t      ndim;
    bool         has_shape;
    cai_status_t status;
} copy_case_t;

static const copy_case_t refused_copies[] = {
    {"no shape", CAI_FLOAT32, 1, false, CAI_ERROR_INCOMPLETE_INTERFACE},
    {"no shape of 64", CAI_FLOAT32, 64, false, CAI_ERROR_INCOMPLETE_INTERFACE},
    {"-1 dimensions", CAI_FLOAT32, -1, true, CAI_ERROR_INVALID_SHAPE},
    {"-1 dimensions, no shape", CAI_FLOAT32, -1, false, CAI_ERROR_INVALID_SHAPE},
    {"65 dimensions", CAI_FLOAT32, 65, true, CAI_ERROR_INVALID_SHAPE},
    {"as many as can be", CAI_FLOAT32, INT32_MAX, true, CAI_ERROR_INVALID_SHAPE},
    {"as few as can be", CAI_FLOAT32, INT32_MIN, true, CAI_ERROR_INVALID_SHAPE},
    {"unknown dtype", {99, 8, 1}, 1, true, CAI_ERROR_UNKNOWN_DTYPE},
};

Test(view, pitfall_31_refused_copies)
{
    for (size_t i = 0; i < UNIT_COUNT(refused_copies); i++) {
        const copy_case_t *row = &refused_copies[i];
        int64_t            shape[1] = {3}, strides[1] = {1};
        const cai_tensor_t source = make_tensor(row->dtype, row->ndim, row->has_shape ? shape : NULL, strides);
        cai_view_t         view;
        cai_error_t        error;
        make_view(&view);
        error.status = CAI_OK;
        cr_expect_eq(cai_impl_view_copy(&view, &source, &error), row->status, "%s: %s", row->name,
                     cai_status_name(error.status));
        cr_expect_eq(error.status, row->status, "%s", row->name);
        cr_expect_eq(cai_impl_view_copy(&view, &source, NULL), row->status, "%s", row->name);
    }
}

/* ---- settle ------------------------------------------------------------------------------------------------------ */

typedef struct settle_case {
    const char  *name;
    cai_status_t status;
    cai_dtype_t  dtype;
    int32_t      ndim;
    int64_t      shape[NDIM], strides[NDIM];
    uint64_t     data, byte_offset;
    int64_t      size;
    bool         contiguous;
} settle_case_t;

static const settle_case_t settled[] = {
    {"vector", CAI_OK, CAI_FLOAT32, 1, {3}, {1}, ADDRESS, 0, 3, true},
    {"offset", CAI_OK, CAI_FLOAT32, 1, {3}, {1}, ADDRESS, 64, 3, true},
    {"odd offset", CAI_OK, CAI_FLOAT32, 1, {3}, {1}, ADDRESS, 3, 3, true},
    {"transposed", CAI_OK, CAI_FLOAT32, 2, {3, 4}, {1, 3}, ADDRESS, 0, 12, false},
    {"reversed", CAI_OK, CAI_FLOAT32, 1, {3}, {-1}, ADDRESS, 8, 3, false},
    {"broadcast", CAI_OK, CAI_FLOAT32, 2, {3, 4}, {0, 1}, ADDRESS, 0, 12, false},
    {"extent 1", CAI_OK, CAI_FLOAT32, 2, {3, 1}, {1, -77}, ADDRESS, 0, 3, true},
    {"empty, 0", CAI_OK, CAI_FLOAT32, 1, {0}, {1}, 0, 0, 0, true},
    {"empty, left-over address", CAI_OK, CAI_FLOAT32, 1, {0}, {1}, ADDRESS, 64, 0, true},
    {"empty, wild address", CAI_OK, CAI_FLOAT32, 1, {0}, {1}, UINT64_MAX, UINT64_MAX, 0, true},
    {"empty, overflow", CAI_OK, CAI_FLOAT32, 4, {TERA, TERA, TERA, 0}, {1, 1, 1, 1}, ADDRESS, 0, 0, true},
    {"empty first, overflow", CAI_OK, CAI_FLOAT32, 4, {0, TERA, TERA, TERA}, {1, 1, 1, 1}, ADDRESS, 0, 0, true},
    {"negative", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 1, {-3}, {1}, ADDRESS, 0, 0, false},
    {"negative beside 0", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 2, {0, -3}, {1, 1}, ADDRESS, 0, 0, false},
    {"overflow", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT32, 2, {TERA, TERA}, {0, 0}, ADDRESS, 0, 0, false},
    {"overflow by the item", CAI_ERROR_INVALID_SHAPE, CAI_FLOAT64, 1, {INT64_C(1) << 60}, {0}, ADDRESS, 0, 0, false},
    {"strides overflow", CAI_ERROR_INVALID_STRIDES, CAI_FLOAT64, 1, {2}, {INT64_MAX}, ADDRESS, 0, 0, false},
    {"beyond the address space", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 1, {64}, {1}, UINT64_MAX - 8, 0, 0, false},
    {"offset wraps", CAI_ERROR_INVALID_STRIDES, CAI_UINT8, 1, {3}, {1}, ADDRESS, UINT64_MAX, 0, false},
    {"NULL", CAI_ERROR_INCOMPLETE_INTERFACE, CAI_FLOAT32, 1, {3}, {1}, 0, 0, 0, false},
    {"NULL and offset", CAI_ERROR_INCOMPLETE_INTERFACE, CAI_FLOAT32, 1, {3}, {1}, 0, 64, 0, false},
    {"NULL, 0-d", CAI_ERROR_INCOMPLETE_INTERFACE, CAI_FLOAT32, 0, {0}, {0}, 0, 0, 0, false},
};

static cai_status_t settle_row(const settle_case_t *row, cai_view_t *view, cai_error_t *error)
{
    int64_t      shape[NDIM], strides[NDIM];
    cai_tensor_t source = make_tensor(row->dtype, row->ndim, shape, strides);
    memcpy(shape, row->shape, sizeof(shape));
    memcpy(strides, row->strides, sizeof(strides));
    source.data = (void *)row->data;
    source.byte_offset = row->byte_offset;
    make_view(view);
    cr_assert_eq(cai_impl_view_copy(view, &source, NULL), CAI_OK, "%s", row->name);
    return cai_impl_view_settle(view, error);
}

Test(view, pitfall_29_settle)
{
    for (size_t i = 0; i < UNIT_COUNT(settled); i++) {
        const settle_case_t *row = &settled[i];
        cai_view_t           view;
        cai_error_t          error;
        cai_status_t         status;
        error.status = CAI_OK;
        status = settle_row(row, &view, &error);
        cr_expect_eq(status, row->status, "%s: %s", row->name, cai_status_name(status));
        cr_expect_eq(error.status, row->status, "%s", row->name);
        cr_expect_eq(settle_row(row, &view, NULL), row->status, "%s", row->name);
        if (row->status != CAI_OK)
            continue;
        cr_expect_eq(view.size, row->size, "%s: size", row->name);
        cr_expect_eq(view.impl_layout.size, row->size, "%s: size of the layout", row->name);
        cr_expect_eq(view.impl_layout.c_contiguous, row->contiguous, "%s: contiguous", row->name);
        cr_expect_eq(view.tensor.byte_offset, 0, "%s: offset", row->name);
        if (row->size == 0)
            cr_expect_null(view.tensor.data, "%s: an empty array has no address", row->name);
        else
            cr_expect_eq(view.tensor.data, (void *)(row->data + row->byte_offset), "%s: address", row->name);
    }
}

/* The one pass over the dimensions finds what the questions of tensor.h answer. */
Test(view, settle_agrees_with_the_questions)
{
    unit_random_t random = {2718};
    for (int round = 0; round < 20000; round++) {
        int64_t            shape[NDIM], strides[NDIM];
        const int32_t      ndim = (int32_t)unit_random_between(&random, 0, NDIM);
        const cai_tensor_t source = make_tensor(cai_float32(), ndim, shape, strides);
        cai_view_t         view;
        for (int i = 0; i < ndim; i++)
            shape[i] = unit_random_between(&random, 0, 7) == 0 ? 0 : unit_random_between(&random, 1, 4);
        cai_c_contiguous_strides(ndim, shape, strides);
        for (int i = 0; i < ndim; i++) {
            if (unit_random_between(&random, 0, 3) == 0)
                strides[i] = unit_random_between(&random, -4, 30);
        }
        make_view(&view);
        cr_assert_eq(cai_impl_view_copy(&view, &source, NULL), CAI_OK);
        cr_assert_eq(cai_impl_view_settle(&view, NULL), CAI_OK);
        if (view.impl_layout.size != cai_tensor_size(&view.tensor) ||
            view.impl_layout.c_contiguous != cai_tensor_is_c_contiguous(&view.tensor))
            cr_assert_fail("round %d: size %lld, contiguous %d", round, (long long)view.impl_layout.size,
                           view.impl_layout.c_contiguous);
        cr_assert_eq(cai_tensor_validate(&view.tensor, NULL),
                     view.impl_layout.size == 0 ? cai_tensor_validate(&source, NULL) : CAI_OK);
    }
}

/* A view that was settled can be validated again: it is a tensor like any other. */
Test(view, settled_views_are_sound)
{
    for (size_t i = 0; i < UNIT_COUNT(settled); i++) {
        cai_view_t view;
        if (settled[i].status != CAI_OK)
            continue;
        cr_expect_eq(settle_row(&settled[i], &view, NULL), CAI_OK, "%s", settled[i].name);
        cr_expect_eq(cai_tensor_validate(&view.tensor, NULL), CAI_OK, "%s", settled[i].name);
    }
}

Test(view, pitfall_01_null_with_negative_strides)
{
    static const settle_case_t row = {
        "NULL, reversed", CAI_ERROR_INCOMPLETE_INTERFACE, CAI_FLOAT32, 1, {3}, {-1}, 0, 0, 0, false};
    cai_view_t view;
    cr_expect_eq(settle_row(&row, &view, NULL), row.status);
}

/* ---- fill: copy and settle in one pass --------------------------------------------------------------------------- */

/* What both ways must agree in: the whole view, since private fields are read later on. */
static void expect_same_view(const cai_view_t *filled, const cai_view_t *settled_view, const char *name)
{
    const cai_tensor_t *a = &filled->tensor, *b = &settled_view->tensor;
    cr_expect_eq(a->data, b->data, "%s: address", name);
    cr_expect_eq(a->byte_offset, b->byte_offset, "%s: offset", name);
    cr_expect_eq(a->ndim, b->ndim, "%s: dimensions", name);
    cr_expect(cai_dtype_equal(a->dtype, b->dtype), "%s: dtype", name);
    cr_expect_eq(a->device.device_id, b->device.device_id, "%s: device", name);
    cr_expect_eq(filled->size, settled_view->size, "%s: size", name);
    cr_expect_eq(filled->impl_layout.size, settled_view->impl_layout.size, "%s: size of the layout", name);
    cr_expect_eq(filled->impl_layout.nbytes, settled_view->impl_layout.nbytes, "%s: bytes", name);
    cr_expect_eq(filled->impl_layout.c_contiguous, settled_view->impl_layout.c_contiguous, "%s: contiguous", name);
    for (int32_t i = 0; i < a->ndim; i++) {
        cr_expect_eq(a->shape[i], b->shape[i], "%s: extent %d", name, i);
        if (a->shape[i] != 1)
            cr_expect_eq(a->strides[i], b->strides[i], "%s: stride %d", name, i);
    }
}

/* Whatever is refused, and every array without elements, is left to the careful way. */
Test(view, fill_takes_what_settles_and_nothing_else)
{
    for (size_t i = 0; i < UNIT_COUNT(settled); i++) {
        const settle_case_t *row = &settled[i];
        int64_t              shape[NDIM], strides[NDIM];
        cai_tensor_t         source = make_tensor(row->dtype, row->ndim, shape, strides);
        cai_view_t           filled, expected;
        memcpy(shape, row->shape, sizeof(shape));
        memcpy(strides, row->strides, sizeof(strides));
        source.data = (void *)row->data;
        source.byte_offset = row->byte_offset;
        make_view(&filled);
        cr_expect_eq(cai_impl_view_fill_from(&filled, &source), row->status == CAI_OK && row->size > 0, "%s",
                     row->name);
        if (row->status != CAI_OK || row->size == 0)
            continue;
        cr_assert_eq(settle_row(row, &expected, NULL), CAI_OK);
        expect_same_view(&filled, &expected, row->name);
    }
}

Test(view, fill_refuses_headers_that_are_not_sound)
{
    static const struct {
        const char *name;
        int32_t     ndim;
        cai_dtype_t dtype;
        bool        shape;
    } rows[] = {
        {"negative", -1, CAI_FLOAT32, true}, {"too many", CAI_MAX_NDIM + 1, CAI_FLOAT32, true},
        {"no shape", 1, CAI_FLOAT32, false}, {"unknown", 1, {99, 8, 1}, true},
        {"lanes", 1, {2, 32, 4}, true},      {"packed", 1, CAI_FLOAT4_E2M1FN, true},
        {"opaque", 1, CAI_OPAQUE(12), true},
    };
    int64_t shape[CAI_MAX_NDIM + 1], strides[CAI_MAX_NDIM + 1];
    for (int i = 0; i <= CAI_MAX_NDIM; i++)
        shape[i] = strides[i] = 1;
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        cai_tensor_t source = make_tensor(rows[i].dtype, rows[i].ndim, rows[i].shape ? shape : NULL, strides);
        cai_view_t   view;
        make_view(&view);
        cr_expect_not(cai_impl_view_fill_from(&view, &source), "%s", rows[i].name);
    }
}

/* Strides of any kind, in elements and in bytes: either way as copied and settled, or left to that. */
Test(view, pitfall_03_fill_agrees_with_copy_and_settle)
{
    static const cai_dtype_t dtypes[] = {CAI_UINT8, CAI_FLOAT16, CAI_FLOAT32, CAI_FLOAT64, CAI_COMPLEX128};
    unit_random_t            random = {31415};
    for (int round = 0; round < 20000; round++) {
        int64_t           shape[NDIM], strides[NDIM], bytes[NDIM];
        const int32_t     ndim = (int32_t)unit_random_between(&random, 0, NDIM);
        const cai_dtype_t dtype = dtypes[unit_random_between(&random, 0, UNIT_COUNT(dtypes) - 1)];
        cai_tensor_t      source = make_tensor(dtype, ndim, shape, strides);
        cai_view_t        filled, expected;
        unsigned          shift;
        bool              odd = false, empty;
        for (int i = 0; i < ndim; i++)
            shape[i] = unit_random_between(&random, 0, 15) == 0 ? 0 : unit_random_between(&random, 1, 4);
        cai_c_contiguous_strides(ndim, shape, strides);
        for (int i = 0; i < ndim; i++) {
            if (unit_random_between(&random, 0, 5) == 0)
                strides[i] = unit_random_between(&random, -4, 30);
            bytes[i] = strides[i] * cai_dtype_itemsize(dtype);
        }
        make_view(&expected);
        cr_assert_eq(cai_impl_view_copy(&expected, &source, NULL), CAI_OK);
        cr_assert_eq(cai_impl_view_settle(&expected, NULL), CAI_OK);
        empty = expected.size == 0;
        make_view(&filled);
        cr_assert_neq(cai_impl_view_fill_from(&filled, &source), empty);
        if (!empty)
            expect_same_view(&filled, &expected, "elements");
        if (ndim > 0 && unit_random_between(&random, 0, 3) == 0 && cai_dtype_itemsize(dtype) > 1) {
            const int64_t at = unit_random_between(&random, 0, ndim - 1);
            bytes[at] += 1;
            odd = shape[at] != 1;
        }
        make_view(&filled);
        cai_impl_view_set_header(&filled, source.data, source.device, dtype, ndim);
        cr_assert(cai_impl_item_shift(cai_dtype_itemsize(dtype), &shift));
        cr_assert_eq(cai_impl_view_fill(&filled, shape, bytes, shift, shift), !empty && !odd);
        if (!empty && !odd)
            expect_same_view(&filled, &expected, "bytes");
    }
}

Test(view, pitfall_30_fill_without_strides_is_c_contiguous)
{
    int64_t      shape[3] = {2, 3, 4};
    cai_tensor_t source = make_tensor(cai_float64(), 3, shape, NULL);
    cai_view_t   view;
    make_view(&view);
    cr_assert(cai_impl_view_fill_from(&view, &source));
    cr_expect(view.impl_layout.c_contiguous);
    cr_expect_eq(view.impl_strides[0], 12);
    cr_expect_eq(view.impl_strides[1], 4);
    cr_expect_eq(view.impl_strides[2], 1);
    cr_expect_eq(view.impl_layout.nbytes, 24 * 8);
}

Test(view, pitfall_16_fill_leaves_products_that_overflow)
{
    int64_t      shape[2] = {TERA, TERA}, strides[2] = {TERA, 1};
    cai_tensor_t source = make_tensor(cai_uint8(), 2, shape, strides);
    cai_view_t   view;
    make_view(&view);
    cr_expect_not(cai_impl_view_fill_from(&view, &source));
    shape[0] = INT64_C(1) << 22; /* elements that fit 63 bits, bytes that do not */
    source.dtype = cai_float64();
    cr_expect_not(cai_impl_view_fill_from(&view, &source));
}
