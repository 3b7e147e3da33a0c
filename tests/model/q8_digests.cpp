// Prints digests of what the 8-bit kernel computes for made-up weights: for machines that a test cannot load it on.

#include <cstdio>
#include <cstring>
#include <vector>

#include "input.h"

extern "C" {
struct Weight {
  int64_t rows, columns;
  uint8_t *values;
  uint16_t *scales;
  const float *bias;
};
void qwire_q8_pack(const float *matrix, const Weight *weight);
void qwire_q8_linear(const Weight *weight, const Input *input, float *out, int64_t out_stride, int64_t add);
}

namespace {

uint64_t state = 88172645463325252u;

// xorshift64 (Marsaglia, 2003), in [-1, 1).
float draw() {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return static_cast<float>(state >> 40) / 8388608.0f - 1.0f;
}

// FNV-1a, of 32 bits at once.
uint64_t digest(const std::vector<float> &numbers) {
  uint64_t hash = 14695981039346656037u;
  for (const float number : numbers) {
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    hash = (hash ^ bits) * 1099511628211u;
  }
  return hash;
}

} // namespace

int main() {
  const int64_t shapes[][2] = {{1, 1}, {15, 31}, {33, 65}, {100, 100}, {288, 896}, {96, 4864}};
  for (const auto &[rows, columns] : shapes) {
    const int64_t pieces = (rows + 31) / 32 * ((columns + 63) / 64);
    std::vector<float> matrix(rows * columns), bias(rows);
    for (float &number : matrix) number = draw();
    for (float &number : bias) number = draw();
    std::vector<uint8_t> values(pieces * 32 * 64);
    std::vector<uint16_t> scales(pieces * 32);
    const Weight weight{rows, columns, values.data(), scales.data(), bias.data()};
    qwire_q8_pack(matrix.data(), &weight);
    for (const int64_t tokens : {1, 2, 5, 12, 13, 31}) {
      std::vector<float> x(tokens * columns), out(tokens * rows);
      for (float &number : x) number = draw() * draw();
      const Input input{x.data(), tokens, columns, 0, nullptr, 0.0f};
      qwire_q8_linear(&weight, &input, out.data(), rows, 0);
      std::printf("%lld x %lld, %lld tokens: %016llx\n", static_cast<long long>(rows), static_cast<long long>(columns),
                  static_cast<long long>(tokens), static_cast<unsigned long long>(digest(out)));
    }
  }
}
