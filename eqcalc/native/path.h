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

// CALL with D for the number of components of a path's features.
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
