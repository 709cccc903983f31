/*
 * Checks nothing itself: the second translation unit of test_core.c and test_core_cxx.cpp.
 */
#include "core_second.h"

void core_second_fill(core_second_t *second)
{
    memset(second, 0, sizeof(*second));
    second->version = CAI_VERSION;
    second->size_of_error = sizeof(cai_error_t);
    second->size_of_view = sizeof(cai_view_t);
    second->size_of_request = sizeof(cai_request_t);
    second->size_of_shared = sizeof(cai_shared_t);
    second->size_of_record = sizeof(cai_impl_order_record_t);
    second->flags_in_view = offsetof(cai_view_t, flags);
    second->size_in_view = offsetof(cai_view_t, size);
    second->require_in_request = offsetof(cai_request_t, require);
    second->protocols_in_request = offsetof(cai_request_t, protocols);
    second->status_count = CAI_STATUS_COUNT;
    second->bfloat16 = cai_bfloat16();
    second->legacy = CAI_STREAM_LEGACY;
    second->per_thread = CAI_STREAM_PER_THREAD;
    second->wait = cai_order_wait(NULL);
    second->extent_3 = CAI_EXTENT(3);
    second->empty_extent = CAI_EMPTY_EXTENT;
    second->request = cai_request("from the second");
    second->request.ndim = 2;
    second->request.shape[1] = CAI_EXTENT(3);
    second->request.require = CAI_WRITABLE;
    second->name_of_status = cai_status_name(CAI_ERROR_MEMORY);
}

cai_status_t core_second_check(const cai_request_t *request, const cai_tensor_t *tensor, cai_shared_t *shared,
                               cai_error_t *error)
{
    return cai_request_check(request, tensor, 0, shared, error);
}
