/**
 * cai/core.h - the core floor: everything that needs neither Python nor, with CAI_NO_CUDA, the CUDA runtime.
 *
 *   status  dlpack_abi  dtype  tensor  request  stream  (cuda_api)  device  order_pool
 *   order  view  array  managed_tensor
 *
 * For code that handles arrays below a Python binding. A Python extension includes <cai/cai.h> instead.
 */
#ifndef CAI_CORE_H
#define CAI_CORE_H

#include <cai/config.h>
#include <cai/status.h>
#include <cai/dlpack_abi.h>
#include <cai/dtype.h>
#include <cai/tensor.h>
#include <cai/request.h>
#include <cai/stream.h>
#if !defined(CAI_NO_CUDA)
#include <cai/cuda_api.h>
#endif
#include <cai/device.h>
#include <cai/order_pool.h>
#include <cai/order.h>
#include <cai/view.h>
#include <cai/array.h>
#include <cai/managed_tensor.h>

#endif /* CAI_CORE_H */
