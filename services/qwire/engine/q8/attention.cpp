// Attention of packed tokens over pages of keys and values, and what turns heads by their positions, in float32.
//
// Tokens of a sequence that are computed together see the same keys: 32 keys at a time are brought in the order of
// columns once, and multiplied with all query heads of a few tokens. The softmax is that of what was seen so far, corrected
// as larger scores come (Milakov and Gimelshein, 2018). Keys are taken by their position in the sequence, so that a
// token's output has the same bits whatever else is computed beside it, and however its prompt is cut.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "float_tile.h"
#include "input.h"
#include "transpose.h"

extern "C" {

// Successive tokens of a sequence among the packed tokens of a step.
//   place: of the first one among the packed tokens
//   position: of the first one in the sequence
//   first_page: where the sequence's pages begin among the pages of all
struct Piece {
  int64_t place, position, count, first_page;
};

// The attention of a layer. A page is `page_tokens` slots.
//   keys, values: of the layer, [slot][kv_heads][size]
//   slots: where the new keys and values of each packed token belong
//   query, key, value: of the packed tokens, [heads or kv_heads][size], tokens `stride` floats apart
struct Attention {
  float *keys, *values;
  int64_t heads, kv_heads, size, page_tokens, tokens, pieces;
  const int64_t *slots, *pages;
  const Piece *piece;
  const float *query, *key, *value;
  int64_t stride;
  float scaling;
};

} // extern "C"

namespace {

template <int... Less> constexpr auto score_tiles_of(std::integer_sequence<int, Less...>) {
  struct {
    Tile of_rows[sizeof...(Less)];
  } all{{float_tile<Less + 1, 1, Less + 1, Whole<0>>...}};
  return all;
}

template <int... Less> constexpr auto value_tiles_of(std::integer_sequence<int, Less...>) {
  struct {
    Tile of_rows[sizeof...(Less)];
  } all{{float_tile<Less + 1, kLanes, 1, Whole<0>>...}};
  return all;
}

constexpr auto kScores = score_tiles_of(std::make_integer_sequence<int, kTile>());
constexpr auto kValues = value_tiles_of(std::make_integer_sequence<int, kTile>());

// Some keys and values of one head, as tiles want them; those behind the last one are zero.
struct Seen {
  std::vector<float> keys;   // [size, to whole 8][kLanes]
  std::vector<float> values; // [size / kLanes, rounded up][kLanes tokens][kLanes]

  void read(const Attention &a, const int64_t *pages, int64_t head, int64_t first, int64_t count) {
    const int64_t size = a.size, eights = (size + 7) / 8, parts = (size + kLanes - 1) / kLanes;
    keys.resize(static_cast<size_t>(eights * 8 * kLanes));
    values.resize(static_cast<size_t>(parts * kLanes * kLanes));
    const float *key[kLanes], *value[kLanes];
    for (int64_t n = 0; n < count; ++n) {
      const int64_t position = first + n, slot = pages[position / a.page_tokens] * a.page_tokens + position % a.page_tokens;
      key[n] = a.keys + (slot * a.kv_heads + head) * size;
      value[n] = a.values + (slot * a.kv_heads + head) * size;
      for (int64_t i = 0; i < size; i += kLineFloats) __builtin_prefetch(value[n] + i); // while the keys are transposed
    }
    for (int64_t eight = 0; eight < eights; ++eight)
      for (int64_t n = 0; n < kLanes; n += 8) {
        Eight x[8] = {};
        const int64_t length = std::min<int64_t>(8, size - eight * 8);
        for (int64_t i = n; i < std::min(n + 8, count); ++i)
          if (length == 8) std::memcpy(&x[i - n], key[i] + eight * 8, sizeof(Eight)); // not a call
          else std::memcpy(&x[i - n], key[i] + eight * 8, static_cast<size_t>(length) * sizeof(float));
        transpose(x);
        for (int64_t i = 0; i < 8; ++i) std::memcpy(keys.data() + (eight * 8 + i) * kLanes + n, &x[i], sizeof(Eight));
      }
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t n = 0; n < kLanes; ++n) {
        float *target = values.data() + (part * kLanes + n) * kLanes;
        const int64_t length = n < count ? std::min(kLanes, size - part * kLanes) : 0;
        if (length == kLanes) std::memcpy(target, value[n] + part * kLanes, sizeof(float) * kLanes);
        else {
          std::fill(target, target + kLanes, 0.0f);
          if (length > 0) std::copy_n(value[n] + part * kLanes, length, target);
        }
      }
  }
};

// e^x, or 0 where that is nothing beside 1 in float32, even of a million tokens. Numbers so small that they are not
// normalized would take a hundred times as long to multiply.
inline float weight(float x) { return x < -64.0f ? 0.0f : exponential(x); }

// The softmax of one query head so far.
struct Soft {
  float most = -std::numeric_limits<float>::infinity(), total = 0.0f;

  // Turns further scores into weights, of which the first `count` count; returns what earlier sums are multiplied with.
  float add(float *scores, int64_t count) {
    if (count <= 0) {
      std::fill(scores, scores + kLanes, 0.0f);
      return 1.0f;
    }
    std::fill(scores + count, scores + kLanes, -std::numeric_limits<float>::infinity());
    float largest = most, sum = 0.0f;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < kLanes; ++i) largest = std::max(largest, scores[i]);
    const float factor = weight(most - largest);
    // A NaN, and an infinity, make all of the head's output NaN.
#pragma omp simd
    for (int64_t i = 0; i < kLanes; ++i) {
      const float score = scores[i] - largest;
      scores[i] = i < count ? weight(score) + score * 0.0f : 0.0f;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < kLanes; ++i) sum += scores[i];
    total = total * factor + sum;
    most = largest;
    return factor;
  }
};

// Attends with the query heads of a piece that share a key and value head. A row is a head of a token.
void attend(const Attention &a, const Piece &piece, int64_t kv_head, float *out) {
  static thread_local Seen seen;
  static thread_local std::vector<float> query, sums;
  static thread_local std::vector<Soft> soft;
  const int64_t size = a.size, heads = a.heads / a.kv_heads, rows = piece.count * heads;
  const int64_t eights = (size + 7) / 8 * 8, parts = (size + kLanes - 1) / kLanes, padded = parts * kLanes;
  const int64_t tiles = (rows + kTile - 1) / kTile, step = (rows + tiles - 1) / tiles;
  query.resize(static_cast<size_t>(rows * eights));
  sums.assign(static_cast<size_t>(rows * padded), 0.0f);
  soft.assign(static_cast<size_t>(rows), Soft{});
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t start = row / step * step, width = std::min(step, rows - start);
    const float *x = a.query + (piece.place + row / heads) * a.stride + (kv_head * heads + row % heads) * size;
    float *target = query.data() + start * eights + row - start;
    for (int64_t i = 0; i < eights; ++i) target[i * width] = i < size ? x[i] * a.scaling : 0.0f;
  }
  const int64_t end = piece.position + piece.count;
  for (int64_t first = 0; first < end; first += kLanes) {
    seen.read(a, a.pages + piece.first_page, kv_head, first, std::min(kLanes, end - first));
    for (int64_t start = 0; start < rows; start += step) {
      const int64_t width = std::min(step, rows - start);
      float scores[kTile * kLanes], result[kTile * kLanes], factors[kTile];
      kScores.of_rows[width - 1](seen.keys.data(), query.data() + start * eights, eights, nullptr, nullptr, scores);
      for (int64_t r = 0; r < width; ++r) {
        const int64_t sees = piece.position + (start + r) / heads + 1;
        factors[r] = soft[static_cast<size_t>(start + r)].add(scores + r * kLanes, std::min(kLanes, sees - first));
      }
      for (int64_t part = 0; part < parts; ++part) {
        kValues.of_rows[width - 1](seen.values.data() + part * kLanes * kLanes, scores, kLanes, nullptr, nullptr, result);
        for (int64_t r = 0; r < width; ++r) {
          float *sum = sums.data() + (start + r) * padded + part * kLanes;
#pragma omp simd
          for (int64_t i = 0; i < kLanes; ++i) sum[i] = sum[i] * factors[r] + result[r * kLanes + i];
        }
      }
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    float *target = out + ((piece.place + row / heads) * a.heads + kv_head * heads + row % heads) * size;
    const float inverse = 1.0f / soft[static_cast<size_t>(row)].total;
    for (int64_t i = 0; i < size; ++i) target[i] = sums[static_cast<size_t>(row * padded + i)] * inverse;
  }
}

} // namespace

extern "C" {

// Stores the new keys and values, and attends with all packed tokens. out: [token][heads][size]
void qwire_attend(const Attention *a, float *out) {
  const int64_t width = a->kv_heads * a->size;
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t token = 0; token < a->tokens; ++token) {
      std::copy_n(a->key + token * a->stride, width, a->keys + a->slots[token] * width);
      std::copy_n(a->value + token * a->stride, width, a->values + a->slots[token] * width);
    }
    // From the last piece on: those that see most are begun first.
#pragma omp for schedule(dynamic, 1) collapse(2)
    for (int64_t piece = 0; piece < a->pieces; ++piece)
      for (int64_t kv_head = 0; kv_head < a->kv_heads; ++kv_head)
        attend(*a, a->piece[a->pieces - 1 - piece], kv_head, out);
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

} // extern "C"
