// One path of a tensor product on one edge: its sum, and its derivatives.
//
// With the features h (2l1+1, C) of the sender, the couplings A (2l3+1, 2l1+1) of the edge and the
// filters w (C), and g (2l3+1, C) the derivative by the sum,
//
//   out = A (w h)      dE/dh = w (A^T g)      dE/dw = sum_m1 h (A^T g)      dE/dA = g (w h)^T
//
// Channels are taken in vectors of L, those that are left over one by one. The couplings of a
// path are made where they are used (couplings.h).

#pragma once

#include "couplings.h"
#include "lanes.h"
#include "path.h"
#include "spline_edges.h"

namespace {

// The numbers of a path on one edge: its couplings, and rows of which a path takes its own:
// features; sums, or the derivative by them; the four rows of the table, W numbers apart.
template <typename T>
struct Operands {
  const T *a, *x, *out, *table;
  int64_t W;
};

// What leaves the numbers of two vectors of channels in registers, or sums and their factors.
constexpr int kMostPaired = kManyRegisters ? 9 : 5;
constexpr int kMostSums = kManyRegisters ? 25 : 10;

// Add to the sums of N vectors of channels, from f on.
template <typename T, int D1, int N>
inline void sum_block(const Edge<T>& e, const Path& q, const Operands<T>& o, int64_t f,
                      T* __restrict out) {
  using V = typename Lanes<T>::V;
  constexpr int64_t L = Lanes<T>::L;
  const T *h = o.x + q.x + f, *A = o.a, *c = o.table + q.w + f;
  V xs[N][D1];
  for (int n = 0; n < N; ++n) {
    const T* own = c + n * L;
    const V w = e.b0 * load(own) + e.b1 * load(own + o.W) + e.b2 * load(own + 2 * o.W) +
                e.b3 * load(own + 3 * o.W);
    for (int m1 = 0; m1 < D1; ++m1) xs[n][m1] = w * load(h + m1 * q.c + n * L);
  }
  T* to = out + q.out + f;
  for (int64_t m3 = 0; m3 < q.d3; ++m3, A += D1, to += q.out_stride) {
    V sums[N];
    for (int n = 0; n < N; ++n) sums[n] = A[0] * xs[n][0];
    for (int m1 = 1; m1 < D1; ++m1)
      for (int n = 0; n < N; ++n) sums[n] += A[m1] * xs[n][m1];
    for (int n = 0; n < N; ++n) add_to(to + n * L, sums[n]);
  }
}

template <typename T, int D1>
void path_sum(const Edge<T>& e, const Path& q, const Operands<T>& o, T* __restrict out) {
  constexpr int64_t L = Lanes<T>::L;
  int64_t f = 0;
  if constexpr (D1 <= kMostPaired)
    for (; f + 2 * L <= q.c; f += 2 * L) sum_block<T, D1, 2>(e, q, o, f, out);
  for (; f + L <= q.c; f += L) sum_block<T, D1, 1>(e, q, o, f, out);
  const T *h = o.x + q.x, *c = o.table + q.w;
  for (; f < q.c; ++f) {
    const T w = VALUE(c, o.W, f);
    for (int64_t m3 = 0; m3 < q.d3; ++m3) {
      T sum = 0;
      for (int m1 = 0; m1 < D1; ++m1) sum += o.a[m3 * D1 + m1] * h[m1 * q.c + f];
      out[q.out + m3 * q.out_stride + f] += w * sum;
    }
  }
}

// The derivatives by the features of N vectors of channels, and what of them counts for that by
// the distance; keep the weights.
template <typename T, int D1, int N>
inline typename Lanes<T>::V gradient_block(const Edge<T>& e, const Path& q,
                                           const Operands<T>& o, int64_t f, T* __restrict grad_x,
                                           typename Lanes<T>::V* weights) {
  using V = typename Lanes<T>::V;
  constexpr int64_t L = Lanes<T>::L;
  const T *h = o.x + q.x + f, *A = o.a, *g = o.out + q.out + f, *c = o.table + q.w + f;
  V ys[N][D1] = {};  // A^T g
  for (int64_t m3 = 0; m3 < q.d3; ++m3, A += D1, g += q.out_stride) {
    V out[N];
    for (int n = 0; n < N; ++n) out[n] = load(g + n * L);
    for (int m1 = 0; m1 < D1; ++m1)
      for (int n = 0; n < N; ++n) ys[n][m1] += A[m1] * out[n];
  }
  V slopes = {};
  T* to = grad_x + q.x + f;
  for (int n = 0; n < N; ++n) {
    const T* own = c + n * L;
    const V c0 = load(own), c1 = load(own + o.W), c2 = load(own + 2 * o.W),
            c3 = load(own + 3 * o.W);
    const V w = weights[n] = e.b0 * c0 + e.b1 * c1 + e.b2 * c2 + e.b3 * c3;
    V products = load(h + n * L) * ys[n][0];
    for (int m1 = 1; m1 < D1; ++m1) products += load(h + m1 * q.c + n * L) * ys[n][m1];
    for (int m1 = 0; m1 < D1; ++m1) add_to(to + m1 * q.c + n * L, w * ys[n][m1]);
    slopes += (e.s2 * (c2 - c0) + e.s1 * c1 + e.s3 * c3) * products;
  }
  return slopes;
}

// The derivatives by G rows of couplings, from m3 on: sums over n vectors of channels, each a
// vector whose lanes are still to be summed. They are added to those there are, or the first.
template <typename T, int D1, int G>
inline void coupling_rows(const Path& q, const Operands<T>& o, int64_t f, int n, int64_t m3,
                          const typename Lanes<T>::V* weights, typename Lanes<T>::V* grad_a) {
  using V = typename Lanes<T>::V;
  constexpr int64_t L = Lanes<T>::L;
  const T *h = o.x + q.x + f, *g = o.out + q.out + m3 * q.out_stride + f;
  V* to = grad_a + m3 * D1;
  V sums[G * D1] = {};
  for (int k = 0; k < n; ++k, h += L, g += L) {
    V xs[D1];
    for (int m1 = 0; m1 < D1; ++m1) xs[m1] = weights[k] * load(h + m1 * q.c);
    for (int r = 0; r < G; ++r) {
      const V out = load(g + r * q.out_stride);
      for (int m1 = 0; m1 < D1; ++m1) sums[r * D1 + m1] += out * xs[m1];
    }
  }
  if (f == 0)
    for (int s = 0; s < G * D1; ++s) to[s] = sums[s];
  else
    for (int s = 0; s < G * D1; ++s) to[s] += sums[s];
}

// As many rows at once as leave their sums in registers.
template <typename T, int D1, int G>
inline void coupling_block(const Path& q, const Operands<T>& o, int64_t f, int n,
                           const typename Lanes<T>::V* weights, typename Lanes<T>::V* grad_a,
                           int64_t m3 = 0) {
  for (; m3 + G <= q.d3; m3 += G) coupling_rows<T, D1, G>(q, o, f, n, m3, weights, grad_a);
  if constexpr (G > 1)
    if (m3 < q.d3) coupling_block<T, D1, G - 1>(q, o, f, n, weights, grad_a, m3);
}

// The derivatives of a path from l1 = 0 in one pass, so that g is read once: those by the
// couplings are written, the others added. Return the first channel that is left over.
template <typename T, int D3>
int64_t scalar_gradient(const Edge<T>& e, const Path& q, const Operands<T>& o,
                        T* __restrict grad_x, typename Lanes<T>::V* grad_a,
                        typename Lanes<T>::V& slopes) {
  using V = typename Lanes<T>::V;
  constexpr int64_t L = Lanes<T>::L;
  V sums[D3] = {}, all = {};
  int64_t f = 0;
  for (; f + L <= q.c; f += L) {
    const T *g = o.out + q.out + f, *c = o.table + q.w + f;
    const V c0 = load(c), c1 = load(c + o.W), c2 = load(c + 2 * o.W), c3 = load(c + 3 * o.W);
    const V w = e.b0 * c0 + e.b1 * c1 + e.b2 * c2 + e.b3 * c3;
    const V h = load(o.x + q.x + f), x = w * h;
    V y = {};  // A^T g
    for (int m3 = 0; m3 < D3; ++m3) {
      const V out = load(g + m3 * q.out_stride);
      y += o.a[m3] * out;
      sums[m3] += out * x;
    }
    add_to(grad_x + q.x + f, w * y);
    all += (e.s2 * (c2 - c0) + e.s1 * c1 + e.s3 * c3) * (h * y);
  }
  for (int m3 = 0; m3 < D3; ++m3) grad_a[m3] = sums[m3];
  slopes += all;
  return f;
}

// Add to the derivatives by features, write those by couplings, and return that by the distance;
// the lanes of the latter two are still to be summed.
template <typename T, int D1>
typename Lanes<T>::V path_gradient(const Edge<T>& e, const Path& q, const Operands<T>& o,
                                   T* __restrict grad_x, typename Lanes<T>::V* grad_a) {
  using V = typename Lanes<T>::V;
  constexpr int64_t L = Lanes<T>::L;
  constexpr int kMost = 8;  // vectors of channels whose sums are made together
  V slopes = {}, weights[kMost];
  int64_t f = 0;
  if constexpr (D1 == 1) {
    switch (q.d3) {  // more sums than these would not stay in registers
      case 1: f = scalar_gradient<T, 1>(e, q, o, grad_x, grad_a, slopes); break;
      case 3: f = scalar_gradient<T, 3>(e, q, o, grad_x, grad_a, slopes); break;
      case 5: f = scalar_gradient<T, 5>(e, q, o, grad_x, grad_a, slopes); break;
      case 7: f = scalar_gradient<T, 7>(e, q, o, grad_x, grad_a, slopes); break;
    }
  }
  while (f + L <= q.c) {
    const int n = static_cast<int>(std::min<int64_t>(kMost, (q.c - f) / L));
    int k = 0;
    if constexpr (D1 <= kMostPaired)
      for (; k + 2 <= n; k += 2)
        slopes += gradient_block<T, D1, 2>(e, q, o, f + k * L, grad_x, weights + k);
    for (; k < n; ++k)
      slopes += gradient_block<T, D1, 1>(e, q, o, f + k * L, grad_x, weights + k);
    coupling_block<T, D1, std::max(1, kMostSums / D1)>(q, o, f, n, weights, grad_a);
    f += n * L;
  }
  if (f == 0) std::fill(grad_a, grad_a + q.d3 * D1, V{});
  const T *h = o.x + q.x, *g = o.out + q.out, *c = o.table + q.w;
  for (; f < q.c; ++f) {
    const T w = VALUE(c, o.W, f), v = SLOPE(c, o.W, f);
    for (int64_t m3 = 0; m3 < q.d3; ++m3) {
      const T* row = o.a + m3 * D1;
      const T out = g[m3 * q.out_stride + f];
      T sum = 0;
      for (int m1 = 0; m1 < D1; ++m1) {
        sum += row[m1] * h[m1 * q.c + f];
        grad_x[q.x + m1 * q.c + f] += row[m1] * w * out;
        grad_a[m3 * D1 + m1][0] += w * out * h[m1 * q.c + f];
      }
      slopes[0] += out * v * sum;
    }
  }
  return slopes;
}

}  // namespace
