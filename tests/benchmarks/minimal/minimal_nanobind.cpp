// minimal_nanobind.cpp - minimal_cai.c in nanobind.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace nb = nanobind;

NB_MODULE(minimal_nanobind, module)
{
    module.def("take", [](const nb::ndarray<const float, nb::ndim<2>, nb::c_contig> &) {});
}
