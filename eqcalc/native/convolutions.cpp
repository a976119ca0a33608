// Sums of filtered neighbour features, and their derivatives, in one pass over the edges.
//
// scalar:  out_i = sum_j W(d_ij) x_j
// vector:  s_i   = sum_j Wa(d_ij) a_j
//          v_i   = sum_j r_ij/d_ij Wb(d_ij) b_j + Wc(d_ij) c_j      (c_j and v_i: 3 components)
//
// A filter is made where it is used (spline_edges.h), so nothing of size (edges x channels) is
// ever written.
//
// Shapes: x (n, F); the vector kernel's features p are [a, b, c_x, c_y, c_z] (n, 5F), its sums
// [s, v_x, v_y, v_z] (n, 4F). table (n_rows, F or 3F).

#include <ATen/Dispatch.h>

#include "library.h"
#include "spline_edges.h"

namespace {

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

}  // namespace

namespace eqcalc {

Tensor scalar_convolution(const Tensor& x_, const Tensor& table_, const Tensor& vectors_,
                          const Tensor& index_, Ends ends, Counts counts, int64_t n_atoms) {
  const Knots knots{ends, counts};
  check(x_, table_, vectors_, index_, knots, 1, 1, n_atoms);
  const auto x = x_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  const int64_t F = x.size(1);
  Tensor out;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "scalar_convolution", [&] {
    const auto *px = x.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>();
    out = over_edges<scalar_t>(
        End::kReceiver, n_atoms, F, vectors, index, knots,
        [&](int64_t, const Edge<scalar_t>& e, scalar_t* sum) {
          if (e.inside) scalar_sum<scalar_t>(e, F, pc + e.row * F, px + e.j * F, sum);
        });
  });
  return out;
}

std::tuple<Tensor, Tensor> scalar_convolution_backward(const Tensor& g_, const Tensor& x_,
                                                       const Tensor& table_,
                                                       const Tensor& vectors_,
                                                       const Tensor& index_, Ends ends,
                                                       Counts counts) {
  const Knots knots{ends, counts};
  check(x_, table_, vectors_, index_, knots, 1, 1, g_.size(0));
  const auto g = g_.contiguous(), x = x_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  const int64_t F = x.size(1);
  auto grad_vectors = vectors.new_empty(vectors.sizes());
  Tensor grad_x;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "scalar_convolution_backward", [&] {
    const auto *px = x.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>(),
               *pg = g.data_ptr<scalar_t>();
    auto* pv = grad_vectors.data_ptr<scalar_t>();
    grad_x = over_edges<scalar_t>(
        End::kSender, x.size(0), F, vectors, index, knots,
        [&](int64_t k, const Edge<scalar_t>& e, scalar_t* sum) {
          if (!e.inside) return no_gradient(pv + 3 * k);
          const scalar_t slope = scalar_gradient<scalar_t>(
              e, F, pc + e.row * F, px + e.j * F, pg + e.i * F, sum);
          pv[3 * k] = slope * e.x;
          pv[3 * k + 1] = slope * e.y;
          pv[3 * k + 2] = slope * e.z;
        });
  });
  return {grad_x, grad_vectors};
}

Tensor vector_convolution(const Tensor& p_, const Tensor& table_, const Tensor& vectors_,
                          const Tensor& index_, Ends ends, Counts counts, int64_t n_atoms) {
  const Knots knots{ends, counts};
  check(p_, table_, vectors_, index_, knots, 5, 3, n_atoms);
  const auto p = p_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  const int64_t F = p.size(1) / 5;
  Tensor out;
  AT_DISPATCH_FLOATING_TYPES(p.scalar_type(), "vector_convolution", [&] {
    const auto *pp = p.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>();
    out = over_edges<scalar_t>(
        End::kReceiver, n_atoms, 4 * F, vectors, index, knots,
        [&](int64_t, const Edge<scalar_t>& e, scalar_t* sum) {
          if (e.inside) vector_sum<scalar_t>(e, F, pc + e.row * 3 * F, pp + e.j * 5 * F, sum);
        });
  });
  return out;
}

std::tuple<Tensor, Tensor> vector_convolution_backward(const Tensor& g_, const Tensor& p_,
                                                       const Tensor& table_,
                                                       const Tensor& vectors_,
                                                       const Tensor& index_, Ends ends,
                                                       Counts counts) {
  const Knots knots{ends, counts};
  check(p_, table_, vectors_, index_, knots, 5, 3, g_.size(0));
  const auto g = g_.contiguous(), p = p_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  const int64_t F = p.size(1) / 5;
  auto grad_vectors = vectors.new_empty(vectors.sizes());
  Tensor grad_p;
  AT_DISPATCH_FLOATING_TYPES(p.scalar_type(), "vector_convolution_backward", [&] {
    const auto *pp = p.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>(),
               *pg = g.data_ptr<scalar_t>();
    auto* pv = grad_vectors.data_ptr<scalar_t>();
    grad_p = over_edges<scalar_t>(
        End::kSender, p.size(0), 5 * F, vectors, index, knots,
        [&](int64_t k, const Edge<scalar_t>& e, scalar_t* sum) {
          if (!e.inside) return no_gradient(pv + 3 * k);
          vector_gradient<scalar_t>(e, F, pc + e.row * 3 * F, pp + e.j * 5 * F, pg + e.i * 4 * F,
                                    sum, pv + 3 * k);
        });
  });
  return {grad_p, grad_vectors};
}

}  // namespace eqcalc
