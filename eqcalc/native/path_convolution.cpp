// Sums of tensor products of neighbour features under tabulated filters, and their derivatives.
//
// M_i[p, m3] = sum_j W_p(d_ij) sum_m1 A_ij[p, m3, m1] h_j[s(p), m1]
//
// where every path p joins one irrep s(p) of the sender's features to one block of the sums,
// and the couplings A of an edge come from outside. As in convolutions.cpp, nothing of size
// (edges x channels) is ever written.
//
// Shapes: features (n, D_x), couplings (E, D_a), sums (n, width); paths (n_paths, 9) says where
// in their rows a path's numbers lie. table (n_rows, sum of all paths' channels).

#include <ATen/Dispatch.h>

#include "library.h"
#include "one_path.h"

namespace {

constexpr int64_t kPathColumns = 9;

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

void check_paths(const Tensor& x, const Tensor& a, const Tensor& paths, const Tensor& table,
                 const Tensor& vectors, const Tensor& index, const Knots& knots, int64_t width,
                 int64_t n_atoms) {
  TORCH_CHECK(paths.dim() == 2 && paths.size(1) == kPathColumns &&
                  paths.scalar_type() == at::kLong && paths.size(0) > 0,
              "paths must be int64 (n_paths, ", kPathColumns, ")");
  TORCH_CHECK(a.dim() == 2 && a.size(0) == vectors.size(0) && a.scalar_type() == x.scalar_type(),
              "couplings and vectors differ");
  check(x, table, vectors, index, knots, x.size(1), table.size(1), n_atoms);
  const auto* q = reinterpret_cast<const Path*>(paths.data_ptr<int64_t>());
  for (int64_t p = 0; p < paths.size(0); ++p) {
    const int64_t C = q[p].c;
    TORCH_CHECK(C > 0 && q[p].w >= 0 && q[p].w + C <= table.size(1), "path ", p,
                " has no weights");
    TORCH_CHECK(q[p].x >= 0 && q[p].x + q[p].d1 * C <= x.size(1) && q[p].d1 % 2 == 1 &&
                    q[p].d1 <= 13 && q[p].d3 >= 1 && q[p].a >= 0 &&
                    q[p].a + (q[p].d3 - 1) * q[p].a_stride + q[p].d1 <= a.size(1) &&
                    q[p].out >= 0 && q[p].out + (q[p].d3 - 1) * q[p].out_stride + C <= width,
                "path ", p, " is out of range");
  }
}

}  // namespace

namespace eqcalc {

Tensor path_convolution(const Tensor& x_, const Tensor& a_, const Tensor& paths_,
                        const Tensor& table_, const Tensor& vectors_, const Tensor& index_,
                        Ends ends, Counts counts, int64_t width, int64_t n_atoms) {
  const auto x = x_.contiguous(), a = a_.contiguous(), paths = paths_.contiguous();
  const auto table = table_.contiguous(), vectors = vectors_.contiguous();
  const auto index = index_.contiguous();
  const Knots knots{ends, counts};
  check_paths(x, a, paths, table, vectors, index, knots, width, n_atoms);
  const int64_t n_paths = paths.size(0), W = table.size(1);
  const int64_t D_x = x.size(1), D_a = a.size(1);
  const auto* q = reinterpret_cast<const Path*>(paths.data_ptr<int64_t>());
  Tensor out;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "path_convolution", [&] {
    const auto *px = x.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>(),
               *pa = a.data_ptr<scalar_t>();
    out = over_edges<scalar_t>(
        End::kReceiver, n_atoms, width, vectors, index, knots,
        [&](int64_t k, const Edge<scalar_t>& e, scalar_t* sum) {
          if (!e.inside) return;
          const Operands<scalar_t> o{pa + k * D_a, px + e.j * D_x, sum, pc + e.row * W, W};
          for (int64_t p = 0; p < n_paths; ++p) {
            FOR_DEGREE(q[p].d1, (path_sum<scalar_t, D>(e, q[p], o, sum)))
          }
        });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> path_convolution_backward(
    const Tensor& g_, const Tensor& x_, const Tensor& a_, const Tensor& paths_,
    const Tensor& table_, const Tensor& vectors_, const Tensor& index_, Ends ends, Counts counts) {
  const auto g = g_.contiguous(), x = x_.contiguous(), a = a_.contiguous();
  const auto paths = paths_.contiguous(), table = table_.contiguous();
  const auto vectors = vectors_.contiguous(), index = index_.contiguous();
  const Knots knots{ends, counts};
  check_paths(x, a, paths, table, vectors, index, knots, g.size(1), g.size(0));
  const int64_t n_paths = paths.size(0), W = table.size(1);
  const int64_t D_x = x.size(1), D_a = a.size(1), width = g.size(1);
  const auto* q = reinterpret_cast<const Path*>(paths.data_ptr<int64_t>());
  auto grad_vectors = vectors.new_empty(vectors.sizes());
  auto grad_a = a.new_empty(a.sizes());
  Tensor grad_x;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "path_convolution_backward", [&] {
    const auto *px = x.data_ptr<scalar_t>(), *pc = table.data_ptr<scalar_t>(),
               *pa = a.data_ptr<scalar_t>(), *pg = g.data_ptr<scalar_t>();
    auto *pv = grad_vectors.data_ptr<scalar_t>(), *pga = grad_a.data_ptr<scalar_t>();
    grad_x = over_edges<scalar_t>(
        End::kSender, x.size(0), D_x, vectors, index, knots,
        [&](int64_t k, const Edge<scalar_t>& e, scalar_t* sum) {
          std::fill(pga + k * D_a, pga + (k + 1) * D_a, scalar_t(0));
          if (!e.inside) return no_gradient(pv + 3 * k);
          const Operands<scalar_t> o{pa + k * D_a, px + e.j * D_x, pg + e.i * width,
                                     pc + e.row * W, W};
          typename Lanes<scalar_t>::V slopes = {};
          for (int64_t p = 0; p < n_paths; ++p) {
            FOR_DEGREE(q[p].d1, (slopes += path_gradient<scalar_t, D>(e, q[p], o, sum,
                                                                      pga + k * D_a)))
          }
          const scalar_t slope = sum_of<scalar_t>(slopes);
          pv[3 * k] = slope * e.x;
          pv[3 * k + 1] = slope * e.y;
          pv[3 * k + 2] = slope * e.z;
        });
  });
  return {grad_x, grad_a, grad_vectors};
}

}  // namespace eqcalc
