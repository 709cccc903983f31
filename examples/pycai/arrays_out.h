/* arrays_out.h - the functions of pycai that hand arrays to Python: for its method table in pycai.c. */
#ifndef PYCAI_ARRAYS_OUT_H
#define PYCAI_ARRAYS_OUT_H

#include <cai/cai.h>

PyObject *receive_and_return_float(PyObject *module, PyObject *s);
PyObject *receive_and_return_int(PyObject *module, PyObject *s);
PyObject *return_zeros(PyObject *module, PyObject *args, PyObject *keywords);
PyObject *return_copy(PyObject *module, PyObject *args, PyObject *keywords);

#define RECEIVE_AND_RETURN_DOC                                                                                         \
    "(s)\n--\n\nTakes a CUDA array by version 3 of the CUDA Array Interface, not empty and of at least one\n"          \
    "dimension, and gives the very same object back."
#define RETURN_ZEROS_DOC                                                                                               \
    "return_cuda_array_interface(shape=(3, 4, 5), readonly=False, version=3)\n--\n\n"                                  \
    "A new float32 array of zeros in the memory of the current GPU, made in C and owned by Python from then on."
#define RETURN_COPY_DOC                                                                                                \
    "return_cuda_array_interface_with_memory_copy(vec=[1, 2, 3, 4, 5], readonly=False, version=3)\n--\n\n"             \
    "The numbers as a new float32 array in the memory of the current GPU. ReadOnlyAccessError when readonly: what\n"   \
    "must not be written cannot be copied to."

#endif
