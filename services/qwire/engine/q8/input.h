// What goes into a linear layer, of whatever numbers its weights are: rows of activations, as they are, normalized, or gated.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

extern "C" {

// What is multiplied: `rows` rows, `stride` floats apart.
//   kind 0: x[columns]
//   kind 1: RMSNorm of x[columns] with `norm` and `epsilon`
//   kind 2: silu(gate) * up, where x is gate[columns] followed by up[columns]
struct Input {
  const float *x;
  int64_t rows, stride, kind;
  const float *norm;
  float epsilon;
};

} // extern "C"

namespace {

// e^x to a few units in the last place, in a form that compilers vectorize: 2^n times a polynomial on [-ln2/2, ln2/2].
// Coefficients: Cephes, expf (Moshier).
inline float exponential(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  const float n = std::nearbyint(x * 1.44269504088896341f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

inline float inverse_rms(const float *x, float epsilon, int64_t columns) {
  float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < columns; ++i) squares += x[i] * x[i];
  return 1.0f / std::sqrt(squares / static_cast<float>(columns) + epsilon);
}

inline void scale(const float *x, const float *weight, float inverse, int64_t columns, float *out) {
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) out[i] = weight[i] * (x[i] * inverse);
}

inline void rms_norm(const float *x, const float *weight, float epsilon, int64_t columns, float *out) {
  scale(x, weight, inverse_rms(x, epsilon, columns), columns, out);
}

inline void silu_gate(const float *gate, const float *up, int64_t columns, float *out) {
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) out[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

// Some columns of a row of the input, as they are multiplied.
inline void prepare(const Input &input, int64_t row, float inverse, int64_t first, int64_t count, int64_t columns, float *out) {
  const float *x = input.x + row * input.stride + first;
  if (input.kind == 1) scale(x, input.norm + first, inverse, count, out);
  else if (input.kind == 2) silu_gate(x, x + columns, count, out);
  else std::copy(x, x + count, out);
}

} // namespace
