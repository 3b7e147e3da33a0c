// Linear layers on a CPU with weights and activations in 8 bits.
//
// A weight matrix [rows, columns] is cut into groups of 64 columns. The numbers of a group are transformed (transform.h)
// and rounded: w = scale * q, q in [-127, 127], one float16 scale a row and group. Activations are transformed and
// rounded on the way in, in the same groups, with a float32 scale. How they are laid out and multiplied is in tile.h.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "input.h"
#include "take.h"
#include "tile.h"
#include "transform.h"

namespace {

constexpr float kMost = 127.0f;       // the largest number that is rounded to
constexpr int64_t kCached = 1 << 19;  // activations that pass by before a block of weights is read again
constexpr int64_t kPieces = 64;       // as many groups of activations as are worth a second thread

int64_t groups_of(int64_t columns) { return (columns + kGroup - 1) / kGroup; }
int64_t blocks_of(int64_t rows) { return (rows + kBlock - 1) / kBlock; }

// The largest magnitude of a group; NaN if a number is NaN or infinite. Bits of magnitudes are ordered as these are, and
// those of NaN and infinity are the largest.
float most_of(const float *x) {
  constexpr int32_t kInfinity = 0x7f800000;
  int32_t most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < kGroup; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, 4);
    most = std::max(most, bits & 0x7fffffff);
  }
  if (most >= kInfinity) return std::nanf("");
  float magnitude;
  std::memcpy(&magnitude, &most, 4);
  return magnitude;
}

// Transforms and rounds a group; returns -128 times its sum.
int32_t quantize(float *x, int8_t *q, float *scale) {
  transform(x);
  const float most = most_of(x), inverse = most > 0.0f ? kMost / most : 0.0f;
  *scale = most / kMost;
  int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < kGroup; ++i) {
    q[i] = static_cast<int8_t>(static_cast<int32_t>(std::nearbyint(x[i] * inverse)));
    sum += q[i];
  }
  return -128 * sum;
}

// target = x + bias, or += with `add`.
inline void put(const float *x, const float *bias, int64_t lanes, int64_t add, float *target) {
  if (add)
    for (int64_t lane = 0; lane < lanes; ++lane) target[lane] += x[lane] + bias[lane];
  else
    for (int64_t lane = 0; lane < lanes; ++lane) target[lane] = x[lane] + bias[lane];
}

} // namespace

extern "C" {

// A packed weight matrix. `bias` may be null.
struct Weight {
  int64_t rows, columns;
  uint8_t *values;  // blocks * groups * 2048
  uint16_t *scales; // blocks * groups * 32, float16
  const float *bias;
};

// Quantizes a matrix [rows, columns] of float32 into `weight`, whose arrays are allocated.
void qwire_q8_pack(const float *matrix, const Weight *weight) {
  const int64_t groups = groups_of(weight->columns), blocks = blocks_of(weight->rows);
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t group = 0; group < groups; ++group) {
      uint8_t *values = weight->values + (block * groups + group) * kBlock * kGroup;
      uint16_t *scales = weight->scales + (block * groups + group) * kBlock;
      for (int64_t lane = 0; lane < kBlock; ++lane) {
        const int64_t row = block * kBlock + lane, first = group * kGroup;
        const int64_t length = row < weight->rows ? std::min(kGroup, weight->columns - first) : 0;
        float x[kGroup] = {};
        if (length) std::copy_n(matrix + row * weight->columns + first, length, x);
        transform(x);
        const Half scale = static_cast<Half>(most_of(x) / kMost);
        std::memcpy(scales + lane, &scale, 2);
        const float inverse = static_cast<float>(scale) > 0.0f ? 1.0f / static_cast<float>(scale) : 0.0f;
        for (int64_t i = 0; i < kGroup; ++i) {
          const float q = std::min(std::max(std::nearbyint(x[i] * inverse), -kMost), kMost);
          values[((i / 4) * kBlock + lane) * 4 + i % 4] = static_cast<uint8_t>(static_cast<int32_t>(q) + 128);
        }
      }
    }
}

// out[count, columns] = rows of the matrix, as they are after quantization.
void qwire_q8_rows(const Weight *weight, const int64_t *numbers, int64_t count, float *out) {
  const int64_t columns = weight->columns, groups = groups_of(columns);
#pragma omp parallel for schedule(static) if (count > 4)
  for (int64_t n = 0; n < count; ++n)
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t place = numbers[n] / kBlock * groups + group, lane = numbers[n] % kBlock;
      const uint8_t *values = weight->values + place * kBlock * kGroup;
      Half scale;
      std::memcpy(&scale, weight->scales + place * kBlock + lane, 2);
      float x[kGroup];
      for (int64_t i = 0; i < kGroup; ++i)
        x[i] = static_cast<float>(values[((i / 4) * kBlock + lane) * 4 + i % 4] - 128) * static_cast<float>(scale);
      transform(x);
      std::copy_n(x, std::min(kGroup, columns - group * kGroup), out + n * columns + group * kGroup);
    }
}

// out[rows, weight.rows] = input * weight^T + bias, or += with `add`. Rows of `out` are `out_stride` floats apart.
void qwire_q8_linear(const Weight *weight, const Input *input, float *out, int64_t out_stride, int64_t add) {
  static thread_local std::vector<Activation> values;
  static thread_local std::vector<float> scales, factors;
  static thread_local std::vector<int32_t> offsets;
  const int64_t rows = input->rows, columns = weight->columns;
  const int64_t groups = groups_of(columns), blocks = blocks_of(weight->rows);
  values.resize(static_cast<size_t>(rows * groups * kGroup));
  scales.resize(static_cast<size_t>(rows * groups));
  offsets.resize(static_cast<size_t>(rows * groups));
  factors.resize(static_cast<size_t>(rows));
  Activation *a = values.data();
  float *a_scale = scales.data(), *inverse = factors.data();
  int32_t *offset = offsets.data();
  // Tiles of one size, but for the last one: no row is left to a small one.
  const int64_t tiles = (rows + kTile - 1) / kTile, step = (rows + tiles - 1) / tiles;
  const int64_t chunk = std::max<int64_t>(1, kCached / (columns * step)) * step;

  if (input->kind == 1) {
#pragma omp parallel for schedule(static) if (rows > 16)
    for (int64_t row = 0; row < rows; ++row)
      inverse[row] = inverse_rms(input->x + row * input->stride, input->epsilon, columns);
  }
#pragma omp parallel for collapse(2) schedule(static) if (rows * groups > kPieces)
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t start = row / step * step, size = std::min(step, rows - start), first = group * kGroup;
      const int64_t place = start * groups + group * size + row - start;
      float x[kGroup] = {};
      int8_t q[kGroup];
      prepare(*input, row, inverse[row], first, std::min(kGroup, columns - first), columns, x);
      offset[place] = quantize(x, q, a_scale + place);
      Activation *target = a + (start * groups + group * size) * kGroup + (row - start) * 4;
      for (int64_t quad = 0; quad < kQuads; ++quad) put_quad(q + quad * 4, target + quad * size * 4);
    }

  for (int64_t from = 0; from < rows; from += chunk) {
    const int64_t to = std::min(rows, from + chunk);
    int64_t taken = 0;
#pragma omp parallel
    for (int64_t block = take(&taken), next; block < blocks; block = next) {
      next = take(&taken); // taken so early that it is fetched from memory while this one is multiplied
      const int64_t first = block * kBlock, lanes = std::min(kBlock, weight->rows - first);
      const int64_t bytes = groups * kGroup * kBlock;
      const uint8_t *w = weight->values + block * bytes, *ahead = next < blocks ? weight->values + next * bytes : w;
      const uint16_t *w_scale = weight->scales + first * groups;
      float result[kTile * kBlock], bias[kBlock] = {};
      if (weight->bias) std::copy_n(weight->bias + first, lanes, bias);
      for (int64_t row = from, pass = 0; row < to; row += step, ++pass) {
        const int64_t size = std::min(step, to - row), place = row * groups;
        const int64_t lines = to - from <= step ? 2 : pass < 2 ? 1 : 0; // all by the only tile, or a half by each of two
        kTiles[lines].of_rows[size - 1](w, w_scale, a + place * kGroup, a_scale + place, offset + place, groups,
                                        ahead + (pass == 1 ? bytes / 2 : 0), result);
        for (int64_t r = 0; r < size; ++r) {
          float *target = out + (row + r) * out_stride + first;
          if (lanes == kBlock) put(result + r * kBlock, bias, kBlock, add, target);
          else put(result + r * kBlock, bias, lanes, add, target);
        }
      }
    }
  }
}

} // extern "C"
