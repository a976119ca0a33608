// Edges under tabulated filters: where a length lies in its table, and the loop over all edges.
//
// The filters are uniform cubic B-splines of the distance. table (n_rows, n_filters); row k
// belongs to d = (k - 1) h. Vectors r_j - r_i (E, 3); index (2, E), row 0 sender j, row 1
// receiver i. Edges as long as the table reaches, or longer, contribute nothing.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>

namespace {

using at::Tensor;

// Where an edge lies in the table: the first of its four rows, their weights, and the
// derivatives of the weights with respect to the distance.
template <typename T>
struct Edge {
  int64_t i, j, row;
  T x, y, z, inverse;  // direction, 1/d
  T b0, b1, b2, b3, s0, s1, s2, s3;
  bool inside;
};

template <typename T>
inline Edge<T> edge_of(const T* vector, int64_t j, int64_t i, T per_h, int64_t n_intervals) {
  Edge<T> e;
  e.i = i;
  e.j = j;
  const T d = std::sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
  const T u = d * per_h;
  e.inside = u < static_cast<T>(n_intervals);  // false for NaN
  if (!e.inside) return e;
  e.inverse = T(1) / d;
  e.x = vector[0] * e.inverse;
  e.y = vector[1] * e.inverse;
  e.z = vector[2] * e.inverse;
  e.row = static_cast<int64_t>(u);
  const T t = u - static_cast<T>(e.row), q = T(1) - t;
  e.b0 = q * q * q / T(6);
  e.b1 = (T(3) * t * t * t - T(6) * t * t + T(4)) / T(6);
  e.b2 = (T(3) * q * q * q - T(6) * q * q + T(4)) / T(6);
  e.b3 = t * t * t / T(6);
  e.s0 = -per_h * q * q / T(2);
  e.s1 = per_h * (T(3) * t * t - T(4) * t) / T(2);
  e.s2 = -per_h * (T(3) * q * q - T(4) * q) / T(2);
  e.s3 = per_h * t * t / T(2);
  return e;
}

// A filter and its derivative, channel f of w, from four rows of the table.
#define VALUE(c, w, f) \
  (e.b0 * (c)[f] + e.b1 * (c)[(w) + (f)] + e.b2 * (c)[2 * (w) + (f)] + e.b3 * (c)[3 * (w) + (f)])
#define SLOPE(c, w, f) \
  (e.s0 * (c)[f] + e.s1 * (c)[(w) + (f)] + e.s2 * (c)[2 * (w) + (f)] + e.s3 * (c)[3 * (w) + (f)])

// Refuse what would be read beyond its end.
void check(const Tensor& features, const Tensor& table, const Tensor& vectors,
           const Tensor& index, int64_t n_features, int64_t n_filters) {
  TORCH_CHECK(features.dim() == 2 && table.dim() == 2 && vectors.dim() == 2, "three matrices");
  TORCH_CHECK(features.size(1) % n_features == 0 && table.size(1) % n_filters == 0 &&
                  features.size(1) / n_features == table.size(1) / n_filters,
              "features and table differ in channels");
  TORCH_CHECK(table.size(0) >= 4, "a table needs four rows");
  TORCH_CHECK(index.dim() == 2 && index.size(0) == 2 && index.size(1) == vectors.size(0) &&
                  vectors.size(1) == 3,
              "edge_index and vectors differ");
  TORCH_CHECK(index.scalar_type() == at::kLong, "edge_index must be int64");
  // By hand: torch's operations would take longer than the sums of a small molecule.
  const auto contiguous = index.contiguous();
  const int64_t* ids = contiguous.data_ptr<int64_t>();
  int64_t low = 0, high = -1;
  for (int64_t k = 0; k < contiguous.numel(); ++k) {
    low = std::min(low, ids[k]);
    high = std::max(high, ids[k]);
  }
  TORCH_CHECK(low >= 0 && high < features.size(0), "edge_index must lie in 0..",
              features.size(0) - 1);
  TORCH_CHECK(table.scalar_type() == features.scalar_type() &&
                  vectors.scalar_type() == features.scalar_type(),
              "features, table and vectors differ in precision");
}

// Call visit(edge number, Edge, sums of this chunk) for all edges inside the table; with
// several threads each chunk of edges has sums of its own, added at the end.
template <typename T, typename Visit>
Tensor over_edges(const Tensor& features, int64_t width, const Tensor& table,
                  const Tensor& vectors, const Tensor& index, double per_h, Visit visit) {
  const int64_t n = features.size(0), n_edges = vectors.size(0);
  const int64_t n_intervals = table.size(0) - 3;
  const int64_t n_chunks = std::max<int64_t>(
      1, std::min<int64_t>(at::get_num_threads(), n_edges / 512));
  auto sums = features.new_zeros({n_chunks, n, width});
  T* all = sums.template data_ptr<T>();
  const T* r = vectors.template data_ptr<T>();
  const int64_t *senders = index.data_ptr<int64_t>(), *receivers = senders + n_edges;
  at::parallel_for(0, n_chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      T* own = all + chunk * n * width;
      const int64_t end = n_edges * (chunk + 1) / n_chunks;
      for (int64_t k = n_edges * chunk / n_chunks; k < end; ++k) {
        const auto e = edge_of<T>(r + 3 * k, senders[k], receivers[k], static_cast<T>(per_h),
                                  n_intervals);
        if (e.inside) visit(k, e, own);
      }
    }
  });
  return n_chunks == 1 ? sums.squeeze(0) : sums.sum(0);
}

}  // namespace
