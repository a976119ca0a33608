// x w for a constant w.
//
// Libraries of matrix products copy w into an order of their own at every call, which takes as
// long as the product itself for the few rows of a molecule.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "lanes.h"
#include "library.h"

namespace {

// R rows times C vectors of columns, summed in registers. Each number is summed over k in
// order, whatever the number of rows.
template <typename T, int R, int C>
void product_block(int64_t K, int64_t N, const T* x, const T* w, T* out) {
  using V = typename Lanes<T>::V;
  constexpr int64_t L = Lanes<T>::L;
  V sums[R][C] = {};
  for (int64_t k = 0; k < K; ++k) {
    V row[C];
    for (int c = 0; c < C; ++c) row[c] = load(w + k * N + c * L);
    // The next rows: many short streams, which no processor foresees.
    if (k % L == 0)
      for (int r = 0; r < R; ++r) __builtin_prefetch(x + (R + r) * K + k);
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) sums[r][c] += x[r * K + k] * row[c];
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) *reinterpret_cast<V*>(out + r * N + c * L) = sums[r][c];
}

template <typename T, int C>
void product_columns(int64_t M, int64_t K, int64_t N, const T* x, const T* w, T* out) {
  const auto advance = [&](int64_t r) { M -= r, x += r * K, out += r * N; };
  while (M >= 9) product_block<T, 9, C>(K, N, x, w, out), advance(9);
  if (M >= 6) product_block<T, 6, C>(K, N, x, w, out), advance(6);
  if (M >= 4) product_block<T, 4, C>(K, N, x, w, out), advance(4);
  if (M >= 2) product_block<T, 2, C>(K, N, x, w, out), advance(2);
  if (M >= 1) product_block<T, 1, C>(K, N, x, w, out);
}

}  // namespace

namespace eqcalc {

Tensor rows_times(const Tensor& x_, const Tensor& w_) {
  TORCH_CHECK(x_.dim() == 2 && w_.dim() == 2 && x_.size(1) == w_.size(0), "two matrices that fit");
  TORCH_CHECK(x_.scalar_type() == w_.scalar_type(), "x and w differ in precision");
  const auto x = x_.contiguous(), w = w_.contiguous();
  const int64_t M = x.size(0), K = x.size(1), N = w.size(1);
  TORCH_CHECK(N * w.element_size() % 64 == 0, "the columns of w must fill vectors of 64 bytes");
  auto out = x.new_empty({M, N});
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rows_times", [&] {
    constexpr int64_t L = 64 / sizeof(scalar_t);
    const auto *px = x.data_ptr<scalar_t>(), *pw = w.data_ptr<scalar_t>();
    auto* po = out.data_ptr<scalar_t>();
    at::parallel_for(0, M, 64, [&](int64_t first, int64_t last) {
      const int64_t m = last - first;
      const auto* rows = px + first * K;
      auto* sums = po + first * N;
      int64_t c = 0;
      for (; c + 2 * L <= N; c += 2 * L)
        product_columns<scalar_t, 2>(m, K, N, rows, pw + c, sums + c);
      if (c < N) product_columns<scalar_t, 1>(m, K, N, rows, pw + c, sums + c);
    });
  });
  return out;
}

}  // namespace eqcalc
