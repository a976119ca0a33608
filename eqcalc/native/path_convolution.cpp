// Sums of tensor products of neighbour features under tabulated filters, and their derivatives.
//
// M_i[p, m3] = sum_j W_p(d_ij) sum_m1 A_ij[p, m3, m1] h_j[s(p), m1]
//
// where every path p joins one irrep s(p) of the sender's features to one block of the sums. The
// couplings A of an edge are made of its harmonics where they are used (couplings.h). As in
// convolutions.cpp, nothing of size (edges x channels) is ever written, nor are the couplings.
//
// Shapes: features (n, D_x), harmonics (E, D_y), sums (n, width); paths (n_paths, 10) says where
// in their rows a path's numbers lie (path.h), constants (any) what it is coupled by. table
// (n_rows, sum of all paths' channels).

#include <ATen/Dispatch.h>

#include "couplings.h"
#include "library.h"
#include "one_path.h"

namespace {

void check_all(const Tensor& x, const Tensor& y, const Tensor& constants, const Tensor& paths,
               const Tensor& table, const Tensor& vectors, const Tensor& index,
               const Knots& knots, int64_t width, int64_t n_atoms) {
  TORCH_CHECK(y.dim() == 2 && y.size(0) == vectors.size(0) && y.scalar_type() == x.scalar_type(),
              "harmonics and vectors differ");
  check(x, table, vectors, index, knots, x.size(1), table.size(1), n_atoms);
  check_paths(paths, constants, x, y.size(1), table.size(1), width);
}

}  // namespace

namespace eqcalc {

Tensor path_convolution(const Tensor& x_, const Tensor& y_, const Tensor& constants_,
                        const Tensor& paths_, const Tensor& table_, const Tensor& vectors_,
                        const Tensor& index_, Ends ends, Counts counts, int64_t width,
                        int64_t n_atoms) {
  const auto x = x_.contiguous(), y = y_.contiguous(), constants = constants_.contiguous();
  const auto paths = paths_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  const Knots knots{ends, counts};
  check_all(x, y, constants, paths, table, vectors, index, knots, width, n_atoms);
  const int64_t n_paths = paths.size(0), W = table.size(1);
  const int64_t D_x = x.size(1), D_y = y.size(1);
  const auto* q = reinterpret_cast<const Path*>(paths.data_ptr<int64_t>());
  Tensor out;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "path_convolution", [&] {
    const auto *px = x.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>(),
               *py = y.data_ptr<scalar_t>(), *pk = constants.data_ptr<scalar_t>();
    out = over_edges<scalar_t>(
        End::kReceiver, n_atoms, width, vectors, index, knots,
        [&](int64_t k, const Edge<scalar_t>& e, scalar_t* sum) {
          if (!e.inside) return;
          alignas(64) scalar_t a[kMostCouplings];
          const Operands<scalar_t> o{a, px + e.j * D_x, sum, pc + e.row * W, W};
          for (int64_t p = 0; p < n_paths; ++p) {
            make_couplings(q[p], py + k * D_y, pk, a);
            FOR_DEGREE(q[p].d1, (path_sum<scalar_t, D>(e, q[p], o, sum)))
          }
        });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> path_convolution_backward(
    const Tensor& g_, const Tensor& x_, const Tensor& y_, const Tensor& constants_,
    const Tensor& paths_, const Tensor& table_, const Tensor& vectors_, const Tensor& index_,
    Ends ends, Counts counts) {
  const auto g = g_.contiguous(), x = x_.contiguous(), y = y_.contiguous();
  const auto constants = constants_.contiguous(), paths = paths_.contiguous();
  const auto table = table_.contiguous(), vectors = vectors_.contiguous();
  const auto index = index_.contiguous();
  const Knots knots{ends, counts};
  check_all(x, y, constants, paths, table, vectors, index, knots, g.size(1), g.size(0));
  const int64_t n_paths = paths.size(0), W = table.size(1);
  const int64_t D_x = x.size(1), D_y = y.size(1), width = g.size(1);
  const auto* q = reinterpret_cast<const Path*>(paths.data_ptr<int64_t>());
  auto grad_vectors = vectors.new_empty(vectors.sizes());
  auto grad_y = y.new_empty(y.sizes());
  Tensor grad_x;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "path_convolution_backward", [&] {
    using V = typename Lanes<scalar_t>::V;
    const auto *px = x.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>(),
               *py = y.data_ptr<scalar_t>(), *pk = constants.data_ptr<scalar_t>(),
               *pg = g.data_ptr<scalar_t>();
    auto *pv = grad_vectors.data_ptr<scalar_t>(), *pgy = grad_y.data_ptr<scalar_t>();
    const Contraction<scalar_t> contraction(q, n_paths, pk);
    grad_x = over_edges<scalar_t>(
        End::kSender, x.size(0), D_x, vectors, index, knots,
        [&](int64_t k, const Edge<scalar_t>& e, scalar_t* sum) {
          if (!e.inside) {
            std::fill(pgy + k * D_y, pgy + (k + 1) * D_y, scalar_t(0));
            return no_gradient(pv + 3 * k);
          }
          alignas(64) scalar_t a[kMostCouplings];
          alignas(64) V by_a[kMostComponents * kMostComponents], by_y[kMostHarmonics];
          const Operands<scalar_t> o{a, px + e.j * D_x, pg + e.i * width, pc + e.row * W, W};
          V slopes = {};
          std::fill(by_y, by_y + D_y, V{});
          for (int64_t p = 0; p < n_paths; ++p) {
            make_couplings(q[p], py + k * D_y, pk, a);
            FOR_DEGREE(q[p].d1, (slopes += path_gradient<scalar_t, D>(e, q[p], o, sum, by_a)))
            contraction.add(q[p], p, by_a, by_y);
          }
          sums_of_all<scalar_t>(by_y, D_y, pgy + k * D_y);
          const scalar_t slope = sum_of<scalar_t>(slopes);
          pv[3 * k] = slope * e.x;
          pv[3 * k + 1] = slope * e.y;
          pv[3 * k + 2] = slope * e.z;
        });
  });
  return {grad_x, grad_y, grad_vectors};
}

}  // namespace eqcalc
