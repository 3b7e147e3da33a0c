// Prints what the float32 kernels compute for made-up numbers: for machines that a test cannot load them on.

#include <cmath>
#include <cstdio>
#include <vector>

#include "input.h"

extern "C" {
struct FloatWeight {
  int64_t rows, columns, form;
  char *values;
  const float *bias;
};
struct Piece {
  int64_t place, position, count, first_page;
};
struct Attention {
  float *keys, *values;
  int64_t heads, kv_heads, size, page_tokens, tokens, pieces;
  const int64_t *slots, *pages;
  const Piece *piece;
  const float *query, *key, *value;
  int64_t stride;
  float scaling;
};
int64_t qwire_float32_bytes(int64_t form, int64_t rows, int64_t columns);
int64_t qwire_float32_pack(const float *matrix, const FloatWeight *weight);
void qwire_float32_linear(const FloatWeight *weight, const Input *input, float *out, int64_t out_stride, int64_t add);
void qwire_float32_rows(const FloatWeight *weight, const int64_t *numbers, int64_t count, float *out);
void qwire_attend(const Attention *a, float *out);
void qwire_rotate(float *x, int64_t rows, int64_t stride, int64_t heads, int64_t query_heads, int64_t size,
                  const float *cos, const float *sin, const float *norms, float epsilon);
void qwire_route(const float *weight, int64_t experts, int64_t columns, const Input *input, float *out);
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

std::vector<float> drawn(int64_t count) {
  std::vector<float> numbers(static_cast<size_t>(count));
  for (float &number : numbers) number = draw();
  return numbers;
}

void print(const char *what, int64_t first, int64_t second, const std::vector<float> &numbers) {
  std::printf("%s %lld %lld:", what, static_cast<long long>(first), static_cast<long long>(second));
  for (const float number : numbers) std::printf(" %.9g", static_cast<double>(number));
  std::printf("\n");
}

// Numbers that just fit into a form: whole steps, bfloat16, or neither.
std::vector<float> matrix_of(int64_t form, int64_t count) {
  const float steps = form == 0 ? 100.0f : 128.0f, step = form == 0 ? 0.3f : 1.0f / 128.0f;
  std::vector<float> numbers = drawn(count);
  if (form < 2)
    for (float &number : numbers) number = std::nearbyint(number * steps) * step;
  return numbers;
}

void print_linear(int64_t form, int64_t rows, int64_t columns) {
  const std::vector<float> matrix = matrix_of(form, rows * columns), bias = drawn(rows), norm = drawn(columns);
  std::vector<char> values(static_cast<size_t>(qwire_float32_bytes(form, rows, columns)));
  const FloatWeight weight{rows, columns, form, values.data(), bias.data()};
  std::printf("form %lld: fits %lld\n", static_cast<long long>(form),
              static_cast<long long>(qwire_float32_pack(matrix.data(), &weight)));
  const std::vector<int64_t> numbers{0, rows - 1, rows / 2};
  std::vector<float> copied(static_cast<size_t>(columns) * numbers.size());
  qwire_float32_rows(&weight, numbers.data(), static_cast<int64_t>(numbers.size()), copied.data());
  print("rows", rows, columns, copied);
  for (const int64_t tokens : {1, 2, 3, 13})
    for (const int64_t kind : {0, 1, 2}) {
      const std::vector<float> x = drawn(tokens * columns * 2);
      std::vector<float> out = drawn(tokens * rows);
      const Input input{x.data(), tokens, 2 * columns, kind, norm.data(), 1e-6f};
      qwire_float32_linear(&weight, &input, out.data(), rows, kind == 2);
      print("linear", tokens, kind, out);
    }
}

// A sequence of 40 tokens with 21 new ones, and one of 3 with one: their pieces end within and at the end of pages.
void print_attention(int64_t heads, int64_t kv_heads, int64_t size) {
  constexpr int64_t kPageTokens = 16, kPages = 5;
  const std::vector<int64_t> pages{3, 0, 4, 1};
  const std::vector<Piece> pieces{{0, 19, 16, 0}, {16, 35, 5, 0}, {21, 2, 1, 3}};
  std::vector<int64_t> slots;
  for (const Piece &piece : pieces)
    for (int64_t position = piece.position; position < piece.position + piece.count; ++position)
      slots.push_back(pages[static_cast<size_t>(piece.first_page + position / kPageTokens)] * kPageTokens +
                      position % kPageTokens);
  const int64_t tokens = static_cast<int64_t>(slots.size()), stride = (heads + 2 * kv_heads) * size;
  const int64_t held = kPages * kPageTokens * kv_heads * size;
  std::vector<float> keys = drawn(held), values = drawn(held);
  const std::vector<float> x = drawn(tokens * stride);
  const float *query = x.data(), *key = query + heads * size, *value = key + kv_heads * size;
  const Attention attention{keys.data(), values.data(), heads, kv_heads, size, kPageTokens, tokens,
                            static_cast<int64_t>(pieces.size()), slots.data(), pages.data(), pieces.data(),
                            query, key, value, stride, 0.5f};
  std::vector<float> out(static_cast<size_t>(tokens * heads * size));
  qwire_attend(&attention, out.data());
  print("attend", heads, size, out);
  print("keys", heads, size, keys);
  print("values", heads, size, values);
}

void print_rotation(int64_t rows, int64_t size) {
  constexpr int64_t kHeads = 5, kQueryHeads = 3;
  const int64_t stride = (kHeads + 2) * size;
  const std::vector<float> cos = drawn(rows * size / 2), sin = drawn(rows * size / 2), norms = drawn(2 * size);
  for (const float *given : {static_cast<const float *>(nullptr), norms.data()}) {
    std::vector<float> x = drawn(rows * stride);
    qwire_rotate(x.data(), rows, stride, kHeads, kQueryHeads, size, cos.data(), sin.data(), given, 1e-6f);
    print("rotate", rows, size, x);
  }
}

void print_router(int64_t experts, int64_t columns) {
  const std::vector<float> weight = drawn(experts * columns), norm = drawn(columns);
  for (const int64_t tokens : {1, 7}) {
    const std::vector<float> x = drawn(tokens * columns);
    const Input input{x.data(), tokens, columns, 1, norm.data(), 1e-6f};
    std::vector<float> out(static_cast<size_t>(tokens * experts));
    qwire_route(weight.data(), experts, columns, &input, out.data());
    print("route", tokens, columns, out);
  }
}

} // namespace

int main() {
  for (const int64_t form : {0, 1, 2}) {
    print_linear(form, 33, 64);
    print_linear(form, 20, 1040);
  }
  print_linear(2, 31, 63);
  print_attention(6, 2, 24);
  print_attention(3, 1, 37);
  print_attention(2, 2, 64);
  print_rotation(1, 16);
  print_rotation(9, 64);
  print_router(8, 48);
  print_router(5, 131);
}
