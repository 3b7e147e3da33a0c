// Linear layers in float32 on a CPU.
//
// A weight matrix [rows, columns] is held in blocks of 32 rows, column by column: [block][column][32]. A tile multiplies a
// block with a few rows of activations, which lie column by column as well, and keeps all sums in registers. Each sum is
// added up in the order of the columns, panel by panel, so that a row of activations gives the same bits alone and in any
// batch.
//
// A matrix whose numbers fit into fewer bytes is held in these (form.h). The first tile that reads a panel makes its
// numbers whole in registers, and leaves them for the next ones, where there are many; no bit of a result depends on it.
//
// While a panel is multiplied, the next one is already fetched from memory.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "float_tile.h"
#include "form.h"
#include "input.h"
#include "take.h"

namespace {

constexpr int64_t kPanel = 1024;         // columns of a block that stay in a core's cache while rows pass by
constexpr int64_t kPiece = 64;           // columns of activations that are prepared together
constexpr int64_t kCached = 1 << 20;     // activations that pass by before a block of weights is read again

struct Tiles {
  Tile of_rows[kTile];
};

template <typename Columns, int... Less> constexpr Tiles tiles_of(std::integer_sequence<int, Less...>) {
  return {{float_tile<Less + 1, 1, Less + 1, Columns>...}};
}

template <typename Columns> constexpr Tiles kTiles = tiles_of<Columns>(std::make_integer_sequence<int, kTile>());

// The most passes for each of which a panel is made whole: where a core multiplies half as fast, it does that faster than
// it would leave the panel in its cache and read it there.
constexpr int64_t kRemade = kWidth == 8 ? 3 : 1;

inline bool keeps(Form form, int64_t passes) { return form != kWhole && passes > kRemade; }

// The tiles that read a panel for the `pass`-th of so many times.
const Tiles &tiles_for(Form form, int64_t pass, int64_t passes) {
  const bool keep = keeps(form, passes);
  if (keep && pass > 0) return kTiles<Whole<0>>;
  if (form == kSteps) return keep ? kTiles<OfSteps<true>> : kTiles<OfSteps<false>>;
  if (form == kHalves) return keep ? kTiles<OfHalves<true>> : kTiles<OfHalves<false>>;
  // What is ahead is fetched by the only tile, or a half by each of two.
  return passes == 1 ? kTiles<Whole<2>> : pass < 2 ? kTiles<Whole<1>> : kTiles<Whole<0>>;
}

// The most rows of a tile. Few rows wait for whole numbers from memory, which is read best with all lanes at once.
int64_t tile_of(Form form, int64_t rows) {
  return form == kWhole && rows <= 16 && kWidth == 8 ? 3 : kTile;
}

} // namespace

extern "C" {

// A packed weight matrix. `bias` may be null.
struct FloatWeight {
  int64_t rows, columns, form;
  char *values; // blocks of 32 rows, see form.h
  const float *bias;
};

// Bytes that a matrix [rows, columns] takes in a form; 0 = there is no such form.
int64_t qwire_float32_bytes(int64_t form, int64_t rows, int64_t columns) {
  return form < kForms ? (rows + kLanes - 1) / kLanes * bytes_of(form, columns) : 0;
}

// Arranges a matrix [rows, columns] in `weight`, whose array is allocated. Returns 0 if its form does not hold all of
// its numbers.
int64_t qwire_float32_pack(const float *matrix, const FloatWeight *weight) {
  const Form form = static_cast<Form>(weight->form);
  const int64_t rows = weight->rows, columns = weight->columns, block_bytes = bytes_of(form, columns);
  int64_t fits = 1;
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < rows; first += kLanes) {
    char *block = weight->values + first / kLanes * block_bytes;
    if (first + kLanes > rows) std::memset(block, 0, static_cast<size_t>(block_bytes));
    for (int64_t row = first; row < std::min(rows, first + kLanes); ++row) {
      int64_t so_far;
#pragma omp atomic read
      so_far = fits;
      if (so_far && put(form, matrix + row * columns, columns, row - first, block)) continue;
#pragma omp atomic write
      fits = 0;
      break;
    }
  }
  return fits;
}

// out[rows, weight.rows] = input * weight^T + bias, or += with `add`. Rows of `out` are `out_stride` floats apart.
void qwire_float32_linear(const FloatWeight *weight, const Input *input, float *out, int64_t out_stride, int64_t add) {
  static thread_local std::vector<float> values, factors;
  const int64_t columns = weight->columns, rows = input->rows, blocks = (weight->rows + kLanes - 1) / kLanes;
  const Form form = static_cast<Form>(weight->form);
  const int64_t block_bytes = bytes_of(form, columns);
  values.resize(static_cast<size_t>(rows * columns));
  factors.resize(static_cast<size_t>(rows));
  float *a = values.data(), *inverse = factors.data();
  // Tiles of one size, but for the last one: no row is left to a small one.
  const int64_t tile = tile_of(form, rows), tiles = (rows + tile - 1) / tile, step = (rows + tiles - 1) / tiles;
  const int64_t chunk = std::max<int64_t>(1, kCached / (columns * step)) * step;

  if (input->kind == 1) {
#pragma omp parallel for schedule(static) if (rows > 16)
    for (int64_t row = 0; row < rows; ++row)
      inverse[row] = inverse_rms(input->x + row * input->stride, input->epsilon, columns);
  }
#pragma omp parallel for schedule(static) if (rows > 1)
  for (int64_t first = 0; first < columns; first += kPiece) {
    float piece[kPiece];
    const int64_t count = std::min(kPiece, columns - first);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t start = row / step * step, size = std::min(step, rows - start);
      prepare(*input, row, inverse[row], first, count, columns, piece);
      float *target = a + start * columns + first * size + row - start;
      for (int64_t i = 0; i < count; ++i) target[i * size] = piece[i];
    }
  }

  for (int64_t from = 0; from < rows; from += chunk) {
    const int64_t to = std::min(rows, from + chunk);
    const int64_t passes = (to - from + step - 1) / step;
    int64_t taken = 0;
#pragma omp parallel
    for (int64_t block = take(&taken), next; block < blocks; block = next) {
      next = take(&taken); // taken so early that it is fetched while this one is multiplied
      const int64_t first = block * kLanes, lanes = std::min(kLanes, weight->rows - first);
      static thread_local float kept[kPanel * kLanes];
      float result[kTile * kLanes];
      for (int64_t column = 0; column < columns; column += kPanel) {
        const int64_t count = std::min(kPanel, columns - column);
        const char *held = weight->values + block * block_bytes + bytes_of(form, column);
        const char *ahead = held + bytes_of(form, count);
        if (column + count == columns) ahead = weight->values + std::min(next, blocks - 1) * block_bytes;
        for (int64_t row = from, pass = 0; row < to; row += step, ++pass) {
          const int64_t size = std::min(step, to - row);
          const void *panel = pass > 0 && keeps(form, passes) ? static_cast<const void *>(kept) : held;
          const char *fetched = ahead + (form == kWhole && pass == 1 ? count * kLineBytes : 0);
          tiles_for(form, pass, passes).of_rows[size - 1](panel, a + row * columns + column * size, count, fetched, kept,
                                                          result);
          const float *bias = column == 0 && weight->bias ? weight->bias + first : nullptr;
          for (int64_t r = 0; r < size; ++r) {
            float *target = out + (row + r) * out_stride + first;
            for (int64_t lane = 0; lane < lanes; ++lane) {
              const float value = result[r * kLanes + lane] + (bias ? bias[lane] : 0.0f);
              target[lane] = add || column > 0 ? target[lane] + value : value;
            }
          }
        }
      }
    }
  }
}

// out[numbers, weight.columns] = some rows of a matrix, as they came.
void qwire_float32_rows(const FloatWeight *weight, const int64_t *numbers, int64_t count, float *out) {
  const int64_t columns = weight->columns;
#pragma omp parallel for schedule(static) if (count > 4)
  for (int64_t n = 0; n < count; ++n) {
    const char *block = weight->values + numbers[n] / kLanes * bytes_of(weight->form, columns);
    for (int64_t column = 0; column < columns; ++column)
      out[n * columns + column] = number_at(static_cast<Form>(weight->form), block, numbers[n] % kLanes, column);
  }
}

} // extern "C"
