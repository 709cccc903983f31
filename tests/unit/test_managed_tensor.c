/*
 * Checks managed_tensor.h: that a view takes DLPack's owning structs, of which versions, and that the deleter runs
 * once.
 */
#include <cai/managed_tensor.h>

#include "unit.h"

#include <stdlib.h>

TestSuite(managed_tensor, .timeout = UNIT_TIMEOUT);

#define ADDRESS UINT64_C(0x7F0000001000)

static void make_view(cai_view_t *view)
{
    memset(view, 0x5A, sizeof(*view));
    cai_impl_view_reset(view);
}

/* What a deleter was called with. */
typedef struct deletions {
    int   count;
    void *self;
} deletions_t;

static void delete_versioned(cai_dlpack_managed_versioned_t *self)
{
    deletions_t *deletions = (deletions_t *)self->manager_ctx;
    deletions->count++;
    deletions->self = self;
    free(self);
}

static void delete_legacy(cai_dlpack_managed_t *self)
{
    deletions_t *deletions = (deletions_t *)self->manager_ctx;
    deletions->count++;
    deletions->self = self;
    free(self);
}

/* The arrays of every struct below. */
static int64_t shape_of_all[2] = {3, 4}, strides_of_all[2] = {4, 1}, shape_of_none[2] = {0, 4};

static void fill_tensor(cai_tensor_t *tensor)
{
    memset(tensor, 0, sizeof(*tensor));
    tensor->data = (void *)ADDRESS;
    tensor->device.device_type = CAI_DEVICE_CUDA;
    tensor->device.device_id = 1;
    tensor->ndim = 2;
    tensor->dtype = cai_float32();
    tensor->shape = shape_of_all;
    tensor->strides = strides_of_all;
    tensor->byte_offset = 8;
}

static cai_dlpack_managed_versioned_t *make_versioned(deletions_t *deletions)
{
    cai_dlpack_managed_versioned_t *managed = (cai_dlpack_managed_versioned_t *)malloc(sizeof(*managed));
    cr_assert_not_null(managed);
    memset(managed, 0, sizeof(*managed));
    fill_tensor(&managed->tensor);
    managed->version.major = 1;
    managed->version.minor = 3;
    managed->manager_ctx = deletions;
    managed->deleter = delete_versioned;
    deletions->count = 0;
    deletions->self = NULL;
    return managed;
}

static cai_dlpack_managed_t *make_legacy(deletions_t *deletions)
{
    cai_dlpack_managed_t *managed = (cai_dlpack_managed_t *)malloc(sizeof(*managed));
    cr_assert_not_null(managed);
    memset(managed, 0, sizeof(*managed));
    fill_tensor(&managed->tensor);
    managed->manager_ctx = deletions;
    managed->deleter = delete_legacy;
    deletions->count = 0;
    deletions->self = NULL;
    return managed;
}

static void expect_copy(const cai_view_t *view, const char *name)
{
    cr_expect_eq(view->tensor.data, (void *)ADDRESS, "%s", name);
    cr_expect_eq(view->tensor.byte_offset, 8, "%s", name);
    cr_expect_eq(view->tensor.device.device_type, CAI_DEVICE_CUDA, "%s", name);
    cr_expect_eq(view->tensor.device.device_id, 1, "%s", name);
    cr_expect_eq(view->tensor.ndim, 2, "%s", name);
    cr_expect(cai_dtype_equal(view->tensor.dtype, cai_float32()), "%s", name);
    cr_expect_eq(view->tensor.shape, view->impl_shape, "%s", name);
    cr_expect_eq(view->tensor.strides, view->impl_strides, "%s", name);
    cr_expect_eq(memcmp(view->impl_shape, shape_of_all, sizeof(shape_of_all)), 0, "%s", name);
    cr_expect_eq(memcmp(view->impl_strides, strides_of_all, sizeof(strides_of_all)), 0, "%s", name);
}

/* ---- taking ------------------------------------------------------------------------------------------------------ */

Test(managed_tensor, take_versioned)
{
    deletions_t                     deletions;
    cai_dlpack_managed_versioned_t *managed = make_versioned(&deletions);
    cai_view_t                      view;
    make_view(&view);
    cr_expect_eq(cai_impl_view_take_versioned(&view, managed, NULL), CAI_OK);
    expect_copy(&view, "versioned");
    cr_expect_eq(view.flags, 0);
    cr_expect_eq(deletions.count, 0);
    cr_assert(view.impl_give_back != NULL);
    view.impl_give_back(view.impl_managed);
    cr_expect_eq(deletions.count, 1);
    cr_expect_eq(deletions.self, (void *)managed);
}

Test(managed_tensor, take_legacy)
{
    deletions_t           deletions;
    cai_dlpack_managed_t *managed = make_legacy(&deletions);
    cai_view_t            view;
    make_view(&view);
    cr_expect_eq(cai_impl_view_take_legacy(&view, managed, NULL), CAI_OK);
    expect_copy(&view, "legacy");
    cr_expect_eq(view.flags, 0, "it has no flags: the question is the caller's");
    cr_expect_eq(deletions.count, 0);
    cr_assert(view.impl_give_back != NULL);
    view.impl_give_back(view.impl_managed);
    cr_expect_eq(deletions.count, 1);
    cr_expect_eq(deletions.self, (void *)managed);
}

/* ---- versions ---------------------------------------------------------------------------------------------------- */

Test(managed_tensor, pitfall_24_minor_versions_are_accepted)
{
    static const uint32_t minors[] = {0, 1, 2, 3, 4, 99, UINT32_MAX};
    for (size_t i = 0; i < UNIT_COUNT(minors); i++) {
        deletions_t                     deletions;
        cai_dlpack_managed_versioned_t *managed = make_versioned(&deletions);
        cai_view_t                      view;
        make_view(&view);
        managed->version.minor = minors[i];
        cr_expect_eq(cai_impl_view_take_versioned(&view, managed, NULL), CAI_OK, "1.%u", minors[i]);
        view.impl_give_back(view.impl_managed);
        cr_expect_eq(deletions.count, 1, "1.%u", minors[i]);
    }
}

/* Of another major version only the deleter may be used: the struct here ends behind it, so that a sanitizer sees any
 * further read. */
Test(managed_tensor, pitfall_24_other_major_versions_are_refused)
{
    static const uint32_t majors[] = {0, 2, 3, 99, UINT32_MAX};
    for (size_t i = 0; i < UNIT_COUNT(majors); i++) {
        volatile size_t size = offsetof(cai_dlpack_managed_versioned_t, flags); /* hidden from the compiler */
        deletions_t     deletions = {0, NULL};
        cai_dlpack_managed_versioned_t *managed = (cai_dlpack_managed_versioned_t *)malloc(size);
        cai_view_t                      view;
        cai_error_t                     error;
        char                            number[32];
        cr_assert_not_null(managed);
        make_view(&view);
        managed->version.major = majors[i];
        managed->version.minor = 7;
        managed->manager_ctx = &deletions;
        managed->deleter = delete_versioned;
        cr_expect_eq(cai_impl_view_take_versioned(&view, managed, &error), CAI_ERROR_INVALID_VERSION, "%u", majors[i]);
        cr_expect_eq(error.status, CAI_ERROR_INVALID_VERSION, "%u", majors[i]);
        snprintf(number, sizeof(number), "version %u.7 ", majors[i]);
        cr_expect_not_null(strstr(error.message, number), "%u: %s", majors[i], error.message);
        cr_expect_eq(view.flags, 0, "%u", majors[i]);
        cr_expect_eq(deletions.count, 0, "%u: not before it is given back", majors[i]);
        cr_assert(view.impl_give_back != NULL, "%u", majors[i]);
        view.impl_give_back(view.impl_managed);
        cr_expect_eq(deletions.count, 1, "%u", majors[i]);
    }
}

Test(managed_tensor, pitfall_24_refusal_without_a_place_for_the_error)
{
    deletions_t                     deletions;
    cai_dlpack_managed_versioned_t *managed = make_versioned(&deletions);
    cai_view_t                      view;
    make_view(&view);
    managed->version.major = 2;
    cr_expect_eq(cai_impl_view_take_versioned(&view, managed, NULL), CAI_ERROR_INVALID_VERSION);
    view.impl_give_back(view.impl_managed);
    cr_expect_eq(deletions.count, 1);
}

/* ---- flags ------------------------------------------------------------------------------------------------------- */

typedef struct flags_case {
    uint64_t flags;
    uint32_t expected;
} flags_case_t;

static const flags_case_t flags_of_dlpack[] = {
    {0, 0},
    {1, CAI_READONLY},
    {2, CAI_COPIED},
    {3, CAI_READONLY | CAI_COPIED},
    {4, CAI_SUBBYTE_PADDED},
    {7, CAI_READONLY | CAI_COPIED | CAI_SUBBYTE_PADDED},
    /* unknown ones are not passed on: the view has a meaning of its own for those bits */
    {8, 0},
    {16, 0},
    {UINT64_C(1) << 32, 0},
    {UINT64_C(1) << 63, 0},
    {~UINT64_C(0), CAI_READONLY | CAI_COPIED | CAI_SUBBYTE_PADDED},
    {~UINT64_C(0) << 3, 0},
};

Test(managed_tensor, pitfall_47_flags)
{
    for (size_t i = 0; i < UNIT_COUNT(flags_of_dlpack); i++) {
        deletions_t                     deletions;
        cai_dlpack_managed_versioned_t *managed = make_versioned(&deletions);
        cai_view_t                      view;
        make_view(&view);
        managed->flags = flags_of_dlpack[i].flags;
        cr_expect_eq(cai_impl_view_take_versioned(&view, managed, NULL), CAI_OK, "row %zu", i);
        cr_expect_eq(view.flags, flags_of_dlpack[i].expected, "row %zu: 0x%x", i, view.flags);
        view.impl_give_back(view.impl_managed);
    }
}

/* What the reader already knows stays. */
Test(managed_tensor, flags_are_added)
{
    deletions_t                     deletions;
    cai_dlpack_managed_versioned_t *managed = make_versioned(&deletions);
    cai_view_t                      view;
    make_view(&view);
    view.flags = CAI_HAS_STREAM;
    managed->flags = CAI_DLPACK_FLAG_READ_ONLY;
    cr_expect_eq(cai_impl_view_take_versioned(&view, managed, NULL), CAI_OK);
    cr_expect_eq(view.flags, CAI_HAS_STREAM | CAI_READONLY);
    view.impl_give_back(view.impl_managed);
}

/* ---- ownership --------------------------------------------------------------------------------------------------- */

/* What is refused is owned nevertheless: each failure has one way out, on which the deleter runs once. */
typedef enum fault {
    NO_FAULT,
    NO_SHAPE,
    TOO_MANY,
    NEGATIVE,
    NO_DTYPE,
    NO_DATA,
    NO_ELEMENTS,
    NO_STRIDES,
    N_FAULTS
} fault_t;

static const cai_status_t statuses_of_faults[N_FAULTS] = {
    CAI_OK,
    CAI_ERROR_INCOMPLETE_INTERFACE,
    CAI_ERROR_INVALID_SHAPE,
    CAI_ERROR_INVALID_SHAPE,
    CAI_ERROR_UNKNOWN_DTYPE,
    CAI_OK,
    CAI_OK,
    CAI_OK,
};

static void spoil(cai_tensor_t *tensor, fault_t fault)
{
    switch (fault) {
    case NO_SHAPE: tensor->shape = NULL; break;
    case TOO_MANY: tensor->ndim = 65; break;
    case NEGATIVE: tensor->ndim = -1; break;
    case NO_DTYPE: tensor->dtype.code = 99; break;
    case NO_DATA: tensor->data = NULL; break;
    case NO_ELEMENTS: tensor->shape = shape_of_none; break;
    case NO_STRIDES: tensor->strides = NULL; break;
    default: break;
    }
}

Test(managed_tensor, pitfall_27_deleter_runs_once_whatever_is_refused)
{
    for (int fault = 0; fault < N_FAULTS; fault++) {
        deletions_t                     deletions;
        cai_dlpack_managed_versioned_t *versioned = make_versioned(&deletions);
        cai_dlpack_managed_t           *legacy;
        cai_view_t                      view;
        make_view(&view);
        spoil(&versioned->tensor, (fault_t)fault);
        cr_expect_eq(cai_impl_view_take_versioned(&view, versioned, NULL), statuses_of_faults[fault], "fault %d",
                     fault);
        cr_expect_eq(deletions.count, 0, "fault %d", fault);
        cr_assert(view.impl_give_back != NULL, "fault %d", fault);
        view.impl_give_back(view.impl_managed);
        cr_expect_eq(deletions.count, 1, "fault %d", fault);

        legacy = make_legacy(&deletions);
        make_view(&view);
        spoil(&legacy->tensor, (fault_t)fault);
        cr_expect_eq(cai_impl_view_take_legacy(&view, legacy, NULL), statuses_of_faults[fault], "legacy, fault %d",
                     fault);
        cr_expect_eq(deletions.count, 0, "legacy, fault %d", fault);
        cr_assert(view.impl_give_back != NULL, "legacy, fault %d", fault);
        view.impl_give_back(view.impl_managed);
        cr_expect_eq(deletions.count, 1, "legacy, fault %d", fault);
    }
}

Test(managed_tensor, pitfall_28_no_deleter_is_legal)
{
    deletions_t                     deletions;
    cai_dlpack_managed_versioned_t *versioned = make_versioned(&deletions);
    cai_dlpack_managed_t           *legacy = make_legacy(&deletions);
    cai_view_t                      view;
    make_view(&view);
    versioned->deleter = NULL;
    cr_expect_eq(cai_impl_view_take_versioned(&view, versioned, NULL), CAI_OK);
    cr_assert(view.impl_give_back != NULL);
    view.impl_give_back(view.impl_managed);
    make_view(&view);
    versioned->version.major = 2;
    cr_expect_eq(cai_impl_view_take_versioned(&view, versioned, NULL), CAI_ERROR_INVALID_VERSION);
    view.impl_give_back(view.impl_managed);
    make_view(&view);
    legacy->deleter = NULL;
    cr_expect_eq(cai_impl_view_take_legacy(&view, legacy, NULL), CAI_OK);
    cr_assert(view.impl_give_back != NULL);
    view.impl_give_back(view.impl_managed);
    cr_expect_eq(deletions.count, 0);
    free(versioned);
    free(legacy);
}

/* The producer's struct is only read: a capsule's contents may be shared. */
Test(managed_tensor, pitfall_30_structs_are_only_read)
{
    deletions_t                     deletions;
    cai_dlpack_managed_versioned_t *versioned = make_versioned(&deletions), versioned_before;
    cai_dlpack_managed_t           *legacy = make_legacy(&deletions), legacy_before;
    cai_view_t                      view;
    make_view(&view);
    versioned->tensor.strides = NULL;
    versioned_before = *versioned;
    cr_expect_eq(cai_impl_view_take_versioned(&view, versioned, NULL), CAI_OK);
    cr_expect_eq(memcmp(versioned, &versioned_before, sizeof(versioned_before)), 0);
    view.impl_give_back(view.impl_managed);
    make_view(&view);
    legacy->tensor.strides = NULL;
    legacy_before = *legacy;
    cr_expect_eq(cai_impl_view_take_legacy(&view, legacy, NULL), CAI_OK);
    cr_expect_eq(memcmp(legacy, &legacy_before, sizeof(legacy_before)), 0);
    view.impl_give_back(view.impl_managed);
}

/* ---- outward ----------------------------------------------------------------------------------------------------- */

/* An array of six elements, over memory that is never looked at. */
typedef struct outward {
    int64_t      shape[2], strides[2];
    int          deletions;
    cai_array_t *array;
} outward_t;

static void count_deletion(void *argument)
{
    ((outward_t *)argument)->deletions++;
}

static void make_outward(outward_t *outward, int32_t device_type, int32_t device_id, uint64_t flags)
{
    cai_tensor_t tensor;
    memset(&tensor, 0, sizeof(tensor));
    outward->shape[0] = 2;
    outward->shape[1] = 3;
    outward->strides[0] = 1;
    outward->strides[1] = 2;
    outward->deletions = 0;
    tensor.data = (void *)ADDRESS;
    tensor.device.device_type = device_type;
    tensor.device.device_id = device_id;
    tensor.ndim = 2;
    tensor.dtype = cai_float32();
    tensor.shape = outward->shape;
    tensor.strides = outward->strides;
    outward->array = cai_array_wrap(NULL, &tensor, flags, outward, count_deletion, NULL);
    cr_assert_not_null(outward->array);
}

static void expect_outward(const cai_tensor_t *tensor, const cai_array_t *array, const char *name)
{
    cr_expect_eq(tensor->data, (void *)ADDRESS, "%s", name);
    cr_expect_eq(tensor->byte_offset, 0, "%s", name);
    cr_expect_eq(tensor->ndim, 2, "%s", name);
    cr_expect(cai_dtype_equal(tensor->dtype, cai_float32()), "%s", name);
    cr_expect_neq(tensor->shape, array->tensor.shape, "%s: a copy of its own", name);
    cr_expect_neq(tensor->strides, array->tensor.strides, "%s: a copy of its own", name);
    cr_expect_eq(tensor->shape[0], 2, "%s", name);
    cr_expect_eq(tensor->shape[1], 3, "%s", name);
    cr_expect_eq(tensor->strides[0], 1, "%s", name);
    cr_expect_eq(tensor->strides[1], 2, "%s", name);
}

typedef struct place_case {
    const char *name;
    int32_t     type, id, expected_id;
} place_case_t;

/* DLPack numbers devices; pinned and managed memory and the host have no number there. */
static const place_case_t places[] = {
    {"host", CAI_DEVICE_CPU, 0, 0},
    {"device 0", CAI_DEVICE_CUDA, 0, 0},
    {"device 1", CAI_DEVICE_CUDA, 1, 1},
    {"pinned", CAI_DEVICE_CUDA_HOST, 0, 0},
    {"managed", CAI_DEVICE_CUDA_MANAGED, 1, 0},
};

Test(managed_tensor, pitfall_46_outward_versioned)
{
    for (size_t i = 0; i < UNIT_COUNT(places); i++) {
        outward_t                       outward;
        cai_dlpack_managed_versioned_t *first, *second;
        make_outward(&outward, places[i].type, places[i].id, 0);
        first = cai_impl_managed_new_versioned(outward.array, outward.array->tensor.device, 3);
        second = cai_impl_managed_new_versioned(outward.array, outward.array->tensor.device, 0);
        cr_assert_not_null(first);
        cr_assert_not_null(second);
        cr_expect_neq(first, second, "one for each");
        cr_expect_neq(first->tensor.shape, second->tensor.shape, "one for each");
        cr_expect_eq(first->version.major, 1);
        cr_expect_eq(first->version.minor, 3);
        cr_expect_eq(second->version.minor, 0);
        cr_expect_eq(first->flags, 0);
        expect_outward(&first->tensor, outward.array, places[i].name);
        cr_expect_eq(first->tensor.device.device_type, places[i].type, "%s", places[i].name);
        cr_expect_eq(first->tensor.device.device_id, places[i].expected_id, "%s", places[i].name);
        cai_array_release(outward.array);
        cr_expect_eq(outward.deletions, 0, "%s: both hold it", places[i].name);
        first->deleter(first);
        cr_expect_eq(outward.deletions, 0, "%s: the second holds it", places[i].name);
        expect_outward(&second->tensor, outward.array, places[i].name);
        second->deleter(second);
        cr_expect_eq(outward.deletions, 1, "%s", places[i].name);
    }
}

Test(managed_tensor, pitfall_46_outward_legacy)
{
    for (size_t i = 0; i < UNIT_COUNT(places); i++) {
        outward_t             outward;
        cai_dlpack_managed_t *first, *second;
        make_outward(&outward, places[i].type, places[i].id, 0);
        first = cai_impl_managed_new_legacy(outward.array, outward.array->tensor.device);
        second = cai_impl_managed_new_legacy(outward.array, outward.array->tensor.device);
        cr_assert_not_null(first);
        cr_assert_not_null(second);
        cr_expect_neq(first->tensor.shape, second->tensor.shape, "one for each");
        expect_outward(&first->tensor, outward.array, places[i].name);
        cr_expect_eq(first->tensor.device.device_type, places[i].type, "%s", places[i].name);
        cr_expect_eq(first->tensor.device.device_id, places[i].expected_id, "%s", places[i].name);
        cai_array_release(outward.array);
        first->deleter(first);
        cr_expect_eq(outward.deletions, 0, "%s: the second holds it", places[i].name);
        expect_outward(&second->tensor, outward.array, places[i].name);
        second->deleter(second);
        cr_expect_eq(outward.deletions, 1, "%s", places[i].name);
    }
}

/* A consumer may write into his copies, and nobody else sees it. */
Test(managed_tensor, pitfall_46_outward_extents_are_the_consumers)
{
    outward_t                       outward;
    cai_dlpack_managed_versioned_t *managed;
    make_outward(&outward, CAI_DEVICE_CUDA, 0, 0);
    managed = cai_impl_managed_new_versioned(outward.array, outward.array->tensor.device, 3);
    cr_assert_not_null(managed);
    memset(managed->tensor.shape, 0x5A, 2 * sizeof(int64_t));
    memset(managed->tensor.strides, 0x5A, 2 * sizeof(int64_t));
    cr_expect_eq(outward.array->tensor.shape[1], 3);
    cr_expect_eq(outward.array->tensor.strides[1], 2);
    managed->deleter(managed);
    cai_array_release(outward.array);
    cr_expect_eq(outward.deletions, 1);
}

Test(managed_tensor, pitfall_47_outward_flags)
{
    static const struct {
        uint64_t flags, expected;
    } rows[] = {
        {0, 0},
        {CAI_READONLY, CAI_DLPACK_FLAG_READ_ONLY},
        {CAI_SUBBYTE_PADDED, CAI_DLPACK_FLAG_SUBBYTE_PADDED},
        {CAI_FREE_IN_ORDER, 0}, /* ours alone */
        {CAI_READONLY | CAI_FREE_IN_ORDER, CAI_DLPACK_FLAG_READ_ONLY},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        outward_t                       outward;
        cai_dlpack_managed_versioned_t *managed;
        make_outward(&outward, CAI_DEVICE_CUDA, 0, rows[i].flags);
        managed = cai_impl_managed_new_versioned(outward.array, outward.array->tensor.device, 3);
        cr_assert_not_null(managed);
        cr_expect_eq(managed->flags, rows[i].expected, "%zu: %d", i, (int)managed->flags);
        managed->deleter(managed);
        outward.array->flags |= CAI_COPIED;
        managed = cai_impl_managed_new_versioned(outward.array, outward.array->tensor.device, 3);
        cr_assert_not_null(managed);
        cr_expect_eq(managed->flags, rows[i].expected | CAI_DLPACK_FLAG_IS_COPIED, "%zu", i);
        managed->deleter(managed);
        cai_array_release(outward.array);
        cr_expect_eq(outward.deletions, 1, "%zu", i);
    }
}

/* The device that the consumer asked for, as which pinned and managed memory may go out. */
Test(managed_tensor, outward_as_another_device)
{
    outward_t             outward;
    cai_dlpack_managed_t *managed;
    cai_device_t          device;
    make_outward(&outward, CAI_DEVICE_CUDA_MANAGED, 1, 0);
    device.device_type = CAI_DEVICE_CUDA;
    device.device_id = 1;
    managed = cai_impl_managed_new_legacy(outward.array, device);
    cr_assert_not_null(managed);
    cr_expect_eq(managed->tensor.device.device_type, CAI_DEVICE_CUDA);
    cr_expect_eq(managed->tensor.device.device_id, 1);
    managed->deleter(managed);
    device.device_type = CAI_DEVICE_CPU;
    managed = cai_impl_managed_new_legacy(outward.array, device);
    cr_assert_not_null(managed);
    cr_expect_eq(managed->tensor.device.device_type, CAI_DEVICE_CPU);
    cr_expect_eq(managed->tensor.device.device_id, 0);
    managed->deleter(managed);
    cai_array_release(outward.array);
    cr_expect_eq(outward.deletions, 1);
}

/* 0 dimensions, and no elements: nothing to copy, or no address. */
Test(managed_tensor, outward_of_one_and_of_nothing)
{
    for (int32_t ndim = 0; ndim < 2; ndim++) {
        int64_t      shape[1] = {0};
        cai_array_t *array = cai_array_new(NULL, cai_float32(), ndim, shape, -1, CAI_MEMORY_HOST, NULL, NULL);
        cai_dlpack_managed_versioned_t *managed;
        cr_assert_not_null(array);
        managed = cai_impl_managed_new_versioned(array, array->tensor.device, 3);
        cr_assert_not_null(managed);
        cr_expect_eq(managed->tensor.ndim, ndim);
        cr_expect_eq(managed->tensor.data, array->tensor.data);
        cr_expect_eq(managed->tensor.data == NULL, ndim == 1);
        if (ndim == 1)
            cr_expect_eq(managed->tensor.shape[0], 0);
        cai_array_release(array);
        managed->deleter(managed);
    }
}

/* What goes out comes in again as it was. */
Test(managed_tensor, outward_and_in_again)
{
    outward_t  outward;
    cai_view_t view;
    make_outward(&outward, CAI_DEVICE_CUDA, 1, CAI_READONLY);
    make_view(&view);
    cr_expect_eq(cai_impl_view_take_versioned(
                     &view, cai_impl_managed_new_versioned(outward.array, outward.array->tensor.device, 3), NULL),
                 CAI_OK);
    cai_array_release(outward.array);
    cr_expect_eq(view.flags, CAI_READONLY);
    expect_outward(&view.tensor, outward.array, "view");
    cr_expect_eq(view.tensor.device.device_id, 1);
    cr_expect_eq(outward.deletions, 0);
    view.impl_give_back(view.impl_managed);
    cr_expect_eq(outward.deletions, 1);
}
