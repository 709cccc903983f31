/**
 * cai/cai.h - the one header that an extension author includes: every array that a Python library keeps on a GPU or in
 * host memory, as an argument of a C function.
 *
 * What you write: what you want (cai_request_t), the launch, the end.
 *
 *   static PyObject *saxpy(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
 *   {
 *       static const cai_request_t wants[3] = {
 *           {.name = "s", .dtype = CAI_FLOAT32, .ndim = 1, .shape = {CAI_EXTENT(0)}, .require = CAI_WRITABLE},
 *           {.name = "x", .dtype = CAI_FLOAT32, .ndim = 1, .shape = {CAI_EXTENT(0)}},
 *           {.name = "y", .dtype = CAI_FLOAT32, .ndim = 1, .shape = {CAI_EXTENT(0)}},
 *       };
 *       cai_view_t views[3];
 *       cai_call_t call;
 *       if (cai_call_begin(&call, cai_module_state(module), cai_order_adopt(), wants, args, nargs, 3, views) < 0)
 *           return NULL;
 *       launch_saxpy(&views[0].tensor, &views[1].tensor, &views[2].tensor, call.stream);
 *       return cai_call_end(&call, Py_NewRef(Py_None));
 *   }
 *
 * Where to read on:
 *   call.h        several arguments as one call          cai_call_begin, cai_call_end
 *   object.h      one array                              cai_view_acquire, cai_view_release
 *   argument.h    one array for PyArg_ParseTuple         cai_argument_converter
 *   array_object.h arrays to keep, and arrays out        cai_array_from_object, cai_array_to_object, cai_array_new_like
 *   array.h       arrays that you own                    cai_array_new, cai_array_wrap, cai_array_used_on
 *   array_type.h  your own type as an array              CAI_DEFINE_ARRAY_PROTOCOLS
 *   request.h     what you can ask for                   cai_request_t
 *   view.h        what you get                           cai_view_t
 *   stream.h      who runs after whom                    cai_order_adopt, _wait, _block, _none
 *   state.h       module state and exceptions            cai_state_init, cai_register_exceptions, cai_raise
 *   cuda_stream.h streams of other libraries             cai_stream_from_object
 *   tensor.h      questions about a tensor               cai_tensor_is_c_contiguous …
 *   dtype.h       data types                             CAI_FLOAT32, cai_dtype_name …
 *   device.h      devices                                cai_pointer_device, cai_device_guard_enter
 *   status.h      what can go wrong                      CAI_STATUS_LIST
 *
 * Options (config.h), alike in all translation units: CAI_NO_CUDA, CAI_CUDA_PREFIX, CAI_API.
 * Include this header before any standard header, because Python.h asks for that.
 */
#ifndef CAI_CAI_H
#define CAI_CAI_H

#include <cai/python_compat.h>

#include <cai/core.h>
#include <cai/return_queue.h>
#include <cai/state.h>
#include <cai/reader.h>
#include <cai/cuda_array_interface.h>
#include <cai/dlpack.h>
#include <cai/exchange.h>
#include <cai/buffer.h>
#include <cai/numpy_array.h>
#include <cai/at_once.h>
#include <cai/view_order.h>
#include <cai/cuda_stream.h>
#include <cai/array_type.h>
#include <cai/object.h>
#include <cai/array_object.h>
#include <cai/argument.h>
#include <cai/call.h>

#endif /* CAI_CAI_H */
