// How the numbers of a float32 matrix are held: each of them comes back bit for bit, from as few bytes as that takes,
// but for the sign of zeros, which no sum sees.
//
// Few checkpoints say something new in all 32 bits. Published ones are in bfloat16, whose numbers are float32 numbers
// with 16 bits of nothing; those that were quantized before are small whole numbers times a step, which a few
// neighbours of a row share. Bytes that say nothing are neither kept nor read.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__) && defined(__FMA__)
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

inline uint32_t bits_of(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  return bits;
}

// Finds `step`, and `steps` in [-127, 127], whose products are `count` numbers. False if it finds none.
inline bool in_steps(const float *numbers, int64_t count, float *step, int8_t *steps) {
  float least = INFINITY, most = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float size = std::fabs(numbers[i]);
    if (!std::isfinite(size)) return false;
    most = std::max(most, size);
    if (size > 0.0f) least = std::min(least, size);
  }
  for (float parts = 1.0f; parts <= kMostSteps; ++parts) {
    *step = most > 0.0f ? least / parts : 1.0f;
    if (!(most < *step * (kMostSteps + 1.0f))) return false;
    bool fits = true;
    for (int64_t i = 0; i < count; ++i) {
      const float whole = std::min(std::max(std::nearbyint(numbers[i] / *step), -kMostSteps), kMostSteps);
      steps[i] = static_cast<int8_t>(whole);
      fits &= *step * whole == numbers[i];
    }
    if (fits) return true;
  }
  return false;
}

// Puts a row's columns into a block of 32 rows, as row `lane` of it. False if the form does not hold them.
inline bool put(Form form, const float *row, int64_t columns, int64_t lane, char *block) {
  if (form != kWhole && columns % kGroup != 0) return false;
  for (int64_t first = 0; first < columns; first += kGroup, block += kGroupBytes[form]) {
    if (form == kSteps) {
      float step;
      int8_t steps[kGroup];
      if (!in_steps(row + first, kGroup, &step, steps)) return false;
      std::memcpy(block + lane * 4, &step, 4);
      for (int64_t i = 0; i < kGroup; ++i) std::memcpy(block + kLanes * 4 + i * kLanes + lane, steps + i, 1);
      continue;
    }
    for (int64_t i = 0; i < std::min(kGroup, columns - first); ++i) {
      const uint32_t bits = bits_of(row[first + i]);
      const uint16_t half = static_cast<uint16_t>(bits >> 16);
      if (form == kWhole) std::memcpy(block + (i * kLanes + lane) * 4, &bits, 4);
      else if ((bits & 0xffff) == 0) std::memcpy(block + (i * kLanes + lane) * 2, &half, 2);
      else return false;
    }
  }
  return true;
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

// Floats in registers, of bytes and of halves. Compilers find the instructions of x86 for it only if they are told.
#if defined(__AVX512F__)
template <int Vectors> inline void widen(const int8_t *from, Vector (&out)[Vectors]) {
#pragma GCC unroll 2
  for (int part = 0; part < Vectors; ++part, from += kWidth) {
    const __m512i integers = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
    out[part] = (Vector)_mm512_cvtepi32_ps(integers);
  }
}

template <int Vectors> inline void widen(const uint16_t *from, Vector (&out)[Vectors]) {
#pragma GCC unroll 2
  for (int part = 0; part < Vectors; ++part, from += kWidth) {
    const __m512i integers = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
    out[part] = (Vector)_mm512_slli_epi32(integers, 16);
  }
}
#elif defined(__AVX2__) && defined(__FMA__)
template <int Vectors> inline void widen(const int8_t *from, Vector (&out)[Vectors]) {
#pragma GCC unroll 4
  for (int part = 0; part < Vectors; ++part, from += kWidth) {
    const __m256i integers = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from)));
    out[part] = (Vector)_mm256_cvtepi32_ps(integers);
  }
}

template <int Vectors> inline void widen(const uint16_t *from, Vector (&out)[Vectors]) {
#pragma GCC unroll 4
  for (int part = 0; part < Vectors; ++part, from += kWidth) {
    const __m256i integers = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
    out[part] = (Vector)_mm256_slli_epi32(integers, 16);
  }
}
#else
template <int Vectors> inline void widen(const int8_t *from, Vector (&out)[Vectors]) {
  float floats[Vectors * kWidth];
#pragma omp simd
  for (int64_t lane = 0; lane < Vectors * kWidth; ++lane) floats[lane] = static_cast<float>(from[lane]);
  std::memcpy(out, floats, sizeof(out));
}

template <int Vectors> inline void widen(const uint16_t *from, Vector (&out)[Vectors]) {
  uint32_t bits[Vectors * kWidth];
#pragma omp simd
  for (int64_t lane = 0; lane < Vectors * kWidth; ++lane) bits[lane] = static_cast<uint32_t>(from[lane]) << 16;
  std::memcpy(out, bits, sizeof(out));
}
#endif

// What a tile reads from the smaller forms. With `Keep` it leaves the floats in `kept`, for the next tiles to read.
template <bool Keep> struct OfSteps {
  const char *w, *ahead;
  float *kept;
  const float *steps;
  int64_t lane;

  OfSteps(const void *from, const void *next, float *keep, int64_t first)
      : w(static_cast<const char *>(from)), ahead(static_cast<const char *>(next)), kept(keep + first), lane(first) {}

  template <bool Fetch, int Vectors> void read(int64_t n, Vector (&columns)[Vectors]) {
    if (n % kGroup == 0) {
      if (Fetch)
        for (int64_t byte = 0; byte < kGroupBytes[kSteps]; byte += kLineBytes) __builtin_prefetch(ahead + byte, 0, 2);
      ahead += kGroupBytes[kSteps];
      steps = reinterpret_cast<const float *>(w) + lane;
      w += kLanes * 4;
    }
    widen(reinterpret_cast<const int8_t *>(w + lane), columns);
    w += kLanes;
#pragma GCC unroll 8
    for (int part = 0; part < Vectors; ++part) {
      Vector step;
      std::memcpy(&step, steps + part * kWidth, sizeof(Vector));
      columns[part] *= step;
      if (Keep) std::memcpy(kept + n * kLanes + part * kWidth, &columns[part], sizeof(Vector));
    }
  }
};

template <bool Keep> struct OfHalves {
  const char *w, *ahead;
  float *kept;

  OfHalves(const void *from, const void *next, float *keep, int64_t lane)
      : w(static_cast<const char *>(from) + lane * 2), ahead(static_cast<const char *>(next)), kept(keep + lane) {}

  template <bool Fetch, int Vectors> void read(int64_t n, Vector (&columns)[Vectors]) {
    if (Fetch) __builtin_prefetch(ahead, 0, 2);
    ahead += kLineBytes;
    widen(reinterpret_cast<const uint16_t *>(w), columns);
    w += kLanes * 2;
#pragma GCC unroll 8
    for (int part = 0; part < Vectors; ++part)
      if (Keep) std::memcpy(kept + n * kLanes + part * kWidth, &columns[part], sizeof(Vector));
  }
};

} // namespace
