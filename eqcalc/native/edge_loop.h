// The loop over all edges: which atom owns a sum, and that the indices are those of atoms.
//
// index (2, E), row 0 sender j, row 1 receiver i.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace {

using at::Tensor;

// Whether n numbers lie in 0 ... end - 1. A loop of its own, with nothing that must be kept for a
// message: it is taken in vectors.
inline bool all_below(int64_t end, const int64_t* ids, int64_t n) {
  uint64_t largest = 0;  // negative numbers are the largest of all
  for (int64_t k = 0; k < n; ++k) largest = std::max(largest, static_cast<uint64_t>(ids[k]));
  return n == 0 || largest < static_cast<uint64_t>(end);
}

// Refuse indices of atoms that are not there: senders among n_all, receivers among n_atoms.
inline void check_index(const Tensor& index, int64_t n_edges, int64_t n_all, int64_t n_atoms) {
  TORCH_CHECK(index.dim() == 2 && index.size(0) == 2 && index.size(1) == n_edges,
              "edge_index and vectors differ");
  TORCH_CHECK(index.scalar_type() == at::kLong, "edge_index must be int64");
  // By hand: torch's operations would take longer than the sums of a small molecule.
  const auto contiguous = index.contiguous();
  const int64_t* ids = contiguous.data_ptr<int64_t>();
  for (const int64_t n : {n_all, n_atoms}) {
    TORCH_CHECK(all_below(n, ids, n_edges), "edge_index must lie in 0..", n - 1);
    ids += n_edges;
  }
}

// The edges of every atom at one of their ends, in the order of edges.
struct EdgesOf {
  std::vector<int64_t> first;  // (n + 1), where those of an atom begin
  std::vector<int64_t> order;  // (E), their numbers; empty where they already are in this order
};

// A stable counting sort of ids (E), each in 0 ... n - 1.
inline EdgesOf edges_of(const int64_t* ids, int64_t n_edges, int64_t n) {
  EdgesOf edges;
  edges.first.assign(n + 1, 0);
  bool ascending = true;
  for (int64_t k = 0; k < n_edges; ++k) {
    ++edges.first[ids[k] + 1];
    ascending &= k == 0 || ids[k - 1] <= ids[k];
  }
  for (int64_t atom = 0; atom < n; ++atom) edges.first[atom + 1] += edges.first[atom];
  if (ascending) return edges;
  edges.order.resize(n_edges);
  std::vector<int64_t> next(edges.first.begin(), edges.first.end() - 1);
  for (int64_t k = 0; k < n_edges; ++k) edges.order[next[ids[k]]++] = k;
  return edges;
}

// Call work(first atom, last atom) for chunks of atoms that have about as many edges each. Which
// thread takes a chunk is left to chance: what an atom gets must not depend on it.
template <typename Work>
void over_atoms(const std::vector<int64_t>& first, const Work& work) {
  const int64_t n = static_cast<int64_t>(first.size()) - 1, n_edges = first.back();
  const int64_t n_threads = std::min<int64_t>(at::get_num_threads(), n_edges / 512);
  if (n_threads <= 1 || at::in_parallel_region()) return work(0, n);
  const int64_t n_chunks = std::min<int64_t>(8 * n_threads, n_edges / 64);
  const auto begin_of = [&](int64_t chunk) {
    if (chunk == n_chunks) return n;
    const auto found = std::lower_bound(first.begin(), first.end(), n_edges * chunk / n_chunks);
    return std::min<int64_t>(n, found - first.begin());
  };
  std::atomic<int64_t> next{0};
  at::parallel_for(0, n_threads, 1, [&](int64_t, int64_t) {
    for (int64_t c = next++; c < n_chunks; c = next++)
      work(c == 0 ? 0 : begin_of(c), begin_of(c + 1));
  });
}

enum class End { kSender, kReceiver };

// Call visit(edge number, sender, receiver, sum of the atom at that end of it) for all edges, and
// return the sums (n, width) of the n atoms that may stand there, of the precision of `like`. One
// thread makes the whole sum of an atom, in the order of edges: numbers do not depend on how many
// threads there are, nor does memory.
template <typename T, typename Visit>
Tensor over_pairs(End owner, int64_t n, int64_t width, const Tensor& like, const Tensor& index,
                  const Visit& visit) {
  const int64_t n_edges = index.size(1);
  auto sums = like.new_empty({n, width});
  T* all = sums.template data_ptr<T>();
  const int64_t *senders = index.data_ptr<int64_t>(), *receivers = senders + n_edges;
  const auto edges = edges_of(owner == End::kSender ? senders : receivers, n_edges, n);
  over_atoms(edges.first, [&](int64_t atom, int64_t last) {
    for (; atom < last; ++atom) {
      T* sum = all + atom * width;
      std::fill(sum, sum + width, T(0));
      for (int64_t m = edges.first[atom]; m < edges.first[atom + 1]; ++m) {
        const int64_t k = edges.order.empty() ? m : edges.order[m];
        visit(k, senders[k], receivers[k], sum);
      }
    }
  });
  return sums;
}

}  // namespace
