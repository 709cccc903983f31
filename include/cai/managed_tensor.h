/**
 * cai/managed_tensor.h - DLPack's owning structs, legacy and versioned, as what a view holds.
 *
 * Shared by capsules (dlpack.h) and the exchange table (exchange.h). Ownership is taken first and everything else is
 * looked at afterwards, so that each failure has one way out: giving the view back, which calls the deleter once.
 *
 * Private to cai. Specification: DLPack 1.3, DLManagedTensor and DLManagedTensorVersioned; a NULL deleter is legal.
 */
#ifndef CAI_MANAGED_TENSOR_H
#define CAI_MANAGED_TENSOR_H

#include <cai/view.h>

CAI_IMPL void cai_impl_give_back_versioned(cai_view_t *view)
{
    cai_dlpack_managed_versioned_t *managed = CAI_IMPL_CAST(cai_dlpack_managed_versioned_t *, view->impl_managed);
    if (managed->deleter != NULL)
        managed->deleter(managed);
}

CAI_IMPL void cai_impl_give_back_legacy(cai_view_t *view)
{
    cai_dlpack_managed_t *managed = CAI_IMPL_CAST(cai_dlpack_managed_t *, view->impl_managed);
    if (managed->deleter != NULL)
        managed->deleter(managed);
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

#endif /* CAI_MANAGED_TENSOR_H */
