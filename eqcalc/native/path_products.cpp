// Sums of tensor products under given weights, and their derivatives of any order.
//
// M_i[p, m3] = sum_j w_ij[p] sum_m1 A_ij[p, m3, m1] h_j[s(p), m1]
//
// as in path_convolution.cpp, but the weights w are those of each edge instead of a table, so that
// a network can be trained through them. The product is linear in the features x, the harmonics y
// (of which the couplings A are made) and the weights w. With g for the derivative by the sums,
//
//   S(x, y, w, g) = sum_i g_i M_i(x, y, w)
//
// is linear in each, and path_products_backward returns dS/dx, dS/dy and dS/dw. What those make of
// three other derivatives u is the sum of S with one of its first three arguments replaced,
//
//   S(u_x, y, w, g) + S(x, u_y, w, g) + S(x, y, u_w, g)
//
// of which path_products_second returns the derivatives by g, x, y and w. One thread makes the
// whole sum of an atom, in the order of edges: numbers do not depend on how many threads there are.
//
// Shapes: features (n, D_x), harmonics (E, D_y), weights (R, D_w), sums (n, width); paths
// (n_paths, 10) says where in their rows a path's numbers lie (path.h), constants (any) what it is
// coupled by. index (2, E), row 0 sender j, row 1 receiver i. rows (E) is the row of weights that
// each edge takes, as the two directions of a pair take the same; empty, each has its own (R = E).

#include <ATen/Dispatch.h>

#include <array>

#include "couplings.h"
#include "edge_loop.h"
#include "library.h"

namespace {

template <typename V, typename T>
inline V get(const T* from) {
  return *reinterpret_cast<const V*>(from);
}

template <typename V, typename T>
inline void put(T* to, V value) {
  *reinterpret_cast<V*>(to) = value;
}

template <typename V, typename T>
inline void add(T* to, V value) {
  *reinterpret_cast<V*>(to) += value;
}

// Call with the channels of a path from f on in vectors, those that are left over one by one.
template <typename T, typename Work>
inline void over_channels(int64_t n_channels, const Work& work) {
  constexpr int64_t L = Lanes<T>::L;
  int64_t f = 0;
  for (; f + L <= n_channels; f += L) work(f, typename Lanes<T>::V{});
  for (; f < n_channels; ++f) work(f, T{});
}

// Add a number of one channel, or a vector of several, to sums whose lanes are summed at the end.
template <typename V>
inline void add_lanes(V& to, const V& value) { to += value; }
template <typename V>
inline void add_lanes(V& to, const std::remove_cvref_t<decltype(V{}[0])>& value) { to[0] += value; }

// What a path reads on one edge: its couplings, and rows of which it takes its own.
template <typename T>
struct Factors {
  const T *a, *x, *w;
};

template <typename T, int D1>
void products(const Path& q, const Factors<T>& o, T* __restrict sum) {
  over_channels<T>(q.c, [&](int64_t f, auto zero) {
    using V = decltype(zero);
    const V w = get<V>(o.w + q.w + f);
    V xs[D1];
    for (int m1 = 0; m1 < D1; ++m1) xs[m1] = w * get<V>(o.x + q.x + m1 * q.c + f);
    const T* a = o.a;
    T* to = sum + q.out + f;
    for (int64_t m3 = 0; m3 < q.d3; ++m3, a += D1, to += q.out_stride) {
      V total = a[0] * xs[0];
      for (int m1 = 1; m1 < D1; ++m1) total += a[m1] * xs[m1];
      add(to, total);
    }
  });
}

// Add to the derivatives by the features, write those by the weights, and those by the couplings
// as vectors whose lanes are still to be summed.
template <typename T, int D1>
void first_derivatives(const Path& q, const Factors<T>& o, const T* g, T* __restrict by_x,
                       T* __restrict by_w, typename Lanes<T>::V* __restrict by_a) {
  std::fill(by_a, by_a + q.d3 * D1, typename Lanes<T>::V{});
  over_channels<T>(q.c, [&](int64_t f, auto zero) {
    using V = decltype(zero);
    const V w = get<V>(o.w + q.w + f);
    V h[D1], xs[D1], ys[D1] = {};
    for (int m1 = 0; m1 < D1; ++m1) {
      h[m1] = get<V>(o.x + q.x + m1 * q.c + f);
      xs[m1] = w * h[m1];
    }
    const T *a = o.a, *from = g + q.out + f;
    auto* to = by_a;
    for (int64_t m3 = 0; m3 < q.d3; ++m3, a += D1, to += D1, from += q.out_stride) {
      const V out = get<V>(from);
      for (int m1 = 0; m1 < D1; ++m1) {
        ys[m1] += a[m1] * out;
        add_lanes(to[m1], V(out * xs[m1]));
      }
    }
    V all = {};
    for (int m1 = 0; m1 < D1; ++m1) {
      add(by_x + q.x + m1 * q.c + f, V(w * ys[m1]));
      all += h[m1] * ys[m1];
    }
    put(by_w + q.w + f, all);
  });
}

// The second kernel's part of the sums: u replaces in turn the features, the couplings, the
// weights of o.
template <typename T, int D1>
void second_sums(const Path& q, const Factors<T>& o, const Factors<T>& u, T* __restrict sum) {
  over_channels<T>(q.c, [&](int64_t f, auto zero) {
    using V = decltype(zero);
    const V w = get<V>(o.w + q.w + f), uw = get<V>(u.w + q.w + f);
    V xs[D1], us[D1];
    for (int m1 = 0; m1 < D1; ++m1) {
      const V h = get<V>(o.x + q.x + m1 * q.c + f);
      xs[m1] = w * h;
      us[m1] = w * get<V>(u.x + q.x + m1 * q.c + f) + uw * h;
    }
    const T *a = o.a, *b = u.a;
    T* to = sum + q.out + f;
    for (int64_t m3 = 0; m3 < q.d3; ++m3, a += D1, b += D1, to += q.out_stride) {
      V total = a[0] * us[0] + b[0] * xs[0];
      for (int m1 = 1; m1 < D1; ++m1) total += a[m1] * us[m1] + b[m1] * xs[m1];
      add(to, total);
    }
  });
}

// Its parts of the derivatives, as first_derivatives does.
template <typename T, int D1>
void second_derivatives(const Path& q, const Factors<T>& o, const Factors<T>& u, const T* g,
                        T* __restrict by_x, T* __restrict by_w,
                        typename Lanes<T>::V* __restrict by_a) {
  std::fill(by_a, by_a + q.d3 * D1, typename Lanes<T>::V{});
  over_channels<T>(q.c, [&](int64_t f, auto zero) {
    using V = decltype(zero);
    const V w = get<V>(o.w + q.w + f), uw = get<V>(u.w + q.w + f);
    V us[D1], ya[D1] = {}, yb[D1] = {};
    for (int m1 = 0; m1 < D1; ++m1)
      us[m1] = w * get<V>(u.x + q.x + m1 * q.c + f) + uw * get<V>(o.x + q.x + m1 * q.c + f);
    const T *a = o.a, *b = u.a, *from = g + q.out + f;
    auto* to = by_a;
    for (int64_t m3 = 0; m3 < q.d3; ++m3, a += D1, b += D1, to += D1, from += q.out_stride) {
      const V out = get<V>(from);
      for (int m1 = 0; m1 < D1; ++m1) {
        ya[m1] += a[m1] * out;
        yb[m1] += b[m1] * out;
        add_lanes(to[m1], V(out * us[m1]));
      }
    }
    V all = {};
    for (int m1 = 0; m1 < D1; ++m1) {
      add(by_x + q.x + m1 * q.c + f, V(w * yb[m1] + uw * ya[m1]));
      all += get<V>(u.x + q.x + m1 * q.c + f) * ya[m1] +
             get<V>(o.x + q.x + m1 * q.c + f) * yb[m1];
    }
    put(by_w + q.w + f, all);
  });
}

// All that the kernels read, contiguous and checked.
struct Operands {
  Tensor x, y, w, constants, paths, index, rows;
  const Path* q;
  const int64_t* row;  // of an edge's weights; null where each has its own
  int64_t n_paths, D_x, D_y, D_w, n_edges, width, n_atoms;
  bool all_weights;  // the paths take them one after the other, and leave none out

  Operands(const Tensor& x_, const Tensor& y_, const Tensor& w_, const Tensor& constants_,
           const Tensor& paths_, const Tensor& index_, const Tensor& rows_, int64_t width_,
           int64_t n_atoms_)
      : x(x_.contiguous()), y(y_.contiguous()), w(w_.contiguous()),
        constants(constants_.contiguous()), paths(paths_.contiguous()),
        index(index_.contiguous()), rows(rows_.contiguous()), width(width_), n_atoms(n_atoms_) {
    const bool own = rows.numel() == 0;
    TORCH_CHECK(x.dim() == 2 && y.dim() == 2 && w.dim() == 2 && (!own || y.size(0) == w.size(0)),
                "features, harmonics and weights are matrices, the latter two of all edges");
    TORCH_CHECK(own || (rows.dim() == 1 && rows.size(0) == y.size(0) &&
                        rows.scalar_type() == at::kLong),
                "rows of weights must be int64, one for each edge");
    row = own ? nullptr : rows.data_ptr<int64_t>();
    TORCH_CHECK(own || all_below(w.size(0), row, y.size(0)), "rows of weights must lie in 0..",
                w.size(0) - 1);
    TORCH_CHECK(y.scalar_type() == x.scalar_type() && w.scalar_type() == x.scalar_type(),
                "features, harmonics and weights differ in precision");
    D_x = x.size(1), D_y = y.size(1), D_w = w.size(1), n_edges = y.size(0);
    check_paths(paths, constants, x, D_y, D_w, width);
    q = reinterpret_cast<const Path*>(paths.data_ptr<int64_t>());
    n_paths = paths.size(0);
    check_index(index, n_edges, x.size(0), n_atoms);
    int64_t next = 0;
    for (int64_t p = 0; p < n_paths && q[p].w == next; ++p) next += q[p].c;
    all_weights = next == D_w;
  }

  int64_t weights_of(int64_t edge) const { return (row ? row[edge] : edge) * D_w; }

  // What a derivative by the weights of each edge (E, D_w) is written to.
  Tensor of_each_edge() const {
    const std::array<int64_t, 2> sizes{n_edges, D_w};
    return all_weights ? w.new_empty(sizes) : w.new_zeros(sizes);
  }

  // The derivative by the weights: sums over the edges that share a row, in the order of edges.
  template <typename T>
  Tensor by_weights(const Tensor& each) const {
    if (!row) return each;
    auto sums = w.new_zeros(w.sizes());
    const T* from = each.data_ptr<T>();
    for (int64_t k = 0; k < n_edges; ++k, from += D_w) {
      T* __restrict to = sums.data_ptr<T>() + row[k] * D_w;
      for (int64_t c = 0; c < D_w; ++c) to[c] += from[c];
    }
    return sums;
  }
};

// A derivative, contiguous, that has the shape and precision of what it belongs to.
Tensor fitting(const Tensor& derivative, const Tensor& of) {
  TORCH_CHECK(derivative.sizes() == of.sizes() && derivative.scalar_type() == of.scalar_type(),
              "a derivative differs in shape or precision from what it belongs to");
  return derivative.contiguous();
}

// The derivative by the sums of all atoms, contiguous.
Tensor of_sums(const Tensor& g, const Tensor& x) {
  TORCH_CHECK(g.dim() == 2 && g.scalar_type() == x.scalar_type(),
              "the derivative by the sums is a matrix in the precision of features");
  return g.contiguous();
}

}  // namespace

namespace eqcalc {

Tensor path_products(const Tensor& x, const Tensor& y, const Tensor& w, const Tensor& constants,
                     const Tensor& paths, const Tensor& index, const Tensor& rows, int64_t width,
                     int64_t n_atoms) {
  const Operands o(x, y, w, constants, paths, index, rows, width, n_atoms);
  Tensor out;
  AT_DISPATCH_FLOATING_TYPES(o.x.scalar_type(), "path_products", [&] {
    const auto *px = o.x.data_ptr<scalar_t>(), *py = o.y.data_ptr<scalar_t>(),
               *pw = o.w.data_ptr<scalar_t>(), *pk = o.constants.data_ptr<scalar_t>();
    out = over_pairs<scalar_t>(
        End::kReceiver, n_atoms, width, o.x, o.index,
        [&](int64_t k, int64_t j, int64_t, scalar_t* sum) {
          alignas(64) scalar_t a[kMostCouplings];
          const Factors<scalar_t> own{a, px + j * o.D_x, pw + o.weights_of(k)};
          for (int64_t p = 0; p < o.n_paths; ++p) {
            make_couplings(o.q[p], py + k * o.D_y, pk, a);
            FOR_DEGREE(o.q[p].d1, (products<scalar_t, D>(o.q[p], own, sum)))
          }
        });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> path_products_backward(
    const Tensor& g_, const Tensor& x, const Tensor& y, const Tensor& w, const Tensor& constants,
    const Tensor& paths, const Tensor& index, const Tensor& rows) {
  const auto g = of_sums(g_, x);
  const Operands o(x, y, w, constants, paths, index, rows, g.size(1), g.size(0));
  Tensor by_x, by_y = o.y.new_empty(o.y.sizes()), by_w = o.of_each_edge();
  AT_DISPATCH_FLOATING_TYPES(o.x.scalar_type(), "path_products_backward", [&] {
    using V = typename Lanes<scalar_t>::V;
    const auto *px = o.x.data_ptr<scalar_t>(), *py = o.y.data_ptr<scalar_t>(),
               *pw = o.w.data_ptr<scalar_t>(), *pk = o.constants.data_ptr<scalar_t>(),
               *pg = g.data_ptr<scalar_t>();
    auto *pgy = by_y.data_ptr<scalar_t>(), *pgw = by_w.data_ptr<scalar_t>();
    const Contraction<scalar_t> contraction(o.q, o.n_paths, pk);
    by_x = over_pairs<scalar_t>(
        End::kSender, o.x.size(0), o.D_x, o.x, o.index,
        [&](int64_t k, int64_t j, int64_t i, scalar_t* sum) {
          alignas(64) scalar_t a[kMostCouplings];
          alignas(64) V by_a[kMostComponents * kMostComponents], of_y[kMostHarmonics];
          const Factors<scalar_t> own{a, px + j * o.D_x, pw + o.weights_of(k)};
          std::fill(of_y, of_y + o.D_y, V{});
          for (int64_t p = 0; p < o.n_paths; ++p) {
            make_couplings(o.q[p], py + k * o.D_y, pk, a);
            FOR_DEGREE(o.q[p].d1, (first_derivatives<scalar_t, D>(o.q[p], own, pg + i * o.width,
                                                                  sum, pgw + k * o.D_w, by_a)))
            contraction.add(o.q[p], p, by_a, of_y);
          }
          sums_of_all<scalar_t>(of_y, o.D_y, pgy + k * o.D_y);
        });
    by_w = o.by_weights<scalar_t>(by_w);
  });
  return {by_x, by_y, by_w};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> path_products_second(
    const Tensor& ux_, const Tensor& uy_, const Tensor& uw_, const Tensor& g_, const Tensor& x,
    const Tensor& y, const Tensor& w, const Tensor& constants, const Tensor& paths,
    const Tensor& index, const Tensor& rows) {
  const auto g = of_sums(g_, x);
  const Operands o(x, y, w, constants, paths, index, rows, g.size(1), g.size(0));
  const auto ux = fitting(ux_, o.x), uy = fitting(uy_, o.y),
             uw = fitting(uw_, o.w);
  Tensor by_g, by_x, by_y = o.y.new_empty(o.y.sizes()), by_w = o.of_each_edge();
  AT_DISPATCH_FLOATING_TYPES(o.x.scalar_type(), "path_products_second", [&] {
    using V = typename Lanes<scalar_t>::V;
    const auto *px = o.x.data_ptr<scalar_t>(), *py = o.y.data_ptr<scalar_t>(),
               *pw = o.w.data_ptr<scalar_t>(), *pk = o.constants.data_ptr<scalar_t>(),
               *pg = g.data_ptr<scalar_t>(), *pux = ux.data_ptr<scalar_t>(),
               *puy = uy.data_ptr<scalar_t>(), *puw = uw.data_ptr<scalar_t>();
    auto *pgy = by_y.data_ptr<scalar_t>(), *pgw = by_w.data_ptr<scalar_t>();
    const Contraction<scalar_t> contraction(o.q, o.n_paths, pk);
    by_g = over_pairs<scalar_t>(
        End::kReceiver, o.n_atoms, o.width, o.x, o.index,
        [&](int64_t k, int64_t j, int64_t, scalar_t* sum) {
          alignas(64) scalar_t a[kMostCouplings], b[kMostCouplings];
          const Factors<scalar_t> own{a, px + j * o.D_x, pw + o.weights_of(k)};
          const Factors<scalar_t> other{b, pux + j * o.D_x, puw + o.weights_of(k)};
          for (int64_t p = 0; p < o.n_paths; ++p) {
            make_couplings(o.q[p], py + k * o.D_y, pk, a);
            make_couplings(o.q[p], puy + k * o.D_y, pk, b);
            FOR_DEGREE(o.q[p].d1, (second_sums<scalar_t, D>(o.q[p], own, other, sum)))
          }
        });
    by_x = over_pairs<scalar_t>(
        End::kSender, o.x.size(0), o.D_x, o.x, o.index,
        [&](int64_t k, int64_t j, int64_t i, scalar_t* sum) {
          alignas(64) scalar_t a[kMostCouplings], b[kMostCouplings];
          alignas(64) V by_a[kMostComponents * kMostComponents], of_y[kMostHarmonics];
          const Factors<scalar_t> own{a, px + j * o.D_x, pw + o.weights_of(k)};
          const Factors<scalar_t> other{b, pux + j * o.D_x, puw + o.weights_of(k)};
          std::fill(of_y, of_y + o.D_y, V{});
          for (int64_t p = 0; p < o.n_paths; ++p) {
            make_couplings(o.q[p], py + k * o.D_y, pk, a);
            make_couplings(o.q[p], puy + k * o.D_y, pk, b);
            FOR_DEGREE(o.q[p].d1,
                       (second_derivatives<scalar_t, D>(o.q[p], own, other, pg + i * o.width, sum,
                                                        pgw + k * o.D_w, by_a)))
            contraction.add(o.q[p], p, by_a, of_y);
          }
          sums_of_all<scalar_t>(of_y, o.D_y, pgy + k * o.D_y);
        });
    by_w = o.by_weights<scalar_t>(by_w);
  });
  return {by_g, by_x, by_y, by_w};
}

}  // namespace eqcalc
