// Edges under tabulated filters: where a length lies in its table, and the loop over all edges.
//
// The filters are cubic splines of the distance d. table (n_rows, n_filters) has two rows for
// each knot, the value there and h times the slope. Knots lie in uniform stretches: `ends` (S)
// says where each one ends (the first begins at zero), `counts` (S) how many intervals it has;
// the rows of one stretch follow those of the other, so that the knot between is in both.
// Vectors r_j - r_i (E, 3); index (2, E), row 0 sender j, row 1 receiver i. Edges as long as the
// table reaches, or longer, contribute nothing. Senders are rows of features; receivers are the
// first n_atoms of them, or all.

#pragma once

#include <cmath>

#include "edge_loop.h"

namespace {

// Where the knots of a table lie.
struct Knots {
  at::ArrayRef<double> ends;
  at::IntArrayRef counts;
};

// One uniform stretch: where it begins, 1/h, its last interval, and the row of its first knot.
template <typename T>
struct Stretch {
  T start, per_h;
  int64_t last, row;
};

template <typename T>
std::vector<Stretch<T>> stretches_of(const Knots& knots) {
  std::vector<Stretch<T>> stretches;
  double start = 0.0;
  int64_t row = 0;
  for (size_t s = 0; s < knots.ends.size(); ++s) {
    const int64_t count = knots.counts[s];
    const double per_h = static_cast<double>(count) / (knots.ends[s] - start);
    stretches.push_back({static_cast<T>(start), static_cast<T>(per_h), count - 1, row});
    start = knots.ends[s];
    row += 2 * (count + 1);
  }
  return stretches;
}

// Where an edge lies in the table: the first of its four rows, their weights, and the
// derivatives of the weights with respect to the distance.
template <typename T>
struct Edge {
  int64_t i, j, row;
  T x, y, z, inverse;  // direction, 1/d
  T b0, b1, b2, b3, s1, s2, s3;  // s0 is -s2
  bool inside;
};

template <typename T>
inline Edge<T> edge_of(const T* vector, int64_t j, int64_t i,
                       const std::vector<Stretch<T>>& stretches, T end) {
  Edge<T> e;
  e.i = i;
  e.j = j;
  const T d = std::sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
  e.inside = d < end;  // false for NaN
  if (!e.inside) return e;
  e.inverse = T(1) / d;
  e.x = vector[0] * e.inverse;
  e.y = vector[1] * e.inverse;
  e.z = vector[2] * e.inverse;
  size_t s = stretches.size() - 1;
  while (s > 0 && d < stretches[s].start) --s;
  const T per_h = stretches[s].per_h, u = (d - stretches[s].start) * per_h;
  const int64_t interval = std::min(static_cast<int64_t>(u), stretches[s].last);
  e.row = stretches[s].row + 2 * interval;
  const T t = u - static_cast<T>(interval), q = T(1) - t;
  e.b0 = (T(1) + T(2) * t) * q * q;
  e.b1 = t * q * q;
  e.b2 = (T(3) - T(2) * t) * t * t;
  e.b3 = -t * t * q;
  e.s1 = per_h * q * (T(1) - T(3) * t);
  e.s2 = per_h * T(6) * t * q;
  e.s3 = per_h * t * (T(3) * t - T(2));
  return e;
}

// A filter and its derivative, channel f of w, from four rows of the table. The values are
// subtracted first: they are close, and their difference is exact.
#define VALUE(c, w, f) \
  (e.b0 * (c)[f] + e.b1 * (c)[(w) + (f)] + e.b2 * (c)[2 * (w) + (f)] + e.b3 * (c)[3 * (w) + (f)])
#define SLOPE(c, w, f) \
  (e.s2 * ((c)[2 * (w) + (f)] - (c)[f]) + e.s1 * (c)[(w) + (f)] + e.s3 * (c)[3 * (w) + (f)])

// Refuse what would be read beyond its end.
void check(const Tensor& features, const Tensor& table, const Tensor& vectors,
           const Tensor& index, const Knots& knots, int64_t n_features, int64_t n_filters,
           int64_t n_atoms) {
  TORCH_CHECK(features.dim() == 2 && table.dim() == 2 && vectors.dim() == 2, "three matrices");
  TORCH_CHECK(features.size(1) % n_features == 0 && table.size(1) % n_filters == 0 &&
                  features.size(1) / n_features == table.size(1) / n_filters,
              "features and table differ in channels");
  TORCH_CHECK(!knots.ends.empty() && knots.ends.size() == knots.counts.size(),
              "every stretch of a table needs its end and its intervals");
  int64_t n_rows = 0;
  for (size_t s = 0; s < knots.ends.size(); ++s) {
    TORCH_CHECK(knots.counts[s] > 0 && knots.ends[s] > (s == 0 ? 0.0 : knots.ends[s - 1]),
                "stretch ", s, " of a table has no intervals or no length");
    n_rows += 2 * (knots.counts[s] + 1);
  }
  TORCH_CHECK(table.size(0) == n_rows, "a table of these knots has ", n_rows, " rows, not ",
              table.size(0));
  TORCH_CHECK(vectors.size(1) == 3, "edge_index and vectors differ");
  check_index(index, vectors.size(0), features.size(0), n_atoms);
  TORCH_CHECK(table.scalar_type() == features.scalar_type() &&
                  vectors.scalar_type() == features.scalar_type(),
              "features, table and vectors differ in precision");
}

// The derivative by the vector of an edge outside the table.
template <typename T>
inline void no_gradient(T* vector) {
  vector[0] = vector[1] = vector[2] = T(0);
}

// Call visit(edge number, Edge, sum of the atom at that end of it) for all edges, those outside
// the table too, and return the sums (n, width) of the n atoms that may stand there (over_pairs).
template <typename T, typename Visit>
Tensor over_edges(End owner, int64_t n, int64_t width, const Tensor& vectors,
                  const Tensor& index, const Knots& knots, const Visit& visit) {
  const auto stretches = stretches_of<T>(knots);
  const T end = static_cast<T>(knots.ends.back());
  const T* r = vectors.template data_ptr<T>();
  return over_pairs<T>(owner, n, width, vectors, index,
                       [&](int64_t k, int64_t j, int64_t i, T* sum) {
                         visit(k, edge_of<T>(r + 3 * k, j, i, stretches, end), sum);
                       });
}

}  // namespace
