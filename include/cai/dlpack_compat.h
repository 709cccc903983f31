/**
 * cai/dlpack_compat.h - casts between cai's DLPack structs and those of the official header, in both directions.
 *
 * For code that hands cai's structs to an interface written against DLPack, or the other way round:
 *
 *   TVMFFITensorFromDLPack(cai_managed_to_dl(managed), …);
 *   cai_request_check(&want, cai_tensor_from_dl(dl_tensor), 0, NULL, &error);
 *
 * Not part of <cai/cai.h> and <cai/core.h>: include it yourself, with the official <dlpack/dlpack.h> on the include path,
 * any version from 0.6 on. The versioned struct needs 1.0, the exchange table 1.3. The layouts are asserted against each
 * other, so that a header that has changed them does not compile.
 *
 * A cast is no copy: both pointers mean one struct, and who owned it before owns it afterwards. Use only the result from
 * then on, since compilers may assume that structs of two types do not share memory; the cast itself is a barrier.
 *
 * Specification: DLPack 0.6 to 1.3, dlpack.h.
 */
#ifndef CAI_DLPACK_COMPAT_H
#define CAI_DLPACK_COMPAT_H

#include <cai/core.h>

#if defined(__has_include)
#if !__has_include(<dlpack/dlpack.h>)
#error                                                                                                                 \
    "dlpack/dlpack.h is not found: cai/dlpack_compat.h needs the official DLPack header; the rest of cai does without"
#endif
#endif
#include <dlpack/dlpack.h>

/* The official header's version, 100 * major + minor: before 1.0 it was one number, 60 for 0.6. */
#if defined(DLPACK_MAJOR_VERSION)
#define CAI_IMPL_DL_VERSION (DLPACK_MAJOR_VERSION * 100 + DLPACK_MINOR_VERSION)
#elif defined(DLPACK_VERSION)
#define CAI_IMPL_DL_VERSION (DLPACK_VERSION / 10)
#else
#error "this dlpack/dlpack.h tells no version"
#endif
#if CAI_IMPL_DL_VERSION < 6
#error "cai/dlpack_compat.h needs DLPack 0.6 or newer: earlier ones have no DLDevice"
#endif

/** A device as DLDevice, by value. */
CAI_API DLDevice cai_device_to_dl(cai_device_t device);
/** A DLDevice as cai's, by value. */
CAI_API cai_device_t cai_device_from_dl(DLDevice device);

/** A data type as DLDataType, by value. */
CAI_API DLDataType cai_dtype_to_dl(cai_dtype_t dtype);
/** A DLDataType as cai's, by value. */
CAI_API cai_dtype_t cai_dtype_from_dl(DLDataType dtype);

/** The tensor as DLTensor; NULL stays NULL. */
CAI_API DLTensor *cai_tensor_to_dl(cai_tensor_t *tensor);
/** The DLTensor as cai's; NULL stays NULL. Its strides may be NULL: cai_tensor_validate says what is wrong with it. */
CAI_API cai_tensor_t *cai_tensor_from_dl(DLTensor *tensor);

/** The legacy owning struct as DLManagedTensor; NULL stays NULL. */
CAI_API DLManagedTensor *cai_managed_to_dl(cai_dlpack_managed_t *managed);
/** The DLManagedTensor as cai's; NULL stays NULL. */
CAI_API cai_dlpack_managed_t *cai_managed_from_dl(DLManagedTensor *managed);

#if CAI_IMPL_DL_VERSION >= 100
/** The versioned owning struct as DLManagedTensorVersioned; NULL stays NULL. */
CAI_API struct DLManagedTensorVersioned *cai_managed_versioned_to_dl(cai_dlpack_managed_versioned_t *managed);
/** The DLManagedTensorVersioned as cai's; NULL stays NULL. Of another major version only `deleter` may be used. */
CAI_API cai_dlpack_managed_versioned_t *cai_managed_versioned_from_dl(struct DLManagedTensorVersioned *managed);
#endif

#if CAI_IMPL_DL_VERSION >= 103
/** The exchange table as DLPackExchangeAPI; NULL stays NULL. */
CAI_API const struct DLPackExchangeAPI *cai_exchange_to_dl(const cai_dlpack_exchange_t *exchange);
/** The DLPackExchangeAPI as cai's; NULL stays NULL. Of another major version only the header may be used. */
CAI_API const cai_dlpack_exchange_t *cai_exchange_from_dl(const struct DLPackExchangeAPI *exchange);
#endif

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

#define CAI_IMPL_ASSERT_SAME_SIZE(ours, theirs)                                                                        \
    CAI_IMPL_STATIC_ASSERT(sizeof(ours) == sizeof(theirs), "the size of " #ours " is not that of " #theirs)
#define CAI_IMPL_ASSERT_SAME_FIELD(ours, our_field, theirs, their_field)                                               \
    CAI_IMPL_STATIC_ASSERT(offsetof(ours, our_field) == offsetof(theirs, their_field),                                 \
                           #ours "." #our_field " lies elsewhere than " #theirs "." #their_field);                     \
    CAI_IMPL_STATIC_ASSERT(sizeof(CAI_IMPL_CAST(ours *, NULL)->our_field) ==                                           \
                               sizeof(CAI_IMPL_CAST(theirs *, NULL)->their_field),                                     \
                           "the size of " #ours "." #our_field " is not that of " #theirs "." #their_field)

CAI_IMPL_ASSERT_SAME_SIZE(cai_device_t, DLDevice);
CAI_IMPL_ASSERT_SAME_FIELD(cai_device_t, device_type, DLDevice, device_type);
CAI_IMPL_ASSERT_SAME_FIELD(cai_device_t, device_id, DLDevice, device_id);

CAI_IMPL_ASSERT_SAME_SIZE(cai_dtype_t, DLDataType);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dtype_t, code, DLDataType, code);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dtype_t, bits, DLDataType, bits);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dtype_t, lanes, DLDataType, lanes);

CAI_IMPL_ASSERT_SAME_SIZE(cai_tensor_t, DLTensor);
CAI_IMPL_ASSERT_SAME_FIELD(cai_tensor_t, data, DLTensor, data);
CAI_IMPL_ASSERT_SAME_FIELD(cai_tensor_t, device, DLTensor, device);
CAI_IMPL_ASSERT_SAME_FIELD(cai_tensor_t, ndim, DLTensor, ndim);
CAI_IMPL_ASSERT_SAME_FIELD(cai_tensor_t, dtype, DLTensor, dtype);
CAI_IMPL_ASSERT_SAME_FIELD(cai_tensor_t, shape, DLTensor, shape);
CAI_IMPL_ASSERT_SAME_FIELD(cai_tensor_t, strides, DLTensor, strides);
CAI_IMPL_ASSERT_SAME_FIELD(cai_tensor_t, byte_offset, DLTensor, byte_offset);

CAI_IMPL_ASSERT_SAME_SIZE(cai_dlpack_managed_t, DLManagedTensor);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_managed_t, tensor, DLManagedTensor, dl_tensor);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_managed_t, manager_ctx, DLManagedTensor, manager_ctx);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_managed_t, deleter, DLManagedTensor, deleter);

/* A cast that the optimiser cannot see through: what was written through the old type is in memory, and will be read
 * through the new one. */
CAI_IMPL void *cai_impl_same_memory(void *memory)
{
    __asm__("" : "+r"(memory) : : "memory");
    return memory;
}

CAI_API DLDevice cai_device_to_dl(cai_device_t device)
{
    DLDevice result;
    result.device_type = CAI_IMPL_CAST(DLDeviceType, device.device_type);
    result.device_id = device.device_id;
    return result;
}

CAI_API cai_device_t cai_device_from_dl(DLDevice device)
{
    cai_device_t result;
    result.device_type = CAI_IMPL_CAST(int32_t, device.device_type);
    result.device_id = device.device_id;
    return result;
}

CAI_API DLDataType cai_dtype_to_dl(cai_dtype_t dtype)
{
    DLDataType result;
    result.code = dtype.code;
    result.bits = dtype.bits;
    result.lanes = dtype.lanes;
    return result;
}

CAI_API cai_dtype_t cai_dtype_from_dl(DLDataType dtype)
{
    cai_dtype_t result;
    result.code = dtype.code;
    result.bits = dtype.bits;
    result.lanes = dtype.lanes;
    return result;
}

CAI_API DLTensor *cai_tensor_to_dl(cai_tensor_t *tensor)
{
    return CAI_IMPL_CAST(DLTensor *, cai_impl_same_memory(tensor));
}

CAI_API cai_tensor_t *cai_tensor_from_dl(DLTensor *tensor)
{
    return CAI_IMPL_CAST(cai_tensor_t *, cai_impl_same_memory(tensor));
}

CAI_API DLManagedTensor *cai_managed_to_dl(cai_dlpack_managed_t *managed)
{
    return CAI_IMPL_CAST(DLManagedTensor *, cai_impl_same_memory(managed));
}

CAI_API cai_dlpack_managed_t *cai_managed_from_dl(DLManagedTensor *managed)
{
    return CAI_IMPL_CAST(cai_dlpack_managed_t *, cai_impl_same_memory(managed));
}

#if CAI_IMPL_DL_VERSION >= 100

/* Early headers of version 1 declare a struct without a typedef, so that the tag is what all of them have. */
CAI_IMPL_ASSERT_SAME_SIZE(cai_dlpack_version_t, DLPackVersion);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_version_t, major, DLPackVersion, major);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_version_t, minor, DLPackVersion, minor);

CAI_IMPL_ASSERT_SAME_SIZE(cai_dlpack_managed_versioned_t, struct DLManagedTensorVersioned);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_managed_versioned_t, version, struct DLManagedTensorVersioned, version);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_managed_versioned_t, manager_ctx, struct DLManagedTensorVersioned, manager_ctx);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_managed_versioned_t, deleter, struct DLManagedTensorVersioned, deleter);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_managed_versioned_t, flags, struct DLManagedTensorVersioned, flags);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_managed_versioned_t, tensor, struct DLManagedTensorVersioned, dl_tensor);

CAI_API struct DLManagedTensorVersioned *cai_managed_versioned_to_dl(cai_dlpack_managed_versioned_t *managed)
{
    return CAI_IMPL_CAST(struct DLManagedTensorVersioned *, cai_impl_same_memory(managed));
}

CAI_API cai_dlpack_managed_versioned_t *cai_managed_versioned_from_dl(struct DLManagedTensorVersioned *managed)
{
    return CAI_IMPL_CAST(cai_dlpack_managed_versioned_t *, cai_impl_same_memory(managed));
}

#endif

#if CAI_IMPL_DL_VERSION >= 103

/* Every member but the header is one pointer to a function. */
#define CAI_IMPL_ASSERT_SAME_MEMBER(field)                                                                             \
    CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_exchange_t, field, struct DLPackExchangeAPI, field)

CAI_IMPL_ASSERT_SAME_SIZE(cai_dlpack_exchange_header_t, struct DLPackExchangeAPIHeader);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_exchange_header_t, version, struct DLPackExchangeAPIHeader, version);
CAI_IMPL_ASSERT_SAME_FIELD(cai_dlpack_exchange_header_t, prev_api, struct DLPackExchangeAPIHeader, prev_api);

CAI_IMPL_ASSERT_SAME_SIZE(cai_dlpack_exchange_t, struct DLPackExchangeAPI);
CAI_IMPL_ASSERT_SAME_MEMBER(header);
CAI_IMPL_ASSERT_SAME_MEMBER(managed_tensor_allocator);
CAI_IMPL_ASSERT_SAME_MEMBER(managed_tensor_from_py_object_no_sync);
CAI_IMPL_ASSERT_SAME_MEMBER(managed_tensor_to_py_object_no_sync);
CAI_IMPL_ASSERT_SAME_MEMBER(dltensor_from_py_object_no_sync);
CAI_IMPL_ASSERT_SAME_MEMBER(current_work_stream);

/* Tables are static and never change, so that reading one through two types needs no barrier. */
CAI_API const struct DLPackExchangeAPI *cai_exchange_to_dl(const cai_dlpack_exchange_t *exchange)
{
    return CAI_IMPL_BITS(const struct DLPackExchangeAPI *, exchange);
}

CAI_API const cai_dlpack_exchange_t *cai_exchange_from_dl(const struct DLPackExchangeAPI *exchange)
{
    return CAI_IMPL_BITS(const cai_dlpack_exchange_t *, exchange);
}

#endif

#endif /* CAI_DLPACK_COMPAT_H */
