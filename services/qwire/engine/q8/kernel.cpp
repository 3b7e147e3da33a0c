// What a decoder with 8-bit weights computes on a CPU: linear layers, routers of experts, positions of heads, attention
// of single tokens.
//
// A weight matrix [rows, columns] is cut into groups of 32 columns. A group's weights are int8 with one float16 scale:
// w = scale * q, q in [-127, 127]. Activations are quantized on the way in, in the same groups: int16, float32 scale.
// The products of a group are added up exactly, in int32 (32 * 127 * 32767 < 2^31); groups are added up in float32 in
// the order of the columns. So a row of activations gives the same bits alone, in any batch, and on every CPU.
//
// Layout: 16 rows of weights make a block, in which the 16 pairs of neighbouring columns (2p, 2p + 1) of a group follow
// one another: [block][group][pair][row][2]. One register then holds a pair of every row, and multiplies it with one
// pair of activations.
//
// The compiler takes the instructions of the machine that it runs on: AVX-512 with or without VNNI, AVX2, or, elsewhere
// (Arm among it), what it makes of the plain loops.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "input.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kGroup = 32;    // columns that share a scale
constexpr int64_t kBlock = 16;    // rows that are computed together
constexpr int64_t kPairs = kGroup / 2;
constexpr int64_t kChunk = 96;    // rows of activations that stay in a core's cache while weights pass by
constexpr int64_t kAhead = 8 * kBlock * kGroup; // how far ahead of their use weights are fetched, in bytes
constexpr float kMost = 32767.0f; // the largest quantized activation

int64_t groups_of(int64_t columns) { return (columns + kGroup - 1) / kGroup; }
int64_t blocks_of(int64_t rows) { return (rows + kBlock - 1) / kBlock; }

// A core that only reads ahead by itself leaves a part of the memory's bandwidth unused.
inline void fetch_group(const int8_t *w) {
  for (int64_t byte = 0; byte < kBlock * kGroup; byte += 64) __builtin_prefetch(w + kAhead + byte);
}

// ---------------------------------------------------------------- one tile: a block of weights times Rows activations

#if defined(__AVX512BW__)

constexpr int kTile = 12; // as many accumulators as cover the latency of the multiplication, within 32 registers

__m512i multiply_add(__m512i sum, __m512i weights, __m512i activations) {
#if defined(__AVX512VNNI__)
  return _mm512_dpwssd_epi32(sum, weights, activations);
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(weights, activations));
#endif
}

template <int Rows>
void tile(const int8_t *w, const uint16_t *w_scale, const int16_t *a, const float *a_scale, int64_t groups,
          bool fetch, float *out) {
  // Few rows alone would wait for each other's results: integers may be added up in several sums.
  constexpr int kSums = Rows >= 6 ? 1 : Rows >= 3 ? 2 : 4;
  __m512 total[Rows];
  for (auto &row : total) row = _mm512_setzero_ps();
  for (int64_t group = 0; group < groups; ++group) {
    if (fetch) fetch_group(w);
    __m512i sum[Rows][kSums];
    for (auto &row : sum)
      for (auto &part : row) part = _mm512_setzero_si512();
    for (int64_t pair = 0; pair < kPairs; pair += kSums)
      for (int part = 0; part < kSums; ++part, w += 2 * kBlock) {
        const __m512i weights = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(w)));
        for (int row = 0; row < Rows; ++row) {
          int32_t activations;
          std::memcpy(&activations, a + row * groups * kGroup + group * kGroup + 2 * (pair + part), 4);
          sum[row][part] = multiply_add(sum[row][part], weights, _mm512_set1_epi32(activations));
        }
      }
    const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(w_scale)));
    w_scale += kBlock;
    for (int row = 0; row < Rows; ++row) {
      __m512i all = sum[row][0];
      for (int part = 1; part < kSums; ++part) all = _mm512_add_epi32(all, sum[row][part]);
      const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(a_scale[row * groups + group]));
      total[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(all), both, total[row]);
    }
  }
  for (int row = 0; row < Rows; ++row) _mm512_storeu_ps(out + row * kBlock, total[row]);
}

#elif defined(__AVX2__)

constexpr int kTile = 6; // two accumulators a row, within 16 registers

template <int Rows>
void tile(const int8_t *w, const uint16_t *w_scale, const int16_t *a, const float *a_scale, int64_t groups,
          bool fetch, float *out) {
  std::fill(out, out + Rows * kBlock, 0.0f);
  for (int64_t group = 0; group < groups; ++group) {
    if (fetch) fetch_group(w);
    __m256i sum[Rows][2];
    for (auto &row : sum) row[0] = row[1] = _mm256_setzero_si256();
    for (int64_t pair = 0; pair < kPairs; ++pair, w += 2 * kBlock) {
      const __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(w)));
      const __m256i high = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(w + kBlock)));
      for (int row = 0; row < Rows; ++row) {
        int32_t both;
        std::memcpy(&both, a + row * groups * kGroup + group * kGroup + 2 * pair, 4);
        const __m256i activations = _mm256_set1_epi32(both);
        sum[row][0] = _mm256_add_epi32(sum[row][0], _mm256_madd_epi16(low, activations));
        sum[row][1] = _mm256_add_epi32(sum[row][1], _mm256_madd_epi16(high, activations));
      }
    }
    for (int half = 0; half < 2; ++half) {
      const __m256 scale =
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(w_scale + half * kBlock / 2)));
      for (int row = 0; row < Rows; ++row) {
        float *target = out + row * kBlock + half * kBlock / 2;
        const __m256 both = _mm256_mul_ps(scale, _mm256_set1_ps(a_scale[row * groups + group]));
        const __m256 total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[row][half]), both, _mm256_loadu_ps(target));
        _mm256_storeu_ps(target, total);
      }
    }
    w_scale += kBlock;
  }
}

#else

constexpr int kTile = 4;

float from_half(uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}

template <int Rows>
void tile(const int8_t *w, const uint16_t *w_scale, const int16_t *a, const float *a_scale, int64_t groups,
          bool fetch, float *out) {
  std::fill(out, out + Rows * kBlock, 0.0f);
  for (int64_t group = 0; group < groups; ++group, w += kBlock * kGroup, w_scale += kBlock) {
    if (fetch) fetch_group(w);
    for (int row = 0; row < Rows; ++row) {
      const int16_t *activations = a + row * groups * kGroup + group * kGroup;
      int32_t sum[kBlock] = {};
      for (int64_t pair = 0; pair < kPairs; ++pair)
        for (int64_t lane = 0; lane < kBlock; ++lane)
          sum[lane] += w[(pair * kBlock + lane) * 2] * activations[2 * pair] +
                       w[(pair * kBlock + lane) * 2 + 1] * activations[2 * pair + 1];
      for (int64_t lane = 0; lane < kBlock; ++lane) {
        const float both = from_half(w_scale[lane]) * a_scale[row * groups + group];
        out[row * kBlock + lane] = std::fma(static_cast<float>(sum[lane]), both, out[row * kBlock + lane]);
      }
    }
  }
}

#endif

using Tile = void (*)(const int8_t *, const uint16_t *, const int16_t *, const float *, int64_t, bool, float *);

template <int... Less> constexpr auto tiles_of(std::integer_sequence<int, Less...>) {
  struct {
    Tile of_rows[sizeof...(Less)];
  } all{{tile<Less + 1>...}};
  return all;
}

constexpr auto kTiles = tiles_of(std::make_integer_sequence<int, kTile>());

// ------------------------------------------------------------------------------------------- activations on the way in

void quantize_group(const float *x, int64_t length, int16_t *q, float *scale) {
  float most = 0.0f, trace = 0.0f;
#pragma omp simd reduction(max : most) reduction(+ : trace)
  for (int64_t i = 0; i < length; ++i) {
    most = std::max(most, std::fabs(x[i]));
    trace += x[i] * 0.0f; // NaN if and only if a value is NaN or infinite
  }
  *scale = most / kMost + trace;
  const float inverse = most > 0.0f && std::isfinite(*scale) ? kMost / most : 0.0f;
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) q[i] = static_cast<int16_t>(static_cast<int32_t>(std::nearbyint(x[i] * inverse)));
  std::fill(q + length, q + kGroup, int16_t{0});
}

void quantize_row(const float *x, int64_t columns, int16_t *q, float *scales) {
  for (int64_t group = 0; group < groups_of(columns); ++group)
    quantize_group(x + group * kGroup, std::min(kGroup, columns - group * kGroup), q + group * kGroup, scales + group);
}

// Turns scores into the weights of a sum whose total is returned; a NaN makes all of them NaN.
float soften(float *scores, int64_t count) {
  float most = scores[0], total = 0.0f;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < count; ++i) most = std::max(most, scores[i]);
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) {
    const float score = scores[i] - most;
    scores[i] = exponential(score) + score * 0.0f;
    total += scores[i];
  }
  return total;
}

} // namespace

extern "C" {

// Tokens that attend alone, each of its own sequence.
//   keys, values: of one layer, [slot][kv_heads][size], float32; a page is `page_tokens` slots
//   pages: those of all sequences, one after the other; row r's begin at first_page[r]
//   tokens: where row r stands among the packed tokens; it sees `ends[r]` tokens of its sequence, itself included
//   query: [packed token][heads][size], tokens `query_stride` floats apart; out: the same, contiguous
struct Attention {
  const float *keys, *values;
  int64_t heads, kv_heads, size, page_tokens, rows;
  const int64_t *pages, *first_page, *tokens, *ends;
  float scaling;
};

} // extern "C"

namespace {

// The heads of one row that share a key and value head: each key and each value is read once for all of them.
template <int Size>
void attend_heads(const Attention &a, int64_t row, int64_t kv_head, const float *query, float *out) {
  static thread_local std::vector<float> buffer;
  const int64_t size = Size ? Size : a.size, heads = a.heads / a.kv_heads, stride = a.kv_heads * size, end = a.ends[row];
  const int64_t *pages = a.pages + a.first_page[row];
  buffer.resize(static_cast<size_t>(heads * end));
  float *scores = buffer.data();
  for (int64_t first = 0; first < end; first += a.page_tokens) {
    const float *key = a.keys + *pages++ * a.page_tokens * stride + kv_head * size;
    for (int64_t token = first; token < std::min(end, first + a.page_tokens); ++token, key += stride)
      for (int64_t head = 0; head < heads; ++head) {
        const float *q = query + head * size;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < size; ++i) sum += q[i] * key[i];
        scores[head * end + token] = sum * a.scaling;
      }
  }
  for (int64_t head = 0; head < heads; ++head) {
    const float inverse = 1.0f / soften(scores + head * end, end);
    for (int64_t token = 0; token < end; ++token) scores[head * end + token] *= inverse;
  }
  std::fill(out, out + heads * size, 0.0f);
  pages = a.pages + a.first_page[row];
  for (int64_t first = 0; first < end; first += a.page_tokens) {
    const float *value = a.values + *pages++ * a.page_tokens * stride + kv_head * size;
    for (int64_t token = first; token < std::min(end, first + a.page_tokens); ++token, value += stride)
      for (int64_t head = 0; head < heads; ++head) {
        const float weight = scores[head * end + token];
        float *target = out + head * size;
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) target[i] += weight * value[i];
      }
  }
}

} // namespace

extern "C" {

// A packed weight matrix. `bias` may be null.
struct Weight {
  int64_t rows, columns;
  int8_t *values;   // blocks * groups * 512
  uint16_t *scales; // blocks * groups * 16, float16
  const float *bias;
};

// Quantizes a matrix [rows, columns] of float32 into `weight`, whose arrays are allocated.
void qwire_q8_pack(const float *matrix, const Weight *weight) {
  const int64_t groups = groups_of(weight->columns);
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < blocks_of(weight->rows); ++block)
    for (int64_t group = 0; group < groups; ++group) {
      int8_t *values = weight->values + (block * groups + group) * kBlock * kGroup;
      uint16_t *scales = weight->scales + (block * groups + group) * kBlock;
      for (int64_t lane = 0; lane < kBlock; ++lane) {
        const int64_t row = block * kBlock + lane, first = group * kGroup;
        const int64_t length = row < weight->rows ? std::min(kGroup, weight->columns - first) : 0;
        const float *source = matrix + row * weight->columns + first;
        float most = 0.0f, trace = 0.0f;
        for (int64_t i = 0; i < length; ++i) {
          most = std::max(most, std::fabs(source[i]));
          trace += source[i] * 0.0f; // NaN if and only if a weight is NaN or infinite: products then are NaN, too
        }
        const _Float16 scale = static_cast<_Float16>(most / 127.0f + trace);
        std::memcpy(scales + lane, &scale, 2);
        const float inverse = static_cast<float>(scale) > 0.0f ? 1.0f / static_cast<float>(scale) : 0.0f;
        for (int64_t i = 0; i < kGroup; ++i) {
          const float q = i < length ? std::nearbyint(source[i] * inverse) : 0.0f;
          values[((i / 2) * kBlock + lane) * 2 + i % 2] =
              static_cast<int8_t>(std::min(std::max(q, -127.0f), 127.0f));
        }
      }
    }
}

// out[rows, weight.rows] = input * weight^T + bias, or += with `add`. Rows of `out` are `out_stride` floats apart.
void qwire_q8_linear(const Weight *weight, const Input *input, float *out, int64_t out_stride, int64_t add) {
  static thread_local std::vector<int16_t> values;
  static thread_local std::vector<float> scales;
  const int64_t columns = weight->columns, groups = groups_of(columns), blocks = blocks_of(weight->rows);
  values.resize(static_cast<size_t>(input->rows * groups * kGroup));
  scales.resize(static_cast<size_t>(input->rows * groups));
  int16_t *a = values.data();
  float *a_scale = scales.data();

#pragma omp parallel for schedule(static) if (input->rows > 1)
  for (int64_t row = 0; row < input->rows; ++row) {
    static thread_local std::vector<float> buffer;
    const float *x = input->x + row * input->stride;
    if (input->kind != 0) buffer.resize(static_cast<size_t>(columns));
    if (input->kind == 1) rms_norm(x, input->norm, input->epsilon, columns, buffer.data());
    if (input->kind == 2) silu_gate(x, x + columns, columns, buffer.data());
    quantize_row(input->kind == 0 ? x : buffer.data(), columns, a + row * groups * kGroup, a_scale + row * groups);
  }

  for (int64_t chunk = 0; chunk < input->rows; chunk += kChunk) {
    const int64_t chunk_end = std::min(input->rows, chunk + kChunk);
#pragma omp parallel for schedule(dynamic, 8)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * kBlock, lanes = std::min(kBlock, weight->rows - first);
      float result[kTile * kBlock];
      for (int64_t row = chunk; row < chunk_end; row += kTile) {
        const int64_t rows = std::min<int64_t>(kTile, chunk_end - row);
        kTiles.of_rows[rows - 1](weight->values + block * groups * kBlock * kGroup,
                                 weight->scales + block * groups * kBlock, a + row * groups * kGroup,
                                 a_scale + row * groups, groups, row == chunk, result);
        for (int64_t r = 0; r < rows; ++r) {
          float *target = out + (row + r) * out_stride + first;
          for (int64_t lane = 0; lane < lanes; ++lane) {
            const float value = result[r * kBlock + lane] + (weight->bias ? weight->bias[first + lane] : 0.0f);
            target[lane] = add ? target[lane] + value : value;
          }
        }
      }
    }
  }
}

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

// Turns the heads of `rows` rows in place, `stride` floats apart, by cos and sin [rows, size / 2]: x1 of the first half
// and x2 of the second become x1 cos - x2 sin and x2 cos + x1 sin. With `norms`, each head is first RMS-normalized: the
// first `query_heads` of them with norms[0, size), the others with norms[size, 2 size).
void qwire_rotate(float *x, int64_t rows, int64_t stride, int64_t heads, int64_t query_heads, int64_t size,
                  const float *cos, const float *sin, const float *norms, float epsilon) {
  const int64_t half = size / 2;
#pragma omp parallel for schedule(static) if (rows > 4)
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t head = 0; head < heads; ++head) {
      float *low = x + row * stride + head * size, *high = low + half;
      if (norms) rms_norm(low, norms + (head < query_heads ? 0 : size), epsilon, size, low);
      const float *c = cos + row * half, *s = sin + row * half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float first = low[i], second = high[i];
        low[i] = first * c[i] - second * s[i];
        high[i] = second * c[i] + first * s[i];
      }
    }
}

void qwire_attend(const Attention *a, const float *query, int64_t query_stride, float *out) {
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
  for (int64_t row = 0; row < a->rows; ++row)
    for (int64_t kv_head = 0; kv_head < a->kv_heads; ++kv_head) {
      const int64_t first_head = kv_head * (a->heads / a->kv_heads) * a->size;
      const float *q = query + a->tokens[row] * query_stride + first_head;
      float *o = out + a->tokens[row] * a->heads * a->size + first_head;
      // The compiler makes more of a size that it knows.
      if (a->size == 64) attend_heads<64>(*a, row, kv_head, q, o);
      else if (a->size == 128) attend_heads<128>(*a, row, kv_head, q, o);
      else attend_heads<0>(*a, row, kv_head, q, o);
    }
}

} // extern "C"
