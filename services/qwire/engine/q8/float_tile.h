// A few rows of float32 numbers times 32 columns, all sums in registers: what float32 layers and attention are made of.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t kLanes = 32; // columns that are computed together
constexpr int64_t kLineBytes = 64, kLineFloats = 16; // of a cache

// A register, how many of them there are, and the most rows of a tile.
#if defined(__AVX512F__)
constexpr int kWidth = 16, kRegisters = 32, kTile = 12;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kWidth = 8, kRegisters = 16, kTile = 6;
#elif defined(__aarch64__)
constexpr int kWidth = 4, kRegisters = 32, kTile = 2;
#else
constexpr int kWidth = 4, kRegisters = 16, kTile = 2;
#endif

constexpr int kVectors = kLanes / kWidth;
typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));

// Where a tile's columns come from: floats as they are, w[n][kLanes], from lane `lane` on. Meanwhile `Lines` cache lines
// for each n are fetched from `ahead`, by who reads the first lane: a core that only reads ahead by itself leaves a third
// to a half of the bandwidth unused.
template <int Lines> struct Whole {
  const char *w, *ahead;

  Whole(const void *from, const void *next, float *, int64_t lane)
      : w(static_cast<const char *>(from) + lane * sizeof(float)), ahead(static_cast<const char *>(next)) {}

  template <bool Fetch, int Vectors> void read(int64_t, Vector (&columns)[Vectors]) {
    if (Fetch)
      for (int line = 0; line < Lines; ++line, ahead += kLineBytes) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 8
    for (int part = 0; part < Vectors; ++part) std::memcpy(&columns[part], w + part * sizeof(Vector), sizeof(Vector));
    w += kLanes * sizeof(float);
  }
};

// Some lanes of what `float_tile` computes, as many as there are registers for.
template <int Rows, int RowStep, int Step, int Vectors, bool Fetch, typename Columns>
inline void some_lanes(Columns source, const float *a, int64_t count, float *__restrict out) {
  // Vector by vector, in loops that are unrolled: an array that is set or copied as a whole stays in memory.
  Vector sum[Rows][Vectors];
#pragma GCC unroll 12
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 8
    for (int part = 0; part < Vectors; ++part) sum[row][part] = Vector{};
  for (int64_t n = 0; n < count; ++n, a += Step) {
    Vector columns[Vectors];
    source.template read<Fetch>(n, columns);
#pragma GCC unroll 12
    for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 8
      for (int part = 0; part < Vectors; ++part) sum[row][part] += columns[part] * a[row * RowStep];
  }
#pragma GCC unroll 12
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 8
    for (int part = 0; part < Vectors; ++part)
      std::memcpy(out + row * kLanes + part * kWidth, &sum[row][part], sizeof(Vector));
}

// out[Rows][kLanes] = the sum over n < count of a[row, n] * columns[n][kLanes], in the order of n. a[row, n] is at
// a[row * RowStep + n * Step]. `from`, `ahead` and `kept` are for `Columns`.
//
// Where there are no registers for all sums beside the columns, half of the lanes are computed after the other: more rows
// with fewer lanes read less for each product than fewer rows with all of them.
template <int Rows, int RowStep, int Step, typename Columns>
void float_tile(const void *from, const float *a, int64_t count, const void *ahead, float *kept,
                float *__restrict out) {
  if constexpr ((Rows + 1) * kVectors <= kRegisters) {
    some_lanes<Rows, RowStep, Step, kVectors, true>(Columns(from, ahead, kept, 0), a, count, out);
  } else {
    constexpr int64_t half = kLanes / 2;
    some_lanes<Rows, RowStep, Step, kVectors / 2, true>(Columns(from, ahead, kept, 0), a, count, out);
    some_lanes<Rows, RowStep, Step, kVectors / 2, false>(Columns(from, ahead, kept, half), a, count, out + half);
  }
}

using Tile = void (*)(const void *, const float *, int64_t, const void *, float *, float *);

} // namespace
