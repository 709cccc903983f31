/*
 * Checks that the core floor can be used from C++17: constants, requests made by a function, errors, waits, and that
 * C++ and C agree about every layout.
 */
#include "core_second.h"
#include "unit.h"
#include "unit_cuda.h"

#include <string>
#include <type_traits>
#include <vector>

TestSuite(core_cxx, .timeout = UNIT_TIMEOUT);

namespace
{

/* Public constants work in static initialisers. */
const cai_dtype_t  wanted[] = {CAI_FLOAT32, CAI_BFLOAT16, CAI_OPAQUE(16), CAI_FLOAT8_E4M3FN};
const cai_stream_t streams[] = {CAI_STREAM_LEGACY, CAI_STREAM_PER_THREAD};
const int64_t      extents[] = {CAI_EXTENT(0), CAI_EXTENT(15), CAI_EMPTY_EXTENT};
const cai_order_t  orders[] = {cai_order_wait(CAI_STREAM_PER_THREAD), cai_order_adopt(), cai_order_block(),
                               cai_order_none()};
const cai_device_t devices[] = {{CAI_DEVICE_CUDA, 1}, {CAI_DEVICE_CUDA_HOST, 0}};

static_assert(CAI_VERSION > 0, "the version is a constant");
constexpr cai_dtype_t compile_time = CAI_FLOAT32;
static_assert(compile_time.bits == 32 && compile_time.code == CAI_CODE_FLOAT, "initialisers are constant expressions");
static_assert(CAI_EXTENT(2) == -3, "so are extents");
static_assert(sizeof(CAI_DLPACK_CAPSULE) == 9, "capsule names are literals");

/* What crosses into C, and may be copied as bytes. */
static_assert(std::is_trivial<cai_tensor_t>::value && std::is_standard_layout<cai_tensor_t>::value, "cai_tensor_t");
static_assert(std::is_trivial<cai_request_t>::value && std::is_standard_layout<cai_request_t>::value, "cai_request_t");
static_assert(std::is_trivial<cai_view_t>::value && std::is_standard_layout<cai_view_t>::value, "cai_view_t");
static_assert(std::is_trivial<cai_error_t>::value && std::is_standard_layout<cai_error_t>::value, "cai_error_t");
static_assert(std::is_same<cai_stream_t, cudaStream_t>::value, "a stream is passed to a launch as it is");

cai_request_t saxpy_request(const char *name, uint32_t require)
{
    cai_request_t request = cai_request(name);
    request.dtypes = wanted;
    request.n_dtypes = 2;
    request.ndim = 1;
    request.shape[0] = CAI_EXTENT(0);
    request.require = require;
    return request;
}

struct sample {
    std::vector<int64_t> shape, strides;
    cai_tensor_t         tensor{};

    sample(cai_dtype_t dtype, std::vector<int64_t> extents_) : shape(std::move(extents_)), strides(shape.size())
    {
        tensor.data = reinterpret_cast<void *>(UINT64_C(0x7F0000001000));
        tensor.device = devices[0];
        tensor.ndim = static_cast<int32_t>(shape.size());
        tensor.dtype = dtype;
        tensor.shape = shape.data();
        tensor.strides = strides.data();
        cai_c_contiguous_strides(tensor.ndim, tensor.shape, tensor.strides);
    }
};

} // namespace

Test(core_cxx, constants_work_in_static_initialisers)
{
    cr_expect(cai_dtype_equal(wanted[0], cai_float32()));
    cr_expect(cai_dtype_equal(wanted[1], cai_bfloat16()));
    cr_expect(cai_dtype_equal(wanted[2], cai_opaque(16)));
    cr_expect(cai_dtype_equal(wanted[3], cai_float8_e4m3fn()));
    cr_expect(cai_stream_to_handle(streams[0]) == 1);
    cr_expect(cai_stream_to_handle(streams[1]) == 2);
    cr_expect(extents[0] == -1 && extents[1] == -16 && extents[2] == INT64_MIN);
    cr_expect(orders[0].mode == CAI_ORDER_WAIT && orders[0].stream == CAI_STREAM_PER_THREAD);
    cr_expect(orders[1].mode == CAI_ORDER_ADOPT && orders[2].mode == CAI_ORDER_BLOCK &&
              orders[3].mode == CAI_ORDER_NONE);
}

/* The other translation unit is C. */
Test(core_cxx, c_agrees_about_every_layout)
{
    core_second_t second;
    core_second_fill(&second);
    cr_expect(second.version == CAI_VERSION);
    cr_expect(second.size_of_error == sizeof(cai_error_t));
    cr_expect(second.size_of_view == sizeof(cai_view_t));
    cr_expect(second.size_of_request == sizeof(cai_request_t));
    cr_expect(second.size_of_shared == sizeof(cai_shared_t));
    cr_expect(second.size_of_record == sizeof(cai_impl_order_record_t));
    cr_expect(second.flags_in_view == offsetof(cai_view_t, flags));
    cr_expect(second.size_in_view == offsetof(cai_view_t, size));
    cr_expect(second.require_in_request == offsetof(cai_request_t, require));
    cr_expect(second.protocols_in_request == offsetof(cai_request_t, protocols));
    cr_expect(second.status_count == static_cast<int>(CAI_STATUS_COUNT));
    cr_expect(cai_dtype_equal(second.bfloat16, cai_bfloat16()));
    cr_expect(second.legacy == CAI_STREAM_LEGACY && second.per_thread == CAI_STREAM_PER_THREAD);
    cr_expect(second.wait.stream == cai_order_wait(nullptr).stream);
    cr_expect(second.extent_3 == CAI_EXTENT(3) && second.empty_extent == CAI_EMPTY_EXTENT);
}

Test(core_cxx, requests_made_by_a_function)
{
    const cai_request_t writable = saxpy_request("s", CAI_WRITABLE | CAI_C_CONTIGUOUS), plain = saxpy_request("x", 0);
    const sample        s(cai_float32(), {7}), x(cai_float32(), {8}), y(cai_float64(), {7});
    cai_shared_t        shared{};
    cai_error_t         error;
    cr_expect(cai_request_check(&writable, &s.tensor, 0, &shared, &error) == CAI_OK);
    cr_expect(cai_request_check(&plain, &x.tensor, 0, &shared, &error) == CAI_ERROR_INVALID_SHAPE);
    cr_expect(std::string(error.message) ==
              "argument 'x': expected float32 or bfloat16, 1-d, shape (n0=7,); got float32, shape (8,)");
    cr_expect(core_second_check(&plain, &y.tensor, &shared, &error) == CAI_ERROR_DTYPE_MISMATCH);
    cr_expect(std::string(error.message) ==
              "argument 'x': expected float32 or bfloat16, 1-d, shape (n0=7,); got float64, shape (7,)");
}

Test(core_cxx, spellings_of_dtypes)
{
    char        name[CAI_DTYPE_NAME_SIZE], typestr[CAI_TYPESTR_SIZE];
    cai_dtype_t read{};
    cai_error_t error;
    cr_expect(std::string(cai_dtype_name(cai_complex128(), name)) == "complex128");
    cr_expect(cai_dtype_to_typestr(cai_bool(), typestr, &error) == CAI_OK && std::string(typestr) == "|b1");
    cr_expect(cai_dtype_from_typestr("|u1", 3, &read, &error) == CAI_OK && cai_dtype_equal(read, cai_uint8()));
    cr_expect(cai_dtype_from_format("Zf", 8, &read, nullptr) == CAI_OK && cai_dtype_equal(read, cai_complex64()));
    cr_expect(cai_dtype_from_name("float32x4", &read, nullptr) == CAI_OK && cai_dtype_itemsize(read) == 16);
}

Test(core_cxx, questions_about_tensors)
{
    sample dense(cai_float32(), {3, 4});
    cr_expect(cai_tensor_validate(&dense.tensor, nullptr) == CAI_OK);
    cr_expect(cai_tensor_size(&dense.tensor) == 12 && cai_tensor_nbytes(&dense.tensor) == 48);
    cr_expect(cai_tensor_is_c_contiguous(&dense.tensor) && !cai_tensor_is_f_contiguous(&dense.tensor));
    dense.strides = {0, 1};
    dense.tensor.strides = dense.strides.data();
    cr_expect(cai_tensor_may_self_overlap(&dense.tensor));
    dense.shape[0] = -3;
    cai_error_t error;
    cr_expect(cai_tensor_validate(&dense.tensor, &error) == CAI_ERROR_INVALID_SHAPE);
    cr_expect(std::string(cai_status_exception(error.status)) == "InvalidShapeError");
}

Test(core_cxx, device_guard_and_waits)
{
    cai_device_guard_t guard;
    int               *target = nullptr;
    cr_expect(cai_device_guard_enter(&guard, 1, nullptr) == CAI_OK);
    cr_expect(unit_current_device() == 1);
    UNIT_CUDA(cudaMalloc(reinterpret_cast<void **>(&target), sizeof(*target)));
    const cai_stream_t stream = unit_stream(cudaStreamNonBlocking);
    unit_write_late(stream, target);
    cr_expect(cai_device_guard_leave(&guard, nullptr) == CAI_OK);
    cr_expect(unit_current_device() == 0);

    bool capturing = true;
    cr_expect(cai_stream_is_capturing(stream, &capturing, nullptr) == CAI_OK && !capturing);
    cai_device_t device{};
    cr_expect(cai_pointer_device(target, &device, nullptr) == CAI_OK);
    cr_expect(device.device_type == CAI_DEVICE_CUDA && device.device_id == 1);

    cai_impl_order_record_t record{};
    record.source = CAI_IMPL_SOURCE_STREAM;
    record.mode = orders[2].mode;
    record.producer = stream;
    record.device_id = 1;
    cr_expect(cai_impl_order_before(&record) == CAI_IMPL_BEFORE_HOST);
    cr_expect(cai_impl_order_check(nullptr, &record, nullptr) == CAI_OK);
    cr_expect(*target == 0);
    cr_expect(cai_impl_wait_for_stream(record.producer, record.device_id, nullptr) == CAI_OK);
    cr_expect(*target == 1);
    UNIT_NO_VIOLATIONS();
}

Test(core_cxx, views_on_the_stack)
{
    const sample source(cai_int16(), {2, 3});
    cai_view_t   view;
    cai_impl_view_reset(&view);
    cr_expect(cai_impl_view_copy(&view, &source.tensor, nullptr) == CAI_OK);
    cr_expect(cai_impl_view_settle(&view, nullptr) == CAI_OK);
    cr_expect(view.size == 6 && view.impl_layout.c_contiguous && view.tensor.shape == view.impl_shape);
}
