// A Walsh-Hadamard transform of 64 numbers, by which one large number becomes 64 of middle size: rounding to 8 bits then
// loses little, where beside a large number it would lose all small ones. Products of two groups stay what they are when
// both are transformed.

#pragma once

#include <cstring>

#include "transpose.h"

namespace {

// Sums and differences of eight rows, of all of them with all.
inline void add_and_subtract(Eight (&x)[8]) {
#pragma GCC unroll 3
  for (int step = 0; step < 3; ++step)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int half = 4 >> step, row = i / half * 2 * half + i % half;
      const Eight first = x[row], second = x[row + half];
      x[row] = first + second;
      x[row + half] = first - second;
    }
}

// Orthonormal, and its own inverse.
inline void transform(float *numbers) {
  Eight x[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) std::memcpy(&x[i], numbers + 8 * i, sizeof(Eight));
  add_and_subtract(x);
  transpose(x);
  add_and_subtract(x);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    x[i] *= 0.125f;
    std::memcpy(numbers + 8 * i, &x[i], sizeof(Eight));
  }
}

} // namespace
