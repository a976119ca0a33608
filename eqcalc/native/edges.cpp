// What a calculator does with edges outside its model: their vectors before, forces and virial
// after.
//
// Each operator takes the very steps of the portable code (neighbours/pair_list.py,
// derivatives.py), every sum in the same order and every product and sum rounded by itself
// (-ffp-contract=off), and so returns the same bits: where the library is loaded, numbers do
// not change. Sums in another order, or with fused operations, would be no better and another
// result.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "library.h"

namespace {

constexpr int64_t kPiece = 8192;  // pairs that one thread takes at once

}  // namespace

namespace eqcalc {

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
  auto all = positions.new_empty({P, 3});
  auto* v = all.data_ptr<double>();
  std::vector<uint8_t> is_near(P);
  auto* near = is_near.data();
  // Pieces of pairs; which thread takes one changes no bit. Of each: the near pairs, the shortest.
  const int64_t n_pieces = (P + kPiece - 1) / kPiece;
  std::vector<int64_t> n_near_of(n_pieces);
  std::vector<double> shortest_of(n_pieces, std::numeric_limits<double>::infinity());
  at::parallel_for(0, n_pieces, 1, [&](int64_t piece, int64_t last) {
    for (; piece < last; ++piece) {
      int64_t n_near = 0;
      double shortest = shortest_of[piece];
      for (int64_t p = kPiece * piece; p < std::min(P, kPiece * (piece + 1)); ++p) {
        const int64_t j = senders[p], i = receivers[p];
        TORCH_CHECK_INDEX(i >= 0 && i < n_atoms && j >= 0 && j < n_atoms, "pair ", p);
        for (int64_t k = 0; k < 3; ++k) {
          const double difference = r[3 * j + k] - r[3 * i + k];
          v[3 * p + k] = shifted ? difference + o[3 * p + k] : difference;
        }
        const double* w = v + 3 * p;
        const double d = std::sqrt((w[0] * w[0] + w[1] * w[1]) + w[2] * w[2]);
        shortest = std::min(shortest, d);
        near[p] = d < cutoff;
        n_near += near[p];
      }
      n_near_of[piece] = n_near;
      shortest_of[piece] = shortest;
    }
  });
  double shortest = std::numeric_limits<double>::infinity();
  int64_t n_near = 0;
  std::vector<int64_t> first_of(n_pieces);  // where the near pairs of each piece go
  for (int64_t piece = 0; piece < n_pieces; ++piece) {
    shortest = std::min(shortest, shortest_of[piece]);
    first_of[piece] = n_near;
    n_near += n_near_of[piece];
  }
  const bool every = n_near == P;
  auto edge_index = every ? pairs : pairs.new_empty({2, n_near});
  if (every && like.scalar_type() == at::kDouble) return {edge_index, all, shortest};
  auto vectors = like.new_empty({n_near, 3});
  auto* index = every ? nullptr : edge_index.data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(like.scalar_type(), "edge_vectors", [&] {
    auto* to = vectors.data_ptr<scalar_t>();
    at::parallel_for(0, n_pieces, 1, [&](int64_t piece, int64_t last) {
      for (; piece < last; ++piece) {
        int64_t e = first_of[piece];
        for (int64_t p = kPiece * piece; p < std::min(P, kPiece * (piece + 1)); ++p) {
          if (!near[p]) continue;
          for (int64_t k = 0; k < 3; ++k) to[3 * e + k] = static_cast<scalar_t>(v[3 * p + k]);
          if (!every) {
            index[e] = senders[p];
            index[n_near + e] = receivers[p];
          }
          ++e;
        }
      }
    });
  });
  return {edge_index, vectors, shortest};
}

// Forces (n_atoms, 3) from the derivatives by the edges' vectors (E, 3), summed in double: the
// gradients that an atom receives, added in the order of edges, less those that it sends.
Tensor edge_forces(const Tensor& gradients_, const Tensor& edge_index_, int64_t n_atoms) {
  const int64_t E = gradients_.size(0);
  TORCH_CHECK(gradients_.dim() == 2 && gradients_.size(1) == 3, "gradients (n_edges, 3)");
  TORCH_CHECK(edge_index_.dim() == 2 && edge_index_.size(0) == 2 && edge_index_.size(1) == E &&
                  edge_index_.scalar_type() == at::kLong, "edge_index (2, n_edges), int64");
  const auto gradients = gradients_.contiguous(), edge_index = edge_index_.contiguous();
  auto forces = gradients.new_zeros({n_atoms, 3}, at::kDouble);
  const int64_t *senders = edge_index.data_ptr<int64_t>(), *receivers = senders + E;
  auto* received = forces.data_ptr<double>();
  std::vector<double> sent(3 * n_atoms);
  AT_DISPATCH_FLOATING_TYPES(gradients.scalar_type(), "edge_forces", [&] {
    const auto* g = gradients.data_ptr<scalar_t>();
    for (int64_t e = 0; e < E; ++e, g += 3) {
      const int64_t i = receivers[e], j = senders[e];
      TORCH_CHECK_INDEX(i >= 0 && i < n_atoms && j >= 0 && j < n_atoms, "edge ", e);
      for (int64_t k = 0; k < 3; ++k) {
        received[3 * i + k] += static_cast<double>(g[k]);
        sent[3 * j + k] += static_cast<double>(g[k]);
      }
    }
  });
  for (int64_t k = 0; k < 3 * n_atoms; ++k) received[k] -= sent[k];
  return forces;
}

// The virial (3, 3) of edges, the sum of the symmetric part of r ⊗ dE/dr over all of them, in
// double and in the order of edges.
Tensor edge_virial(const Tensor& vectors_, const Tensor& gradients_) {
  TORCH_CHECK(vectors_.dim() == 2 && vectors_.size(1) == 3 &&
                  gradients_.sizes() == vectors_.sizes(),
              "vectors and gradients (n_edges, 3)");
  TORCH_CHECK(vectors_.scalar_type() == gradients_.scalar_type(),
              "vectors and gradients differ in precision");
  const auto vectors = vectors_.contiguous(), gradients = gradients_.contiguous();
  const int64_t E = vectors.size(0);
  auto virial = vectors.new_empty({3, 3}, at::kDouble);
  AT_DISPATCH_FLOATING_TYPES(vectors.scalar_type(), "edge_virial", [&] {
    const auto *r = vectors.data_ptr<scalar_t>(), *g = gradients.data_ptr<scalar_t>();
    double sums[9] = {};
    for (int64_t e = 0; e < E; ++e, r += 3, g += 3)
      for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b) {
          const double one = static_cast<double>(r[a]) * static_cast<double>(g[b]);
          const double other = static_cast<double>(r[b]) * static_cast<double>(g[a]);
          sums[3 * a + b] += 0.5 * (one + other);
        }
    std::copy(sums, sums + 9, virial.data_ptr<double>());
  });
  return virial;
}

}  // namespace eqcalc
