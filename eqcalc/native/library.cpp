// What torch knows of the library: the names and arguments of its operators.

#include <torch/library.h>

#include <vector>

#include "library.h"

TORCH_LIBRARY(eqcalc, m) {
  const auto pure = std::vector<at::Tag>{at::Tag::pt2_compliant_tag};
  m.def("scalar_convolution(Tensor x, Tensor table, Tensor vectors, Tensor edge_index, "
        "float[] ends, int[] counts, SymInt n_atoms) -> Tensor", pure);
  m.def("scalar_convolution_backward(Tensor g, Tensor x, Tensor table, Tensor vectors, "
        "Tensor edge_index, float[] ends, int[] counts) -> (Tensor, Tensor)", pure);
  m.def("vector_convolution(Tensor p, Tensor table, Tensor vectors, Tensor edge_index, "
        "float[] ends, int[] counts, SymInt n_atoms) -> Tensor", pure);
  m.def("vector_convolution_backward(Tensor g, Tensor p, Tensor table, Tensor vectors, "
        "Tensor edge_index, float[] ends, int[] counts) -> (Tensor, Tensor)", pure);
  m.def("path_convolution(Tensor x, Tensor harmonics, Tensor constants, Tensor paths, "
        "Tensor table, Tensor vectors, Tensor edge_index, float[] ends, int[] counts, int width, "
        "SymInt n_atoms) -> Tensor", pure);
  m.def("path_convolution_backward(Tensor g, Tensor x, Tensor harmonics, "
        "Tensor constants, Tensor paths, Tensor table, Tensor vectors, Tensor edge_index, "
        "float[] ends, int[] counts) -> (Tensor, Tensor, Tensor)", pure);
  m.def("path_products(Tensor x, Tensor harmonics, Tensor weights, Tensor constants, Tensor paths, "
        "Tensor edge_index, Tensor rows, int width, SymInt n_atoms) -> Tensor", pure);
  m.def("path_products_backward(Tensor g, Tensor x, Tensor harmonics, Tensor weights, "
        "Tensor constants, Tensor paths, Tensor edge_index, Tensor rows) "
        "-> (Tensor, Tensor, Tensor)", pure);
  m.def("path_products_second(Tensor ux, Tensor uy, Tensor uw, Tensor g, Tensor x, "
        "Tensor harmonics, Tensor weights, Tensor constants, Tensor paths, Tensor edge_index, "
        "Tensor rows) -> (Tensor, Tensor, Tensor, Tensor)", pure);
  m.def("rows_times(Tensor x, Tensor w, int n_out) -> Tensor", pure);
  m.def("exchange(Tensor owned, SymInt n_all) -> Tensor", pure);
  m.def("exchange_backward(Tensor gradient, SymInt n_owned) -> Tensor", pure);
  m.def("edge_vectors(Tensor positions, Tensor pairs, Tensor offsets, float cutoff, Tensor like) "
        "-> (Tensor, Tensor, float)", pure);
  m.def("edge_forces(Tensor gradients, Tensor edge_index, int n_atoms) -> Tensor", pure);
  m.def("edge_virial(Tensor vectors, Tensor gradients) -> Tensor", pure);
}

TORCH_LIBRARY_IMPL(eqcalc, CPU, m) {
  m.impl("scalar_convolution", &eqcalc::scalar_convolution);
  m.impl("scalar_convolution_backward", &eqcalc::scalar_convolution_backward);
  m.impl("vector_convolution", &eqcalc::vector_convolution);
  m.impl("vector_convolution_backward", &eqcalc::vector_convolution_backward);
  m.impl("path_convolution", &eqcalc::path_convolution);
  m.impl("path_convolution_backward", &eqcalc::path_convolution_backward);
  m.impl("path_products", &eqcalc::path_products);
  m.impl("path_products_backward", &eqcalc::path_products_backward);
  m.impl("path_products_second", &eqcalc::path_products_second);
  m.impl("rows_times", &eqcalc::rows_times);
  m.impl("exchange", &eqcalc::exchange);
  m.impl("exchange_backward", &eqcalc::exchange_backward);
  m.impl("edge_vectors", &eqcalc::edge_vectors);
  m.impl("edge_forces", &eqcalc::edge_forces);
  m.impl("edge_virial", &eqcalc::edge_virial);
}
