/*
 * Checks dlpack_abi.h: that the structs lie in memory as DLPack 1.3 lays them down, and that its numbers are DLPack's.
 */
#include <cai/dlpack_abi.h>

#include "unit.h"

#include <string.h>

TestSuite(dlpack_abi, .timeout = UNIT_TIMEOUT);

typedef struct layout_case {
    const char *name;
    size_t      found, expected;
} layout_case_t;

#define SIZE(type, expected)          {#type ": size", sizeof(type), expected}
#define ALIGN(type, expected)         {#type ": alignment", _Alignof(type), expected}
#define OFFSET(type, field, expected) {#type "." #field ": offset", offsetof(type, field), expected}
#define WIDTH(type, field, expected)  {#type "." #field ": size", sizeof(((type *)0)->field), expected}

static const layout_case_t layouts[] = {
    SIZE(cai_dlpack_version_t, 8),
    ALIGN(cai_dlpack_version_t, 4),
    OFFSET(cai_dlpack_version_t, major, 0),
    WIDTH(cai_dlpack_version_t, major, 4),
    OFFSET(cai_dlpack_version_t, minor, 4),
    WIDTH(cai_dlpack_version_t, minor, 4),
    SIZE(cai_device_t, 8),
    ALIGN(cai_device_t, 4),
    OFFSET(cai_device_t, device_type, 0),
    WIDTH(cai_device_t, device_type, 4),
    OFFSET(cai_device_t, device_id, 4),
    WIDTH(cai_device_t, device_id, 4),
    SIZE(cai_dtype_t, 4),
    ALIGN(cai_dtype_t, 2),
    OFFSET(cai_dtype_t, code, 0),
    WIDTH(cai_dtype_t, code, 1),
    OFFSET(cai_dtype_t, bits, 1),
    WIDTH(cai_dtype_t, bits, 1),
    OFFSET(cai_dtype_t, lanes, 2),
    WIDTH(cai_dtype_t, lanes, 2),
    SIZE(cai_tensor_t, 48),
    ALIGN(cai_tensor_t, 8),
    OFFSET(cai_tensor_t, data, 0),
    OFFSET(cai_tensor_t, device, 8),
    OFFSET(cai_tensor_t, ndim, 16),
    WIDTH(cai_tensor_t, ndim, 4),
    OFFSET(cai_tensor_t, dtype, 20),
    OFFSET(cai_tensor_t, shape, 24),
    OFFSET(cai_tensor_t, strides, 32),
    OFFSET(cai_tensor_t, byte_offset, 40),
    WIDTH(cai_tensor_t, byte_offset, 8),
    SIZE(cai_dlpack_managed_t, 64),
    ALIGN(cai_dlpack_managed_t, 8),
    OFFSET(cai_dlpack_managed_t, tensor, 0),
    OFFSET(cai_dlpack_managed_t, manager_ctx, 48),
    OFFSET(cai_dlpack_managed_t, deleter, 56),
    SIZE(cai_dlpack_managed_versioned_t, 80),
    ALIGN(cai_dlpack_managed_versioned_t, 8),
    OFFSET(cai_dlpack_managed_versioned_t, version, 0),
    OFFSET(cai_dlpack_managed_versioned_t, manager_ctx, 8),
    OFFSET(cai_dlpack_managed_versioned_t, deleter, 16),
    OFFSET(cai_dlpack_managed_versioned_t, flags, 24),
    WIDTH(cai_dlpack_managed_versioned_t, flags, 8),
    OFFSET(cai_dlpack_managed_versioned_t, tensor, 32),
    SIZE(cai_dlpack_exchange_header_t, 16),
    ALIGN(cai_dlpack_exchange_header_t, 8),
    OFFSET(cai_dlpack_exchange_header_t, version, 0),
    OFFSET(cai_dlpack_exchange_header_t, prev_api, 8),
    SIZE(cai_dlpack_exchange_t, 56),
    ALIGN(cai_dlpack_exchange_t, 8),
    OFFSET(cai_dlpack_exchange_t, header, 0),
    OFFSET(cai_dlpack_exchange_t, managed_tensor_allocator, 16),
    OFFSET(cai_dlpack_exchange_t, managed_tensor_from_py_object_no_sync, 24),
    OFFSET(cai_dlpack_exchange_t, managed_tensor_to_py_object_no_sync, 32),
    OFFSET(cai_dlpack_exchange_t, dltensor_from_py_object_no_sync, 40),
    OFFSET(cai_dlpack_exchange_t, current_work_stream, 48),
};

Test(dlpack_abi, pitfall_47_layouts)
{
    for (size_t i = 0; i < UNIT_COUNT(layouts); i++)
        cr_expect_eq(layouts[i].found, layouts[i].expected, "%s is %zu, not %zu", layouts[i].name, layouts[i].found,
                     layouts[i].expected);
}

/* The official header has enums where these are; their values are int32_t there in C++ only. */
Test(dlpack_abi, pitfall_70_integers_have_their_widths_and_signs)
{
    cai_device_t         device;
    cai_dtype_t          dtype;
    cai_tensor_t         tensor;
    cai_dlpack_version_t version;
    memset(&device, 0xFF, sizeof(device));
    memset(&dtype, 0xFF, sizeof(dtype));
    memset(&tensor, 0xFF, sizeof(tensor));
    memset(&version, 0xFF, sizeof(version));
    cr_expect_eq(device.device_type, -1);
    cr_expect_eq(device.device_id, -1);
    cr_expect_eq(dtype.code, 255);
    cr_expect_eq(dtype.bits, 255);
    cr_expect_eq(dtype.lanes, 65535);
    cr_expect_eq(tensor.ndim, -1);
    cr_expect_gt(tensor.byte_offset, 0);
    cr_expect_gt(version.major, 0);
    cr_expect_gt(version.minor, 0);
    cr_expect(_Generic(tensor.shape, int64_t *: true, default: false));
    cr_expect(_Generic(tensor.strides, int64_t *: true, default: false));
    cr_expect(_Generic(device.device_type, int32_t: true, default: false));
}

typedef struct number_case {
    const char *name;
    long        found, expected;
} number_case_t;

#define NUMBER(name, expected) {#name, name, expected}

static const number_case_t numbers[] = {
    NUMBER(CAI_DLPACK_MAJOR, 1),
    NUMBER(CAI_DLPACK_MINOR, 3),
    NUMBER(CAI_DEVICE_CPU, 1),
    NUMBER(CAI_DEVICE_CUDA, 2),
    NUMBER(CAI_DEVICE_CUDA_HOST, 3),
    NUMBER(CAI_DEVICE_OPENCL, 4),
    NUMBER(CAI_DEVICE_VULKAN, 7),
    NUMBER(CAI_DEVICE_METAL, 8),
    NUMBER(CAI_DEVICE_VPI, 9),
    NUMBER(CAI_DEVICE_ROCM, 10),
    NUMBER(CAI_DEVICE_ROCM_HOST, 11),
    NUMBER(CAI_DEVICE_EXTENSION, 12),
    NUMBER(CAI_DEVICE_CUDA_MANAGED, 13),
    NUMBER(CAI_DEVICE_ONEAPI, 14),
    NUMBER(CAI_DEVICE_WEBGPU, 15),
    NUMBER(CAI_DEVICE_HEXAGON, 16),
    NUMBER(CAI_DEVICE_MAIA, 17),
    NUMBER(CAI_DEVICE_TRAINIUM, 18),
    NUMBER(CAI_CODE_INT, 0),
    NUMBER(CAI_CODE_UINT, 1),
    NUMBER(CAI_CODE_FLOAT, 2),
    NUMBER(CAI_CODE_OPAQUE, 3),
    NUMBER(CAI_CODE_BFLOAT, 4),
    NUMBER(CAI_CODE_COMPLEX, 5),
    NUMBER(CAI_CODE_BOOL, 6),
    NUMBER(CAI_CODE_FLOAT8_E3M4, 7),
    NUMBER(CAI_CODE_FLOAT8_E4M3, 8),
    NUMBER(CAI_CODE_FLOAT8_E4M3B11FNUZ, 9),
    NUMBER(CAI_CODE_FLOAT8_E4M3FN, 10),
    NUMBER(CAI_CODE_FLOAT8_E4M3FNUZ, 11),
    NUMBER(CAI_CODE_FLOAT8_E5M2, 12),
    NUMBER(CAI_CODE_FLOAT8_E5M2FNUZ, 13),
    NUMBER(CAI_CODE_FLOAT8_E8M0FNU, 14),
    NUMBER(CAI_CODE_FLOAT6_E2M3FN, 15),
    NUMBER(CAI_CODE_FLOAT6_E3M2FN, 16),
    NUMBER(CAI_CODE_FLOAT4_E2M1FN, 17),
    NUMBER(CAI_CODE_BCOMPLEX, 18),
    NUMBER(CAI_DLPACK_FLAG_READ_ONLY, 1),
    NUMBER(CAI_DLPACK_FLAG_IS_COPIED, 2),
    NUMBER(CAI_DLPACK_FLAG_SUBBYTE_PADDED, 4),
};

Test(dlpack_abi, pitfall_33_numbers)
{
    for (size_t i = 0; i < UNIT_COUNT(numbers); i++)
        cr_expect_eq(numbers[i].found, numbers[i].expected, "%s is %ld, not %ld", numbers[i].name, numbers[i].found,
                     numbers[i].expected);
}

Test(dlpack_abi, capsule_names)
{
    cr_expect_str_eq(CAI_DLPACK_CAPSULE, "dltensor");
    cr_expect_str_eq(CAI_DLPACK_CAPSULE_USED, "used_dltensor");
    cr_expect_str_eq(CAI_DLPACK_CAPSULE_VERSIONED, "dltensor_versioned");
    cr_expect_str_eq(CAI_DLPACK_CAPSULE_VERSIONED_USED, "used_dltensor_versioned");
    cr_expect_str_eq(CAI_DLPACK_CAPSULE_EXCHANGE, "dlpack_exchange_api");
}

/* A float32 of DLPack, byte by byte: what another compiler has written. */
Test(dlpack_abi, bytes_of_a_dtype)
{
    static const unsigned char bytes[4] = {2, 32, 1, 0};
    cai_dtype_t                dtype;
    memcpy(&dtype, bytes, sizeof(dtype));
    cr_expect_eq(dtype.code, CAI_CODE_FLOAT);
    cr_expect_eq(dtype.bits, 32);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    cr_expect_eq(dtype.lanes, 1);
#endif
}
