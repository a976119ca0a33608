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

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

namespace {

using at::Tensor;

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
  TORCH_CHECK(index.dim() == 2 && index.size(0) == 2 && index.size(1) == vectors.size(0) &&
                  vectors.size(1) == 3,
              "edge_index and vectors differ");
  TORCH_CHECK(index.scalar_type() == at::kLong, "edge_index must be int64");
  // By hand: torch's operations would take longer than the sums of a small molecule.
  const auto contiguous = index.contiguous();
  const int64_t* ids = contiguous.data_ptr<int64_t>();
  const int64_t n_edges = vectors.size(0), n_rows_of[] = {features.size(0), n_atoms};
  for (const int64_t n : n_rows_of) {
    int64_t low = 0, high = -1;
    for (int64_t k = 0; k < n_edges; ++k) {
      low = std::min(low, ids[k]);
      high = std::max(high, ids[k]);
    }
    TORCH_CHECK(low >= 0 && high < n, "edge_index must lie in 0..", n - 1);
    ids += n_edges;
  }
  TORCH_CHECK(table.scalar_type() == features.scalar_type() &&
                  vectors.scalar_type() == features.scalar_type(),
              "features, table and vectors differ in precision");
}

// The derivative by the vector of an edge outside the table.
template <typename T>
inline void no_gradient(T* vector) {
  vector[0] = vector[1] = vector[2] = T(0);
}

// The edges of every atom at one of their ends, in the order of edges.
struct EdgesOf {
  std::vector<int64_t> first;  // (n + 1), where those of an atom begin
  std::vector<int64_t> order;  // (E), their numbers; empty where they already are in this order
};

// A stable counting sort of ids (E), each in 0 ... n - 1.
inline EdgesOf edges_of(const int64_t* ids, int64_t n_edges, int64_t n) {
  EdgesOf edges;
  edges.first.assign(n + 1, 0);
  bool ascending = true;
  for (int64_t k = 0; k < n_edges; ++k) {
    ++edges.first[ids[k] + 1];
    ascending &= k == 0 || ids[k - 1] <= ids[k];
  }
  for (int64_t atom = 0; atom < n; ++atom) edges.first[atom + 1] += edges.first[atom];
  if (ascending) return edges;
  edges.order.resize(n_edges);
  std::vector<int64_t> next(edges.first.begin(), edges.first.end() - 1);
  for (int64_t k = 0; k < n_edges; ++k) edges.order[next[ids[k]]++] = k;
  return edges;
}

// Call work(first atom, last atom) for chunks of atoms that have about as many edges each. Which
// thread takes a chunk is left to chance: what an atom gets must not depend on it.
template <typename Work>
void over_atoms(const std::vector<int64_t>& first, const Work& work) {
  const int64_t n = static_cast<int64_t>(first.size()) - 1, n_edges = first.back();
  const int64_t n_threads = std::min<int64_t>(at::get_num_threads(), n_edges / 512);
  if (n_threads <= 1 || at::in_parallel_region()) return work(0, n);
  const int64_t n_chunks = std::min<int64_t>(8 * n_threads, n_edges / 64);
  const auto begin_of = [&](int64_t chunk) {
    if (chunk == n_chunks) return n;
    const auto found = std::lower_bound(first.begin(), first.end(), n_edges * chunk / n_chunks);
    return std::min<int64_t>(n, found - first.begin());
  };
  std::atomic<int64_t> next{0};
  at::parallel_for(0, n_threads, 1, [&](int64_t, int64_t) {
    for (int64_t c = next++; c < n_chunks; c = next++)
      work(c == 0 ? 0 : begin_of(c), begin_of(c + 1));
  });
}

enum class End { kSender, kReceiver };

// Call visit(edge number, Edge, sum of the atom at that end of it) for all edges, those outside
// the table too, and return the sums (n, width) of the n atoms that may stand there. One thread makes the whole sum of an atom, in
// the order of edges: numbers do not depend on how many threads there are, nor does memory.
template <typename T, typename Visit>
Tensor over_edges(End owner, int64_t n, int64_t width, const Tensor& vectors,
                  const Tensor& index, const Knots& knots, Visit visit) {
  const int64_t n_edges = vectors.size(0);
  const auto stretches = stretches_of<T>(knots);
  const T end = static_cast<T>(knots.ends.back());
  auto sums = vectors.new_empty({n, width});
  T* all = sums.template data_ptr<T>();
  const T* r = vectors.template data_ptr<T>();
  const int64_t *senders = index.data_ptr<int64_t>(), *receivers = senders + n_edges;
  const auto edges = edges_of(owner == End::kSender ? senders : receivers, n_edges, n);
  over_atoms(edges.first, [&](int64_t atom, int64_t last) {
    for (; atom < last; ++atom) {
      T* sum = all + atom * width;
      std::fill(sum, sum + width, T(0));
      for (int64_t m = edges.first[atom]; m < edges.first[atom + 1]; ++m) {
        const int64_t k = edges.order.empty() ? m : edges.order[m];
        visit(k, edge_of<T>(r + 3 * k, senders[k], receivers[k], stretches, end), sum);
      }
    }
  });
  return sums;
}

}  // namespace
