// A block of 8-bit weights times a few rows of 8-bit activations, in the instructions of the machine that compiles:
// AVX-512 and AVX2, each with and without VNNI, Arm's NEON with dot products, or, elsewhere, what the compiler makes of
// plain loops.
//
// Weights are cut into blocks of 32 rows and groups of 64 columns, activations into tiles of a few rows and the same
// groups. Four neighbouring columns, a quad, are multiplied at once. The layouts are
//   weights:     [block][group][quad][row of the block][4], unsigned: 128 + q, with a float16 scale [block][group][row]
//   activations: [tile][group][quad][row of the tile][4], with a float32 scale and an offset [tile][group][row]
// Weights are unsigned as VNNI multiplies unsigned bytes with signed ones; an offset is -128 times the sum of a group's
// activations, which takes the 128 out again. It costs no memory beside the weights, which are what is waited for.
//
// The products of a group are added up exactly, in int32 (64 * 255 * 127 < 2^31); groups are added up in float32 in the
// order of the columns. So a row of activations gives the same bits alone, in any batch, and on every machine.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace {

#if defined(__ARM_FP16_FORMAT_IEEE)
typedef __fp16 Half; // GCC before 13 has no _Float16 in C++ there
#else
typedef _Float16 Half;
#endif

constexpr int64_t kGroup = 64; // columns that share a scale
constexpr int64_t kBlock = 32; // rows of weights that are computed together
constexpr int64_t kQuads = kGroup / 4;

// -------------------------------------------------------------------------------- registers of so many sums, one a lane

#if defined(__AVX512BW__)

constexpr int64_t kWidth = 16;
typedef __m512i Ints;
typedef __m512 Floats;

inline Ints load(const void *from) { return _mm512_loadu_si512(from); }
inline Ints repeat(int32_t value) { return _mm512_set1_epi32(value); }
inline Ints even_bytes(Ints x) { return _mm512_and_si512(x, _mm512_set1_epi16(255)); }
inline Ints odd_bytes(Ints x) { return _mm512_srli_epi16(x, 8); }
inline Ints add_pairs(Ints sum, Ints x, Ints y) { return _mm512_add_epi32(sum, _mm512_madd_epi16(x, y)); }
inline Floats from_halves(const uint16_t *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
inline void add_scaled(float *total, Ints sum, Floats scale, float factor) {
  const Floats both = _mm512_mul_ps(scale, _mm512_set1_ps(factor));
  _mm512_storeu_ps(total, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), both, _mm512_loadu_ps(total)));
}

#elif defined(__AVX2__)

constexpr int64_t kWidth = 8;
typedef __m256i Ints;
typedef __m256 Floats;

inline Ints load(const void *from) { return _mm256_loadu_si256(static_cast<const __m256i *>(from)); }
inline Ints repeat(int32_t value) { return _mm256_set1_epi32(value); }
inline Ints even_bytes(Ints x) { return _mm256_and_si256(x, _mm256_set1_epi16(255)); }
inline Ints odd_bytes(Ints x) { return _mm256_srli_epi16(x, 8); }
inline Ints add_pairs(Ints sum, Ints x, Ints y) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, y)); }
inline Floats from_halves(const uint16_t *from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}
inline void add_scaled(float *total, Ints sum, Floats scale, float factor) {
  const Floats both = _mm256_mul_ps(scale, _mm256_set1_ps(factor));
  _mm256_storeu_ps(total, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), both, _mm256_loadu_ps(total)));
}

#elif defined(__ARM_FEATURE_DOTPROD)

constexpr int64_t kWidth = 4;
typedef int32x4_t Ints;
typedef float32x4_t Floats;

inline Ints repeat(int32_t value) { return vdupq_n_s32(value); }
inline Floats from_halves(const uint16_t *from) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }
inline void add_scaled(float *total, Ints sum, Floats scale, float factor) {
  vst1q_f32(total, vfmaq_f32(vld1q_f32(total), vcvtq_f32_s32(sum), vmulq_n_f32(scale, factor)));
}

#endif

// ----------------------------------------------------------------------------------- a quad of weights and activations

#if (defined(__AVX512BW__) && defined(__AVX512VNNI__)) || (!defined(__AVX512BW__) && defined(__AVXVNNI__))

constexpr int kTile = kWidth == 16 ? 12 : 6; // as many rows as leave registers for weights beside two sums each
typedef int8_t Activation;
typedef Ints Weights;

inline Ints begin(int32_t offset) { return repeat(offset); }
inline Weights weights_at(const uint8_t *w) { return load(w); }
// In assembler: of the intrinsic, compilers of these years make a copy of the sum each time.
inline void multiply_add(Ints &sum, const Weights &weights, const Activation *a) {
  int32_t quad;
  std::memcpy(&quad, a, 4);
  const Ints activations = repeat(quad);
#if defined(__AVX512BW__)
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(activations));
#else
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(weights), "x"(activations));
#endif
}

#elif defined(__AVX2__)

// Without VNNI, bytes are multiplied as 16 bits, which cannot saturate: those of even and of odd columns by themselves.
// Activations are held in 16 bits for it, in the order of columns 0, 2, 1, 3.
constexpr int kTile = kWidth == 16 ? 10 : 4;
typedef int16_t Activation;
struct Weights {
  Ints even, odd;
};

inline Ints begin(int32_t offset) { return repeat(offset); }
inline Weights weights_at(const uint8_t *w) {
  const Ints both = load(w);
  return {even_bytes(both), odd_bytes(both)};
}
inline void multiply_add(Ints &sum, const Weights &weights, const Activation *a) {
  int32_t even, odd;
  std::memcpy(&even, a, 4);
  std::memcpy(&odd, a + 2, 4);
  sum = add_pairs(add_pairs(sum, weights.even, repeat(even)), weights.odd, repeat(odd));
}

#elif defined(__ARM_FEATURE_DOTPROD)

// Dot products are of signed bytes here: the 128 is taken out of the weights themselves, and offsets are not needed.
constexpr int kTile = 12;
typedef int8_t Activation;
typedef int8x16_t Weights;

inline Ints begin(int32_t) { return repeat(0); }
inline Weights weights_at(const uint8_t *w) { return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w), vdupq_n_u8(128))); }
inline void multiply_add(Ints &sum, const Weights &weights, const Activation *a) {
  int32_t quad;
  std::memcpy(&quad, a, 4);
  sum = vdotq_s32(sum, weights, vreinterpretq_s8_s32(repeat(quad)));
}

#else

constexpr int kTile = 4;
typedef int8_t Activation;

inline float from_half(uint16_t bits) {
  Half value;
  std::memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}

#endif

inline void put_quad(const int8_t *q, Activation *a) {
  if (sizeof(Activation) == 1) std::memcpy(a, q, 4);
  else for (int i = 0; i < 4; ++i) a[i] = q[i % 2 * 2 + i / 2];
}

// ----------------------------------------------------------------------------------------------------------- the tile

// out[Rows][kBlock] = the products of a block with a tile. Meanwhile `Lines` cache lines a quad are fetched from `ahead`:
// a core that only reads ahead by itself leaves a part of the memory's bandwidth unused.
template <int Rows, int Lines>
void tile(const uint8_t *w, const uint16_t *w_scale, const Activation *a, const float *a_scale, const int32_t *offset,
          int64_t groups, const uint8_t *ahead, float *__restrict out) {
  std::fill(out, out + Rows * kBlock, 0.0f);
  for (int64_t group = 0; group < groups; ++group) {
#if defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
    for (int64_t lane = 0; lane < kBlock; lane += 2 * kWidth) {
      Ints sum[Rows][2];
#pragma GCC unroll 16
      for (int row = 0; row < Rows; ++row) sum[row][0] = sum[row][1] = begin(offset[row]);
#pragma GCC unroll 1
      for (int64_t quad = 0; quad < kQuads; ++quad) {
        const uint8_t *here = w + (quad * kBlock + lane) * 4;
        if (lane == 0)
          for (int line = 0; line < Lines; ++line, ahead += 64) __builtin_prefetch(ahead, 0, 2);
        const Weights low = weights_at(here), high = weights_at(here + 4 * kWidth);
#pragma GCC unroll 16
        for (int row = 0; row < Rows; ++row) {
          multiply_add(sum[row][0], low, a + (quad * Rows + row) * 4);
          multiply_add(sum[row][1], high, a + (quad * Rows + row) * 4);
        }
      }
      const Floats low = from_halves(w_scale + lane), high = from_halves(w_scale + lane + kWidth);
#pragma GCC unroll 16
      for (int row = 0; row < Rows; ++row) {
        add_scaled(out + row * kBlock + lane, sum[row][0], low, a_scale[row]);
        add_scaled(out + row * kBlock + lane + kWidth, sum[row][1], high, a_scale[row]);
      }
    }
#else
    for (int row = 0; row < Rows; ++row) {
      int32_t sum[kBlock];
      std::fill(sum, sum + kBlock, offset[row]);
      for (int64_t quad = 0; quad < kQuads; ++quad)
        for (int64_t lane = 0; lane < kBlock; ++lane)
          for (int64_t i = 0; i < 4; ++i)
            sum[lane] += w[(quad * kBlock + lane) * 4 + i] * a[(quad * Rows + row) * 4 + i];
      for (int64_t lane = 0; lane < kBlock; ++lane) {
        const float both = from_half(w_scale[lane]) * a_scale[row];
        out[row * kBlock + lane] = std::fma(static_cast<float>(sum[lane]), both, out[row * kBlock + lane]);
      }
    }
#endif
    w += kBlock * kGroup, w_scale += kBlock, a += Rows * kGroup, a_scale += Rows, offset += Rows;
  }
}

using Tile = void (*)(const uint8_t *, const uint16_t *, const Activation *, const float *, const int32_t *, int64_t,
                      const uint8_t *, float *);

struct Tiles {
  Tile of_rows[kTile];
};

template <int Lines, int... Less> constexpr Tiles tiles_of(std::integer_sequence<int, Less...>) {
  return {{tile<Less + 1, Lines>...}};
}

// By the number of lines that they fetch.
constexpr Tiles kTiles[] = {tiles_of<0>(std::make_integer_sequence<int, kTile>()),
                            tiles_of<1>(std::make_integer_sequence<int, kTile>()),
                            tiles_of<2>(std::make_integer_sequence<int, kTile>())};

} // namespace
