// The operators of the library, each defined in the file that its heading names.
//
// Tensors are on a CPU. Whatever does not fit is refused with an exception. New tensors are made
// by methods of given ones (new_empty, new_zeros): the headers of at::empty and its like take
// twice as long to compile as all the rest of a file.

#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace eqcalc {

using at::Tensor;
using Ends = at::ArrayRef<double>;  // of the stretches of a table, see spline_edges.h
using Counts = at::IntArrayRef;

// --- edges.cpp

std::tuple<Tensor, Tensor, double> edge_vectors(const Tensor& positions, const Tensor& pairs,
                                                const Tensor& offsets, double cutoff,
                                                const Tensor& like);
Tensor edge_forces(const Tensor& gradients, const Tensor& edge_index, int64_t n_atoms);
Tensor edge_virial(const Tensor& vectors, const Tensor& gradients);

// --- convolutions.cpp

Tensor scalar_convolution(const Tensor& x, const Tensor& table, const Tensor& vectors,
                          const Tensor& index, Ends ends, Counts counts,
                          int64_t n_atoms);
std::tuple<Tensor, Tensor> scalar_convolution_backward(const Tensor& g, const Tensor& x,
                                                       const Tensor& table,
                                                       const Tensor& vectors,
                                                       const Tensor& index, Ends ends,
                                                       Counts counts);
Tensor vector_convolution(const Tensor& p, const Tensor& table, const Tensor& vectors,
                          const Tensor& index, Ends ends, Counts counts,
                          int64_t n_atoms);
std::tuple<Tensor, Tensor> vector_convolution_backward(const Tensor& g, const Tensor& p,
                                                       const Tensor& table,
                                                       const Tensor& vectors,
                                                       const Tensor& index, Ends ends,
                                                       Counts counts);

// --- path_convolution.cpp

Tensor path_convolution(const Tensor& x, const Tensor& harmonics, const Tensor& constants,
                        const Tensor& paths, const Tensor& table, const Tensor& vectors,
                        const Tensor& index, Ends ends, Counts counts, int64_t width,
                        int64_t n_atoms);
std::tuple<Tensor, Tensor, Tensor> path_convolution_backward(
    const Tensor& g, const Tensor& x, const Tensor& harmonics, const Tensor& constants,
    const Tensor& paths, const Tensor& table, const Tensor& vectors, const Tensor& index,
    Ends ends, Counts counts);

// --- path_products.cpp

Tensor path_products(const Tensor& x, const Tensor& y, const Tensor& w, const Tensor& constants,
                     const Tensor& paths, const Tensor& index, const Tensor& rows, int64_t width,
                     int64_t n_atoms);
std::tuple<Tensor, Tensor, Tensor> path_products_backward(
    const Tensor& g, const Tensor& x, const Tensor& y, const Tensor& w, const Tensor& constants,
    const Tensor& paths, const Tensor& index, const Tensor& rows);
std::tuple<Tensor, Tensor, Tensor, Tensor> path_products_second(
    const Tensor& ux, const Tensor& uy, const Tensor& uw, const Tensor& g, const Tensor& x,
    const Tensor& y, const Tensor& w, const Tensor& constants, const Tensor& paths,
    const Tensor& index, const Tensor& rows);

// --- exchange.cpp

Tensor exchange(const Tensor& owned, int64_t n_all);
Tensor exchange_backward(const Tensor& gradient, int64_t n_owned);

// --- products.cpp

Tensor rows_times(const Tensor& x, const Tensor& w, int64_t n_out);

}  // namespace eqcalc
