/**
 * cai/dlpack_abi.h - DLPack 1.3's structs, numbers and capsule names under cai's own names.
 *
 * cai needs no DLPack header and squats on nobody's include guard: a source file may include any version of the
 * official header before or after this one. Layouts are asserted below; dlpack_compat.h compares them with the official
 * ones. Where the official header has enums there are int32_t here, since an enum is an int32_t in C++ only.
 *
 * Specification: DLPack 1.3, dlpack.h; the values that its development head added without a new version are marked HEAD.
 */
#ifndef CAI_DLPACK_ABI_H
#define CAI_DLPACK_ABI_H

#include <cai/config.h>

/** DLPack's version that these layouts are of; `max_version` when cai asks a producer for a capsule. */
#define CAI_DLPACK_MAJOR 1
#define CAI_DLPACK_MINOR 3

/** Names of capsules before and after their contents were taken. Literals: a capsule keeps the pointer, not a copy. */
#define CAI_DLPACK_CAPSULE                "dltensor"
#define CAI_DLPACK_CAPSULE_USED           "used_dltensor"
#define CAI_DLPACK_CAPSULE_VERSIONED      "dltensor_versioned"
#define CAI_DLPACK_CAPSULE_VERSIONED_USED "used_dltensor_versioned"
#define CAI_DLPACK_CAPSULE_EXCHANGE       "dlpack_exchange_api"

/** Kinds of device (`device_type`). Unknown numbers are refused by value: new ones come without a new version. */
enum {
    CAI_DEVICE_CPU = 1,
    CAI_DEVICE_CUDA = 2,
    CAI_DEVICE_CUDA_HOST = 3, /**< pinned host memory */
    CAI_DEVICE_OPENCL = 4,
    CAI_DEVICE_VULKAN = 7,
    CAI_DEVICE_METAL = 8,
    CAI_DEVICE_VPI = 9,
    CAI_DEVICE_ROCM = 10,
    CAI_DEVICE_ROCM_HOST = 11,
    CAI_DEVICE_EXTENSION = 12,
    CAI_DEVICE_CUDA_MANAGED = 13,
    CAI_DEVICE_ONEAPI = 14,
    CAI_DEVICE_WEBGPU = 15,
    CAI_DEVICE_HEXAGON = 16,
    CAI_DEVICE_MAIA = 17,
    CAI_DEVICE_TRAINIUM = 18
};

/** Kinds of element (`code`). */
enum {
    CAI_CODE_INT = 0,
    CAI_CODE_UINT = 1,
    CAI_CODE_FLOAT = 2,
    CAI_CODE_OPAQUE = 3, /**< bytes without a meaning here; DLPack calls it OpaqueHandle */
    CAI_CODE_BFLOAT = 4,
    CAI_CODE_COMPLEX = 5, /**< `bits` counts both parts */
    CAI_CODE_BOOL = 6,
    CAI_CODE_FLOAT8_E3M4 = 7,
    CAI_CODE_FLOAT8_E4M3 = 8,
    CAI_CODE_FLOAT8_E4M3B11FNUZ = 9,
    CAI_CODE_FLOAT8_E4M3FN = 10,
    CAI_CODE_FLOAT8_E4M3FNUZ = 11,
    CAI_CODE_FLOAT8_E5M2 = 12,
    CAI_CODE_FLOAT8_E5M2FNUZ = 13,
    CAI_CODE_FLOAT8_E8M0FNU = 14,
    CAI_CODE_FLOAT6_E2M3FN = 15,
    CAI_CODE_FLOAT6_E3M2FN = 16,
    CAI_CODE_FLOAT4_E2M1FN = 17,
    CAI_CODE_BCOMPLEX = 18 /**< HEAD: a pair of bfloat16 */
};

/** Bits of `flags` in the versioned struct; further ones are ignored. */
enum { CAI_DLPACK_FLAG_READ_ONLY = 1, CAI_DLPACK_FLAG_IS_COPIED = 2, CAI_DLPACK_FLAG_SUBBYTE_PADDED = 4 };

/** DLPackVersion. Another major means another layout: then only `deleter` and `manager_ctx` may be used. */
typedef struct cai_dlpack_version {
    uint32_t major, minor;
} cai_dlpack_version_t;

/** DLDevice. `device_id` is 0 for host, pinned and managed memory. */
typedef struct cai_device {
    int32_t device_type, device_id;
} cai_device_t;

/** DLDataType: `lanes` elements of `bits` bits each make one item; 1 is the usual number of lanes. */
typedef struct cai_dtype {
    uint8_t  code, bits;
    uint16_t lanes;
} cai_dtype_t;

/** DLTensor. `data + byte_offset` is element (0, …, 0); `strides` count elements, NULL means C-contiguous. */
typedef struct cai_tensor {
    void        *data;
    cai_device_t device;
    int32_t      ndim;
    cai_dtype_t  dtype;
    int64_t     *shape, *strides;
    uint64_t     byte_offset;
} cai_tensor_t;

/** DLManagedTensor, in capsules named "dltensor". `deleter` may be NULL; it frees the struct itself. */
typedef struct cai_dlpack_managed {
    cai_tensor_t tensor;
    void        *manager_ctx;
    void (*deleter)(struct cai_dlpack_managed *self);
} cai_dlpack_managed_t;

/** DLManagedTensorVersioned, in capsules named "dltensor_versioned". `deleter` as above. */
typedef struct cai_dlpack_managed_versioned {
    cai_dlpack_version_t version;
    void                *manager_ctx;
    void (*deleter)(struct cai_dlpack_managed_versioned *self);
    uint64_t     flags;
    cai_tensor_t tensor;
} cai_dlpack_managed_versioned_t;

/** DLPackExchangeAPIHeader: tables of other major versions hang on `prev_api`. */
typedef struct cai_dlpack_exchange_header {
    cai_dlpack_version_t               version;
    struct cai_dlpack_exchange_header *prev_api;
} cai_dlpack_exchange_header_t;

/**
 * DLPackExchangeAPI: what a capsule named "dlpack_exchange_api", found on a producer's type, points to. Static, for the
 * life of the process. Functions return 0, or -1 with a Python exception (the allocator: through `set_error`). Every
 * member may be NULL in practice, so each is tested before it is called.
 */
typedef struct cai_dlpack_exchange {
    cai_dlpack_exchange_header_t header;
    int (*managed_tensor_allocator)(cai_tensor_t *prototype, cai_dlpack_managed_versioned_t **out, void *error_ctx,
                                    void (*set_error)(void *error_ctx, const char *kind, const char *message));
    int (*managed_tensor_from_py_object_no_sync)(void *py_object, cai_dlpack_managed_versioned_t **out);
    int (*managed_tensor_to_py_object_no_sync)(cai_dlpack_managed_versioned_t *tensor, void **out_py_object);
    int (*dltensor_from_py_object_no_sync)(void *py_object, cai_tensor_t *out);
    int (*current_work_stream)(int32_t device_type, int32_t device_id, void **out);
} cai_dlpack_exchange_t;

#define CAI_IMPL_ASSERT_LAYOUT(type, size) CAI_IMPL_STATIC_ASSERT(sizeof(type) == (size), #type ": size")
#define CAI_IMPL_ASSERT_OFFSET(type, field, where)                                                                     \
    CAI_IMPL_STATIC_ASSERT(offsetof(type, field) == (where), #type "." #field)

CAI_IMPL_ASSERT_LAYOUT(cai_dlpack_version_t, 8);
CAI_IMPL_ASSERT_LAYOUT(cai_device_t, 8);
CAI_IMPL_ASSERT_LAYOUT(cai_dtype_t, 4);
CAI_IMPL_ASSERT_LAYOUT(cai_tensor_t, 48);
CAI_IMPL_ASSERT_OFFSET(cai_tensor_t, device, 8);
CAI_IMPL_ASSERT_OFFSET(cai_tensor_t, ndim, 16);
CAI_IMPL_ASSERT_OFFSET(cai_tensor_t, dtype, 20);
CAI_IMPL_ASSERT_OFFSET(cai_tensor_t, shape, 24);
CAI_IMPL_ASSERT_OFFSET(cai_tensor_t, strides, 32);
CAI_IMPL_ASSERT_OFFSET(cai_tensor_t, byte_offset, 40);
CAI_IMPL_ASSERT_LAYOUT(cai_dlpack_managed_t, 64);
CAI_IMPL_ASSERT_OFFSET(cai_dlpack_managed_t, manager_ctx, 48);
CAI_IMPL_ASSERT_OFFSET(cai_dlpack_managed_t, deleter, 56);
CAI_IMPL_ASSERT_LAYOUT(cai_dlpack_managed_versioned_t, 80);
CAI_IMPL_ASSERT_OFFSET(cai_dlpack_managed_versioned_t, manager_ctx, 8);
CAI_IMPL_ASSERT_OFFSET(cai_dlpack_managed_versioned_t, deleter, 16);
CAI_IMPL_ASSERT_OFFSET(cai_dlpack_managed_versioned_t, flags, 24);
CAI_IMPL_ASSERT_OFFSET(cai_dlpack_managed_versioned_t, tensor, 32);
CAI_IMPL_ASSERT_LAYOUT(cai_dlpack_exchange_header_t, 16);
CAI_IMPL_ASSERT_LAYOUT(cai_dlpack_exchange_t, 56);
CAI_IMPL_ASSERT_OFFSET(cai_dlpack_exchange_t, managed_tensor_from_py_object_no_sync, 24);
CAI_IMPL_ASSERT_OFFSET(cai_dlpack_exchange_t, managed_tensor_to_py_object_no_sync, 32);
CAI_IMPL_ASSERT_OFFSET(cai_dlpack_exchange_t, dltensor_from_py_object_no_sync, 40);
CAI_IMPL_ASSERT_OFFSET(cai_dlpack_exchange_t, current_work_stream, 48);

#endif /* CAI_DLPACK_ABI_H */
