/*
 * What a second translation unit answers, in C or C++, compiled on its own from the same headers.
 */
#ifndef CORE_SECOND_H
#define CORE_SECOND_H

#include <cai/core.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct core_second {
    int           version;
    size_t        size_of_error, size_of_view, size_of_request, size_of_shared, size_of_record;
    size_t        flags_in_view, size_in_view, require_in_request, protocols_in_request;
    int           status_count;
    cai_dtype_t   bfloat16;
    cai_stream_t  legacy, per_thread;
    cai_order_t   wait;
    int64_t       extent_3, empty_extent;
    cai_request_t request; /* "from the second": 2-d, shape (*, n3), writable */
    const char   *name_of_status;
} core_second_t;

void core_second_fill(core_second_t *second);

/* A check of the request against the tensor in that translation unit. */
cai_status_t core_second_check(const cai_request_t *request, const cai_tensor_t *tensor, cai_shared_t *shared,
                               cai_error_t *error);

#if defined(__cplusplus)
}
#endif

#endif
