// Eight rows of eight numbers become columns.

#pragma once

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

typedef float Eight __attribute__((vector_size(32)));

inline void transpose(Eight (&x)[8]) {
#if defined(__AVX__)
  __m256 pairs[8], quads[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int from = i / 2 * 4 + i % 2;
    quads[i / 2 * 4 + i % 2 * 2] = _mm256_shuffle_ps(pairs[from], pairs[from + 2], 0x44);
    quads[i / 2 * 4 + i % 2 * 2 + 1] = _mm256_shuffle_ps(pairs[from], pairs[from + 2], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    x[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
#else
  for (int row = 0; row < 8; ++row)
    for (int i = 0; i < row; ++i) {
      const float number = x[row][i];
      x[row][i] = x[i][row];
      x[i][row] = number;
    }
#endif
}

} // namespace
