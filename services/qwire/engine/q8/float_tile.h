// A few rows of float32 numbers times 32 columns, all sums in registers: what float32 layers and attention are made of.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t kLanes = 32; // columns that are computed together
constexpr int64_t kLineBytes = 64, kLineFloats = 16; // of a cache

// A register, and as many rows of a tile as leave room for columns beside the sums.
#if defined(__AVX512F__)
constexpr int kWidth = 16, kTile = 12;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kWidth = 8, kTile = 3;
#else
constexpr int kWidth = 4, kTile = 2;
#endif

constexpr int kVectors = kLanes / kWidth;
typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));

// Where a tile's columns come from: floats as they are, w[n][kLanes]. Meanwhile `Lines` cache lines for each n are
// fetched from `ahead`: a core that only reads ahead by itself leaves a third to a half of the bandwidth unused.
template <int Lines> struct Whole {
  const char *w, *ahead;

  Whole(const void *from, const void *next, float *)
      : w(static_cast<const char *>(from)), ahead(static_cast<const char *>(next)) {}

  void read(int64_t, Vector (&columns)[kVectors]) {
    for (int line = 0; line < Lines; ++line, ahead += kLineBytes) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 8
    for (int part = 0; part < kVectors; ++part, w += sizeof(Vector)) std::memcpy(&columns[part], w, sizeof(Vector));
  }
};

// out[Rows][kLanes] = the sum over n < count of a[row, n] * columns[n][kLanes], in the order of n. a[row, n] is at
// a[row * RowStep + n * Step]. `from`, `ahead` and `kept` are for `Columns`.
template <int Rows, int RowStep, int Step, typename Columns>
void float_tile(const void *from, const float *a, int64_t count, const void *ahead, float *kept,
                float *__restrict out) {
  Columns source(from, ahead, kept);
  // Vector by vector, in loops that are unrolled: an array that is set or copied as a whole stays in memory.
  Vector sum[Rows][kVectors];
#pragma GCC unroll 12
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 8
    for (int part = 0; part < kVectors; ++part) sum[row][part] = Vector{};
  for (int64_t n = 0; n < count; ++n, a += Step) {
    Vector columns[kVectors];
    source.read(n, columns);
#pragma GCC unroll 12
    for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 8
      for (int part = 0; part < kVectors; ++part) sum[row][part] += columns[part] * a[row * RowStep];
  }
#pragma GCC unroll 12
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 8
    for (int part = 0; part < kVectors; ++part)
      std::memcpy(out + row * kLanes + part * kWidth, &sum[row][part], sizeof(Vector));
}

using Tile = void (*)(const void *, const float *, int64_t, const void *, float *, float *);

} // namespace
