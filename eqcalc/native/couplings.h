// Couplings of a path on one edge: its harmonics contracted with Clebsch-Gordan coefficients.
//
//   A[m3, m1] = sum_m2 K[m2, m3, m1] Y[m2]      dE/dY[m2] = sum_m3,m1 K[m2, m3, m1] dE/dA[m3, m1]
//
// Of each m2 the constants K are one block of 2l3+1 times 2l1+1 numbers, filled up with zeros to a
// multiple of kBlock: A is made in whole vectors. No more than two m2 of each m3 and m1 couple:
// the derivatives are summed over what is not zero, before anything is summed over lanes.

#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "lanes.h"
#include "path.h"

namespace {

constexpr int64_t kBlock = 16;
constexpr int64_t kMostCouplings = (kMostComponents * kMostComponents + kBlock - 1) / kBlock * kBlock;

inline int64_t block_of(const Path& q) { return (q.d1 * q.d3 + kBlock - 1) / kBlock * kBlock; }

// Refuse paths whose numbers lie outside rows of features x, of D_y harmonics, D_w weights, and of
// `width` sums.
inline void check_paths(const at::Tensor& paths, const at::Tensor& constants, const at::Tensor& x,
                        int64_t D_y, int64_t D_w, int64_t width) {
  TORCH_CHECK(paths.dim() == 2 && paths.size(1) == kPathColumns &&
                  paths.scalar_type() == at::kLong && paths.size(0) > 0,
              "paths must be int64 (n_paths, ", kPathColumns, ")");
  TORCH_CHECK(D_y <= kMostHarmonics, "harmonics of a degree above 6");
  TORCH_CHECK(constants.dim() == 1 && constants.scalar_type() == x.scalar_type(),
              "constants must be one row in the precision of features");
  const auto* q = reinterpret_cast<const Path*>(paths.data_ptr<int64_t>());
  for (int64_t p = 0; p < paths.size(0); ++p) {
    const int64_t C = q[p].c;
    TORCH_CHECK(C > 0 && q[p].w >= 0 && q[p].w + C <= D_w, "path ", p, " has no weights");
    TORCH_CHECK(q[p].x >= 0 && q[p].d1 % 2 == 1 && q[p].d1 >= 1 && q[p].d1 <= kMostComponents &&
                    q[p].x + q[p].d1 * C <= x.size(1) && q[p].d3 >= 1 &&
                    q[p].d3 <= kMostComponents && q[p].y >= 0 && q[p].d2 >= 1 &&
                    q[p].y + q[p].d2 <= D_y && q[p].constants >= 0 &&
                    q[p].constants + q[p].d2 * block_of(q[p]) <= constants.size(0) &&
                    q[p].out >= 0 && q[p].out + (q[p].d3 - 1) * q[p].out_stride + C <= width,
                "path ", p, " is out of range");
  }
}

// Write the couplings of a path, (2l3+1, 2l1+1).
template <typename T>
inline void make_couplings(const Path& q, const T* harmonics, const T* constants, T* a) {
  using V = typename Lanes<T>::V;
  const int64_t block = block_of(q);
  const T *y = harmonics + q.y, *k = constants + q.constants;
  for (int64_t s = 0; s < block; s += Lanes<T>::L) {
    V sum = y[0] * load(k + s);
    for (int64_t m2 = 1; m2 < q.d2; ++m2) sum += y[m2] * load(k + m2 * block + s);
    store(a + s, sum);
  }
}

// The constants of all paths that are not zero, by path and m2.
template <typename T>
struct Contraction {
  struct Entry {
    T value;
    int32_t place;  // of m3 and m1
  };
  std::vector<Entry> entries;
  std::vector<int32_t> ends;  // of each m2 in the entries
  std::vector<int64_t> first;  // of each path in the ends

  Contraction(const Path* q, int64_t n_paths, const T* constants) {
    for (int64_t p = 0; p < n_paths; ++p) {
      first.push_back(static_cast<int64_t>(ends.size()));
      const T* k = constants + q[p].constants;
      for (int64_t m2 = 0; m2 < q[p].d2; ++m2, k += block_of(q[p])) {
        for (int64_t place = 0; place < q[p].d1 * q[p].d3; ++place)
          if (k[place] != T(0)) entries.push_back({k[place], static_cast<int32_t>(place)});
        ends.push_back(static_cast<int32_t>(entries.size()));
      }
    }
  }

  // Add to the derivatives by the harmonics of path p what those by its couplings make.
  void add(const Path& q, int64_t p, const typename Lanes<T>::V* grad_a,
           typename Lanes<T>::V* grad_y) const {
    const int32_t* end = ends.data() + first[p];
    const Entry *entry = entries.data() + (first[p] == 0 ? 0 : end[-1]), *all = entries.data();
    for (int64_t m2 = 0; m2 < q.d2; ++m2) {
      auto sum = grad_y[q.y + m2];
      for (; entry < all + end[m2]; ++entry) sum += entry->value * grad_a[entry->place];
      grad_y[q.y + m2] = sum;
    }
  }
};

}  // namespace
