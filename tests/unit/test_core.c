/*
 * Checks core.h: that one include brings the whole core floor, in several translation units, and that its parts meet.
 */
#include "core_second.h"
#include "unit.h"

#if !defined(CAI_NO_CUDA)
#include "unit_cuda.h"
#endif

#include <stdlib.h>

TestSuite(core, .timeout = UNIT_TIMEOUT);

/* Public constants work in static initialisers. */
static const cai_dtype_t      wanted[] = {CAI_FLOAT32, CAI_BFLOAT16, CAI_OPAQUE(16), CAI_BOOL};
static const cai_stream_t     streams[] = {CAI_STREAM_LEGACY, CAI_STREAM_PER_THREAD};
static const cai_status_t     statuses[] = {CAI_OK, CAI_ERROR_INVALID_SHAPE, CAI_ERROR_MEMORY};
static const cai_order_mode_t modes[] = {CAI_ORDER_WAIT, CAI_ORDER_ADOPT, CAI_ORDER_BLOCK, CAI_ORDER_NONE};
static const cai_device_t     devices[] = {{CAI_DEVICE_CPU, 0}, {CAI_DEVICE_CUDA, 1}, {CAI_DEVICE_CUDA_MANAGED, 0}};
static const cai_request_t    wants[3] = {
    {.name = "s", .dtype = CAI_FLOAT32, .ndim = 1, .shape = {CAI_EXTENT(0)}, .require = CAI_WRITABLE},
    {.name = "x", .dtypes = wanted, .n_dtypes = 2, .shape = {CAI_EXTENT(0), CAI_EMPTY_EXTENT, 4}},
    {.name = "y", .ndim = CAI_SCALAR, .memory = CAI_ANYWHERE, .protocols = CAI_VIA_DLPACK | CAI_VIA_BUFFER},
};

Test(core, constants_work_in_static_initialisers)
{
    cr_expect(cai_dtype_equal(wanted[0], cai_float32()));
    cr_expect(cai_dtype_equal(wanted[1], cai_bfloat16()));
    cr_expect(cai_dtype_equal(wanted[2], cai_opaque(16)));
    cr_expect(cai_dtype_equal(wanted[3], cai_bool()));
    cr_expect_eq(streams[0], CAI_STREAM_LEGACY);
    cr_expect_eq(streams[1], CAI_STREAM_PER_THREAD);
    cr_expect_eq(statuses[1], CAI_ERROR_INVALID_SHAPE);
    cr_expect_eq(modes[2], CAI_ORDER_BLOCK);
    cr_expect_eq(devices[1].device_id, 1);
    cr_expect_eq(wants[0].shape[0], CAI_EXTENT(0));
    cr_expect_eq(wants[1].shape[1], CAI_EMPTY_EXTENT);
    cr_expect_eq(wants[2].ndim, CAI_SCALAR);
}

Test(core, a_second_translation_unit_sees_the_same)
{
    core_second_t second;
    core_second_fill(&second);
    cr_expect_eq(second.version, CAI_VERSION);
    cr_expect_eq(second.size_of_error, sizeof(cai_error_t));
    cr_expect_eq(second.size_of_view, sizeof(cai_view_t));
    cr_expect_eq(second.size_of_request, sizeof(cai_request_t));
    cr_expect_eq(second.size_of_shared, sizeof(cai_shared_t));
    cr_expect_eq(second.size_of_record, sizeof(cai_impl_order_record_t));
    cr_expect_eq(second.flags_in_view, offsetof(cai_view_t, flags));
    cr_expect_eq(second.size_in_view, offsetof(cai_view_t, size));
    cr_expect_eq(second.require_in_request, offsetof(cai_request_t, require));
    cr_expect_eq(second.protocols_in_request, offsetof(cai_request_t, protocols));
    cr_expect_eq(second.status_count, (int)CAI_STATUS_COUNT);
    cr_expect(cai_dtype_equal(second.bfloat16, cai_bfloat16()));
    cr_expect_eq(second.legacy, CAI_STREAM_LEGACY);
    cr_expect_eq(second.per_thread, CAI_STREAM_PER_THREAD);
    cr_expect_eq(second.wait.mode, CAI_ORDER_WAIT);
    cr_expect_eq(second.wait.stream, CAI_STREAM_LEGACY);
    cr_expect_eq(second.extent_3, CAI_EXTENT(3));
    cr_expect_eq(second.empty_extent, CAI_EMPTY_EXTENT);
    cr_expect_str_eq(second.name_of_status, "MEMORY");
    cr_expect_str_eq(second.request.name, "from the second");
}

static cai_tensor_t make_tensor(int32_t ndim, int64_t *shape)
{
    cai_tensor_t tensor;
    memset(&tensor, 0, sizeof(tensor));
    tensor.data = (void *)UINT64_C(0x7F0000001000);
    tensor.device.device_type = CAI_DEVICE_CUDA;
    tensor.dtype = cai_float32();
    tensor.ndim = ndim;
    tensor.shape = shape;
    return tensor;
}

/* Requests and what arguments share are plain data, whoever fills and whoever checks. */
Test(core, translation_units_share_requests)
{
    int64_t            first_shape[2] = {3, 4}, second_shape[2] = {5, 4}, third_shape[2] = {5, 6};
    const cai_tensor_t first = make_tensor(2, first_shape), second = make_tensor(2, second_shape);
    const cai_tensor_t third = make_tensor(2, third_shape);
    core_second_t      filled;
    cai_shared_t       shared;
    cai_error_t        error;
    core_second_fill(&filled);
    filled.request.memory = CAI_ANYWHERE;
    memset(&shared, 0, sizeof(shared));
    cr_expect_eq(cai_request_check(&filled.request, &first, 0, &shared, &error), CAI_OK);
    cr_expect_eq(core_second_check(&filled.request, &second, &shared, &error), CAI_OK);
    cr_expect_eq(core_second_check(&filled.request, &third, &shared, &error), CAI_ERROR_INVALID_SHAPE);
    cr_expect_str_eq(error.message, "argument 'from the second': expected 2-d, shape (*, n3=4), writable; got float32, "
                                    "shape (5, 6)");
    cr_expect_eq(shared.first, &first);
}

/* ---- the parts together ------------------------------------------------------------------------------------------ */

static void count_deletion(cai_dlpack_managed_versioned_t *self)
{
    ++*(int *)self->manager_ctx;
}

/* What a reader of a protocol does: take, settle, check, order, give back. */
static cai_status_t read_managed(cai_view_t *view, cai_dlpack_managed_versioned_t *managed,
                                 const cai_request_t *request, cai_error_t *error)
{
    cai_status_t status;
    memset(view, 0x5A, sizeof(*view));
    cai_impl_view_reset(view);
    status = cai_impl_view_take_versioned(view, managed, error);
    if (status == CAI_OK)
        status = cai_impl_view_settle(view, error);
    if (status == CAI_OK)
        status = cai_request_check(request, &view->tensor, view->flags, NULL, error);
    return status;
}

Test(core, from_a_managed_tensor_to_a_checked_view)
{
    cai_request_t                  request = cai_request("x");
    int64_t                        shape[2] = {3, 4};
    int                            deletions = 0;
    cai_dlpack_managed_versioned_t managed;
    cai_view_t                     view;
    cai_error_t                    error;
    memset(&managed, 0, sizeof(managed));
    managed.version.major = CAI_DLPACK_MAJOR;
    managed.manager_ctx = &deletions;
    managed.deleter = count_deletion;
    managed.flags = CAI_DLPACK_FLAG_READ_ONLY;
    managed.tensor = make_tensor(2, shape);
    managed.tensor.byte_offset = 16;
    request.memory = CAI_ANYWHERE;
    request.dtype = cai_float32();
    request.require = CAI_C_CONTIGUOUS;
    cr_expect_eq(read_managed(&view, &managed, &request, &error), CAI_OK);
    cr_expect_eq(view.size, 12);
    cr_expect_eq(view.flags, CAI_READONLY);
    cr_expect_eq(view.tensor.data, (void *)UINT64_C(0x7F0000001010));
    view.impl_give_back(view.impl_managed);
    request.require |= CAI_WRITABLE;
    cr_expect_eq(read_managed(&view, &managed, &request, &error), CAI_ERROR_READ_ONLY_ACCESS);
    cr_expect_str_eq(error.message,
                     "argument 'x': expected float32, C-contiguous, writable; got float32, shape (3, 4), "
                     "read-only");
    view.impl_give_back(view.impl_managed);
    cr_expect_eq(deletions, 2);
}

#if !defined(CAI_NO_CUDA)

Test(core, order_of_a_view)
{
    const cudaStream_t producer = unit_stream(cudaStreamNonBlocking), consumer = unit_stream(cudaStreamNonBlocking);
    int               *target = NULL;
    cai_order_pool_t  *pool = cai_order_pool_new(NULL);
    cai_view_t         view;
    cai_status_t       status;
    UNIT_CUDA(cudaMalloc((void **)&target, sizeof(int)));
    memset(&view, 0x5A, sizeof(view));
    cai_impl_view_reset(&view);
    view.impl_order.source = CAI_IMPL_SOURCE_STREAM;
    view.impl_order.mode = cai_order_wait(consumer).mode;
    view.impl_order.producer = producer;
    view.impl_order.consumer = cai_order_wait(consumer).stream;
    view.impl_order.device_id = 0;
    unit_write_late(producer, target);
    cr_expect_eq(cai_impl_order_check(pool, &view.impl_order, NULL), CAI_OK);
    cr_expect_eq(cai_impl_order_make(pool, &view.impl_order, NULL), CAI_OK);
    UNIT_CUDA(cudaStreamSynchronize(consumer));
    cr_expect_eq(*target, 1);
    unit_write_late(consumer, target);
    cr_expect_eq(cai_impl_order_back(pool, &view.impl_order, &status, NULL), CAI_IMPL_REST_NOTHING);
    cr_expect_eq(status, CAI_OK);
    UNIT_CUDA(cudaStreamSynchronize(producer));
    cr_expect_eq(*target, 1);
    cai_order_pool_release(pool);
    UNIT_NO_VIOLATIONS();
}

#else

/* Host arrays alone: described, checked, and nothing to order. */
Test(core, host_array_without_cuda)
{
    static const cai_request_t request = {.name = "x", .dtype = CAI_FLOAT32, .ndim = 1, .require = CAI_WRITABLE};
    float                      memory[4] = {0};
    int64_t                    shape[1] = {4};
    cai_tensor_t               tensor = make_tensor(1, shape);
    cai_error_t                error;
    tensor.data = memory;
    tensor.device.device_type = CAI_DEVICE_CPU;
    cr_expect_eq(cai_tensor_validate(&tensor, &error), CAI_OK);
    cr_expect_eq(cai_request_check(&request, &tensor, 0, NULL, &error), CAI_OK);
    tensor.device.device_type = CAI_DEVICE_CUDA;
    cr_expect_eq(cai_request_check(&request, &tensor, 0, NULL, &error), CAI_ERROR_DEVICE_MISMATCH);
    cr_expect_str_eq(error.message, "argument 'x': expected float32, 1-d, writable, in host memory; got float32, shape "
                                    "(4,), in CUDA memory");
}

#endif
