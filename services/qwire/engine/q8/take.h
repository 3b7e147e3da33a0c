// Blocks of a matrix, one after the other to whatever thread asks.

#pragma once

#include <cstdint>

namespace {

// The next block that no thread has taken.
inline int64_t take(int64_t *taken) {
  int64_t number;
#pragma omp atomic capture
  number = (*taken)++;
  return number;
}

} // namespace
