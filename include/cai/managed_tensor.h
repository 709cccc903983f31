/**
 * cai/managed_tensor.h - DLPack's owning structs, legacy and versioned: as what a view holds, and made of an array.
 *
 * Shared by capsules (dlpack.h) and the exchange table (exchange.h). On the way in, ownership is taken first and
 * everything else is looked at afterwards, so that each failure has one way out: giving the view back, which calls
 * the deleter once.
 *
 * Private to cai. Specification: DLPack 1.3, DLManagedTensor and DLManagedTensorVersioned; a NULL deleter is legal.
 */
#ifndef CAI_MANAGED_TENSOR_H
#define CAI_MANAGED_TENSOR_H

#include <cai/array.h>
#include <cai/view.h>

CAI_IMPL void cai_impl_give_back_versioned(void *managed)
{
    cai_dlpack_managed_versioned_t *self = CAI_IMPL_CAST(cai_dlpack_managed_versioned_t *, managed);
    if (self->deleter != NULL)
        self->deleter(self);
}

CAI_IMPL void cai_impl_give_back_legacy(void *managed)
{
    cai_dlpack_managed_t *self = CAI_IMPL_CAST(cai_dlpack_managed_t *, managed);
    if (self->deleter != NULL)
        self->deleter(self);
}

/* The view owns the struct from here on, whatever is returned. Of another major version only the deleter may be used. */
CAI_IMPL cai_status_t cai_impl_view_take_versioned(cai_view_t *view, cai_dlpack_managed_versioned_t *managed,
                                                   cai_error_t *error)
{
    view->impl_managed = managed;
    view->impl_give_back = cai_impl_give_back_versioned;
    if (CAI_IMPL_UNLIKELY(managed->version.major != CAI_DLPACK_MAJOR))
        return cai_error_set(error, CAI_ERROR_INVALID_VERSION,
                             "DLPack version %u.%u cannot be read; this is version %d.%d", managed->version.major,
                             managed->version.minor, CAI_DLPACK_MAJOR, CAI_DLPACK_MINOR);
    /* The flags have the same values on both sides; unknown ones are not passed on. */
    view->flags |= CAI_IMPL_CAST(uint32_t, managed->flags) & (CAI_READONLY | CAI_COPIED | CAI_SUBBYTE_PADDED);
    return cai_impl_view_copy(view, &managed->tensor, error);
}

/* The same for the legacy struct, which has no flags: whether it may be written is the caller's question. */
CAI_IMPL cai_status_t cai_impl_view_take_legacy(cai_view_t *view, cai_dlpack_managed_t *managed, cai_error_t *error)
{
    view->impl_managed = managed;
    view->impl_give_back = cai_impl_give_back_legacy;
    return cai_impl_view_copy(view, &managed->tensor, error);
}

/* ------------------------------------------------------------------------------------------------------- outward --- */

CAI_IMPL void cai_impl_managed_delete_versioned(cai_dlpack_managed_versioned_t *self)
{
    cai_array_release(CAI_IMPL_CAST(cai_array_t *, self->manager_ctx));
    free(self);
}

CAI_IMPL void cai_impl_managed_delete_legacy(cai_dlpack_managed_t *self)
{
    cai_array_release(CAI_IMPL_CAST(cai_array_t *, self->manager_ctx));
    free(self);
}

/* The array's tensor, with shape and strides of its own in `extents`, lying on `device` as DLPack numbers it: pinned and
 * managed memory have no number. */
CAI_IMPL void cai_impl_managed_fill(cai_tensor_t *tensor, const cai_array_t *array, cai_device_t device,
                                    int64_t *extents)
{
    const size_t bytes = CAI_IMPL_CAST(size_t, array->tensor.ndim) * sizeof(int64_t);
    *tensor = array->tensor;
    tensor->device = device;
    if (device.device_type != CAI_DEVICE_CUDA)
        tensor->device.device_id = 0;
    tensor->shape = extents;
    tensor->strides = extents + tensor->ndim;
    memcpy(tensor->shape, array->tensor.shape, bytes);
    memcpy(tensor->strides, array->tensor.strides, bytes);
}

CAI_IMPL size_t cai_impl_managed_extents(const cai_array_t *array)
{
    return CAI_IMPL_CAST(size_t, array->tensor.ndim) * 2 * sizeof(int64_t);
}

/* A new struct that holds a reference to the array, whose deleter may be called on any thread; NULL without memory. */
CAI_IMPL cai_dlpack_managed_versioned_t *cai_impl_managed_new_versioned(cai_array_t *array, cai_device_t device,
                                                                        uint32_t minor)
{
    cai_dlpack_managed_versioned_t *managed =
        CAI_IMPL_CAST(cai_dlpack_managed_versioned_t *,
                      malloc(sizeof(cai_dlpack_managed_versioned_t) + cai_impl_managed_extents(array)));
    if (managed == NULL)
        return NULL;
    managed->version.major = CAI_DLPACK_MAJOR;
    managed->version.minor = minor;
    managed->manager_ctx = cai_array_retain(array);
    managed->deleter = cai_impl_managed_delete_versioned;
    managed->flags = array->flags & (CAI_READONLY | CAI_COPIED | CAI_SUBBYTE_PADDED);
    cai_impl_managed_fill(&managed->tensor, array, device, CAI_IMPL_BITS(int64_t *, managed + 1));
    return managed;
}

CAI_IMPL cai_dlpack_managed_t *cai_impl_managed_new_legacy(cai_array_t *array, cai_device_t device)
{
    cai_dlpack_managed_t *managed =
        CAI_IMPL_CAST(cai_dlpack_managed_t *, malloc(sizeof(cai_dlpack_managed_t) + cai_impl_managed_extents(array)));
    if (managed == NULL)
        return NULL;
    managed->manager_ctx = cai_array_retain(array);
    managed->deleter = cai_impl_managed_delete_legacy;
    cai_impl_managed_fill(&managed->tensor, array, device, CAI_IMPL_BITS(int64_t *, managed + 1));
    return managed;
}

#endif /* CAI_MANAGED_TENSOR_H */
