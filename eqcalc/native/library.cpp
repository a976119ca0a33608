// Sums of filtered neighbour features, and their derivatives, in one pass over the edges.
//
// The filters are uniform cubic B-splines of the distance. A filter is made where it is
// used, from four rows of its table, so nothing of size (edges x channels) is ever written.
//
// scalar:  out_i = sum_j W(d_ij) x_j
// vector:  s_i   = sum_j Wa(d_ij) a_j
//          v_i   = sum_j r_ij/d_ij Wb(d_ij) b_j + Wc(d_ij) c_j      (c_j and v_i: 3 components)
//
// paths:   M_i[p, m3] = sum_j W_p(d_ij) sum_m1 A_ij[p, m3, m1] h_j[s(p), m1]
//
// where every path p joins one irrep s(p) of the sender's features to one block of the sums,
// and the couplings A of an edge come from outside.
//
// rows_times: x w for a constant w. Libraries of matrix products copy w into an order of their
// own at every call, which takes as long as the product itself for the few rows of a molecule.
//
// Shapes: x (n, F); the vector kernel's features are [a, b, c_x, c_y, c_z] (n, 5F), its sums
// [s, v_x, v_y, v_z] (n, 4F). table (n_rows, F or 3F); row k belongs to d = (k - 1) h.
// edge_index (2, E), row 0 sender j, row 1 receiver i; vectors r_j - r_i (E, 3).
// Edges as long as the table reaches, or longer, contribute nothing.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>

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

#define VALUE(c, w, f) \
  (e.b0 * (c)[f] + e.b1 * (c)[(w) + (f)] + e.b2 * (c)[2 * (w) + (f)] + e.b3 * (c)[3 * (w) + (f)])
#define SLOPE(c, w, f) \
  (e.s0 * (c)[f] + e.s1 * (c)[(w) + (f)] + e.s2 * (c)[2 * (w) + (f)] + e.s3 * (c)[3 * (w) + (f)])

template <typename T>
void scalar_sum(const Edge<T>& e, int64_t F, const T* __restrict c, const T* __restrict x,
                T* __restrict out) {
#pragma omp simd
  for (int64_t f = 0; f < F; ++f) out[f] += VALUE(c, F, f) * x[f];
}

template <typename T>
T scalar_gradient(const Edge<T>& e, int64_t F, const T* __restrict c, const T* __restrict x,
                  const T* __restrict g, T* __restrict grad_x) {
  T slope = 0;
#pragma omp simd reduction(+ : slope)
  for (int64_t f = 0; f < F; ++f) {
    grad_x[f] += VALUE(c, F, f) * g[f];
    slope += SLOPE(c, F, f) * x[f] * g[f];
  }
  return slope;
}

template <typename T>
void vector_sum(const Edge<T>& e, int64_t F, const T* __restrict table, const T* __restrict p,
                T* __restrict out) {
  const int64_t W = 3 * F;
  const T *ca = table, *cb = table + F, *cc = table + 2 * F;
  const T x = e.x, y = e.y, z = e.z;
#pragma omp simd
  for (int64_t f = 0; f < F; ++f) {
    const T b = VALUE(cb, W, f) * p[F + f];
    const T w = VALUE(cc, W, f);
    out[f] += VALUE(ca, W, f) * p[f];
    out[F + f] += x * b + w * p[2 * F + f];
    out[2 * F + f] += y * b + w * p[3 * F + f];
    out[3 * F + f] += z * b + w * p[4 * F + f];
  }
}

template <typename T>
void vector_gradient(const Edge<T>& e, int64_t F, const T* __restrict table,
                     const T* __restrict p, const T* __restrict g, T* __restrict grad_p,
                     T* __restrict grad_vector) {
  const int64_t W = 3 * F;
  const T *ca = table, *cb = table + F, *cc = table + 2 * F;
  const T x = e.x, y = e.y, z = e.z;
  T slope = 0, qx = 0, qy = 0, qz = 0;
#pragma omp simd reduction(+ : slope, qx, qy, qz)
  for (int64_t f = 0; f < F; ++f) {
    const T gs = g[f], gx = g[F + f], gy = g[2 * F + f], gz = g[3 * F + f];
    const T wb = VALUE(cb, W, f), wc = VALUE(cc, W, f);
    const T along = x * gx + y * gy + z * gz;
    const T cg = p[2 * F + f] * gx + p[3 * F + f] * gy + p[4 * F + f] * gz;
    const T b = p[F + f];
    slope += SLOPE(ca, W, f) * p[f] * gs + SLOPE(cb, W, f) * b * along + SLOPE(cc, W, f) * cg;
    qx += wb * b * gx;
    qy += wb * b * gy;
    qz += wb * b * gz;
    grad_p[f] += VALUE(ca, W, f) * gs;
    grad_p[F + f] += wb * along;
    grad_p[2 * F + f] += wc * gx;
    grad_p[3 * F + f] += wc * gy;
    grad_p[4 * F + f] += wc * gz;
  }
  // d(r/d)/dr = (1 - r r^T / d^2) / d
  const T radial = slope - (qx * x + qy * y + qz * z) * e.inverse;
  grad_vector[0] = radial * x + qx * e.inverse;
  grad_vector[1] = radial * y + qy * e.inverse;
  grad_vector[2] = radial * z + qz * e.inverse;
}

// One path: where its features, couplings and sums begin, in numbers, and how they go on.
struct Path {
  int64_t x, d1, a, a_stride, d3, out, out_stride;
};

constexpr int64_t kPathColumns = 7;

// L numbers, the widest vector that processors have; where theirs are shorter, several.
template <typename T>
struct Lanes {
  typedef T V __attribute__((vector_size(64), aligned(alignof(T)), may_alias));
  typedef T Half __attribute__((vector_size(32), may_alias));
  typedef T Quarter __attribute__((vector_size(16), may_alias));
  static constexpr int64_t L = 64 / sizeof(T);
};

template <typename T>
inline typename Lanes<T>::V load(const T* from) {
  return *reinterpret_cast<const typename Lanes<T>::V*>(from);
}

template <typename T>
inline void add_to(T* to, typename Lanes<T>::V value) {
  *reinterpret_cast<typename Lanes<T>::V*>(to) += value;
}

template <typename T>
inline T sum_of(const typename Lanes<T>::V& value) {
  typename Lanes<T>::Half halves[2];
  std::memcpy(halves, &value, 64);
  const auto half = halves[0] + halves[1];
  typename Lanes<T>::Quarter quarters[2];
  std::memcpy(quarters, &half, 32);
  const auto quarter = quarters[0] + quarters[1];
  T sum = 0;
  for (size_t k = 0; k < 16 / sizeof(T); ++k) sum += quarter[k];
  return sum;
}

template <typename T, int D1>
void path_sum(const Edge<T>& e, const Path& q, int64_t C, int64_t W, const T* __restrict c,
              const T* __restrict x, const T* __restrict a, T* __restrict out) {
  using V = typename Lanes<T>::V;
  constexpr int64_t L = Lanes<T>::L;
  const T *h = x + q.x, *A = a + q.a;
  T* o = out + q.out;
  int64_t f = 0;
  for (; f + L <= C; f += L) {
    const V w = e.b0 * load(c + f) + e.b1 * load(c + W + f) + e.b2 * load(c + 2 * W + f) +
                e.b3 * load(c + 3 * W + f);
    V xs[D1];
    for (int m1 = 0; m1 < D1; ++m1) xs[m1] = w * load(h + m1 * C + f);
    for (int64_t m3 = 0; m3 < q.d3; ++m3) {
      const T* row = A + m3 * q.a_stride;
      V sum = row[0] * xs[0];
      for (int m1 = 1; m1 < D1; ++m1) sum += row[m1] * xs[m1];
      add_to(o + m3 * q.out_stride + f, sum);
    }
  }
  for (; f < C; ++f) {
    const T w = VALUE(c, W, f);
    for (int64_t m3 = 0; m3 < q.d3; ++m3) {
      const T* row = A + m3 * q.a_stride;
      T sum = 0;
      for (int m1 = 0; m1 < D1; ++m1) sum += row[m1] * h[m1 * C + f];
      o[m3 * q.out_stride + f] += w * sum;
    }
  }
}

// The derivatives of one path: L channels at a time, then the rest.
template <typename T, int D1>
T path_gradient(const Edge<T>& e, const Path& q, int64_t C, int64_t W, const T* __restrict c,
                const T* __restrict x, const T* __restrict a, const T* __restrict g,
                T* __restrict grad_x, T* __restrict grad_a) {
  using V = typename Lanes<T>::V;
  constexpr int64_t L = Lanes<T>::L;
  const T *h = x + q.x, *A = a + q.a, *go = g + q.out;
  T *gh = grad_x + q.x, *gA = grad_a + q.a;
  T slope = 0;
  int64_t f = 0;
  for (; f + L <= C; f += L) {
    const V c0 = load(c + f), c1 = load(c + W + f), c2 = load(c + 2 * W + f),
            c3 = load(c + 3 * W + f);
    const V w = e.b0 * c0 + e.b1 * c1 + e.b2 * c2 + e.b3 * c3;
    V xs[D1], ys[D1] = {};  // features, and the couplings' sums of the gradient
    for (int m1 = 0; m1 < D1; ++m1) xs[m1] = load(h + m1 * C + f);
    for (int64_t m3 = 0; m3 < q.d3; ++m3) {
      const T* row = A + m3 * q.a_stride;
      const V out = load(go + m3 * q.out_stride + f), weighted = w * out;
      for (int m1 = 0; m1 < D1; ++m1) {
        ys[m1] += row[m1] * out;
        gA[m3 * q.a_stride + m1] += sum_of<T>(weighted * xs[m1]);
      }
    }
    V products = xs[0] * ys[0];
    for (int m1 = 1; m1 < D1; ++m1) products += xs[m1] * ys[m1];
    for (int m1 = 0; m1 < D1; ++m1) add_to(gh + m1 * C + f, w * ys[m1]);
    slope += sum_of<T>((e.s0 * c0 + e.s1 * c1 + e.s2 * c2 + e.s3 * c3) * products);
  }
  for (; f < C; ++f) {
    const T w = VALUE(c, W, f), v = SLOPE(c, W, f);
    for (int64_t m3 = 0; m3 < q.d3; ++m3) {
      const T* row = A + m3 * q.a_stride;
      const T out = go[m3 * q.out_stride + f];
      T sum = 0;
      for (int m1 = 0; m1 < D1; ++m1) {
        sum += row[m1] * h[m1 * C + f];
        gh[m1 * C + f] += row[m1] * w * out;
        gA[m3 * q.a_stride + m1] += w * out * h[m1 * C + f];
      }
      slope += out * v * sum;
    }
  }
  return slope;
}

#define FOR_DEGREE(d1, CALL)                        \
  switch (d1) {                                     \
    case 1: { constexpr int D = 1; CALL; break; }   \
    case 3: { constexpr int D = 3; CALL; break; }   \
    case 5: { constexpr int D = 5; CALL; break; }   \
    case 7: { constexpr int D = 7; CALL; break; }   \
    case 9: { constexpr int D = 9; CALL; break; }   \
    case 11: { constexpr int D = 11; CALL; break; } \
    case 13: { constexpr int D = 13; CALL; break; } \
  }

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
  auto sums = at::zeros({n_chunks, n, width}, features.options());
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

Tensor scalar_convolution(const Tensor& x_, const Tensor& table_, const Tensor& vectors_,
                          const Tensor& index_, double per_h) {
  check(x_, table_, vectors_, index_, 1, 1);
  const auto x = x_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  const int64_t F = x.size(1);
  Tensor out;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "scalar_convolution", [&] {
    const auto *px = x.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>();
    out = over_edges<scalar_t>(
        x, F, table, vectors, index, per_h,
        [&](int64_t, const Edge<scalar_t>& e, scalar_t* own) {
          scalar_sum<scalar_t>(e, F, pc + e.row * F, px + e.j * F, own + e.i * F);
        });
  });
  return out;
}

std::tuple<Tensor, Tensor> scalar_convolution_backward(const Tensor& g_, const Tensor& x_,
                                                       const Tensor& table_,
                                                       const Tensor& vectors_,
                                                       const Tensor& index_, double per_h) {
  check(x_, table_, vectors_, index_, 1, 1);
  const auto g = g_.contiguous(), x = x_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  const int64_t F = x.size(1);
  auto grad_vectors = at::zeros_like(vectors);
  Tensor grad_x;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "scalar_convolution_backward", [&] {
    const auto *px = x.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>(),
               *pg = g.data_ptr<scalar_t>();
    auto* pv = grad_vectors.data_ptr<scalar_t>();
    grad_x = over_edges<scalar_t>(
        x, F, table, vectors, index, per_h,
        [&](int64_t k, const Edge<scalar_t>& e, scalar_t* own) {
          const scalar_t slope = scalar_gradient<scalar_t>(
              e, F, pc + e.row * F, px + e.j * F, pg + e.i * F, own + e.j * F);
          pv[3 * k] = slope * e.x;
          pv[3 * k + 1] = slope * e.y;
          pv[3 * k + 2] = slope * e.z;
        });
  });
  return {grad_x, grad_vectors};
}

Tensor vector_convolution(const Tensor& p_, const Tensor& table_, const Tensor& vectors_,
                          const Tensor& index_, double per_h) {
  check(p_, table_, vectors_, index_, 5, 3);
  const auto p = p_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  const int64_t F = p.size(1) / 5;
  Tensor out;
  AT_DISPATCH_FLOATING_TYPES(p.scalar_type(), "vector_convolution", [&] {
    const auto *pp = p.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>();
    out = over_edges<scalar_t>(
        p, 4 * F, table, vectors, index, per_h,
        [&](int64_t, const Edge<scalar_t>& e, scalar_t* own) {
          vector_sum<scalar_t>(e, F, pc + e.row * 3 * F, pp + e.j * 5 * F, own + e.i * 4 * F);
        });
  });
  return out;
}

std::tuple<Tensor, Tensor> vector_convolution_backward(const Tensor& g_, const Tensor& p_,
                                                       const Tensor& table_,
                                                       const Tensor& vectors_,
                                                       const Tensor& index_, double per_h) {
  check(p_, table_, vectors_, index_, 5, 3);
  const auto g = g_.contiguous(), p = p_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  const int64_t F = p.size(1) / 5;
  auto grad_vectors = at::zeros_like(vectors);
  Tensor grad_p;
  AT_DISPATCH_FLOATING_TYPES(p.scalar_type(), "vector_convolution_backward", [&] {
    const auto *pp = p.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>(),
               *pg = g.data_ptr<scalar_t>();
    auto* pv = grad_vectors.data_ptr<scalar_t>();
    grad_p = over_edges<scalar_t>(
        p, 5 * F, table, vectors, index, per_h,
        [&](int64_t k, const Edge<scalar_t>& e, scalar_t* own) {
          vector_gradient<scalar_t>(e, F, pc + e.row * 3 * F, pp + e.j * 5 * F, pg + e.i * 4 * F,
                                    own + e.j * 5 * F, pv + 3 * k);
        });
  });
  return {grad_p, grad_vectors};
}

void check_paths(const Tensor& x, const Tensor& a, const Tensor& paths, const Tensor& table,
                 const Tensor& vectors, const Tensor& index, int64_t width) {
  TORCH_CHECK(paths.dim() == 2 && paths.size(1) == kPathColumns &&
                  paths.scalar_type() == at::kLong && paths.size(0) > 0,
              "paths must be int64 (n_paths, ", kPathColumns, ")");
  TORCH_CHECK(table.size(1) % paths.size(0) == 0, "paths and table differ");
  TORCH_CHECK(a.dim() == 2 && a.size(0) == vectors.size(0) && a.scalar_type() == x.scalar_type(),
              "couplings and vectors differ");
  check(x, table, vectors, index, x.size(1), table.size(1));
  const int64_t C = table.size(1) / paths.size(0);
  const auto* q = reinterpret_cast<const Path*>(paths.data_ptr<int64_t>());
  for (int64_t p = 0; p < paths.size(0); ++p) {
    TORCH_CHECK(q[p].x >= 0 && q[p].x + q[p].d1 * C <= x.size(1) && q[p].d1 % 2 == 1 &&
                    q[p].d1 <= 13 && q[p].d3 >= 1 && q[p].a >= 0 &&
                    q[p].a + (q[p].d3 - 1) * q[p].a_stride + q[p].d1 <= a.size(1) &&
                    q[p].out >= 0 && q[p].out + (q[p].d3 - 1) * q[p].out_stride + C <= width,
                "path ", p, " is out of range");
  }
}

Tensor path_convolution(const Tensor& x_, const Tensor& a_, const Tensor& paths_,
                        const Tensor& table_, const Tensor& vectors_, const Tensor& index_,
                        double per_h, int64_t width) {
  const auto x = x_.contiguous(), a = a_.contiguous(), paths = paths_.contiguous();
  const auto table = table_.contiguous(), vectors = vectors_.contiguous();
  const auto index = index_.contiguous();
  check_paths(x, a, paths, table, vectors, index, width);
  const int64_t n_paths = paths.size(0), W = table.size(1), C = W / n_paths;
  const int64_t D_x = x.size(1), D_a = a.size(1);
  const auto* q = reinterpret_cast<const Path*>(paths.data_ptr<int64_t>());
  Tensor out;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "path_convolution", [&] {
    const auto *px = x.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>(),
               *pa = a.data_ptr<scalar_t>();
    out = over_edges<scalar_t>(
        x, width, table, vectors, index, per_h,
        [&](int64_t k, const Edge<scalar_t>& e, scalar_t* own) {
          for (int64_t p = 0; p < n_paths; ++p) {
            FOR_DEGREE(q[p].d1, (path_sum<scalar_t, D>(e, q[p], C, W, pc + e.row * W + p * C,
                                                       px + e.j * D_x, pa + k * D_a,
                                                       own + e.i * width)))
          }
        });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> path_convolution_backward(
    const Tensor& g_, const Tensor& x_, const Tensor& a_, const Tensor& paths_,
    const Tensor& table_, const Tensor& vectors_, const Tensor& index_, double per_h) {
  const auto g = g_.contiguous(), x = x_.contiguous(), a = a_.contiguous();
  const auto paths = paths_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  check_paths(x, a, paths, table, vectors, index, g.size(1));
  const int64_t n_paths = paths.size(0), W = table.size(1), C = W / n_paths;
  const int64_t D_x = x.size(1), D_a = a.size(1), width = g.size(1);
  const auto* q = reinterpret_cast<const Path*>(paths.data_ptr<int64_t>());
  auto grad_vectors = at::zeros_like(vectors);
  auto grad_a = at::zeros_like(a);
  Tensor grad_x;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "path_convolution_backward", [&] {
    const auto *px = x.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>(),
               *pa = a.data_ptr<scalar_t>(), *pg = g.data_ptr<scalar_t>();
    auto *pv = grad_vectors.data_ptr<scalar_t>(), *pga = grad_a.data_ptr<scalar_t>();
    grad_x = over_edges<scalar_t>(
        x, D_x, table, vectors, index, per_h,
        [&](int64_t k, const Edge<scalar_t>& e, scalar_t* own) {
          scalar_t slope = 0;
          for (int64_t p = 0; p < n_paths; ++p) {
            FOR_DEGREE(q[p].d1, (slope += path_gradient<scalar_t, D>(
                                     e, q[p], C, W, pc + e.row * W + p * C, px + e.j * D_x,
                                     pa + k * D_a, pg + e.i * width, own + e.j * D_x,
                                     pga + k * D_a)))
          }
          pv[3 * k] = slope * e.x;
          pv[3 * k + 1] = slope * e.y;
          pv[3 * k + 2] = slope * e.z;
        });
  });
  return {grad_x, grad_a, grad_vectors};
}

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

Tensor rows_times(const Tensor& x_, const Tensor& w_) {
  TORCH_CHECK(x_.dim() == 2 && w_.dim() == 2 && x_.size(1) == w_.size(0), "two matrices that fit");
  TORCH_CHECK(x_.scalar_type() == w_.scalar_type(), "x and w differ in precision");
  const auto x = x_.contiguous(), w = w_.contiguous();
  const int64_t M = x.size(0), K = x.size(1), N = w.size(1);
  TORCH_CHECK(N * w.element_size() % 64 == 0, "the columns of w must fill vectors of 64 bytes");
  auto out = at::empty({M, N}, x.options());
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

// The pairs closer than the cutoff, their vectors r_j - r_i + offset (E, 3), made in double
// and returned in the precision of `like`, and the shortest distance of any pair.
std::tuple<Tensor, Tensor, double> edge_vectors(
    const Tensor& positions_, const Tensor& pairs_, const Tensor& offsets_, double cutoff,
    const Tensor& like) {
  TORCH_CHECK(positions_.dim() == 2 && positions_.size(1) == 3 &&
                  positions_.scalar_type() == at::kDouble, "positions (n_atoms, 3), float64");
  TORCH_CHECK(pairs_.dim() == 2 && pairs_.size(0) == 2 && pairs_.scalar_type() == at::kLong,
              "pairs (2, n_pairs), int64");
  const int64_t P = pairs_.size(1), n_atoms = positions_.size(0);
  const bool shifted = offsets_.size(0) > 0;
  TORCH_CHECK(!shifted || (offsets_.dim() == 2 && offsets_.size(0) == P && offsets_.size(1) == 3 &&
                           offsets_.scalar_type() == at::kDouble),
              "offsets (n_pairs, 3), float64, or none");
  const auto positions = positions_.contiguous(), pairs = pairs_.contiguous();
  const auto offsets = offsets_.contiguous();
  const auto* r = positions.data_ptr<double>();
  const int64_t *senders = pairs.data_ptr<int64_t>(), *receivers = senders + P;
  const auto* o = offsets.data_ptr<double>();
  auto all = at::empty({P, 3}, positions.options());
  auto* v = all.data_ptr<double>();
  auto is_near = at::empty({P}, positions.options().dtype(at::kByte));
  auto* near = is_near.data_ptr<uint8_t>();
  int64_t n_near = 0;
  double shortest = std::numeric_limits<double>::infinity();
  for (int64_t p = 0; p < P; ++p) {
    const int64_t j = senders[p], i = receivers[p];
    TORCH_CHECK_INDEX(i >= 0 && i < n_atoms && j >= 0 && j < n_atoms, "pair ", p);
    for (int64_t k = 0; k < 3; ++k) {
      const double difference = r[3 * j + k] - r[3 * i + k];
      v[3 * p + k] = shifted ? difference + o[3 * p + k] : difference;
    }
    const double* w = v + 3 * p;
    const double d = std::sqrt(w[0] * w[0] + w[1] * w[1] + w[2] * w[2]);
    shortest = std::min(shortest, d);
    near[p] = d < cutoff;
    n_near += near[p];
  }
  const bool every = n_near == P;
  auto edge_index = every ? pairs : at::empty({2, n_near}, pairs.options());
  if (every && like.scalar_type() == at::kDouble) return {edge_index, all, shortest};
  auto vectors = at::empty({n_near, 3}, like.options());
  AT_DISPATCH_FLOATING_TYPES(like.scalar_type(), "edge_vectors", [&] {
    auto* out = vectors.data_ptr<scalar_t>();
    if (every) {
      for (int64_t k = 0; k < 3 * P; ++k) out[k] = static_cast<scalar_t>(v[k]);
      return;
    }
    auto *j = edge_index.data_ptr<int64_t>(), *i = j + n_near;
    for (int64_t p = 0; p < P; ++p) {
      if (!near[p]) continue;
      *j++ = senders[p];
      *i++ = receivers[p];
      for (int64_t k = 0; k < 3; ++k) *out++ = static_cast<scalar_t>(v[3 * p + k]);
    }
  });
  return {edge_index, vectors, shortest};
}

// Forces (n_atoms, 3) from the derivatives by the edges' vectors (E, 3), summed in double.
Tensor edge_forces(const Tensor& gradients_, const Tensor& edge_index_, int64_t n_atoms) {
  const int64_t E = gradients_.size(0);
  TORCH_CHECK(gradients_.dim() == 2 && gradients_.size(1) == 3, "gradients (n_edges, 3)");
  TORCH_CHECK(edge_index_.dim() == 2 && edge_index_.size(0) == 2 && edge_index_.size(1) == E &&
                  edge_index_.scalar_type() == at::kLong, "edge_index (2, n_edges), int64");
  const auto gradients = gradients_.contiguous(), edge_index = edge_index_.contiguous();
  auto forces = at::zeros({n_atoms, 3}, gradients.options().dtype(at::kDouble));
  const int64_t *senders = edge_index.data_ptr<int64_t>(), *receivers = senders + E;
  auto* f = forces.data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES(gradients.scalar_type(), "edge_forces", [&] {
    const auto* g = gradients.data_ptr<scalar_t>();
    for (int64_t e = 0; e < E; ++e, g += 3) {
      const int64_t i = receivers[e], j = senders[e];
      TORCH_CHECK_INDEX(i >= 0 && i < n_atoms && j >= 0 && j < n_atoms, "edge ", e);
      for (int64_t k = 0; k < 3; ++k) {
        f[3 * i + k] += static_cast<double>(g[k]);
        f[3 * j + k] -= static_cast<double>(g[k]);
      }
    }
  });
  return forces;
}

// The virial (3, 3) of edges, the sum of r ⊗ dE/dr over all of them, in double.
Tensor edge_virial(const Tensor& vectors_, const Tensor& gradients_) {
  TORCH_CHECK(vectors_.dim() == 2 && vectors_.size(1) == 3 && gradients_.sizes() == vectors_.sizes(),
              "vectors and gradients (n_edges, 3)");
  TORCH_CHECK(vectors_.scalar_type() == gradients_.scalar_type(),
              "vectors and gradients differ in precision");
  const auto vectors = vectors_.contiguous(), gradients = gradients_.contiguous();
  const int64_t E = vectors.size(0);
  auto virial = at::zeros({3, 3}, vectors.options().dtype(at::kDouble));
  AT_DISPATCH_FLOATING_TYPES(vectors.scalar_type(), "edge_virial", [&] {
    const auto *r = vectors.data_ptr<scalar_t>(), *g = gradients.data_ptr<scalar_t>();
    double sums[9] = {};
    for (int64_t e = 0; e < E; ++e, r += 3, g += 3)
      for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b)
          sums[3 * a + b] += static_cast<double>(r[a]) * static_cast<double>(g[b]);
    std::copy(sums, sums + 9, virial.data_ptr<double>());
  });
  return virial;
}

}  // namespace

TORCH_LIBRARY(eqcalc, m) {
  const auto pure = std::vector<at::Tag>{at::Tag::pt2_compliant_tag};
  m.def("scalar_convolution(Tensor x, Tensor table, Tensor vectors, Tensor edge_index, "
        "float per_h) -> Tensor", pure);
  m.def("scalar_convolution_backward(Tensor g, Tensor x, Tensor table, Tensor vectors, "
        "Tensor edge_index, float per_h) -> (Tensor, Tensor)", pure);
  m.def("vector_convolution(Tensor p, Tensor table, Tensor vectors, Tensor edge_index, "
        "float per_h) -> Tensor", pure);
  m.def("vector_convolution_backward(Tensor g, Tensor p, Tensor table, Tensor vectors, "
        "Tensor edge_index, float per_h) -> (Tensor, Tensor)", pure);
  m.def("path_convolution(Tensor x, Tensor couplings, Tensor paths, Tensor table, "
        "Tensor vectors, Tensor edge_index, float per_h, int width) -> Tensor", pure);
  m.def("path_convolution_backward(Tensor g, Tensor x, Tensor couplings, Tensor paths, "
        "Tensor table, Tensor vectors, Tensor edge_index, float per_h) "
        "-> (Tensor, Tensor, Tensor)", pure);
  m.def("rows_times(Tensor x, Tensor w) -> Tensor", pure);
  m.def("edge_vectors(Tensor positions, Tensor pairs, Tensor offsets, float cutoff, Tensor like) "
        "-> (Tensor, Tensor, float)", pure);
  m.def("edge_forces(Tensor gradients, Tensor edge_index, int n_atoms) -> Tensor", pure);
  m.def("edge_virial(Tensor vectors, Tensor gradients) -> Tensor", pure);
}

TORCH_LIBRARY_IMPL(eqcalc, CPU, m) {
  m.impl("scalar_convolution", &scalar_convolution);
  m.impl("scalar_convolution_backward", &scalar_convolution_backward);
  m.impl("vector_convolution", &vector_convolution);
  m.impl("vector_convolution_backward", &vector_convolution_backward);
  m.impl("path_convolution", &path_convolution);
  m.impl("path_convolution_backward", &path_convolution_backward);
  m.impl("rows_times", &rows_times);
  m.impl("edge_vectors", &edge_vectors);
  m.impl("edge_forces", &edge_forces);
  m.impl("edge_virial", &edge_virial);
}
