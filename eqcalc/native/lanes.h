// Vectors of numbers, as wide as the widest of any processor.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

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

}  // namespace
