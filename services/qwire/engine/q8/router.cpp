// The router of experts, in float32.

#include <cstdint>
#include <vector>

#include "input.h"

extern "C" {

// out[rows, experts] = input * weight^T in float32, where weight is [experts, columns] and the input is of kind 1. Each
// product is added up by itself, so that a row gives the same bits in any batch.
void qwire_route(const float *weight, int64_t experts, int64_t columns, const Input *input, float *out) {
#pragma omp parallel for schedule(static) if (input->rows > 1)
  for (int64_t row = 0; row < input->rows; ++row) {
    static thread_local std::vector<float> x;
    x.resize(static_cast<size_t>(columns));
    rms_norm(input->x + row * input->stride, input->norm, input->epsilon, columns, x.data());
    for (int64_t expert = 0; expert < experts; ++expert) {
      const float *w = weight + expert * columns, *normed = x.data();
      float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < columns; ++i) sum += w[i] * normed[i];
      out[row * experts + expert] = sum;
    }
  }
}

} // extern "C"
