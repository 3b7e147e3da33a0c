// How the numbers of a float32 matrix are held: each of them comes back as it was, from as few bytes as that takes.
//
// Few checkpoints say something new in all 32 bits. Published ones are in bfloat16, whose numbers are float32 numbers with
// 16 bits of nothing; those that were quantized before are small whole numbers times a step, which a few neighbours of a
// row share. Bytes that say nothing are neither kept nor read.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "float_tile.h"

namespace {

// From the smallest to the largest.
enum Form : int64_t {
  kSteps,  // int8 numbers of steps, and a step for kGroup columns of a row
  kHalves, // bfloat16
  kWhole,
  kForms
};

constexpr int64_t kGroup = 16;
constexpr float kMostSteps = 127.0f;

// Bytes of 32 rows by kGroup columns. They lie column by column; with steps, the group's steps come first.
constexpr int64_t kGroupBytes[kForms] = {kLanes * (4 + kGroup), kLanes * kGroup * 2, kLanes * kGroup * 4};

// Bytes of 32 rows by some columns: whole groups, unless numbers are whole.
inline int64_t bytes_of(int64_t form, int64_t columns) { return kGroupBytes[form] * columns / kGroup; }

// A step of which all `count` numbers are whole multiples, bit for bit, of at most 127; NaN if none is found.
inline float step_of(const float *numbers, int64_t count) {
  float least = INFINITY, most = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float size = std::fabs(numbers[i]);
    if (!std::isfinite(size)) return NAN;
    most = std::max(most, size);
    if (size > 0.0f) least = std::min(least, size);
  }
  if (most == 0.0f) return 0.0f;
  for (float steps = 1.0f; steps <= kMostSteps; ++steps) {
    const float step = least / steps;
    if (!(most < step * (kMostSteps + 1.0f))) break;
    bool fits = true;
    for (int64_t i = 0; i < count; ++i) {
      const float whole = std::nearbyint(numbers[i] / step);
      fits &= std::fabs(whole) <= kMostSteps && step * whole == numbers[i];
    }
    if (fits) return step;
  }
  return NAN;
}

inline uint32_t bits_of(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  return bits;
}

// Whether a form holds all numbers of a row.
inline bool holds(Form form, const float *row, int64_t columns) {
  if (form == kWhole) return true;
  if (columns % kGroup != 0) return false;
  if (form == kHalves) return std::all_of(row, row + columns, [](float one) { return (bits_of(one) & 0xffff) == 0; });
  for (int64_t column = 0; column < columns; column += kGroup)
    if (std::isnan(step_of(row + column, kGroup))) return false;
  return true;
}

// Puts a row's columns into a block of 32 rows, as row `lane` of it.
inline void put(Form form, const float *row, int64_t columns, int64_t lane, char *block) {
  float step = 0.0f;
  for (int64_t column = 0; column < columns; ++column) {
    const int64_t place = column * kLanes + lane, in_group = column % kGroup;
    if (form == kWhole) {
      std::memcpy(block + place * 4, row + column, 4);
    } else if (form == kHalves) {
      const uint16_t half = static_cast<uint16_t>(bits_of(row[column]) >> 16);
      std::memcpy(block + place * 2, &half, 2);
    } else {
      char *group = block + column / kGroup * kGroupBytes[kSteps];
      if (in_group == 0) {
        step = step_of(row + column, kGroup);
        std::memcpy(group + lane * 4, &step, 4);
      }
      const int8_t steps = step == 0.0f ? 0 : static_cast<int8_t>(std::nearbyint(row[column] / step));
      std::memcpy(group + kLanes * 4 + in_group * kLanes + lane, &steps, 1);
    }
  }
}

// Returns the number of row `lane` of a block in a column.
inline float number_at(Form form, const char *block, int64_t lane, int64_t column) {
  const int64_t place = column * kLanes + lane;
  float number;
  if (form == kWhole) {
    std::memcpy(&number, block + place * 4, 4);
  } else if (form == kHalves) {
    uint16_t half;
    std::memcpy(&half, block + place * 2, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    std::memcpy(&number, &bits, 4);
  } else {
    const char *group = block + column / kGroup * kGroupBytes[kSteps];
    std::memcpy(&number, group + lane * 4, 4);
    number *= static_cast<float>(static_cast<int8_t>(group[kLanes * 4 + column % kGroup * kLanes + lane]));
  }
  return number;
}

typedef int8_t Bytes __attribute__((vector_size(kWidth)));
typedef int16_t Shorts __attribute__((vector_size(kWidth * 2)));
typedef int32_t Integers __attribute__((vector_size(kWidth * 4)));

// Bytes as a register of integers. GCC 12 does not find x86's instruction for it.
inline Integers integers_at(const char *from) {
#if defined(__AVX512F__)
  return (Integers)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
#elif defined(__AVX2__)
  return (Integers)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from)));
#else
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof(Bytes));
  return __builtin_convertvector(__builtin_convertvector(bytes, Shorts), Integers);
#endif
}

// What a tile reads from the smaller forms. With `Keep` it leaves the floats in `kept`, for the next tiles to read.
template <bool Keep> struct OfSteps {
  const char *w, *ahead;
  float *kept;
  Vector steps[kVectors];

  OfSteps(const void *from, const void *next, float *keep)
      : w(static_cast<const char *>(from)), ahead(static_cast<const char *>(next)), kept(keep) {}

  void read(int64_t n, Vector (&columns)[kVectors]) {
    if (n % kGroup == 0) {
      for (int64_t byte = 0; byte < kGroupBytes[kSteps]; byte += kLine) __builtin_prefetch(ahead + byte, 0, 2);
      ahead += kGroupBytes[kSteps];
      for (auto &part : steps) {
        std::memcpy(&part, w, sizeof(Vector));
        w += sizeof(Vector);
      }
    }
    for (int part = 0; part < kVectors; ++part, w += kWidth) {
      columns[part] = steps[part] * __builtin_convertvector(integers_at(w), Vector);
      if (Keep) std::memcpy(kept + n * kLanes + part * kWidth, &columns[part], sizeof(Vector));
    }
  }
};

template <bool Keep> struct OfHalves {
  typedef uint16_t Halves __attribute__((vector_size(kWidth * 2)));

  const char *w, *ahead;
  float *kept;

  OfHalves(const void *from, const void *next, float *keep)
      : w(static_cast<const char *>(from)), ahead(static_cast<const char *>(next)), kept(keep) {}

  void read(int64_t n, Vector (&columns)[kVectors]) {
    __builtin_prefetch(ahead, 0, 2);
    ahead += kLine;
    for (int part = 0; part < kVectors; ++part, w += kWidth * 2) {
      Halves halves;
      std::memcpy(&halves, w, sizeof(Halves));
      columns[part] = reinterpret_cast<Vector>(__builtin_convertvector(halves, Integers) << 16);
      if (Keep) std::memcpy(kept + n * kLanes + part * kWidth, &columns[part], sizeof(Vector));
    }
  }
};

} // namespace
