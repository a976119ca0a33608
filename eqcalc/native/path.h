// A path of a tensor product, as the table of paths has it.

#pragma once

#include <cstdint>

namespace {

constexpr int64_t kMostComponents = 13;  // of an irrep: l = 6
constexpr int64_t kMostHarmonics = 49;

// Where a path's features begin in their row, and 2l1+1; where its harmonics begin, and 2l2+1;
// where its constants begin (couplings.h); 2l3+1; where its sums begin, and how far apart the
// components lie; its channels; where its weights begin.
struct Path {
  int64_t x, d1, y, d2, constants, d3, out, out_stride, c, w;
};

constexpr int64_t kPathColumns = sizeof(Path) / sizeof(int64_t);

}  // namespace
