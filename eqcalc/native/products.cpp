// x w for a constant w.
//
// Libraries of matrix products copy w into an order of their own at every call, which takes as
// long as the product itself for the few rows of a molecule.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "lanes.h"
#include "library.h"

namespace {

// Rows of numbers: of every m of them, `within` apart, the next lie `between` further on.
template <typename T>
struct Rows {
  const T* first;
  int64_t m, within, between;

  const T* operator[](int64_t r) const { return first + r / m * between + r % m * within; }
};

// R rows, from one on, times C vectors of columns, summed in registers; the first of them that
// are wanted are written. Each number is summed over k in order, whatever the number of rows.
template <typename T, int R, int C>
void product_block(int64_t K, int64_t N, const Rows<T>& x, int64_t row, const T* w, T* out,
                   int64_t wanted, int64_t stride) {
  using V = typename Lanes<T>::V;
  constexpr int64_t L = Lanes<T>::L, kLine = 64 / sizeof(T);
  const T* rows[R];
  for (int r = 0; r < R; ++r) rows[r] = x[row + r];
  const T* next = x[row + R];  // it may be that of others, or none: it is only prefetched
  V sums[R][C] = {};
  for (int64_t k = 0; k < K; ++k) {
    V columns[C];
    for (int c = 0; c < C; ++c) columns[c] = load(w + k * N + c * L);
    // The next rows: many short streams, which no processor foresees.
    if (k % kLine == 0)
      for (int r = 0; r < R; ++r) __builtin_prefetch(next + r * x.within + k);
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) sums[r][c] += rows[r][k] * columns[c];
  }
  for (int r = 0; r < R; ++r) {
    T* to = out + (row + r) * stride;
    if (wanted >= C * L)
      for (int c = 0; c < C; ++c) *reinterpret_cast<V*>(to + c * L) = sums[r][c];
    else
      std::memcpy(to, sums[r], wanted * sizeof(T));
  }
}

template <typename T, int C>
void product_columns(int64_t row, int64_t last, int64_t K, int64_t N, const Rows<T>& x,
                     const T* w, T* out, int64_t wanted, int64_t stride) {
  const auto block = [&](auto size) {
    product_block<T, size, C>(K, N, x, row, w, out, wanted, stride);
    row += size;
  };
  using std::integral_constant;
  if constexpr (kManyRegisters)
    while (row + 9 <= last) block(integral_constant<int, 9>());
  while (row + 6 <= last) block(integral_constant<int, 6>());
  if (row + 4 <= last) block(integral_constant<int, 4>());
  if (row + 2 <= last) block(integral_constant<int, 2>());
  if (row + 1 <= last) block(integral_constant<int, 1>());
}

}  // namespace

namespace eqcalc {

// The first n_out columns of x w: x (..., K) is a matrix or a batch of them, w is (K, N).
Tensor rows_times(const Tensor& x_, const Tensor& w_, int64_t n_out) {
  const int64_t dim = x_.dim();
  TORCH_CHECK((dim == 2 || dim == 3) && w_.dim() == 2 && x_.size(dim - 1) == w_.size(0),
              "two matrices that fit");
  TORCH_CHECK(x_.scalar_type() == w_.scalar_type(), "x and w differ in precision");
  const auto x = x_.stride(dim - 1) == 1 ? x_ : x_.contiguous();
  const auto w = w_.contiguous();
  const int64_t K = w.size(0), N = w.size(1);
  const int64_t m = dim == 3 ? std::max<int64_t>(1, x.size(1)) : 1, M = x.size(0) * m;
  TORCH_CHECK(N * w.element_size() % 64 == 0, "the columns of w must fill vectors of 64 bytes");
  TORCH_CHECK(n_out >= 0 && n_out <= N, "w has ", N, " columns, not ", n_out);
  auto sizes = x.sizes().vec();
  sizes.back() = n_out;
  auto out = x.new_empty(sizes);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rows_times", [&] {
    constexpr int64_t L = Lanes<scalar_t>::L;
    const Rows<scalar_t> rows{x.data_ptr<scalar_t>(), m, dim == 3 ? x.stride(1) : x.stride(0),
                              x.stride(0)};
    const auto* pw = w.data_ptr<scalar_t>();
    auto* po = out.data_ptr<scalar_t>();
    at::parallel_for(0, out.numel() == 0 ? 0 : M, 64, [&](int64_t first, int64_t last) {
      int64_t c = 0;
      for (; c + L < n_out; c += 2 * L)
        product_columns<scalar_t, 2>(first, last, K, N, rows, pw + c, po + c, n_out - c, n_out);
      if (c < n_out)
        product_columns<scalar_t, 1>(first, last, K, N, rows, pw + c, po + c, n_out - c, n_out);
    });
  });
  return out;
}

}  // namespace eqcalc
