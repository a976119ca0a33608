// Vectors of numbers, as wide as those of the processor that is compiled for.
//
// Wider ones would be correct too, but GCC keeps them in memory: a tenth of the speed.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

// Registers for vectors: how many sums are made at once.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;  // 32
#else
constexpr bool kManyRegisters = false;  // 16
#endif

// One vector of L numbers.
template <typename T>
struct Lanes {
  typedef T V __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
  typedef T Half __attribute__((vector_size(32), may_alias));
  typedef T Quarter __attribute__((vector_size(16), may_alias));
  typedef std::conditional_t<sizeof(T) == 8, int64_t, int32_t> Places
      __attribute__((vector_size(16)));
  static constexpr int64_t L = kVectorBytes / sizeof(T);
};

template <typename T>
inline typename Lanes<T>::V load(const T* from) {
  return *reinterpret_cast<const typename Lanes<T>::V*>(from);
}

template <typename T>
inline void store(T* to, typename Lanes<T>::V value) {
  *reinterpret_cast<typename Lanes<T>::V*>(to) = value;
}

template <typename T>
inline void add_to(T* to, typename Lanes<T>::V value) {
  *reinterpret_cast<typename Lanes<T>::V*>(to) += value;
}

// A vector's sum over all but 16 bytes of lanes.
template <typename T>
inline typename Lanes<T>::Quarter quarter_of(const typename Lanes<T>::V& value) {
  typename Lanes<T>::Quarter quarters[2];
  if constexpr (kVectorBytes == 64) {
    typename Lanes<T>::Half halves[2];
    std::memcpy(halves, &value, 64);
    const auto half = halves[0] + halves[1];
    std::memcpy(quarters, &half, 32);
    return quarters[0] + quarters[1];
  } else if constexpr (kVectorBytes == 32) {
    std::memcpy(quarters, &value, 32);
    return quarters[0] + quarters[1];
  } else {
    return value;
  }
}

template <typename T>
inline T sum_of(const typename Lanes<T>::V& value) {
  const auto quarter = quarter_of<T>(value);
  T sum = 0;
  for (size_t k = 0; k < 16 / sizeof(T); ++k) sum += quarter[k];
  return sum;
}

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, typename Lanes<T>::Places{__VA_ARGS__})
#endif

// The sums of as many vectors as a quarter has numbers, in a third of the steps that they take
// one by one.
template <typename T>
inline typename Lanes<T>::Quarter sums_of(const typename Lanes<T>::V* values) {
  using Quarter = typename Lanes<T>::Quarter;
  const Quarter a = quarter_of<T>(values[0]), b = quarter_of<T>(values[1]);
  if constexpr (sizeof(T) == 8) {
    return SHUFFLE(a, b, 0, 2) + SHUFFLE(a, b, 1, 3);
  } else {
    const Quarter c = quarter_of<T>(values[2]), d = quarter_of<T>(values[3]);
    const Quarter ab = SHUFFLE(a, b, 0, 4, 1, 5) + SHUFFLE(a, b, 2, 6, 3, 7);
    const Quarter cd = SHUFFLE(c, d, 0, 4, 1, 5) + SHUFFLE(c, d, 2, 6, 3, 7);
    return SHUFFLE(ab, cd, 0, 1, 4, 5) + SHUFFLE(ab, cd, 2, 3, 6, 7);
  }
}

// The sums of n vectors, each over its lanes.
template <typename T>
inline void sums_of_all(const typename Lanes<T>::V* values, int64_t n, T* to) {
  constexpr int64_t S = 16 / sizeof(T);  // sums made at once
  int64_t k = 0;
  for (; k + S <= n; k += S) {
    const auto found = sums_of<T>(values + k);
    std::memcpy(to + k, &found, sizeof(found));
  }
  for (; k < n; ++k) to[k] = sum_of<T>(values[k]);
}

}  // namespace
